//! The registers of a DMA engine: names, offsets and fields. What they do in sequence, and how a driver uses them, is in
//! `docs/engine.md`.
//!
//! One engine has 4 KiB of registers. 32-bit registers take 32-bit accesses, 64-bit ones take 64-bit accesses or one
//! 32-bit access for each half, low half first in memory. Anything else reads as zero and ignores writes. All are zero
//! after reset but where it says otherwise.

/// `"DMA1"`. 32 bits, read-only.
pub const ID: usize = 0x000;
/// What [`ID`] reads as.
pub const ID_VALUE: u32 = u32::from_le_bytes(*b"DMA1");
/// The engine's StreamID. 32 bits, read-only.
pub const STREAM_ID: usize = 0x004;
/// What the engine can do, see [`capability`]. 32 bits, read-only.
pub const CAPABILITY: usize = 0x008;

/// First byte to read (copy, compare). 64 bits.
pub const SOURCE: usize = 0x010;
/// First byte to write (copy, fill) or to compare with. 64 bits.
pub const DESTINATION: usize = 0x018;
/// Length of the job in bytes. 64 bits. Copy, fill and compare of no bytes are done at once; a single access has 1 to 8.
pub const LENGTH: usize = 0x020;
/// What fill writes: the byte at address `a` is byte `a % 8` of this little-endian word. The operand of a single write or
/// atomic access, in its low bytes. 64 bits.
pub const PATTERN: usize = 0x028;
/// The PASID (SubstreamID) of a job with `CONTROL.USE_PASID`, in the bits that [`capability::PASID_BITS`] tells.
pub const PASID: usize = 0x030;
/// Zero: 4 KiB windows of the job in ascending order. Else: in an order that the seed decides.
pub const SEED: usize = 0x034;
/// How many pieces may be under way at a time, 1 to [`MAX_DEPTH`]; other values are clamped. 1 after reset.
pub const DEPTH: usize = 0x038;
/// The most pages of a page request group, 1 to [`MAX_GROUP_SIZE`]; other values are clamped. 1 after reset.
pub const GROUP_SIZE: usize = 0x03c;
/// Starts and stops jobs, see [`control`].
pub const CONTROL: usize = 0x040;
/// State of the last job, see [`status`]. Read-only.
pub const STATUS: usize = 0x044;
/// Where the last job was aborted or found a difference. 64 bits, read-only.
pub const FAULT_ADDRESS: usize = 0x048;
/// The bytes that the last job has dealt with. 64 bits, read-only.
pub const BYTES_DONE: usize = 0x050;

/// What accesses say of themselves, see [`attributes`].
pub const ATTRIBUTES: usize = 0x058;

/// Address Translation Services, see [`ats_control`].
pub const ATS_CONTROL: usize = 0x060;
/// Page requests, see [`pri_control`].
pub const PRI_CONTROL: usize = 0x064;
/// State of page requests, see [`pri_status`].
pub const PRI_STATUS: usize = 0x068;
/// The most page requests that the engine could have outstanding. Read-only.
pub const PRI_CAPACITY: usize = 0x06c;
/// The most page requests that the engine may have outstanding, up to [`PRI_CAPACITY`]. Zero after reset.
pub const PRI_ALLOCATION: usize = 0x070;
/// Ways to break the rules, see [`hostile`]. Every engine has it, and it may be written while a job is under way.
pub const HOSTILE: usize = 0x074;

/// Stall records that the SMMU wrote for this engine's accesses. Read-only, as all counters; 32 bits, they wrap.
pub const STALLS: usize = 0x080;
/// Stalls that ended with the access going ahead.
pub const STALLS_RETRIED: usize = 0x084;
/// Stalls that ended with the access refused, or dropped (RAZ/WI).
pub const STALLS_REFUSED: usize = 0x088;
/// ATS translation requests sent.
pub const TRANSLATION_REQUESTS: usize = 0x08c;
/// Page requests sent, Stop markers not counted.
pub const PAGE_REQUESTS: usize = 0x090;
/// Page request groups sent.
pub const PAGE_REQUEST_GROUPS: usize = 0x094;
/// Groups answered with success.
pub const RESPONSES_SUCCESS: usize = 0x098;
/// Groups answered with invalid request.
pub const RESPONSES_INVALID: usize = 0x09c;
/// Groups answered with failure.
pub const RESPONSES_FAILURE: usize = 0x0a0;
/// Answers that name no outstanding group, or come without the PASID that the request had.
pub const RESPONSES_UNEXPECTED: usize = 0x0a4;
/// ATS invalidation requests received.
pub const INVALIDATIONS: usize = 0x0a8;
/// Jobs ended, however.
pub const JOBS: usize = 0x0ac;

