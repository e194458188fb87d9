//! From address to address: the two stages of translation (3.3, 3.4, 3.13; Arm DDI 0487, D8).
//!
//! | part | what it is |
//! |---|---|
//! | `descriptor` | the words of translation tables |
//! | `permissions` | what a translation permits to whom |
//! | `stage1` | walks from a CD |
//! | `stage2` | walks from an STE |
//! | `kept` | what walks leave in the TLB and find there |

mod descriptor;
mod kept;
mod permissions;
mod stage1;
mod stage2;
#[cfg(test)]
mod tests;

use self::permissions::Limits;
pub(super) use self::permissions::{Permissions, Rights};
pub(super) use self::stage1::admit;
use super::cache::{Caches, Space};
use super::injection::{Injection, Point};
use crate::model::memory::{Abort, Memory};
use crate::smmuv3::cd::ContextDescriptor;
use crate::smmuv3::event::{FaultClass, FaultKind};
use crate::smmuv3::features::Features;
use crate::smmuv3::ste::{Stage2, StreamWorld};
use crate::smmuv3::{Access, Granule, PhysAddr, Vmid};

/// How often a walk begins again because somebody changed a descriptor under it before it ends as if the update had
/// been aborted.
const ATTEMPTS: usize = 8;

/// What one stage makes of a range of addresses. It holds for every access to the range, whatever the access was that it
/// was found for, so a TLB may keep it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mapping {
    /// The granule of the tables.
    pub(super) granule: Granule,
    /// The level of the leaf, 0 to 3.
    pub(super) level: u8,
    /// log2 of the bytes of the range, to which it and the output are aligned.
    pub(super) shift: u32,
    /// Where the first address of the range leads to.
    pub(super) output: u64,
    /// What is permitted, with dirty state that the SMMU updates counted as writable.
    pub(super) permissions: Permissions,
    /// The leaf is writable-clean: before a write the walk has to make it dirty, and only then is this no longer so.
    pub(super) clean: bool,
    /// It is every ASID's: nG is 0. Means nothing at stage 2.
    pub(super) global: bool,
    /// It is of a Device memory type. Means nothing at stage 1.
    pub(super) device: bool,
    /// A TLB may not keep it: it is a block with nT (3.21.1), or its Access flag is not set and would have to be.
    pub(super) fleeting: bool,
}

impl Mapping {
    /// Where `address`, of this range, leads to.
    pub(super) const fn translate(&self, address: u64) -> u64 {
        self.output | address & ((1 << self.shift) - 1)
    }
}

/// Why there is no translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) cause: Cause,
    /// What was being translated. For a stage 1 fault: the transaction's address.
    pub(super) class: FaultClass,
    /// The IPA, for a fault at stage 2.
    pub(super) ipa: Option<u64>,
    /// The access of a stage 1 walk that stage 2 did not permit was a write (`TTRnW` = 0).
    pub(super) table_write: bool,
    /// Of an atomic access only the reading was not permitted (13.1.1).
    pub(super) read_only: bool,
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// A translation-related fault, which may stall (3.12).
    Related(FaultKind),
    /// A descriptor at this address could not be read or updated.
    Walk(PhysAddr),
    /// Two entries of the TLB translate the address (3.20.1).
    Conflict,
}

/// Why a walk ends without a leaf.
enum Stop {
    Fault(Fault),
    /// The descriptor at this address is not any more what it was when it was read.
    Changed(PhysAddr),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Both stages of a translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Translation {
    /// What stage 1 did, if it translates.
    pub(super) stage1: Option<Mapping>,
    /// What stage 2 did, if it translates.
    pub(super) stage2: Option<Mapping>,
}

impl Translation {
    /// Everything below 512 GiB translates to itself at both stages, and everything is permitted.
    pub(super) const IDENTITY: Self = {
        let all = Rights { read: true, write: true, execute: true };
        let mapping = Some(Mapping {
            granule: Granule::Size4K,
            level: 0,
            shift: 39,
            output: 0,
            permissions: Permissions { privileged: all, unprivileged: all },
            clean: false,
            global: true,
            device: false,
            fleeting: false,
        });
        Self { stage1: mapping, stage2: mapping }
    };

