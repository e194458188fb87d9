//! What the model counts, and how it may be made harder to drive: registers in the IMPLEMENTATION DEFINED space of page
//! 0 (6.2.1). Counters are 32 bits wide, read-only, and wrap.

/// Switches, see [`control`]. Zero after reset.
pub const CONTROL: usize = 0xe00;
/// Transactions that are held because they stall. Not a counter.
pub const STALLED: usize = 0xe04;
/// Seed of the choices that [`CONTROL`] permits: with 0 every opportunity is taken, with another value each one or not,
/// as a generator decides that begins with it. Reads as where the generator is. Zero after reset.
pub const SEED: usize = 0xe08;
/// Writing a StreamID fills the caches with entries that nothing in memory stands for, as reset may leave them (3.11): 64
/// streams from this one on bypass the SMMU, their CDs are ILLEGAL, and addresses translate to themselves. A driver has to
/// invalidate everything before it enables the SMMU. Reads as 0.
pub const CACHE_POISON: usize = 0xe0c;
/// Writing a number makes the caches evict by another sequence, and with one other than 0 also forget and read ahead
/// when nothing asks for it, and complete the first 16 invalidations after a CMD_SYNC no earlier than the next one. Reads
/// as 0.
pub const CACHE_SEED: usize = 0xe78;
/// Writing a number while nothing is enabled fills the registers that reset leaves UNKNOWN or to the implementation with
/// values that follow from it (6.3). A driver has to write all that it enables. Reads as 0.
pub const REGISTER_POISON: usize = 0xe7c;

/// Bits of [`CONTROL`]: what the architecture permits an SMMU to do and this one does only when told.
pub mod control {
    /// One record stands for all stalled transactions that differ in nothing that matters (3.12.2.1).
    pub const SUPPRESS_DUPLICATES: u32 = 1 << 0;
    /// Stalled transactions try again on their own (3.12.2.2).
    pub const EARLY_RETRY: u32 = 1 << 1;
    /// One record stands for like events of a stream whose STE permits it (7.3.1).
    pub const MERGE_EVENTS: u32 = 1 << 2;
    /// Strict mode: names the first rule that software breaks ([`strict`](super::super::strict)). Not permission for the
    /// SMMU but a watch on software; once set it stays set until the next reset.
    pub const STRICT: u32 = 1 << 3;
}

