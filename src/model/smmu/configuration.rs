//! From StreamID and SubstreamID to STE and CD (3.3, 5).

use super::Smmu;
use super::events::fetch;
use super::registers::{OUTPUT_BITS, STREAM_BITS, features};
use crate::model::memory::{Abort, Memory};
use crate::smmuv3::cd::ContextDescriptor;
use crate::smmuv3::event::{Event, Origin};
use crate::smmuv3::ste::{DefaultSubstream, L1StreamTableDescriptor, Ste, StreamConfig};
use crate::smmuv3::{PhysAddr, StreamId, SubstreamId};

/// Why a transaction gets no route. It is aborted.
pub(super) enum Denied {
    /// Without a record.
    Silently,
    /// With this record.
    With(Event),
}

/// The way of a transaction.
pub(super) enum Route {
    /// No translation.
    Bypass,
    /// Stage 1 with this CD.
    Stage1(ContextDescriptor),
}

/// Reads `words` from `address`: aborts where the address is larger than the SMMU puts out (3.4.3).
fn fetch_words<const N: usize>(address: u64, memory: &impl Memory) -> Result<[u64; N], Abort> {
    if address >> OUTPUT_BITS != 0 {
        return Err(Abort);
    }
    let mut words = [0; N];
    for (number, word) in words.iter_mut().enumerate() {
        *word = memory.read64(PhysAddr(address + number as u64 * 8))?;
    }
    Ok(words)
}

/// ADDR of STRTAB_BASE.
const TABLE_ADDRESS: u64 = 0xff_ffff_ffff_ffc0;
/// FMT of STRTAB_BASE_CFG, and its value for 2-level tables; other values behave as linear.
const FORMAT: u32 = 3 << 16;
const TWO_LEVEL: u32 = 1 << 16;

impl Smmu {
    /// The STE of a transaction, or the record that tells why there is none. Whether that is written is another question.
    pub(super) fn ste(&mut self, origin: Origin, memory: &impl Memory) -> Result<Ste, Event> {
        let StreamId(stream) = origin.stream;
        let configuration = self.registers.strtab_base_cfg;
        let log2 = configuration & 0x3f;
        if u64::from(stream) >> log2.min(STREAM_BITS) != 0 {
            return Err(Event::BadStreamId { origin });
        }
        let words = match self.caches.stes.look_up(origin.stream) {
            Some(words) => words,
            None => self.fetch_ste(origin, log2, memory)?,
        };
        features().and_then(|features| Ste::decode(words, &features).ok()).ok_or(Event::BadSte { origin })
    }

    /// The words of an STE within the table, from memory. They are kept, whatever they say; that there are none is not
    /// (3.21.3).
    fn fetch_ste(&mut self, origin: Origin, log2: u32, memory: &impl Memory) -> Result<[u64; 8], Event> {
        let StreamId(stream) = origin.stream;
        let base = self.registers.strtab_base & TABLE_ADDRESS;
        let address = if self.registers.strtab_base_cfg & FORMAT == TWO_LEVEL {
            self.level2_ste(origin, log2, base, memory)?
        } else {
            align(base, 64, log2) + u64::from(stream) * 64
        };
        let words = fetch_words(address, memory)
            .map_err(|Abort| Event::SteFetch { origin, fetch: fetch(PhysAddr(address)) })?;
        self.caches.insert_ste(origin.stream, words);
        Ok(words)
    }

    /// Where the STE lies in a 2-level table (5.1).
    fn level2_ste(&mut self, origin: Origin, log2: u32, base: u64, memory: &impl Memory) -> Result<u64, Event> {
        let StreamId(stream) = origin.stream;
        let split = match self.registers.strtab_base_cfg >> 6 & 0x1f {
            8 => 8,
            10 => 10,
            // Reserved values behave as 6 (6.3.25).
            _ => 6,
        };
        let at = align(base, 8, log2.saturating_sub(split)) + u64::from(stream >> split) * 8;
        let descriptor = match self.caches.stes.look_up_level1(origin.stream, split) {
            Some(descriptor) => descriptor,
            None => {
                let [descriptor] =
                    fetch_words(at, memory).map_err(|Abort| Event::SteFetch { origin, fetch: fetch(PhysAddr(at)) })?;
                self.caches.insert_level1_ste(origin.stream, split, descriptor);
                descriptor
            }
        };
        let index = stream & ((1 << split) - 1);
        // A span that the split does not permit reaches nothing (7.3.3).
        match L1StreamTableDescriptor::decode(descriptor) {
            Some(level2) if u32::from(level2.span) <= split + 1 && index < level2.entries() => {
                Ok(level2.table.0 + u64::from(index) * 64)
            }
            _ => Err(Event::BadStreamId { origin }),
        }
    }

    /// The way of a transaction, by its STE and CD, with the checks in the order of 7.3.22.
    pub(super) fn configure(
        &mut self,
        stream: StreamId,
        substream: Option<SubstreamId>,
        memory: &impl Memory,
    ) -> Result<Route, Denied> {
        let origin = Origin { stream, substream };
        let ste = self.ste(origin, memory).map_err(|event| match event {
            Event::BadStreamId { .. } if !self.registers.records_bad_streams() => Denied::Silently,
            event => Denied::With(event),
        })?;
        let stage1 = match ste.config {
            StreamConfig::Stage1(stage1) => stage1,
            StreamConfig::Abort => return Err(Denied::Silently),
            // There is no stage 2: an STE with it is ILLEGAL.
            StreamConfig::Bypass | StreamConfig::Stage2(_) | StreamConfig::Nested(..) => {
                return match substream {
                    Some(substream) => Err(Denied::With(Event::BadSubstreamId { stream, substream })),
                    None => Ok(Route::Bypass),
                };
            }
        };
        let index = match (substream, stage1.default_substream) {
            (Some(substream), _) if substream.get() >> stage1.cd_max != 0 || stage1.cd_max == 0 => {
                return Err(Denied::With(Event::BadSubstreamId { stream, substream }));
            }
            (Some(substream), DefaultSubstream::Substream0) if substream.get() == 0 => {
                return Err(Denied::With(Event::StreamDisabled { origin }));
            }
            (Some(substream), _) => substream.get(),
            (None, _) if stage1.cd_max == 0 => 0,
            (None, DefaultSubstream::Substream0) => 0,
            (None, DefaultSubstream::Bypass) => return Ok(Route::Bypass),
            (None, DefaultSubstream::Terminate) => return Err(Denied::With(Event::StreamDisabled { origin })),
        };
        let words = match self.caches.cds.look_up(stream, index) {
            Some(words) => words,
            None => {
                let address = align(stage1.context.0, 64, stage1.cd_max.into()) + u64::from(index) * 64;
                let words = fetch_words(address, memory)
                    .map_err(|Abort| Denied::With(Event::CdFetch { origin, fetch: fetch(PhysAddr(address)) }))?;
                self.caches.insert_cd(stream, index, words);
                words
            }
        };
        features()
            .and_then(|features| ContextDescriptor::decode(words, &features, &stage1).ok())
            .map(Route::Stage1)
            .ok_or(Denied::With(Event::BadCd { origin }))
    }
}

/// `base` aligned down to a table of 2^`log2` entries of `size` bytes, at least 64 bytes.
fn align(base: u64, size: u64, log2: u32) -> u64 {
    base & !((size << log2.min(50)).max(64) - 1)
}
