//! Which slots of the command queue belong to whom: lock-free reservation, publication in order.
//!
//! Positions count commands from the start of the queue's life in 64 bits and never wrap; the register's index with its
//! wrap bit is the position's low bits. A producer reserves consecutive slots with one compare-exchange, fills them, and
//! marks them filled with one store. Then whoever finds nobody publishing does it for everybody: it walks over the filled
//! batches that lie next and moves PROD over all of them with one register write. So PROD only moves forward, and a
//! producer that leaves unpublished commands behind leaves them to a core that is inside [`Ring::publish`] at that time: interrupts are
//! masked there, so a grace period that starts later waits for it. No core waits for another but for room: what takes it may be
//! marked and not published until the end of a masked section, or until somebody else publishes.

use alloc::boxed::Box;

use crate::smmuv3::queue::QueueSize;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::memory::try_boxed;
use crate::sync::mutant::mutant;

/// The bookkeeping of a command queue.
#[derive(Debug)]
pub(super) struct Ring {
    size: u64,
    /// Behind the last reserved slot.
    reserved: AtomicU64,
    /// Behind the last slot that the SMMU is known to have consumed.
    consumed: AtomicU64,
    /// Behind the last published slot. Written only by the core that publishes.
    published: AtomicU64,
    /// How often publication was asked for since somebody began to publish; 0 while nobody does.
    asked: AtomicU64,
    /// For the first slot of a filled batch: the position behind the batch. What an earlier lap left in a slot is never
    /// past the position that the slot stands for now, so it does not look like a filled batch.
    ends: Box<[AtomicU64]>,
}

impl Ring {
    /// An empty ring of `size` slots, at position 0; `None` without memory.
    pub(super) fn new(size: QueueSize) -> Option<Self> {
        Some(Self {
            size: u64::from(size.entries()),
            reserved: AtomicU64::new(0),
            consumed: AtomicU64::new(0),
            published: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            ends: try_boxed(size.entries() as usize, || Some(AtomicU64::new(0)))?,
        })
    }

    /// The number of slots.
    pub(super) const fn size(&self) -> u64 {
        self.size
    }

    /// The slot of a position.
    pub(super) const fn slot(&self, position: u64) -> usize {
        (position & (self.size - 1)) as usize
    }

    /// A position as PROD or CONS hold it: the index, and the wrap bit above it.
    pub(super) const fn index(&self, position: u64) -> u32 {
        (position & (2 * self.size - 1)) as u32
    }

    /// Behind the last slot known to be consumed.
    pub(super) fn consumed(&self) -> u64 {
        // Pairs with the compare-exchange in `observe`.
        let order = if mutant!("consumed_unread") { Ordering::Relaxed } else { Ordering::Acquire };
        self.consumed.load(order)
    }

    /// Behind the last reserved slot: how many were reserved until now.
    pub(super) fn reserved(&self) -> u64 {
        self.reserved.load(Ordering::Relaxed)
    }

    /// The position up to which the SMMU has to consume before `count` slots can be reserved.
    pub(super) fn awaited(&self, count: u64) -> u64 {
        (self.reserved() + count).saturating_sub(self.size)
    }

    /// Reserves `count` consecutive slots, at most the size: the position of the first, or `None` while too few of them
    /// are known to be consumed.
    pub(super) fn reserve(&self, count: u64) -> Option<u64> {
        let mut start = self.reserved();
        loop {
            // A slot is written again only after the consumption of what it held was seen: Acquire in `consumed`.
            if start + count > self.consumed() + self.size {
                return None;
            }
            match self.reserved.compare_exchange_weak(start, start + count, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(start),
                Err(now) => start = now,
            }
        }
    }

    /// Marks the slots from `start` up to `end` as filled. [`publish`](Self::publish) follows in the same masked section.
    pub(super) fn mark(&self, start: u64, end: u64) {
        // Where an empty batch begins, another one begins too: its mark is not to be overwritten.
        if start == end {
            return;
        }
        // Release: whoever sees the mark sees the commands (pairs with the Acquire loads in `filled`).
        let order = if mutant!("mark_relaxed") { Ordering::Relaxed } else { Ordering::Release };
        self.ends[self.slot(start)].store(end, order);
    }

    /// Publishes what is marked: `write` gets the position behind what is published and writes PROD. If another core is
    /// publishing, it publishes this as well.
    pub(super) fn publish(&self, mut write: impl FnMut(u64)) {
        // Release: whoever sees that it was asked sees the marks. Acquire pairs with the Release below: `published` is the last
        // publisher's.
        let order = match () {
            () if mutant!("asked_relaxed") => Ordering::Acquire,
            () if mutant!("publisher_unread") => Ordering::Release,
            () => Ordering::AcqRel,
        };
        if self.asked.fetch_add(1, order) != 0 {
            return;
        }
        let mut asked = 1;
        loop {
            let before = self.published.load(Ordering::Relaxed);
            let after = self.filled(before);
            if after != before {
                write(after);
                self.published.store(after, Ordering::Relaxed);
            }
            // Acquire pairs with the Release above, of the last one who asked and so of all of them.
            let done = if mutant!("publisher_relaxed") { Ordering::Relaxed } else { Ordering::Release };
            let more = if mutant!("asked_unread") { Ordering::Relaxed } else { Ordering::Acquire };
            match self.asked.compare_exchange(asked, 0, done, more) {
                Ok(_) => return,
                Err(now) => asked = now,
            }
        }
    }

