//! Every change between kinds of structures, in every state on the way. Words are written by hand from 5.2 and 5.4.

use alloc::vec::Vec;
use core::convert::Infallible;
use std::thread;

use super::*;
use crate::smmuv3::PhysAddr;
use crate::smmuv3::cd::ContextDescriptor;
use crate::smmuv3::features::test_features;
use crate::smmuv3::ste::{ContextTableFormat, DefaultSubstream, Stage1, Ste, StreamConfig, StreamWorld};

type Words = [u64; WORDS];

const NONE: Words = [0; WORDS];

/// S2VMID 7; SHCFG 1; tables inner shareable, write-back. One of another kind where there is a table: the same with another.
mod ste {
    use super::Words;

    pub(super) const ABORT: Words = [0x1, 0, 0, 0, 0, 0, 0, 0];
    pub(super) const BYPASS: Words = [0x9, 0x1000_0000_0000, 0, 0, 0, 0, 0, 0];
    /// S1STALLD.
    pub(super) const ONE_CD: Words = [0x8123_400b, 0x1000_0800_00d4, 0x7, 0, 0, 0, 0, 0];
    /// S1CDMax 8, S1Fmt 1, S1DSS 2.
    pub(super) const CD_TABLE: Words = [0x4000_0000_8200_001b, 0x1000_0800_00d6, 0x7, 0, 0, 0, 0, 0];
    /// S2T0SZ 24, S2SL0 1, S2PS 4, S2AA64, S2R.
    pub(super) const STAGE2: Words = [0xd, 0x1000_0000_0000, 0x040c_3558_0000_0007, 0x9000_0000, 0, 0, 0, 0];
    /// Both, and S2PTW.
    pub(super) const NESTED: Words =
        [0x4000_0000_8200_001f, 0x1000_0800_00d6, 0x044c_3558_0000_0007, 0x9000_0000, 0, 0, 0, 0];

    /// With the name that docs/structures.md gives them.
    pub(super) const KINDS: [(&str, Words); 6] = [
        ("abort", ABORT),
        ("bypass", BYPASS),
        ("one CD", ONE_CD),
        ("CD table", CD_TABLE),
        ("stage 2", STAGE2),
        ("nested", NESTED),
    ];

    /// The same kind with another table.
    pub(super) fn other_table(mut words: Words) -> Words {
        match words[0] & 0xf {
            0xb => words[0] += 0x10_0000,
            0xd | 0xf => words[3] += 0x10_0000,
            _ => {}
        }
        words
    }

    /// With S2VMID 8, where it counts.
    pub(super) fn other_vmid(mut words: Words) -> Words {
        if words[2] != 0 {
            words[2] ^= 0xf;
        }
        words
    }
}

mod cd {
    use super::Words;

    /// T0SZ 25, IR0 1, OR0 1, SH0 3, EPD1, V, IPS 4, AA64, R, A, ASET, ASID 0x11; TTB0; MAIR.
    pub(super) const SPACE: Words = [0x0011_e204_c000_3519, 0x8800_0000, 0, 0xff, 0, 0, 0, 0];
    pub(super) const OTHER: Words = [0x0012_e204_c000_3519, 0x8900_0000, 0, 0xff, 0, 0, 0, 0];
    /// With ASID 0x11.
    pub(super) const OTHER_TABLES: Words = [0x0011_e204_c000_3519, 0x8900_0000, 0, 0xff, 0, 0, 0, 0];
    /// EPD0, EPD1, V, IPS 4, AA64, A, ASET, ASID 0, and what a space leaves.
    pub(super) const NO_TABLES: Words = [0x0000_c204_c000_4000, 0x8800_0000, 0, 0xff, 0, 0, 0, 0];
    /// V is 0, and what a space leaves.
    pub(super) const GONE: Words = [0, 0x8800_0000, 0, 0xff, 0, 0, 0, 0];

    pub(super) const KINDS: [Words; 5] = [SPACE, OTHER, OTHER_TABLES, NO_TABLES, GONE];
}

