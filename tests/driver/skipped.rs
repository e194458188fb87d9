//! Records that are skipped since PROD of their queue makes no sense, and how service goes on.

use alloc::vec;

use smmu_iopf::driver::registers::Registers;
use smmu_iopf::driver::{DriverError, FaultMode, Lost};
use smmu_iopf::model::board::SMMU_BASE;
use smmu_iopf::model::engine::registers::{self as reg, hostile, status};
use smmu_iopf::model::machine::Width;
use smmu_iopf::model::profile::Profile as Modelled;
use smmu_iopf::model::smmu::diagnostics;
use smmu_iopf::smmuv3::registers::Register;

use super::bench::Need::{PageRequests, Queues, Stall};
use super::bench::pending::{BASE, BYTES, paging};
use super::bench::{Bench, Pager, Space, on, on_each};

scenarios![
    stalls_skipped_for_an_index_that_makes_no_sense_are_recovered_from,
    page_requests_skipped_for_an_index_that_makes_no_sense_are_recovered_from,
    nothing_is_believed_from_the_begin_of_a_recovery_from_skipped_records_to_its_end,
    records_skipped_on_an_smmu_that_is_given_up_are_not_recovered_from,
];

/// The registers of a queue: its bit of CR0 (6.3.9), BASE with LOG2SIZE in bits 4:0, PROD and CONS.
type QueueRegisters = (u32, [Register; 3]);

/// PROD stands beyond what the queue can hold from where the driver is, as by an SMMU or a bus that is broken. Returns how many records this
/// costs.
fn confuse(bench: &Bench, (enable, [base, prod, cons]): QueueRegisters) -> u64 {
    // The indices are only written while the queue is off.
    let (machine, cr0) = (&bench.machine, bench.machine.read32(Register::Cr0));
    machine.write32(Register::Cr0, cr0 & !enable);
    machine.run(100);
    let size = 1 << (machine.read(SMMU_BASE + base.offset() as u64, Width::Double) & 31);
    let first = machine.read32(cons);
    machine.write32(cons, (first + 4) & (2 * size - 1));
    machine.write32(prod, (first + size + 2) & (2 * size - 1));
    machine.write32(Register::Cr0, cr0);
    machine.run(100);
    u64::from(size) + 2
}

fn asks_for_recovery(bench: &Bench) -> bool {
    bench.smmu.expire(&bench.cpu, 0).errors.recover
}

fn stalls_skipped_for_an_index_that_makes_no_sense_are_recovered_from() {
    on_each(&[Stall, Queues], |profile| {
        let mut bench = Bench::of(profile);
        let space = Space::new(&bench, 1);
        bench.attach(0, FaultMode::Stall, &space).unwrap();
        bench.enable(0, Pager::new(&space, BASE..BASE + BYTES)).unwrap();
        bench.fill(0, BASE, BYTES, 1, None);
        bench.machine.run(100);
        assert_eq!(bench.model_count(diagnostics::STALLED), 1);
        let events = confuse(&bench, (1 << 2, [Register::EventqBase, Register::EventqProd, Register::EventqCons]));
        bench.drain();
        assert_eq!(bench.smmu.event_counts().nonsense, 1);
        assert!(asks_for_recovery(&bench));
        assert_eq!(bench.recover(), Ok(Lost { events, streams: vec![bench.stream(0)], ..Lost::default() }));
        assert!(!asks_for_recovery(&bench));
        bench.finish([0]);
        assert_eq!((bench.state(0), bench.model_count(diagnostics::STALLED)), (status::ABORTED, 0));
        serves_again(&mut bench, 0);
    });
}

/// The first request of a group is held, and its Last is among what is skipped.
fn page_requests_skipped_for_an_index_that_makes_no_sense_are_recovered_from() {
    on_each(&[PageRequests, Queues], |profile| {
        let (mut bench, _) = paging(profile);
        bench.machine.write_engine(2, reg::HOSTILE, hostile::NO_LAST);
        bench.fill(2, BASE, 4096, 1, None);
        bench.machine.run(100);
        bench.drain();
        let slots_in_use = |bench: &Bench| bench.smmu.faults().totals().slots_in_use;
        assert_eq!(slots_in_use(&bench), 1);
        let page_requests = confuse(&bench, (1 << 1, [Register::PriqBase, Register::PriqProd, Register::PriqCons]));
        bench.drain();
        assert_eq!((bench.smmu.page_request_counts().nonsense, slots_in_use(&bench)), (1, 0));
        assert!(asks_for_recovery(&bench));
        assert_eq!(bench.recover(), Ok(Lost { page_requests, streams: vec![bench.stream(2)], ..Lost::default() }));
        assert!(!asks_for_recovery(&bench));
        bench.machine.write_engine(2, reg::HOSTILE, 0);
        serves_again(&mut bench, 2);
    });
}

/// What a drain answers until then might come behind STALL_TERM.
fn nothing_is_believed_from_the_begin_of_a_recovery_from_skipped_records_to_its_end() {
    on(Modelled::ForcedStall, |profile| {
        let mut bench = Bench::of(profile);
        let space = Space::new(&bench, 1);
        bench.attach(0, FaultMode::Terminate, &space).unwrap();
        confuse(&bench, (1 << 2, [Register::EventqBase, Register::EventqProd, Register::EventqCons]));
        bench.drain();
        bench.fill(0, BASE, 8, 1, None);
        bench.machine.run(100);
        bench.hold_commands(true);
        assert!(matches!(bench.recover(), Err(DriverError::CommandTimeout(_))));
        bench.drain();
        assert_eq!((bench.smmu.command_counts().answers, bench.model_count(diagnostics::STALLED)), (0, 1));
        bench.hold_commands(false);
        assert!(asks_for_recovery(&bench));
        bench.recover().unwrap();
        bench.finish([0]);
        assert_eq!((bench.state(0), bench.model_count(diagnostics::STALLED)), (status::ABORTED, 0));
        assert_eq!(bench.model_count(diagnostics::RESUMED_NOTHING), 0);
    });
}

fn records_skipped_on_an_smmu_that_is_given_up_are_not_recovered_from() {
    on_each(&[Stall, Queues], |profile| {
        let bench = Bench::of(profile);
        confuse(&bench, (1 << 2, [Register::EventqBase, Register::EventqProd, Register::EventqCons]));
        bench.cpu.masked(|masked| bench.smmu.drain_events(masked));
        assert!(asks_for_recovery(&bench));
        bench.smmu.give_up();
        assert!(!asks_for_recovery(&bench));
    });
}

fn serves_again(bench: &mut Bench, engine: usize) {
    bench.reopen(engine).unwrap();
    bench.fill(engine, BASE, BYTES, 2, None);
    bench.finish([engine]);
    assert_eq!(bench.state(engine), status::DONE);
    bench.disable(engine).unwrap();
    assert_eq!(bench.live(), 0);
}
