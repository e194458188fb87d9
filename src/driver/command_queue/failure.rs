//! What stopped the command queue, and whose command it was (7.1).

use core::fmt;
use core::ops::Range;

use super::WORDS;
use crate::driver::error::DriverError;
use crate::smmuv3::command::Command;

/// Why command consumption stopped (`CMDQ_CONS.ERR`, 7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandError {
    /// CERROR_ILL: the command is illegal. A SYNC took its place, of a command that ends stalls or page requests only if it
    /// was refused twice.
    Illegal,
    /// CERROR_ABT: fetching the command aborted. It is fetched again.
    FetchAborted,
    /// CERROR_ATC_INV_SYNC: ATC invalidations before this SYNC did not complete.
    AtcInvalidation,
    /// A code that 7.1 does not define.
    Unknown(u8),
}

/// A command queue error, and the command at which consumption stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandFailure {
    /// Why.
    pub error: CommandError,
    /// The command at CONS as it was in the queue.
    pub words: [u64; WORDS],
    /// Which command it was, counted from the start of the queue's life.
    pub position: u64,
}

impl CommandFailure {
    /// Whether the command was to end stalls or page requests.
    pub(super) fn is_of_answer(&self) -> bool {
        matches!(
            Command::decode(self.words),
            Ok(Command::Resume { .. } | Command::StallTerm { .. } | Command::PriResp { .. })
        )
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Illegal => f.write_str("CERROR_ILL"),
            Self::FetchAborted => f.write_str("CERROR_ABT"),
            Self::AtcInvalidation => f.write_str("CERROR_ATC_INV_SYNC"),
            Self::Unknown(code) => write!(f, "error code {code:#x}"),
        }
    }
}

impl fmt::Display for CommandFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at command {}, {}", self.error, self.position, Named(self.words))
    }
}

/// The last failures, newest last.
pub(super) type Failures = heapless::HistoryBuf<CommandFailure, 16>;

/// Whether one of `failures` concerns `commands`, which lie with their SYNC within `own`. Since they were put into the queue there
/// were `new` failures: of more than are kept, nobody knows.
///
/// What did not fit the queue at once has others' commands in between, so an illegal command is one's own by its words too. A
/// SYNC that was refused is nobody's: the one in its place does the same.
pub(super) fn blame(failures: &Failures, new: u64, commands: &[Command], own: &Range<u64>) -> Result<(), DriverError> {
    if new > failures.capacity() as u64 {
        return Err(DriverError::ManyErrors(new));
    }
    let any = |is_it: &dyn Fn(&Command) -> bool| commands.iter().any(is_it);
    for failure in failures.oldest_ordered().filter(|failure| own.contains(&failure.position)) {
        match failure.error {
            CommandError::Illegal if any(&|command| command.encode() == failure.words) => {
                return Err(DriverError::IllegalCommand { words: failure.words });
            }
            // Any invalidation before the SYNC that failed may be the one that timed out (4.7.3).
            CommandError::AtcInvalidation if any(&|command| matches!(command, Command::AtcInv { .. })) => {
                return Err(DriverError::AtcInvalidationTimeout);
            }
            _ => {}
        }
    }
    Ok(())
}

/// A command in words: by its name and parameters if it is one.
pub(in crate::driver) struct Named(pub(in crate::driver) [u64; WORDS]);

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Command::decode(self.0) {
            Ok(command) => write!(f, "{command}"),
            Err(_) => write!(f, "{:#018x} {:#018x}", self.0[0], self.0[1]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smmuv3::StreamId;

    /// 16 failures of somebody else hide one that came before them.
    #[test]
    fn what_more_failures_than_are_kept_say_is_not_taken_for_success() {
        let invalidation =
            Command::AtcInv { stream: StreamId(1), substream: None, global: false, address: 0, size: 52 };
        let mut failures = Failures::new();
        let failure = |position| CommandFailure { error: CommandError::AtcInvalidation, words: [0x46, 0], position };
        failures.write(failure(3));
        (4..20).for_each(|position| failures.write(failure(position)));
        assert_eq!(blame(&failures, 17, &[invalidation], &(2..4)), Err(DriverError::ManyErrors(17)));
        assert_eq!(blame(&failures, 16, &[invalidation], &(2..4)), Ok(()));
        assert_eq!(blame(&failures, 16, &[invalidation], &(2..5)), Err(DriverError::AtcInvalidationTimeout));
    }

    #[test]
    fn an_illegal_command_among_ones_own_is_ones_own_by_its_words() {
        let [own, other] = [1, 2].map(|stream| Command::CfgiSte { stream: StreamId(stream), leaf: true });
        let words = [0x2_0000_0003, 1];
        let mut failures = Failures::new();
        failures.write(CommandFailure { error: CommandError::Illegal, words, position: 3 });
        assert_eq!(blame(&failures, 1, &[own, own], &(2..6)), Ok(()));
        assert_eq!(blame(&failures, 1, &[own, other], &(2..6)), Err(DriverError::IllegalCommand { words }));
        assert_eq!(blame(&failures, 1, &[own, other], &(4..6)), Ok(()));
    }
}