/// What words mean to the SMMU.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Meaning {
    Invalid,
    Illegal,
    Ste(Ste),
    Cd(ContextDescriptor),
}

fn ste_meaning(words: &Words) -> Meaning {
    if words[0] & 1 == 0 {
        return Meaning::Invalid;
    }
    match Ste::decode(*words, &test_features()) {
        Err(_) => Meaning::Illegal,
        // All else is IGNORED (5.2.1).
        Ok(Ste { config: StreamConfig::Abort, .. }) => Meaning::Ste(Ste::new(StreamConfig::Abort)),
        Ok(ste) => Meaning::Ste(ste),
    }
}

fn cd_meaning(words: &Words) -> Meaning {
    let stage1 = Stage1 {
        context: PhysAddr(0),
        cd_max: 8,
        format: ContextTableFormat::Linear,
        default_substream: DefaultSubstream::Terminate,
        attributes: crate::smmuv3::TableAttributes::COHERENT,
        stall_disabled: false,
        world: StreamWorld::El1,
    };
    match ContextDescriptor::decode(*words, &test_features(), &stage1) {
        _ if words[0] & 1 << 31 == 0 => Meaning::Invalid,
        Err(_) => Meaning::Illegal,
        Ok(cd) => Meaning::Cd(cd),
    }
}

type Mean = fn(&Words) -> Meaning;

/// All that can be made of a choice of values for each word.
fn mixtures(choices: &[Vec<u64>; WORDS]) -> Vec<Words> {
    choices.iter().enumerate().fold([NONE].to_vec(), |all, (word, values)| {
        all.iter()
            .flat_map(|words| {
                values.iter().map(move |value| {
                    let mut words = *words;
                    words[word] = *value;
                    words
                })
            })
            .collect()
    })
}

/// What an SMMU may hold of a structure: of each word every value since the last invalidation that was completed.
struct Held([Vec<u64>; WORDS]);

impl Held {
    fn new(words: Words) -> Self {
        Self(words.map(|word| [word].to_vec()))
    }

    fn add(&mut self, words: &Words) {
        for (held, word) in self.0.iter_mut().zip(words) {
            if !held.contains(word) {
                held.push(*word);
            }
        }
    }

    fn meanings(&self, mean: Mean) -> Vec<Meaning> {
        mixtures(&self.0).iter().map(mean).collect()
    }
}

/// The steps of a change, and whether the structure is not invalid meanwhile. Every state on the way is checked.
#[track_caller]
fn steps(kind: &Kind, mean: Mean, old: Words, target: Words) -> (usize, bool) {
    let (entry, settled) = (old.map(AtomicU64::new), Cell::new(true));
    let ends = [mean(&old), mean(&target)];
    assert!(!ends.contains(&Meaning::Illegal), "{ends:?}");
    let mut before = old;
    let (mut steps, mut writes, mut hitless) = (0, 0, true);
    change(kind, &entry, &settled, &target, || {
        let now = words(&entry);
        let mut held = Held::new(before);
        held.add(&now);
        for meaning in held.meanings(mean) {
            let invalid = meaning == Meaning::Invalid;
            assert!(ends.contains(&meaning) || invalid, "{old:x?} {target:x?}: {meaning:?} of {:x?}", held.0);
            hitless &= !invalid || ends.contains(&meaning);
        }
        writes += before.iter().zip(&now).filter(|(before, now)| before != now).count();
        (steps, before) = (steps + 1, now);
        Ok::<_, Infallible>(())
    })
    .unwrap();
    assert_eq!(mean(&words(&entry)), ends[1], "{old:x?} {target:x?}");
    // Each word that is another is written once, and word 0 twice if it is made invalid.
    let differ = |range: core::ops::Range<usize>| range.filter(|&word| old[word] != target[word]).count();
    let limit = if hitless { differ(0..WORDS) } else { 2 + differ(1..WORDS) };
    assert!(writes <= limit, "{old:x?} {target:x?}: {writes} writes");
    (steps, hitless)
}

