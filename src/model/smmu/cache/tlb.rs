//! Cached translations (3.17, 4.4; Arm DDI 0487, D8.17).
//!
//! A TLB entry is what a walk read at one level: a leaf, or on the way there a table. It matches until a command names it,
//! whatever memory holds by then. What a walk may not cache, such as faults, the walk does not insert.

use super::sets::{Random, Sets};
use crate::smmuv3::command::{Command, TlbiRange};
use crate::smmuv3::{Asid, Granule, Vmid};

const LEAF_SETS: usize = 128;
const TABLE_SETS: usize = 32;
const WAYS: usize = 4;

/// Whose addresses are translated: the translation regime and its tags (3.17).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::model::smmu) enum Space {
    /// Virtual addresses of EL1, at stage 1 or at both stages together.
    El1 {
        /// `STE.S2VMID`; 0 without stage 2 in the SMMU, where it is ignored (5.2).
        vmid: Vmid,
        /// `CD.ASID`.
        asid: Asid,
        /// `CD.ASET`.
        private_asid: bool,
    },
    /// Virtual addresses of EL2.
    El2,
    /// Virtual addresses of EL2 with E2H.
    El2E2h {
        /// `CD.ASID`.
        asid: Asid,
        /// `CD.ASET`.
        private_asid: bool,
    },
    /// IPAs, at stage 2 alone.
    Stage2 {
        /// `STE.S2VMID`.
        vmid: Vmid,
    },
}

/// The descriptor that an entry was made from: at stage 1, if stage 2 has a part in it too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::model::smmu) struct Place {
    /// The granule of its tables.
    pub(in crate::model::smmu) granule: Granule,
    /// The level at which it was read, 0 to 3.
    pub(in crate::model::smmu) level: u8,
}

impl Place {
    /// log2 of the bytes that a descriptor here translates.
    pub(in crate::model::smmu) const fn shift(self) -> u32 {
        let granule = self.granule.shift();
        granule + (granule - 3) * 3_u32.saturating_sub(self.level as u32)
    }
}

/// More than one entry translates an address, which has its tables changed without break-before-make (3.21.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::model::smmu) struct Conflict;

/// What registers have to say about the scope of a command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::model::smmu) struct Controls {
    /// `CR2.E2H`: commands by address for EL2 mean EL2-E2H (4.4.2.8, 4.4.2.9).
    pub(in crate::model::smmu) e2h: bool,
}

/// What an entry matches by, in look-ups and invalidations.
#[derive(Clone, Copy, Debug)]
pub(in crate::model::smmu) struct Tags {
    space: Space,
    /// It matches every ASID of the same ASET (3.17.1). Never set for a table.
    global: bool,
    /// The first address that it translates.
    address: u64,
    /// log2 of the bytes that it translates: no more than `place` does.
    shift: u32,
    place: Place,
}

#[derive(Clone, Copy, Debug)]
struct Entry<V> {
    tags: Tags,
    value: V,
}

/// Leaves with a value `L` each, and tables with a value `T`.
#[derive(Debug)]
pub(in crate::model::smmu) struct Tlb<L, T> {
    leaves: Sets<Entry<L>, LEAF_SETS, WAYS>,
    tables: Sets<Entry<T>, TABLE_SETS, WAYS>,
    /// Bit n: a leaf of 2^n bytes may be there.
    sizes: u64,
}

impl<L: Copy, T: Copy> Tlb<L, T> {
    pub(super) const fn new() -> Self {
        Self { leaves: Sets::new(), tables: Sets::new(), sizes: 0 }
    }

    /// The leaf that translates `address` in `space`.
    ///
    /// # Errors
    ///
    /// [`Conflict`] when there are two: `F_TLB_CONFLICT` (7.3.17).
    pub(in crate::model::smmu) fn look_up(&self, space: Space, address: u64) -> Result<Option<L>, Conflict> {
        let mut found = None;
        let mut sizes = self.sizes;
        while sizes != 0 {
            let shift = sizes.trailing_zeros();
            sizes &= sizes - 1;
            for entry in self.leaves.set(number(space, address, shift)) {
                if entry.tags.shift == shift && entry.tags.translates(space, address) {
                    if found.is_some() {
                        return Err(Conflict);
                    }
                    found = Some(entry.value);
                }
            }
        }
        Ok(found)
    }

