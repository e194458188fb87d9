//! What goes wrong because a test asked for it: the SMMU's part of the [control page](crate::model::control).
//!
//! Where nothing is asked for, each of the questions here is one look at a word.

use core::cell::Cell;

use super::Smmu;
use super::diagnostics::choose;
use super::registers::{self, gerror};
use crate::model::control;
use crate::model::memory::{Abort, Memory};
use crate::model::wire::{Wire, Wires};
use crate::smmuv3::{PhysAddr, StreamId};

/// What may go wrong at its Nth occurrence, in the order of the registers.
#[derive(Clone, Copy, Debug)]
pub(super) enum Point {
    EventWrite,
    PageRequestWrite,
    CommandFetch,
    CommandIllegal,
    AtcInvalidation,
    SteFetch,
    CdFetch,
    TableFetch,
    Message,
    InterruptLost,
    InterruptLate,
}

const POINTS: usize = Point::InterruptLate as usize + 1;

/// What may be late, in the order of the registers.
#[derive(Clone, Copy, Debug)]
pub(super) enum Late {
    Cr0,
    IrqCtrl,
    Gbpa,
    Commands,
    Engines,
}

const HOLDS: usize = Late::Engines as usize + 1;
const COMMANDS: usize = Late::Commands as usize;

const _: () = assert!(control::EVENT_WRITE + 8 * (POINTS - 1) == control::INTERRUPT_LATE);
const _: () = assert!(control::CR0_LATE + 8 * (HOLDS - 1) == control::ENGINES_HELD);

/// An output queue whose records may change places.
#[derive(Clone, Copy, Debug)]
pub(super) enum Records {
    Events,
    PageRequests,
}

// Bits of `active`. Of points and holds it is one each, from these on.
const FIRST_HOLD: u32 = 16;
const LATE_INTERRUPT: u32 = 1 << 24;
const REORDER: u32 = 1 << 25;
const FAIL: u32 = 1 << 26;

const ALL_SOURCES: u32 = 0xf;

impl Point {
    const fn bit(self) -> u32 {
        1 << self as u32
    }
}

impl Late {
    const fn bit(self) -> u32 {
        1 << (FIRST_HOLD + self as u32)
    }
}

/// The pair of registers of a point. The walks of translation tables borrow the SMMU, so these are cells.
#[derive(Debug)]
struct Countdown {
    left: Cell<u32>,
    happened: Cell<u32>,
}

/// The pair of registers of a hold.
#[derive(Clone, Copy, Debug)]
struct Hold {
    /// How long it will be, while it has not begun.
    ticks: u32,
    /// How many occurrences come before it.
    passed: u32,
    /// The first tick in which it is over, once it has begun.
    until: Option<u64>,
    happened: u32,
}

/// A message: where to, and what.
pub(super) type Message = (PhysAddr, u32);

#[derive(Clone, Copy, Debug)]
struct LateInterrupt {
    due: u64,
    wire: Wire,
    message: Option<Message>,
}

/// What is asked for, and what came of it.
#[derive(Debug)]
pub(super) struct Injection {
    /// What is asked for, a bit each.
    active: Cell<u32>,
    points: [Countdown; POINTS],
    holds: [Hold; HOLDS],
    /// Ticks since reset.
    now: u64,
    /// The tick with which the SMMU fails, if it is to.
    fails: u64,
    engines: u64,
    sources: u32,
    late_ticks: u32,
    late: Option<LateInterrupt>,
    seed: u32,
    reordered: u32,
    /// How many updates a hold that is written lets pass.
    passed: u32,
    /// The streams of the youngest records of this tick, by [`Records`].
    youngest: [Option<StreamId>; 2],
}

impl Injection {
    pub(super) const fn new() -> Self {
        Self {
            active: Cell::new(0),
            points: [const { Countdown { left: Cell::new(0), happened: Cell::new(0) } }; POINTS],
            holds: [Hold { ticks: 0, passed: 0, until: None, happened: 0 }; HOLDS],
            now: 0,
            fails: 0,
            engines: 0,
            sources: ALL_SOURCES,
            late_ticks: 0,
            late: None,
            seed: 0,
            reordered: 0,
            passed: 0,
            youngest: [None; 2],
        }
    }

