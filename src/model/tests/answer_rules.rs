//! What ends a stall: CMD_RESUME and CMD_STALL_TERM: 3.12.2.2, 4.7.1, 4.7.2.

use std::vec::Vec;

use super::bench::*;
use super::direct::*;
use crate::model::endpoint::Response;
use crate::model::profile::Profile;
use crate::model::smmu::diagnostics::{self as diag, control};
use crate::model::smmu::{Issued, Polled, Slot};
use crate::smmuv3::features::IdRegisters;

const STALLED: u64 = diag::STALLED as u64;
const NOTHING_RESUMED: u64 = diag::RESUMED_NOTHING as u64;

#[test]
fn answer_to_a_stall_that_went_on_early_frees_its_tag_and_does_no_more() {
    for (action, counter) in [(RAZ_WI, diag::RESUMED_IGNORE), (ABORT, diag::RESUMED_ABORT)] {
        let mut direct = Direct::stalling(control::EARLY_RETRY);
        let (slot, stag) = direct.tagged(0x5008);
        direct.map(0x5000, DATA, PAGE_RW);
        assert_eq!(direct.poll(slot), through(DATA + 8));
        assert_eq!(direct.read(STALLED), 1);
        direct.resume(stag, action);
        assert_eq!((direct.read(counter as u64), direct.read(STALLED), direct.read(GERROR)), (1, 0, 0));
    }
}

#[test]
fn stall_term_answers_a_stall_that_went_on_early() {
    let mut direct = Direct::stalling(control::EARLY_RETRY);
    let (slot, stag) = direct.tagged(0x5008);
    direct.map(0x5000, DATA, PAGE_RW);
    assert_eq!(direct.poll(slot), through(DATA + 8));
    direct.abort_stream();
    direct.stall_term();
    assert_eq!(direct.read(STALLED), 0);
    direct.resume(stag, RETRY);
    assert_eq!(direct.read(NOTHING_RESUMED), 1);
}

#[test]
fn stall_term_overtakes_a_retry_that_did_not_come_yet() {
    // The STE does not abort: of the two behaviours of 4.7.2 the model has the one that terminates.
    let mut direct = Direct::stalling(0);
    let (retried, stag) = direct.tagged(0x5008);
    let (other, _) = direct.tagged(0x6000);
    direct.map(0x5000, DATA, PAGE_RW);
    direct.resume(stag, RETRY);
    direct.stall_term();
    assert_eq!((direct.poll(retried), direct.poll(other)), (ABORTED, ABORTED));
}

#[test]
fn early_stall_term_drops_the_record_that_waits() {
    let (mut direct, slot) = Direct::waiting();
    direct.stall_term();
    direct.enable(ALL_ON);
    assert_eq!((direct.poll(slot), direct.take_events().len()), (ABORTED, 0));
}

#[test]
fn terminated_stall_ends_although_its_page_came_unless_it_retries_early() {
    for (action, response) in [(RAZ_WI, Response::Ignored), (ABORT, Response::Abort)] {
        let mut direct = Direct::stalling(0);
        let (slot, stag) = direct.tagged(0x5008);
        direct.map(0x5000, DATA, PAGE_RW);
        direct.resume(stag, action);
        assert_eq!(direct.poll(slot), Polled::Ended(response));
    }
}

/// Stalls until the SMMU takes no more, and their STAGs.
fn fill_up(direct: &mut Direct) -> Vec<(Slot, u64)> {
    let mut held = Vec::new();
    while let Issued::Stalled { slot, recorded } = direct.issue(0x5000, WRITE, None) {
        assert!(recorded);
        held.push((slot, stag(direct.take_event())));
    }
    held
}

#[test]
fn as_many_stall_as_idr5_says_and_the_next_waits_at_its_device() {
    let mut direct = Direct::stalling(0);
    assert_eq!(direct.read(0x14) >> 16, 64, "IDR5.STALL_MAX");
    let held = fill_up(&mut direct);
    assert_eq!(held.len(), 64);
    assert_eq!(direct.issue(0x6000, WRITE, None), Issued::NoRoom);
    assert_eq!(direct.take_events().len(), 0);
    let (slot, stag) = held[20];
    direct.resume(stag, ABORT);
    assert_eq!(direct.poll(slot), ABORTED);
    direct.stall(0x6000, WRITE);
    assert_eq!(direct.issue(0x6000, WRITE, None), Issued::NoRoom);
}

#[test]
fn stall_term_aborts_every_stall_of_a_stream_whose_stalls_would_end_raz_wi() {
    // CD.A is 0: a stall that is not retried could end RAZ/WI (5.5), as by CMD_RESUME here. The fourth waits for a record.
    let mut direct = Direct::stalling(0);
    direct.set_cd(CD_S, TABLES);
    let (slot, stag) = direct.tagged(0x8000);
    direct.resume(stag, RAZ_WI);
    assert_eq!(direct.poll(slot), Polled::Ended(Response::Ignored));
    let recorded = [0x5000, 0x6000, 0x7000].map(|address| direct.stall(address, WRITE));
    direct.enable(ALL_ON & !4);
    let waiting = direct.stall_unseen(0x8000, READ);
    direct.abort_stream();
    direct.stall_term();
    assert_eq!(recorded.map(|slot| direct.poll(slot)), [ABORTED; 3]);
    assert_eq!(direct.poll(waiting), ABORTED);
}