/// The least number of steps from `old` to what `target` means by values that have a sense in each word, and without being
/// invalid if that is possible.
fn least(kind: &Kind, mean: Mean, old: Words, target: Words) -> (usize, bool) {
    let (counts, needed) = ((kind.used)(&old), (kind.used)(&target));
    let choices: [Vec<u64>; WORDS] = core::array::from_fn(|word| {
        let (old, target, counts, needed) = (old[word], target[word], counts[word], needed[word]);
        let mut values = [old, target, old & counts | target & !counts, target & needed | old & !needed].to_vec();
        if word == 0 {
            let off: Vec<_> = values.iter().map(|value| value & !kind.valid).collect();
            values.extend(off);
        }
        values.sort();
        values.dedup();
        values
    });
    let all: Vec<(Words, Meaning)> = mixtures(&choices).into_iter().map(|words| (words, mean(&words))).collect();
    let of = |words: &Words| all.iter().find(|known| known.0 == *words).map(|known| known.1).unwrap();
    let ends = [mean(&old), mean(&target)];
    let reach = |through_invalid: bool| {
        let allowed = |meaning: &Meaning| ends.contains(meaning) || through_invalid && *meaning == Meaning::Invalid;
        let mut reached = [old].to_vec();
        for steps in 0..4 {
            if reached.iter().any(|words| of(words) == ends[1]) {
                return Some(steps);
            }
            let from = reached.clone();
            for (next, _) in all.iter().filter(|(_, meaning)| allowed(meaning)) {
                let step = |from: &Words| {
                    let mut held = Held::new(*from);
                    held.add(next);
                    mixtures(&held.0).iter().all(|words| allowed(&of(words)))
                };
                if !reached.contains(next) && from.iter().any(step) {
                    reached.push(*next);
                }
            }
        }
        None
    };
    match reach(false) {
        Some(steps) => (steps, true),
        None => (reach(true).unwrap(), false),
    }
}

/// The rows of the tables in the documentation whose first row begins with `head`, one after the other, as cells.
fn tables(head: &str) -> Vec<Vec<Vec<&'static str>>> {
    let mut tables = Vec::new();
    let mut lines = include_str!("../../../docs/structures.md").lines();
    while let Some(line) = lines.next() {
        if !line.starts_with(head) {
            continue;
        }
        let rows = lines.by_ref().skip(1).take_while(|line| line.starts_with('|'));
        tables.push(rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect()).collect());
    }
    tables
}

/// A cell of these tables: steps, and whether nothing is interrupted.
fn cell(text: &str) -> (usize, bool) {
    (text.trim_end_matches('!').parse().unwrap(), !text.ends_with('!'))
}

#[test]
fn every_change_of_kind_takes_the_steps_of_the_table() {
    let tables = tables("| from, to |");
    assert_eq!(tables.len(), 2);
    for (table, other) in tables.iter().zip([ste::other_table, |words| ste::other_vmid(ste::other_table(words))]) {
        assert_eq!(table.len(), 6);
        for (row, (from, old)) in table.iter().zip(ste::KINDS) {
            assert_eq!((row[0], row.len()), (from, 7));
            for (text, (to, target)) in row[1..].iter().zip(ste::KINDS) {
                let target = if from == to || other(target)[2] != target[2] { other(target) } else { target };
                assert_eq!(steps(&STE, ste_meaning, old, target), cell(text), "{from} to {to}");
            }
        }
    }
}