    fn is_active(&self, bits: u32) -> bool {
        self.active.get() & bits != 0
    }

    fn set_active(&self, bit: u32, active: bool) {
        let others = self.active.get() & !bit;
        self.active.set(if active { others | bit } else { others });
    }

    /// Ticks since reset.
    pub(super) const fn now(&self) -> u64 {
        self.now
    }

    /// A tick begins.
    pub(super) fn tick(&mut self) {
        self.now = self.now.wrapping_add(1);
        self.youngest = [None; 2];
    }

    /// An occurrence of `point`: whether it goes wrong.
    pub(super) fn strikes(&self, point: Point) -> bool {
        if !self.is_active(point.bit()) {
            return false;
        }
        let Some(countdown) = self.points.get(point as usize) else { return false };
        let left = countdown.left.get().saturating_sub(1);
        countdown.left.set(left);
        if left > 0 {
            return false;
        }
        self.set_active(point.bit(), false);
        countdown.happened.set(countdown.happened.get().wrapping_add(1));
        true
    }

    /// The same of an access to memory, which aborts.
    pub(super) fn passes(&self, point: Point) -> Result<(), Abort> {
        if self.strikes(point) { Err(Abort) } else { Ok(()) }
    }

    /// Something that `late` is about is to happen in this tick: whether it does not yet. The first time begins the hold.
    pub(super) fn holds(&mut self, late: Late) -> bool {
        if !self.is_active(late.bit()) {
            return false;
        }
        let now = self.now;
        let Some(hold) = self.holds.get_mut(late as usize) else { return false };
        if hold.passed > 0 {
            hold.passed -= 1;
            return false;
        }
        let until = *hold.until.get_or_insert_with(|| {
            hold.happened = hold.happened.wrapping_add(1);
            end(now, hold.ticks)
        });
        let held = now < until;
        if !held {
            (hold.ticks, hold.until) = (0, None);
            self.set_active(late.bit(), false);
        }
        held
    }

    /// Whether a hold of `late` that has begun is not over.
    pub(super) fn goes_on(&mut self, late: Late) -> bool {
        self.holds.get(late as usize).is_some_and(|hold| hold.until.is_some()) && self.holds(late)
    }

    /// Which of the updates of `pending` are not acknowledged in this tick.
    pub(super) fn late_updates(&mut self, pending: u32) -> u32 {
        if !self.is_active(Late::Cr0.bit() | Late::IrqCtrl.bit() | Late::Gbpa.bit()) {
            return 0;
        }
        let updates = [
            (registers::pending::CR0, Late::Cr0),
            (registers::pending::IRQ_CTRL, Late::IrqCtrl),
            (registers::pending::GBPA, Late::Gbpa),
        ];
        updates
            .into_iter()
            .filter(|(update, late)| pending & update != 0 && self.holds(*late))
            .fold(0, |all, (bit, _)| all | bit)
    }

    /// The engines that do nothing in this tick, a bit each.
    pub(super) fn held_engines(&mut self) -> u64 {
        if self.holds(Late::Engines) { self.engines } else { 0 }
    }

    /// Whether time alone changes something.
    pub(super) fn waits(&self) -> bool {
        let holds = ((1 << HOLDS) - 1) << FIRST_HOLD;
        let ends = |tick: u64| tick != u64::MAX;
        self.is_active(holds | LATE_INTERRUPT | FAIL)
            && (self.is_active(FAIL) && ends(self.fails)
                || self.late.is_some_and(|late| ends(late.due))
                || self.holds.iter().any(|hold| hold.until.is_some_and(ends)))
    }

