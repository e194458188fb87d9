//! From an SMMU in any state to one that translates (3.11, 6.3).

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

use tock_registers::LocalRegisterCopy;
use tock_registers::fields::FieldValue;

use super::Delay;
use super::command_queue::{COMMAND_BYTES, CommandQueue, Completion};
use super::context_table::Tables;
use super::dma::{Coherence, DmaMemory, DmaRegion, Lent, Shared};
use super::error::{DriverError, Unsupported};
use super::event_queue::NOBODY;
use super::hardware::Hardware;
use super::record_queue::RecordQueue;
use super::registers::Registers;
use super::ring::Ring;
use super::smmu::{Control, Hooks, Options, Smmu};
use super::sorted::Sorted;
use super::stream_table::StreamTable;
use super::tags::Tags;
use super::trace::Trace;
use crate::iopf::FaultTable;
use crate::smmuv3::PhysAddr;
use crate::smmuv3::command::Command;
use crate::smmuv3::features::{Features, IdRegisters, TableEndianness};
use crate::smmuv3::queue::QueueSize;
use crate::smmuv3::registers::Register;
use crate::smmuv3::registers::fields::{CR0, CR1, CR2, GBPA, QUEUE_BASE, STRTAB_BASE, STRTAB_BASE_CFG};
use crate::sync::Cpu;
use crate::sync::grace::Domain;
use crate::sync::memory::try_arc;

/// Bytes of an event record (7.3).
const EVENT_BYTES: usize = 32;
/// Bytes of a page request (8).
const PAGE_REQUEST_BYTES: usize = 16;
/// A queue is aligned to its size, and to 32 bytes at least (6.3.26).
const QUEUE_ALIGN: usize = 32;

