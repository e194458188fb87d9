use alloc::sync::Arc;
use alloc::vec::Vec;
use std::string::{String, ToString};

use super::*;
use crate::driver::command_queue::CommandError;
use crate::driver::error::Timeout;
use crate::driver::fake::{self, Lines};

const TRANSLATION: [u64; 4] = [0x0000_0100_0000_0010, 0x0000_0208_0000_0000, 0x1000, 0];
const BAD_CD: [u64; 4] = [0x0000_0100_0000_000a, 0, 0, 0];

struct Bench {
    lines: Arc<Lines>,
    reports: Reports,
}

impl Bench {
    fn new() -> Self {
        let lines = Arc::new(Lines::default());
        Self { reports: Reports::new(lines.clone()), lines }
    }

    /// Has `count` of the same incident: the lines.
    fn tell(&self, count: usize, incident: Incident<'_>) -> Vec<String> {
        fake::cpu().masked(|masked| (0..count).for_each(|_| self.reports.tell(masked, incident)));
        self.lines.take()
    }

    fn event(&self, count: usize, words: [u64; 4]) -> Vec<String> {
        self.tell(count, Incident::Event(&Event::decode(words).unwrap()))
    }

    fn suppressed(&self) -> [u64; 3] {
        [Source::Events, Source::PageRequests, Source::Commands].map(|source| self.reports.suppressed(source))
    }
}

#[test]
fn a_kind_has_four_lines_a_second_and_the_next_line_tells_how_many_there_were_before_it() {
    let bench = Bench::new();
    let line = "F_TRANSLATION, translation fault: StreamID=0x100 SSV=0 Stall=0 PnU=0 InD=0 RnW=1 S2=0 CLASS=IN InputAddr=0x1000";
    assert_eq!(bench.event(10_000, TRANSLATION), [line; 4]);
    bench.reports.set_time(999_999);
    assert_eq!(bench.event(4, TRANSLATION), [""; 0]);
    bench.reports.set_time(1_000_000);
    let told = [line.to_string() + " (and 10000 of its kind before it)", line.to_string()];
    assert_eq!(bench.event(2, TRANSLATION), told);
    assert_eq!(bench.suppressed(), [10_000, 0, 0]);
}

#[test]
fn a_flood_of_one_event_hides_no_other_one() {
    let bench = Bench::new();
    assert_eq!(bench.event(100, TRANSLATION).len(), 4);
    assert_eq!(bench.event(1, BAD_CD), ["C_BAD_CD, the CD is invalid: StreamID=0x100 SSV=0"]);
    // Those that the implementation defines are one kind.
    let defined = (0xe0..=0xef).flat_map(|number| bench.event(1, [number, 0, 0, 0]));
    assert_eq!(defined.count(), 4);
}

#[test]
fn each_incident_has_its_words_and_is_counted_for_its_queue() {
    let failure = CommandFailure { error: CommandError::Illegal, words: [0x10_0000_0003, 1], position: 17 };
    let timeout = Timeout { register: Register::CmdqCons, expected: 2, actual: 0, waited_us: 10 };
    let timeout = CommandTimeout { timeout, command: None, errors: 0 };
    let incidents = [
        (
            Incident::Undecodable { words: [0x7f, 1, 2, 3], error: EventError::Number(0x7f) },
            "event record 0x000000000000007f 0x0000000000000001 0x0000000000000002 0x0000000000000003: unknown event 0x7f",
            [1, 0, 0],
        ),
        (
            Incident::Overflow(OutputQueue::Events),
            "the event queue overflowed: reports of terminated accesses are lost",
            [1, 0, 0],
        ),
        (
            Incident::Overflow(OutputQueue::PageRequests),
            "the PRI queue overflowed: groups without a Last are dropped",
            [0, 1, 0],
        ),
        (
            Incident::Nonsense { queue: OutputQueue::Events, prod: 0x1f },
            "EVENTQ_PROD is 0x1f: more than the whole queue ahead",
            [1, 0, 0],
        ),
        (
            Incident::Nonsense { queue: OutputQueue::PageRequests, prod: 0x1f },
            "PRIQ_PROD is 0x1f: more than the whole queue ahead",
            [0, 1, 0],
        ),
        (
            Incident::CommandFailure(&failure),
            "command queue error: CERROR_ILL at command 17, CMD_CFGI_STE StreamID=0x10 Leaf=1",
            [0, 0, 1],
        ),
        (
            Incident::Unsent { waiting: 3, timeout },
            "3 answers wait to be sent: CMDQ_CONS did not become 0x2 within 10 us: it is 0x0, and stands at no command, with the global errors 0x0",
            [0, 0, 1],
        ),
        // 7.5: bits 2, 5 and 8.
        (Incident::GlobalErrors(0x124), "global errors: EVENTQ_ABT_ERR MSI_EVENTQ_ABT_ERR SFM_ERR", [0, 0, 0]),
    ];
    // Each has a budget of its own.
    let bench = Bench::new();
    for (incident, line, suppressed) in incidents {
        let before = bench.suppressed();
        assert_eq!(bench.tell(5, incident), [line; 4]);
        let after = bench.suppressed();
        assert_eq!([0, 1, 2].map(|source| after[source] - before[source]), suppressed, "{line}");
    }
}

#[test]
fn a_command_that_is_none_is_shown_by_its_words() {
    let failure = |error, words| CommandFailure { error, words, position: 3 }.to_string();
    assert_eq!(
        failure(CommandError::Illegal, [0xff, 7]),
        "CERROR_ILL at command 3, 0x00000000000000ff 0x0000000000000007"
    );
    assert_eq!(failure(CommandError::FetchAborted, [0x46, 0]), "CERROR_ABT at command 3, CMD_SYNC CS=SIG_NONE");
    assert_eq!(
        failure(CommandError::AtcInvalidation, [0x46, 0]),
        "CERROR_ATC_INV_SYNC at command 3, CMD_SYNC CS=SIG_NONE"
    );
    assert_eq!(failure(CommandError::Unknown(9), [0x46, 0]), "error code 0x9 at command 3, CMD_SYNC CS=SIG_NONE");
}
