//! Cached CDs and level 1 context descriptors.

use super::Streams;
use super::sets::{Random, Sets};
use crate::smmuv3::StreamId;
use crate::smmuv3::command::Command;

const SETS: usize = 32;
const WAYS: usize = 4;

/// A CD, valid or not, in the words that were read. It belongs to the stream that it was found through (4.3.3).
#[derive(Clone, Copy, Debug)]
struct Entry {
    stream: u32,
    index: u32,
    words: [u64; 8],
}

/// The level 1 descriptor of CD `first` and its 2^`split` - 1 followers.
#[derive(Clone, Copy, Debug)]
struct Level1 {
    stream: u32,
    first: u32,
    split: u32,
    word: u64,
}

/// CDs by StreamID and their index in the stream's table, which is the SubstreamID or 0, and level 1 descriptors by the
/// indices that they lead to.
#[derive(Debug)]
pub(in crate::model::smmu) struct CdCache {
    entries: Sets<Entry, SETS, WAYS>,
    level1: Sets<Level1, 4, WAYS>,
}

impl CdCache {
    pub(super) const fn new() -> Self {
        Self { entries: Sets::new(), level1: Sets::new() }
    }

    /// The words of CD `index` of `stream`.
    pub(in crate::model::smmu) fn look_up(&self, StreamId(stream): StreamId, index: u32) -> Option<[u64; 8]> {
        let same = |entry: &&Entry| entry.stream == stream && entry.index == index;
        self.entries.set(number(stream, index)).find(same).map(|entry| entry.words)
    }

    /// Keeps the CD that was read as `index` of `stream`.
    pub(super) fn insert(&mut self, StreamId(stream): StreamId, index: u32, words: [u64; 8], random: &mut Random) {
        let same = |old: &Entry| old.stream == stream && old.index == index;
        self.entries.insert(number(stream, index), Entry { stream, index, words }, same, random);
    }

    /// The level 1 descriptor for CD `index` of `stream` in a table that splits SubstreamIDs at bit `split`, 6 or 10.
    pub(in crate::model::smmu) fn look_up_level1(
        &self,
        StreamId(stream): StreamId,
        index: u32,
        split: u32,
    ) -> Option<u64> {
        let first = first(index, split);
        let same = |entry: &&Level1| entry.stream == stream && entry.first == first && entry.split == split;
        self.level1.set(number(stream, first >> 6)).find(same).map(|entry| entry.word)
    }

    /// Keeps the level 1 descriptor that was read for CD `index` of `stream`.
    pub(super) fn insert_level1(
        &mut self,
        StreamId(stream): StreamId,
        index: u32,
        split: u32,
        word: u64,
        random: &mut Random,
    ) {
        let first = first(index, split);
        let same = |old: &Level1| old.stream == stream && old.first == first && old.split == split;
        self.level1.insert(number(stream, first >> 6), Level1 { stream, first, split, word }, same, random);
    }

