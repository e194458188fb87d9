//! Interrupts as messages: where they go, what becomes of those that are aborted, and the way back to the wires (3.18).

use alloc::vec::Vec;
use smmu_iopf::driver::registers::Registers;
use smmu_iopf::driver::{ABORTED_MESSAGES, DriverError, FaultMode, GlobalErrors, Timeout};
use smmu_iopf::model::board;
use smmu_iopf::model::control;
use smmu_iopf::model::engine::registers::status;
use smmu_iopf::model::machine::Width;
use smmu_iopf::model::wire::Wire;
use smmu_iopf::smmuv3::PhysAddr;
use smmu_iopf::smmuv3::registers::Register;

use super::bench::Need::{self, Messages, PageRequests, Stall};
use super::bench::{Bench, Doorbells, LIMIT_US, Pager, Profile, Space, on_each};

scenarios![
    the_registers_say_where_each_message_goes_and_what_it_is,
    the_queue_is_drained_at_once_where_its_message_was_aborted,
    an_aborted_message_of_a_global_error_is_found_by_looking,
    records_that_came_while_the_messages_were_set_are_taken_out,
    an_smmu_without_messages_or_that_is_given_up_sends_none,
    a_message_to_where_the_smmu_sends_none_is_refused,
];

const BASE: u64 = 0x1000_0000;
const BYTES: u64 = 4 * 4096;

/// Of [`control::SOURCES`].
const EVENT_QUEUE: u32 = 1 << 0;
const GLOBAL_ERROR: u32 = 1 << 3;

/// A kernel that does nothing but what interrupts ask for.
struct Kernel {
    bench: Bench,
    bells: Doorbells,
    /// It hears messages, else wires.
    messages: bool,
    errors: Vec<GlobalErrors>,
    jobs: u64,
}

impl Kernel {
    /// Engine 0 stalls where a handler maps pages, and interrupts are messages.
    fn new(profile: Profile) -> Self {
        let mut bench = Bench::of(profile);
        let bells = Doorbells::new(&bench.machine);
        bench.smmu.set_messages(&mut bench.cpu, Some(&bells.messages())).unwrap();
        let space = Space::new(&bench, 1);
        bench.attach(0, FaultMode::Stall, &space).unwrap();
        bench.enable(0, Pager::new(&space, BASE..BASE + 16 * BYTES)).unwrap();
        Self { bench, bells, messages: true, errors: Vec::new(), jobs: 0 }
    }

    fn interrupts(&self) -> Vec<Wire> {
        let (wires, messages) = (self.bench.machine.take_raised(), self.bells.take());
        if self.messages {
            return messages;
        }
        assert_eq!(messages, [], "none is sent");
        wires
    }

    /// Has engine 0 fill four pages that are not mapped, one after the other. Returns whether that comes to an end.
    fn job(&mut self) -> bool {
        self.bench.fill(0, BASE + self.jobs * BYTES, BYTES, 7, None);
        self.jobs += 1;
        self.work()
    }

    fn work(&mut self) -> bool {
        for _ in 0..2000 {
            self.bench.machine.step();
            for interrupt in self.interrupts() {
                match interrupt {
                    Wire::EventQueue => {
                        self.bench.cpu.masked(|masked| while self.bench.smmu.drain_events(masked).more {});
                    }
                    Wire::GlobalError => self.errors.push(self.bench.global_errors()),
                    _ => {}
                }
            }
            if self.bench.state(0) == status::DONE {
                return true;
            }
        }
        false
    }

    /// The next message of these sources is aborted.
    fn abort_next(&self, sources: u32) {
        self.bench.machine.write_control(control::SOURCES, sources);
        self.bench.machine.write_control(control::MESSAGE, 1);
    }

    fn aborted(&self) -> u32 {
        self.bench.machine.read_control(control::MESSAGE + control::HAPPENED)
    }
}

fn read64(bench: &Bench, register: Register) -> u64 {
    bench.machine.read(board::SMMU_BASE + register.offset() as u64, Width::Double)
}

const MESSAGE_ABORT: GlobalErrors = GlobalErrors {
    command_queue: false,
    event_queue_abort: false,
    page_request_queue_abort: false,
    msi_abort: true,
    unreachable: false,
    service_failure: false,
    recover: false,
};

