//! A pool of page frames that the fault path takes from without a lock and without zeroing.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::AtomicU64;

use embedded_hal::delay::DelayNs;

use crate::driver::dma::{Coherence, DmaMemory, NoMemory};
use crate::smmuv3::PhysAddr;
use crate::sync::atomic::{
    AtomicU32, AtomicU64 as Head,
    Ordering::{Acquire, Relaxed, Release},
};
use crate::sync::mutant::mutant;
use crate::sync::{pause, wait};

/// The size of a page frame in bytes.
pub const FRAME_BYTES: usize = 4096;

/// The number of 64-bit words in a page frame.
pub const FRAME_WORDS: usize = FRAME_BYTES / 8;

/// How often a frame that is on its way to the lists is looked for again. Zeroing one takes far less, an interrupt included.
const LOOKS: u32 = 100_000;

/// The words of a page frame.
pub type FrameWords = [AtomicU64; FRAME_WORDS];

/// One page frame, owned. It goes back to its pool by [`FramePool::free`]; a frame that is dropped instead stays in use.
#[derive(Debug)]
#[must_use = "a frame that is dropped is lost to its pool"]
pub struct Frame {
    index: u32,
    phys: PhysAddr,
}

impl Frame {
    /// Where devices see it.
    pub fn phys(&self) -> PhysAddr {
        self.phys
    }
}

/// Page frames in two lock-free lists: those that are zeroed, ready for the fault path, and those that are not.
///
/// Memory that held one address space's data must be zeroed before another sees it, and zeroing 4 KiB is no work for an
/// interrupt handler: idle cores do it ahead, with [`FramePool::zero_some`].
#[derive(Debug)]
pub struct FramePool {
    memory: Memory,
    coherence: Coherence,
    next: Box<[AtomicU32]>,
    zeroed: Stack,
    dirty: Stack,
    /// The frames that are neither in a list nor on their way to one.
    in_use: AtomicU32,
}

/// Where a pool's frames are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory {
    phys: PhysAddr,
    frames: &'static [FrameWords],
}

impl Memory {
    /// The words of the frame at `phys`, or `None` if it is none of these.
    pub(super) fn words(self, phys: PhysAddr) -> Option<&'static FrameWords> {
        self.frame(self.index_of(phys)?)
    }

    /// The words of frame number `index`.
    pub(super) fn frame(self, index: usize) -> Option<&'static FrameWords> {
        self.frames.get(index)
    }

    /// The number of the frame at `phys`, if it is one of these.
    pub(super) fn index_of(self, phys: PhysAddr) -> Option<usize> {
        Some((phys.0.checked_sub(self.phys.0)? / FRAME_BYTES as u64) as usize)
    }
}

/// Why there is no pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// No such region of device memory is left.
    #[error(transparent)]
    NoMemory(#[from] NoMemory),
    /// The heap is full.
    #[error("no memory for the lists of {frames} page frames")]
    HeapFull {
        /// How many frames were asked for.
        frames: u32,
    },
}

impl FramePool {
    /// A pool of `frames` frames out of `memory`, all zeroed, for the SMMUs that walk the tables made of them as well: `coherence` is
    /// theirs ([`Smmu::coherence`](crate::driver::Smmu::coherence)), and with several of that which needs maintenance.
    ///
    /// # Errors
    ///
    /// [`PoolError`]; `frames` that do not fit an address space are more than any memory has.
    pub fn new(memory: &dyn DmaMemory, frames: u32, coherence: Coherence) -> Result<Self, PoolError> {
        let bytes = (frames as usize)
            .checked_mul(FRAME_BYTES)
            .filter(|_| frames < Stack::NONE)
            .ok_or(NoMemory { bytes: usize::MAX, align: FRAME_BYTES })?;
        let mut next = Vec::new();
        next.try_reserve_exact(frames as usize).map_err(|_| PoolError::HeapFull { frames })?;
        let region = memory.allocate(bytes, FRAME_BYTES)?;
        coherence.clean(region.words);
        next.resize_with(frames as usize, || AtomicU32::new(Stack::NONE));
        let memory = Memory { phys: region.phys, frames: region.words.as_chunks().0 };
        let (zeroed, dirty, in_use) = (Stack::new(), Stack::new(), AtomicU32::new(0));
        let pool = Self { memory, coherence, next: next.into(), zeroed, dirty, in_use };
        (0..frames).rev().for_each(|index| pool.zeroed.push(&pool.next, index));
        Ok(pool)
    }

