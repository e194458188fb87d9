//! Commands and completions as the queues hold them (NVM Express Base Specification 1.4, 4.2 and 4.6).

use super::PAGE;

/// 64-bit words of a command.
pub(super) const COMMAND_WORDS: usize = 8;

/// A command as a submission queue holds it.
pub(super) type Command = [u64; COMMAND_WORDS];

/// The one namespace.
const NAMESPACE: u32 = 1;

/// What is wanted of the controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// What the controller says of itself (5.15, CNS 1), into the page at `to`.
    IdentifyController { to: u64 },
    /// What it says of the namespace (5.15, CNS 0), into the page at `to`.
    IdentifyNamespace { to: u64 },
    /// The completion queue 1 of `entries` at `at`, without interrupts (5.3).
    CreateCompletionQueue { at: u64, entries: u16 },
    /// The submission queue 1 of `entries` at `at`, with completion queue 1 (5.4).
    CreateSubmissionQueue { at: u64, entries: u16 },
    /// Blocks of the disk (6.9, 6.15), `count` of them from number `first` on, read into `data` or written from it.
    Transfer { write: bool, first: u64, count: u16, data: Pointer },
}

/// Where a transfer's data is: its PRP entries (4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pointer {
    /// The first page.
    pub(super) first: u64,
    /// The second page, or a list of the pages behind the first one where there are more than two.
    pub(super) second: u64,
}

impl Request {
    /// The command, under the identifier `id`.
    pub(super) fn encode(self, id: u16) -> Command {
        let page = |to| Pointer { first: to, second: 0 };
        let (opcode, namespace, data, dword10, dword11, dword12) = match self {
            Self::IdentifyController { to } => (0x06, 0, page(to), 1, 0, 0),
            Self::IdentifyNamespace { to } => (0x06, NAMESPACE, page(to), 0, 0, 0),
            // The number of entries less one, and the queue's identifier; physically contiguous.
            Self::CreateCompletionQueue { at, entries } => (0x05, 0, page(at), (entries as u32 - 1) << 16 | 1, 1, 0),
            Self::CreateSubmissionQueue { at, entries } => {
                (0x01, 0, page(at), (entries as u32 - 1) << 16 | 1, 1 << 16 | 1, 0)
            }
            Self::Transfer { write, first, count, data } => {
                let opcode = if write { 0x01 } else { 0x02 };
                (opcode, NAMESPACE, data, first as u32, (first >> 32) as u32, count as u32 - 1)
            }
        };
        let head = opcode | (id as u64) << 16 | (namespace as u64) << 32;
        [head, 0, 0, data.first, data.second, dword10 as u64 | (dword11 as u64) << 32, dword12 as u64, 0]
    }
}

impl Pointer {
    /// For `bytes` from the page-aligned address `at` on. `list` is where the list is that [`list`] makes of them.
    pub(super) const fn new(at: u64, bytes: u64, list: u64) -> Self {
        let second = match bytes.div_ceil(PAGE) {
            0 | 1 => 0,
            2 => at + PAGE,
            _ => list,
        };
        Self { first: at, second }
    }
}

/// The pages of `bytes` from `at` on, but the first one: entries of a PRP list.
pub(super) fn list(at: u64, bytes: u64) -> impl Iterator<Item = u64> {
    (1..bytes.div_ceil(PAGE)).map(move |page| at + page * PAGE)
}

/// What the controller says of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Completion {
    /// Which command.
    pub(super) id: u16,
    /// It is of an odd lap of the queue.
    pub(super) phase: bool,
    /// The status field (4.6.1), 0 for success.
    pub(super) status: u16,
}

impl Completion {
    /// From the second word of its entry.
    pub(super) const fn decode(word: u64) -> Self {
        Self { id: (word >> 32) as u16, phase: word >> 48 & 1 != 0, status: (word >> 49) as u16 }
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    #[test]
    fn admin_commands_are_what_the_specification_says() {
        assert_eq!(
            Request::IdentifyController { to: 0x1_2345_6000 }.encode(0x12),
            [0x0000_0000_0012_0006, 0, 0, 0x1_2345_6000, 0, 0x0000_0000_0000_0001, 0, 0]
        );
        assert_eq!(
            Request::IdentifyNamespace { to: 0x5000 }.encode(1),
            [0x0000_0001_0001_0006, 0, 0, 0x5000, 0, 0, 0, 0]
        );
        assert_eq!(
            Request::CreateCompletionQueue { at: 0x6000, entries: 64 }.encode(2),
            [0x0000_0000_0002_0005, 0, 0, 0x6000, 0, 0x0000_0001_003f_0001, 0, 0]
        );
        assert_eq!(
            Request::CreateSubmissionQueue { at: 0x7000, entries: 64 }.encode(3),
            [0x0000_0000_0003_0001, 0, 0, 0x7000, 0, 0x0001_0001_003f_0001, 0, 0]
        );
    }

    #[test]
    fn a_transfer_names_its_blocks_and_its_pages() {
        let data = Pointer { first: 0x8000, second: 0x9000 };
        let read = Request::Transfer { write: false, first: 0x1_0000_0002, count: 16, data };
        assert_eq!(read.encode(9), [0x0000_0001_0009_0002, 0, 0, 0x8000, 0x9000, 0x1_0000_0002, 15, 0]);
        let write = Request::Transfer { write: true, first: 7, count: 1, data: Pointer { second: 0, ..data } };
        assert_eq!(write.encode(0xffff), [0x0000_0001_ffff_0001, 0, 0, 0x8000, 0, 7, 0, 0]);
    }

    #[test]
    fn data_of_two_pages_needs_no_list_and_of_more_does() {
        let second = |bytes| Pointer::new(0x1_0000, bytes, 0x5000).second;
        assert_eq!([1, 0x1000, 0x1001, 0x2000, 0x2001].map(second), [0, 0, 0x1_1000, 0x1_1000, 0x5000]);
        assert_eq!(list(0x1_0000, 0x2001).collect::<Vec<_>>(), [0x1_1000, 0x1_2000]);
        assert_eq!(list(0x1_0000, 0x1000).count(), 0);
    }

    #[test]
    fn a_completion_has_the_commands_identifier_and_a_status() {
        assert_eq!(Completion::decode(0x0001_1234_0001_0007), Completion { id: 0x1234, phase: true, status: 0 });
        // Do Not Retry, status code type 0, code 0x02: an invalid field.
        assert_eq!(Completion::decode(0x8004_0005_0000_0000), Completion { id: 5, phase: false, status: 0x4002 });
    }
}
