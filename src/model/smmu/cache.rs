//! What the SMMU remembers of memory: configuration and translations (16.2).
//!
//! The architecture lets an SMMU keep what it read until software invalidates it, and lets it forget what it likes.
//! These caches keep everything they have room for, and of an invalidation they do no more than is required: so a driver
//! that forgets one, or counts on more than it asked for, gets the stale entry.
//!
//! | cache | by | invalidated by |
//! |---|---|---|
//! | STEs, level 1 descriptors | StreamID | CMD_CFGI_STE, _STE_RANGE, _ALL |
//! | CDs, level 1 descriptors | StreamID and SubstreamID | the same, CMD_CFGI_CD, _CD_ALL |
//! | translations | regime, VMID, ASID, address | CMD_TLBI_* |
//!
//! Nothing is carried from one to the next: each access looks up STE, then CD, then with what they say the translation.
//! So a translation outlives the STE and CD that it was found with, and a changed `STE.S2VMID`, `CD.ASID` or `CD.ASET`
//! means other tags, under which the old translations are not found but stay (5.2, 5.4). Nothing is inserted while SMMUEN
//! is 0, and a change of SMMUEN drops nothing (6.3.9.6).

mod cd;
mod sets;
mod ste;
mod tlb;

use self::cd::CdCache;
use self::sets::Random;
use self::ste::SteCache;
use self::tlb::Tlb;
pub(super) use self::tlb::{Conflict, Controls, Place, Space, Tags};
use crate::smmuv3::command::Command;
use crate::smmuv3::event::Origin;
use crate::smmuv3::{Asid, Granule, StreamId, SubstreamId, Vmid};

/// The most invalidations that wait for a CMD_SYNC.
const PENDING: usize = 16;

/// The caches of an SMMU whose walks give leaves `L` and tables `T`.
#[derive(Debug)]
pub(super) struct Caches<L, T> {
    /// STEs.
    pub(super) stes: SteCache,
    /// CDs.
    pub(super) cds: CdCache,
    /// Translations.
    pub(super) tlb: Tlb<L, T>,
    random: Random,
    /// Entries go, and others come, on their own.
    disturbed: bool,
    /// The stream whose STE was last read or invalidated.
    recent: StreamId,
    /// Who last wanted a translation, and of which address.
    noted: Option<(Origin, u64)>,
    /// Invalidations that were consumed and are not complete.
    pending: [Option<(Command, Controls)>; PENDING],
}

/// What is to be read ahead of need (3.21.1, 3.21.3).
pub(super) struct Ahead {
    /// Whose STE and CD: of a stream beside the last one whose STE was read or invalidated, perhaps beyond the table, and
    /// perhaps of a substream; or of the last one that wanted a translation.
    pub(super) origin: Origin,
    /// An address beside the last one whose translation was wanted, to be translated too.
    pub(super) address: Option<u64>,
}