#[test]
fn every_change_of_a_descriptor_takes_the_steps_of_the_table() {
    use self::cd::{GONE, NO_TABLES, OTHER, OTHER_TABLES, SPACE};
    let changes = [
        ("none to address space", NONE, SPACE),
        ("none to the address space of before", GONE, SPACE),
        ("address space to another", SPACE, OTHER),
        ("address space to other tables, same ASID", SPACE, OTHER_TABLES),
        ("address space to none", SPACE, NONE),
        ("address space to no tables", SPACE, NO_TABLES),
        ("no tables to address space", NO_TABLES, OTHER),
        ("no tables to none", NO_TABLES, NONE),
    ];
    let table = &tables("| change |")[0];
    assert_eq!(table.len(), changes.len());
    for (row, (name, old, target)) in table.iter().zip(changes) {
        assert_eq!(row[0], name);
        assert_eq!(steps(&CD, cd_meaning, old, target), cell(row[2]), "{name}");
    }
}

/// The kinds of entries, with other tables and another VMID, and not valid with and without something left.
fn entries() -> Vec<Words> {
    let kinds = ste::KINDS.map(|(_, words)| words);
    let mut all: Vec<_> = [kinds, kinds.map(ste::other_table), kinds.map(ste::other_vmid)].concat();
    let gone = |mut words: Words| {
        words[0] &= !1;
        words
    };
    // EATS 1; S2S, which is ILLEGAL beside it (5.2, EATS); stage 2 alone with S2PTW.
    let mut more = [ste::CD_TABLE, ste::STAGE2, ste::STAGE2];
    more[0][1] |= 1 << 28;
    more[1][2] |= 1 << 57;
    more[2][2] |= 1 << 54;
    all.extend(more);
    all.extend([NONE, gone(ste::NESTED), gone(ste::ONE_CD)]);
    all.sort();
    all.dedup();
    all
}

#[test]
fn no_change_of_an_entry_could_be_shorter_or_disturb_less() {
    let all = entries();
    for &old in &all {
        for &target in &all {
            let planned = steps(&STE, ste_meaning, old, target);
            assert_eq!(planned, least(&STE, ste_meaning, old, target), "{old:x?} {target:x?}");
        }
    }
}

#[test]
fn no_change_of_a_descriptor_could_be_shorter_or_disturb_less() {
    // Tables of the upper half too, under EPD0: EPD1 is 0, T1SZ 25, TG1 2.
    let upper = [0x0011_e204_8299_4000, 0, 0x8a00_0000, 0xff, 0, 0, 0, 0];
    let all = [&cd::KINDS[..], &[NONE, upper]].concat();
    for &old in &all {
        for &target in &all {
            let planned = steps(&CD, cd_meaning, old, target);
            assert_eq!(planned, least(&CD, cd_meaning, old, target), "{old:x?} {target:x?}");
        }
    }
}

#[test]
fn a_change_within_one_word_takes_one_step_and_none_takes_none() {
    for words in entries() {
        assert_eq!(steps(&STE, ste_meaning, words, words), (0, true));
    }
    // EATS; S1STALLD; S1DSS; S2R.
    for (old, word, bits) in
        [(ste::ONE_CD, 1, 1 << 28), (ste::ONE_CD, 1, 1 << 27), (ste::CD_TABLE, 1, 3), (ste::STAGE2, 2, 1 << 58)]
    {
        let mut target = old;
        target[word] ^= bits;
        assert_eq!(steps(&STE, ste_meaning, old, target), (1, true), "{old:x?}");
    }
}

/// An SMMUv3.0 may take S2S as making EATS = 1 ILLEGAL, where stage 2 does not translate too (5.2, EATS).
#[test]
fn stage_2_that_stalls_is_not_filled_in_beside_ats() {
    let mut ats = ste::CD_TABLE;
    ats[1] |= 1 << 28;
    let mut stalls = ste::STAGE2;
    stalls[2] |= 1 << 57;
    // EATS goes together with Config: not in one word.
    let (entry, settled) = (ats.map(AtomicU64::new), Cell::new(true));
    change(&STE, &entry, &settled, &stalls, || {
        let [first, second, third, ..] = words(&entry);
        assert!(first & 1 == 0 || second >> 28 & 3 == 0 || third >> 57 & 1 == 0);
        Ok::<_, Infallible>(())
    })
    .unwrap();
    // Left over from stage 2, it goes before ATS comes, for which there is one step more.
    let mut left = ste::CD_TABLE;
    left[2] = stalls[2];
    assert_eq!(steps(&STE, ste_meaning, left, ats), (2, true));
}