    /// Whether an interrupt by `wire` with `message` arrives now.
    fn arrives(&mut self, wire: Wire, message: Option<Message>) -> bool {
        if !self.is_active(Point::InterruptLost.bit() | Point::InterruptLate.bit()) || !self.is_counted(wire) {
            return true;
        }
        if self.strikes(Point::InterruptLost) {
            return false;
        }
        if self.late.is_some() || !self.strikes(Point::InterruptLate) {
            return true;
        }
        self.late = Some(LateInterrupt { due: end(self.now, self.late_ticks), wire, message });
        self.set_active(LATE_INTERRUPT, true);
        false
    }

    fn is_counted(&self, wire: Wire) -> bool {
        let bit = match wire {
            Wire::EventQueue => 0,
            Wire::PriQueue => 1,
            Wire::CommandSync => 2,
            Wire::GlobalError => 3,
            Wire::Engine(_) => return false,
        };
        self.sources >> bit & 1 != 0
    }

    /// A record of `stream` was just written: whether it changes places with the one before it. Records of one stream keep
    /// their order; between streams there is none (3.12).
    pub(super) fn swaps(&mut self, records: Records, stream: Option<StreamId>) -> bool {
        if !self.is_active(REORDER) {
            return false;
        }
        let Some(youngest) = self.youngest.get_mut(records as usize) else { return false };
        let before = core::mem::replace(youngest, stream);
        if before.is_none() || stream.is_none() || before == stream || !choose(&mut self.seed) {
            return false;
        }
        *youngest = before;
        self.reordered = self.reordered.wrapping_add(1);
        true
    }

    /// The register at `offset` of the control page.
    pub(super) fn read(&self, offset: usize) -> u32 {
        match offset {
            control::IDENT => 0x3154_4e43,
            control::FAIL if self.is_active(FAIL) => self.fails.saturating_sub(self.now) as u32,
            control::TICKS => self.now as u32,
            TICKS_HIGH => (self.now >> 32) as u32,
            control::ENGINES => self.engines as u32,
            ENGINES_HIGH => (self.engines >> 32) as u32,
            control::SOURCES => self.sources,
            control::LATE_TICKS => self.late_ticks,
            control::REORDER => u32::from(self.is_active(REORDER)),
            control::SEED => self.seed,
            control::REORDERED => self.reordered,
            control::PASSED => self.passed,
            _ => match place(offset) {
                Some(Place::Point(index, second)) => {
                    self.points.get(index).map_or(0, |point| if second { &point.happened } else { &point.left }.get())
                }
                Some(Place::Hold(index, second)) => {
                    self.holds.get(index).map_or(0, |hold| if second { hold.happened } else { hold.left(self.now) })
                }
                None => 0,
            },
        }
    }

    /// Writes the register at `offset` of the control page.
    pub(super) fn write(&mut self, offset: usize, value: u32) {
        match offset {
            control::FAIL => {
                self.fails = end(self.now, value);
                self.set_active(FAIL, value != 0);
            }
            control::ENGINES => self.engines = self.engines & !0xffff_ffff | u64::from(value),
            ENGINES_HIGH => self.engines = self.engines & 0xffff_ffff | u64::from(value) << 32,
            control::SOURCES => self.sources = value & ALL_SOURCES,
            control::LATE_TICKS => self.late_ticks = value,
            control::REORDER => self.set_active(REORDER, value & 1 != 0),
            control::SEED => self.seed = value,
            control::PASSED => self.passed = value,
            _ => match place(offset) {
                Some(Place::Point(index, false)) => {
                    if let Some(point) = self.points.get(index) {
                        point.left.set(value);
                        self.set_active(1 << index, value != 0);
                    }
                }
                Some(Place::Hold(index, false)) => self.write_hold(index, value),
                _ => {}
            },
        }
    }

    fn write_hold(&mut self, index: usize, ticks: u32) {
        let now = self.now;
        let Some(hold) = self.holds.get_mut(index) else { return };
        (hold.ticks, hold.passed, hold.until) = (ticks, self.passed, None);
        let at_once = match index {
            COMMANDS => hold.passed == 0,
            _ => index > COMMANDS,
        };
        if ticks != 0 && at_once {
            hold.passed = 0;
            hold.happened = hold.happened.wrapping_add(1);
            hold.until = Some(end(now.wrapping_add(1), ticks));
        }
        self.set_active(1 << (FIRST_HOLD + index as u32), ticks != 0);
    }
}

