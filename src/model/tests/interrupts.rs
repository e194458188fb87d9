//! Interrupts by wire and message, and global errors: 3.18, 6.3.16, 6.3.36, 7.5.

use std::vec;
use std::vec::Vec;

use super::bench::*;
use crate::model::engine::Engine;
use crate::model::host::HostMemory;
use crate::model::machine::Width;
use crate::model::memory::Memory;
use crate::model::smmu::Smmu;
use crate::model::wire::Wire;
use crate::smmuv3::page_request::PageRequest;
use crate::smmuv3::{Access, PhysAddr, PrgIndex, StreamId};

const GERROR_IRQ_CFG0: u64 = 0x68;
const EVENTQ_IRQ_CFG0: u64 = 0xb0;
const PRIQ_IRQ_CFG0: usize = 0xd0;
const PRIQ_IRQ_CFG2: usize = 0xdc;

/// A machine whose sources write `data` to these addresses.
fn with_messages(event: u64, gerror: u64, data: u32) -> Bench {
    let mut bench = Bench::reset();
    bench.initialise();
    bench.write64(EVENTQ_IRQ_CFG0, event);
    bench.write(EVENTQ_IRQ_CFG0 + 8, data);
    bench.write64(GERROR_IRQ_CFG0, gerror);
    bench.write(GERROR_IRQ_CFG0 + 8, data + 1);
    bench.write(IRQ_CTRL, 7);
    bench.enable(ALL_ON);
    bench
}

/// The interrupts without those of the engines.
fn smmu_interrupts(bench: &mut Bench) -> Vec<Wire> {
    bench.take_raised().into_iter().filter(|wire| !matches!(wire, Wire::Engine(_))).collect()
}

#[test]
fn event_queue_sends_its_message_when_it_becomes_non_empty() {
    let mut bench = with_messages(DATA + 4, 0, 0x55aa);
    bench.poke(DATA, u64::MAX);
    bench.write_word(0, 0x5000);
    assert_eq!(bench.peek(DATA), 0x0000_55aa_ffff_ffff);
    assert_eq!(smmu_interrupts(&mut bench), [Wire::EventQueue], "and pulses its wire");
    bench.poke(DATA, 0);
    bench.write_word(0, 0x5000);
    assert_eq!(bench.peek(DATA), 0, "it was not empty");
    bench.take_events();
    bench.write_word(0, 0x5000);
    assert_eq!(bench.peek(DATA), 0x0000_55aa_0000_0000);
}

#[test]
fn message_needs_its_enable() {
    let mut bench = with_messages(DATA, 0, 7);
    bench.write(IRQ_CTRL, 3);
    bench.run();
    bench.write_word(0, 0x5000);
    assert_eq!((bench.peek(DATA), smmu_interrupts(&mut bench)), (0, vec![]));
}

#[test]
fn global_error_sends_its_message() {
    let mut bench = with_messages(0, DATA, 7);
    bench.command([0xff, 0]);
    assert_eq!((bench.peek(DATA), bench.read(GERROR)), (8, 1));
}

#[test]
fn aborted_message_of_the_event_queue_is_a_global_error_and_the_record_is_there() {
    let mut bench = with_messages(END, DATA, 7);
    bench.write_word(0, 0x5000);
    assert_eq!((bench.read(GERROR), bench.read(EVENTQ_PROD)), (1 << 5, 1));
    assert_eq!(smmu_interrupts(&mut bench), [Wire::EventQueue, Wire::GlobalError]);
    assert_eq!(bench.peek(DATA), 8, "told by the other message");
    // The queue goes on while the error is active (7.5).
    bench.write_word(0, 0x5000);
    assert_eq!((bench.read(GERROR), bench.read(EVENTQ_PROD)), (1 << 5, 2));
}

