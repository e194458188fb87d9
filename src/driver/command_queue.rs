//! The command queue: many cores put commands in, the SMMU takes them out in order (3.5, 4.1, 7.1).

mod answers;
mod completion;
mod failure;

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::iter;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU64 as Word, Ordering};

use tock_registers::LocalRegisterCopy;

#[cfg(test)]
pub(super) use self::answers::AnswerCommand;
pub(super) use self::answers::{Answers, Unsent};
pub(super) use self::completion::Completion;
use self::completion::Message;
pub(super) use self::failure::Named;
pub use self::failure::{CommandError, CommandFailure};
use self::failure::{Failures, blame};
use super::dma::DmaRegion;
use super::error::{CommandTimeout, DriverError, Timeout};
use super::hardware::Hardware;
use super::registers::Registers;
use super::report::{Incident, Source};
use super::ring::Ring;
use super::trace::Trace;
use super::{BATCH, Delay};
use crate::smmuv3::command::{Command, SyncCompletion};
use crate::smmuv3::features::Features;
use crate::smmuv3::registers::Register;
use crate::smmuv3::registers::fields::{CMDQ_CONS, GERROR};
use crate::sync::atomic::AtomicU64;
use crate::sync::lock::IrqLock;
use crate::sync::memory::try_boxed;
use crate::sync::wait::Expired;
use crate::sync::{Cpu, Masked};

/// Bytes of a command.
pub(super) const COMMAND_BYTES: usize = 16;
/// 64-bit words of a command.
const WORDS: usize = 2;

/// How often at least CMDQ_CONS is looked at where a message is waited for: in so many looks.
const CONS_LOOKS: u32 = 64;

/// Proof that a CMD_SYNC completed, and with it the commands before it: the hardware has forgotten what they invalidate,
/// and no access that used it is under way (4.7.3).
#[derive(Debug)]
pub struct Synced(());

#[cfg(any(test, loom))]
impl Synced {
    /// What a test has instead of an SMMU, and a mistake under test instead of a proof.
    pub(crate) fn forged() -> Self {
        Self(())
    }
}

/// Counts of what went through the command queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommandCounts {
    /// Commands put into the queue.
    pub commands: u64,
    /// CMD_RESUME and CMD_PRI_RESP among them.
    pub answers: u64,
    /// Command queue errors repaired.
    pub errors: u64,
    /// Answers that were not sent, as this SMMU has no command for them, or was given up.
    pub refused: u64,
    /// [Reports](super::Report) of errors and of answers that wait that were not made, as there were too many.
    pub suppressed: u64,
}

type Cons = LocalRegisterCopy<u32, CMDQ_CONS::Register>;
type Errors = LocalRegisterCopy<u32, GERROR::Register>;

/// The command queue of one SMMU.
///
/// Reservation and publication are lock-free (see `ring`). Commands are in the queue, visible to the SMMU, at the end of the
/// masked section that submitted them or of one that overlaps it.
pub struct CommandQueue<R, D> {
    hardware: Arc<Hardware<R, D>>,
    features: Features,
    slots: &'static [[Word; WORDS]],
    /// The same, or none where commands have to be cleaned: these take the way of those that go round, and the others pay nothing.
    at_hand: &'static [[Word; WORDS]],
    ring: Ring,
    completion: Completion,
    failures: IrqLock<Failures>,
    /// How many went into `failures`. Counted under its lock.
    noted: AtomicU64,
    errors: AtomicU64,
    /// Commands that are no answers. What is counted by an exchange is the rarer kind.
    others: AtomicU64,
    refused: AtomicU64,
    /// The last wait for room was in vain. Relaxed: it only shortens waits.
    stuck: AtomicBool,
    trace: Option<Arc<Trace>>,
    /// A bit for each StreamID: its endpoint wants page responses without a PASID.
    without_pasid: Box<[AtomicU64]>,
}

impl<R: Registers, D: Delay> CommandQueue<R, D> {
    /// A queue over `memory`, whose BASE, PROD = 0 and CONS = 0 the caller writes before it enables the queue; `None` when the heap is full.
    pub(super) fn new(
        hardware: Arc<Hardware<R, D>>,
        features: Features,
        stream_bits: u8,
        memory: DmaRegion,
        ring: Ring,
        completion: Completion,
        trace: Option<Arc<Trace>>,
    ) -> Option<Self> {
        let commands = memory.words.get(..ring.size() as usize * WORDS).unwrap_or_default();
        let words = (1_usize << stream_bits).div_ceil(u64::BITS as usize);
        Some(Self {
            at_hand: if hardware.coherence.is_coherent() { commands.as_chunks().0 } else { &[] },
            hardware,
            features,
            slots: commands.as_chunks().0,
            ring,
            completion,
            failures: IrqLock::new(Failures::new()),
            noted: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            others: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            stuck: AtomicBool::new(false),
            trace,
            without_pasid: try_boxed(words, || Some(AtomicU64::new(0)))?,
        })
    }