#[test]
fn stall_term_gives_back_all_stalls_and_their_tags() {
    let mut direct = Direct::stalling(0);
    for _ in 0..3 {
        let held = fill_up(&mut direct);
        assert_eq!(held.len(), 64);
        direct.abort_stream();
        direct.stall_term();
        for (slot, stag) in held {
            assert_eq!(direct.poll(slot), ABORTED);
            direct.resume(stag, RETRY);
        }
        assert_eq!(direct.read(STALLED), 0);
        direct.stage1(0, CD_S | CD_A);
        direct.invalidate();
    }
    assert_eq!(direct.read(NOTHING_RESUMED), 3 * 64);
}

#[test]
fn abort_flag_is_ignored_with_retry() {
    let mut direct = Direct::stalling(0);
    let (slot, stag) = direct.tagged(0x5008);
    direct.map(0x5000, DATA, PAGE_RW);
    direct.resume(stag, RETRY | ABORT);
    assert_eq!(direct.poll(slot), through(DATA + 8));
}

#[test]
fn smmu_that_only_aborts_ignores_the_abort_flag() {
    // TERM_MODEL = 1 beside what the full profile has (6.3.1).
    let full = Profile::Full.id_registers();
    let mut direct = Direct::with_ids(IdRegisters { idr0: full.idr0 | 1 << 26, ..full });
    direct.stage1(0, CD_S | CD_A);
    let (slot, stag) = direct.tagged(0x5008);
    direct.resume(stag, RAZ_WI);
    assert_eq!(direct.poll(slot), ABORTED);
}

#[test]
fn stage_2_stall_can_end_raz_wi_whatever_s2s_is_by_then() {
    for s2s in [S2S, S2R] {
        let mut direct = Direct::enabled(ALL_ON, 0);
        direct.set_ste(0xd, STE1, STE2 | S2S);
        let (slot, stag) = direct.tagged(0x5008);
        direct.set_ste(0xd, STE1, STE2 | s2s);
        direct.invalidate();
        direct.resume(stag, RAZ_WI);
        assert_eq!((direct.poll(slot), direct.take_events().len()), (Polled::Ended(Response::Ignored), 0));
    }
}

#[test]
fn no_tag_names_a_stall_that_is_not_recorded_yet() {
    let (mut direct, slot) = Direct::waiting();
    for stag in 0..0x1_0000 {
        direct.resume(stag, ABORT);
    }
    assert_eq!(direct.poll(slot), WAITS);
    assert_eq!((direct.read(NOTHING_RESUMED), direct.read(GERROR)), (0x1_0000, 0));
}

#[test]
fn no_tag_names_a_suppressed_stall() {
    let mut direct = Direct::stalling(control::SUPPRESS_DUPLICATES);
    let (first, tag) = direct.tagged(0x5000);
    let second = direct.stall_unseen(0x5008, WRITE);
    for stag in (0..0x1_0000).filter(|stag| *stag != tag) {
        direct.resume(stag, ABORT);
    }
    assert_eq!((direct.poll(first), direct.poll(second)), (WAITS, WAITS));
    assert_eq!((direct.read(NOTHING_RESUMED), direct.read(GERROR)), (0xffff, 0));
}

#[test]
fn stall_term_is_consumed_before_the_stalls_end() {
    // The devices see the end when they poll next, however late that is.
    let mut direct = Direct::stalling(0);
    let slots = [0x5008, 0x6000].map(|address| direct.tagged(address).0);
    direct.abort_stream();
    direct.stall_term();
    let (prod, cons) = (direct.read(CMDQ_PROD), direct.read(CMDQ_CONS));
    assert_eq!((prod, cons, direct.read(STALLED)), (5, 5, 2), "consumed, and both are still there");
    assert_eq!(slots.map(|slot| direct.poll(slot)), [ABORTED; 2]);
    assert_eq!((direct.read(STALLED), direct.take_events().len()), (0, 0));
}

#[test]
fn stall_term_aborts_a_stall_that_was_to_end_raz_wi_and_counts_it_no_more() {
    let mut direct = Direct::stalling(0);
    let (slot, tag) = direct.tagged(0x5008);
    let (other, _) = direct.tagged(0x6000);
    direct.resume(tag, RAZ_WI);
    direct.abort_stream();
    direct.stall_term();
    assert_eq!(direct.read(diag::STALLS_TERMINATED as u64), 1);
    assert_eq!([slot, other].map(|slot| direct.poll(slot)), [ABORTED; 2]);
}

