//! The CPU's caches, where the machine does not see into them (IDR0.COHACC = 0).
//!
//! The CPU's view and memory are two arrays. A line goes from one to the other by cache maintenance, and, where there is a seed, as in any
//! cache at any time by itself: written back if the CPU has changed it, else filled again.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::driver::dma::CacheMaintenance;

/// The words of a cache line: 128 bytes.
pub(super) const LINE: usize = 16;

/// What memory holds before anything was written back.
const JUNK: u64 = 0xdead_dead_dead_dead;

/// One look in so many finds a line that moves by itself.
const SELDOM: u64 = 16;

/// The CPU's caches over an arena.
#[derive(Debug)]
pub(super) struct Caches {
    cpu: &'static [AtomicU64],
    pub(super) memory: &'static [AtomicU64],
    inside: Mutex<Inside>,
    /// How many lines were maintained.
    maintained: AtomicUsize,
}

#[derive(Debug)]
struct Inside {
    /// What each word was when its line was filled or written back: the CPU has changed those that differ.
    filled: Vec<u64>,
    /// The state of the generator; 0 where nothing moves by itself.
    random: u64,
}

impl Caches {
    /// Caches that hold all of `cpu`, changed, over memory that holds junk.
    pub(super) fn new(cpu: &'static [AtomicU64], seed: u32) -> &'static Self {
        let memory: Vec<_> = cpu.iter().map(|_| AtomicU64::new(JUNK)).collect();
        let filled = cpu.iter().map(|_| JUNK).collect();
        let inside = Mutex::new(Inside { filled, random: seed.into() });
        Box::leak(Box::new(Self { cpu, memory: memory.leak(), inside, maintained: AtomicUsize::new(0) }))
    }

    /// The first `count` words are as at the start again.
    pub(super) fn start_over(&self, count: usize) {
        self.memory.iter().take(count).for_each(|word| word.store(JUNK, Relaxed));
        self.lock().filled.iter_mut().take(count).for_each(|word| *word = JUNK);
    }

    pub(super) fn maintained(&self) -> usize {
        self.maintained.load(Relaxed)
    }

    /// Has the CPU and memory hold the same in the line of word `index`, whichever has changed it.
    pub(super) fn settle(&self, index: usize) {
        self.lock().settle(self, index / LINE);
    }

    /// The machine accesses word `index`: its line may move, and another one of the first `used` words.
    pub(super) fn disturb(&self, index: usize, used: usize) {
        let mut inside = self.lock();
        if inside.random != 0 {
            for line in [index / LINE, inside.below(used.max(1) as u64) as usize / LINE] {
                if inside.below(SELDOM) == 0 {
                    inside.settle(self, line);
                }
            }
        }
    }

    /// Does `operation` to each line that has a part of `words`.
    fn each_line(&self, words: &[AtomicU64], operation: impl Fn(&mut Inside, usize)) {
        let ([first, ..], [.., last]) = (words, words) else { return };
        let index = |word| self.cpu.element_offset(word).expect("words of this memory");
        let mut inside = self.lock();
        for line in index(first) / LINE..=index(last) / LINE {
            operation(&mut inside, line);
            self.maintained.fetch_add(1, Relaxed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CacheMaintenance for Caches {
    fn clean(&self, words: &[AtomicU64]) {
        // Changed or not: a store of what the line held already makes it a changed one too, and is not seen here.
        self.each_line(words, |inside, line| inside.write_back(self, line));
    }

    /// # Panics
    ///
    /// If the CPU has changed one of the lines: what it wrote would be lost.
    fn invalidate(&self, words: &[AtomicU64]) {
        self.each_line(words, |inside, line| {
            assert!(!inside.is_changed(self, line), "what the CPU wrote to line {line:#x} is lost by an invalidation");
            inside.fill(self, line);
        });
    }
}

impl Inside {
    fn words(
        &mut self,
        caches: &Caches,
        line: usize,
    ) -> impl Iterator<Item = (&'static AtomicU64, &'static AtomicU64, &mut u64)> {
        let words = line * LINE..((line + 1) * LINE).min(caches.cpu.len());
        let both = caches.cpu[words.clone()].iter().zip(&caches.memory[words.clone()]);
        both.zip(&mut self.filled[words]).map(|((cpu, memory), filled)| (cpu, memory, filled))
    }

    fn is_changed(&mut self, caches: &Caches, line: usize) -> bool {
        self.words(caches, line).any(|(cpu, _, filled)| cpu.load(Relaxed) != *filled)
    }

    /// All of the line, with what the CPU did not change as it was when the line was filled.
    fn write_back(&mut self, caches: &Caches, line: usize) {
        for (cpu, memory, filled) in self.words(caches, line) {
            *filled = cpu.load(Relaxed);
            memory.store(*filled, Relaxed);
        }
    }

    fn fill(&mut self, caches: &Caches, line: usize) {
        for (cpu, memory, filled) in self.words(caches, line) {
            let new = memory.load(Relaxed);
            // A thread may be writing the word: then it has changed it.
            let _ = cpu.compare_exchange(*filled, new, Relaxed, Relaxed);
            *filled = new;
        }
    }

    fn settle(&mut self, caches: &Caches, line: usize) {
        if self.is_changed(caches, line) { self.write_back(caches, line) } else { self.fill(caches, line) }
    }

    /// A pseudo-random number below `limit`.
    fn below(&mut self, limit: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 16) % limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caches(seed: u32) -> &'static Caches {
        let cpu: Vec<_> = (0..2 * LINE).map(|_| AtomicU64::new(0)).collect();
        Caches::new(cpu.leak(), seed)
    }

    fn load(word: &AtomicU64) -> u64 {
        word.load(Relaxed)
    }

    #[test]
    fn memory_gets_what_is_cleaned_and_the_cpu_what_is_invalidated_by_whole_lines() {
        let caches = caches(0);
        caches.cpu[1].store(7, Relaxed);
        assert_eq!([load(&caches.memory[1]), load(&caches.cpu[1])], [JUNK, 7]);
        caches.clean(&caches.cpu[1..2]);
        assert_eq!([load(&caches.memory[1]), load(&caches.memory[15]), load(&caches.memory[16])], [7, 0, JUNK]);
        caches.memory[1].store(8, Relaxed);
        assert_eq!(load(&caches.cpu[1]), 7);
        caches.invalidate(&caches.cpu[5..6]);
        assert_eq!(load(&caches.cpu[1]), 8);
        assert_eq!(caches.maintained(), 2);
        caches.clean(&[]);
        assert_eq!(caches.maintained(), 2);
    }

    #[test]
    #[should_panic(expected = "line 0x1 is lost")]
    fn an_invalidation_that_loses_what_the_cpu_wrote_panics() {
        let caches = caches(0);
        caches.clean(caches.cpu);
        caches.cpu[20].store(1, Relaxed);
        caches.invalidate(&caches.cpu[31..]);
    }

    #[test]
    fn a_line_moves_by_itself_only_with_a_seed_and_whole() {
        for (seed, moves) in [(0, false), (1, true)] {
            let caches = caches(seed);
            caches.clean(caches.cpu);
            // A line that both write: what the machine wrote is lost when it is evicted.
            caches.cpu[0].store(1, Relaxed);
            caches.memory[1].store(2, Relaxed);
            caches.memory[LINE].store(3, Relaxed);
            (0..1000).for_each(|_| caches.disturb(0, 2 * LINE));
            let seen = [&caches.memory[0], &caches.memory[1], &caches.cpu[LINE]].map(load);
            assert_eq!(seen, if moves { [1, 0, 3] } else { [0, 2, 0] });
        }
    }
}
