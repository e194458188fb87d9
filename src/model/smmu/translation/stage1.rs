//! Stage 1: from a CD and an address to an IPA, or to a physical address where stage 2 does not translate.

use super::descriptor::{ACCESSED, DIRTY_BIT_MODIFIER, NOT_GLOBAL, READ_ONLY};
use super::permissions::{Limits, Permissions};
use super::{ATTEMPTS, Cause, Fault, Leaf, Mapping, Stop, Tables, Walker, descriptor};
use crate::model::memory::Memory;
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

impl<M: Memory> Walker<'_, M> {
    /// Walks the tables of `cd` for `address`. With an `access`, permissions are checked, and dirty state is set if it
    /// writes; without, permissions are only told.
    pub(in super::super) fn stage1(
        &self,
        cd: &ContextDescriptor,
        world: StreamWorld,
        address: u64,
        access: Option<Access>,
    ) -> Result<Mapping, Fault> {
        let (base, input_bits) = select(cd, world, address).ok_or(Fault::stage1(FaultKind::Translation))?;
        let stride = base.granule.shift() - 3;
        let levels = (input_bits - base.granule.shift().min(input_bits)).div_ceil(stride);
        let start = 4_u32.saturating_sub(levels) as u8;
        // Small granules describe 48 address bits (5.4, IPS).
        let wide = self.features.oas.bits() >= 52 && base.granule == Granule::Size64K;
        let output_bits = u32::from(cd.output_size.min(self.features.oas).bits()).min(if wide { 52 } else { 48 });
        let tables = Tables::new(base.granule, input_bits, start, base.table.0, output_bits, wide);
        let mut changed = PhysAddr(0);
        for _ in 0..ATTEMPTS {
            let mut limits = Limits::default();
            let leaf = tables.walk(
                address & ((1 << input_bits) - 1),
                |at| self.read_stage1(at, cd.big_endian),
                |word| {
                    if !base.hierarchy_disabled {
                        limits.add(word);
                    }
                },
                Fault::stage1,
            )?;
            match self.settle_stage1(cd, world, &leaf, limits, access) {
                Ok((permissions, clean)) => {
                    let shift = descriptor::shift(base.granule, leaf.level);
                    return Ok(Mapping {
                        granule: base.granule,
                        level: leaf.level,
                        shift,
                        input: address & !((1 << shift) - 1),
                        output: leaf.output,
                        permissions,
                        clean,
                        global: !NOT_GLOBAL.is_set(leaf.word),
                        device: false,
                    });
                }
                Err(Stop::Fault(fault)) => return Err(fault),
                Err(Stop::Changed(at)) => changed = at,
            }
        }
        Err(Fault::stage1_walk(changed))
    }

    fn read_stage1(&self, at: u64, big_endian: bool) -> Result<u64, Fault> {
        let physical = self.own_read(at, FaultClass::TableDescriptor)?;
        let word = self.descriptor(physical).map_err(|_| Fault::stage1_walk(physical))?;
        Ok(if big_endian { word.swap_bytes() } else { word })
    }

    /// Checks and updates the leaf's flags. Returns the permissions, and whether it is writable-clean.
    fn settle_stage1(
        &self,
        cd: &ContextDescriptor,
        world: StreamWorld,
        leaf: &Leaf,
        limits: Limits,
        access: Option<Access>,
    ) -> Result<(Permissions, bool), Stop> {
        let word = leaf.word;
        let sets_accessed = cd.flag_update != FlagUpdate::None;
        // AFFD is ignored where the SMMU sets the flag (5.4).
        if !ACCESSED.is_set(word) && !sets_accessed && !cd.access_flag_fault_disabled {
            return Err(Fault::stage1(FaultKind::Access).into());
        }
        // Read-only by AP[2] alone, and meant to be written (3.13.3.1).
        let clean = cd.flag_update == FlagUpdate::AccessFlagAndDirty
            && DIRTY_BIT_MODIFIER.is_set(word)
            && READ_ONLY.is_set(word)
            && !limits.read_only;
        let dirty_word = if clean { word & !READ_ONLY.mask() } else { word };
        let permissions = Permissions::stage1(dirty_word, limits, cd, world);
        if let Some(access) = access
            && !permissions.permit(access)
        {
            let read_only = permissions.lack_reading(access);
            return Err(Fault { read_only, ..Fault::stage1(FaultKind::Permission) }.into());
        }
        let writes = access.is_some_and(|access| access.write);
        let mut new = if writes { dirty_word } else { word };
        if sets_accessed {
            new |= ACCESSED.mask();
        }
        if self.update && new != word {
            self.update_stage1(leaf.at, word, new, cd.big_endian)?;
        }
        Ok((permissions, clean && !(self.update && writes)))
    }

    /// Writes a descriptor, for which stage 2 must permit a write (3.13.5).
    fn update_stage1(&self, at: u64, old: u64, new: u64, big_endian: bool) -> Result<(), Stop> {
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

/// The tables for `address` and how many of its bits they translate; `None` if it is in neither half (3.4.1).
fn select(cd: &ContextDescriptor, world: StreamWorld, address: u64) -> Option<(TableBase, u32)> {
    // EL2 has one half, which bit 55 has no say in.
    let upper = world != StreamWorld::El2 && address >> 55 & 1 != 0;
    let base = if upper { cd.ttb1? } else { cd.ttb0? };
    // Bits above the half are copies of bit 55; of the top byte this may not be asked.
    let above = if upper { !address } else { address };
    let above = if base.ignore_top_byte { above << 8 >> 8 } else { above };
    let bits = 64_u32.checked_sub(base.tsz.into()).filter(|bits| (1..=56).contains(bits))?;
    (above >> bits == 0).then_some((base, bits))
}