impl<R: Registers + 'static, D: Delay> Smmu<R, D> {
    /// Finds out what an SMMU can do, and brings it up: everything that is not attached is terminated from then on.
    ///
    /// Whatever state the SMMU is in, it aborts incoming transactions before its translation is turned off, and until the
    /// stream table decides. Afterwards the caller enables the interrupts, drains each queue once, and drains at each
    /// interrupt from then on.
    ///
    /// When it fails the SMMU is off, but after [`DriverError::Features`] and [`DriverError::Unsupported`], which leave it as it was, and where it
    /// does not acknowledge that. What it had of `memory` is given back ([`DmaMemory::free`]) where the SMMU can't reach it any more: the
    /// call may be repeated as often as need be.
    ///
    /// # Errors
    ///
    /// [`DriverError::Features`] when the ID registers contradict the architecture, [`DriverError::Unsupported`] when the
    /// SMMU lacks what the driver needs, [`DriverError::NoMemory`], [`DriverError::BeyondAddresses`], [`DriverError::HeapFull`] and
    /// [`DriverError::NoTable`], [`DriverError::Timeout`] naming the register that did not acknowledge, and [`DriverError::CommandTimeout`]
    /// naming the command that was not consumed.
    pub fn probe(
        cpu: &mut Cpu,
        registers: R,
        memory: Arc<dyn DmaMemory>,
        domain: Arc<Domain>,
        delay: D,
        hooks: Hooks,
        options: Options,
    ) -> Result<Arc<Self>, DriverError> {
        let mut hardware = Hardware::new(registers, delay, domain, options.limit_us, hooks.events.clone());
        let features = hardware.identify()?;
        hardware.coherence = Coherence::new(&features, &*memory)?;
        let memory = Shared::new(memory, hardware.coherence, features.oas);
        hardware.silence(cpu)?;
        let hardware = try_arc(hardware).ok_or(DriverError::HeapFull)?;

        let mut lent = Lent::new(&memory);
        let made = Self::make(&hardware, features, &mut lent, hooks, options);
        let error = match made {
            Ok((smmu, queues)) => match smmu.start(cpu, &queues) {
                Ok(()) => return Ok(smmu),
                Err(error) => {
                    // What it says is less than why it is to be off.
                    if hardware.turn_off(cpu).is_err() {
                        return Err(error);
                    }
                    if !smmu.commands.messages_arrived(cpu) {
                        lent.keep(smmu.commands.messages());
                    }
                    error
                }
            },
            Err(error) => error,
        };
        lent.give_back();
        Err(error)
    }

    /// Everything that takes memory, and nothing of the SMMU yet.
    fn make(
        hardware: &Arc<Hardware<R, D>>,
        features: Features,
        memory: &mut Lent<'_>,
        hooks: Hooks,
        options: Options,
    ) -> Result<(Arc<Self>, Queues), DriverError> {
        let table = StreamTable::new(&features, options.stream_bits, memory)?;
        // With room for every stall record that may wait for its answer (6.3.6), none is held back for want of it (7.4).
        let stalls_log2 = u32::from(features.stall_max).next_power_of_two().ilog2() as u8;
        let event_size = queue_size(options.event_queue_log2.max(stalls_log2), features.event_queue);
        let trace = options.trace.then(|| try_arc(Trace::new()).ok_or(DriverError::HeapFull)).transpose()?;

        let command_size = queue_size(options.command_queue_log2, features.command_queue);
        let region = queue_memory(memory, command_size, COMMAND_BYTES)?;
        let commands_at = (region.phys, command_size);
        let ring = Ring::new(command_size).ok_or(DriverError::HeapFull)?;
        let completion = Completion::new(&features, memory)?;
        let commands =
            CommandQueue::new(hardware.clone(), features, table.bits(), region, ring, completion, trace.clone());
        let commands = commands.and_then(try_arc).ok_or(DriverError::HeapFull)?;

        let region = queue_memory(memory, event_size, EVENT_BYTES)?;
        let mut queues = Queues { commands: commands_at, events: (region.phys, event_size), page_requests: None };
        let events = RecordQueue::new(region, event_size, hardware.coherence);
        let mut page_requests = None;
        if let Some(limit) = features.pri_queue {
            let request_size = queue_size(options.page_request_queue_log2, limit);
            let region = queue_memory(memory, request_size, PAGE_REQUEST_BYTES)?;
            queues.page_requests = Some((region.phys, request_size));
            page_requests = Some(RecordQueue::new(region, request_size, hardware.coherence));
        }

        let responder = commands.clone();
        let faults = FaultTable::new(hardware.domain.clone(), responder, table.bits().into(), options.limits)
            .map_err(|_| DriverError::NoTable)?;
        let (streams, lives, tables) = (Sorted::new(), Vec::new(), Tables::new());
        let [asids, vmids] = [features.asid_bits, features.vmid_bits].map(Tags::new);
        let memory = memory.shared().clone();
        let control = Control { table, streams, lives, terminated: 0, tables, asids, vmids, memory };
        let control = spin::Mutex::new(control);
        let aborted_messages = AtomicU32::new(0);
        let smmu = Self {
            hardware: hardware.clone(),
            features,
            commands,
            events,
            page_requests,
            faults,
            hooks,
            trace,
            aborted_messages,
            nested: AtomicBool::new(false),
            uses_ats: AtomicBool::new(false),
            terminated: AtomicU64::new(NOBODY),
            control,
        };
        Ok((try_arc(smmu).ok_or(DriverError::HeapFull)?, queues))
    }

    /// Tells the SMMU, which is off, where everything is, and turns it on.
    fn start(&self, cpu: &mut Cpu, queues: &Queues) -> Result<(), DriverError> {
        let Self { hardware, features, .. } = self;
        hardware.set_attributes(features);
        hardware.set_stream_table(&self.control(cpu)?.table);
        hardware.set_queue(Register::CmdqBase, Register::CmdqProd, Register::CmdqCons, queues.commands);
        hardware.acknowledge_all();
        hardware.enable(cpu, CR0::CMDQEN::SET)?;
        // What an earlier owner left in the caches (3.11).
        let forget = [Command::CfgiAll, Command::TlbiNsnhAll, Command::TlbiEl2All];
        let forget = if features.hyp { &forget[..] } else { &forget[..2] };
        self.commands.execute(cpu, forget)?;

        hardware.set_queue(Register::EventqBase, Register::EventqProd, Register::EventqCons, queues.events);
        hardware.enable(cpu, CR0::EVENTQEN::SET)?;
        if let Some(queue) = queues.page_requests {
            hardware.set_queue(Register::PriqBase, Register::PriqProd, Register::PriqCons, queue);
            hardware.enable(cpu, CR0::PRIQEN::SET)?;
        }
        hardware.enable_interrupts(cpu, features, None)?;
        if features.ats {
            // Translated transactions of streams without ATS are refused (3.9.1).
            hardware.enable(cpu, CR0::ATSCHK::SET)?;
        }
        hardware.enable(cpu, CR0::SMMUEN::SET)
    }
}

/// Where a queue lies, and its size.
type Place = (PhysAddr, QueueSize);

/// Where the queues lie.
struct Queues {
    commands: Place,
    events: Place,
    page_requests: Option<Place>,
}

impl<R: Registers, D: Delay> Hardware<R, D> {
    /// Reads the ID registers, and refuses by name what the driver cannot use.
    fn identify(&self) -> Result<Features, DriverError> {
        let id = IdRegisters {
            idr0: self.read(Register::Idr0),
            idr1: self.read(Register::Idr1),
            idr3: self.read(Register::Idr3),
            idr5: self.read(Register::Idr5),
            iidr: self.read(Register::Iidr),
            aidr: self.read(Register::Aidr),
        };
        let features = Features::decode(id)?;
        let refusals = [
            (!features.granule_4k, Unsupported::No4KGranule),
            (!features.aarch64, Unsupported::NoAarch64Tables),
            (features.table_endianness == TableEndianness::Big, Unsupported::BigEndian),
            (features.queues_preset || features.tables_preset, Unsupported::Preset),
        ];
        match refusals.into_iter().find(|(refused, _)| *refused) {
            Some((_, reason)) => Err(reason.into()),
            None => Ok(features),
        }
    }

