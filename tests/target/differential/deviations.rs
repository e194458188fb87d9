//! What QEMU's SMMU does otherwise than the specification says. The names are those of `docs/qemu-deviations.md`.
//!
//! A deviation is either in a field of a record, which is then put right in QEMU's record; or in what QEMU takes a structure
//! for, which the model is then given to see whether it does the same as QEMU with the original; or in something that no other
//! structure leads to, which is then compared with what QEMU must have done.

use alloc::vec::Vec;

use super::bench::{Bench, Outcome};
use super::case::{Built, Case, Setting, arena};
use super::same;
use crate::harness::Failure;

/// A way in which QEMU deviates.
pub(super) struct Deviation {
    pub(super) name: &'static str,
    kind: Kind,
}

enum Kind {
    /// Puts a record of QEMU's right, next to the model's of the same event.
    Record(fn(&mut [u64; 4], &[u64; 4])),
    /// Makes of a case what QEMU takes it for; told what the model does, and whether there is a stage 2.
    Taken(fn(&Case, &mut Built, &Outcome, bool)),
    /// Whether QEMU's outcome is the deviation's, next to the model's.
    Outcome(fn(&Case, &Built, &Outcome, &Outcome, bool) -> bool),
}

/// How a case went.
pub(super) enum Verdict {
    Same,
    /// The deviations that make the difference, a bit for each of [`ALL`].
    Deviations(u64),
    Different,
}

const S2: u64 = 1 << 39;
const RNW: u64 = 1 << 35;
const TTRNW: u64 = 1 << 44;
const IPA: u64 = 0x000f_ffff_ffff_f000;
/// The address in a descriptor.
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;
const VALID: u64 = 1;
/// An address bit that puts whatever is in the arena where there is nothing.
const ABSENT: u64 = 1 << 31;

/// The event number.
fn id(record: &[u64; 4]) -> u64 {
    record[0] & 0xff
}

/// CLASS: 0 CD, 1 TT, 2 IN.
fn class(record: &[u64; 4]) -> u64 {
    record[1] >> 40 & 3
}

fn is_fault(record: &[u64; 4]) -> bool {
    (0x10..=0x13).contains(&id(record))
}

/// The only record, if it is of event `number` at stage 2 or not.
fn only(outcome: &Outcome, number: u64, stage2: bool) -> Option<&[u64; 4]> {
    match &outcome.records[..] {
        [record] if id(record) == number && (record[1] & S2 != 0) == stage2 => Some(record),
        _ => None,
    }
}

fn is_nothing(outcome: &Outcome) -> bool {
    outcome.landed.is_none() && outcome.records.is_empty()
}

const fn record(name: &'static str, repair: fn(&mut [u64; 4], &[u64; 4])) -> Deviation {
    Deviation { name, kind: Kind::Record(repair) }
}

const fn taken(name: &'static str, take: fn(&Case, &mut Built, &Outcome, bool)) -> Deviation {
    Deviation { name, kind: Kind::Taken(take) }
}

const fn outcome(name: &'static str, is: fn(&Case, &Built, &Outcome, &Outcome, bool) -> bool) -> Deviation {
    Deviation { name, kind: Kind::Outcome(is) }
}

/// Output address size of `IPS` and `S2PS`, in bits, 44 being the SMMU's (5.2, 5.4).
fn output_bits(coded: u64) -> u64 {
    [32, 36, 40, 42, 44, 44, 44, 44][coded as usize]
}