    /// Puts `commands` into the queue in this order, with one PROD write if they fit the queue at once. Waits, bounded and
    /// unmasked, while the queue is full.
    ///
    /// # Errors
    ///
    /// [`DriverError::CommandTimeout`] when the SMMU consumed nothing in time; some of the commands may be in the queue then.
    /// [`DriverError::GivenUp`]
    pub fn submit(&self, cpu: &mut Cpu, commands: &[Command]) -> Result<(), DriverError> {
        self.put(cpu, commands, None).map(drop)
    }

    /// The same with a `sync` behind them, under one PROD write if all of it fits the queue, and a batch, at once. Returns the
    /// positions that they lie within.
    fn put(&self, cpu: &mut Cpu, commands: &[Command], mut sync: Option<Command>) -> Result<Range<u64>, DriverError> {
        const MOST: usize = BATCH + 1;
        let most = MOST.min(self.ring.size() as usize);
        let (mut rest, mut first) = (commands, None);
        loop {
            let (batch, behind) = rest.split_at(rest.len().min(most));
            // Where there is room beside the last of them.
            let last = sync.take_if(|_| batch.len() < most);
            let mut words = heapless::Vec::<_, MOST>::new();
            words.extend(batch.iter().chain(&last).map(Command::encode));
            let look = |cpu: &Cpu| match self.hardware.is_given_up() {
                true => Ok(None),
                false => cpu.masked(|masked| self.try_submit(masked, words.iter().copied())).map(Some),
            };
            let positions = self
                .hardware
                .wait(cpu, self.hardware.limit_us, look)
                .map_err(|expired| self.no_room(words.len(), &expired))?
                .ok_or(DriverError::GivenUp)?;
            self.others.fetch_add(words.len() as u64, Ordering::Relaxed);
            let first = *first.get_or_insert(positions.start);
            if behind.is_empty() && sync.is_none() {
                return Ok(first..positions.end);
            }
            rest = behind;
        }
    }

    /// Puts `commands`, which fit the queue, into it with one PROD write, or nothing.
    ///
    /// # Errors
    ///
    /// CONS, when there is no room.
    fn try_submit(
        &self,
        masked: &Masked,
        commands: impl ExactSizeIterator<Item = [u64; WORDS]>,
    ) -> Result<Range<u64>, u32> {
        let count = commands.len();
        let positions = self.fill(masked, iter::once(commands), count)?;
        self.publish();
        Ok(positions)
    }

    /// Puts the commands of all `parts`, `count` together, into the queue, one behind the other, or nothing.
    /// [`publish`](Self::publish) follows in the same masked section.
    ///
    /// # Errors
    ///
    /// CONS, when there is no room.
    #[inline(always)]
    fn fill<C>(&self, masked: &Masked, parts: impl Iterator<Item = C>, count: usize) -> Result<Range<u64>, u32>
    where
        C: ExactSizeIterator<Item = [u64; WORDS]>,
    {
        let count = count as u64;
        let start = match self.ring.reserve(count) {
            Some(start) => start,
            None => self.reserve_anew(masked, count)?,
        };
        let mut end = start;
        for commands in parts {
            let behind = end + commands.len() as u64;
            self.write_at(end, commands);
            end = behind;
        }
        self.ring.mark(start, end);
        Ok(start..end)
    }

    /// Writes `commands` into the slots from `position` on, which are the caller's.
    #[inline(always)]
    fn write_at(&self, position: u64, commands: impl ExactSizeIterator<Item = [u64; WORDS]>) {
        let (first, count) = (self.ring.slot(position), commands.len());
        if let Some(slots) = self.at_hand.get(first..first + count) {
            slots.iter().zip(commands).for_each(|(slot, command)| write(slot, command));
        } else {
            // The queue goes round here, or commands have to be cleaned.
            let (mut commands, slots) = (commands, self.slots);
            let until_end = slots.get(first..).unwrap_or_default();
            until_end.iter().zip(&mut commands).for_each(|(slot, command)| write(slot, command));
            slots.iter().zip(commands).for_each(|(slot, command)| write(slot, command));
            if !self.hardware.coherence.is_coherent() {
                self.clean(position, count);
            }
        }
    }

    /// Has the SMMU see the `count` commands from position `start` on: whoever publishes them need not.
    #[cold]
    #[inline(never)]
    fn clean(&self, start: u64, count: usize) {
        let (slots, first) = (self.slots, self.ring.slot(start));
        let until_end = slots.get(first..).unwrap_or_default();
        let until_end = until_end.get(..count).unwrap_or(until_end);
        for part in [until_end, slots.get(..count - until_end.len()).unwrap_or_default()] {
            self.hardware.coherence.clean(part.as_flattened());
        }
    }