#[test]
fn aborted_message_of_a_global_error_is_an_error_without_an_interrupt() {
    let mut bench = with_messages(0, END, 7);
    bench.command([0xff, 0]);
    assert_eq!(bench.read(GERROR), 1 | 1 << 7);
    assert_eq!(smmu_interrupts(&mut bench), [Wire::GlobalError], "of CMDQ_ERR only (7.5.1)");
}

/// An SMMU with a PRI queue of two entries whose message is 9, and no device: this test talks to it itself.
struct Pri {
    smmu: Smmu,
    memory: HostMemory,
    raised: Raised,
}

impl Pri {
    fn new(configuration2: u64, message: u64) -> Self {
        let memory = HostMemory::new((END - 0x4000_0000) as usize);
        let mut smmu = Smmu::new();
        smmu.write(PRIQ_IRQ_CFG0, Width::Double, message);
        smmu.write(PRIQ_IRQ_CFG0 + 8, Width::Word, 9);
        smmu.write(PRIQ_IRQ_CFG2, Width::Word, configuration2);
        smmu.write(IRQ_CTRL as usize, Width::Word, 2);
        smmu.write(PRIQ_BASE as usize, Width::Double, PAGE_REQUESTS | 1);
        let mut pri = Self { smmu, memory, raised: Raised::default() };
        pri.enable(3);
        pri
    }

    /// Sets CR0 and lets it take effect.
    fn enable(&mut self, cr0: u64) {
        self.smmu.write(CR0 as usize, Width::Word, cr0);
        self.smmu.step(&self.memory, &mut self.raised, &mut [] as &mut [Engine]);
        assert_eq!(self.smmu.read(CR0ACK as usize, Width::Word), cr0);
    }

    /// Whether a request that arrives raises the interrupt.
    fn interrupts(&mut self, last: bool) -> bool {
        let request = PageRequest {
            stream: StreamId(0x102),
            substream: None,
            access: Access::READ,
            last,
            group: PrgIndex::from_low_bits(0),
            address: 0x5000,
        };
        self.smmu.page_request(&request, &self.memory, &mut self.raised);
        core::mem::take(&mut self.raised.wires) == [Wire::PriQueue]
    }

    fn message(&self) -> u64 {
        self.memory.read64(PhysAddr(DATA)).unwrap()
    }
}

#[test]
fn pri_queue_interrupts_when_it_becomes_non_empty() {
    let mut pri = Pri::new(0, DATA);
    assert_eq!([pri.interrupts(false), pri.interrupts(true), pri.interrupts(true)], [true, false, false]);
    assert_eq!(pri.message(), 9);
}

#[test]
fn pri_queue_with_lo_interrupts_on_each_last_that_is_written_or_overflows() {
    let mut pri = Pri::new(1 << 31, DATA);
    assert!(!pri.interrupts(false), "it became non-empty, but not by a Last (6.3.36)");
    assert_eq!(pri.message(), 0);
    assert!(pri.interrupts(true));
    assert_eq!(pri.message(), 9);
    assert_eq!([pri.interrupts(false), pri.interrupts(true)], [false, true], "an overflow");
    let mut empty = Pri::new(1 << 31, DATA);
    assert!(empty.interrupts(true), "into an empty queue");
    // Discarded for another reason: PRIQEN is 0, SMMUEN is 0; the write aborts, and did so before.
    for cr0 in [1, 2] {
        pri.enable(cr0);
        assert!(!pri.interrupts(true), "{cr0}");
    }
    pri.enable(1);
    pri.smmu.write(PRIQ_BASE as usize, Width::Double, END | 1);
    pri.smmu.write(PRIQ_PROD as usize, Width::Word, 0);
    pri.enable(3);
    assert_eq!([pri.interrupts(true), pri.interrupts(true)], [false; 2]);
    assert_eq!(pri.smmu.read(GERROR as usize, Width::Word), 1 << 3);
}

