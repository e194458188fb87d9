//! What can go wrong between the driver and its SMMU.

use alloc::collections::TryReserveError;
use core::fmt;

use super::command_queue::Named;
use super::dma::NoMemory;
use super::hooks::OutputQueue;
use crate::iopf::{CloseError, OpenError, StopError};
use crate::smmuv3::command::CommandError;
use crate::smmuv3::features::FeaturesError;
use crate::smmuv3::registers::Register;
use crate::smmuv3::{PhysAddr, StreamId, SubstreamId, Vmid};
use crate::sync::grace::GraceTimeout;

/// A register that did not come to what was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} did not become {expected:#x} within {waited_us} us: it is {actual:#x}",
    register.name()
)]
pub struct Timeout {
    /// The register that was polled.
    pub register: Register,
    /// The value waited for, in the bits that matter.
    pub expected: u32,
    /// The value last read.
    pub actual: u32,
    /// How long was waited, in microseconds.
    pub waited_us: u32,
}

/// Commands that the SMMU did not consume in time, and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{timeout}, and stands at {}, with the global errors {errors:#x}", At(*command))]
pub struct CommandTimeout {
    /// How far CMDQ_CONS should have come: past the CMD_SYNC, or until there is room.
    pub timeout: Timeout,
    /// The command at CONS, which the SMMU does not get past; `None` if it has come past all meanwhile.
    pub command: Option<[u64; 2]>,
    /// The global errors that are active: where GERROR and GERRORN differ (7.5).
    pub errors: u32,
}

struct At(Option<[u64; 2]>);

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(command) => Named(command).fmt(f),
            None => f.write_str("no command"),
        }
    }
}