    /// Reserves slots after a look at CONS, or returns that.
    #[cold]
    fn reserve_anew(&self, masked: &Masked, count: u64) -> Result<u64, u32> {
        // What fills the queue may not be published yet, here or on another core.
        self.publish();
        let cons = self.progress(masked);
        self.ring.reserve(count).ok_or(cons)
    }

    /// As [`publish`](Self::publish), for who has written a register ([`Registers::write32`]) since it put commands into the queue.
    pub(super) fn publish_relaxed(&self) {
        self.ring.publish(|end| self.hardware.registers.write32_relaxed(Register::CmdqProd, self.ring.index(end)));
    }

    /// Publishes the commands that were put into the queue.
    pub(super) fn publish(&self) {
        self.ring.publish(|end| self.hardware.write(Register::CmdqProd, self.ring.index(end)));
    }

    /// Puts `commands` and a SYNC into the queue, with one PROD write if they fit it at once, and returns when the SYNC is
    /// complete.
    ///
    /// # Errors
    ///
    /// [`DriverError::CommandTimeout`] when there was no room, or the SYNC was not consumed, in time,
    /// [`DriverError::IllegalCommand`] when the SMMU refused one of these commands,
    /// [`DriverError::AtcInvalidationTimeout`] when an ATC invalidation among these commands may not have completed,
    /// [`DriverError::ManyErrors`] when there were more errors meanwhile than are kept, [`DriverError::GivenUp`].
    pub fn execute(&self, cpu: &mut Cpu, commands: &[Command]) -> Result<Synced, DriverError> {
        // Relaxed: the failures themselves are under a lock. That the count has those that came before the SYNC was consumed is
        // by the message, or by the read of CONS, whose position a core noted with release if another one saw it.
        let noted = self.noted.load(Ordering::Relaxed);
        let (sync, message) = self.completion.next(cpu);
        let own = self.put(cpu, commands, Some(sync))?;
        self.wait_for_sync(cpu, own.end, message)?;
        if self.noted.load(Ordering::Relaxed) == noted {
            return Ok(Synced(()));
        }
        cpu.masked(|masked| {
            let failures = self.failures.lock(masked);
            // Relaxed: counted under the lock.
            let new = self.noted.load(Ordering::Relaxed) - noted;
            blame(&failures, new, commands, &own)
        })?;
        Ok(Synced(()))
    }

    /// Returns when the SYNC before `end`, which sends `message` if it has one, is complete.
    fn wait_for_sync(&self, cpu: &mut Cpu, end: u64, message: Option<Message>) -> Result<(), DriverError> {
        let mut looks = 0_u32;
        let complete = |cpu: &Cpu| {
            // CONS is a register, and slow to read. Where there is a message it is looked at more and more seldom.
            let cons_is_due =
                message.is_none() || looks.is_power_of_two() || looks > CONS_LOOKS && looks.is_multiple_of(CONS_LOOKS);
            looks += 1;
            if message.as_ref().is_some_and(Message::has_come) {
                self.ring.pass(end);
            } else if cons_is_due {
                cpu.masked(|masked| self.progress(masked));
            }
            match self.ring.consumed() >= end {
                true => Ok(Ok(())),
                false if self.hardware.is_given_up() => Ok(Err(DriverError::GivenUp)),
                false => Err(()),
            }
        };
        match self.hardware.wait(cpu, self.hardware.limit_us, complete) {
            Ok(complete) => complete,
            Err(Expired { waited_us, .. }) => {
                // It may be complete, and its message lost.
                let last = cpu.masked(|masked| self.progress(masked));
                match self.ring.consumed() >= end {
                    true => Ok(()),
                    false => Err(self.timeout(end, &Expired { last, waited_us }).into()),
                }
            }
        }
    }

    /// What went through the queue so far. Commands that are put in meanwhile may be among the answers.
    pub fn counts(&self) -> CommandCounts {
        let commands = self.ring.reserved();
        CommandCounts {
            commands,
            answers: commands.saturating_sub(self.others.load(Ordering::Relaxed)),
            errors: self.errors.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            suppressed: self.hardware.reports.suppressed(Source::Commands),
        }
    }

    /// The last command queue error.
    pub fn last_failure(&self, masked: &Masked) -> Option<CommandFailure> {
        self.failures.lock(masked).recent().copied()
    }