/// Every one. What QEMU does is what all of them say together.
pub(super) const ALL: &[Deviation] = &[
    record("class-of-stage1", |qemu, model| {
        if is_fault(qemu) && class(model) == 2 && class(qemu) == 0 && model[1] & S2 == 0 {
            qemu[1] |= 2 << 40;
        }
    }),
    record("rnw-of-own-fetch", |qemu, model| {
        if model[1] & S2 != 0 && class(model) < 2 && qemu[1] & RNW != 0 {
            qemu[1] = qemu[1] & !RNW | model[1] & RNW;
        }
    }),
    record("s2-of-table", |qemu, model| {
        if is_fault(qemu) && model[1] & S2 != 0 && class(model) == 1 {
            qemu[1] |= S2;
        }
    }),
    record("ttrnw", |qemu, model| {
        if id(qemu) == 0x13 && class(model) == 1 {
            qemu[1] |= TTRNW;
        }
    }),
    record("ipa-of-table", |qemu, model| {
        let table = model[3] & IPA & !(arena::SLOT - 1);
        if is_fault(qemu) && model[1] & S2 != 0 && class(model) == 1 && qemu[3] & IPA == table {
            qemu[3] = model[3];
        }
    }),
    record("fetch-address", |qemu, _| {
        if matches!(id(qemu), 0x03 | 0x09) && qemu[3] == 0 {
            qemu.swap(2, 3);
        }
    }),
    taken("access-flag", |_, built, _, stage2| {
        if !stage2 {
            stage1(built).for_each(|word| *word |= 1 << 10);
        }
    }),
    taken("upper-tables-for-lower-half", |_, built, _, stage2| {
        let [(_, first), (_, ttb0), (_, ttb1), ..] = &mut built.words[..] else { return };
        if !stage2 && *first >> 14 & 1 != 0 {
            // TxSZ, TGx, whose coding differs, EPDx.
            let granule = [3, 2, 0, 1][(*first >> 22 & 3) as usize];
            *first = *first & !0x40ff | *first >> 16 & 0x403f | granule << 6;
            *ttb0 = *ttb1;
        }
    }),
    taken("s1-fields-not-ignored", |case, built, _, _| {
        let ignored = case.get(Setting::S1CdMax) != 0 || case.get(Setting::S1StallD) != 0;
        if case.get(Setting::Config) > 4 && ignored {
            built.ste[0] &= !VALID;
        }
    }),
    taken("s2-flag-updates", |_, built, _, _| built.ste[2] &= !(3 << 55)),
    taken("s2t0sz-limit", |case, built, _, _| {
        if case.has_stage2() && 64 - case.get(Setting::S2T0Sz) > output_bits(case.get(Setting::S2Ps)) {
            built.ste[0] &= !VALID;
        }
    }),
    taken("s2ttb-size", |_, built, model, _| {
        if only(model, 0x04, false).is_some() {
            built.ste[3] &= !(0xf << 48);
        }
    }),
    taken("s2ptw", |_, built, _, _| built.ste[2] &= !(1 << 54)),
    taken("tbi1", |_, built, _, _| {
        let first = &mut built.words[0].1;
        *first = *first & !(1 << 39) | (*first >> 38 & 1) << 39;
    }),
    taken("concatenated-tables", |case, built, _, _| {
        if !case.has_stage2() || case.get(Setting::S2Start) != 0 {
            return;
        }
        // All of them are the first one.
        let first = built.words[0].0 - arena::CD + arena::STAGE2;
        let size = built.walk2.entries() * 8;
        let all = first..first - arena::STAGE2 + arena::SLOTS;
        built.words.retain(|(at, _)| !(first + size..all.end).contains(at));
        for (at, word) in built.words.clone() {
            if (first..first + size).contains(&at) {
                let copies = (1..16).map(|table| (at + table * size, word));
                built.words.extend(copies.filter(|(at, _)| all.contains(at)));
            }
        }
    }),
    outcome("concatenated-tables", |_, built, qemu, model, _| {
        // A fetch that fails tells where it looked.
        let (Some(qemu), Some(model)) = (only(qemu, 0x0b, true), only(model, 0x0b, true)) else { return false };
        let apart = model[3].wrapping_sub(qemu[3]);
        qemu[..3] == model[..3] && apart % (built.walk2.entries() * 8) == 0 && apart >> 20 == 0
    }),
    taken("permissions-of-tables-first", |case, built, _, _| {
        let half = if case.get(Setting::Half) == 1 { 2 } else { 1 };
        if built.words[half].1 >> 1 & 1 != 0 {
            return;
        }
        let last = built.walk1.start + built.stage1.len() as u8;
        let mut read_only = false;
        for (level, (_, word)) in (built.walk1.start..).zip(&mut built.words[built.stage1.clone()]) {
            read_only |= level < 3 && *word & 3 == 3 && *word >> 62 & 1 != 0;
            if read_only {
                *word &= !(0xffff << 32);
            }
        }
        let right = if last == 4 { 3 } else { 1 };
        if read_only && let Some((_, leaf)) = built.words[built.stage1.clone()].last_mut() {
            *leaf = *leaf & !3 | right | 1 << 10;
        }
    }),
    outcome("permissions-of-tables-first", |_, built, qemu, model, _| {
        // The leaf itself is a table, and leads to nothing.
        let Some((_, last)) = built.words[built.stage1.clone()].last() else { return false };
        let table = built.walk1.start + (built.stage1.len() as u8) < 4 && last & 3 == 3 && last >> 62 & 1 != 0;
        table && only(model, 0x10, false).is_some() && only(qemu, 0x13, false).is_some()
    }),
    outcome("permissions-of-tables-first", |case, built, qemu, model, _| {
        // What follows that table cannot be read, of which stage 2 says nothing with S2R = 0.
        let mut words = (built.walk1.start..).zip(&built.words[built.stage1.clone()]);
        let read_only = words.any(|(level, (_, word))| level < 3 && word & 3 == 3 && word >> 62 & 1 != 0);
        let of_write = |record: &[u64; 4]| record[1] & RNW == 0;
        let at_stage2 = |record: &[u64; 4]| is_fault(record) && class(record) == 1 && record[1] & S2 != 0;
        let unreadable = match &model.records[..] {
            [record] => id(record) == 0x0b || at_stage2(record),
            _ => is_nothing(model) && case.has_stage2() && built.ste[2] >> 58 & 1 == 0,
        };
        read_only && unreadable && only(qemu, 0x13, false).is_some_and(of_write)
    }),
    taken("address-size-last", |case, built, model, stage2| {
        // Of a leaf that is too large, with faults of its own.
        let leaf = |word: u64| word & 0x0000_ffff_0000_0000;
        if only(model, 0x11, true).is_some() && (case.get(Setting::S2Ap) != 3 || case.get(Setting::S2Af) == 0) {
            let (high, own) = (case.get(Setting::S2LeafHigh), case.get(Setting::S2TableHigh));
            let first = built.stage1.end;
            for (_, word) in built.words[first..].iter_mut().filter(|_| own == 0) {
                *word &= !leaf(high);
            }
        }
        let leaf_faults = case.get(Setting::LeafAp) & 2 != 0 || case.get(Setting::LeafAf) == 0;
        if stage2 && only(model, 0x11, false).is_some() && leaf_faults && case.get(Setting::TableHigh) == 0 {
            let high = leaf(case.get(Setting::LeafHigh));
            if let Some((_, word)) = built.words[built.stage1.clone()].last_mut() {
                *word &= !high;
            }
        }
    }),
    outcome("address-size-last", |case, built, qemu, model, _| {
        // A table's descriptor as a block at stage 2, with AF and S2AP 0.
        let block = case.get(Setting::S2TableType) == 3 && built.walk2.has_block(built.walk2.start);
        let faults = only(qemu, 0x12, true).is_some() || only(qemu, 0x13, true).is_some();
        block && faults && only(model, 0x11, true).is_some()
    }),
    taken("output-address-size", |_, built, model, stage2| {
        let size = output_bits(built.words[0].1 >> 32 & 7);
        let beyond = only(model, 0x11, false).is_some() || is_nothing(model) && !records_stage1(built);
        let start = built.walk1.start;
        let is_leaf = |(level, word): &(u8, &mut u64)| *level == 3 || **word & 3 != 3;
        if !stage2
            && beyond
            && reserved_block(built).is_none()
            && let Some((_, word)) = (start..).zip(stage1(built)).find(is_leaf)
            && (*word & ADDRESS) >> size != 0
        {
            *word = absent(*word);
        }
    }),
    taken("table-address-size", |case, built, model, _| {
        let unrecorded = |recorded: bool| is_nothing(model) && !recorded;
        let first = built.stage1.end;
        let (ips, s2ps) = (output_bits(built.words[0].1 >> 32 & 7), output_bits(built.ste[2] >> 48 & 7));
        let of_table = (only(model, 0x11, false).is_some() || unrecorded(records_stage1(built))) && !case.has_stage2();
        if of_table {
            let mut beyond = false;
            for (_, word) in stage1_tables(built).filter(|(_, word)| (*word & ADDRESS) >> ips != 0) {
                *word = absent(*word);
                beyond = true;
            }
            built.beyond = if beyond { case.get(Setting::TableHigh) } else { 0 };
        }
        // Of what is in memory, only tables of stage 2 lie behind those of stage 1.
        let more = built.words[0].0 - arena::CD + arena::STAGE2_MORE;
        let size = only(model, 0x11, true).is_some() || only(model, 0x11, false).is_some() || is_nothing(model);
        for (_, word) in built.words[first..].iter_mut().filter(|_| size && case.has_stage2()) {
            let address = *word & ADDRESS;
            if *word & 3 == 3 && address >> s2ps != 0 && address & 0xffff_ffff >= more {
                *word = absent(*word);
                built.beyond = case.get(Setting::S2TableHigh);
            }
        }
    }),
    taken("always-privileged", |_, built, model, _| {
        // AP[1] and APTable[0].
        if only(model, 0x13, false).is_some() || is_nothing(model) && !records_stage1(built) {
            stage1(built).for_each(|word| *word = (*word | 1 << 6) & !(1 << 61));
        }
    }),
    taken("reserved-blocks", |case, built, model, _| {
        let unrecorded = is_nothing(model) && built.words[0].1 >> 45 & 1 == 0;
        if let Some((level, word)) = reserved_block(built)
            && (only(model, 0x10, false).is_some() || unrecorded)
        {
            let inside = (1 << built.walk1.shift(level)) - 1;
            built.address = word & 0x0000_ffff_ffff_f000 & !inside | built.address & inside;
            // Config: stage 1 bypasses.
            built.ste[0] &= !2;
        }
        // All that stage 2 maps with such blocks it maps to itself.
        let leaf = built.walk2.leaf(case.get(Setting::S2LeafUp));
        let reserved = case.has_stage2() && leaf < 3 && !built.walk2.has_block(leaf);
        if reserved && (only(model, 0x10, true).is_some() || is_nothing(model)) {
            built.ste[0] &= !4;
        }
    }),
    taken("ttb0-before-cd", |case, built, model, _| {
        // A look at the first table for nothing: with what is behind TTB0 gone, there is no other way for it to succeed.
        let later = only(model, 0x0a, false).is_some()
            || only(model, 0x10, false).is_some()
            || is_nothing(model) && !records_stage1(built);
        let faults = case.get(Setting::TtbHigh) != 0 || case.get(Setting::Victim) == 2;
        if case.get(Setting::Config) == 7 && faults && later {
            let first = &mut built.words[0].1;
            let granule = [2, 3, 1, 2][(*first >> 6 & 3) as usize];
            *first = *first & !(0xff << 16) | (*first & 0x3f) << 16 | granule << 22;
            *first &= !(1 << 14 | 1 << 30);
            built.address &= 0xfff;
            stage1(built).for_each(|word| *word = 0);
        }
    }),
    outcome("reserved-blocks", |_, built, qemu, model, _| {
        // The block's own faults.
        let Some((_, word)) = reserved_block(built) else { return false };
        let accessed = word >> 10 & 1 != 0;
        only(model, 0x10, false).is_some()
            && (only(qemu, 0x12, false).is_some() && !accessed
                || only(qemu, 0x13, false).is_some() && word >> 7 & 1 != 0)
    }),
    outcome("reserved-blocks", |case, built, qemu, model, _| {
        // A table's descriptor as a block at stage 2, with AF and S2AP 0.
        let block = case.get(Setting::S2TableType) == 3 && !built.walk2.has_block(built.walk2.start);
        let faults = only(qemu, 0x12, true).is_some() || only(qemu, 0x13, true).is_some();
        block && faults && only(model, 0x10, true).is_some()
    }),
    outcome("reserved-blocks", |_, built, qemu, model, _| {
        // It is larger than what can be put out, of which QEMU checks where it begins.
        let large = reserved_block(built).is_some_and(|(level, _)| built.walk1.shift(level) > 44);
        let beyond = is_nothing(qemu) || only(qemu, 0x10, true).is_some();
        large && beyond && only(model, 0x11, false).is_some()
    }),
    outcome("s2sl0-too-high", |case, built, qemu, model, _| {
        let coded = built.ste[2] >> 38 & 3;
        let level = if case.get(Setting::S2Granule) == 0 { 2_u64.wrapping_sub(coded) } else { 3 - coded };
        let resolves_nothing = level < 4 && 64 - case.get(Setting::S2T0Sz) <= built.walk2.shift(level as u8).into();
        case.has_stage2() && resolves_nothing && only(model, 0x04, false).is_some() && qemu.landed.is_none()
    }),
    outcome("table-address-size", |case, built, qemu, model, _| {
        // Into stage 2 with it, which says the same of it.
        let ips = output_bits(built.words[0].1 >> 32 & 7);
        let mut tables = built.words[built.stage1.clone()].iter().map(|(_, word)| word & ADDRESS);
        let [record] = &qemu.records[..] else { return false };
        let asked =
            id(record) == 0x11 && class(record) == 1 && tables.any(|table| table >> ips != 0 && table == record[3]);
        let same_access = |model: &[u64; 4]| model[2] == record[2] && (model[1] ^ record[1]) & (RNW | 3 << 33) == 0;
        asked && case.has_stage2() && only(model, 0x11, false).is_some_and(same_access)
    }),
    outcome("s2-of-table", |_, built, qemu, model, _| {
        // CD.R in place of S2R.
        let cd = built.words[0].1 >> 45 & 1 != 0;
        let stage2 = built.ste[2] >> 58 & 1 != 0;
        let of_table = |outcome: &Outcome, stage2| {
            let [record] = &outcome.records[..] else { return false };
            is_fault(record) && class(record) == 1 && (record[1] & S2 != 0) == stage2
        };
        cd && !stage2 && is_nothing(model) && of_table(qemu, false)
            || !cd && stage2 && is_nothing(qemu) && of_table(model, true)
    }),
    outcome("output-address-size", |_, built, qemu, model, stage2| {
        !stage2 && reserved_block(built).is_some() && is_nothing(qemu) && only(model, 0x11, false).is_some()
    }),
    outcome("context-address-size", |case, built, qemu, model, _| {
        let context = built.ste[0] & 0x00ff_ffff_ffff_ffc0;
        let fetched = only(qemu, 0x09, false).is_some_and(|record| record[3] == context);
        case.has_stage1() && context >> 44 != 0 && fetched && only(model, 0x04, false).is_some()
    }),
    outcome("ttb-after-stage2", |case, built, qemu, model, _| {
        // The first table lies where stage 2 says, truncated to what IPS allows for addresses before stage 2.
        let [(_, cd), ..] = built.words[..] else { return false };
        let truncated = |record: &[u64; 4]| record[1] >> 40 & 3 == 1 && record[3] >> output_bits(cd >> 32 & 7) != 0;
        let first = built.stage1.len() == 1 && case.get(Setting::Victim) == 2 && case.has_stage2();
        let (at, leaf) = (built.words[0].0 - arena::CD, built.words[built.stage1.clone()].last());
        let inside = (1 << built.walk1.shift(built.walk1.start)) - 1;
        let lands = leaf.map(|(_, leaf)| (leaf & 0xffff_f000 & !inside | built.address & 0xffff_ffff & inside) - at);
        first && only(model, 0x0b, false).is_some_and(truncated) && qemu.landed.is_some() && qemu.landed == lands
    }),
    outcome("bypass-address-size", |case, built, qemu, model, _| {
        // Of config 7, the address that the SMMU itself puts into stage 2.
        let (beyond, is_said) = match case.get(Setting::Config) {
            4 | 6 => (built.address, only(model, 0x11, false).is_some_and(|record| record[2] == built.address)),
            7 => (built.ste[0] & 0x00ff_ffff_ffff_ffc0, only(model, 0x04, false).is_some()),
            _ => return false,
        };
        beyond >> 44 != 0 && is_said && is_nothing(qemu)
    }),
];