    /// Where `address` leads to in the end.
    pub(super) fn translate(&self, address: u64) -> PhysAddr {
        let ipa = self.stage1.map_or(address, |mapping| mapping.translate(address));
        PhysAddr(self.stage2.map_or(ipa, |mapping| mapping.translate(ipa)))
    }
}

/// A table that a descriptor leads to, and the limits of all descriptors that led there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table {
    address: u64,
    limits: Limits,
}

/// Reads translation tables or what is kept of them, and updates their flags.
pub(super) struct Walker<'a, M> {
    pub(super) features: &'a Features,
    pub(super) caches: &'a mut Caches<Translation, Table>,
    pub(super) injection: &'a Injection,
    pub(super) memory: &'a M,
    /// `STE.S2VMID`.
    pub(super) vmid: Vmid,
    /// Stage 2, if it translates.
    pub(super) stage2: Option<&'a Stage2>,
    pub(super) purpose: Purpose,
}

/// What a walk is for, and so what it leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// An access: flags in memory are updated where they should be, and what is read is kept.
    Access,
    /// To know: it does as if flags had been updated, and leaves no trace.
    Look,
    /// To have it at hand: what is read is kept, and where the Access flag would have to be set there is none to read,
    /// since nothing was accessed.
    ReadAhead,
}

impl Purpose {
    /// Whether what is read is kept, and flags are updated. Reading ahead writes nothing, and finds no leaf whose Access flag
    /// would have to be set: so it has none to update.
    const fn leaves_traces(self) -> bool {
        !matches!(self, Self::Look)
    }

    /// Whether a leaf whose Access flag is not set is of use, where the SMMU sets it or not.
    const fn passes_unaccessed(self, sets: bool, faults_disabled: bool) -> bool {
        // AFFD is ignored where the SMMU sets the flag (5.2, 5.4).
        if sets { !matches!(self, Self::ReadAhead) } else { faults_disabled }
    }
}

/// Reads a descriptor.
fn read_descriptor(at: PhysAddr, injection: &Injection, memory: &impl Memory) -> Result<u64, Abort> {
    injection.passes(Point::TableFetch)?;
    memory.read64(at)
}

impl<M: Memory> Walker<'_, M> {
    /// Translates `address`, at stage 1 if there is a context, for `access`, and keeps the result.
    pub(super) fn translate(
        &mut self,
        context: Option<&(ContextDescriptor, StreamWorld)>,
        address: u64,
        access: Access,
    ) -> Result<Translation, Fault> {
        let Some((cd, world)) = context else {
            let stage2 = self.at_stage2(address, Some(access))?;
            return Ok(Translation { stage1: None, stage2 });
        };
        admit(cd, *world, address, access.privileged)?;
        let kept = self.recall(cd, *world, address, access.write)?;
        if let Some(Translation { stage1: Some(stage1), stage2 }) = kept {
            stage1.check_stage1(Some(access))?;
            let ipa = stage1.translate(address);
            let stage2 = match stage2 {
                Some(mapping) => {
                    mapping.check_stage2(ipa, FaultClass::Input, false, Some(access))?;
                    Some(mapping)
                }
                // It was kept for a stream of the same VMID without stage 2.
                None => self.at_stage2(ipa, Some(access))?,
            };
            return Ok(Translation { stage1: Some(stage1), stage2 });
        }
        let stage1 = self.stage1(cd, *world, address, Some(access))?;
        let mut translation = Translation { stage1: Some(stage1), stage2: None };
        if let Err(fault) = stage1.check_stage1(Some(access)) {
            // That it is not permitted is kept too (Arm DDI 0487, D8.17).
            self.keep(cd, *world, address, translation);
            return Err(fault);
        }
        translation.stage2 = self.at_stage2(stage1.translate(address), Some(access))?;
        self.keep(cd, *world, address, translation);
        Ok(translation)
    }

    /// Keeps the translation of `address` too, which nobody has asked for, if there is one. Permissions do not matter.
    pub(super) fn read_ahead(
        &mut self,
        context: Option<&(ContextDescriptor, StreamWorld)>,
        address: u64,
    ) -> Result<(), Fault> {
        let Some((cd, world)) = context else { return self.at_stage2(address, None).map(|_| ()) };
        if self.recall(cd, *world, address, false)?.is_none() {
            let stage1 = self.stage1(cd, *world, address, None)?;
            let stage2 = self.at_stage2(stage1.translate(address), None)?;
            self.keep(cd, *world, address, Translation { stage1: Some(stage1), stage2 });
        }
        Ok(())
    }

    /// What stage 2 makes of the IPA of an access, or of none, if it translates.
    fn at_stage2(&mut self, ipa: u64, access: Option<Access>) -> Result<Option<Mapping>, Fault> {
        self.stage2.map(|stage2| self.stage2(stage2, ipa, FaultClass::Input, access)).transpose()
    }

    /// Where the SMMU's own read of `address`, a CD or a stage 1 table, goes: through stage 2 if it translates.
    pub(super) fn own_read(&mut self, address: u64, class: FaultClass) -> Result<PhysAddr, Fault> {
        match self.stage2 {
            None => Ok(PhysAddr(address)),
            Some(stage2) => self
                .stage2(stage2, address, class, Some(Access::READ))
                .map(|mapping| PhysAddr(mapping.translate(address))),
        }
    }

    fn update(&self, at: PhysAddr, old: u64, new: u64, big_endian: bool) -> Result<(), Stop> {
        let [expected, wanted] = [old, new].map(|word| if big_endian { word.swap_bytes() } else { word });
        match self.memory.compare_exchange64(at, expected, wanted) {
            Ok(held) if held == expected => Ok(()),
            _ => Err(Stop::Changed(at)),
        }
    }
}