/// What the last single read or atomic access found, with zeros above its length. 64 bits, read-only.
pub const RESULT: usize = 0x0b0;
/// What compare-and-swap expects, in its low bytes. 64 bits.
pub const COMPARE: usize = 0x0b8;

/// The most pieces under way at a time.
pub const MAX_DEPTH: usize = 32;
/// The most pages of a page request group.
pub const MAX_GROUP_SIZE: u32 = 32;
/// The page requests that an engine could have outstanding at most: all groups full.
pub const MAX_PAGE_REQUESTS: u32 = MAX_DEPTH as u32 * MAX_GROUP_SIZE;

/// Fields of [`CAPABILITY`].
pub mod capability {
    /// Has ATS.
    pub const ATS: u32 = 1 << 0;
    /// Has page requests.
    pub const PRI: u32 = 1 << 1;
    /// Wants the PASID of a page request in the answer ("PRG Response PASID Required").
    pub const RESPONSE_PASID_REQUIRED: u32 = 1 << 2;
    /// The accesses of this engine may stall.
    pub const CAN_STALL: u32 = 1 << 3;
    /// Shift of the width of PASIDs, 5 bits.
    pub const PASID_BITS: u32 = 8;
}

/// Fields of [`CONTROL`]. `START` and `STOP` read as zero.
pub mod control {
    /// Starts a job.
    pub const START: u32 = 1 << 0;
    /// No new pieces: the job ends when what is outstanding has ended.
    pub const STOP: u32 = 1 << 1;
    /// Shift of what to do.
    pub const OPERATION: u32 = 4;
    /// Mask of what to do, before the shift. A job of any other value is aborted.
    pub const OPERATION_MASK: u32 = 0xf;
    /// Copies [`SOURCE`](super::SOURCE) to [`DESTINATION`](super::DESTINATION).
    pub const COPY: u32 = 0;
    /// Writes [`PATTERN`](super::PATTERN) to [`DESTINATION`](super::DESTINATION).
    pub const FILL: u32 = 1;
    /// Compares [`SOURCE`](super::SOURCE) with [`DESTINATION`](super::DESTINATION).
    pub const COMPARE: u32 = 2;
    /// One read of [`LENGTH`](super::LENGTH) bytes at [`SOURCE`](super::SOURCE), into [`RESULT`](super::RESULT).
    pub const READ: u32 = 4;
    /// One write of [`PATTERN`](super::PATTERN) to [`DESTINATION`](super::DESTINATION).
    pub const WRITE: u32 = 5;
    /// One atomic access to [`DESTINATION`](super::DESTINATION): adds [`PATTERN`](super::PATTERN). What was there before
    /// is in [`RESULT`](super::RESULT).
    pub const ADD: u32 = 6;
    /// The same: puts [`PATTERN`](super::PATTERN) there.
    pub const SWAP: u32 = 7;
    /// The same: puts [`PATTERN`](super::PATTERN) there if [`COMPARE`](super::COMPARE) was there.
    pub const COMPARE_SWAP: u32 = 8;
    /// Accesses carry the PASID.
    pub const USE_PASID: u32 = 1 << 8;
    /// The end of the job raises an interrupt.
    pub const INTERRUPT: u32 = 1 << 9;
}

/// Fields of [`STATUS`].
pub mod status {
    /// Mask of the state.
    pub const STATE: u32 = 0xf;
    /// No job since reset.
    pub const IDLE: u32 = 0;
    /// A job is under way.
    pub const BUSY: u32 = 1;
    /// The job is complete.
    pub const DONE: u32 = 2;
    /// An access of the job was refused.
    pub const ABORTED: u32 = 3;
    /// Compare found a difference.
    pub const MISMATCH: u32 = 4;
    /// The job was stopped.
    pub const STOPPED: u32 = 5;
    /// Shift of why the job was aborted, 3 bits.
    pub const REASON: u32 = 4;
    /// The access itself was aborted.
    pub const ACCESS: u32 = 1;
    /// The translation request was refused: Unsupported Request or Completer Abort, or no permission and no PRI.
    pub const TRANSLATION: u32 = 2;
    /// The page request was answered with invalid request.
    pub const PAGE_INVALID: u32 = 3;
    /// The page request was answered with failure, or could not be sent any more.
    pub const PAGE_FAILURE: u32 = 4;
    /// There is no such operation, or a single access that is empty, longer than 8 bytes or crosses a page.
    pub const REQUEST: u32 = 5;
    /// The job stops as soon as nothing is outstanding.
    pub const STOPPING: u32 = 1 << 8;
    /// Shift of the number of pieces under way, 8 bits.
    pub const OUTSTANDING: u32 = 16;
}