    /// A zeroed frame, or `None` when none is ready. Constant time.
    pub fn take_zeroed(&self) -> Option<Frame> {
        self.try_zeroed().inspect(|frame| self.keep(frame))
    }

    /// A zeroed frame, zeroed now if none is ready, or `None` when all are in use.
    ///
    /// A frame that another core is zeroing, or has taken and may give back, is waited for, bounded.
    pub fn take(&self) -> Option<Frame> {
        self.try_any().inspect(|frame| self.keep(frame))
    }

    /// A frame as by [`take_zeroed`](Self::take_zeroed), which is not in use yet: it is kept or given back at once.
    pub(super) fn try_zeroed(&self) -> Option<Frame> {
        self.zeroed.pop(&self.next).map(|index| self.frame(index))
    }

    /// A frame as by [`take`](Self::take), which is not in use yet: it is kept or given back at once. After `None` what all frames
    /// are kept for is visible.
    pub(super) fn try_any(&self) -> Option<Frame> {
        let take = || {
            self.try_zeroed().or_else(|| {
                let index = self.dirty.pop(&self.next)?;
                self.zero(index);
                Some(self.frame(index))
            })
        };
        let look = || match take() {
            None if self.used() < self.next.len() && !mutant!("frame_not_waited_for") => Err(()),
            taken => Ok(taken),
        };
        wait::until(&mut Pause, LOOKS, look).ok().flatten()
    }

    /// The frame is in use from now on.
    pub(super) fn keep(&self, _: &Frame) {
        // Release: what it is kept for. Pairs with the Acquire in `used`.
        self.in_use.fetch_add(1, if mutant!("frame_kept_relaxed") { Relaxed } else { Release });
    }

    /// Takes back a frame that was not kept, and is zeroed as it was.
    pub(super) fn give_back(&self, frame: Frame) {
        self.zeroed.push(&self.next, frame.index);
    }

    /// Takes `frame` back.
    pub fn free(&self, frame: Frame) {
        self.in_use.fetch_sub(1, Relaxed);
        self.dirty.push(&self.next, frame.index);
    }

    /// Takes the frame at `phys` back, which a page table held; one that is not the pool's is let be.
    pub(super) fn free_at(&self, phys: PhysAddr) {
        if let Some(index) = self.memory.index_of(phys).filter(|&index| index < self.next.len()) {
            self.free(Frame { index: index as u32, phys });
        }
    }

    /// Zeroes up to `count` freed frames and returns how many: work for an idle core.
    pub fn zero_some(&self, count: usize) -> usize {
        (0..count)
            .map_while(|_| self.dirty.pop(&self.next))
            .map(|index| {
                self.zero(index);
                self.zeroed.push(&self.next, index);
            })
            .count()
    }

    /// Whether [`FramePool::zero_some`] has something to do.
    pub fn is_dirty(&self) -> bool {
        self.dirty.0.load(Relaxed) as u32 != Stack::NONE
    }

    /// How many frames are in use.
    pub fn in_use(&self) -> usize {
        self.in_use.load(Relaxed) as usize
    }

    /// The words of the frame at `phys`, or `None` if the pool does not own it.
    pub fn words(&self, phys: PhysAddr) -> Option<&'static FrameWords> {
        self.memory.words(phys)
    }

    /// Where the frames are: a walk takes it once, since no load of an entry changes it.
    pub(super) fn memory(&self) -> Memory {
        self.memory
    }

    /// How what walks the tables sees what is written to them.
    pub(super) fn coherence(&self) -> Coherence {
        self.coherence
    }

    fn zero(&self, index: u32) {
        let Some(frame) = self.memory.frame(index as usize) else { return };
        frame.iter().for_each(|word| word.store(0, Relaxed));
        self.coherence.clean(frame);
    }

    fn used(&self) -> usize {
        self.in_use.load(if mutant!("frames_kept_unread") { Relaxed } else { Acquire }) as usize
    }

    fn frame(&self, index: u32) -> Frame {
        Frame { index, phys: PhysAddr(self.memory.phys.0 + u64::from(index) * FRAME_BYTES as u64) }
    }
}

/// A delay without a clock.
struct Pause;