impl<L: Copy, T: Copy> Caches<L, T> {
    /// Empty caches.
    pub(super) const fn new() -> Self {
        Self {
            stes: SteCache::new(),
            cds: CdCache::new(),
            tlb: Tlb::new(),
            random: Random::new(0),
            disturbed: false,
            recent: StreamId(0),
            noted: None,
            pending: [None; PENDING],
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.stes.clear();
        self.cds.clear();
        self.tlb.clear();
        self.random = Random::new(0);
        self.disturbed = false;
        self.recent = StreamId(0);
        self.noted = None;
        self.pending = [None; PENDING];
    }

    /// Begins another sequence of evictions; with a `seed` other than 0 also such that nothing asks for, see
    /// [`disturb`](Caches::disturb), and invalidations that wait for a CMD_SYNC.
    pub(super) fn set_seed(&mut self, seed: u32) {
        self.complete();
        self.random = Random::new(seed);
        self.disturbed = seed != 0;
    }

    /// Takes note of a translation that is wanted: its neighbours may be soon.
    pub(super) const fn note(&mut self, origin: Origin, address: u64) {
        self.noted = Some((origin, address));
    }

    /// Does what an SMMU may do at any time, if told so by [`set_seed`](Caches::set_seed): forgets something, or wants to
    /// read ahead of need, see [`Ahead`].
    pub(super) fn disturb(&mut self) -> Option<Ahead> {
        if !self.disturbed {
            return None;
        }
        let random = &mut self.random;
        match random.below(6) {
            0 => self.stes.evict(random),
            1 => self.cds.evict(random),
            2 => self.tlb.evict(random),
            3 => {
                let stream = StreamId(self.recent.0 ^ random.below(8));
                let beside = self.noted.and_then(|(origin, _)| origin.substream).map_or(0, SubstreamId::get);
                let substream = SubstreamId::new(beside ^ random.below(4)).filter(|_| random.below(2) == 0);
                return Some(Ahead { origin: Origin { stream, substream }, address: None });
            }
            _ => {
                let (origin, address) = self.noted?;
                // One of 8 pages of any granule.
                let page = u64::from(random.below(8)) << (12 + 2 * random.below(3));
                return Some(Ahead { origin, address: Some(address ^ page) });
            }
        }
        None
    }

    /// Keeps an STE.
    pub(super) fn insert_ste(&mut self, stream: StreamId, words: [u64; 8]) {
        self.recent = stream;
        self.stes.insert(stream, words, &mut self.random);
    }

    /// Keeps a level 1 stream table descriptor, see [`SteCache::look_up_level1`].
    pub(super) fn insert_level1_ste(&mut self, stream: StreamId, split: u32, word: u64) {
        self.stes.insert_level1(stream, split, word, &mut self.random);
    }

    /// Keeps a CD.
    pub(super) fn insert_cd(&mut self, stream: StreamId, index: u32, words: [u64; 8]) {
        self.cds.insert(stream, index, words, &mut self.random);
    }

    /// Keeps a level 1 CD, see [`CdCache::look_up_level1`].
    pub(super) fn insert_level1_cd(&mut self, stream: StreamId, index: u32, split: u32, word: u64) {
        self.cds.insert_level1(stream, index, split, word, &mut self.random);
    }

    /// Keeps a leaf, see [`Tlb::insert`].
    pub(super) fn insert_leaf(&mut self, tags: Tags, leaf: L) {
        self.tlb.insert(tags, leaf, &mut self.random);
    }

    /// Keeps a table.
    pub(super) fn insert_table(&mut self, tags: Tags, table: T) {
        self.tlb.insert_table(tags, table, &mut self.random);
    }

    /// Does what a CMD_CFGI_* or CMD_TLBI_* requires: at once, or when the caches are disturbed as late as the architecture
    /// permits, since their consumption means nothing (4.8).
    pub(super) fn invalidate(&mut self, command: &Command, controls: Controls) {
        match self.pending.iter_mut().find(|place| place.is_none()) {
            Some(place) if self.disturbed => *place = Some((*command, controls)),
            _ => self.drop_named(command, controls),
        }
    }

    /// A CMD_SYNC is about to be consumed: the invalidations before it are complete (4.7.3).
    pub(super) fn complete(&mut self) {
        for (command, controls) in core::mem::replace(&mut self.pending, [None; PENDING]).into_iter().flatten() {
            self.drop_named(&command, controls);
        }
    }

    fn drop_named(&mut self, command: &Command, controls: Controls) {
        if let Command::CfgiSte { stream, .. } = *command {
            self.recent = stream;
        }
        self.stes.invalidate(command);
        self.cds.invalidate(command);
        self.tlb.invalidate(command, controls);
    }

    /// Fills the caches as reset may leave them (3.11): with 64 streams from `first` on bypassing the SMMU, CDs for
    /// substreams 0 and 1 that are ILLEGAL, level 1 descriptors that lead nowhere, and `leaf` for the lowest and the
    /// highest 512 GiB of every regime.
    pub(super) fn poison(&mut self, StreamId(first): StreamId, leaf: L) {
        /// V, Config = bypass (5.2).
        const BYPASS: [u64; 8] = [0x9, 0, 0, 0, 0, 0, 0, 0];
        for stream in (0..SteCache::CAPACITY).map(|number| StreamId(first.wrapping_add(number))) {
            self.insert_ste(stream, BYPASS);
            for index in 0..2 {
                self.insert_cd(stream, index, [u64::MAX; 8]);
            }
        }
        for split in [6, 8, 10] {
            self.insert_level1_ste(StreamId(first), split, 0);
        }
        for split in [6, 10] {
            self.insert_level1_cd(StreamId(first), 0, split, 0);
        }
        let (vmid, asid) = (Vmid(0), Asid(0));
        let place = Place { granule: Granule::Size4K, level: 0 };
        let spaces = [
            Space::El1 { vmid, asid, private_asid: false },
            Space::El1 { vmid, asid, private_asid: true },
            Space::El2E2h { asid, private_asid: false },
            Space::El2E2h { asid, private_asid: true },
            Space::El2,
            Space::Stage2 { vmid },
        ];
        for space in spaces {
            self.insert_leaf(Tags::leaf(space, true, 0, place), leaf);
            self.insert_leaf(Tags::leaf(space, true, !0, place), leaf);
        }
    }
}

/// The streams whose STEs a command names.
#[derive(Clone, Copy)]
struct Streams {
    first: u32,
    last: u32,
}

impl Streams {
    const fn one(StreamId(stream): StreamId) -> Self {
        Self { first: stream, last: stream }
    }

