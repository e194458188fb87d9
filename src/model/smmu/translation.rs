//! From address to address: the two stages of translation (3.3, 3.4, 3.13; Arm DDI 0487, D8).
//!
//! | part | what it is |
//! |---|---|
//! | `descriptor` | the words of translation tables |
//! | `permissions` | what a translation permits to whom |
//! | `stage1` | walks from a CD |
//! | `stage2` | walks from an STE |

mod descriptor;
mod permissions;
mod stage1;
mod stage2;
#[cfg(test)]
mod tests;

pub(super) use self::permissions::{Permissions, Rights};
use super::injection::{Injection, Point};
use crate::model::memory::{Abort, Memory};
use crate::smmuv3::cd::ContextDescriptor;
use crate::smmuv3::event::{FaultClass, FaultKind};
use crate::smmuv3::features::Features;
use crate::smmuv3::ste::{Stage2, StreamWorld};
use crate::smmuv3::{Access, Granule, PhysAddr};

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
    /// log2 of the bytes of the range. Input and output are aligned to it.
    pub(super) shift: u32,
    /// The first address of the range. At stage 1 the top byte is as it came.
    pub(super) input: u64,
    /// Where that address leads to.
    pub(super) output: u64,
    /// What is permitted, with dirty state that the SMMU updates counted as writable.
    pub(super) permissions: Permissions,
    /// The leaf is writable-clean: before a write the walk has to make it dirty, and only then is this no longer so.
    pub(super) clean: bool,
    /// It is every ASID's: nG is 0. Means nothing at stage 2.
    pub(super) global: bool,
    /// It is of a Device memory type. Means nothing at stage 1.
    pub(super) device: bool,
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
    /// The address in the end.
    pub(super) output: PhysAddr,
}

/// Reads translation tables, and updates their flags.
pub(super) struct Walker<'a, M> {
    pub(super) features: &'a Features,
    pub(super) injection: &'a Injection,
    pub(super) memory: &'a M,
    /// Stage 2, if it translates.
    pub(super) stage2: Option<&'a Stage2>,
    /// Flags in memory are updated where they should be. If not, a walk does as if they had been.
    pub(super) update: bool,
}

impl<M: Memory> Walker<'_, M> {
    /// Translates `address`, at stage 1 if there is a context, for `access`.
    pub(super) fn translate(
        &self,
        context: Option<&(ContextDescriptor, StreamWorld)>,
        address: u64,
        access: Access,
    ) -> Result<Translation, Fault> {
        let stage1 = context.map(|(cd, world)| self.stage1(cd, *world, address, Some(access))).transpose()?;
        let ipa = stage1.map_or(address, |mapping| mapping.translate(address));
        let stage2 = self.stage2.map(|stage2| self.stage2(stage2, ipa, FaultClass::Input, Some(access))).transpose()?;
        Ok(Translation { stage1, stage2, output: PhysAddr(stage2.map_or(ipa, |mapping| mapping.translate(ipa))) })
    }

    /// Where the SMMU's own read of `address`, a CD or a stage 1 table, goes: through stage 2 if it translates.
    pub(super) fn own_read(&self, address: u64, class: FaultClass) -> Result<PhysAddr, Fault> {
        match self.stage2 {
            None => Ok(PhysAddr(address)),
            Some(stage2) => self
                .stage2(stage2, address, class, Some(Access::READ))
                .map(|mapping| PhysAddr(mapping.translate(address))),
        }
    }

    /// Reads a descriptor.
    fn descriptor(&self, at: PhysAddr) -> Result<u64, Abort> {
        self.injection.passes(Point::TableFetch)?;
        self.memory.read64(at)
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
}

/// The leaf that a walk found.
struct Leaf {
    /// Where it was read.
    at: u64,
    word: u64,
    level: u8,
    output: u64,
}

impl Tables {
    const fn new(granule: Granule, input_bits: u32, start: u8, base: u64, output_bits: u32, wide: bool) -> Self {
        let mut tables = Self { granule, input_bits, start, base, output_bits, wide };
        let bits = input_bits.saturating_sub(tables.shift(start));
        let size = 8 << bits;
        // With 52-bit output at least 64 bytes (5.2, S2TTB; 5.4, TTB0).
        tables.base &= !(if output_bits >= 52 && size < 64 { 64 } else { size } - 1);
        tables
    }

    /// log2 of the bytes that an entry of `level` translates.
    const fn shift(&self, level: u8) -> u32 {
        descriptor::shift(self.granule, level)
    }

    /// Walks to the leaf for `input`, which is in range. `read` reads an entry, `pass` is told of every table descriptor,
    /// `fault` makes a fault.
    fn walk(
        &self,
        input: u64,
        read: impl Fn(u64) -> Result<u64, Fault>,
        mut pass: impl FnMut(u64),
        fault: impl Fn(FaultKind) -> Fault,
    ) -> Result<Leaf, Fault> {
        let in_range = |address: u64| {
            if address >> self.output_bits == 0 { Ok(address) } else { Err(fault(FaultKind::AddressSize)) }
        };
        let mut table = self.base;
        let mut level = self.start;
        let mut bits = self.input_bits.saturating_sub(self.shift(level));
        loop {
            let at = table + ((input >> self.shift(level)) & ((1 << bits) - 1)) * 8;
            let word = read(at)?;
            match descriptor::decode(word, self.granule, level, self.wide) {
                descriptor::Entry::Invalid => return Err(fault(FaultKind::Translation)),
                descriptor::Entry::Table(next) => {
                    table = in_range(next)?;
                    pass(word);
                    level += 1;
                    bits = self.granule.shift() - 3;
                }
                descriptor::Entry::Leaf(output) => {
                    return Ok(Leaf { at, word, level, output: in_range(output)? });
                }
            }
        }
    }
}
