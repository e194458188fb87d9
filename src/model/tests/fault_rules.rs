//! What becomes of a fault, by where it is found and how its stage is configured: 3.12, 3.12.1, 3.12.5, 5.5.

use super::bench::*;
use super::direct::*;
use crate::model::endpoint::Response;
use crate::model::profile::Profile;
use crate::model::smmu::{Issued, Polled};

/// Records that abort.
const RECORD: u64 = CD_R | CD_A;
const AF: u64 = 1 << 10;

/// Answers the one stall record there is with retry, after `record` was looked at without its STAG.
#[track_caller]
fn retried(direct: &mut Direct, slot: crate::model::smmu::Slot, record: [u64; 4]) -> Polled {
    let taken = direct.take_event();
    assert_eq!(untagged(taken), record);
    assert_eq!(direct.poll(slot), Polled::Stalled { recorded: false });
    direct.resume(stag(taken), RETRY);
    direct.poll(slot)
}

#[test]
fn every_translation_related_fault_of_stage_1_stalls_with_cd_s() {
    // F_ADDR_SIZE with IPS of 32 bits, F_ACCESS, F_PERMISSION (3.12).
    for (leaf, id) in [(0x1_0000_0000 | PAGE_RW, 0x11), (DATA | PAGE_RW & !AF, 0x12), (DATA | PAGE_RO, 0x13)] {
        let mut direct = Direct::enabled(ALL_ON, 0);
        direct.stage1(0, CD_S | RECORD);
        direct.poke(CDS, (CD0 | CD_S | RECORD) & !(7 << 32));
        direct.poke(direct.leaf_at(0x5000), leaf);
        let slot = direct.stall(0x5008, WRITE);
        direct.map(0x5000, DATA, PAGE_RW);
        direct.invalidate();
        let ended = retried(&mut direct, slot, [0x100_0000_0000 | id, STALL | IN, 0x5008, 0]);
        assert_eq!(ended, through(DATA + 8), "{id:x}");
    }
}

#[test]
fn every_translation_related_fault_of_stage_2_stalls_with_s2s() {
    // F_TRANSLATION, F_ADDR_SIZE with S2PS of 32 bits, F_ACCESS, F_PERMISSION for S2AP = 0b01 (3.12).
    for (leaf, id) in
        [(0, 0x10), (0x1_0000_0000 | S2_RW, 0x11), (DATA | S2_RW & !AF, 0x12), (DATA | S2_RW & !(2 << 6), 0x13)]
    {
        let mut direct = Direct::enabled(ALL_ON, 0);
        direct.set_ste(0xd, STE1, (STE2 | S2S) & !(7 << 48));
        direct.map2(0x5000, leaf, 0);
        let slot = direct.stall(0x5008, WRITE);
        direct.map2(0x5000, DATA, S2_RW);
        direct.invalidate();
        let ended = retried(&mut direct, slot, [0x100_0000_0000 | id, STALL | S2 | IN, 0x5008, 0x5000]);
        assert_eq!(ended, through(DATA + 8), "{id:x}");
    }
}

#[test]
fn errors_of_the_cd_abort_whether_stage_2_stalls_or_not() {
    for s2s in [0, S2S] {
        // No memory behind the CD: F_CD_FETCH. A CD with V = 0: C_BAD_CD (3.12).
        let mut direct = Direct::enabled(ALL_ON, 0);
        direct.nest(0, S2R | s2s, RECORD);
        direct.set_ste(0xf | 0xa000, STE1, STE2 | S2R | s2s);
        direct.map2(0xa000, END, S2_RW);
        assert_eq!(direct.fault(0x5000, WRITE), [0x100_0000_0009, 0, 0, END]);
        let mut direct = Direct::enabled(ALL_ON, 0);
        direct.nest(0, S2R | s2s, RECORD);
        direct.poke(CDS, (CD0 | RECORD) & !(1 << 31));
        assert_eq!(direct.fault(0x5000, WRITE), [0x100_0000_000a, 0, 0, 0]);
    }
}

#[test]
fn walk_of_stage_2_that_aborts_aborts_the_access_whether_it_stalls_or_not() {
    for s2s in [0, S2S] {
        let mut direct = Direct::enabled(ALL_ON, 0);
        direct.set_ste(0xd, STE1, STE2 | S2R | s2s);
        direct.poke(STAGE2 + 0x1000, END | 3);
        // F_WALK_EABT, with the address of the descriptor (7.3.12).
        assert_eq!(direct.fault(0x5000, WRITE), [0x100_0000_000b, S2 | IN, 0x5000, END + 0x28]);
    }
}

#[test]
fn ipa_out_of_range_past_a_bypassed_stage_1_aborts_whether_stage_2_stalls_or_not() {
    // Config = 0b110; S1CDMax 2 and S1DSS 1.
    for (word0, s1dss) in [(0xd, 0), (0xf | CDS | 2 << 59, 1)] {
        for s2s in [0, S2S] {
            let mut direct = Direct::enabled(ALL_ON, 0);
            direct.set_ste(word0, STE1 | s1dss, STE2 | S2R | s2s);
            assert_eq!(direct.fault(1 << 48, WRITE), [0x100_0000_0011, IN, 1 << 48, 0]);
        }
    }
}