    /// The streams of a CMD_CFGI_STE, _STE_RANGE or _ALL.
    fn of_ste_command(command: &Command) -> Option<Self> {
        match *command {
            Command::CfgiSte { stream, .. } => Some(Self::one(stream)),
            Command::CfgiSteRange { stream: StreamId(stream), range } => {
                // 2^(Range + 1) of them, aligned (4.3.2).
                let below = u32::MAX >> (31 - u32::from(range).min(31));
                Some(Self { first: stream & !below, last: stream | below })
            }
            Command::CfgiAll => Some(Self { first: 0, last: u32::MAX }),
            _ => None,
        }
    }

    const fn contains(self, stream: u32) -> bool {
        self.overlap(stream, stream)
    }

    const fn overlap(self, first: u32, last: u32) -> bool {
        self.first <= last && first <= self.last
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn disturbed_caches_forget_all_in_the_end_and_read_ahead_with_and_without_substream() {
        let stream = StreamId(0x100);
        let page = Place { granule: Granule::Size4K, level: 3 };
        let mut caches = Caches::<u8, u8>::new();
        caches.insert_ste(stream, [1; 8]);
        caches.insert_cd(stream, 0, [1; 8]);
        caches.insert_leaf(Tags::leaf(Space::El2, false, 0x5000, page), 1);
        assert!((0..20_000).all(|_| caches.disturb().is_none()), "nobody disturbs them");
        assert!(caches.stes.look_up(stream).is_some() && caches.cds.look_up(stream, 0).is_some());
        caches.set_seed(1);
        let ahead: std::vec::Vec<_> = (0..30_000).filter_map(|_| caches.disturb()).map(|ahead| ahead.origin).collect();
        assert!(caches.stes.look_up(stream).is_none() && caches.cds.look_up(stream, 0).is_none());
        assert_eq!(caches.tlb.look_up(Space::El2, 0x5000), Ok(None));
        for number in 0x100..0x108 {
            let expected = |substream| ahead.contains(&Origin { stream: StreamId(number), substream });
            assert!(expected(None) && (0..4).all(|substream| expected(SubstreamId::new(substream))));
        }
        assert!(ahead.iter().all(|origin| origin.stream.0 & !7 == 0x100));
    }

    #[test]
    fn what_is_read_ahead_lies_beside_what_was_wanted() {
        // Stream 0x105 and the seven beside it; substream 6 and the three; 8 pages of 4, 16 and 64 KiB around the address.
        let (stream, substream) = (StreamId(0x105), SubstreamId::new(6));
        let mut caches = Caches::<u8, u8>::new();
        caches.insert_ste(stream, [1; 8]);
        caches.note(Origin { stream, substream }, 0x7_5000);
        caches.set_seed(1);
        let (mut streams, mut substreams, mut addresses) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for Ahead { origin, address } in (0..30_000).filter_map(|_| caches.disturb()) {
            match address {
                Some(address) => {
                    assert_eq!(origin, Origin { stream, substream });
                    addresses.insert(address);
                }
                None => {
                    streams.insert(origin.stream.0);
                    substreams.extend(origin.substream.map(SubstreamId::get));
                }
            }
        }
        assert!(streams.into_iter().eq(0x100..0x108) && substreams.into_iter().eq(4..8));
        let pages = |shift: u32| (0..8).map(move |page| 0x7_5000 ^ page << shift);
        assert_eq!(addresses, pages(12).chain(pages(14)).chain(pages(16)).collect());
    }
}
