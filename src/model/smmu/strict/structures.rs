//! STEs and CDs that change under the SMMU (3.21.3).
//!
//! The SMMU reads the 64-bit words of a structure one by one in any order. So while a structure is valid, it may change
//! only so that every mixture of its old and its new words means what the old ones meant or what the new ones mean.
//! Strict mode knows the words of the structures that transactions went through, and looks at them again at each CFGI:
//! between two of those there is no moment at which an SMMU could not have read.
//!
//! CDs behind a stage 2 are not looked at.

use super::super::Smmu;
use super::super::configuration::{TABLE_ADDRESS, align, fetch_words, level2_address, split};
use super::super::registers::cr0;
use super::commands::covers;
use super::{Recent, Rule};
use crate::model::memory::Memory;
use crate::smmuv3::StreamId;
use crate::smmuv3::cd::{ContextDescriptor, L1ContextDescriptor};
use crate::smmuv3::command::Command;
use crate::smmuv3::event::Origin;
use crate::smmuv3::features::Features;
use crate::smmuv3::ste::{ContextTableFormat, Stage1, Ste, StreamConfig};

/// How many STEs and how many CDs are watched.
const WATCHED: usize = 16;

type Words = [u64; 8];

#[derive(Clone, Copy, Debug)]
struct WatchedSte {
    stream: StreamId,
    address: u64,
    words: Words,
    live: bool,
}

#[derive(Clone, Copy, Debug)]
struct WatchedCd {
    stream: StreamId,
    index: u32,
    stage1: Stage1,
    address: u64,
    words: Words,
    live: bool,
}

/// The structures that transactions went through last.
#[derive(Debug)]
pub(super) struct Watched {
    stes: Recent<WatchedSte, WATCHED>,
    cds: Recent<WatchedCd, WATCHED>,
}

impl Watched {
    pub(super) const fn new() -> Self {
        Self { stes: Recent::new(), cds: Recent::new() }
    }
}

/// Whether some mixture of the words `old` and `new`, neither of them nor what they mean, may be read. `meaning` is `None`
/// for words that are no valid structure.
fn is_torn<T: PartialEq>(old: &Words, new: &Words, meaning: impl Fn(Words) -> Option<T>) -> bool {
    let ends = [meaning(*old), meaning(*new)];
    // One bit for each word: from which of the two it is.
    (0..1u32 << old.len()).any(|choice| {
        let pick = |word: usize| choice >> word & 1 != 0;
        // Words that are the same need only be looked at once.
        if (0..old.len()).any(|word| pick(word) && old.get(word) == new.get(word)) {
            return false;
        }
        let mut mixture = *old;
        mixture.iter_mut().zip(new).enumerate().for_each(|(word, (to, from))| {
            if pick(word) {
                *to = *from;
            }
        });
        !ends.contains(&meaning(mixture))
    })
}

/// What the words of an STE mean. All that abort mean the same.
fn ste_meaning(words: Words, features: &Features) -> Option<Ste> {
    match Ste::decode(words, features).ok()? {
        Ste { config: StreamConfig::Abort, .. } => Some(Ste::new(StreamConfig::Abort)),
        ste => Some(ste),
    }
}

impl Smmu {
    /// Whether the stream table has a place for `stream` (6.3.25).
    fn has_place(&self, StreamId(stream): StreamId) -> bool {
        let log2 = self.registers.strtab_base_cfg & 0x3f;
        u64::from(stream) >> log2.min(self.registers.features.sid_bits.into()) == 0
    }

    /// Where the STE of `stream` lies (5.1), by the level 1 descriptor that `kept` has for its SPLIT, or else the one in
    /// memory.
    fn ste_address(&self, id: StreamId, kept: impl FnOnce(u32) -> Option<u64>, memory: &impl Memory) -> Option<u64> {
        let (StreamId(stream), configuration) = (id, self.registers.strtab_base_cfg);
        let (log2, base) = (configuration & 0x3f, self.registers.strtab_base & TABLE_ADDRESS);
        if !self.has_place(id) {
            return None;
        }
        if configuration >> 16 & 3 != 1 {
            return Some(align(base, 64, log2) + u64::from(stream) * 64);
        }
        let split = split(configuration);
        let at = align(base, 8, log2.saturating_sub(split)) + u64::from(stream >> split) * 8;
        let in_memory = || fetch_words(at, self.registers.output_bits(), memory).ok().map(|[descriptor]| descriptor);
        level2_address(kept(split).or_else(in_memory)?, id, split)
    }

    /// The STE of `stream` as it is in memory, if it is one.
    pub(super) fn ste_in_memory(&self, stream: StreamId, memory: &impl Memory) -> Option<Ste> {
        let address = self.ste_address(stream, |_| None, memory)?;
        Ste::decode(fetch_words(address, self.registers.output_bits(), memory).ok()?, &self.registers.features).ok()
    }

    /// The STE that a transaction of `stream` would find, if it is one: what the caches have of it or of the way there goes
    /// before memory.
    pub(super) fn ste_in_use(&self, stream: StreamId, memory: &impl Memory) -> Option<Ste> {
        let stes = &self.caches.stes;
        let in_memory = || {
            let address = self.ste_address(stream, |split| stes.look_up_level1(stream, split), memory)?;
            fetch_words(address, self.registers.output_bits(), memory).ok()
        };
        let words = stes.look_up(stream).filter(|_| self.has_place(stream)).or_else(in_memory)?;
        Ste::decode(words, &self.registers.features).ok()
    }