    /// Repairs a command queue error if one is active: replaces an illegal command by a SYNC, acknowledges, and with that
    /// restarts consumption (7.1). Returns whether there was one.
    ///
    /// A command that ends stalls or page requests has nobody who waits for its SYNC, and what it was to end would wait
    /// for ever. So it stays, and is replaced only when it is refused again.
    pub(super) fn repair(&self, masked: &Masked) -> bool {
        let mut repaired = None;
        self.hardware.acknowledge(masked, GERROR::CMDQ_ERR::SET.mask(), |_| {
            let cons = Cons::new(self.ring.observe(|| self.hardware.read(Register::CmdqCons)));
            // Nothing is consumed while the error is active, so this is the command that CONS points at.
            let position = self.ring.consumed();
            let error = match cons.read(CMDQ_CONS::ERR) {
                1 => CommandError::Illegal,
                2 => CommandError::FetchAborted,
                3 => CommandError::AtcInvalidation,
                code => CommandError::Unknown(code as u8),
            };
            let failure = CommandFailure { error, words: self.read(position), position };
            let mut failures = self.failures.lock(masked);
            let refused =
                |failure: &CommandFailure| (failure.error, failure.position) == (CommandError::Illegal, position);
            if refused(&failure)
                && (!failure.is_of_answer() || failures.iter().any(refused))
                && let Some(slot) = self.slots.get(self.ring.slot(position))
            {
                write(slot, Command::Sync(SyncCompletion::None).encode());
                self.hardware.coherence.clean(slot);
            }
            // Before the acknowledgement, with which consumption goes on. What repeats hides nobody else's.
            if !failures.iter().any(|known| (known.error, known.position) == (error, position)) {
                failures.write(failure);
                self.noted.fetch_add(1, Ordering::Relaxed);
            }
            self.errors.fetch_add(1, Ordering::Relaxed);
            repaired = Some(failure);
        });
        if let Some(failure) = &repaired {
            self.hardware.reports.tell(masked, Incident::CommandFailure(failure));
        }
        repaired.is_some()
    }

    /// Where the messages of CMD_SYNCs go, if there are some.
    pub(super) const fn messages(&self) -> Option<DmaRegion> {
        self.completion.lines()
    }

    /// Whether no message is under way, of a queue that is off and had one CMD_SYNC at most, its last command, from this core: it is not
    /// consumed, or its message is there.
    pub(super) fn messages_arrived(&self, cpu: &Cpu) -> bool {
        let [cons, prod] = [Register::CmdqCons, Register::CmdqProd].map(|register| self.hardware.read(register));
        // CONS has the error in its upper bits (6.3.28).
        (cons ^ prod) & 0xf_ffff != 0 || self.completion.has_arrived(cpu)
    }

    /// A message of a CMD_SYNC aborted (MSI_CMDQ_ABT_ERR).
    pub(super) fn abandon_messages(&self) {
        self.completion.abandon_messages();
    }

    /// The error of a wait for room for `count` commands.
    fn no_room(&self, count: usize, expired: &Expired<u32>) -> CommandTimeout {
        self.timeout(self.ring.awaited(count as u64), expired)
    }

    /// The error of a wait for CONS to come to `awaited`.
    fn timeout(&self, awaited: u64, &Expired { last: actual, waited_us }: &Expired<u32>) -> CommandTimeout {
        let expected = self.ring.index(awaited);
        let next = self.ring.consumed();
        CommandTimeout {
            timeout: Timeout { register: Register::CmdqCons, expected, actual, waited_us },
            command: (next < self.ring.reserved()).then(|| self.read(next)),
            errors: self.hardware.active_errors(),
        }
    }

    /// Looks how far the SMMU has come, and repairs what keeps it from going on. Returns CONS.
    fn progress(&self, masked: &Masked) -> u32 {
        let cons = self.ring.observe(|| self.hardware.read(Register::CmdqCons));
        let errors = Errors::new(self.hardware.active_errors());
        if errors.is_set(GERROR::CMDQ_ERR) {
            self.repair(masked);
        }
        // It accesses its queues no more (12.3). The error stays for the interrupt to tell.
        if errors.is_set(GERROR::SFM_ERR) {
            self.hardware.give_up();
        }
        cons
    }

    fn read(&self, position: u64) -> [u64; WORDS] {
        let words = self.slots.get(self.ring.slot(position));
        words.map_or([0; WORDS], |words| words.each_ref().map(|word| word.load(Ordering::Relaxed)))
    }
}

/// Writes a command into its slot. Relaxed: the ring's mark and the PROD write order it before the SMMU reads it.
fn write(slot: &[Word; WORDS], words: [u64; WORDS]) {
    slot.iter().zip(words).for_each(|(word, value)| word.store(value, Ordering::Relaxed));
}

#[cfg(all(test, not(loom)))]
mod tests;