/// Both stages, with CD 0 for accesses without a SubstreamID and CD 1 for SubstreamID 1 (S1CDMax 1, S1DSS 2).
fn two_substreams(config: u64, word2: u64, cd0: u64, cd1: u64) -> Direct {
    let direct = Direct::enabled(ALL_ON, 0);
    direct.set_ste(config | CDS | 1 << 59, STE1 | 2, STE2 | word2);
    for (cd, flags) in [(CDS, cd0), (CDS + 0x40, cd1)] {
        direct.poke(cd + 8, TABLES);
        direct.poke(cd + 24, 0xff);
        direct.poke(cd, CD0 | flags);
    }
    direct
}

#[test]
fn stage_1_faults_go_by_the_cd_of_the_substream() {
    let mut direct = two_substreams(STE0_STAGE1, 0, CD_S | CD_A, RECORD);
    direct.stall(0x5000, WRITE);
    assert_eq!(untagged(direct.take_event()), [0x100_0000_0010, STALL | IN, 0x5000, 0]);
    assert_eq!(direct.issue(0x5000, WRITE, Some(1)), Issued::Ended(Response::Abort));
    assert_eq!(direct.take_event(), [0x100_0000_1810, IN, 0x5000, 0]);
}

#[test]
fn stage_2_faults_go_by_the_ste_whatever_the_substream() {
    let mut direct = two_substreams(0xf, S2S, CD_S | CD_A, RECORD);
    direct.map(0x5000, 0x9000, PAGE_RW);
    for (substream, word0) in [(None, 0x100_0000_0010), (Some(1), 0x100_0000_1810)] {
        assert!(matches!(direct.issue(0x5000, WRITE, substream), Issued::Stalled { .. }));
        assert_eq!(untagged(direct.take_event()), [word0, STALL | S2 | IN, 0x5000, 0x9000]);
    }
    let mut direct = two_substreams(0xf, S2R, CD_S | CD_A, 0);
    direct.map(0x5000, 0x9000, PAGE_RW);
    for (substream, word0) in [(None, 0x100_0000_0010), (Some(1), 0x100_0000_1810)] {
        assert_eq!(direct.issue(0x5000, WRITE, substream), Issued::Ended(Response::Abort));
        assert_eq!(direct.take_event(), [word0, S2 | IN, 0x5000, 0x9000]);
    }
}

#[test]
fn stage_2_fault_of_a_stage_1_walk_stalls_and_the_retry_walks_anew() {
    let mut direct = Direct::enabled(ALL_ON, 0);
    // Stage 1 aborts silently; the level 3 table is at IPA 0xb000, of which descriptor 5 counts.
    direct.nest(0, S2S, CD_A);
    direct.map(0x5000, DATA, PAGE_RW);
    direct.poke(TABLES + 0x1000, 0xb000 | 3);
    let slot = direct.stall(0x5000, WRITE);
    direct.map2(0xb000, TABLES + 0x2000, S2_RW);
    // Another page by now.
    direct.map(0x5000, DATA + 0x1000, PAGE_RW);
    let ended = retried(&mut direct, slot, [0x100_0000_0010, STALL | S2 | TT, 0x5000, 0xb000]);
    assert_eq!(ended, through(DATA + 0x1000));
    // Without S2S it aborts, in silence unless S2R is set, whatever the CD wants (5.5).
    for (word2, cd, records) in [(S2R, CD_A, &[[0x100_0000_0010, S2 | TT, 0x5000, 0xb000]][..]), (0, RECORD, &[])] {
        let mut direct = Direct::enabled(ALL_ON, 0);
        direct.nest(0, word2, cd);
        direct.map(0x5000, DATA, PAGE_RW);
        direct.poke(TABLES + 0x1000, 0xb000 | 3);
        assert_eq!(direct.access(0x5000, WRITE), Response::Abort);
        assert_eq!(direct.take_events(), records);
    }
}

#[test]
fn full_event_queue_loses_the_record_and_the_access_ends_as_configured() {
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.stage1(0, CD_R);
    for _ in 0..ENTRIES {
        direct.access(0x5000, WRITE);
    }
    assert_eq!(direct.read(EVENTQ_PROD), ENTRIES);
    assert_eq!(direct.access(0x5000, WRITE), Response::Ignored, "CD.A = 0");
    // A configuration error aborts (3.12).
    direct.set_ste(0, 0, 0);
    direct.invalidate();
    assert_eq!(direct.access(0x5000, WRITE), Response::Abort);
    let records = direct.take_events();
    assert_eq!((records.len(), records[15]), (16, [0x100_0000_0010, IN, 0x5000, 0]));
}