    /// Drops what a CMD_CFGI_* names and nothing else: CDs and level 1 descriptors go with the STE that they were found
    /// through (4.3.1, 4.3.2, 4.3.6), or alone (4.3.3, 4.3.4).
    pub(super) fn invalidate(&mut self, command: &Command) {
        if let Command::CfgiCd { stream: StreamId(stream), substream, leaf } = *command {
            let index = substream.get();
            self.entries.drop_where(|entry| entry.stream == stream && entry.index == index);
            if !leaf {
                self.level1.drop_where(|entry| entry.stream == stream && entry.first == first(index, entry.split));
            }
            return;
        }
        let streams = match *command {
            Command::CfgiCdAll { stream } => Some(Streams::one(stream)),
            _ => Streams::of_ste_command(command),
        };
        if let Some(streams) = streams {
            self.entries.drop_where(|entry| streams.contains(entry.stream));
            self.level1.drop_where(|entry| streams.contains(entry.stream));
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

/// The first of the CDs that share a level 1 descriptor with CD `index`.
const fn first(index: u32, split: u32) -> u32 {
    if split < 32 { index & !((1 << split) - 1) } else { 0 }
}

/// Neighbouring streams that use the same few SubstreamIDs spread over the sets.
const fn number(stream: u32, index: u32) -> u64 {
    (stream as u64) ^ (index as u64) << 32 ^ (index as u64) << 36
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smmuv3::SubstreamId;

    const KEYS: [(u32, u32); 7] = [(0x100, 0), (0x100, 1), (0x100, 65), (0x101, 1), (0x102, 0), (0x103, 1), (0x110, 1)];
    const LEVEL1: [(u32, u32); 4] = [(0x100, 0), (0x100, 64), (0x101, 0), (0x110, 0)];

    type Left = std::vec::Vec<(u32, u32)>;

    fn filled() -> CdCache {
        let (mut cache, mut random) = (CdCache::new(), Random::new(1));
        for (stream, index) in KEYS {
            cache.insert(StreamId(stream), index, [u64::from(stream) << 8 | u64::from(index); 8], &mut random);
        }
        for (stream, index) in LEVEL1 {
            cache.insert_level1(StreamId(stream), index, 6, u64::from(stream) << 8 | u64::from(index), &mut random);
        }
        cache
    }

    /// What is left after `command`, and which level 1 descriptors.
    fn after(command: Command) -> (Left, Left) {
        let mut cache = filled();
        cache.invalidate(&command);
        (
            KEYS.into_iter().filter(|&(stream, index)| cache.look_up(StreamId(stream), index).is_some()).collect(),
            LEVEL1
                .into_iter()
                .filter(|&(stream, index)| cache.look_up_level1(StreamId(stream), index, 6).is_some())
                .collect(),
        )
    }

    fn cfgi_cd(stream: u32, index: u64, leaf: bool) -> Command {
        Command::CfgiCd { stream: StreamId(stream), substream: SubstreamId::from_low_bits(index), leaf }
    }

    #[test]
    fn what_was_read_is_found_again_by_stream_and_index() {
        let cache = filled();
        assert_eq!(cache.look_up(StreamId(0x100), 65), Some([0x1_0041; 8]));
        // 4.3.3: a CD is cached for the stream that it was found through, a shared one as often as there are streams.
        assert_eq!(cache.look_up(StreamId(0x101), 0), None);
        assert_eq!(cache.look_up_level1(StreamId(0x100), 127, 6), Some(0x1_0040));
        assert_eq!(cache.look_up_level1(StreamId(0x100), 0, 10), None);
    }

    #[test]
    fn cfgi_cd_with_leaf_takes_one_cd() {
        // 4.3.3: the CD at this index of this stream; the L1CDs need not go.
        let (cds, level1) = after(cfgi_cd(0x100, 1, true));
        assert_eq!(cds, [(0x100, 0), (0x100, 65), (0x101, 1), (0x102, 0), (0x103, 1), (0x110, 1)]);
        assert_eq!(level1, LEVEL1);
    }

    #[test]
    fn cfgi_cd_without_leaf_takes_the_descriptor_that_leads_there() {
        let (cds, level1) = after(cfgi_cd(0x100, 65, false));
        assert_eq!(cds, [(0x100, 0), (0x100, 1), (0x101, 1), (0x102, 0), (0x103, 1), (0x110, 1)]);
        assert_eq!(level1, [(0x100, 0), (0x101, 0), (0x110, 0)]);
    }

    #[test]
    fn cfgi_cd_all_takes_the_cds_and_descriptors_of_one_stream() {
        // 4.3.4.
        let (cds, level1) = after(Command::CfgiCdAll { stream: StreamId(0x100) });
        assert_eq!(cds, [(0x101, 1), (0x102, 0), (0x103, 1), (0x110, 1)]);
        assert_eq!(level1, [(0x101, 0), (0x110, 0)]);
    }

    #[test]
    fn cfgi_ste_takes_the_cds_found_through_it_whatever_leaf_says() {
        // 4.3.1: all CDs and L1CDs that were cached using the StreamID.
        for leaf in [false, true] {
            let (cds, level1) = after(Command::CfgiSte { stream: StreamId(0x100), leaf });
            assert_eq!(cds, [(0x101, 1), (0x102, 0), (0x103, 1), (0x110, 1)]);
            assert_eq!(level1, [(0x101, 0), (0x110, 0)]);
        }
    }

    #[test]
    fn cfgi_ste_range_takes_the_cds_of_its_streams() {
        // 4.3.2: Range = 1 is four streams, aligned.
        let (cds, level1) = after(Command::CfgiSteRange { stream: StreamId(0x103), range: 1 });
        assert_eq!((cds, level1), ([(0x110, 1)].into(), [(0x110, 0)].into()));
        // 4.3.6.
        assert_eq!(after(Command::CfgiAll), ([].into(), [].into()));
    }

    #[test]
    fn tlbi_leaves_cds_alone() {
        // 4.3: translations and configuration are invalidated apart.
        assert_eq!(after(Command::TlbiNsnhAll), (KEYS.into(), LEVEL1.into()));
    }

    #[test]
    fn an_entry_takes_the_place_of_the_old_one_and_of_no_other() {
        // As much as there is room for: 4 CDs each of 32 streams, 4 descriptors each of 4.
        let (mut cache, mut random) = (CdCache::new(), Random::new(1));
        let cds = || (0..32).flat_map(|stream| (0..4).map(move |index| (StreamId(stream), index)));
        let level1 = || (0..4).flat_map(|stream| [0, 64, 128, 192].map(|index| (StreamId(stream), index)));
        for word in [1, 2] {
            cds().for_each(|(stream, index)| cache.insert(stream, index, [word; 8], &mut random));
            level1().for_each(|(stream, index)| cache.insert_level1(stream, index, 6, word, &mut random));
        }
        assert!(cds().all(|(stream, index)| cache.look_up(stream, index) == Some([2; 8])));
        assert!(level1().all(|(stream, index)| cache.look_up_level1(stream, index, 6) == Some(2)));
    }

    #[test]
    fn evictions_leave_nothing_in_the_end() {
        let (mut cache, mut random) = (filled(), Random::new(1));
        (0..10_000).for_each(|_| cache.evict(&mut random));
        assert_eq!((cache.entries.iter().count(), cache.level1.iter().count()), (0, 0));
    }
}