/// The tables of one walk.
#[derive(Clone, Copy)]
struct Tables {
    granule: Granule,
    /// The bits of an address that they translate.
    input_bits: u32,
    /// The level of the first table.
    start: u8,
    /// The first table, or tables side by side, aligned.
    base: u64,
    /// The bits that an address in a descriptor may have.
    output_bits: u32,
    /// Addresses in descriptors have 52 bits.
    wide: bool,
    /// Table descriptors limit nothing.
    unlimited: bool,
}

/// The leaf that a walk found.
struct Leaf {
    /// Where it was read.
    at: u64,
    word: u64,
    level: u8,
    output: u64,
    /// Those of the tables on the way.
    limits: Limits,
}

/// The tables that a walk came through, by the level of the descriptor that leads there, 0 to 2.
type Passed = [Option<Table>; 3];

impl Tables {
    /// With `base` aligned as it should be.
    const fn aligned(self) -> Self {
        let mut tables = self;
        let bits = self.input_bits.saturating_sub(self.shift(self.start));
        let size = 8 << bits;
        // With 52-bit output at least 64 bytes (5.2, S2TTB; 5.4, TTB0).
        tables.base &= !(if self.output_bits >= 52 && size < 64 { 64 } else { size } - 1);
        tables
    }

    /// log2 of the bytes that an entry of `level` translates.
    const fn shift(&self, level: u8) -> u32 {
        descriptor::shift(self.granule, level)
    }

    /// Walks to the leaf for `input`, which is in range: from the first table, or from one that is kept and the level of
    /// the descriptor that leads to it. `read` reads an entry, `passed` collects tables by that level, `fault` makes a
    /// fault.
    fn walk(
        &self,
        input: u64,
        kept: Option<(u8, Table)>,
        mut read: impl FnMut(u64) -> Result<u64, Fault>,
        passed: &mut Passed,
        fault: impl Fn(FaultKind) -> Fault,
    ) -> Result<Leaf, Fault> {
        let in_range = |address: u64| {
            if address >> self.output_bits == 0 { Ok(address) } else { Err(fault(FaultKind::AddressSize)) }
        };
        let first = Table { address: self.base, limits: Limits::default() };
        let stride = self.granule.shift() - 3;
        let (mut level, mut table, mut bits) = match kept {
            Some((above, table)) => (above + 1, table, stride),
            None => (self.start, first, self.input_bits.saturating_sub(self.shift(self.start))),
        };
        loop {
            let at = table.address + ((input >> self.shift(level)) & ((1 << bits) - 1)) * 8;
            let word = read(at)?;
            match descriptor::decode(word, self.granule, level, self.wide) {
                descriptor::Entry::Invalid => return Err(fault(FaultKind::Translation)),
                descriptor::Entry::Table(next) => {
                    table.address = in_range(next)?;
                    if !self.unlimited {
                        table.limits.add(word);
                    }
                    if let Some(place) = passed.get_mut(usize::from(level)) {
                        *place = Some(table);
                    }
                    level += 1;
                    bits = stride;
                }
                descriptor::Entry::Leaf(output) => {
                    return Ok(Leaf { at, word, level, output: in_range(output)?, limits: table.limits });
                }
            }
        }
    }
}
