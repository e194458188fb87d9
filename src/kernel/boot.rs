//! From the entry code to a running kernel.

use alloc::sync::Arc;
use core::ops::Range;
use core::time::Duration;

use smccc::{Hvc, Smc, psci};

use super::interrupts::{Interrupts, Sgi, send};
use super::memory::{DeviceMemory, KernelHeap};
use super::runtime::Kernel;
use super::{console, fatal, image};
use crate::arch::mmu::{AddressMap, Kind};
use crate::arch::timer::Alarm;
use crate::arch::{self, semihosting};
use crate::platform::board::{Board, PsciMethod};
use crate::platform::device_tree;
use crate::sync::grace::Domain;
use crate::sync::lock::IrqLock;
use crate::sync::{CoreId, Cpu, Masked};

/// The size of the heap in bytes.
const HEAP_BYTES: u64 = 16 << 20;

/// The size of a core's redistributor in bytes: the frames RD_base and SGI_base of a GICv3.
const REDISTRIBUTOR_BYTES: u64 = 0x2_0000;

/// Where QEMU puts the device tree for an ELF image that it enters without one.
const DEFAULT_TREE: u64 = 0x4000_0000;

/// What the entry code has mapped as memory.
const MAPPED_AT_ENTRY: Range<u64> = 0x4000_0000..0x8000_0000;

