//! What walks leave in the TLB and find there (3.17; Arm DDI 0487, D8.17).
//!
//! A translation of both stages is one entry, which a TLBI by IPA does not reach (4.4.3.1). Beside it the result of stage 2 is
//! kept for itself, as are those that the SMMU's own accesses to CDs and stage 1 tables find. Where both translate, stage 1
//! alone is not kept: such an entry, as wide as stage 1 maps, would conflict with those as wide as both do.

use super::stage1::{Half, select};
use super::{Cause, Fault, Mapping, Passed, Table, Translation, Walker};
use crate::model::memory::Memory;
use crate::model::smmu::cache::{Conflict, Place, Space, Tags};
use crate::smmuv3::Granule;
use crate::smmuv3::cd::ContextDescriptor;
use crate::smmuv3::event::FaultKind;
use crate::smmuv3::ste::StreamWorld;

impl Mapping {
    const fn place(&self) -> Place {
        Place { granule: self.granule, level: self.level }
    }
}

impl Translation {
    /// Whether a write has to make a leaf dirty first.
    pub(in super::super) fn is_clean(&self) -> bool {
        self.stage1.is_some_and(|mapping| mapping.clean) || self.stage2.is_some_and(|mapping| mapping.clean)
    }

    fn is_fleeting(&self) -> bool {
        self.stage1.is_some_and(|mapping| mapping.fleeting) || self.stage2.is_some_and(|mapping| mapping.fleeting)
    }
}

impl<M: Memory> Walker<'_, M> {
    /// Whose addresses a CD translates (3.17).
    pub(super) const fn stage1_space(&self, cd: &ContextDescriptor, world: StreamWorld) -> Space {
        let &ContextDescriptor { asid, private_asid, .. } = cd;
        match world {
            StreamWorld::El1 => Space::El1 { vmid: self.vmid, asid, private_asid },
            StreamWorld::El2 => Space::El2,
            StreamWorld::El2E2h => Space::El2E2h { asid, private_asid },
        }
    }

    /// What is kept of the translation of `address`, of stage 1 at least. What `writes` and has to make it dirty walks
    /// again, and what is kept is dropped.
    pub(in super::super) fn recall(
        &mut self,
        cd: &ContextDescriptor,
        world: StreamWorld,
        address: u64,
        writes: bool,
    ) -> Result<Option<Translation>, Fault> {
        let Half { canonical, .. } = select(cd, world, address).ok_or(Fault::stage1(FaultKind::Translation))?;
        self.look_up(self.stage1_space(cd, world), canonical, writes)
            .map_err(|Conflict| Fault { cause: Cause::Conflict, ..Fault::stage1(FaultKind::Translation) })
    }

    /// What is kept of the translation of `ipa` at stage 2.
    pub(super) fn recall_stage2(&mut self, ipa: u64, writes: bool) -> Result<Option<Mapping>, Fault> {
        match self.look_up(Space::Stage2 { vmid: self.vmid }, ipa, writes) {
            Ok(kept) => Ok(kept.and_then(|translation| translation.stage2)),
            Err(Conflict) => {
                Err(Fault { cause: Cause::Conflict, ipa: Some(ipa), ..Fault::stage1(FaultKind::Translation) })
            }
        }
    }

    fn look_up(&mut self, space: Space, address: u64, writes: bool) -> Result<Option<Translation>, Conflict> {
        let kept = match self.caches.tlb.look_up(space, address) {
            // The tables decide, as they are now (3.21.1.3).
            Err(Conflict) if self.features.free_block_changes => {
                if self.purpose.leaves_traces() {
                    self.caches.tlb.remove(space, address);
                }
                return Ok(None);
            }
            found => found?,
        };
        if self.purpose.leaves_traces() && writes && kept.is_some_and(|translation| translation.is_clean()) {
            self.caches.tlb.remove(space, address);
            return Ok(None);
        }
        Ok(kept)
    }

    /// Keeps the translation of `address` by all stages that translate. It holds as far as all map.
    pub(in super::super) fn keep(
        &mut self,
        cd: &ContextDescriptor,
        world: StreamWorld,
        address: u64,
        translation: Translation,
    ) {
        let (Some(stage1), Some(Half { canonical, .. })) = (translation.stage1, select(cd, world, address)) else {
            return;
        };
        let complete = self.stage2.is_none() || translation.stage2.is_some();
        if complete && !translation.is_fleeting() {
            let tags = Tags::leaf(self.stage1_space(cd, world), stage1.global, canonical, stage1.place());
            let shift = translation.stage2.map_or(stage1.shift, |stage2| stage2.shift);
            self.caches.insert_leaf(tags.part(canonical, shift), translation);
        }
    }

    /// Keeps the translation of `ipa` at stage 2.
    pub(super) fn keep_stage2(&mut self, ipa: u64, mapping: Mapping) {
        if self.purpose.leaves_traces() && !mapping.fleeting {
            let tags = Tags::leaf(Space::Stage2 { vmid: self.vmid }, false, ipa, mapping.place());
            self.caches.insert_leaf(tags, Translation { stage1: None, stage2: Some(mapping) });
        }
    }

    /// Keeps the tables that a walk for `address` came through.
    pub(super) fn keep_tables(&mut self, space: Space, address: u64, granule: Granule, passed: &Passed) {
        for (level, table) in (0..).zip(passed) {
            if let Some(table) = table.filter(|_: &Table| self.purpose.leaves_traces()) {
                self.caches.insert_table(Tags::table(space, address, Place { granule, level }), table);
            }
        }
    }
}
