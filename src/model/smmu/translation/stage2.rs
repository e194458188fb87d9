//! Stage 2: from an STE and an IPA to a physical address.

use super::descriptor::{ACCESSED, DIRTY_BIT_MODIFIER, STAGE2_DEVICE_OR_NOT, STAGE2_WRITE};
use super::permissions::Permissions;
use super::{ATTEMPTS, Cause, Fault, Leaf, Mapping, Stop, Tables, Walker, descriptor};
use crate::model::memory::Memory;
use crate::smmuv3::event::{FaultClass, FaultKind};
use crate::smmuv3::ste::Stage2;
use crate::smmuv3::{Access, FlagUpdate, Granule, PhysAddr};

impl<M: Memory> Walker<'_, M> {
    /// Walks the tables of `stage2` for `ipa`, the address of what `class` says. With an `access`, permissions are
    /// checked, and dirty state is set if it writes; without, permissions are only told.
    pub(in super::super) fn stage2(
        &self,
        stage2: &Stage2,
        ipa: u64,
        class: FaultClass,
        access: Option<Access>,
    ) -> Result<Mapping, Fault> {
        let fault = |kind| Fault {
            cause: Cause::Related(kind),
            class,
            ipa: Some(ipa),
            table_write: kind == FaultKind::Permission
                && class == FaultClass::TableDescriptor
                && access.is_some_and(|access| access.write),
            read_only: false,
        };
        let walk_fault = |address| Fault { cause: Cause::Walk(address), ..fault(FaultKind::Translation) };
        let input_bits = 64_u32.saturating_sub(stage2.t0sz.into());
        let Some(start) = stage2.start_level().filter(|_| ipa >> input_bits.min(63) == 0) else {
            return Err(fault(FaultKind::Translation));
        };
        // Small granules describe 48 address bits (5.2, S2PS).
        let wide = self.features.oas.bits() >= 52 && stage2.granule == Granule::Size64K;
        let output_bits = u32::from(stage2.output_size.min(self.features.oas).bits()).min(if wide { 52 } else { 48 });
        let tables = Tables::new(stage2.granule, input_bits, start, stage2.table.0, output_bits, wide);
        let read = |at| match self.descriptor(PhysAddr(at)) {
            Ok(word) if stage2.big_endian => Ok(word.swap_bytes()),
            Ok(word) => Ok(word),
            Err(_) => Err(walk_fault(PhysAddr(at))),
        };
        let mut changed = PhysAddr(0);
        for _ in 0..ATTEMPTS {
            // Table descriptors of stage 2 limit nothing.
            let leaf = tables.walk(ipa, read, |_| {}, fault)?;
            let device = STAGE2_DEVICE_OR_NOT.get(leaf.word) == 0;
            match self.settle_stage2(stage2, &leaf, device && class != FaultClass::Input, fault, access) {
                Ok((permissions, clean)) => {
                    let shift = descriptor::shift(stage2.granule, leaf.level);
                    return Ok(Mapping {
                        granule: stage2.granule,
                        level: leaf.level,
                        shift,
                        input: ipa & !((1 << shift) - 1),
                        output: leaf.output,
                        permissions,
                        clean,
                        global: false,
                        device,
                    });
                }
                Err(Stop::Fault(fault)) => return Err(fault),
                Err(Stop::Changed(at)) => changed = at,
            }
        }
        Err(walk_fault(changed))
    }

    /// Checks and updates the leaf's flags. Returns the permissions, and whether it is writable-clean.
    fn settle_stage2(
        &self,
        stage2: &Stage2,
        leaf: &Leaf,
        own_access_to_device: bool,
        fault: impl Fn(FaultKind) -> Fault,
        access: Option<Access>,
    ) -> Result<(Permissions, bool), Stop> {
        let word = leaf.word;
        let sets_accessed = stage2.flag_update != FlagUpdate::None;
        if !ACCESSED.is_set(word) && !sets_accessed && !stage2.access_flag_fault_disabled {
            return Err(fault(FaultKind::Access).into());
        }
        let clean = stage2.flag_update == FlagUpdate::AccessFlagAndDirty
            && DIRTY_BIT_MODIFIER.is_set(word)
            && !STAGE2_WRITE.is_set(word);
        let dirty_word = if clean { word | STAGE2_WRITE.mask() } else { word };
        let permissions = Permissions::stage2(dirty_word, self.features);
        if own_access_to_device && stage2.protected_walk {
            return Err(fault(FaultKind::Permission).into());
        }
        if let Some(access) = access
            && !permissions.permit(access)
        {
            return Err(Fault { read_only: permissions.lack_reading(access), ..fault(FaultKind::Permission) }.into());
        }
        let writes = access.is_some_and(|access| access.write);
        let mut new = if writes { dirty_word } else { word };
        if sets_accessed {
            new |= ACCESSED.mask();
        }
        if self.update && new != word {
            self.update(PhysAddr(leaf.at), word, new, stage2.big_endian)?;
        }
        Ok((permissions, clean && !(self.update && writes)))
    }
}