const TICKS_HIGH: usize = control::TICKS + 4;
const ENGINES_HIGH: usize = control::ENGINES + 4;

impl Hold {
    fn left(&self, now: u64) -> u32 {
        match self.until {
            None => self.ticks,
            Some(u64::MAX) => control::UNTIL_RELEASED,
            // The tick under way is the next one.
            Some(until) => until.saturating_sub(now.wrapping_add(1)) as u32,
        }
    }
}

enum Place {
    Point(usize, bool),
    Hold(usize, bool),
}

/// Which point or hold the register at `offset` is of, and whether it is the second of the two.
fn place(offset: usize) -> Option<Place> {
    let second = offset & control::HAPPENED != 0;
    match offset {
        control::CR0_LATE..control::STREAM => Some(Place::Hold((offset - control::CR0_LATE) / 8, second)),
        control::EVENT_WRITE..control::CR0_LATE => Some(Place::Point((offset - control::EVENT_WRITE) / 8, second)),
        _ => None,
    }
}

/// The tick that is `ticks` after `now`.
fn end(now: u64, ticks: u32) -> u64 {
    if ticks == control::UNTIL_RELEASED { u64::MAX } else { now.saturating_add(ticks.into()) }
}

impl Smmu {
    /// What the control page asks for at the start of a tick, in which the updates of `acknowledged` are acknowledged.
    pub(super) fn inject(&mut self, acknowledged: u32, memory: &impl Memory, wires: &mut impl Wires) {
        if !self.injection.is_active(FAIL | LATE_INTERRUPT) {
            return;
        }
        if self.injection.is_active(FAIL) && self.injection.fails <= self.injection.now {
            self.injection.set_active(FAIL, false);
            self.fail(memory, wires);
        }
        // When an update of IRQ_CTRL is complete, every interrupt from before has arrived (6.3.16, 3.18.1).
        let last = acknowledged & registers::pending::IRQ_CTRL != 0;
        let now = self.injection.now;
        self.deliver_late(|late| last || late.due <= now, memory, wires);
    }

    /// A CMD_SYNC is complete when the messages of those before it have arrived too (4.7.3).
    pub(super) fn deliver_late_sync(&mut self, memory: &impl Memory, wires: &mut impl Wires) {
        self.deliver_late(|late| late.wire == Wire::CommandSync && late.message.is_some(), memory, wires);
    }

    fn deliver_late(&mut self, arrives: impl Fn(&LateInterrupt) -> bool, memory: &impl Memory, wires: &mut impl Wires) {
        if let Some(late) = self.injection.late.take_if(|late| arrives(late)) {
            self.injection.set_active(LATE_INTERRUPT, false);
            self.deliver(late.wire, late.message, memory, wires);
        }
    }

    /// An interrupt by `wire`, with `message` if there is one, unless it is lost or late.
    pub(super) fn send(&mut self, wire: Wire, message: Option<Message>, memory: &impl Memory, wires: &mut impl Wires) {
        if self.injection.arrives(wire, message) {
            self.deliver(wire, message, memory, wires);
        }
    }

    fn deliver(&mut self, wire: Wire, message: Option<Message>, memory: &impl Memory, wires: &mut impl Wires) {
        wires.raise(wire);
        let Some((address, data)) = message else { return };
        let aborted = self.injection.is_counted(wire) && self.injection.strikes(Point::Message);
        if aborted || memory.write32(address, data).is_err() {
            let error = match wire {
                Wire::EventQueue => gerror::MSI_EVENTQ_ABT_ERR,
                Wire::PriQueue => gerror::MSI_PRIQ_ABT_ERR,
                Wire::CommandSync => gerror::MSI_CMDQ_ABT_ERR,
                Wire::GlobalError | Wire::Engine(_) => gerror::MSI_GERROR_ABT_ERR,
            };
            self.global_error(error, memory, wires);
        }
    }
}

#[cfg(test)]
mod tests;