    /// Behind the filled batches that lie without a gap from `position` on.
    fn filled(&self, mut position: u64) -> u64 {
        let (ends, slots) = (&*self.ends, self.size - 1);
        loop {
            // Pairs with the Release of the mark.
            let order = if mutant!("mark_unread") { Ordering::Relaxed } else { Ordering::Acquire };
            let end = ends[(position & slots) as usize].load(order);
            if end <= position {
                return position;
            }
            position = end;
        }
    }

    /// Takes note of the CONS register that `read` reads, index and wrap bit, and returns what it read last. An index that
    /// reserved slots cannot explain is ignored.
    pub(super) fn observe(&self, mut read: impl FnMut() -> u32) -> u32 {
        loop {
            // Before CONS is read, so that the index is not older than `known`: an old one would look like progress once
            // the queue has gone round. Acquire pairs with the Release below, after which that core had read CONS.
            let known = self.consumed();
            let cons = read();
            let step = (u64::from(cons).wrapping_sub(known)) & (2 * self.size - 1);
            if step == 0 || step > self.size || known + step > self.reserved() {
                return cons;
            }
            // Release pairs with `consumed`. If it fails, another core has come further meanwhile.
            let order = if mutant!("observe_relaxed") { Ordering::Relaxed } else { Ordering::Release };
            if self.consumed.compare_exchange(known, known + step, order, Ordering::Relaxed).is_ok() {
                return cons;
            }
        }
    }

