//! The registers of a DMA engine: its datasheet.
//!
//! One engine has 4 KiB of registers. 32-bit registers take 32-bit accesses, 64-bit ones take 64-bit accesses or one
//! 32-bit access for each half, low half first in memory. Anything else reads as zero and ignores writes.
//!
//! # Jobs
//!
//! Write [`SOURCE`], [`DESTINATION`], [`LENGTH`], [`PATTERN`], [`PASID`], [`SEED`], [`DEPTH`] and [`GROUP_SIZE`], then
//! [`CONTROL`] with `START`. While [`STATUS`] says `BUSY` these registers and `START` ignore writes. A job moves through
//! its range in pieces of at most 4 KiB, none of which crosses a 4 KiB boundary of an I/O virtual address. Up to
//! [`DEPTH`] pieces are under way at a time; with a depth of 1 each access waits for the one before it.
//!
//! A job ends `DONE`; or with the first access that is refused (`ABORTED`) or differs (`MISMATCH`), whose address is in
//! [`FAULT_ADDRESS`]; or `STOPPED` after `STOP`. It ends only when no access of it is outstanding, so an ended job means
//! that the engine touches nothing any more. With `CONTROL.INTERRUPT` the end raises the engine's interrupt.
//!
//! # ATS and PRI
//!
//! Engines with these capabilities have the controls that a PCIe function has in its configuration space, with the
//! same rules. With [`ATS_CONTROL`] enabled the engine translates by ATS and keeps what it got until it is invalidated
//! or ATS is switched off. Where a translation is refused and [`PRI_CONTROL`] is enabled, it asks for the page, and for
//! those that its job needs next, in one page request group of at most [`GROUP_SIZE`] pages, and goes on when the group is
//! answered with success. An answer of invalid request aborts the accesses that waited for it. An answer of failure
//! does, and stops page requests until they are reset.

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
/// Length of the job in bytes. 64 bits. A job of no bytes is done at once.
pub const LENGTH: usize = 0x020;
/// What fill writes: the byte at address `a` is byte `a % 8` of this little-endian word. 64 bits.
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

/// The most pieces under way at a time.
pub const MAX_DEPTH: usize = 8;
/// The most pages of a page request group.
pub const MAX_GROUP_SIZE: usize = 8;
/// The page requests that an engine could have outstanding at most: all groups full.
pub const MAX_PAGE_REQUESTS: u32 = (MAX_DEPTH * MAX_GROUP_SIZE) as u32;

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
    /// Shift of what to do, 2 bits.
    pub const OPERATION: u32 = 4;
    /// Copies [`SOURCE`](super::SOURCE) to [`DESTINATION`](super::DESTINATION).
    pub const COPY: u32 = 0;
    /// Writes [`PATTERN`](super::PATTERN) to [`DESTINATION`](super::DESTINATION).
    pub const FILL: u32 = 1;
    /// Compares [`SOURCE`](super::SOURCE) with [`DESTINATION`](super::DESTINATION). 3 is reserved and compares too.
    pub const COMPARE: u32 = 2;
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
    /// The job stops as soon as nothing is outstanding.
    pub const STOPPING: u32 = 1 << 8;
    /// Shift of the number of pieces under way, 8 bits.
    pub const OUTSTANDING: u32 = 16;
}

/// Fields of [`ATS_CONTROL`].
pub mod ats_control {
    /// Translates by ATS.
    pub const ENABLE: u32 = 1 << 0;
    /// For tests: invalidation requests are carried out, and never completed.
    pub const INVALIDATIONS_TIME_OUT: u32 = 1 << 1;
}

/// Fields of [`PRI_CONTROL`].
pub mod pri_control {
    /// Page requests may be sent. Enabling works only when stopped and not failed.
    pub const ENABLE: u32 = 1 << 0;
    /// Write 1 while disabled: forgets outstanding groups and a failure. Reads as zero.
    pub const RESET: u32 = 1 << 1;
    /// Write 1: sends a Stop marker for [`PASID`](super::PASID). Reads as zero.
    pub const SEND_STOP_MARKER: u32 = 1 << 2;
}

/// Fields of [`PRI_STATUS`].
pub mod pri_status {
    /// A group was answered with failure; no page request is sent until reset. Write 1 while disabled to clear.
    pub const RESPONSE_FAILURE: u32 = 1 << 0;
    /// An answer named no outstanding group. Write 1 to clear.
    pub const UNEXPECTED_GROUP: u32 = 1 << 1;
    /// Disabled, and no group is outstanding.
    pub const STOPPED: u32 = 1 << 8;
}