/// Address, data, and in CFG2 SH = 0b10 at bits 5:4 and Device-nGnRE (0b0001) at bits 3:0, with LO = 0 (6.3.21 to 6.3.36).
fn the_registers_say_where_each_message_goes_and_what_it_is() {
    on_each(&[Messages], |profile| {
        let mut bench = Bench::of(profile);
        let bells = Doorbells::new(&bench.machine);
        let messages = bells.messages();
        bench.smmu.set_messages(&mut bench.cpu, Some(&messages)).unwrap();
        use Register::*;
        let of = |registers: [Register; 3]| {
            let [address, data, attributes] = registers;
            (read64(&bench, address), bench.machine.read32(data), bench.machine.read32(attributes))
        };
        let expected = |message: u32, place: u64| (messages.events.address.0 + 8 * place, message, 0x21);
        assert_eq!(of([EventqIrqCfg0, EventqIrqCfg1, EventqIrqCfg2]), expected(0xe1, 0));
        assert_eq!(of([GerrorIrqCfg0, GerrorIrqCfg1, GerrorIrqCfg2]), expected(0xe3, 2));
        let mut enables = 5;
        if PageRequests.is_met(profile) {
            assert_eq!(of([PriqIrqCfg0, PriqIrqCfg1, PriqIrqCfg2]), expected(0xe2, 1));
            enables = 7;
        }
        assert_eq!([IrqCtrl, IrqCtrlAck].map(|register| bench.machine.read32(register)), [enables; 2]);

        bench.smmu.set_messages(&mut bench.cpu, None).unwrap();
        assert_eq!([EventqIrqCfg0, GerrorIrqCfg0, PriqIrqCfg0].map(|register| read64(&bench, register)), [0; 3]);
        assert_eq!([IrqCtrl, IrqCtrlAck].map(|register| bench.machine.read32(register)), [enables; 2]);
    });
}

#[test]
fn faults_are_served_by_messages_alone_and_by_wires_alone() {
    on_each(&[Messages, Stall], |profile| {
        let mut kernel = Kernel::new(profile);
        assert!(kernel.job());
        kernel.bench.smmu.set_messages(&mut kernel.bench.cpu, None).unwrap();
        kernel.messages = false;
        assert!(kernel.job());
        assert_eq!(kernel.errors, []);
    });
}

/// The record is in the queue, and no other interrupt comes for it.
fn the_queue_is_drained_at_once_where_its_message_was_aborted() {
    on_each(&[Messages, Stall], |profile| {
        let mut kernel = Kernel::new(profile);
        for count in 1..ABORTED_MESSAGES {
            kernel.abort_next(EVENT_QUEUE);
            assert!(kernel.job(), "message {count}");
            assert_eq!(kernel.aborted(), count);
        }
        assert_eq!(kernel.errors, [MESSAGE_ABORT; ABORTED_MESSAGES as usize - 1]);
        assert_eq!(
            kernel.bench.machine.read32(Register::Gerror),
            kernel.bench.machine.read32(Register::Gerrorn),
            "acknowledged"
        );
    });
}

#[test]
fn after_three_aborted_messages_the_kernel_is_told_to_go_back_to_the_wires() {
    on_each(&[Messages, Stall], |profile| {
        let mut kernel = Kernel::new(profile);
        for _ in 0..4 {
            kernel.abort_next(EVENT_QUEUE);
            assert!(kernel.job());
        }
        assert_eq!(
            kernel.errors.iter().map(|errors| errors.unreachable).collect::<Vec<_>>(),
            [false, false, true, true]
        );
        kernel.bench.smmu.set_messages(&mut kernel.bench.cpu, None).unwrap();
        kernel.messages = false;
        kernel.abort_next(EVENT_QUEUE);
        assert!(kernel.job());
        assert_eq!((kernel.aborted(), kernel.errors.len()), (4, 4), "there are none to be aborted");
        // They may be tried again, and are counted anew.
        kernel.bench.smmu.set_messages(&mut kernel.bench.cpu, Some(&kernel.bells.messages())).unwrap();
        kernel.messages = true;
        assert!(kernel.job());
        assert_eq!(kernel.errors.get(4), Some(&MESSAGE_ABORT));
    });
}

/// Of MSI_GERROR_ABT_ERR no interrupt tells (7.5.1).
fn an_aborted_message_of_a_global_error_is_found_by_looking() {
    on_each(&[Messages, Stall], |profile| {
        let mut kernel = Kernel::new(profile);
        // That of the event queue, and that of the global error that it makes.
        kernel.bench.machine.write_control(control::SOURCES, EVENT_QUEUE | GLOBAL_ERROR);
        kernel.bench.machine.write_control(control::MESSAGE, 1);
        kernel.bench.fill(0, BASE, BYTES, 7, None);
        while kernel.aborted() == 0 {
            kernel.bench.machine.step();
        }
        assert_eq!(kernel.interrupts(), [Wire::GlobalError]);
        assert!(!kernel.work(), "the kernel has missed it");
        assert_eq!(kernel.bench.smmu.expire(&kernel.bench.cpu, 0).errors, MESSAGE_ABORT);
        assert!(kernel.work());
    });
}

