//! QEMU's `edu` behind QEMU's SMMU, whose stream goes elsewhere while it is attached: nowhere, untranslated, through an address space,
//! through a virtual machine's memory, through both.

use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;

use super::bench::{Bench, Failure, PAGE, context};
use super::pci::Behind;
use crate::arch::timer::Timer;
use crate::driver::dma::{DmaMemory, DmaRegion};
use crate::driver::{FaultMode, Guest, Stage2, StreamConfig, Tag, Translation, Walked};
use crate::kernel::devices::Unit;
use crate::kernel::report::Report;
use crate::platform::edu::{DEVICE, Edu, VENDOR};
use crate::smmuv3::cd::{ContextDescriptor, TableBase};
use crate::smmuv3::ste::{ContextTableFormat, DefaultSubstream};
use crate::smmuv3::{Access, Asid, FlagUpdate, Granule, TableAttributes};
use crate::sva::address_space::{AddressSpace, Backing, Effort, Region, Resolution};
use crate::sva::{MAIR, Permissions, T0SZ};

/// How much is copied each time.
const BYTES: u64 = PAGE;

/// A virtual machine that has this machine's memory twice: where it is, and [`ABOVE`].
struct VirtualMachine(Stage2);

/// The GiB that memory begins with, and how far above the virtual machine has it too.
const MEMORY: u64 = 1;
const ABOVE: u64 = 1 << 30;

/// A block descriptor of level 1: valid, write-back memory, read and write, inner shareable, Access flag (Arm DDI 0487, D8.3).
const BLOCK: u64 = 0x7fd;

impl VirtualMachine {
    fn new(bench: &mut Bench, front: &Unit) -> Result<Self, Failure> {
        let table = bench.kernel.device_memory.allocate(PAGE as usize, PAGE as usize)?;
        for word in table.words.iter().skip(MEMORY as usize).take(2) {
            word.store(MEMORY << 30 | BLOCK, Relaxed);
        }
        let vmid = front.smmu.take_vmid(&mut bench.cpu)?;
        Ok(Self(Stage2 { table: table.phys, vmid, ipa_bits: 39 }))
    }
}

impl Walked for VirtualMachine {
    fn tag(&self) -> Tag {
        Tag::VirtualMachine(self.0.vmid)
    }
}

/// The context descriptor of a virtual machine, whose tables are those of `space`: their addresses are the virtual machine's too.
fn guest(bench: &Bench, front: &Unit, space: &AddressSpace) -> Result<Guest, Failure> {
    let memory = bench.kernel.device_memory.allocate(ContextDescriptor::SIZE, ContextDescriptor::SIZE)?;
    let lower = TableBase {
        table: space.root(),
        tsz: T0SZ,
        granule: Granule::Size4K,
        attributes: TableAttributes::COHERENT,
        hierarchy_disabled: false,
    };
    let descriptor = ContextDescriptor {
        ttb0: Some(lower),
        ttb1: None,
        ignore_top_byte: [false; 2],
        unprivileged_disabled: [false; 2],
        big_endian: false,
        output_size: front.smmu.features().oas,
        access_flag_fault_disabled: false,
        flag_update: FlagUpdate::None,
        write_execute_never: false,
        privileged_access_never: false,
        stall: false,
        record: true,
        abort: true,
        asid: GUEST_ASID,
        private_asid: true,
        mair: MAIR,
    };
    memory.words.iter().zip(descriptor.encode()).for_each(|(word, value)| word.store(value, Relaxed));
    Ok(Guest {
        contexts: memory.phys.0,
        substream_bits: 0,
        format: ContextTableFormat::Linear,
        default_substream: DefaultSubstream::Terminate,
    })
}

/// An ASID that the virtual machine has chosen.
const GUEST_ASID: Asid = Asid(0x11);

pub(super) fn run(bench: &mut Bench, report: &mut Report) -> Result<(), Failure> {
    let Some(behind) = bench.behind(report, bench.expected.qemu, "edu", [VENDOR, DEVICE]) else { return Ok(()) };
    let Behind { function, stream, front } = &behind;
    let Some(bar) = &function.bars[0] else { return Err(Failure::new("edu has no BAR 0")) };
    let registers = bench.kernel.board.registers(bar).ok_or_else(|| Failure::new("PCIe is not mapped"))?;
    let mut edu = Edu::new(registers).map_err(Failure::new)?;

    let data = bench.random_memory(BYTES)?;
    let copy = bench.kernel.device_memory.allocate(BYTES as usize, PAGE as usize)?;
    let [from, to] = [2, 1].map(|index| bench.somewhere(index));
    let region = |start, memory: DmaRegion, permissions| Region {
        start,
        bytes: BYTES,
        permissions,
        backing: Backing::Memory(memory.phys),
    };
    let regions = [region(from, data, Permissions::READ), region(to, copy, Permissions::READ_WRITE)];
    let space = bench.space(front, &regions)?;
    for address in [from, to] {
        if space.resolve(address, Access::READ, Effort::Zero) != Resolution::Mapped {
            return Err(Failure::new("no page for edu"));
        }
    }

    let here = [data.phys.0, copy.phys.0];
    let mut ways: Vec<(&str, Translation, Option<[u64; 2]>)> = alloc::vec![
        ("untranslated", Translation::Bypass, Some(here)),
        ("through an address space", context(&space).into(), Some([from, to])),
    ];
    let machine = match front.smmu.features() {
        features if features.stage1 && features.stage2 => Some(VirtualMachine::new(bench, front)?),
        _ => None,
    };
    if let Some(VirtualMachine(stage2)) = machine {
        let nested = Translation::Nested(guest(bench, front, &space)?, stage2);
        ways.push(("through a virtual machine's memory", Translation::Stage2(stage2), Some(here.map(|at| at + ABOVE))));
        ways.push(("through an address space of the virtual machine", nested, Some([from, to])));
    } else {
        report.not_checked("DMA through a virtual machine's memory", "this SMMU has no stage 2");
    }
    ways.push(("nowhere again", Translation::Abort, None));

    let config = |translation| StreamConfig { faults: FaultMode::Terminate, translation };
    front.smmu.attach(&mut bench.cpu, *stream, &config(Translation::Abort))?;
    bench.bus()?.allow_dma(function.address, true);
    bench.forget_events(&behind)?;
    let seen = front.events.seen();
    let mut copied = |report: &mut Report, name, [from, to]: [u64; 2], expected| {
        copy.words.iter().for_each(|word| word.store(0, Relaxed));
        edu.copy(&mut Timer, from, to, BYTES as u32).map_err(Failure::new)?;
        let pairs = copy.words.iter().zip(data.words);
        let equal = pairs.filter(|(copy, word)| copy.load(Relaxed) == word.load(Relaxed)).count();
        report.equal(format_args!("words that edu copied {name}"), expected, equal);
        Ok::<_, Failure>(())
    };
    copied(report, "nowhere", here, 0)?;
    for (name, translation, addresses) in ways {
        front.smmu.change(&mut bench.cpu, *stream, &config(translation))?;
        let words = addresses.map_or(0, |_| data.words.len());
        copied(report, name, addresses.unwrap_or(here), words)?;
    }
    report.equal("records of all that", 0, front.events.seen() - seen);

    bench.bus()?.allow_dma(function.address, false);
    if let Some(machine) = machine {
        let _tables_stay = front.smmu.forget(&mut bench.cpu, machine).map_err(|remembered| remembered.error)?;
    }
    bench.reclaim(&front.smmu, alloc::vec![space])?;
    Ok(front.smmu.detach(&mut bench.cpu, *stream)?)
}
