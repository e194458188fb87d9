//! Answers to stalls and page requests: 4.5.2, 4.7, 8.1.1.

use super::*;
use crate::model::engine::registers::{self as reg, ats_control, pri_control};

/// The StreamIDs of engines 0, 1 and 2.
const STREAM: u64 = 0x100;
const NEIGHBOUR: u64 = 0x101;
const ASKING: u64 = 0x102;

/// Engine 0 stalls at a page; gives the STAG of its record.
fn stalled() -> (Bench, u64) {
    let mut bench = strict();
    bench.attach(STREAM, 0, 0, CD_S | CD_R | CD_A);
    let stag = stall(&mut bench);
    (bench, stag)
}

fn stall(bench: &mut Bench) -> u64 {
    bench.write_word(0, 0x5000);
    bench.take_event()[1] & 0xffff
}

/// Changes the STE of the stream to abort: V, Config = 0. One word.
fn abort(bench: &Bench) {
    bench.poke(STREAMS + STREAM * 64, 1);
}

#[test]
fn resume_of_what_stalls_is_silent_and_a_second_one_is_named() {
    let (mut bench, stag) = stalled();
    bench.resume(STREAM, stag, 2);
    assert_eq!(broken(&mut bench), None);
    bench.resume(STREAM, stag, 2);
    assert_eq!(broken(&mut bench), Some(("resume-twice", "4.7.1")));
}

#[test]
fn resume_for_no_record_is_named() {
    let (mut bench, stag) = stalled();
    for (stream, stag) in [(NEIGHBOUR, stag), (STREAM, stag ^ 1), (STREAM, stag ^ 0x40)] {
        bench.resume(stream, stag, 1);
        assert_eq!(broken(&mut bench), Some(("resume-unknown", "4.7.1")), "{stream:#x} {stag:#x}");
    }
    bench.resume(STREAM, stag, 2);
    assert_eq!(broken(&mut bench), None);
}

#[test]
fn resume_of_a_stall_that_ended_on_its_own_is_due_all_the_same() {
    let (mut bench, stag) = stalled();
    // EARLY_RETRY.
    bench.write(CONTROL, 2);
    bench.map(0, 0x5000, DATA, PAGE_RW);
    bench.run();
    assert_eq!(bench.state(0), 2);
    bench.resume(STREAM, stag, 1);
    assert_eq!(broken(&mut bench), None, "3.12.2.2");
}

#[test]
fn resume_after_stall_term_is_named() {
    let (mut bench, stag) = stalled();
    abort(&bench);
    [cfgi_ste(STREAM), SYNC, stall_term(STREAM)].iter().for_each(|command| bench.command(*command));
    assert_eq!(broken(&mut bench), None);
    bench.resume(STREAM, stag, 1);
    assert_eq!(broken(&mut bench), Some(("resume-after-terminate", "4.7.1")));
}

#[test]
fn resume_after_translation_was_disabled_is_late_and_no_mistake() {
    let (mut bench, stag) = stalled();
    bench.enable(ALL_ON & !1);
    bench.resume(STREAM, stag, 1);
    assert_eq!(broken(&mut bench), None);
}

#[test]
fn resume_of_a_stall_from_before_strict_mode_is_silent() {
    let mut bench = Bench::enabled();
    bench.attach(STREAM, 0, 0, CD_S | CD_R | CD_A);
    let stag = stall(&mut bench);
    bench.write(CONTROL, STRICT);
    bench.resume(STREAM, stag, 2);
    assert_eq!((broken(&mut bench), bench.state(0)), (None, 3));
}

#[test]
fn invalidation_of_the_ste_makes_no_answered_stall_open() {
    let (mut bench, stag) = stalled();
    bench.resume(STREAM, stag, 2);
    [cfgi_ste(STREAM), SYNC].iter().for_each(|command| bench.command(*command));
    assert_eq!(broken(&mut bench), None);
    bench.resume(STREAM, stag, 2);
    assert_eq!(broken(&mut bench), Some(("resume-twice", "4.7.1")));
}

