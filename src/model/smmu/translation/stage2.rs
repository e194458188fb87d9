//! Stage 2: from an STE and an IPA to a physical address.

use super::descriptor::{ACCESSED, DIRTY_BIT_MODIFIER, STAGE2_DEVICE_OR_NOT, STAGE2_WRITE};
use super::permissions::Permissions;
use super::{ATTEMPTS, Cause, Fault, Leaf, Mapping, Passed, Space, Stop, Tables, Walker, descriptor, read_descriptor};
use crate::model::memory::{Abort, Memory};
use crate::smmuv3::event::{FaultClass, FaultKind};
use crate::smmuv3::ste::Stage2;
use crate::smmuv3::{Access, FlagUpdate, Granule, PhysAddr};

impl Fault {
    /// Of stage 2, for the `ipa` of what `class` says.
    fn stage2(kind: FaultKind, ipa: u64, class: FaultClass, access: Option<Access>) -> Self {
        let table_write = kind == FaultKind::Permission
            && class == FaultClass::TableDescriptor
            && access.is_some_and(|access| access.write);
        Self { cause: Cause::Related(kind), class, ipa: Some(ipa), table_write, read_only: false }
    }
}

impl Mapping {
    /// Whether stage 2 permits `access`, and with `protected` (S2PTW) to the SMMU itself to be in memory of this type.
    pub(super) fn check_stage2(
        &self,
        ipa: u64,
        class: FaultClass,
        protected: bool,
        access: Option<Access>,
    ) -> Result<(), Fault> {
        let fault = Fault::stage2(FaultKind::Permission, ipa, class, access);
        if protected && self.device && class != FaultClass::Input {
            return Err(fault);
        }
        match access.filter(|&access| !self.permissions.permit(access)) {
            Some(access) => Err(Fault { read_only: self.permissions.lack_reading(access), ..fault }),
            None => Ok(()),
        }
    }
}

impl<M: Memory> Walker<'_, M> {
    /// Translates `ipa`, the address of what `class` says, by the tables of `stage2` or by what is kept of them. With an
    /// `access`, permissions are checked, and dirty state is set if it writes; without, permissions are only told.
    pub(in super::super) fn stage2(
        &mut self,
        stage2: &Stage2,
        ipa: u64,
        class: FaultClass,
        access: Option<Access>,
    ) -> Result<Mapping, Fault> {
        let input_bits = 64_u32.saturating_sub(stage2.t0sz.into());
        let Some(start) = stage2.start_level().filter(|_| ipa >> input_bits.min(63) == 0) else {
            return Err(Fault::stage2(FaultKind::Translation, ipa, class, access));
        };
        let writes = access.is_some_and(|access| access.write);
        let mapping = match self.recall_stage2(ipa, writes)? {
            Some(mapping) => mapping,
            None => {
                let mapping = self.walk_stage2(stage2, start, ipa, class, access)?;
                self.keep_stage2(ipa, mapping);
                mapping
            }
        };
        mapping.check_stage2(ipa, class, stage2.protected_walk, access)?;
        Ok(mapping)
    }

    fn walk_stage2(
        &mut self,
        stage2: &Stage2,
        start: u8,
        ipa: u64,
        class: FaultClass,
        access: Option<Access>,
    ) -> Result<Mapping, Fault> {
        let fault = |kind| Fault::stage2(kind, ipa, class, access);
        let walk_fault = |address| Fault { cause: Cause::Walk(address), ..fault(FaultKind::Translation) };
        // Small granules describe 48 address bits (5.2, S2PS).
        let wide = self.features.oas.bits() >= 52 && stage2.granule == Granule::Size64K;
        let tables = Tables {
            granule: stage2.granule,
            input_bits: 64_u32.saturating_sub(stage2.t0sz.into()),
            start,
            base: stage2.table.0,
            output_bits: u32::from(stage2.output_size.min(self.features.oas).bits()).min(if wide { 52 } else { 48 }),
            wide,
            unlimited: true,
        }
        .aligned();
        let (injection, memory) = (self.injection, self.memory);
        let read = |at| match read_descriptor(PhysAddr(at), injection, memory) {
            Ok(word) if stage2.big_endian => Ok(word.swap_bytes()),
            Ok(word) => Ok(word),
            Err(Abort) => Err(walk_fault(PhysAddr(at))),
        };
        let space = Space::Stage2 { vmid: self.vmid };
        let mut changed = PhysAddr(0);
        for _ in 0..ATTEMPTS {
            let kept = self.caches.tlb.look_up_table(space, ipa, stage2.granule, start);
            let mut passed = Passed::default();
            let leaf = tables.walk(ipa, kept, read, &mut passed, fault);
            self.keep_tables(space, ipa, stage2.granule, &passed);
            match self.settle_stage2(stage2, &leaf?, ipa, class, access) {
                Ok(mapping) => return Ok(mapping),
                Err(Stop::Fault(fault)) => return Err(fault),
                Err(Stop::Changed(at)) => changed = at,
            }
        }
        Err(walk_fault(changed))
    }

    /// What the leaf says, with its flags updated for an `access` that it permits.
    fn settle_stage2(
        &self,
        stage2: &Stage2,
        leaf: &Leaf,
        ipa: u64,
        class: FaultClass,
        access: Option<Access>,
    ) -> Result<Mapping, Stop> {
        let Leaf { word, level, output, .. } = *leaf;
        let sets_accessed = stage2.flag_update != FlagUpdate::None;
        if !ACCESSED.is_set(word) && !self.purpose.passes_unaccessed(sets_accessed, stage2.access_flag_fault_disabled) {
            return Err(Fault::stage2(FaultKind::Access, ipa, class, access).into());
        }
        let clean = stage2.flag_update == FlagUpdate::AccessFlagAndDirty
            && DIRTY_BIT_MODIFIER.is_set(word)
            && !STAGE2_WRITE.is_set(word);
        let dirty_word = if clean { word | STAGE2_WRITE.mask() } else { word };
        let mut mapping = Mapping {
            granule: stage2.granule,
            level,
            shift: descriptor::shift(stage2.granule, level),
            output,
            permissions: Permissions::stage2(dirty_word, self.features),
            clean,
            global: false,
            device: STAGE2_DEVICE_OR_NOT.get(word) == 0,
            fleeting: descriptor::is_not_for_caching(word, level),
        };
        if mapping.check_stage2(ipa, class, stage2.protected_walk, access).is_err() {
            mapping.fleeting |= sets_accessed && !ACCESSED.is_set(word);
            return Ok(mapping);
        }
        let writes = access.is_some_and(|access| access.write);
        let mut new = if writes { dirty_word } else { word };
        if sets_accessed {
            new |= ACCESSED.mask();
        }
        if self.purpose.leaves_traces() && new != word {
            self.update(PhysAddr(leaf.at), word, new, stage2.big_endian)?;
        }
        mapping.clean = clean && !(self.purpose.leaves_traces() && writes);
        Ok(mapping)
    }
}