/// Why this driver cannot use an SMMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsupported {
    /// IDR0.S1P = 0, for what is about address spaces.
    #[error("it does not implement stage 1 translation (IDR0.S1P)")]
    NoStage1,
    /// IDR0.S2P = 0, for what is about virtual machines.
    #[error("it does not implement stage 2 translation (IDR0.S2P)")]
    NoStage2,
    /// IDR3.RIL = 0, for what a virtual machine has forgotten by ranges.
    #[error("it does not invalidate by ranges (IDR3.RIL)")]
    NoRanges,
    /// IDR0.TTF without AArch64 tables.
    #[error("it does not walk AArch64 translation tables (IDR0.TTF)")]
    NoAarch64Tables,
    /// IDR0.TTENDIAN = 0b11.
    #[error("it walks big-endian translation tables only (IDR0.TTENDIAN)")]
    BigEndian,
    /// IDR0.COHACC = 0, and [`DmaMemory::maintenance`](super::dma::DmaMemory::maintenance) offers none.
    #[error("its accesses to tables and queues are not coherent (IDR0.COHACC), and there is no cache maintenance")]
    NotCoherent,
    /// IDR5.GRAN4K = 0.
    #[error("it does not support the 4 KiB granule (IDR5.GRAN4K)")]
    No4KGranule,
    /// IDR1.QUEUES_PRESET or IDR1.TABLES_PRESET.
    #[error("the place of its queues or tables is fixed in hardware (IDR1.QUEUES_PRESET, IDR1.TABLES_PRESET)")]
    Preset,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DriverError {
    /// The ID registers contradict the architecture.
    #[error("the SMMU's ID registers make no sense: {0}")]
    Features(#[from] FeaturesError),
    /// The SMMU is sound, and not for this driver.
    #[error("the SMMU cannot be used: {0}")]
    Unsupported(#[from] Unsupported),
    /// A polled register did not change in time.
    #[error(transparent)]
    Timeout(#[from] Timeout),
    /// The SMMU did not consume commands in time.
    #[error(transparent)]
    CommandTimeout(#[from] CommandTimeout),
    /// No memory for a queue or a table.
    #[error(transparent)]
    NoMemory(#[from] NoMemory),
    /// Memory for a queue or a table, or the place of a message, beyond what the SMMU addresses: it need not store these bits of its
    /// registers (6.3.21, 6.3.24, 6.3.26).
    #[error("{bytes} bytes at {:#x} end beyond the {bits} address bits of the SMMU (IDR5.OAS)", address.0)]
    BeyondAddresses {
        /// Where it begins.
        address: PhysAddr,
        /// Its size in bytes.
        bytes: usize,
        /// What IDR5.OAS says.
        bits: u8,
    },
    /// No place for a message: address 0 says that there is none, and bits 1:0 are reserved (6.3.21).
    #[error("a message to {:#x}, which is 0 or no multiple of 4", .0.0)]
    MessageAddress(PhysAddr),
    /// The heap has no room for what is to be noted, of the SMMU or of a stream.
    #[error("the heap is full")]
    HeapFull,
    /// The SMMU refused a command (CERROR_ILL); a SYNC took its place.
    #[error("the SMMU refused {} as illegal", Named(*words))]
    IllegalCommand {
        /// The command as it was in the queue.
        words: [u64; 2],
    },
    /// What a virtual machine has its SMMU forget is no command that this one has.
    #[error("a virtual machine's command is refused: {0}")]
    GuestCommand(#[from] CommandError),
    /// A device did not complete an ATC invalidation in time (CERROR_ATC_INV_SYNC): nothing that it covers may be used
    /// again.
    #[error("an ATC invalidation timed out")]
    AtcInvalidationTimeout,
    /// There were so many command queue errors while the commands were carried out that it is not known whether they were.
    #[error("whether the commands were carried out is lost in {0} command queue errors")]
    ManyErrors(u64),
    /// IDR0.MSI = 0.
    #[error("the SMMU sends no messages (IDR0.MSI)")]
    NoMessages,
    /// The SMMU is given up: it carries out no more commands, or is not trusted to.
    #[error("the SMMU is given up")]
    GivenUp,
    /// A core did not come to a quiescent point.
    #[error(transparent)]
    Grace(#[from] GraceTimeout),
    /// Nobody drained a queue up to the record waited for.
    #[error("{queue:?} drained up to record {actual} instead of {expected} within {waited_us} us")]
    NotDrained {
        /// The queue.
        queue: OutputQueue,
        /// The number of records that should have been drained.
        expected: u64,
        /// The number of records that were.
        actual: u64,
        /// How long was waited, in microseconds.
        waited_us: u32,
    },
    /// A device did not finish what it had begun. Its stream stays quarantined: call again.
    #[error("the device of stream {stream:?} did not become {state} within {waited_us} us")]
    DeviceBusy {
        /// The device's stream.
        stream: StreamId,
        /// What the device should have become.
        state: &'static str,
        /// How long was waited, in microseconds.
        waited_us: u32,
    },
    /// A device did not stop using a substream: see [`Smmu::stop_substream`](super::Smmu::stop_substream). Call again.
    #[error("the device of stream {stream:?} goes on with substream {substream:?} after {waited_us} us: {lack}")]
    SubstreamInUse {
        /// The device's stream.
        stream: StreamId,
        /// The substream.
        substream: SubstreamId,
        /// What did not come.
        lack: &'static str,
        /// How long was waited, in microseconds.
        waited_us: u32,
    },
    /// Another core is changing streams of this SMMU.
    #[error("another core is changing streams of this SMMU")]
    Busy,
    /// The StreamID lies beyond the stream table.
    #[error("stream {stream:?} lies beyond the stream table of 2^{bits} entries")]
    StreamOutOfRange {
        /// The StreamID.
        stream: StreamId,
        /// The stream table covers two to the power of this many StreamIDs.
        bits: u8,
    },
    /// The stream is attached already.
    #[error("stream {0:?} is attached already")]
    AlreadyAttached(StreamId),
    /// The stream is not attached.
    #[error("stream {0:?} is not attached")]
    NotAttached(StreamId),
    /// The stream's faults, or its ATS, are enabled, or their end is not complete.
    #[error("faults of stream {0:?} are enabled")]
    FaultsEnabled(StreamId),
    /// The stream's faults, or its ATS, are not enabled.
    #[error("faults of stream {0:?} are not enabled")]
    FaultsNotEnabled(StreamId),
    /// The SMMU, or the way the stream is attached, has no such thing.
    #[error("stream {stream:?}: {what} is not supported")]
    NotSupported {
        /// The stream.
        stream: StreamId,
        /// What was asked for.
        what: &'static str,
    },
    /// A stream has other stage 2 tables under this VMID, this one before a change perhaps, and they are not forgotten. What no stream leads to any
    /// more is not looked at: the VMID is theirs all the same, until [`Smmu::forget`](super::Smmu::forget).
    #[error("{0:?} is that of other stage 2 tables")]
    VmidInUse(Vmid),
    /// Every ASID is that of an address space that is not forgotten.
    #[error("all ASIDs of {bits} bits are in use (IDR0.ASID16)")]
    NoAsid {
        /// 8 or 16.
        bits: u8,
    },
    /// Every VMID is that of a virtual machine that is not forgotten.
    #[error("all VMIDs of {bits} bits are in use (IDR0.VMID16)")]
    NoVmid {
        /// 8 or 16.
        bits: u8,
    },
    /// The stream's context table has no such substream.
    #[error("substream {substream:?} lies beyond the context table of stream {stream:?}")]
    SubstreamOutOfRange {
        /// The stream.
        stream: StreamId,
        /// The substream.
        substream: SubstreamId,
    },
    /// The PRI queue is given out to devices whose faults are enabled: see [`Smmu::enable_faults`](super::Smmu::enable_faults).
    #[error(
        "stream {stream:?} needs {needed} entries of the PRI queue for a page request and Stop markers: {free} are free"
    )]
    NoCredits {
        /// The stream.
        stream: StreamId,
        /// The entries that its device needs at least.
        needed: u32,
        /// The entries that are not given out.
        free: u32,
    },
    /// The fault core refused to open the stream.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Groups are still unanswered. The streams stay quarantined: call again.
    #[error("{waiting} groups of stream {stream:?} could not be answered")]
    Unanswered {
        /// The stream.
        stream: StreamId,
        /// How many groups.
        waiting: usize,
    },
    /// The fault core has no memory.
    #[error("no memory for the fault table")]
    NoTable,
    /// The fault core refused to close the stream.
    #[error(transparent)]
    Close(#[from] CloseError),
    /// The fault core refused to stop a substream.
    #[error(transparent)]
    Stop(#[from] StopError),
}

impl From<TryReserveError> for DriverError {
    fn from(_: TryReserveError) -> Self {
        Self::HeapFull
    }
}
