//! Stage 1: from a CD and an address to an IPA, or to a physical address where stage 2 does not translate.

use super::descriptor::{ACCESSED, DIRTY_BIT_MODIFIER, NOT_GLOBAL, READ_ONLY};
use super::permissions::Permissions;
use super::{ATTEMPTS, Cause, Fault, Leaf, Mapping, Passed, Stop, Tables, Walker, descriptor, read_descriptor};
use crate::model::memory::{Abort, Memory};
use crate::smmuv3::cd::{ContextDescriptor, TableBase};
use crate::smmuv3::event::{FaultClass, FaultKind};
use crate::smmuv3::ste::StreamWorld;
use crate::smmuv3::{Access, FlagUpdate, Granule, PhysAddr};

impl Fault {
    /// Of stage 1, with the transaction's address.
    pub(in super::super) const fn stage1(kind: FaultKind) -> Self {
        let cause = Cause::Related(kind);
        Self { cause, class: FaultClass::Input, ipa: None, table_write: false, read_only: false }
    }

    /// A stage 1 descriptor at this physical address could not be reached: S2 = 0, CLASS = TT (7.3.12).
    const fn stage1_walk(address: PhysAddr) -> Self {
        let cause = Cause::Walk(address);
        Self { cause, class: FaultClass::TableDescriptor, ipa: None, table_write: false, read_only: false }
    }
}

impl Mapping {
    /// Whether stage 1 permits `access`.
    pub(super) fn check_stage1(&self, access: Option<Access>) -> Result<(), Fault> {
        match access {
            Some(access) if !self.permissions.permit(access) => Err(Fault::stage1(FaultKind::Permission)),
            _ => Ok(()),
        }
    }
}

impl<M: Memory> Walker<'_, M> {
    /// Walks the tables of `cd` for `address`. With an `access` that is permitted, which is left to the caller to check,
    /// dirty state is set if it writes.
    pub(in super::super) fn stage1(
        &mut self,
        cd: &ContextDescriptor,
        world: StreamWorld,
        address: u64,
        access: Option<Access>,
    ) -> Result<Mapping, Fault> {
        let Some(Half { canonical, tables: Some((base, input_bits)), .. }) = select(cd, world, address) else {
            return Err(Fault::stage1(FaultKind::Translation));
        };
        let stride = base.granule.shift() - 3;
        let levels = (input_bits - base.granule.shift().min(input_bits)).div_ceil(stride);
        // Small granules describe 48 address bits (5.4, IPS).
        let wide = self.features.oas.bits() >= 52 && base.granule == Granule::Size64K;
        let output_bits = u32::from(cd.output_size.min(self.features.oas).bits()).min(if wide { 52 } else { 48 });
        let tables = Tables {
            granule: base.granule,
            input_bits,
            start: 4_u32.saturating_sub(levels) as u8,
            base: base.table.0,
            output_bits,
            wide,
            unlimited: base.hierarchy_disabled,
        }
        .aligned();
        let space = self.stage1_space(cd, world);
        let mut changed = PhysAddr(0);
        for _ in 0..ATTEMPTS {
            let kept = self.caches.tlb.look_up_table(space, canonical, base.granule, tables.start);
            let mut passed = Passed::default();
            let input = address & ((1 << input_bits) - 1);
            let read = |at| self.read_stage1(at, cd.big_endian);
            let leaf = tables.walk(input, kept, read, &mut passed, Fault::stage1);
            self.keep_tables(space, canonical, base.granule, &passed);
            let leaf = leaf?;
            match self.settle_stage1(cd, world, base.granule, &leaf, access) {
                Ok(mapping) => return Ok(mapping),
                Err(Stop::Fault(fault)) => return Err(fault),
                Err(Stop::Changed(at)) => changed = at,
            }
        }
        Err(Fault::stage1_walk(changed))
    }

    fn read_stage1(&mut self, at: u64, big_endian: bool) -> Result<u64, Fault> {
        let physical = self.own_read(at, FaultClass::TableDescriptor)?;
        let word = read_descriptor(physical, self.injection, self.memory);
        let word = word.map_err(|Abort| Fault::stage1_walk(physical))?;
        Ok(if big_endian { word.swap_bytes() } else { word })
    }

    /// What the leaf says, with its flags updated for an `access` that it permits.
    fn settle_stage1(
        &mut self,
        cd: &ContextDescriptor,
        world: StreamWorld,
        granule: Granule,
        leaf: &Leaf,
        access: Option<Access>,
    ) -> Result<Mapping, Stop> {
        let Leaf { word, level, output, limits, .. } = *leaf;
        let sets_accessed = cd.flag_update != FlagUpdate::None;
        if !ACCESSED.is_set(word) && !self.purpose.passes_unaccessed(sets_accessed, cd.access_flag_fault_disabled) {
            return Err(Fault::stage1(FaultKind::Access).into());
        }
        // Read-only by AP[2] alone, and meant to be written (3.13.3.1).
        let clean = cd.flag_update == FlagUpdate::AccessFlagAndDirty
            && DIRTY_BIT_MODIFIER.is_set(word)
            && READ_ONLY.is_set(word)
            && !limits.read_only;
        let dirty_word = if clean { word & !READ_ONLY.mask() } else { word };
        let mut mapping = Mapping {
            granule,
            level,
            shift: descriptor::shift(granule, level),
            output,
            permissions: Permissions::stage1(dirty_word, limits, cd, world),
            clean,
            global: !NOT_GLOBAL.is_set(word),
            device: false,
            fleeting: descriptor::is_not_for_caching(word, level),
        };
        if mapping.check_stage1(access).is_err() {
            mapping.fleeting |= sets_accessed && !ACCESSED.is_set(word);
            return Ok(mapping);
        }
        let writes = access.is_some_and(|access| access.write);
        let mut new = if writes { dirty_word } else { word };
        if sets_accessed {
            new |= ACCESSED.mask();
        }
        if self.purpose.leaves_traces() && new != word {
            self.update_stage1(leaf.at, word, new, cd.big_endian)?;
        }
        mapping.clean = clean && !(self.purpose.leaves_traces() && writes);
        Ok(mapping)
    }

    /// Writes a descriptor, for which stage 2 must permit a write (3.13.5).
    fn update_stage1(&mut self, at: u64, old: u64, new: u64, big_endian: bool) -> Result<(), Stop> {
        let physical = match self.stage2 {
            None => PhysAddr(at),
            Some(stage2) => {
                let write = self.stage2(stage2, at, FaultClass::TableDescriptor, Some(Access::WRITE))?;
                PhysAddr(write.translate(at))
            }
        };
        self.update(physical, old, new, big_endian)
    }
}