/// What is filled in before it counts costs nothing later.
#[test]
fn words_that_do_not_count_yet_come_with_the_others() {
    let mut aborts = ste::CD_TABLE;
    aborts[0] = 1;
    assert_eq!(steps(&STE, ste_meaning, NONE, aborts), (1, true));
    // In place of what was left there.
    for left in [NONE, [0, !0, !0, !0, !0, !0, !0, !0]] {
        let (entry, settled) = (left.map(AtomicU64::new), Cell::new(true));
        let done = change(&STE, &entry, &settled, &aborts, || Ok::<_, Infallible>(7)).unwrap();
        assert_eq!((done, words(&entry)), (Some(7), aborts));
    }
    assert_eq!(steps(&STE, ste_meaning, aborts, ste::CD_TABLE), (1, true));
}

#[test]
fn a_structure_that_is_not_settled_is_invalidated_first() {
    let (entry, settled) = (ste::ABORT.map(AtomicU64::new), Cell::new(true));
    assert_eq!(change(&STE, &entry, &settled, &NONE, || Err::<(), _>(())), Err(()));
    assert!(!settled.get());
    let mut seen = Vec::new();
    let mut look = |target| {
        change(&STE, &entry, &settled, target, || {
            seen.push(words(&entry)[0]);
            Ok::<_, Infallible>(())
        })
        .unwrap()
    };
    assert_eq!((look(&NONE), look(&NONE), look(&ste::ABORT)), (Some(()), None, Some(())));
    assert_eq!((seen, settled.get()), ([0, 1].to_vec(), true));
}

/// Two changes, of which the first fails at some step, and a third one: at no time the SMMU may hold what means something
/// else than one of them.
#[track_caller]
fn survives(kind: &Kind, mean: Mean, kinds: &[Words]) {
    for &from in kinds {
        for (failing, then) in kinds.iter().flat_map(|one| kinds.iter().map(move |other| (*one, *other))) {
            let allowed = [from, failing, then, kinds[0]].map(|words| mean(&words));
            for good in 0..3 {
                let (entry, settled) = (from.map(AtomicU64::new), Cell::new(true));
                let mut held = Held::new(from);
                let mut look = |complete: bool| {
                    let now = words(&entry);
                    held.add(&now);
                    for meaning in held.meanings(mean) {
                        assert!(
                            allowed.contains(&meaning) || meaning == Meaning::Invalid,
                            "{from:x?} {failing:x?} {then:x?}: {meaning:?} of {:x?}",
                            held.0
                        );
                    }
                    if complete {
                        held = Held::new(now);
                    }
                };
                let mut calls = 0;
                let _ = change(kind, &entry, &settled, &failing, || {
                    calls += 1;
                    look(calls <= good);
                    if calls <= good { Ok(()) } else { Err(()) }
                });
                for target in [then, kinds[0]] {
                    change(kind, &entry, &settled, &target, || {
                        look(true);
                        Ok::<_, Infallible>(())
                    })
                    .unwrap();
                    assert_eq!(mean(&words(&entry)), mean(&target));
                }
            }
        }
    }
}

#[test]
fn whatever_fails_no_entry_means_anything_else() {
    let kinds = ste::KINDS.map(|(_, words)| words);
    survives(&STE, ste_meaning, &[&kinds[..], &[NONE, ste::other_vmid(ste::CD_TABLE)]].concat());
}

#[test]
fn whatever_fails_no_descriptor_means_anything_else() {
    survives(&CD, cd_meaning, &[&cd::KINDS[..], &[NONE]].concat());
}