#[test]
fn what_is_forgotten_is_not_judged() {
    let (mut bench, first) = stalled();
    bench.enable(ALL_ON & !1);
    bench.enable(ALL_ON);
    bench.run();
    // More records than are remembered, behind one that was lost.
    for _ in 0..200 {
        let stag = stall(&mut bench);
        bench.resume(STREAM, stag, 2);
    }
    bench.resume(STREAM, first, 2);
    assert_eq!(broken(&mut bench), None);
}

#[test]
fn stall_term_before_the_ste_aborts_is_named() {
    let (mut bench, _) = stalled();
    bench.command(stall_term(STREAM));
    assert_eq!(broken(&mut bench), Some(("terminate-not-aborting", "4.7.2")));
    // At SMMUEN = 0 no STE counts.
    let (mut bench, _) = stalled();
    bench.enable(ALL_ON & !1);
    bench.command(stall_term(STREAM));
    assert_eq!(broken(&mut bench), None);
}

#[test]
fn stall_term_before_the_invalidation_of_the_ste_is_named() {
    let early = Some(("terminate-not-invalidated", "4.7.2"));
    for (commands, expected) in [
        (&[cfgi_ste(STREAM), SYNC][..], None),
        (&[[0x04 | 0x101 << 32, 1], SYNC], None),
        (&[CFGI_ALL, SYNC], None),
        (&[], early),
        (&[SYNC], early),
        (&[cfgi_ste(STREAM)], early),
        (&[SYNC, cfgi_ste(STREAM)], early),
        (&[cfgi_ste(NEIGHBOUR), SYNC], early),
        (&[[0x04 | 0x102 << 32, 0], SYNC], early),
    ] {
        let (mut bench, _) = stalled();
        abort(&bench);
        commands.iter().for_each(|command| bench.command(*command));
        bench.command(stall_term(STREAM));
        assert_eq!(broken(&mut bench), expected, "{commands:x?}");
    }
    // Nothing stalls: nothing was read from that STE.
    let mut bench = strict();
    abort(&bench);
    bench.command(stall_term(STREAM));
    assert_eq!(broken(&mut bench), None);
}

#[test]
fn stall_under_way_during_the_invalidation_is_covered_by_its_sync() {
    let mut stalled_again = 0;
    for seed in 1..40 {
        let (mut bench, first) = stalled();
        // CACHE_SEED: a CFGI takes effect with its SYNC, so that what is tried again still finds the old STE, if that is
        // not evicted.
        bench.write(0xe78, seed);
        abort(&bench);
        bench.command(cfgi_ste(STREAM));
        bench.resume(STREAM, first, 1);
        stalled_again += bench.take_events().len();
        [SYNC, stall_term(STREAM)].iter().for_each(|command| bench.command(*command));
        assert_eq!(broken(&mut bench), None, "seed {seed}");
    }
    assert!(stalled_again > 0);
}

/// Engine 2 has asked for a page, with PASID 1 or without. Its group has index 0.
fn asked(pasid: bool) -> Bench {
    let mut bench = strict_with(7);
    bench.set_cd(0, CD_A | CD_R, 0);
    bench.set_cd(1, CD_A | CD_R, 1);
    bench.set_ste(ASKING, STE0_STAGE1 | CDS | 1 << 59, STE1 | S1STALLD | EATS | PPAR | 2);
    bench.set_engine(2, reg::ATS_CONTROL, ats_control::ENABLE);
    bench.set_engine(2, reg::PRI_ALLOCATION, 64);
    bench.set_engine(2, reg::PRI_CONTROL, pri_control::ENABLE);
    fill(&mut bench, pasid);
    bench
}

fn fill(bench: &mut Bench, pasid: bool) {
    bench.set_engine64(2, reg::DESTINATION, 0x5000);
    bench.set_engine64(2, reg::LENGTH, 8);
    bench.set_engine(2, reg::PASID, 1);
    bench.set_engine(2, reg::CONTROL, 0x211 | u32::from(pasid) << 8);
    bench.run();
}