#[test]
fn nothing_stalls_after_the_ste_aborts() {
    let mut direct = Direct::stalling(0);
    let (slot, _) = direct.tagged(0x5008);
    // Config = 0b000, CMD_CFGI_STE, CMD_SYNC.
    direct.set_ste(1, 0, 0);
    direct.command([0x03 | STREAM << 32, 1]);
    direct.command([0x46, 0]);
    for address in [0x5008, 0x6000] {
        assert_eq!(direct.issue(address, WRITE, None), Issued::Ended(Response::Abort));
    }
    assert_eq!((direct.take_events().len(), direct.poll(slot)), (0, WAITS), "the older one waits for CMD_STALL_TERM");
}

#[test]
fn stall_term_without_stalls_does_nothing() {
    let mut direct = Direct::stalling(0);
    let other = STREAMS + (STREAM + 1) * 64;
    direct.poke(other + 8, STE1);
    direct.poke(other, STE0_STAGE1 | CDS);
    let (slot, recorded) = stalls(direct.issue_from(STREAM + 1, 0x5000, WRITE));
    assert!(recorded);
    direct.abort_stream();
    direct.stall_term();
    // Four commands before it.
    assert_eq!((direct.read(CMDQ_CONS), direct.read(GERROR)), (5, 0));
    assert_eq!(direct.poll(slot), WAITS);
}

#[test]
fn commands_match_only_what_stalls_when_they_are_consumed() {
    let mut direct = Direct::stalling(0);
    // The STAG that the first stall is going to have, and the stream that is going to stall.
    let (slot, tag) = Direct::stalling(0).tagged(0x5000);
    direct.resume(tag, ABORT);
    direct.abort_stream();
    direct.stall_term();
    direct.stage1(0, CD_S | CD_A);
    direct.invalidate();
    assert_eq!(direct.tagged(0x5000), (slot, tag));
    assert_eq!(direct.poll(slot), WAITS);
}

#[test]
fn early_retry_does_not_get_past_stall_term() {
    let mut direct = Direct::stalling(control::EARLY_RETRY);
    let (slot, _) = direct.tagged(0x5008);
    direct.abort_stream();
    direct.map(0x5000, DATA, PAGE_RW);
    direct.stall_term();
    assert_eq!((direct.poll(slot), direct.take_events().len()), (ABORTED, 0));
}

#[test]
fn stall_that_waits_aborts_in_silence_when_the_queue_is_writable_before_stall_term() {
    let (mut direct, slot) = Direct::waiting();
    direct.abort_stream();
    direct.enable(ALL_ON);
    assert_eq!((direct.poll(slot), direct.take_events().len()), (ABORTED, 0));
    direct.stall_term();
    assert_eq!((direct.read(GERROR), direct.read(STALLED)), (0, 0));
}

#[test]
fn invalid_ste_in_place_of_an_aborting_one_leaves_records_until_the_sync() {
    for writable in [true, false] {
        let mut direct = Direct::stalling(0);
        let (slot, _) = direct.tagged(0x5008);
        if !writable {
            direct.enable(ALL_ON & !4);
        }
        direct.set_ste(0, 0, 0);
        direct.invalidate();
        // New work of the stream, and the end of the old (4.7.2.1).
        assert_eq!(direct.access(0x6000, WRITE), Response::Abort);
        direct.stall_term();
        assert_eq!(direct.poll(slot), ABORTED);
        direct.command([0x46, 0]);
        direct.enable(ALL_ON);
        let expected: &[[u64; 4]] = if writable { &[[0x100_0000_0004, 0, 0, 0]] } else { &[] };
        assert_eq!(direct.take_events(), expected);
    }
}

#[test]
fn stall_that_waited_for_the_queue_is_not_recorded_after_the_sync_that_follows_the_abort() {
    let (mut direct, slot) = Direct::waiting();
    // V, Config = 0b000; CMD_CFGI_STE, CMD_SYNC.
    direct.abort_stream();
    direct.enable(ALL_ON);
    // It is tried again, and aborted; a new one is aborted at once.
    assert_eq!(direct.poll(slot), ABORTED);
    assert_eq!(direct.access(0x6000, WRITE), Response::Abort);
    assert_eq!((direct.take_events().len(), direct.read(STALLED)), (0, 0));
}

/// Before it has tried again, or ended (4.7.1).
#[test]
fn second_answer_before_the_first_took_effect_matches_nothing() {
    for (first, second, expected) in [(RETRY, 2, through(DATA + 8)), (2, RETRY, ABORTED)] {
        let mut direct = Direct::stalling(0);
        let (slot, tag) = direct.tagged(0x5008);
        direct.map(0x5000, DATA, PAGE_RW);
        direct.resume(tag, first);
        direct.resume(tag, second);
        assert_eq!(direct.poll(slot), expected, "{first} {second}");
        assert_eq!(direct.read(diag::RESUMED_NOTHING as u64), 1);
    }
}

#[test]
fn stall_that_is_answered_passes_older_ones() {
    let mut direct = Direct::stalling(0);
    let (first, _) = direct.tagged(0x5008);
    let (second, tag) = direct.tagged(0x6008);
    direct.map(0x6000, DATA, PAGE_RW);
    direct.resume(tag, RETRY);
    assert_eq!((direct.poll(second), direct.poll(first)), (through(DATA + 8), WAITS));
}
