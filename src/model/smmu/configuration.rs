//! From StreamID and SubstreamID to STE and CD (3.3, 5).

use super::Smmu;
use super::events::fetch;
use super::injection::{Injection, Point};
use super::registers::cr0;
use super::translation::{Fault, Purpose, Walker};
use crate::model::memory::{Abort, Memory};
use crate::smmuv3::cd::{ContextDescriptor, L1ContextDescriptor};
use crate::smmuv3::event::{Event, FaultClass, Origin};
use crate::smmuv3::ste::{ContextTableFormat, DefaultSubstream, L1StreamTableDescriptor, Stage1, Ste, StreamWorld};
use crate::smmuv3::{PhysAddr, StreamId, SubstreamId};

/// Why a transaction finds no context.
pub(super) enum Denied {
    /// An error of the configuration: it is aborted with this record.
    With(Event),
    /// Stage 2 does not lead to its CD.
    Fault(Fault),
}

/// Reads words from `address`: aborts where it is larger than the `output_bits` that the SMMU puts out (3.4.3).
pub(super) fn fetch_words<const N: usize>(
    address: u64,
    output_bits: u32,
    memory: &impl Memory,
) -> Result<[u64; N], Abort> {
    if address >> output_bits != 0 {
        return Err(Abort);
    }
    let mut words = [0; N];
    for (number, word) in words.iter_mut().enumerate() {
        *word = memory.read64(PhysAddr(address + number as u64 * 8))?;
    }
    Ok(words)
}

/// ADDR of STRTAB_BASE.
pub(super) const TABLE_ADDRESS: u64 = 0xff_ffff_ffff_ffc0;
/// FMT of STRTAB_BASE_CFG, and its value for 2-level tables; other values behave as linear.
const FORMAT: u32 = 3 << 16;
const TWO_LEVEL: u32 = 1 << 16;

impl Smmu {
    /// The STE of a transaction, or the record that tells why there is none. Whether that is written is another question.
    pub(super) fn ste(&mut self, origin: Origin, memory: &impl Memory) -> Result<Ste, Event> {
        let StreamId(stream) = origin.stream;
        let configuration = self.registers.strtab_base_cfg;
        let log2 = configuration & 0x3f;
        if u64::from(stream) >> log2.min(self.registers.features.sid_bits.into()) != 0 {
            return Err(Event::BadStreamId { origin });
        }
        let words = match self.caches.stes.look_up(origin.stream) {
            Some(words) => words,
            None => self.fetch_ste(origin, log2, memory)?,
        };
        Ste::decode(words, &self.registers.features).map_err(|_| Event::BadSte { origin })
    }

    /// The words of an STE within the table, from memory. They are kept, whatever they say; that there are none is not
    /// (3.21.3). Nothing is kept while SMMUEN is 0 (6.3.9.6).
    fn fetch_ste(&mut self, origin: Origin, log2: u32, memory: &impl Memory) -> Result<[u64; 8], Event> {
        let StreamId(stream) = origin.stream;
        let base = self.registers.strtab_base & TABLE_ADDRESS;
        let address = if self.registers.strtab_base_cfg & FORMAT == TWO_LEVEL {
            self.level2_ste(origin, log2, base, memory)?
        } else {
            align(base, 64, log2) + u64::from(stream) * 64
        };
        let passes = self.injection.passes(Point::SteFetch);
        let words =
            passes.and_then(|()| fetch_words(address, self.registers.output_bits(), memory)).map_err(|Abort| {
                // What a physical address has no bits for is not told (7.3.4).
                let address = PhysAddr(self.registers.truncated(address));
                Event::SteFetch { origin, fetch: fetch(address) }
            })?;
        if self.registers.enabled(cr0::SMMUEN) {
            self.caches.insert_ste(origin.stream, words);
        }
        Ok(words)
    }

    /// Where the STE lies in a 2-level table (5.1).
    fn level2_ste(&mut self, origin: Origin, log2: u32, base: u64, memory: &impl Memory) -> Result<u64, Event> {
        let StreamId(stream) = origin.stream;
        let split = split(self.registers.strtab_base_cfg);
        let at = align(base, 8, log2.saturating_sub(split)) + u64::from(stream >> split) * 8;
        let descriptor = match self.caches.stes.look_up_level1(origin.stream, split) {
            Some(descriptor) => descriptor,
            None => {
                let [descriptor] = fetch_words(at, self.registers.output_bits(), memory)
                    .map_err(|Abort| Event::SteFetch { origin, fetch: fetch(PhysAddr(at)) })?;
                if self.registers.enabled(cr0::SMMUEN) {
                    self.caches.insert_level1_ste(origin.stream, split, descriptor);
                }
                descriptor
            }
        };
        level2_address(descriptor, origin.stream, split).ok_or(Event::BadStreamId { origin })
    }

