//! Cached STEs and level 1 stream table descriptors.

use super::Streams;
use super::sets::{Random, Sets};
use crate::smmuv3::StreamId;
use crate::smmuv3::command::Command;

const SETS: usize = 16;
const WAYS: usize = 4;

/// An STE, valid or not, in the words that were read.
#[derive(Clone, Copy, Debug)]
struct Entry {
    stream: u32,
    words: [u64; 8],
}

/// The level 1 descriptor of `first` and its 2^`split` - 1 followers.
#[derive(Clone, Copy, Debug)]
struct Level1 {
    first: u32,
    split: u32,
    word: u64,
}

/// STEs by StreamID, and level 1 descriptors by the StreamIDs that they lead to.
#[derive(Debug)]
pub(in crate::model::smmu) struct SteCache {
    entries: Sets<Entry, SETS, WAYS>,
    level1: Sets<Level1, 4, WAYS>,
}

impl SteCache {
    /// The number of STEs there is room for.
    pub(super) const CAPACITY: u32 = (SETS * WAYS) as u32;

    pub(super) const fn new() -> Self {
        Self { entries: Sets::new(), level1: Sets::new() }
    }

    /// The words of the STE of `stream`.
    pub(in crate::model::smmu) fn look_up(&self, StreamId(stream): StreamId) -> Option<[u64; 8]> {
        self.entries.set(stream.into()).find(|entry| entry.stream == stream).map(|entry| entry.words)
    }

    /// Keeps the STE that was read for `stream`.
    pub(super) fn insert(&mut self, StreamId(stream): StreamId, words: [u64; 8], random: &mut Random) {
        self.entries.insert(stream.into(), Entry { stream, words }, |old| old.stream == stream, random);
    }

    /// The level 1 descriptor for `stream` in a table that splits StreamIDs at bit `split`.
    pub(in crate::model::smmu) fn look_up_level1(&self, StreamId(stream): StreamId, split: u32) -> Option<u64> {
        let first = first(stream, split);
        let same = |entry: &&Level1| entry.first == first && entry.split == split;
        self.level1.set(number(first, split)).find(same).map(|entry| entry.word)
    }

    /// Keeps the level 1 descriptor that was read for `stream`.
    pub(super) fn insert_level1(&mut self, StreamId(stream): StreamId, split: u32, word: u64, random: &mut Random) {
        let first = first(stream, split);
        let entry = Level1 { first, split, word };
        self.level1.insert(number(first, split), entry, |old| old.first == first && old.split == split, random);
    }

    /// Drops what a CMD_CFGI_* names and nothing else (4.3.1, 4.3.2, 4.3.6).
    pub(super) fn invalidate(&mut self, command: &Command) {
        let Some(streams) = Streams::of_ste_command(command) else { return };
        self.entries.drop_where(|entry| streams.contains(entry.stream));
        if !matches!(command, Command::CfgiSte { leaf: true, .. }) {
            self.level1.drop_where(|entry| streams.overlap(entry.first, last(entry.first, entry.split)));
        }
    }

    /// Drops everything.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.level1.clear();
    }

    /// Drops one entry at random, perhaps.
    pub(super) fn evict(&mut self, random: &mut Random) {
        self.entries.evict(random);
        self.level1.evict(random);
    }
}

/// The StreamIDs that share a level 1 descriptor with `stream` differ in the low `split` bits.
const fn below(split: u32) -> u32 {
    if split < 32 { (1 << split) - 1 } else { u32::MAX }
}

const fn first(stream: u32, split: u32) -> u32 {
    stream & !below(split)
}

const fn last(first: u32, split: u32) -> u32 {
    first | below(split)
}