    /// Takes note that what was reserved is consumed up to `end`, as a message said.
    pub(super) fn pass(&self, end: u64) {
        // Release pairs with `consumed`.
        let order = if mutant!("pass_relaxed") { Ordering::Relaxed } else { Ordering::Release };
        self.consumed.fetch_max(end, order);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    fn ring(log2: u8) -> Ring {
        Ring::new(QueueSize::new(log2).unwrap()).unwrap()
    }

    #[test]
    fn an_index_carries_the_wrap_bit_above_the_slot() {
        let ring = ring(2);
        assert_eq!([0, 3, 4, 7, 8].map(|position| ring.index(position)), [0, 3, 4, 7, 0]);
        assert_eq!([0, 3, 4, 7, 8].map(|position| ring.slot(position)), [0, 3, 0, 3, 0]);
    }

    #[test]
    fn a_full_ring_reserves_nothing_until_consumption_is_seen() {
        let ring = ring(2);
        assert_eq!(ring.reserve(3), Some(0));
        assert_eq!(ring.reserve(2), None);
        assert_eq!(ring.reserve(1), Some(3));
        ring.observe(|| 1);
        assert_eq!(ring.reserve(2), None);
        assert_eq!(ring.reserve(1), Some(4));
        ring.observe(|| 5);
        assert_eq!(ring.consumed(), 5);
    }

    #[test]
    fn batches_filled_out_of_order_are_published_in_order_and_once() {
        let ring = ring(3);
        let (first, second, third) = (ring.reserve(2).unwrap(), ring.reserve(1).unwrap(), ring.reserve(3).unwrap());
        let mut written = Vec::new();
        ring.mark(second, 3);
        ring.publish(|end| written.push(end));
        ring.mark(first, 2);
        ring.publish(|end| written.push(end));
        ring.mark(third, 6);
        ring.publish(|end| written.push(end));
        assert_eq!(written, [3, 6]);
    }

    #[test]
    fn an_empty_batch_takes_no_other_ones_mark_away() {
        let ring = ring(3);
        ring.reserve(1).unwrap();
        let mut written = Vec::new();
        ring.mark(0, 1);
        ring.publish(|end| {
            written.push(end);
            if end == 1 {
                // While one core publishes, two others have batches that begin at the same position.
                let (empty, other) = (ring.reserve(0).unwrap(), ring.reserve(1).unwrap());
                ring.mark(other, 2);
                ring.publish(|_| unreachable!());
                ring.mark(empty, 1);
                ring.publish(|_| unreachable!());
            }
        });
        assert_eq!(written, [1, 2]);
    }

    #[test]
    fn marks_of_an_earlier_lap_are_not_taken_for_filled_batches() {
        let ring = ring(1);
        let mut written = Vec::new();
        for lap in 0..9_u64 {
            let start = ring.reserve(1).unwrap();
            assert_eq!(start, lap);
            ring.mark(start, start + 1);
            ring.publish(|end| written.push(end));
            ring.observe(|| ring.index(start + 1));
        }
        assert_eq!(written, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    }

    #[test]
    fn a_consumption_that_nothing_reserved_explains_is_ignored() {
        let ring = ring(2);
        ring.reserve(1).unwrap();
        for index in [2, 3, 7, u32::MAX] {
            ring.observe(|| index);
            assert_eq!(ring.consumed(), 0);
        }
    }

    #[test]
    fn an_index_that_was_read_before_the_queue_went_round_is_not_progress() {
        let ring = ring(2);
        ring.reserve(4).unwrap();
        let mut reads = 0;
        ring.observe(|| {
            reads += 1;
            if reads > 1 {
                return 6;
            }
            // Between this core's read and its result another one brings the queue to 6, with 10 reserved.
            ring.observe(|| 4);
            ring.reserve(4).unwrap();
            ring.observe(|| 6);
            ring.reserve(2).unwrap();
            1
        });
        assert_eq!(ring.consumed(), 6);
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use alloc::vec::Vec;

    use loom::cell::Cell;
    use loom::sync::Arc;
    use loom::sync::atomic::{AtomicU64, Ordering};
    use loom::thread;

    use super::*;

    /// A queue's memory and registers. Loom reports an access to a slot that no order keeps apart from another.
    struct Queue {
        ring: Ring,
        slots: Vec<Cell<u64>>,
        prod: AtomicU64,
    }

    impl Queue {
        fn new(log2: u8) -> Arc<Self> {
            let slots = (0..1 << log2).map(|_| Cell::new(0)).collect();
            Arc::new(Self { ring: Ring::new(QueueSize::new(log2).unwrap()).unwrap(), slots, prod: AtomicU64::new(0) })
        }

        fn write(&self, position: u64) {
            self.slots[self.ring.slot(position)].set(position + 1);
        }

        fn read(&self, position: u64) -> u64 {
            self.slots[self.ring.slot(position)].get()
        }

        /// Puts `count` commands in. The PROD write releases what was written, as a DSB before it does.
        fn produce(&self, count: u64) {
            let start = self.ring.reserve(count).unwrap();
            (start..start + count).for_each(|position| self.write(position));
            self.ring.mark(start, start + count);
            self.ring.publish(|end| {
                (0..end).for_each(|position| assert_eq!(self.read(position), position + 1));
                assert!(self.prod.swap(end, Ordering::Release) < end);
            });
        }
    }

    /// Two producers on other cores and a consumer's view: PROD only grows, covers only filled slots, and covers all of
    /// them when both producers have returned.
    #[test]
    fn concurrent_batches_are_all_published_and_prod_never_moves_back() {
        loom::model(|| {
            let queue = Queue::new(2);
            let produce = |count: u64| {
                let queue = queue.clone();
                thread::spawn(move || queue.produce(count))
            };
            let (one, two) = (produce(1), produce(2));
            one.join().unwrap();
            two.join().unwrap();
            assert_eq!(queue.prod.load(Ordering::Relaxed), 3);
        });
    }

    /// Two cores with two commands each, and the SMMU: it finds those of each in the core's order, none lost and none twice.
    #[test]
    fn the_commands_of_a_core_are_published_in_its_order() {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(2);
        builder.check(|| {
            let queue = Queue::new(2);
            let produce = |queue: Arc<Queue>, core: u64| {
                for number in [1, 2] {
                    let start = queue.ring.reserve(1).unwrap();
                    queue.slots[queue.ring.slot(start)].set(core + number);
                    queue.ring.mark(start, start + 1);
                    queue.ring.publish(|end| queue.prod.store(end, Ordering::Release));
                }
            };
            let other = thread::spawn({
                let queue = queue.clone();
                move || produce(queue, 10)
            });
            let smmu = thread::spawn({
                let queue = queue.clone();
                move || {
                    let end = queue.prod.load(Ordering::Acquire);
                    (0..end).map(|position| queue.read(position)).collect::<Vec<_>>()
                }
            });
            produce(queue.clone(), 20);
            other.join().unwrap();
            let seen = smmu.join().unwrap();
            let all = (0..queue.prod.load(Ordering::Relaxed)).map(|position| queue.read(position)).collect::<Vec<_>>();
            assert!(all.starts_with(&seen) && all.len() == 4, "{seen:?}, then {all:?}");
            for core in [10, 20] {
                let own = all.iter().filter(|command| (core..core + 10).contains(*command)).collect::<Vec<_>>();
                assert_eq!(own, [&(core + 1), &(core + 2)]);
            }
        });
    }

    /// One core reads CONS and another one writes the slot again.
    #[test]
    fn a_slot_is_written_again_only_after_its_command_was_consumed() {
        loom::model(|| {
            let queue = Queue::new(1);
            let cons = Arc::new(AtomicU64::new(0));
            queue.produce(2);
            let (smmu, consumed) = (queue.clone(), cons.clone());
            let smmu = thread::spawn(move || {
                assert_eq!(smmu.read(0), 1);
                consumed.store(1, Ordering::Release);
            });
            let (observer, consumed) = (queue.clone(), cons.clone());
            let observer = thread::spawn(move || {
                while observer.ring.observe(|| consumed.load(Ordering::Acquire) as u32) == 0 {
                    thread::yield_now();
                }
            });
            let position = loop {
                match queue.ring.reserve(1) {
                    Some(position) => break position,
                    None => thread::yield_now(),
                }
            };
            queue.write(position);
            smmu.join().unwrap();
            observer.join().unwrap();
        });
    }
}