    /// The context that stage 1 translates a transaction in, or `None` if it does not, with the checks in the order of
    /// 7.3.22. The STE is not one that aborts. `purpose` is that of walks of stage 2 for the CD.
    pub(super) fn context(
        &mut self,
        ste: &Ste,
        origin: Origin,
        purpose: Purpose,
        memory: &impl Memory,
    ) -> Result<Option<(ContextDescriptor, StreamWorld)>, Denied> {
        let bad_substream = |substream| Denied::With(Event::BadSubstreamId { stream: origin.stream, substream });
        let Some(stage1) = ste.stage1() else { return origin.substream.map_or(Ok(None), |id| Err(bad_substream(id))) };
        let index = match (origin.substream, stage1.default_substream) {
            (Some(substream), _) if stage1.cd_max == 0 || substream.get() >> stage1.cd_max != 0 => {
                return Err(bad_substream(substream));
            }
            (Some(substream), DefaultSubstream::Substream0) if substream.get() == 0 => {
                return Err(Denied::With(Event::StreamDisabled { stream: origin.stream }));
            }
            (Some(substream), _) => substream.get(),
            (None, _) if stage1.cd_max == 0 => 0,
            (None, DefaultSubstream::Substream0) => 0,
            (None, DefaultSubstream::Bypass) => return Ok(None),
            (None, DefaultSubstream::Terminate) => {
                return Err(Denied::With(Event::StreamDisabled { stream: origin.stream }));
            }
        };
        let words = match self.caches.cds.look_up(origin.stream, index) {
            Some(words) => words,
            None => {
                let mut walker = self.walker(ste, memory, purpose);
                let address = cd_address(stage1, origin, index, &mut walker)?;
                let words = fetch_own(address, origin, &mut walker, |injection| injection.passes(Point::CdFetch))?;
                walker.caches.insert_cd(origin.stream, index, words);
                words
            }
        };
        let world = self.world(stage1);
        ContextDescriptor::decode(words, &self.registers.features, &Stage1 { world, ..*stage1 })
            .map(|cd| Some((cd, world)))
            .map_err(|_| Denied::With(Event::BadCd { origin }))
    }

    /// Whose translation regime it is (5.2, STRW).
    pub(super) fn world(&self, stage1: &Stage1) -> StreamWorld {
        match stage1.world {
            StreamWorld::El2 if self.registers.e2h() => StreamWorld::El2E2h,
            world => world,
        }
    }
}

/// SPLIT of STRTAB_BASE_CFG, whose reserved values behave as 6 (6.3.25).
pub(super) const fn split(configuration: u32) -> u32 {
    match configuration >> 6 & 0x1f {
        8 => 8,
        10 => 10,
        _ => 6,
    }
}

/// Where the STE of `stream` lies by its level 1 descriptor in a table that splits StreamIDs at bit `split`. A span that the
/// split does not permit reaches nothing (7.3.3).
pub(super) fn level2_address(descriptor: u64, StreamId(stream): StreamId, split: u32) -> Option<u64> {
    let level2 = L1StreamTableDescriptor::decode(descriptor).filter(|level2| u32::from(level2.span) <= split + 1)?;
    let index = stream & ((1 << split) - 1);
    (index < level2.entries()).then_some(level2.table.0 + u64::from(index) * 64)
}

/// Where CD number `index` lies: an IPA if stage 2 translates (5.2, S1Fmt; 5.3).
fn cd_address(
    stage1: &Stage1,
    origin: Origin,
    index: u32,
    walker: &mut Walker<'_, impl Memory>,
) -> Result<u64, Denied> {
    let split = match stage1.format {
        ContextTableFormat::TwoLevel4K => 6,
        ContextTableFormat::TwoLevel64K => 10,
        ContextTableFormat::Linear => {
            return Ok(align(stage1.context.0, 64, stage1.cd_max.into()) + u64::from(index) * 64);
        }
    };
    let level1 = align(stage1.context.0, 8, u32::from(stage1.cd_max).saturating_sub(split));
    let word = match walker.caches.cds.look_up_level1(origin.stream, index, split) {
        Some(word) => word,
        None => {
            let [word] = fetch_own(level1 + u64::from(index >> split) * 8, origin, walker, |_| Ok(()))?;
            walker.caches.insert_level1_cd(origin.stream, index, split, word);
            word
        }
    };
    let bits = match walker.stage2 {
        Some(_) => walker.features.ias(),
        None => walker.features.oas.bits(),
    };
    // Of the three behaviours that 3.4.3 permits for an IPA out of range the one that is also the one for a PA.
    match L1ContextDescriptor::decode(word) {
        Some(level2) if level2.table.0 >> bits == 0 => {
            Ok(align(level2.table.0, 64, split) + u64::from(index & ((1 << split) - 1)) * 64)
        }
        _ => {
            let substream = SubstreamId::from_low_bits(index.into());
            Err(Denied::With(Event::BadSubstreamId { stream: origin.stream, substream }))
        }
    }
}

/// Reads `N` words of a CD or level 1 CD from `address`, through stage 2 if it translates, unless it does not `pass`.
fn fetch_own<const N: usize, M: Memory>(
    address: u64,
    origin: Origin,
    walker: &mut Walker<'_, M>,
    pass: impl FnOnce(&Injection) -> Result<(), Abort>,
) -> Result<[u64; N], Denied> {
    let physical = walker.own_read(address, FaultClass::ContextDescriptor).map_err(Denied::Fault)?;
    pass(walker.injection)
        .and_then(|()| fetch_words(physical.0, walker.features.oas.bits().into(), walker.memory))
        .map_err(|Abort| Denied::With(Event::CdFetch { origin, fetch: fetch(physical) }))
}

/// `base` aligned down to a table of 2^`log2` entries of `size` bytes, at least 64 bytes.
pub(super) fn align(base: u64, size: u64, log2: u32) -> u64 {
    base & !((size << log2.min(50)).max(64) - 1)
}