impl DelayNs for Pause {
    fn delay_ns(&mut self, _: u32) {
        pause();
    }
}

/// A lock-free list of frame numbers. Its head carries a tag that every change counts up, so that a head which went and
/// came back between a look and an exchange is not taken for the same.
#[derive(Debug)]
struct Stack(Head);

impl Stack {
    /// No frame.
    const NONE: u32 = u32::MAX;

    fn new() -> Self {
        Self(Head::new(u64::from(Self::NONE)))
    }

    fn push(&self, next: &[AtomicU32], index: u32) {
        let mut head = self.0.load(Relaxed);
        loop {
            next[index as usize].store(head as u32, Relaxed);
            // Release: the link, and zeroes in the frame, before the frame can be taken.
            let order = if mutant!("frame_pushed_relaxed") { Relaxed } else { Release };
            match self.0.compare_exchange_weak(head, Self::successor(head, index), order, Relaxed) {
                Ok(_) => return,
                Err(seen) => head = seen,
            }
        }
    }

    fn pop(&self, next: &[AtomicU32]) -> Option<u32> {
        // Acquire, here and where the exchange fails: pairs with the Release in `push`. The exchange that succeeds replaces what
        // was read so: no other push has the same tag.
        let order = if mutant!("frames_unread") { Relaxed } else { Acquire };
        let mut head = self.0.load(order);
        loop {
            let link = next.get(head as u32 as usize)?.load(Relaxed);
            let order = if mutant!("frames_unread_again") { Relaxed } else { Acquire };
            match self.0.compare_exchange_weak(head, Self::successor(head, link), Relaxed, order) {
                Ok(_) => return Some(head as u32),
                Err(seen) => head = seen,
            }
        }
    }

