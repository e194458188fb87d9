//! Times as `docs/control.md` has them, at its offsets.

use super::*;
use crate::smmuv3::Stag;

const STREAM: StreamId = StreamId(0x101);

fn group(index: u16) -> PrgIndex {
    PrgIndex::new(index).unwrap()
}

/// What the control page tells of `stream` from 0x208 to 0x244: the answers' count, sum, least and greatest, then the retries'.
fn told(times: &mut Times, stream: StreamId) -> [[u64; 4]; 2] {
    times.selected = stream.0;
    let pair = |at| u64::from(times.read(at)) | u64::from(times.read(at + 4)) << 32;
    [0x208, 0x228].map(|at| [times.read(at).into(), pair(at + 8), pair(at + 16), pair(at + 24)])
}

#[test]
fn answers_and_retries_are_summed_in_64_bits() {
    let mut times = Times::new();
    let slot = Slot::of(Stag(3));
    for (recorded, answered, retried) in [(100, 0x2_0000_0100_u64, 0x5_0000_0100), (7, 10, 11)] {
        times.stall_recorded(slot, recorded);
        times.stall_answered(STREAM, slot, true, answered);
        times.stall_retried(STREAM, slot, retried);
    }
    let (answers, retries) = (0x1_ffff_ffff + 0x9d + 3, 0x3_0000_0000_u64 + 1);
    assert_eq!(told(&mut times, STREAM), [[2, answers, 3, 0x1_ffff_ffff + 0x9d], [2, retries, 1, 0x3_0000_0000]]);
    // By powers of two: 3 is in bucket 2, and what has more bits than there are buckets in the last.
    assert_eq!([times.read(0x300 + 4 * 2), times.read(0x300 + 4 * 31)], [1, 1]);
    assert_eq!([times.read(0x380 + 4), times.read(0x380 + 4 * 31)], [1, 1]);
}

#[test]
fn what_stalls_without_a_record_of_its_own_has_no_time() {
    let mut times = Times::new();
    let slot = Slot::of(Stag(3));
    times.stall_recorded(slot, 5);
    times.stall_unrecorded(slot);
    times.stall_answered(STREAM, slot, true, 9);
    times.stall_retried(STREAM, slot, 12);
    assert_eq!(told(&mut times, STREAM), [[0; 4]; 2]);
}

#[test]
fn a_transaction_that_was_aborted_is_not_tried_again() {
    let mut times = Times::new();
    let slot = Slot::of(Stag(3));
    times.stall_recorded(slot, 5);
    times.stall_answered(STREAM, slot, false, 9);
    times.stall_retried(STREAM, slot, 12);
    assert_eq!(told(&mut times, STREAM), [[1, 4, 4, 4], [0; 4]]);
}

/// Indices that are 256 apart have one place: the later group takes it, and the earlier one counts in UNTIMED (0x204).
#[test]
fn groups_that_meet_are_not_taken_for_each_other() {
    let mut times = Times::new();
    times.group_recorded(STREAM, group(5), 100);
    times.group_answered(STREAM, group(5 + 256), true, 110);
    assert_eq!((told(&mut times, STREAM)[0], times.read(0x204)), ([0; 4], 0));
    times.group_recorded(STREAM, group(5 + 256), 120);
    assert_eq!(times.read(0x204), 1);
    times.group_answered(STREAM, group(5), true, 130);
    assert_eq!(told(&mut times, STREAM)[0], [0; 4]);
    times.group_answered(STREAM, group(5 + 256), true, 150);
    assert_eq!(told(&mut times, STREAM)[0], [1, 30, 30, 30]);
}

/// So do two streams, with indices that are 37 apart.
#[test]
fn groups_of_two_streams_are_not_taken_for_each_other() {
    let mut times = Times::new();
    let next = StreamId(STREAM.0 + 1);
    times.group_recorded(STREAM, group(37 + 5), 100);
    times.group_answered(next, group(5), true, 110);
    assert_eq!([STREAM, next].map(|stream| told(&mut times, stream)[0]), [[0; 4]; 2]);
}

/// Neither the groups of one stream nor those of engines side by side meet before there are many.
#[test]
fn groups_have_room_for_256_of_a_stream_and_36_of_each_of_6_streams() {
    for (streams, count) in [(1, 256), (6, 36)] {
        let mut times = Times::new();
        let groups = || (0..streams).flat_map(|stream| (0..count).map(move |index| (StreamId(0x13a + stream), index)));
        for (stream, index) in groups() {
            times.group_recorded(stream, group(index), 3);
        }
        assert_eq!(times.read(0x204), 0);
        for (stream, index) in groups() {
            times.group_answered(stream, group(index), false, 5);
        }
        for stream in 0..streams {
            let count = u64::from(count);
            assert_eq!(told(&mut times, StreamId(0x13a + stream))[0], [count, 2 * count, 2, 2]);
        }
    }
}