#[test]
fn smmu_that_only_terminates_refuses_what_would_stall() {
    // Stage 2 alone, and both stages.
    for (word0, word2, record) in [(0xd, S2S, 0x04), (0xd, S2R, 0x10), (0xf | CDS, S2S, 0x04), (0xf | CDS, S2R, 0x10)] {
        let mut direct = Direct::profile(Profile::TerminateOnly);
        direct.set_ste(word0, STE1, STE2 | word2);
        direct.set_cd(RECORD, TABLES);
        // C_BAD_STE, or F_TRANSLATION (5.2, S2S).
        assert_eq!(direct.fault(0x5000, WRITE)[0], 0x100_0000_0000 | record);
    }
    for (flags, record) in [(CD_S | RECORD, 0x0a), (RECORD, 0x10)] {
        let mut direct = Direct::profile(Profile::TerminateOnly);
        direct.stage1(0, flags);
        assert_eq!(direct.fault(0x5000, WRITE)[0], 0x100_0000_0000 | record);
    }
}

#[test]
fn smmu_that_only_stalls_refuses_what_would_terminate() {
    let mut direct = Direct::profile(Profile::ForcedStall);
    direct.set_cd(CD_S | CD_A, TABLES);
    for word0 in [0xd, 0xf | CDS] {
        direct.set_ste(word0, STE1, STE2 | S2R);
        direct.invalidate();
        assert_eq!(direct.fault(0x5000, WRITE), [0x100_0000_0004, 0, 0, 0]);
    }
    direct.set_ste(0xd, STE1, STE2 | S2S);
    direct.invalidate();
    direct.stall(0x5000, WRITE);
    direct.take_event();
    direct.stage1(0, RECORD);
    direct.invalidate();
    assert_eq!(direct.fault(0x5000, WRITE), [0x100_0000_000a, 0, 0, 0]);
    direct.stage1(0, CD_S | CD_A);
    direct.invalidate();
    direct.stall(0x5000, WRITE);
}

/// Both stages, with `0x5000` not mapped at stage 1 and `0x6000` leading to IPA 0x9000, which stage 2 does not map.
fn nested(cd: u64, word2: u64) -> Direct {
    let direct = Direct::enabled(ALL_ON, 0);
    direct.nest(0, word2, cd);
    direct.map(0x6000, 0x9000, PAGE_RW);
    direct
}

#[test]
fn terminating_stage_1_leaves_stage_2_to_its_own_configuration() {
    // CD.A = 0: stage 1 ends RAZ/WI, stage 2 aborts all the same (3.12).
    for cd in [RECORD, CD_R] {
        let at_stage1 = if cd == CD_R { Response::Ignored } else { Response::Abort };
        let mut direct = nested(cd, S2R);
        assert_eq!(direct.access(0x5008, WRITE), at_stage1);
        assert_eq!(direct.take_event(), [0x100_0000_0010, IN, 0x5008, 0]);
        assert_eq!(direct.fault(0x6008, WRITE), [0x100_0000_0010, S2 | IN, 0x6008, 0x9000]);
        let mut direct = nested(cd, S2S);
        assert_eq!(direct.access(0x5008, WRITE), at_stage1);
        assert_eq!(direct.take_event(), [0x100_0000_0010, IN, 0x5008, 0]);
        let slot = direct.stall(0x6008, WRITE);
        direct.map2(0x9000, DATA, S2_RW);
        let ended = retried(&mut direct, slot, [0x100_0000_0010, STALL | S2 | IN, 0x6008, 0x9000]);
        assert_eq!(ended, through(DATA + 8));
    }
}

#[test]
fn stalling_stage_1_leaves_stage_2_to_its_own_configuration() {
    let mut direct = nested(CD_S | CD_A, S2R);
    direct.stall(0x5008, WRITE);
    assert_eq!(untagged(direct.take_event()), [0x100_0000_0010, STALL | IN, 0x5008, 0]);
    assert_eq!(direct.fault(0x6008, WRITE), [0x100_0000_0010, S2 | IN, 0x6008, 0x9000]);
    let mut direct = nested(CD_S | CD_A, S2S);
    direct.stall(0x5008, WRITE);
    assert_eq!(untagged(direct.take_event()), [0x100_0000_0010, STALL | IN, 0x5008, 0]);
    direct.stall(0x6008, WRITE);
    assert_eq!(untagged(direct.take_event()), [0x100_0000_0010, STALL | S2 | IN, 0x6008, 0x9000]);
}

#[test]
fn transaction_may_stall_at_one_stage_after_the_other() {
    let mut direct = nested(CD_S | CD_A, S2S);
    let slot = direct.stall(0x5008, WRITE);
    direct.map(0x5000, 0x9000, PAGE_RW);
    let first = direct.take_event();
    direct.resume(stag(first), RETRY);
    assert_eq!(direct.poll(slot), Polled::Stalled { recorded: true });
    direct.map2(0x9000, DATA, S2_RW);
    let second = direct.take_event();
    assert_eq!(untagged(second), [0x100_0000_0010, STALL | S2 | IN, 0x5008, 0x9000]);
    assert_ne!(stag(first), stag(second));
    direct.resume(stag(second), RETRY);
    assert_eq!(direct.poll(slot), through(DATA + 8));
}