    fn successor(head: u64, index: u32) -> u64 {
        ((head >> 32).wrapping_add(1) << 32) | u64::from(index)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;
    use std::thread;
    use std::vec::Vec;

    use super::*;
    use crate::driver::dma::DmaRegion;

    /// Memory at a physical address that is not where the CPU sees it.
    struct Heap;

    impl DmaMemory for Heap {
        fn allocate(&self, bytes: usize, _: usize) -> Result<DmaRegion, NoMemory> {
            let words: Vec<AtomicU64> = (0..bytes / 8).map(|_| AtomicU64::new(0)).collect();
            Ok(DmaRegion { phys: PhysAddr(0x8000_0000), words: words.leak() })
        }
    }

    fn pool(frames: u32) -> FramePool {
        FramePool::new(&Heap, frames, Coherence::COHERENT).unwrap()
    }

    #[test]
    fn frames_are_handed_out_once_and_run_out() {
        let pool = pool(3);
        let mut taken: Vec<_> = (0..3).map(|_| pool.take_zeroed().unwrap().phys().0).collect();
        taken.sort_unstable();
        assert_eq!(taken, [0x8000_0000, 0x8000_1000, 0x8000_2000]);
        assert!(pool.take_zeroed().is_none());
        assert!(pool.take().is_none());
        assert_eq!(pool.in_use(), 3);
    }

    #[test]
    fn a_freed_frame_is_not_ready_until_it_is_zeroed() {
        let pool = pool(1);
        let frame = pool.take_zeroed().unwrap();
        pool.words(frame.phys()).unwrap()[FRAME_WORDS - 1].store(7, Relaxed);
        pool.free(frame);
        assert!(pool.take_zeroed().is_none());
        assert_eq!(pool.zero_some(10), 1);
        let frame = pool.take_zeroed().unwrap();
        assert_eq!(pool.words(frame.phys()).unwrap()[FRAME_WORDS - 1].load(Relaxed), 0);
    }

    #[test]
    fn take_zeroes_when_nothing_is_ready() {
        let pool = pool(1);
        let frame = pool.take().unwrap();
        pool.words(frame.phys()).unwrap()[0].store(7, Relaxed);
        pool.free(frame);
        let frame = pool.take().unwrap();
        assert_eq!(pool.words(frame.phys()).unwrap()[0].load(Relaxed), 0);
    }

    #[test]
    fn a_frame_that_another_core_is_zeroing_is_waited_for() {
        let pool = Arc::new(pool(1));
        let (zeroing, zeroer) = (Arc::new(AtomicU32::new(1)), pool.clone());
        let goes_on = zeroing.clone();
        let zeroer = thread::spawn(move || {
            while goes_on.load(Relaxed) > 0 {
                zeroer.zero_some(1);
            }
        });
        for _ in 0..10_000 {
            pool.free(pool.take().unwrap());
        }
        zeroing.store(0, Relaxed);
        zeroer.join().unwrap();
    }

    #[test]
    fn foreign_addresses_are_not_the_pools() {
        let pool = pool(2);
        assert!(pool.words(PhysAddr(0x7fff_f000)).is_none());
        assert!(pool.words(PhysAddr(0x8000_1fff)).is_some());
        assert!(pool.words(PhysAddr(0x8000_2000)).is_none());
    }

    #[test]
    fn threads_never_hold_the_same_frame() {
        let pool = Arc::new(pool(8));
        let threads: Vec<_> = (1..=4)
            .map(|mark| {
                let pool = pool.clone();
                thread::spawn(move || {
                    for _ in 0..10_000 {
                        let Some(frame) = pool.take() else { continue };
                        let word = &pool.words(frame.phys()).unwrap()[0];
                        assert_eq!(word.swap(mark, Relaxed), 0);
                        assert_eq!(word.load(Relaxed), mark);
                        pool.free(frame);
                        pool.zero_some(1);
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(pool.in_use(), 0);
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use std::vec::Vec;

    use loom::cell::Cell;
    use loom::sync::Arc;
    use loom::sync::atomic::AtomicBool;
    use loom::thread;

    use super::*;
    use crate::driver::dma::DmaRegion;

    /// A frame's memory, which all executions share.
    struct Memory;

    impl DmaMemory for Memory {
        fn allocate(&self, _: usize, _: usize) -> Result<DmaRegion, NoMemory> {
            static WORDS: FrameWords = [const { AtomicU64::new(0) }; FRAME_WORDS];
            Ok(DmaRegion { phys: PhysAddr(0x8000_0000), words: &WORDS })
        }
    }

    #[test]
    fn who_finds_no_frame_gets_the_one_that_is_given_back_or_sees_what_it_is_kept_for() {
        for is_kept in [false, true] {
            loom::model(move || {
                let pool = Arc::new(FramePool::new(&Memory, 1, Coherence::COHERENT).unwrap());
                let entry = Arc::new(AtomicBool::new(false));
                let first = thread::spawn({
                    let (pool, entry) = (pool.clone(), entry.clone());
                    move || match pool.try_zeroed() {
                        Some(frame) if is_kept => {
                            entry.store(true, Relaxed);
                            pool.keep(&frame);
                            true
                        }
                        Some(frame) => {
                            pool.give_back(frame);
                            false
                        }
                        None => false,
                    }
                });
                let taken = pool.try_any();
                assert!(taken.is_some() || is_kept && entry.load(Relaxed));
                assert!(first.join().unwrap() ^ taken.is_some());
            });
        }
    }

    /// A list of frames, with a word in each. Loom reports accesses to it that no order keeps apart.
    struct List {
        stack: Stack,
        next: [AtomicU32; 2],
        words: [Cell<u32>; 2],
    }

    impl List {
        fn push(&self, frame: u32) {
            self.words[frame as usize].set(frame + 1);
            self.stack.push(&self.next, frame);
        }

        fn pop(&self) -> Option<u32> {
            let frame = self.stack.pop(&self.next)?;
            // Taken once, and as it was when it was put there.
            assert_eq!(self.words[frame as usize].replace(0), frame + 1);
            Some(frame)
        }
    }

    #[test]
    fn a_frame_is_taken_once_and_with_what_was_written_before_it_was_put_there() {
        loom::model(|| {
            let list = Arc::new(List {
                stack: Stack::new(),
                next: [0, 1].map(|_| AtomicU32::new(Stack::NONE)),
                words: [0, 1].map(|_| Cell::new(0)),
            });
            let pusher = thread::spawn({
                let list = list.clone();
                move || [0, 1].map(|frame| list.push(frame))
            });
            let taken = [0, 1].map(|_| {
                // Offers loom the schedules in which something is there.
                thread::yield_now();
                list.pop()
            });
            let mut taken: Vec<_> = taken.into_iter().flatten().collect();
            pusher.join().unwrap();
            taken.extend(core::iter::from_fn(|| list.pop()));
            taken.sort_unstable();
            assert_eq!(taken, [0, 1]);
        });
    }
}