    /// The table nearest to the leaf of `address` in a walk of this granule from level `start` on, and the level of the
    /// descriptor that leads to it.
    pub(in crate::model::smmu) fn look_up_table(
        &self,
        space: Space,
        address: u64,
        granule: Granule,
        start: u8,
    ) -> Option<(u8, T)> {
        (start..3).rev().find_map(|level| {
            let place = Place { granule, level };
            let same = |entry: &&Entry<T>| entry.tags.place == place && entry.tags.translates(space, address);
            self.tables.set(number(space, address, place.shift())).find(same).map(|entry| (level, entry.value))
        })
    }

    /// Keeps the leaf that `tags` tells of. A block with nT set is not to be kept (3.21.1.2).
    pub(super) fn insert(&mut self, tags: Tags, value: L, random: &mut Random) {
        self.sizes |= 1 << tags.shift;
        self.leaves.insert(tags.number(), Entry { tags, value }, |old| old.tags.replaced_by(&tags), random);
    }

    /// Keeps the table that the descriptor of `tags` leads to.
    pub(super) fn insert_table(&mut self, tags: Tags, value: T, random: &mut Random) {
        self.tables.insert(tags.number(), Entry { tags, value }, |old| old.tags.replaced_by(&tags), random);
    }

    /// Drops every leaf that translates `address` in `space`.
    pub(in crate::model::smmu) fn remove(&mut self, space: Space, address: u64) {
        self.leaves.drop_where(|entry| entry.tags.translates(space, address));
    }

    /// Drops everything.
    pub(super) fn clear(&mut self) {
        self.leaves.clear();
        self.tables.clear();
        self.sizes = 0;
    }

    /// Drops what a CMD_TLBI_* names and nothing else.
    pub(super) fn invalidate(&mut self, command: &Command, controls: Controls) {
        self.leaves.drop_where(|entry| entry.tags.named_by(command, controls, false));
        self.tables.drop_where(|entry| entry.tags.named_by(command, controls, true));
        self.sizes = self.leaves.iter().fold(0, |sizes, entry| sizes | 1 << entry.tags.shift);
    }

    /// Drops one entry at random, perhaps.
    pub(super) fn evict(&mut self, random: &mut Random) {
        self.leaves.evict(random);
        self.tables.evict(random);
    }
}

impl Space {
    const fn has_asid(self) -> bool {
        matches!(self, Self::El1 { .. } | Self::El2E2h { .. })
    }

    /// Whether an entry of this space, global or not, serves a look-up from `other`. ASET counts for global entries, the
    /// ASID for the others (3.17, 3.17.1).
    fn serves(self, global: bool, other: Self) -> bool {
        match (self, other) {
            (
                Self::El1 { vmid, asid, private_asid },
                Self::El1 { vmid: vmid2, asid: asid2, private_asid: private2 },
            ) => vmid == vmid2 && if global { private_asid == private2 } else { asid == asid2 },
            (Self::El2E2h { asid, private_asid }, Self::El2E2h { asid: asid2, private_asid: private2 }) => {
                if global {
                    private_asid == private2
                } else {
                    asid == asid2
                }
            }
            _ => self == other,
        }
    }
}

impl Tags {
    /// Of the leaf at `place` that translates `address`. `global` is the opposite of the descriptor's nG and means nothing
    /// at EL2 and at stage 2 (3.17.1).
    pub(in crate::model::smmu) fn leaf(space: Space, global: bool, address: u64, place: Place) -> Self {
        Self { global: global && space.has_asid(), ..Self::table(space, address, place) }
    }

    /// Of the table that the descriptor at `place` for `address` leads to.
    pub(in crate::model::smmu) fn table(space: Space, address: u64, place: Place) -> Self {
        let shift = place.shift();
        Self { space, global: false, address: floor(address, shift), shift, place }
    }

    /// Of the part of 2^`shift` bytes around `address`, for which alone the entry holds because stage 2 maps no more at
    /// once.
    pub(in crate::model::smmu) fn part(self, address: u64, shift: u32) -> Self {
        let shift = shift.min(self.shift);
        Self { address: floor(address, shift), shift, ..self }
    }

    fn number(&self) -> u64 {
        number(self.space, self.address, self.shift)
    }

    fn translates(&self, space: Space, address: u64) -> bool {
        floor(address, self.shift) == self.address && self.space.serves(self.global, space)
    }

