//! The heap, and the memory that devices share.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;

use smmu_iopf::arch::cache;
use smmu_iopf::driver::dma::DmaMemory;

use crate::harness::{equal, holds};

test!(fn the_heap_takes_back_what_it_gave(kernel, _) {
    let before = kernel.heap.used();
    let boxes: Vec<_> = (0..1000_u64).map(|value| Box::new([value; 16])).collect();
    holds("boxes take space", kernel.heap.used() >= before + 1000 * 128)?;
    for (value, numbers) in (0..).zip(&boxes) {
        equal("what a box holds", [value; 16], **numbers)?;
    }
    drop(boxes);
    equal("heap in use", before, kernel.heap.used())
});

test!(fn the_heap_aligns(_, _) {
    #[repr(align(4096))]
    struct Page([u8; 4096]);
    for _ in 0..4 {
        let page = Box::new(Page([1; 4096]));
        equal("the page's offset", 0, &raw const page.0 as usize % 4096)?;
    }
    Ok(())
});

test!(fn device_memory_is_aligned_zeroed_and_given_out_once(kernel, _) {
    let before = kernel.device_memory.left();
    let first = kernel.device_memory.allocate(0x1000, 0x1_0000)?;
    first.words.iter().for_each(|word| word.store(u64::MAX, Relaxed));
    let second = kernel.device_memory.allocate(0x1000, 8)?;
    equal("alignment", 0, first.phys.0 % 0x1_0000)?;
    holds("apart", first.phys.0 + 0x1000 <= second.phys.0 || second.phys.0 + 0x1000 <= first.phys.0)?;
    holds("zeroed", second.words.iter().all(|word| word.load(Relaxed) == 0))?;
    holds("counted", kernel.device_memory.left() <= before - 0x2000)?;
    let (odd, next) = (kernel.device_memory.allocate(8, 8)?, kernel.device_memory.allocate(8, 8)?);
    let line = cache::writeback_granule();
    equal("regions in a line that a cache writes back", [0; 2], [odd, next].map(|region| region.phys.0 % line))?;
    holds("and in another one", odd.phys.0 != next.phys.0)?;
    holds("more than there is is refused", kernel.device_memory.allocate(1 << 40, 8).is_err())
});