#[test]
fn response_to_a_group_is_silent_and_a_second_one_is_named() {
    let mut bench = asked(false);
    bench.respond(ASKING, None, 0, 1);
    assert_eq!(broken(&mut bench), None);
    bench.respond(ASKING, None, 0, 1);
    assert_eq!(broken(&mut bench), Some(("response-twice", "4.5.2")));
}

#[test]
fn response_to_no_group_is_named_and_ignored_while_translation_is_disabled() {
    let mut bench = asked(false);
    bench.respond(ASKING, None, 1, 1);
    assert_eq!(broken(&mut bench), Some(("response-unknown", "4.5.2")));
    bench.respond(STREAM, None, 0, 1);
    assert_eq!(broken(&mut bench), Some(("response-unknown", "4.5.2")));
    bench.set_engine(2, reg::ATS_CONTROL, 0);
    bench.enable(ALL_ON & !1);
    bench.respond(STREAM, None, 0, 1);
    assert_eq!(broken(&mut bench), None);
}

#[test]
fn response_with_another_pasid_is_named() {
    for (asks, answers, expected) in [
        (true, Some(1), None),
        (true, None, None),
        (false, None, None),
        (true, Some(2), Some(("response-pasid", "4.5.2"))),
        (false, Some(1), Some(("response-pasid", "4.5.2"))),
    ] {
        let mut bench = asked(asks);
        bench.respond(ASKING, answers, 0, 1);
        assert_eq!(broken(&mut bench), expected, "asked with PASID: {asks}, answered with {answers:?}");
    }
}

#[test]
fn device_that_gave_its_group_up_does_not_make_the_response_a_mistake() {
    let mut bench = asked(false);
    bench.set_engine(2, reg::PRI_CONTROL, 0);
    bench.set_engine(2, reg::PRI_CONTROL, pri_control::RESET);
    bench.respond(ASKING, None, 0, 1);
    assert_eq!(broken(&mut bench), None);
}

#[test]
fn response_to_a_group_whose_last_overflowed_is_named() {
    let mut bench = asked(false);
    bench.respond(ASKING, None, 0, 1);
    bench.take_page_requests();
    // Stop markers fill the queue but for two entries; of the group's four requests two are recorded.
    bench.set_engine(2, reg::GROUP_SIZE, 4);
    for _ in 0..ENTRIES - 2 {
        bench.set_engine(2, reg::PRI_CONTROL, pri_control::ENABLE | pri_control::SEND_STOP_MARKER);
        bench.run();
    }
    bench.set_engine64(2, reg::DESTINATION, 0x1_0000);
    bench.set_engine64(2, reg::LENGTH, 0x4000);
    bench.set_engine(2, reg::CONTROL, 0x211);
    bench.step();
    let records = bench.take_page_requests();
    let group = records[ENTRIES as usize - 1][1] & 0x1ff;
    assert_eq!(records[ENTRIES as usize - 1][0] >> 62 & 1, 0, "not the Last");
    assert_eq!(broken(&mut bench), None);
    bench.respond(ASKING, None, group, 1);
    assert_eq!(broken(&mut bench), Some(("response-to-automatic", "8.1.1")));
}

#[test]
fn stall_term_is_named_when_the_invalidation_came_before_the_change_of_the_ste() {
    let early = Some(("terminate-not-invalidated", "4.7.2"));
    // CFGI_STE and SYNC, then an early retry reads the STE again, then it changes.
    let (mut bench, _) = stalled();
    bench.write(CONTROL, 2);
    [cfgi_ste(STREAM), SYNC].iter().for_each(|command| bench.command(*command));
    abort(&bench);
    bench.command(stall_term(STREAM));
    assert_eq!((broken(&mut bench), bench.read(0xe70)), (early, 1));
    // Without any stall.
    let mut bench = strict();
    bench.attach(STREAM, 0, 0, CD_S | CD_A);
    bench.map(0, 0x5000, DATA, PAGE_RW);
    bench.write_word(0, 0x5000);
    abort(&bench);
    bench.command(stall_term(STREAM));
    assert_eq!(broken(&mut bench), early);
    [cfgi_ste(STREAM), SYNC, stall_term(STREAM)].iter().for_each(|command| bench.command(*command));
    assert_eq!(broken(&mut bench), None);
}