/// Their names, each once.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    let is_first =
        |&(index, deviation): &(usize, &Deviation)| ALL[..index].iter().all(|other| other.name != deviation.name);
    ALL.iter().enumerate().filter(is_first).map(|(_, deviation)| deviation.name)
}

/// The block at a level that has none which a walk of stage 1 comes to, and its level.
fn reserved_block(built: &Built) -> Option<(u8, u64)> {
    // EPD0 or EPD1: it comes to nothing.
    let disabled = if built.address >> 55 & 1 != 0 { 30 } else { 14 };
    if built.words[0].1 >> disabled & 1 != 0 {
        return None;
    }
    for (level, (_, word)) in (built.walk1.start..3).zip(&built.words[built.stage1.clone()]) {
        match word & 3 {
            1 if !built.walk1.has_block(level) => return Some((level, *word)),
            3 => {}
            _ => break,
        }
    }
    None
}

/// Whether faults of stage 1 are recorded: CD.R.
fn records_stage1(built: &Built) -> bool {
    built.words[0].1 >> 45 & 1 != 0
}

/// `word` with an address of 32 bits at which there is nothing.
fn absent(word: u64) -> u64 {
    word & !(0xffff << 32) | ABSENT
}

/// The descriptors of stage 1 that are tables.
fn stage1_tables(built: &mut Built) -> impl Iterator<Item = &mut (u64, u64)> {
    let tables = built.stage1.len().min(usize::from(3_u8.saturating_sub(built.walk1.start)));
    built.words[built.stage1.clone()][..tables].iter_mut().filter(|(_, word)| word & 3 == 3)
}