/// Declares the counters: name and offset.
macro_rules! counters {
    ($($(#[$doc:meta])* $field:ident, $offset:ident = $value:literal;)+) => {
        $($(#[$doc])* pub const $offset: usize = $value;)+

        /// The switches and the counters.
        #[derive(Debug)]
        pub(super) struct Diagnostics {
            control: u32,
            seed: u32,
            $(pub(super) $field: u32,)+
        }

        impl Diagnostics {
            pub(super) const fn new() -> Self {
                Self { control: 0, seed: 0, $($field: 0,)+ }
            }

            /// The register at `offset`; `stalled` is what [`STALLED`] reads as.
            pub(super) fn read(&self, offset: usize, stalled: u32) -> u32 {
                match offset {
                    CONTROL => self.control,
                    STALLED => stalled,
                    SEED => self.seed,
                    $($offset => self.$field,)+
                    _ => 0,
                }
            }
        }
    };
}

counters! {
    /// Stall records written to the event queue.
    stalls_recorded, STALLS_RECORDED = 0xe10;
    /// Times that a stall record had to wait for the event queue.
    stalls_held, STALLS_HELD = 0xe14;
    /// Stalls that another record stands for.
    stalls_suppressed, STALLS_SUPPRESSED = 0xe18;
    /// CMD_RESUME with retry that matched a stall.
    resumed_retry, RESUMED_RETRY = 0xe1c;
    /// CMD_RESUME with abort that matched a stall.
    resumed_abort, RESUMED_ABORT = 0xe20;
    /// CMD_RESUME with RAZ/WI that matched a stall.
    resumed_ignore, RESUMED_IGNORE = 0xe24;
    /// CMD_RESUME that matched nothing: the driver answered what it was not asked.
    resumed_nothing, RESUMED_NOTHING = 0xe28;
    /// Stalls ended by CMD_STALL_TERM.
    stalls_terminated, STALLS_TERMINATED = 0xe2c;
    /// Stalls ended because SMMUEN went to 0.
    stalls_disabled, STALLS_DISABLED = 0xe30;
    /// Stalls that ended well by an early retry.
    early_retries, EARLY_RETRIES = 0xe34;
    /// Records of every kind written to the event queue.
    events_recorded, EVENTS_RECORDED = 0xe38;
    /// Records lost because the event queue was full, disabled or in error.
    events_lost, EVENTS_LOST = 0xe3c;
    /// Page requests written to the PRI queue, Stop markers not counted.
    page_requests, PAGE_REQUESTS = 0xe40;
    /// Of these, the ones with Last: groups that software answers.
    page_request_groups, PAGE_REQUEST_GROUPS = 0xe44;
    /// Page requests and Stop markers that were dropped without an answer.
    page_requests_dropped, PAGE_REQUESTS_DROPPED = 0xe48;
    /// Automatic responses with success.
    auto_success, AUTO_SUCCESS = 0xe4c;
    /// Automatic responses with failure.
    auto_failure, AUTO_FAILURE = 0xe50;
    /// CMD_PRI_RESP with success that a device was waiting for.
    responded_success, RESPONDED_SUCCESS = 0xe54;
    /// CMD_PRI_RESP with invalid request that a device was waiting for.
    responded_invalid, RESPONDED_INVALID = 0xe58;
    /// CMD_PRI_RESP with failure that a device was waiting for.
    responded_failure, RESPONDED_FAILURE = 0xe5c;
    /// CMD_PRI_RESP that no device was waiting for: the driver answered what it was not asked.
    responded_nothing, RESPONDED_NOTHING = 0xe60;
    /// Commands consumed.
    commands, COMMANDS = 0xe64;
    /// Of these, CMD_SYNC.
    syncs, SYNCS = 0xe68;
    /// Commands that raised a command queue error.
    command_errors, COMMAND_ERRORS = 0xe6c;
    /// CMD_STALL_TERM consumed for a stream whose STE does not abort (4.7.2).
    early_stall_terms, EARLY_STALL_TERMS = 0xe70;
    /// Events that the record before stands for.
    events_merged, EVENTS_MERGED = 0xe74;
}

impl Diagnostics {
    pub(super) fn set_control(&mut self, value: u32) {
        let known = control::SUPPRESS_DUPLICATES | control::EARLY_RETRY | control::MERGE_EVENTS | control::STRICT;
        self.control = value & known | self.control & control::STRICT;
    }

    pub(super) fn is_strict(&self) -> bool {
        self.permits(control::STRICT)
    }

    pub(super) fn set_seed(&mut self, value: u32) {
        self.seed = value;
    }

    pub(super) fn permits(&self, switch: u32) -> bool {
        self.control & switch != 0
    }

    /// Whether an opportunity that `switch` permits is taken.
    pub(super) fn takes(&mut self, switch: u32) -> bool {
        self.permits(switch) && choose(&mut self.seed)
    }
}

/// Whether an opportunity is taken: with seed 0 always, else as a generator decides that begins with it.
pub(super) fn choose(seed: &mut u32) -> bool {
    if *seed == 0 {
        return true;
    }
    // Xorshift (Marsaglia 2003), which never comes to 0.
    *seed ^= *seed << 13;
    *seed ^= *seed >> 17;
    *seed ^= *seed << 5;
    *seed >> 31 != 0
}

/// Counts `more` occurrences.
pub(super) fn count(counter: &mut u32, more: u32) {
    *counter = counter.wrapping_add(more);
}
