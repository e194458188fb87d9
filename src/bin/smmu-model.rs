//! The EL2 image of the SMMUv3 model: entry and wiring of [`smmu_iopf::model::el2`].
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(not(target_os = "none"))]
fn main() -> std::process::ExitCode {
    eprintln!("smmu-iopf is bare-metal firmware: ./run-qemu.sh builds and boots it");
    std::process::ExitCode::from(2)
}

#[cfg(target_os = "none")]
mod target {
    use core::alloc::{GlobalAlloc, Layout};
    use core::panic::PanicInfo;
    use core::ptr::null_mut;

    use smmu_iopf::model::el2;
    use smmu_iopf::sync::cpu::MAX_CORES;

    core::arch::global_asm!(
        include_str!("../../boot/el2.S"),
        IMAGE = const el2::IMAGE.start,
        STACKS = const el2::STACKS,
        STACK_SIZE = const el2::STACK_SIZE,
        CORES = const MAX_CORES,
        start = sym el2::start,
        start_secondary = sym el2::start_secondary,
        trap = sym el2::trap,
        fatal = sym el2::fatal,
    );

    #[panic_handler]
    fn panic(info: &PanicInfo<'_>) -> ! {
        el2::panic(info)
    }

    /// There is no heap at EL2: the library links `alloc` for its other rooms, and this refuses whatever asks.
    struct NoHeap;

    // SAFETY: it never hands out memory, so that there is nothing to hand out wrongly and nothing to give back.
    unsafe impl GlobalAlloc for NoHeap {
        unsafe fn alloc(&self, _: Layout) -> *mut u8 {
            null_mut()
        }

        unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
    }

    #[global_allocator]
    static NO_HEAP: NoHeap = NoHeap;
}