/// The stage 1 descriptors.
fn stage1(built: &mut Built) -> impl Iterator<Item = &mut u64> {
    built.words[built.stage1.clone()].iter_mut().map(|(_, word)| word)
}

/// Judges a case whose outcomes differ.
pub(super) fn judge(
    bench: &mut Bench,
    case: &Case,
    built: &Built,
    [qemu, model]: &[Outcome; 2],
) -> Result<Verdict, Failure> {
    let stage2 = bench.has_stage2();
    let mut seen = 0;
    let (mut altered, mut taken) = (built.clone(), model.clone());
    // What a structure is taken for need not make the difference, so any of the model's outcomes on the way may be QEMU's.
    let mut outcomes = Vec::from([(model.clone(), 0)]);
    for (index, deviation) in ALL.iter().enumerate() {
        if let Kind::Taken(take) = deviation.kind {
            let before = altered.clone();
            take(case, &mut altered, &taken, stage2);
            if before != altered {
                taken = bench.run_model(&altered)?;
                let mut outcome = taken.clone();
                for record in &mut outcome.records {
                    // It tells the address of the access, whatever that was altered to, and where the table was to be.
                    if record[2] == altered.address {
                        record[2] = built.address;
                    }
                    if altered.beyond != 0 && record[3] & ABSENT != 0 {
                        record[3] = record[3] & !ABSENT | altered.beyond;
                    }
                }
                if outcomes.last().is_none_or(|(last, _)| *last != outcome) {
                    seen |= 1 << index;
                    outcomes.push((outcome, seen));
                }
            }
        }
    }
    for (model, mut seen) in outcomes {
        let mut repaired = qemu.clone();
        for (index, deviation) in ALL.iter().enumerate() {
            if let Kind::Record(repair) = deviation.kind {
                for (record, model) in repaired.records.iter_mut().zip(&model.records) {
                    let before = *record;
                    if id(record) == id(model) || id(record) == 0x09 {
                        repair(record, model);
                    }
                    if before != *record {
                        seen |= 1 << index;
                    }
                }
            }
        }
        let pair = [repaired, model.clone()];
        if same(&pair) {
            return Ok(Verdict::Deviations(seen));
        }
        let [repaired, model] = &pair;
        let is = |deviation: &Deviation| match deviation.kind {
            Kind::Outcome(is) => is(case, built, repaired, model, stage2),
            _ => false,
        };
        if let Some(index) = ALL.iter().position(is) {
            return Ok(Verdict::Deviations(seen | 1 << index));
        }
    }
    Ok(Verdict::Different)
}