    /// Aborts incoming transactions, then turns everything off.
    pub(super) fn silence(&self, cpu: &mut Cpu) -> Result<(), DriverError> {
        let updated = GBPA::UPDATE::CLEAR;
        self.poll(cpu, Register::Gbpa, updated.mask(), updated.value)?;
        // In one write with Update, and the other fields as they were (6.3.14.1).
        let gbpa = LocalRegisterCopy::<u32, GBPA::Register>::new(self.read(Register::Gbpa));
        self.write(Register::Gbpa, (GBPA::ABORT::SET + GBPA::UPDATE::SET).modify(gbpa.get()));
        self.poll(cpu, Register::Gbpa, updated.mask(), updated.value)?;
        self.turn_off(cpu)
    }

    /// Turns everything off: when this returns without an error, the SMMU accesses neither tables nor queues (6.3.9), and no message of
    /// an interrupt is under way but those of CMD_SYNCs (6.3.16).
    fn turn_off(&self, cpu: &mut Cpu) -> Result<(), DriverError> {
        for (register, acknowledged) in [(Register::Cr0, Register::Cr0Ack), (Register::IrqCtrl, Register::IrqCtrlAck)] {
            // While an earlier owner's update is under way, a write may have no effect (6.3.9, 6.3.16).
            self.poll(cpu, acknowledged, u32::MAX, self.read(register))?;
            self.write(register, 0);
            self.poll(cpu, acknowledged, u32::MAX, 0)?;
        }
        Ok(())
    }

    /// How the SMMU accesses tables and queues, and what it records.
    fn set_attributes(&self, features: &Features) {
        let coherent = CR1::TABLE_SH::InnerShareable
            + CR1::TABLE_OC::WriteBack
            + CR1::TABLE_IC::WriteBack
            + CR1::QUEUE_SH::InnerShareable
            + CR1::QUEUE_OC::WriteBack
            + CR1::QUEUE_IC::WriteBack;
        // Non-cacheable, and so as outer shareable (6.3.11).
        self.write(Register::Cr1, if features.coherent { coherent.value } else { 0 });
        // Translations are invalidated by commands, never by the cores' broadcasts (PTM).
        self.write(Register::Cr2, (CR2::RECINVSID::SET + CR2::PTM::SET).value);
    }

    fn set_stream_table(&self, table: &StreamTable) {
        let format = match table.split() {
            Some(split) => STRTAB_BASE_CFG::FMT::TwoLevel + STRTAB_BASE_CFG::SPLIT.val(split.into()),
            None => STRTAB_BASE_CFG::FMT::Linear + STRTAB_BASE_CFG::SPLIT.val(0),
        };
        let base = STRTAB_BASE::ADDR.val(table.base().0 >> STRTAB_BASE::ADDR.shift) + STRTAB_BASE::RA::SET;
        self.registers.write64(Register::StrtabBase, base.value);
        self.write(Register::StrtabBaseCfg, (format + STRTAB_BASE_CFG::LOG2SIZE.val(table.bits().into())).value);
    }

    /// An empty queue. PROD and CONS carry the overflow flags, equal too.
    fn set_queue(&self, base: Register, prod: Register, cons: Register, (memory, size): Place) {
        let value = QUEUE_BASE::ADDR.val(memory.0 >> QUEUE_BASE::ADDR.shift)
            + QUEUE_BASE::LOG2SIZE.val(size.log2().into())
            + QUEUE_BASE::ALLOCATE::SET;
        self.registers.write64(base, value.value);
        self.write(prod, 0);
        self.write(cons, 0);
    }

    /// Acknowledges the global errors of an earlier owner: an active CMDQ_ERR would keep commands from being consumed.
    fn acknowledge_all(&self) {
        self.write(Register::Gerrorn, self.read(Register::Gerror));
    }

    /// Sets one enable in CR0 and waits for its ACK.
    fn enable(&self, cpu: &mut Cpu, bit: FieldValue<u32, CR0::Register>) -> Result<(), DriverError> {
        self.write(Register::Cr0, bit.modify(self.read(Register::Cr0)));
        Ok(self.poll(cpu, Register::Cr0Ack, bit.mask(), bit.value)?)
    }
}

/// The size asked for, or the SMMU's limit.
fn queue_size(wanted: u8, limit: QueueSize) -> QueueSize {
    QueueSize::new(wanted).map_or(limit, |wanted| wanted.min(limit))
}

fn queue_memory(memory: &mut Lent<'_>, size: QueueSize, record: usize) -> Result<DmaRegion, DriverError> {
    let bytes = size.entries() as usize * record;
    memory.allocate(bytes, bytes.max(QUEUE_ALIGN))
}