/// A register whose update is under way is not written (6.3.16): the strict model would say so.
#[test]
fn messages_that_could_not_be_set_in_time_are_set_once_the_smmu_has_acknowledged() {
    on_each(&[Messages], |profile| {
        let mut bench = Bench::of(profile);
        let messages = Doorbells::new(&bench.machine).messages();
        for passed in 0..2 {
            bench.machine.write_control(control::PASSED, passed);
            bench.machine.write_control(control::IRQ_CTRL_LATE, LIMIT_US + 100);
            let late = bench.smmu.set_messages(&mut bench.cpu, Some(&messages));
            assert!(
                matches!(late, Err(DriverError::Timeout(Timeout { register: Register::IrqCtrlAck, .. }))),
                "{late:?}"
            );
            bench.smmu.set_messages(&mut bench.cpu, Some(&messages)).unwrap();
        }
    });
}

/// What came while interrupts were off raises none (6.3.16).
fn records_that_came_while_the_messages_were_set_are_taken_out() {
    on_each(&[Messages, Stall], |profile| {
        let mut kernel = Kernel::new(profile);
        kernel.bench.fill(0, BASE, BYTES, 7, None);
        while kernel.bench.machine.read32(Register::EventqProd) == 0 {
            kernel.bench.machine.step();
        }
        let _lost = kernel.interrupts();
        kernel.bench.smmu.set_messages(&mut kernel.bench.cpu, Some(&kernel.bells.messages())).unwrap();
        assert!(kernel.work());
    });
}

#[test]
fn page_requests_that_came_while_the_messages_were_set_are_taken_out() {
    on_each(&[Messages, PageRequests], |profile| {
        let mut bench = Bench::of(profile);
        let space = Space::new(&bench, 1);
        bench.attach(2, FaultMode::PageRequest, &space).unwrap();
        bench.enable(2, Pager::new(&space, BASE..BASE + BYTES)).unwrap();
        bench.fill(2, BASE, 8, 7, None);
        while bench.machine.read32(Register::PriqProd) == 0 {
            bench.machine.step();
        }
        let messages = Doorbells::new(&bench.machine).messages();
        bench.smmu.set_messages(&mut bench.cpu, Some(&messages)).unwrap();
        assert_eq!(bench.smmu.page_request_records(), 1);
    });
}

fn an_smmu_without_messages_or_that_is_given_up_sends_none() {
    on_each(&[], |profile| {
        let mut bench = Bench::of(profile);
        let bells = Doorbells::new(&bench.machine);
        let expected = if Need::Messages.is_met(profile) { Ok(()) } else { Err(DriverError::NoMessages) };
        assert_eq!(bench.smmu.set_messages(&mut bench.cpu, Some(&bells.messages())), expected);
        assert_eq!(bench.smmu.set_messages(&mut bench.cpu, None), Ok(()));
        bench.smmu.give_up();
        assert_eq!(bench.smmu.set_messages(&mut bench.cpu, None), Err(DriverError::GivenUp));
    });
}

/// 6.3.21: beyond OAS it need not store the bits, 0 is no message, and bits 1:0 are reserved.
fn a_message_to_where_the_smmu_sends_none_is_refused() {
    on_each(&[Messages], |profile| {
        let mut bench = Bench::of(profile);
        let (good, bits) = (Doorbells::new(&bench.machine).messages(), profile.features().oas.bits());
        let beyond = DriverError::BeyondAddresses { address: PhysAddr(1 << bits), bytes: 4, bits };
        let bad = |address| (PhysAddr(address), DriverError::MessageAddress(PhysAddr(address)));
        for (address, error) in [(PhysAddr(1 << bits), beyond), bad(0), bad(good.events.address.0 + 2)] {
            for place in 0..3 {
                let mut messages = good;
                [&mut messages.events, &mut messages.page_requests, &mut messages.global_errors][place].address =
                    address;
                let is_unused = place == 1 && !profile.features().pri;
                let expected = if is_unused { Ok(()) } else { Err(error.clone()) };
                assert_eq!(bench.smmu.set_messages(&mut bench.cpu, Some(&messages)), expected, "message {place}");
            }
        }
        assert_eq!(bench.smmu.set_messages(&mut bench.cpu, Some(&good)), Ok(()));
    });
}