/// What a structure holds at each invalidation of a change of its own.
fn alone(old: Words, target: Words) -> Vec<Words> {
    let (entry, settled, mut held) = (old.map(AtomicU64::new), Cell::new(true), Vec::new());
    change(&STE, &entry, &settled, &target, || {
        held.push(words(&entry));
        Ok::<_, Infallible>(())
    })
    .unwrap();
    held
}

/// Whatever the others need, each takes its own steps, one an invalidation, from the first one on.
#[test]
fn structures_that_are_changed_together_take_as_many_invalidations_as_the_longest_change_of_one() {
    let kinds = [NONE].into_iter().chain(ste::KINDS.map(|(_, words)| words)).collect::<Vec<_>>();
    let pairs = kinds.iter().flat_map(|old| kinds.iter().map(move |target| (*old, *target)));
    for (first, second) in pairs.clone().flat_map(|first| pairs.clone().map(move |second| (first, second))) {
        let changes = [first, second];
        let expected = changes.map(|(old, target)| alone(old, target));
        let entries = changes.map(|(old, _)| old.map(AtomicU64::new));
        let settled = changes.map(|_| Cell::new(true));
        let all: [_; 2] =
            core::array::from_fn(|n| Change { entry: &entries[n], settled: &settled[n], target: &changes[n].1 });
        let mut invalidations = 0;
        let done = change_all(&STE, &all, || {
            for ((expected, settled), entry) in expected.iter().zip(&settled).zip(&entries) {
                assert_eq!(settled.get(), invalidations >= expected.len(), "{changes:x?}");
                if let Some(step) = expected.get(invalidations) {
                    assert_eq!(words(entry), *step, "{changes:x?}");
                }
            }
            invalidations += 1;
            Ok::<_, Infallible>(())
        })
        .unwrap();
        let longest = expected.iter().map(Vec::len).max().unwrap();
        assert_eq!((invalidations, done.is_some()), (longest, longest > 0), "{changes:x?}");
    }
}

#[test]
fn of_structures_that_are_changed_together_those_that_failed_are_invalidated_before_they_change_again() {
    let entries = [NONE, ste::ABORT, NONE].map(|words| words.map(AtomicU64::new));
    let settled = [true; 3].map(Cell::new);
    let change = |targets: [&'static Words; 3]| -> [Change<'_>; 3] {
        core::array::from_fn(|n| Change { entry: &entries[n], settled: &settled[n], target: targets[n] })
    };
    let of = || settled.each_ref().map(Cell::get);
    assert_eq!(change_all(&STE, &change([&ste::ABORT, &NONE, &NONE]), || Err::<(), _>(())), Err(()));
    assert_eq!(of(), [false, false, true]);
    let mut seen = Vec::new();
    change_all(&STE, &change([&NONE, &NONE, &ste::ABORT]), || {
        seen.push((of(), entries.each_ref().map(|entry| words(entry)[0])));
        Ok::<_, Infallible>(())
    })
    .unwrap();
    // The first one is what the failed call left, and then as asked for.
    assert_eq!(seen, [([false; 3], [1, 0, 1]), ([false, true, true], [0, 0, 1])]);
}

/// A descriptor is filled, and the entry that leads to it takes one step (3.21.3.1: a DSB between). The SMMU looks all the time.
#[test]
fn what_a_structure_leads_to_is_there_when_it_leads_there() {
    let descriptor = NONE.map(AtomicU64::new);
    let mut before = ste::ONE_CD;
    before[0] &= !1;
    let entry = before.map(AtomicU64::new);
    thread::scope(|scope| {
        scope.spawn(|| {
            while entry[0].load(Ordering::Acquire) & 1 == 0 {
                thread::yield_now();
            }
            assert_eq!(words(&descriptor), cd::SPACE);
        });
        fill(&descriptor, &cd::SPACE);
        let mut steps = 0;
        change(&STE, &entry, &Cell::new(true), &ste::ONE_CD, || {
            steps += 1;
            Ok::<_, Infallible>(())
        })
        .unwrap();
        assert_eq!(steps, 1);
    });
}