const fn number(first: u32, split: u32) -> u64 {
    first as u64 >> if split < 32 { split } else { 31 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Streams 0x100 to 0x103, 0x13f, 0x140 and 0x200, and the level 1 descriptors of 0x100 and 0x200 at SPLIT = 6 and
    /// of 0x140 at SPLIT = 6.
    fn filled() -> SteCache {
        let (mut cache, mut random) = (SteCache::new(), Random::new(1));
        for stream in STREAMS {
            cache.insert(StreamId(stream), [stream.into(); 8], &mut random);
        }
        for stream in [0x100, 0x140, 0x200] {
            cache.insert_level1(StreamId(stream), 6, stream.into(), &mut random);
        }
        cache
    }

    const STREAMS: [u32; 7] = [0x100, 0x101, 0x102, 0x103, 0x13f, 0x140, 0x200];

    fn left(cache: &SteCache) -> std::vec::Vec<u32> {
        STREAMS.into_iter().filter(|&stream| cache.look_up(StreamId(stream)).is_some()).collect()
    }

    fn left_level1(cache: &SteCache) -> std::vec::Vec<u32> {
        let kept = |&stream: &u32| cache.look_up_level1(StreamId(stream), 6).is_some();
        [0x100, 0x140, 0x200].into_iter().filter(kept).collect()
    }

    #[test]
    fn what_was_read_is_found_again() {
        let cache = filled();
        assert_eq!(cache.look_up(StreamId(0x101)), Some([0x101; 8]));
        assert_eq!(cache.look_up(StreamId(0x104)), None);
        // One descriptor of 64 STEs serves 0x100 to 0x13f; another SPLIT means another table.
        assert_eq!(cache.look_up_level1(StreamId(0x13f), 6), Some(0x100));
        assert_eq!(cache.look_up_level1(StreamId(0x100), 8), None);
    }

    #[test]
    fn cfgi_ste_with_leaf_takes_one_ste_and_no_descriptor() {
        // 4.3.1: when Leaf == 1 only the STE need go.
        let mut cache = filled();
        cache.invalidate(&Command::CfgiSte { stream: StreamId(0x102), leaf: true });
        assert_eq!(left(&cache), [0x100, 0x101, 0x103, 0x13f, 0x140, 0x200]);
        assert_eq!(left_level1(&cache), [0x100, 0x140, 0x200]);
    }

    #[test]
    fn cfgi_ste_without_leaf_takes_the_descriptor_that_leads_there() {
        // 4.3.1: the L1STDs walked to find the STE. The neighbours' STEs need not go.
        let mut cache = filled();
        cache.invalidate(&Command::CfgiSte { stream: StreamId(0x102), leaf: false });
        assert_eq!(left(&cache), [0x100, 0x101, 0x103, 0x13f, 0x140, 0x200]);
        assert_eq!(left_level1(&cache), [0x140, 0x200]);
    }

    #[test]
    fn cfgi_ste_range_is_aligned_and_takes_descriptors() {
        // 4.3.2: 2^(Range + 1) StreamIDs; the bottom Range + 1 bits are ignored.
        let range = |stream, range| {
            let mut cache = filled();
            cache.invalidate(&Command::CfgiSteRange { stream: StreamId(stream), range });
            (left(&cache), left_level1(&cache))
        };
        assert_eq!(range(0x103, 0), ([0x100, 0x101, 0x13f, 0x140, 0x200].into(), [0x140, 0x200].into()));
        assert_eq!(range(0x102, 5), ([0x140, 0x200].into(), [0x140, 0x200].into()));
        assert_eq!(range(0x17f, 6), ([0x200].into(), [0x200].into()));
        assert_eq!(range(0, 30), ([].into(), [].into()));
        assert_eq!(range(0x8000_0000, 30), (STREAMS.into(), [0x100, 0x140, 0x200].into()));
    }

    #[test]
    fn cfgi_all_takes_everything() {
        let mut cache = filled();
        cache.invalidate(&Command::CfgiAll);
        assert_eq!((left(&cache), left_level1(&cache)), ([].into(), [].into()));
    }

    #[test]
    fn cfgi_cd_and_tlbi_leave_stes_alone() {
        // 4.3: one type of structure is not invalidated with another unless the specification says so.
        let (stream, substream) = (StreamId(0x100), crate::smmuv3::SubstreamId::from_low_bits(0));
        let mut cache = filled();
        cache.invalidate(&Command::CfgiCd { stream, substream, leaf: false });
        cache.invalidate(&Command::CfgiCdAll { stream });
        cache.invalidate(&Command::TlbiNsnhAll);
        assert_eq!(left(&cache), STREAMS);
        assert_eq!(left_level1(&cache), [0x100, 0x140, 0x200]);
    }

    #[test]
    fn a_full_set_gives_up_one_entry() {
        let (mut cache, mut random) = (SteCache::new(), Random::new(7));
        for stream in 0..1000 {
            cache.insert(StreamId(stream), [0; 8], &mut random);
            assert!(cache.look_up(StreamId(stream)).is_some());
        }
        assert_eq!(cache.entries.iter().count(), 64);
    }

    #[test]
    fn an_entry_takes_the_place_of_the_old_one_and_of_no_other() {
        // As much as there is room for: neighbouring STEs, neighbouring descriptors of 64.
        let (mut cache, mut random) = (SteCache::new(), Random::new(1));
        for word in [1, 2] {
            (0..64).for_each(|stream| cache.insert(StreamId(stream), [word; 8], &mut random));
            (0..16).for_each(|number| cache.insert_level1(StreamId(number << 6), 6, word, &mut random));
        }
        assert!((0..64).all(|stream| cache.look_up(StreamId(stream)) == Some([2; 8])));
        assert!((0..16).all(|number| cache.look_up_level1(StreamId(number << 6), 6) == Some(2)));
    }

    #[test]
    fn evictions_leave_nothing_in_the_end() {
        let (mut cache, mut random) = (filled(), Random::new(1));
        (0..10_000).for_each(|_| cache.evict(&mut random));
        assert_eq!((cache.entries.iter().count(), cache.level1.iter().count()), (0, 0));
    }
}