#[test]
fn aborted_message_of_the_pri_queue_is_a_global_error_and_the_request_is_there() {
    let mut pri = Pri::new(0, END);
    assert!(pri.interrupts(false));
    let read = |pri: &Pri, offset: u64| pri.smmu.read(offset as usize, Width::Word);
    assert_eq!((read(&pri, GERROR), read(&pri, PRIQ_PROD)), (1 << 6, 1));
    pri.interrupts(false);
    assert_eq!((read(&pri, GERROR), read(&pri, PRIQ_PROD)), (1 << 6, 2));
}

#[test]
fn event_queue_with_inconsistent_indices_counts_as_full() {
    let mut bench = Bench::enabled();
    // 0 less 5 of 32: 27 entries in a queue of 16 (3.5.1).
    bench.write(EVENTQ_CONS, 5);
    bench.write_word(0, 0x5000);
    assert_eq!(bench.read(EVENTQ_PROD), 1 << 31, "nothing written, an overflow");
    assert_eq!(bench.peek(EVENTS), 0);
    // Consistent again, with the overflow acknowledged: the next record is written.
    bench.write(EVENTQ_CONS, 1 << 31);
    bench.write_word(0, 0x5000);
    assert_eq!(bench.read(EVENTQ_PROD), 1 << 31 | 1);
}

#[test]
fn failed_smmu_aborts_everything_and_touches_no_queue() {
    let mut bench = Bench::enabled();
    bench.attach(0x100, 0, 0, CD_S | CD_A);
    bench.write_word(0, 0x5000);
    assert_eq!(bench.state(0), 1, "stalled");
    bench.map(0, 0x5000, DATA, PAGE_RW);
    bench.take_raised();
    bench.machine.fail(&bench.memory, &mut bench.raised);
    assert_eq!((bench.read(GERROR), bench.take_raised()), (1 << 8, vec![Wire::GlobalError]));
    bench.run();
    assert_eq!(bench.state(0), 3, "what stalled is aborted (12.3)");
    bench.write_word(0, 0x5000);
    bench.command([0x1046, 0]);
    assert_eq!((bench.state(0), bench.peek(DATA), bench.read(CMDQ_CONS)), (3, 0, 0));
    bench.write_word(1, 0x5000);
    assert_eq!(bench.read(EVENTQ_PROD), 1, "no record of it but the stall before");
    // The acknowledgement does not end it (6.3.19); a reset does.
    bench.write(GERRORN, 1 << 8);
    bench.run();
    bench.write_word(0, 0x5000);
    assert_eq!((bench.state(0), bench.read(CMDQ_CONS)), (3, 0));
    bench.machine.reset(crate::model::profile::Profile::Full, 4);
    assert_eq!((bench.read(GERROR), bench.read(CR0ACK), bench.state(0)), (0, 0, 0));
    bench.write_word(0, DATA);
    assert_eq!((bench.state(0), bench.peek(DATA)), (2, 0x1122_3344_5566_7788), "bypass after reset (3.11)");
}

#[test]
fn failed_smmu_answers_ats_and_pri() {
    let mut bench = Bench::enabled();
    bench.set_cd(0, CD_A | CD_R, 0);
    bench.set_ste(0x102, STE0_STAGE1 | CDS, STE1 | S1STALLD | EATS | PPAR);
    bench.machine.fail(&bench.memory, &mut bench.raised);
    use crate::model::engine::registers::{self as reg, ats_control, pri_control};
    bench.set_engine(2, reg::ATS_CONTROL, ats_control::ENABLE);
    bench.set_engine(2, reg::PRI_ALLOCATION, 64);
    bench.set_engine(2, reg::PRI_CONTROL, pri_control::ENABLE);
    bench.write_word(2, 0x5000);
    assert_eq!((bench.state(2), bench.read(PRIQ_PROD), bench.read(EVENTQ_PROD)), (3, 0, 0), "Completer Abort (12.3)");
    bench.set_engine(2, reg::PASID, 1);
    bench.set_engine(2, reg::PRI_CONTROL, pri_control::ENABLE | pri_control::SEND_STOP_MARKER);
    bench.run();
    assert_eq!(bench.read(PRIQ_PROD), 0);
}