    /// Whether the two are one entry, of which the later one stays.
    fn replaced_by(&self, new: &Self) -> bool {
        self.global == new.global
            && self.shift == new.shift
            && self.place == new.place
            && self.translates(new.space, new.address)
    }

    /// Whether a command requires this entry to go (4.4.2, 4.4.3, 4.4.4).
    fn named_by(&self, command: &Command, controls: Controls, table: bool) -> bool {
        match (*command, self.space) {
            (Command::TlbiNhAll { vmid }, Space::El1 { vmid: tag, .. }) => tag == vmid,
            (Command::TlbiNhAsid { vmid, asid }, Space::El1 { vmid: tag, asid: asid_tag, .. }) => {
                tag == vmid && asid_tag == asid && !self.global
            }
            (Command::TlbiNhVa { vmid, asid, range }, Space::El1 { vmid: tag, asid: asid_tag, .. }) => {
                tag == vmid && (self.global || asid_tag == asid) && self.within(&range, table)
            }
            (Command::TlbiNhVaa { vmid, range }, Space::El1 { vmid: tag, .. }) => {
                tag == vmid && self.within(&range, table)
            }
            (Command::TlbiEl2All, Space::El2 | Space::El2E2h { .. }) => true,
            (Command::TlbiEl2Asid { asid }, Space::El2E2h { asid: tag, .. }) => tag == asid && !self.global,
            (Command::TlbiEl2Va { range, .. } | Command::TlbiEl2Vaa { range }, Space::El2) => {
                !controls.e2h && self.within(&range, table)
            }
            (Command::TlbiEl2Va { asid, range }, Space::El2E2h { asid: tag, .. }) => {
                controls.e2h && (self.global || tag == asid) && self.within(&range, table)
            }
            (Command::TlbiEl2Vaa { range }, Space::El2E2h { .. }) => controls.e2h && self.within(&range, table),
            (Command::TlbiS12VmAll { vmid }, Space::El1 { vmid: tag, .. } | Space::Stage2 { vmid: tag }) => tag == vmid,
            (Command::TlbiS2Ipa { vmid, range }, Space::Stage2 { vmid: tag }) => {
                tag == vmid && self.within(&range, table)
            }
            (Command::TlbiNsnhAll, Space::El1 { .. } | Space::Stage2 { .. }) => true,
            _ => false,
        }
    }

    /// Whether a range requires this entry to go (4.4.1.1). It is the descriptor's range that counts, however little of it
    /// the entry translates (Arm DDI 0487, D8.17).
    fn within(&self, range: &TlbiRange, table: bool) -> bool {
        if table && range.leaf {
            return false;
        }
        let first = floor(self.address, self.place.shift());
        let last = first | below(self.place.shift());
        let Some(span) = range.span else { return first <= range.address && range.address <= last };
        let level = match (span.granule, span.ttl) {
            // Reserved without 52-bit addresses, and then as 0.
            (Granule::Size16K, 1) => 0,
            (_, ttl) => ttl,
        };
        let asked = Place { granule: span.granule, level: if level == 0 { 3 } else { level } };
        // The range of an address that is not aligned to the level is UNPREDICTABLE: nothing need go.
        if range.address & below(asked.shift()) != 0 || self.place.granule != span.granule {
            return false;
        }
        let right_level = match (level, table) {
            (0, _) => true,
            (level, false) => self.place.level == level,
            (level, true) => self.place.level < level,
        };
        // Without wrapping.
        let end = range.address.saturating_add(span.bytes() - 1);
        right_level && range.address <= last && first <= end
    }
}

const fn below(shift: u32) -> u64 {
    if shift < 64 { (1 << shift) - 1 } else { u64::MAX }
}

const fn floor(address: u64, shift: u32) -> u64 {
    address & !below(shift)
}

/// The number whose set holds what translates `address`. A global entry serves any ASID, so that has no say in it.
const fn number(space: Space, address: u64, shift: u32) -> u64 {
    let vmid = match space {
        Space::El1 { vmid: Vmid(vmid), .. } | Space::Stage2 { vmid: Vmid(vmid) } => vmid,
        Space::El2 | Space::El2E2h { .. } => 0,
    };
    floor(address, shift) >> shift ^ (vmid as u64) << 40 ^ (shift as u64) << 32
}

#[cfg(test)]
mod tests;
