//! The control page: what goes wrong in the machine and when, and how long faults take. For tests of drivers, outside the
//! SMMU's registers, which it does not change. Its datasheet is `docs/control.md`.
//!
//! Registers are 32 bits wide where nothing else is said; those of 64 bits may be accessed by halves. Everything is off
//! after reset. A tick is a [`step`](super::machine::Machine::step) of the machine.
//!
//! Each *point* is a pair of registers. Writing N to the first one lets the Nth occurrence from now on go wrong, 0 none; it
//! reads as how many are left. The second one, [`HAPPENED`] bytes on, counts how often it did. Each *hold* is such a pair
//! too: writing T makes something late by T ticks, [`UNTIL_RELEASED`] until 0 is written; it reads as the ticks left.

/// 0x3154_4e43, `CNT1`. Read-only.
pub const IDENT: usize = 0x000;
/// Writing N lets the SMMU enter service failure mode with the Nth tick from now on (12.3), 0 not at all. Reads as how many are left.
pub const FAIL: usize = 0x004;
/// 64 bits, read-only: ticks since reset.
pub const TICKS: usize = 0x008;
/// 64 bits: the engines that [`ENGINES_HELD`] holds, a bit each.
pub const ENGINES: usize = 0x010;
/// The sources whose interrupts and messages count for [`MESSAGE`], [`INTERRUPT_LOST`] and [`INTERRUPT_LATE`]: bit 0 the
/// event queue, 1 the PRI queue, 2 CMD_SYNC, 3 global errors. Reset: all of them.
pub const SOURCES: usize = 0x018;
/// By how many ticks [`INTERRUPT_LATE`] delays.
pub const LATE_TICKS: usize = 0x01c;
/// Bit 0: records of one tick that are of different streams may change places, in the event queue and in the PRI queue.
pub const REORDER: usize = 0x020;
/// Decides which ones: with 0 all that may, with another value as a generator decides that begins with it. Reads as where
/// the generator is.
pub const SEED: usize = 0x024;
/// How often records changed places. Read-only.
pub const REORDERED: usize = 0x028;
/// Bit 0: something may be left to do at once. Read-only; 0 once a tick has found nothing, until a register is written.
pub const BUSY: usize = 0x02c;
/// Writing N resets the machine, whose SMMU is of the Nth profile then, counted from 1 as
/// [`Profile::ALL`](super::profile::Profile::ALL) has them; where there is no such profile nothing happens. Reads as zero.
pub const RESET: usize = 0x030;
/// How many updates of its register, or commands, a hold lets pass before it begins: what this is when the hold is written. No matter to
/// [`ENGINES_HELD`].
pub const PASSED: usize = 0x034;

/// From the register of a point or a hold to the one that counts how often it happened, which is read-only.
pub const HAPPENED: usize = 4;

/// A write of a record to the event queue aborts: `EVENTQ_ABT_ERR` (7.2.2).
pub const EVENT_WRITE: usize = 0x100;
/// A write of a page request to the PRI queue aborts: `PRIQ_ABT_ERR` (8.2).
pub const PAGE_REQUEST_WRITE: usize = 0x108;
/// The fetch of a command aborts: CERROR_ABT (7.1).
pub const COMMAND_FETCH: usize = 0x110;
/// A command is taken as illegal: CERROR_ILL (7.1).
pub const COMMAND_ILLEGAL: usize = 0x118;
/// An ATC invalidation times out: CERROR_ATC_INV_SYNC at the next CMD_SYNC (4.5.1, 7.1).
pub const ATC_INVALIDATION: usize = 0x120;
/// The fetch of an STE aborts: `F_STE_FETCH` (7.3.4).
pub const STE_FETCH: usize = 0x128;
/// The fetch of a CD aborts: `F_CD_FETCH` (7.3.10).
pub const CD_FETCH: usize = 0x130;
/// The fetch of a translation table descriptor, of either stage, aborts: `F_WALK_EABT` (7.3.12).
pub const TABLE_FETCH: usize = 0x138;
/// A message aborts: `MSI_*_ABT_ERR` (3.18, 7.5).
pub const MESSAGE: usize = 0x140;
/// An interrupt, wire and message, does not arrive.
pub const INTERRUPT_LOST: usize = 0x148;
/// An interrupt, wire and message, arrives [`LATE_TICKS`] later. None is counted while one is on its way.
pub const INTERRUPT_LATE: usize = 0x150;

/// The next update of CR0 is acknowledged late (6.3.9).
pub const CR0_LATE: usize = 0x180;
/// The next update of IRQ_CTRL is acknowledged late (6.3.16).
pub const IRQ_CTRL_LATE: usize = 0x188;
/// The next update of GBPA completes late (6.3.14).
pub const GBPA_LATE: usize = 0x190;
/// No command is consumed from now on.
pub const COMMANDS_HELD: usize = 0x198;
/// The engines of [`ENGINES`] do nothing from now on.
pub const ENGINES_HELD: usize = 0x1a0;

/// As a number of ticks: until 0 is written.
pub const UNTIL_RELEASED: u32 = 0xffff_ffff;

/// The stream whose times the following registers tell, by its StreamID.
pub const STREAM: usize = 0x200;
/// Page request groups of all streams whose answer was not timed, as another group took their place. Read-only, as all
/// that follow.
pub const UNTIMED: usize = 0x204;
/// How many faults were answered: stall records by CMD_RESUME, page request groups by CMD_PRI_RESP.
pub const ANSWER_COUNT: usize = 0x208;
/// 64 bits: the sum of the times from record to answer.
pub const ANSWER_SUM: usize = 0x210;
/// 64 bits: the shortest time from record to answer; 0 if there is none.
pub const ANSWER_MIN: usize = 0x218;
/// 64 bits: the longest time from record to answer.
pub const ANSWER_MAX: usize = 0x220;
/// How many answers with retry or success were followed by the device trying again.
pub const RETRY_COUNT: usize = 0x228;
/// 64 bits: the sum of the times from there to that.
pub const RETRY_SUM: usize = 0x230;
/// 64 bits: the shortest of them; 0 if there is none.
pub const RETRY_MIN: usize = 0x238;
/// 64 bits: the longest of them.
pub const RETRY_MAX: usize = 0x240;
/// [`BUCKETS`] counts of times from record to answer, 4 bytes each: the first one of times of 0, number k of times from
/// 2^(k-1) on and below 2^k, the last one of all above too.
pub const ANSWER_BUCKETS: usize = 0x300;
/// The same of the times from answer to retry.
pub const RETRY_BUCKETS: usize = 0x380;

/// Reads of the SMMU's registers that trapped to the firmware at EL2; on the host there are none.
pub const SMMU_READ_TRAPS: usize = 0x400;
/// Writes of the SMMU's registers that trapped.
pub const SMMU_WRITE_TRAPS: usize = 0x404;
/// Accesses to this page that trapped; a read of this register counts itself.
pub const CONTROL_TRAPS: usize = 0x408;
/// Accesses to the engines' registers that trapped.
pub const ENGINE_TRAPS: usize = 0x40c;
/// What else trapped: SMC, HVC, WFI with a single core, accesses where the machine has no registers.
pub const OTHER_TRAPS: usize = 0x410;

/// How many buckets a histogram has.
pub const BUCKETS: usize = 32;