/// What an image does once the kernel runs. The result is QEMU's exit status.
pub type Main = fn(&'static Kernel, Cpu) -> i32;

/// Everything that can go wrong until the kernel runs.
#[derive(Debug, thiserror::Error)]
enum BootError {
    #[error("device tree at {0:#x}: {1}")]
    Tree(u64, device_tree::BoardError),
    #[error("no memory around the image at {0:#x?}, with {HEAP_BYTES:#x} bytes more behind it")]
    Memory(Range<u64>),
    #[error("{0:#x?} can't be mapped: {1}")]
    Map(Range<u64>, aarch64_paging::MapError),
    #[error("interrupt controller: {0}")]
    Gic(#[from] arm_gic::gicv3::GicError),
    #[error("{bytes:#x} bytes of GIC redistributors are too few for {cores} cores")]
    Redistributors { bytes: u64, cores: usize },
    #[error("interrupt: {0}")]
    Interrupt(#[from] super::interrupts::ConnectError),
}

/// The first core's way in. `tree` is what the entry code found in X0.
pub fn primary(tree: u64, heap: &'static KernelHeap, main: Main) -> ! {
    match boot(tree, heap) {
        Ok(kernel) => {
            // SAFETY: this is the first core, which enters here once.
            let mut cpu = unsafe { Cpu::new(CoreId::FIRST) };
            kernel.domain.online(&mut cpu);
            arch::unmask();
            start_secondaries(kernel, &mut cpu);
            semihosting::exit(main(kernel, cpu))
        }
        Err(error) => fatal::refuse(error),
    }
}

fn boot(tree: u64, heap: &'static KernelHeap) -> Result<&'static Kernel, BootError> {
    let tree_bytes = find_tree(tree)?;
    let tree = tree_bytes.as_ptr() as u64;
    let mut board = Board::parse(tree_bytes).map_err(|error| BootError::Tree(tree, error))?;
    // QEMU's PCIe window for 64-bit BARs ends at 1 TiB, out of reach: the kernel does without.
    if let Some(pcie) = &mut board.pcie {
        pcie.windows.retain(|window| window.cpu.end <= AddressMap::REACH);
    }
    let tree = tree..tree + tree_bytes.len() as u64;
    let (heap_memory, device_memory) = lay_out_memory(&board, &tree)?;

    // SAFETY: memory that the image does not use, which the entry code has mapped; boot comes by here once.
    unsafe { heap.start(heap_memory.clone()) };
    map(&board, &tree, &[heap_memory, device_memory.clone()])?;
    // SAFETY: the tree says that a PL011 is there, and it has just been mapped.
    unsafe { console::start(board.uart.start as usize) };

    let domain = Arc::new(Domain::new());
    domain.set_expedite(|core| send(Sgi::Quiesce, core));
    let redistributors = board.gic.redistributors.first().map_or(0, |window| window.end - window.start);
    if redistributors / REDISTRIBUTOR_BYTES < board.cores.len() as u64 {
        return Err(BootError::Redistributors { bytes: redistributors, cores: board.cores.len() });
    }
    // SAFETY: the tree says that a GICv3 with a redistributor for each core is there, and it has just been mapped; boot comes
    // by here once.
    let interrupts = unsafe { Interrupts::new(&board.gic, board.cores.len())? };
    // The handler need do nothing: the end of any interrupt is quiescent, and the end of idleness looks for work.
    interrupts.connect_private(Sgi::Quiesce as u32, alloc::boxed::Box::new(|_| {}))?;
    interrupts.connect_private(Sgi::Wake as u32, alloc::boxed::Box::new(|_| {}))?;
    interrupts.connect_private(board.timer.intid, alloc::boxed::Box::new(Alarm::clear))?;
    interrupts.start_core(CoreId::FIRST, board.timer)?;
    Ok(Kernel {
        board,
        arguments: semihosting::arguments(),
        domain,
        // SAFETY: mapped as data, one to one, and nobody else's.
        device_memory: Arc::new(unsafe { DeviceMemory::new(device_memory) }),
        interrupts,
        heap,
        online: 1.into(),
        workers: IrqLock::new(heapless::Vec::new()),
    }
    .start())
}

/// The device tree at `address`, or where QEMU puts it if there is none.
fn find_tree(address: u64) -> Result<&'static [u8], BootError> {
    let mut error = BootError::Tree(address, device_tree::BoardError::NoTree { magic: 0, size: 0 });
    for address in [address, DEFAULT_TREE] {
        if !MAPPED_AT_ENTRY.contains(&address) || !address.is_multiple_of(8) {
            continue;
        }
        // SAFETY: 8 bytes of memory that the entry code has mapped and that nobody writes.
        let header = unsafe { *(address as *const [u8; device_tree::HEADER_SIZE]) };
        match device_tree::size(header) {
            Ok(size) if size as u64 <= MAPPED_AT_ENTRY.end - address => {
                // SAFETY: as above; and the tree is never given out as free memory.
                return Ok(unsafe { core::slice::from_raw_parts(address as *const u8, size) });
            }
            Ok(_) => {}
            Err(no_tree) => error = BootError::Tree(address, no_tree),
        }
    }
    Err(error)
}

/// The memory for the heap and, behind it, that for devices: what is left of the image's piece of memory above it.
fn lay_out_memory(board: &Board, tree: &Range<u64>) -> Result<(Range<u64>, Range<u64>), BootError> {
    let image = image::whole();
    let around = board
        .memory
        .iter()
        .find(|memory| memory.start <= image.start && image.end + HEAP_BYTES < memory.end)
        .ok_or_else(|| BootError::Memory(image.clone()))?;
    let heap = image.end..image.end + HEAP_BYTES;
    // What is reserved above the heap ends the memory for devices.
    let end = board
        .reserved
        .iter()
        .chain([tree])
        .filter(|reserved| reserved.end > heap.start)
        .map(|reserved| reserved.start & !0xfff)
        .fold(around.end.min(MAPPED_AT_ENTRY.end), u64::min);
    if end <= heap.end { Err(BootError::Memory(image)) } else { Ok((heap.clone(), heap.end..end)) }
}

/// Replaces the entry code's address space by one that maps only what is there, each part as it is used.
fn map(board: &Board, tree: &Range<u64>, memory: &[Range<u64>]) -> Result<(), BootError> {
    let mut map = AddressMap::empty();
    let mut add = |range: Range<u64>, kind| map.map(range.clone(), kind).map_err(|error| BootError::Map(range, error));
    add(image::code(), Kind::Code)?;
    add(image::constants(), Kind::Constants)?;
    add(image::data(), Kind::Data)?;
    image::stacks_without_guards().try_for_each(|stack| add(stack, Kind::Data))?;
    memory.iter().try_for_each(|range| add(range.clone(), Kind::Data))?;
    add(tree.clone(), Kind::Constants)?;
    board.windows().try_for_each(|(_, window)| add(window.clone(), Kind::Device))?;
    // SAFETY: code, constants, data, stacks and heap are mapped as they are used.
    unsafe { map.activate() };
    Ok(())
}

unsafe extern "C" {
    fn kernel_secondary_start();
}

/// Starts the other cores by PSCI. One that does not come is reported and done without.
fn start_secondaries(kernel: &'static Kernel, cpu: &mut Cpu) {
    let entry = kernel_secondary_start as *const () as u64;
    for (index, core) in kernel.board.cores.iter().enumerate().skip(1) {
        let called = match kernel.board.psci {
            PsciMethod::Hvc => psci::cpu_on::<Hvc>(core.0, entry, index as u64),
            PsciMethod::Smc => psci::cpu_on::<Smc>(core.0, entry, index as u64),
        };
        if let Err(error) = called {
            log::error!("core {index}: PSCI CPU_ON: {error}");
            return;
        }
        let up = || if kernel.cores() > index { Ok(()) } else { Err(()) };
        if kernel.wait_until(cpu, Duration::from_secs(5), up).is_err() {
            log::error!("core {index}: started and did not come up within 5 s");
            return;
        }
    }
}

/// The way in of the other cores, by PSCI. `index` is what CPU_ON passed on.
#[unsafe(no_mangle)]
extern "C" fn kernel_secondary(index: u64) -> ! {
    let (Some(core), Some(kernel)) = (CoreId::new(index as usize), Kernel::get()) else {
        fatal::refuse("a core came up that nobody started");
    };
    // SAFETY: this is core `core`, which enters here once.
    let mut cpu = unsafe { Cpu::new(core) };
    if let Err(error) = kernel.interrupts.start_core(core, kernel.board.timer) {
        fatal::refuse(error);
    }
    kernel.domain.online(&mut cpu);
    arch::unmask();
    kernel.online.fetch_add(1, core::sync::atomic::Ordering::Release);
    loop {
        if !kernel.work(&mut cpu) {
            kernel.idle(&mut cpu);
        }
    }
}

/// Every interrupt, from the vector.
#[unsafe(no_mangle)]
extern "C" fn interrupt_taken() {
    let Some(kernel) = Kernel::get() else { fatal::refuse("an interrupt before the kernel had booted") };
    // SAFETY: the vector runs with interrupts masked, and they stay so until it returns.
    let masked = unsafe { Masked::new(arch::core_id()) };
    kernel.interrupts.handle(&masked);
    kernel.domain.quiescent(masked);
}

/// Makes this crate a kernel image: entry code, heap and panic handler, and `$main`, a [`Main`], to run once it has booted.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        ::core::arch::global_asm!(include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/boot/kernel.S")));

        #[global_allocator]
        static HEAP: $crate::kernel::memory::KernelHeap = $crate::kernel::memory::KernelHeap::empty();

        #[unsafe(no_mangle)]
        extern "C" fn kernel_primary(tree: u64) -> ! {
            $crate::kernel::boot::primary(tree, &HEAP, $main)
        }

        #[panic_handler]
        fn panic(info: &::core::panic::PanicInfo<'_>) -> ! {
            $crate::kernel::fatal::panic(info)
        }
    };
}