/// A page request of `stream` arrives, and software reads its record.
fn ask(direct: &mut Direct, stream: u64, pasid: Option<u32>, last: bool, group: u64) {
    assert_eq!(direct.page_request(stream, pasid, READ, last, group), None);
    direct.take_page_requests();
}

/// What is wrong with CMD_PRI_RESP, Success.
fn answer(direct: &mut Direct, stream: u64, pasid: Option<u64>, group: u64) -> Option<&'static str> {
    let pasid = pasid.map_or(0, |pasid| 1 << 11 | pasid << 12);
    direct.command([0x41 | pasid | stream << 32, group | 2 << 12]);
    direct.take_violation().map(|violation| violation.rule.name())
}

#[test]
fn groups_are_told_apart_by_stream_and_index() {
    let groups = [(STREAM, 1), (NEIGHBOUR, 1), (STREAM, 2), (NEIGHBOUR, 2)];
    let mut direct = strict_alone(Profile::Full);
    // The first requests of all groups, then their last ones.
    for last in [false, true] {
        groups.iter().for_each(|(stream, group)| ask(&mut direct, *stream, None, last, *group));
    }
    for expected in [None, Some("response-twice")] {
        for (stream, group) in groups {
            assert_eq!(answer(&mut direct, stream, None, group), expected, "{stream:#x} {group}");
        }
    }
    // The index is free for another group once its group is answered (8).
    ask(&mut direct, STREAM, None, true, 1);
    assert_eq!(answer(&mut direct, STREAM, None, 1), None);
}

/// No rule has a device wait with an index for another PASID's group (8), nor software answer them in an order (4.5.2).
#[test]
fn groups_of_one_index_are_told_apart_by_their_pasids() {
    for order in [[5, 6], [6, 5]] {
        let mut direct = strict_alone(Profile::Full);
        [5, 6].into_iter().for_each(|pasid| ask(&mut direct, STREAM, Some(pasid), true, 1));
        let answers = order.map(|pasid| answer(&mut direct, STREAM, Some(pasid), 1));
        assert_eq!(answers, [None, None], "{order:?}");
    }
}

#[test]
fn group_is_judged_by_its_pasid_only_if_it_has_one() {
    for (pasids, answered, expected) in [
        ([5, 5, 5], 5, None),
        ([5, 5, 5], 6, Some("response-pasid")),
        // Nothing keeps a device from mixing them (8): which one it wants is its own.
        ([5, 6, 6], 6, None),
        ([5, 6, 5], 7, None),
        ([5, 5, 6], 6, None),
    ] {
        let mut direct = strict_alone(Profile::Full);
        for (number, pasid) in pasids.into_iter().enumerate() {
            ask(&mut direct, STREAM, Some(pasid), number == 2, 1);
        }
        assert_eq!(answer(&mut direct, STREAM, Some(answered), 1), expected, "{pasids:?} {answered}");
    }
}

#[test]
fn group_that_is_forgotten_is_judged_only_if_it_was_answered() {
    for (first, expected) in [(false, None), (true, Some("response-unknown"))] {
        let mut direct = strict_alone(Profile::Full);
        ask(&mut direct, STREAM, None, true, 0);
        if first {
            assert_eq!(answer(&mut direct, STREAM, None, 0), None);
        }
        // As many as are remembered.
        for group in 1..=128 {
            ask(&mut direct, STREAM, None, true, group);
            assert_eq!(answer(&mut direct, STREAM, None, group), None);
        }
        assert_eq!(answer(&mut direct, STREAM, None, 0), expected, "answered: {first}");
        assert_eq!(answer(&mut direct, STREAM, None, 300), expected);
    }
}