/// Fields of [`ATTRIBUTES`].
pub mod attributes {
    /// Accesses are privileged (PnU). With ATS it counts only with a PASID.
    pub const PRIVILEGED: u32 = 1 << 0;
    /// Reads are instruction fetches (InD). With ATS it counts only with a PASID.
    pub const INSTRUCTION: u32 = 1 << 1;
}

/// Fields of [`HOSTILE`], one for each way to break the rules.
pub mod hostile {
    /// Page requests come without Last.
    pub const NO_LAST: u32 = 1 << 0;
    /// Page requests carry the PASID plus one.
    pub const WRONG_PASID: u32 = 1 << 1;
    /// Page requests are sent whatever the allocation.
    pub const NO_CREDITS: u32 = 1 << 2;
    /// A group takes the index of one that is outstanding, if any is.
    pub const REUSE_INDEX: u32 = 1 << 3;
    /// Page requests are sent although they are disabled or failed.
    pub const WHILE_DISABLED: u32 = 1 << 4;
    /// Accesses claim to be translated: the addresses of a job are used as physical ones, ATS on or off.
    pub const TRANSLATED: u32 = 1 << 5;
    /// One page request each step, job or not: a group of its own for the page at [`DESTINATION`](super::DESTINATION)
    /// plus 4096 times its index.
    pub const STORM: u32 = 1 << 6;
    /// [`STOPPED`](super::pri_status::STOPPED) is never set.
    pub const NEVER_STOPPED: u32 = 1 << 7;
    /// A Stop marker comes before the last request of each group with a PASID.
    pub const EARLY_STOP_MARKER: u32 = 1 << 8;
    /// Accesses ask for translations although ATS is disabled.
    pub const TRANSLATION_REQUESTS: u32 = 1 << 9;
    /// Accesses are of a kind that the SMMU does not support.
    pub const UNSUPPORTED: u32 = 1 << 10;
    /// All of them.
    pub const ALL: u32 = (1 << 11) - 1;
}

/// Fields of [`ATS_CONTROL`].
pub mod ats_control {
    /// Translates by ATS.
    pub const ENABLE: u32 = 1 << 0;
    /// For tests: invalidation requests are neither carried out nor completed.
    pub const INVALIDATIONS_TIME_OUT: u32 = 1 << 1;
    /// For tests: invalidation requests are carried out at once and completed after [`LATENCY`] steps.
    pub const INVALIDATIONS_LATE: u32 = 1 << 2;
    /// Translation requests ask for write permission even where the access only reads (no "No Write" flag).
    pub const ASK_FOR_WRITE: u32 = 1 << 3;
    /// For tests: invalidation requests are answered with Unsupported Request and not carried out.
    pub const INVALIDATIONS_REFUSED: u32 = 1 << 4;
    /// Shift of the steps that a translation request takes until its completion.
    pub const LATENCY: u32 = 8;
    /// Mask of them, before the shift.
    pub const LATENCY_MASK: u32 = 0xff;
}

/// Fields of [`PRI_CONTROL`].
pub mod pri_control {
    /// Page requests may be sent. Enabling works only when stopped and not failed.
    pub const ENABLE: u32 = 1 << 0;
    /// Write 1 while disabled: forgets outstanding groups and a failure. Reads as zero.
    pub const RESET: u32 = 1 << 1;
    /// Write 1: sends a Stop marker for [`PASID`](super::PASID). Reads as zero.
    pub const SEND_STOP_MARKER: u32 = 1 << 2;
    /// Write 1: ends the use of [`PASID`](super::PASID). A job with it is stopped, and when neither a job nor a group has
    /// it any more, a Stop marker is sent and [`PASID_STOPPED`](super::pri_status::PASID_STOPPED) set. Reads as zero.
    pub const STOP_PASID: u32 = 1 << 3;
    /// Beside [`STOP_PASID`]: no Stop marker is sent. Reads as zero.
    pub const NO_STOP_MARKER: u32 = 1 << 4;
}

/// Fields of [`PRI_STATUS`].
pub mod pri_status {
    /// A group was answered with failure; no page request is sent until reset. Write 1 while disabled to clear.
    pub const RESPONSE_FAILURE: u32 = 1 << 0;
    /// An answer named no outstanding group. Write 1 to clear.
    pub const UNEXPECTED_GROUP: u32 = 1 << 1;
    /// The PASID of [`STOP_PASID`](super::pri_control::STOP_PASID) is not used any more. Write 1 to clear.
    pub const PASID_STOPPED: u32 = 1 << 2;
    /// Disabled, and no group is outstanding.
    pub const STOPPED: u32 = 1 << 8;
}
