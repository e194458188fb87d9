//! How a CMD_SYNC says that it is complete (4.7.3).

use core::sync::atomic::{AtomicBool, AtomicU64 as Word, Ordering};

use crate::driver::dma::{DmaRegion, Lent};
use crate::driver::error::DriverError;
use crate::smmuv3::command::{Command, Msi, SyncCompletion};
use crate::smmuv3::features::Features;
use crate::smmuv3::{PhysAddr, Shareability};
use crate::sync::mutant::mutant;
use crate::sync::{CoreId, Cpu, MAX_CORES};

/// Bytes of a core's line, where its messages arrive: no two cores poll the same one.
const LINE_BYTES: usize = 128;
const LINE_WORDS: usize = LINE_BYTES / size_of::<u64>();
/// In a line: the message in the low half, and the number that the last SYNC's message had.
const MESSAGE: usize = 0;
const NUMBER: usize = 1;

/// MSIATTR, coded as STE.MemAttr (5.2): Normal, inner and outer write-back cacheable.
const WRITE_BACK: u8 = 0xf;

/// How who waits for a CMD_SYNC learns that it is complete: by what IDR0 offers. CMDQ_CONS tells it in any case, and is looked at as well:
/// a message may abort, and does not come when the SMMU stops at an error.
#[derive(Debug)]
pub(in crate::driver) struct Completion {
    /// A line for each core, with IDR0.MSI and IDR0.COHACC: a message to memory, which costs no register access.
    lines: Option<DmaRegion>,
    /// Without: a WFE wake-up event with IDR0.SEV, for a delay that waits for one.
    otherwise: SyncCompletion,
    /// A message aborted, and none is asked for any more. Relaxed: without it waits take longer, no more.
    aborted: AtomicBool,
}

impl Completion {
    /// What an SMMU with `features` offers. Its messages to memory are coherent as its other accesses are (IDR0.COHACC, 6.3.1). Where
    /// they are not, each look would be for an invalidation and memory itself, no quicker than a register: then there are none.
    pub(in crate::driver) fn new(features: &Features, memory: &mut Lent<'_>) -> Result<Self, DriverError> {
        let lines = || memory.allocate(MAX_CORES * LINE_BYTES, LINE_BYTES);
        Ok(Self {
            lines: (features.msi && features.coherent).then(lines).transpose()?,
            otherwise: if features.sev { SyncCompletion::Event } else { SyncCompletion::None },
            aborted: AtomicBool::new(false),
        })
    }

    /// Where messages go, if there are some.
    pub(super) const fn lines(&self) -> Option<DmaRegion> {
        self.lines
    }

    /// Whether the message of this core's last SYNC is there, or it has sent none: that the queue is off does not tell (6.3.9.3).
    pub(super) fn has_arrived(&self, cpu: &Cpu) -> bool {
        self.lines.as_ref().and_then(|lines| line(lines, cpu.core())).is_none_or(|(_, words)| {
            let [message, number] = [MESSAGE, NUMBER].map(|word| words[word].load(Ordering::Acquire) as u32);
            message == number
        })
    }

    /// A message aborted (MSI_CMDQ_ABT_ERR): from now on CONS is polled.
    pub(super) fn abandon_messages(&self) {
        self.aborted.store(true, Ordering::Relaxed);
    }

    /// The next SYNC of this core, and its message, if it has one.
    pub(super) fn next(&self, cpu: &mut Cpu) -> (Command, Option<Message>) {
        let own = self.lines.as_ref().filter(|_| !self.aborted.load(Ordering::Relaxed));
        match own.and_then(|lines| line(lines, cpu.core())) {
            None => (Command::Sync(self.otherwise), None),
            Some((address, words)) => {
                // Relaxed: this core's alone, since it waits for one SYNC at a time. The message of one that it waited for in vain has
                // another number, and is there before that of the next one is sent (4.7.3).
                let number = (words[NUMBER].load(Ordering::Relaxed) as u32).wrapping_add(1);
                words[NUMBER].store(number.into(), Ordering::Relaxed);
                let shareability = Shareability::InnerShareable;
                let msi = Some(Msi { address, data: number, attributes: WRITE_BACK, shareability });
                let message = Message { word: &words[MESSAGE], number };
                (Command::Sync(SyncCompletion::Interrupt { msi }), Some(message))
            }
        }
    }
}

fn line(lines: &DmaRegion, core: CoreId) -> Option<(PhysAddr, &'static [Word; LINE_WORDS])> {
    let words = lines.words.as_chunks().0.get(core.index())?;
    Some((PhysAddr(lines.phys.0 + (core.index() * LINE_BYTES) as u64), words))
}

/// A message that is waited for.
pub(super) struct Message {
    word: &'static Word,
    number: u32,
}

impl Message {
    /// Whether it has come: what the SYNC completes is complete then, and that the SYNC is consumed can be seen (4.7.3).
    pub(super) fn has_come(&self) -> bool {
        has_come(self.number, |order| self.word.load(order))
    }
}

fn has_come(number: u32, load: impl FnOnce(Ordering) -> u64) -> bool {
    // Acquire: pairs with the SMMU's write of the message, before which it did what the SYNC waits for.
    load(if mutant!("message_unread") { Ordering::Relaxed } else { Ordering::Acquire }) as u32 == number
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::cell::Cell;
    use loom::sync::Arc;
    use loom::sync::atomic::AtomicU64;
    use loom::thread;

    use super::*;
    use crate::driver::ring::Ring;
    use crate::smmuv3::queue::QueueSize;

    /// A page to which an access was under way, a command's slot, and the word of the message.
    struct Memory {
        page: Cell<u64>,
        slot: Cell<u64>,
        message: AtomicU64,
    }

    /// Nobody reads CONS: what the SMMU did before a message is seen by who waits for it, and by another core that finds room then.
    #[test]
    fn who_sees_a_message_sees_what_was_done_before_it_and_may_use_its_slot_again() {
        loom::model(|| {
            let ring = Arc::new(Ring::new(QueueSize::new(0).unwrap()).unwrap());
            let memory = Arc::new(Memory { page: Cell::new(0), slot: Cell::new(0), message: AtomicU64::new(0) });
            let start = ring.reserve(1).unwrap();
            memory.slot.set(1);
            ring.mark(start, 1);
            let smmu = thread::spawn({
                let memory = memory.clone();
                move || {
                    assert_eq!(memory.slot.get(), 1);
                    memory.page.set(1);
                    memory.message.store(7, Ordering::Release);
                }
            });
            let other = thread::spawn({
                let (ring, memory) = (ring.clone(), memory.clone());
                move || {
                    while ring.reserve(1).is_none() {
                        thread::yield_now();
                    }
                    memory.slot.set(2);
                }
            });
            while !has_come(7, |order| memory.message.load(order)) {
                thread::yield_now();
            }
            assert_eq!(memory.page.get(), 1);
            ring.pass(1);
            smmu.join().unwrap();
            other.join().unwrap();
            assert_eq!(memory.slot.get(), 2);
        });
    }
}
