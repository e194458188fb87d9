use alloc::sync::Arc;

use embedded_hal::delay::DelayNs;
use loom::sync::Mutex;
use loom::thread;

use super::*;
use crate::driver::command_queue::AnswerCommand;
use crate::driver::dma::Coherence;
use crate::driver::fake;
use crate::sync::Cpu;
use crate::sync::grace::Domain;

/// The registers of an event queue, and its interrupt.
#[derive(Default)]
struct Wire(Mutex<Lines>);

#[derive(Default)]
struct Lines {
    prod: u32,
    cons: u32,
    pending: bool,
}

impl Wire {
    /// The SMMU writes a record: the interrupt comes if the queue was empty (3.18.2).
    fn record(&self) {
        let mut lines = self.0.lock().unwrap();
        lines.pending |= lines.prod == lines.cons;
        lines.prod += 1;
    }

    fn take_interrupt(&self) -> bool {
        core::mem::take(&mut self.0.lock().unwrap().pending)
    }
}

impl Registers for Wire {
    fn read32(&self, _: Register) -> u32 {
        self.0.lock().unwrap().prod
    }

    fn write32(&self, register: Register, value: u32) {
        assert_eq!(register, Register::EventqCons);
        self.0.lock().unwrap().cons = value;
    }

    fn write64(&self, register: Register, _: u64) {
        panic!("{} is written", register.name());
    }
}

#[derive(Clone)]
struct NoDelay;

impl DelayNs for NoDelay {
    fn delay_ns(&mut self, _: u32) {}
}

/// A queue of 8 records and its hardware.
fn queue(wire: &Arc<Wire>) -> (RecordQueue<4>, Hardware<Arc<Wire>, NoDelay>) {
    let words = (0..8 * 4).map(|_| core::sync::atomic::AtomicU64::new(0)).collect::<alloc::vec::Vec<_>>();
    let memory = DmaRegion { phys: crate::smmuv3::PhysAddr(0), words: words.leak() };
    let queue = RecordQueue::new(memory, QueueSize::new(3).unwrap(), Coherence::COHERENT);
    (queue, Hardware::new(wire.clone(), NoDelay, Arc::new(Domain::new()), 1, Arc::new(fake::Lines::default())))
}

#[test]
fn who_sees_that_a_record_is_dealt_with_sees_its_answer_sent() {
    loom::model(|| {
        let wire = Arc::new(Wire::default());
        wire.record();
        let (queue, hardware) = queue(&wire);
        let (queue, sent) = (Arc::new(queue), Arc::new(AtomicBool::new(false)));
        let waiter = thread::spawn({
            let (queue, sent) = (queue.clone(), sent.clone());
            move || assert!(queue.done() == 0 || sent.load(Ordering::Relaxed))
        });
        // CMD_RESUME of StreamID 1, STAG 7, retry.
        let answer = AnswerCommand([0x1_0000_1044, 7]);
        Cpu::of_test(0).masked(|masked| {
            let send = |answers: &mut Answers| {
                sent.store(true, Ordering::Relaxed);
                answers.clear();
            };
            let take = |batch: Records<4>, answers: &mut Answers| batch.for_each(|_| answers.push(answer).unwrap());
            queue.drain(&hardware, masked, take, || {}, send)
        });
        assert_eq!(queue.done(), 1);
        waiter.join().unwrap();
    });
}

#[test]
fn a_record_that_comes_while_the_queue_is_drained_is_not_slept_over() {
    loom::model(|| {
        let wire = Arc::new(Wire::default());
        let (queue, hardware) = queue(&wire);
        let smmu = thread::spawn({
            let wire = wire.clone();
            move || (0..2).for_each(|_| wire.record())
        });
        let cpu = Cpu::of_test(0);
        let interrupt = || {
            let drain = |masked: &Masked| queue.drain(&hardware, masked, |_, _| {}, || {}, |_| {});
            if wire.take_interrupt() {
                while cpu.masked(drain).more {}
            }
        };
        interrupt();
        smmu.join().unwrap();
        interrupt();
        assert_eq!(queue.done(), 2);
    });
}