    /// Where CD number `index` lies now, if stage 2 is not in the way (5.2, 5.3).
    fn cd_address_now(&self, stage1: &Stage1, index: u32, memory: &impl Memory) -> Option<u64> {
        let split = match stage1.format {
            ContextTableFormat::Linear => {
                return Some(align(stage1.context.0, 64, stage1.cd_max.into()) + u64::from(index) * 64);
            }
            ContextTableFormat::TwoLevel4K => 6,
            ContextTableFormat::TwoLevel64K => 10,
        };
        let level1 = align(stage1.context.0, 8, u32::from(stage1.cd_max).saturating_sub(split));
        let at = level1 + u64::from(index >> split) * 8;
        let [word] = fetch_words(at, self.registers.output_bits(), memory).ok()?;
        let level2 = L1ContextDescriptor::decode(word)?;
        Some(align(level2.table.0, 64, split) + u64::from(index & ((1 << split) - 1)) * 64)
    }

    /// A transaction of `origin` arrives: its STE and CD are watched from now on.
    pub(in crate::model::smmu) fn watch_structures(&mut self, origin: Origin, memory: &impl Memory) {
        if self.strict.on && self.registers.enabled(cr0::SMMUEN) {
            let _ = self.watch(origin, memory);
        }
    }

    fn watch(&mut self, Origin { stream, substream }: Origin, memory: &impl Memory) -> Option<()> {
        let output_bits = self.registers.output_bits();
        let address = self.ste_address(stream, |_| None, memory)?;
        let words = fetch_words(address, output_bits, memory).ok()?;
        let StreamConfig::Stage1(stage1) = self.watch_ste(stream, address, words)? else { return None };
        let index = substream.map_or(0, |substream| substream.get());
        if u64::from(index) >> stage1.cd_max != 0
            || self.strict.watched.cds.iter().any(|cd| cd.live && (cd.stream, cd.index) == (stream, index))
        {
            return None;
        }
        let address = self.cd_address_now(&stage1, index, memory)?;
        let words = fetch_words(address, output_bits, memory).ok()?;
        ContextDescriptor::decode(words, &self.registers.features, &stage1).ok()?;
        self.strict.watched.cds.push(WatchedCd { stream, index, stage1, address, words, live: true });
        Some(())
    }

    /// Watches a valid STE, and gives its configuration.
    fn watch_ste(&mut self, stream: StreamId, address: u64, words: Words) -> Option<StreamConfig> {
        let ste = Ste::decode(words, &self.registers.features).ok()?;
        if !self.strict.watched.stes.iter().any(|ste| ste.live && ste.stream == stream) {
            self.strict.watched.stes.push(WatchedSte { stream, address, words, live: true });
        }
        Some(ste.config)
    }

    /// A CFGI command is consumed: looks at what it covers again.
    pub(super) fn check_structures(&mut self, command: &Command, memory: &impl Memory) {
        let features = self.registers.features;
        let output_bits = self.registers.output_bits();
        for place in 0..WATCHED {
            let Some(mut ste) = self.strict.watched.stes.entries.get(place).copied().flatten() else { continue };
            if !ste.live || !covers(command, ste.stream) {
                continue;
            }
            let now = self.ste_address(ste.stream, |_| None, memory).filter(|address| *address == ste.address);
            let now = now.and_then(|address| fetch_words(address, output_bits, memory).ok());
            let now = now.filter(|words| ste_meaning(*words, &features).is_some());
            if let Some(now) = now
                && is_torn(&ste.words, &now, |words| ste_meaning(words, &features))
            {
                let about = [
                    ("StreamID", ste.stream.0.into()),
                    ("address", ste.address),
                    ("changed words", changed(&ste.words, &now)),
                ];
                self.strict.violate(Rule::TornSte, about);
            }
            ste.live = now.is_some();
            ste.words = now.unwrap_or(ste.words);
            if let Some(entry) = self.strict.watched.stes.entries.get_mut(place) {
                *entry = Some(ste);
            }
        }
        for place in 0..WATCHED {
            let Some(mut cd) = self.strict.watched.cds.entries.get(place).copied().flatten() else { continue };
            let covered = match *command {
                Command::CfgiCd { stream, substream, .. } => (stream, substream.get()) == (cd.stream, cd.index),
                Command::CfgiCdAll { stream } => stream == cd.stream,
                _ => false,
            };
            // Another STE may lead elsewhere: the next transaction will tell.
            if covers(command, cd.stream) {
                cd.live = false;
            } else if cd.live && covered {
                let meaning = |words| ContextDescriptor::decode(words, &features, &cd.stage1).ok();
                let now = fetch_words(cd.address, output_bits, memory).ok();
                let now = now.filter(|words| meaning(*words).is_some());
                if let Some(now) = now
                    && is_torn(&cd.words, &now, meaning)
                {
                    let about = [
                        ("StreamID", cd.stream.0.into()),
                        ("SubstreamID", cd.index.into()),
                        ("address", cd.address),
                        ("changed words", changed(&cd.words, &now)),
                    ];
                    self.strict.violate(Rule::TornCd, about);
                }
                cd.live = now.is_some();
                cd.words = now.unwrap_or(cd.words);
            }
            if let Some(entry) = self.strict.watched.cds.entries.get_mut(place) {
                *entry = Some(cd);
            }
        }
    }
}

/// Which words have changed, one bit each.
fn changed(old: &Words, new: &Words) -> u64 {
    let words = old.iter().zip(new).enumerate().filter(|(_, (old, new))| old != new);
    words.fold(0, |changed, (word, _)| changed | 1 << word)
}
