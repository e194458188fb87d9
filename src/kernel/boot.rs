//! From the entry code to a running kernel.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::Ordering::Relaxed;

use super::devices::DRAINER;
use super::interrupts::{ConnectError, Interrupts, Sgi, send};
use super::pace::Pace;
use super::power::Power;
use super::runtime::Kernel;
use crate::arch::entry::Boot;
use crate::arch::heap::Heap;
use crate::arch::timer::Alarm;
use crate::arch::{self, semihosting};
use crate::iopf::WorkQueues;
use crate::platform::boot::{Machine, MachineError};
use crate::platform::console;
use crate::sync::grace::Domain;
use crate::sync::lock::IrqLock;
use crate::sync::{CoreId, Cpu, Masked};

/// What an image does once the kernel runs. The result is QEMU's exit status.
pub type Main = fn(&'static Kernel, Cpu) -> i32;

/// Everything that can go wrong until the kernel runs.
#[derive(Debug, thiserror::Error)]
enum BootError {
    #[error("{0}")]
    Machine(#[from] MachineError),
    #[error("interrupt: {0}")]
    Interrupt(#[from] ConnectError),
}

/// The first core's way in.
pub fn primary(boot: Boot, mut cpu: Cpu, heap: &'static Heap, main: Main) -> ! {
    match start(boot, heap) {
        Ok(kernel) => {
            kernel.domain.online(&mut cpu);
            arch::unmask();
            start_others(kernel, &mut cpu);
            semihosting::exit(main(kernel, cpu))
        }
        Err(error) => semihosting::refuse(error),
    }
}

fn start(boot: Boot, heap: &'static Heap) -> Result<&'static Kernel, BootError> {
    let Machine { board, device_memory, gic } = Machine::start(boot, heap)?;
    console::start(&board);

    let domain = Arc::new(Domain::new());
    domain.set_expedite(|core| send(Sgi::Quiesce, core));
    let interrupts = Interrupts::new(gic);
    // The handler need do nothing: the end of any interrupt is quiescent, and the end of idleness looks for work.
    interrupts.connect_private(Sgi::Quiesce as u32, Box::new(|_| {}))?;
    interrupts.connect_private(Sgi::Wake as u32, Box::new(|_| {}))?;
    interrupts.connect_private(board.timer.intid, Box::new(alarm))?;
    interrupts.start_core(CoreId::FIRST, board.timer)?;
    Ok(Kernel {
        board,
        arguments: semihosting::arguments(),
        domain,
        device_memory: Arc::new(device_memory),
        interrupts,
        heap,
        work_queues: Arc::new(WorkQueues::new(Box::new(|_, core| send(Sgi::Wake, core)))),
        cores: 1.into(),
        power: Power::new(),
        workers: IrqLock::new(heapless::Vec::new()),
        pace: Pace::new(),
    }
    .start())
}

/// Starts the other cores. One that does not come is reported, and done without as those after it are.
fn start_others(kernel: &'static Kernel, cpu: &mut Cpu) {
    for core in CoreId::all().take(kernel.board.cores.len()).skip(1) {
        if let Err(error) = kernel.switch_on(cpu, core) {
            log::error!("{error}");
            return;
        }
        kernel.cores.store(core.index() + 1, Relaxed);
    }
}

/// The way in of the other cores.
pub fn secondary(mut cpu: Cpu) -> ! {
    let Some(kernel) = Kernel::get() else { semihosting::refuse("a core came up before the kernel had booted") };
    if let Err(error) = kernel.come(&mut cpu) {
        semihosting::refuse(error);
    }
    kernel.announce(cpu.core());
    loop {
        if let Err(error) = kernel.leave_if_asked(&mut cpu) {
            semihosting::refuse(error);
        }
        if !kernel.work(&mut cpu) {
            kernel.idle(&mut cpu);
        }
    }
}

/// The timer's interrupt. It ends a sleep, and calls the drains that waited for it.
fn alarm(masked: &Masked) {
    Alarm::clear(masked);
    if let Some(kernel) = Kernel::get().filter(|_| masked.core() == DRAINER) {
        kernel.pace.resume(masked);
    }
}

/// Every interrupt.
pub fn interrupt(masked: Masked) {
    let Some(kernel) = Kernel::get() else { semihosting::refuse("an interrupt before the kernel had booted") };
    kernel.interrupts.handle(&masked);
    kernel.domain.quiescent(masked);
}

/// Makes this crate a kernel image: entry code, heap and panic handler, and `$main`, a [`Main`], to run once it has booted.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        #[global_allocator]
        static HEAP: $crate::arch::heap::Heap = $crate::arch::heap::Heap::empty();

        enum Image {}

        impl $crate::arch::entry::Image for Image {
            fn first_core(boot: $crate::arch::entry::Boot, cpu: $crate::sync::Cpu) -> ! {
                $crate::kernel::boot::primary(boot, cpu, &HEAP, $main)
            }

            fn other_core(cpu: $crate::sync::Cpu) -> ! {
                $crate::kernel::boot::secondary(cpu)
            }

            fn interrupt(masked: $crate::sync::Masked) {
                $crate::kernel::boot::interrupt(masked);
            }

            fn exception(frame: &$crate::arch::exception::Frame, vector: u64) -> ! {
                $crate::kernel::fatal::exception(frame, vector)
            }
        }

        $crate::entry_code!(Image);

        #[panic_handler]
        fn panic(info: &::core::panic::PanicInfo<'_>) -> ! {
            $crate::kernel::fatal::panic(info)
        }
    };
}