/// One of the address ranges of a CD.
pub(super) struct Half {
    /// Its tables, and how many bits of an address they translate; `None`: none are walked (`EPDx`).
    tables: Option<(TableBase, u32)>,
    /// The address as one of 64 bits, whatever was in the top byte if that is ignored.
    pub(super) canonical: u64,
    /// Unprivileged accesses are not translated (`E0PDx`).
    unprivileged_disabled: bool,
}

/// Whether an access of this privilege is translated at all. If not, it is as if nothing was mapped, whatever the TLB
/// holds (5.4, E0PDx).
pub(in super::super) fn admit(
    cd: &ContextDescriptor,
    world: StreamWorld,
    address: u64,
    privileged: bool,
) -> Result<(), Fault> {
    match select(cd, world, address) {
        Some(half) if privileged || !half.unprivileged_disabled => Ok(()),
        _ => Err(Fault::stage1(FaultKind::Translation)),
    }
}

/// Where `address` is translated; `None` if it is in neither half (3.4.1).
pub(super) fn select(cd: &ContextDescriptor, world: StreamWorld, address: u64) -> Option<Half> {
    // EL2 has one half, which bit 55 has no say in.
    let upper = world != StreamWorld::El2 && address >> 55 & 1 != 0;
    let here = |[lower, higher]: [bool; 2]| if upper { higher } else { lower };
    // Bits above the half are copies of bit 55; of the top byte this may not be asked.
    let top = 0xff << 56;
    let canonical = match (here(cd.ignore_top_byte), upper) {
        (false, _) => address,
        (true, false) => address & !top,
        (true, true) => address | top,
    };
    let unprivileged_disabled = here(cd.unprivileged_disabled);
    let Some(base) = (if upper { cd.ttb1 } else { cd.ttb0 }) else {
        // The TLB may still translate it; TxSZ is ignored (5.4, EPD0).
        return Some(Half { tables: None, canonical, unprivileged_disabled });
    };
    let input_bits = 64_u32.checked_sub(base.tsz.into()).filter(|bits| (1..=56).contains(bits))?;
    let above = if upper { !canonical } else { canonical };
    (above >> input_bits == 0).then_some(Half { tables: Some((base, input_bits)), canonical, unprivileged_disabled })
}
