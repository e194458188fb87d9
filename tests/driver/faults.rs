//! A fault's whole way: engine, model, driver, fault core, handler, and back.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use smmu_iopf::driver::registers::Registers;
use smmu_iopf::driver::{DriverError, FaultMode, Options, StreamConfig, Translation};
use smmu_iopf::iopf::{Fault, FaultGroup, FaultHandler, OpenError, Verdict};
use smmu_iopf::model::engine::registers::{self as reg, control, hostile, status};
use smmu_iopf::model::profile::Profile as Modelled;
use smmu_iopf::model::smmu::diagnostics;
use smmu_iopf::model::wire::Wire;
use smmu_iopf::smmuv3::event::{Event, FaultKind};
use smmu_iopf::smmuv3::registers::Register;
use smmu_iopf::smmuv3::{PageResponse, StreamId, SubstreamId};
use smmu_iopf::sync::Masked;

use super::bench::Need::{Faults, PageRequests, Queues, Stall, Substreams, Termination};
use super::bench::machine::{self, Machine, memory_base};
use super::bench::{Bench, LIMIT_US, LIMITS, Pager, Profile, Space, faulting_engines, on, on_each, plain, substreams};

scenarios![
    a_stream_that_is_named_twice_is_an_error_and_nothing_is_done,
    a_stalled_copy_pages_in_both_regions_and_every_stall_is_counted_and_answered_once,
    a_wild_address_is_refused_and_the_neighbour_goes_on,
    a_deferred_fault_waits_for_its_answer,
    answers_that_found_no_room_are_not_sent_after_stall_term,
    a_page_request_outside_every_region_is_answered_invalid,
    a_context_descriptor_is_that_of_5_4_with_an_asid_of_its_own,
    a_context_table_that_is_used_again_leads_to_nobodys_address_space,
    substreams_and_transactions_without_one_go_different_ways,
    a_terminated_access_reaches_the_sink_with_its_stream_address_and_reason,
    a_record_of_no_stall_reaches_the_sink_beside_a_stall,
    streams_that_are_not_attached_are_terminated_and_reported,
    attaching_and_enabling_twice_or_without_need_is_refused,
    streams_and_substreams_that_the_smmu_does_not_have_are_refused,
    a_detached_stream_is_terminated_and_can_be_attached_again,
    a_device_with_two_stream_ids_shares_one_life,
    the_trace_tells_runs_apart_by_the_order_of_their_records,
    answers_that_find_no_room_are_kept_and_nothing_is_taken_out_of_the_queue_before_they_are_sent,
    page_request_groups_page_in_two_pasids_with_the_same_addresses,
    an_overflow_of_the_pri_queue_is_acknowledged_and_the_work_still_gets_done,
    stall_records_that_found_the_event_queue_full_come_later_and_are_answered_too,
    an_answer_that_a_handler_sends_itself_finds_room_behind_those_of_its_own_drain,
];

const SOURCE: u64 = 0x1000_0000;
const DESTINATION: u64 = 0x2000_0000;
const BYTES: u64 = 32 * 4096;

fn a_stalled_copy_pages_in_both_regions_and_every_stall_is_counted_and_answered_once() {
    on_each(&[Stall], |profile| {
        let mut bench = Bench::of(profile);
        let space = Space::new(&bench, 1);
        let pager = Pager::new(&space, SOURCE..DESTINATION + BYTES);
        bench.attach(0, FaultMode::Stall, &space).unwrap();
        bench.enable(0, pager.clone()).unwrap();

        bench.fill(0, SOURCE, BYTES, 0x0123_4567_89ab_cdef, None);
        bench.finish([0]);
        bench.start(0, control::COPY, SOURCE, DESTINATION, BYTES, None);
        bench.finish([0]);

        assert_eq!(bench.state(0), status::DONE);
        assert_eq!(space.word(DESTINATION + BYTES - 8), 0x0123_4567_89ab_cdef);
        assert_eq!(space.pages(), 64);
        assert_eq!(bench.model_count(diagnostics::STALLS_RECORDED), 64);
        assert_eq!(bench.model_count(diagnostics::RESUMED_RETRY), 64);
        assert_eq!(bench.model_count(diagnostics::RESUMED_NOTHING), 0);
        assert_eq!(bench.smmu.event_records(), 64);
        assert_eq!(bench.smmu.command_counts().answers, 64);
        assert_eq!(pager.groups.load(Ordering::Relaxed), 64);
    });
}

fn a_wild_address_is_refused_and_the_neighbour_goes_on() {
    on_each(&[Stall], |profile| {
        let mut bench = Bench::of(profile);
        let (wild, good) = (Space::new(&bench, 1), Space::new(&bench, 2));
        bench.attach(0, FaultMode::Stall, &wild).unwrap();
        bench.attach(1, FaultMode::Stall, &good).unwrap();
        bench.enable(0, Pager::new(&wild, SOURCE..SOURCE + 0x1000)).unwrap();
        bench.enable(1, Pager::new(&good, SOURCE..SOURCE + BYTES)).unwrap();

        bench.fill(0, SOURCE, 0x2000, 1, None);
        bench.fill(1, SOURCE, BYTES, 2, None);
        bench.finish([0, 1]);

        assert_eq!((bench.state(0), bench.fault_address(0)), (status::ABORTED, SOURCE + 0x1000));
        assert_eq!((bench.state(1), good.word(SOURCE + BYTES - 8)), (status::DONE, 2));
        assert_eq!(bench.model_count(diagnostics::RESUMED_ABORT), 1);
    });
}

fn a_deferred_fault_waits_for_its_answer() {
    on_each(&[Stall], |profile| {
        let mut bench = Bench::of(profile);
        let space = Space::new(&bench, 1);
        let pager = Pager::deferring(&space, SOURCE..SOURCE + BYTES);
        bench.attach(0, FaultMode::Stall, &space).unwrap();
        bench.enable(0, pager.clone()).unwrap();

        bench.fill(0, SOURCE, 0x1000, 7, None);
        bench.run_until(|_| !pager.deferred.lock().is_empty());
        assert_eq!(bench.state(0), status::BUSY);
        let group = pager.take().pop().unwrap();
        assert_eq!(pager.resolve(group.faults()), PageResponse::Success);
        bench.cpu.masked(|masked| group.respond(masked, PageResponse::Success)).unwrap();
        bench.finish([0]);
        assert_eq!((bench.state(0), space.word(SOURCE)), (status::DONE, 7));
    });
}

/// A bench whose engine 0 has eight stalls answered, two of them in the command queue and six that found no room there,
/// since the SMMU has stopped consuming. These eight pages are all that its job touches.
fn unsent(profile: Profile) -> (Bench, Arc<Space>) {
    let mut bench = Bench::with(profile, Options { limit_us: LIMIT_US, command_queue_log2: 1, ..Options::default() });
    let space = Space::new(&bench, 1);
    bench.attach(0, FaultMode::Stall, &space).unwrap();
    bench.enable(0, Pager::new(&space, SOURCE..SOURCE + BYTES)).unwrap();
    bench.hold_commands(true);
    bench.machine.write_engine(0, reg::DEPTH, 8);
    bench.fill(0, SOURCE, 8 * 4096, 7, None);
    bench.machine.run(1000);
    bench.drain();
    assert_eq!(bench.model_count(diagnostics::STALLS_RECORDED), 8);
    assert_eq!(bench.smmu.command_counts().answers, 2);
    assert_eq!(bench.smmu.event_counts().unsent, 6);
    (bench, space)
}

fn answers_that_find_no_room_are_kept_and_nothing_is_taken_out_of_the_queue_before_they_are_sent() {
    on_each(&[Stall, Queues], |profile| {
        let (mut bench, space) = unsent(profile);
        assert_eq!(bench.smmu.event_records(), 0, "records count as dealt with when their answers are sent");
        let cons = bench.machine.read32(Register::EventqCons);
        // One record more: of a stream that is not attached.
        bench.fill(1, SOURCE, 8, 1, None);
        bench.finish([1]);
        bench.drain();
        assert_eq!(bench.machine.read32(Register::EventqCons), cons);
        assert_eq!((bench.smmu.event_counts().unsent, bench.sink.0.lock().len()), (6, 0));

        bench.hold_commands(false);
        bench.machine.run(1000);
        // No interrupt tells of room in the command queue, and no further record comes: this is what looks after it.
        let _ = bench.smmu.expire(&bench.cpu, 0);
        bench.drain();
        assert_eq!(bench.smmu.event_counts().unsent, 0);
        assert_eq!((bench.smmu.event_records(), bench.sink.0.lock().len()), (9, 1));
        bench.finish([0]);
        assert_eq!((bench.state(0), space.word(SOURCE + 8 * 4096 - 8)), (status::DONE, 7));
        assert_eq!(bench.model_count(diagnostics::RESUMED_RETRY), 8);
        assert_eq!(bench.model_count(diagnostics::RESUMED_NOTHING), 0);
        assert_eq!(bench.smmu.command_counts().answers, 8);
    });
}

fn answers_that_found_no_room_are_not_sent_after_stall_term() {
    on_each(&[Stall, Queues], |profile| {
        let (mut bench, _) = unsent(profile);
        bench.hold_commands(false);
        bench.disable(0).unwrap();
        assert_eq!(bench.smmu.event_counts().unsent, 0);
        assert_eq!(bench.model_count(diagnostics::RESUMED_RETRY), 2);
        assert_eq!(bench.model_count(diagnostics::STALLS_TERMINATED), 6);
        assert_eq!(bench.model_count(diagnostics::RESUMED_NOTHING), 0);
        assert_eq!(bench.live(), 0);
    });
}

/// Engine 2 with two address spaces of its own, reached by PASIDs 1 and 2.
fn two_pasids(profile: Profile, bench: &mut Bench) -> ([Arc<Space>; 2], Arc<Pager>) {
    let spaces = [Space::new(bench, 11), Space::new(bench, 12)];
    let config = substreams(FaultMode::PageRequest, 4);
    bench.smmu.attach(&mut bench.cpu, profile.engine_stream(2), &config).unwrap();
    let ids = [1, 2].map(|id| SubstreamId::new(id).unwrap());
    for (id, space) in ids.into_iter().zip(&spaces) {
        bench.smmu.attach_substream(&mut bench.cpu, profile.engine_stream(2), id, Some(&space.context())).unwrap();
    }
    let by_id = ids.into_iter().map(Some).zip(spaces.iter().cloned()).collect::<BTreeMap<_, _>>();
    let pager = Pager::with(by_id, SOURCE..SOURCE + BYTES);
    (spaces, pager)
}

fn page_request_groups_page_in_two_pasids_with_the_same_addresses() {
    on_each(&[PageRequests, Substreams], |profile| {
        let mut bench = Bench::of(profile);
        let (spaces, pager) = two_pasids(profile, &mut bench);
        bench.enable(2, pager.clone()).unwrap();
        bench.machine.write_engine(2, reg::GROUP_SIZE, 8);

        for (pasid, pattern) in [(1, 0x1111), (2, 0x2222)] {
            bench.fill(2, SOURCE, BYTES, pattern, Some(pasid));
            bench.finish([2]);
            assert_eq!(bench.state(2), status::DONE);
        }
        assert_eq!([0, 1].map(|space| spaces[space].word(SOURCE + BYTES - 8)), [0x1111, 0x2222]);
        assert_eq!(bench.machine.read_engine(2, reg::PAGE_REQUESTS), 64);
        assert_eq!(bench.machine.read_engine(2, reg::RESPONSES_SUCCESS), 8);
        assert_eq!(bench.machine.read_engine(2, reg::RESPONSES_UNEXPECTED), 0);
        assert_eq!(bench.smmu.page_request_records(), 64);
        assert_eq!(bench.smmu.command_counts().answers, 8);
        assert_eq!((pager.groups.load(Ordering::Relaxed), pager.faults.load(Ordering::Relaxed)), (8, 64));
    });
}

fn a_page_request_outside_every_region_is_answered_invalid() {
    on_each(&[PageRequests, Substreams], |profile| {
        let mut bench = Bench::of(profile);
        let (_, pager) = two_pasids(profile, &mut bench);
        bench.enable(2, pager).unwrap();
        bench.fill(2, DESTINATION, 0x1000, 1, Some(1));
        bench.finish([2]);
        assert_eq!((bench.state(2), bench.fault_address(2)), (status::ABORTED, DESTINATION));
        assert_eq!(bench.machine.read_engine(2, reg::RESPONSES_INVALID), 1);
    });
}

fn an_overflow_of_the_pri_queue_is_acknowledged_and_the_work_still_gets_done() {
    on_each(&[PageRequests, Substreams], |profile| {
        let mut bench = Bench::with(profile, Options { page_request_queue_log2: 2, ..Options::default() });
        let (spaces, pager) = two_pasids(profile, &mut bench);
        bench.enable(2, pager).unwrap();
        // Eight requests outstanding, more than it may have, four entries, and at first nobody who drains them.
        bench.machine.write_engine(2, reg::HOSTILE, hostile::NO_CREDITS);
        bench.machine.write_engine(2, reg::DEPTH, 8);
        bench.fill(2, SOURCE, BYTES, 0x77, Some(1));
        bench.machine.run(200);
        bench.finish([2]);
        assert_eq!((bench.state(2), spaces[0].word(SOURCE + BYTES - 8)), (status::DONE, 0x77));
        assert!(bench.smmu.page_request_counts().overflows > 0);
        assert_eq!(bench.machine.read_engine(2, reg::RESPONSES_UNEXPECTED), 0);
    });
}

#[test]
fn requests_whose_last_was_lost_in_an_overflow_are_dropped() {
    on_each(&[PageRequests, Substreams, Queues], |profile| {
        let mut bench = Bench::with(profile, Options { page_request_queue_log2: 2, ..Options::default() });
        let (_, pager) = two_pasids(profile, &mut bench);
        bench.enable(2, pager).unwrap();
        // More than it may have: four requests of the group get in, and the SMMU answers the lost Last itself.
        bench.machine.write_engine(2, reg::HOSTILE, hostile::NO_CREDITS);
        bench.machine.write_engine(2, reg::GROUP_SIZE, 8);
        bench.fill(2, SOURCE, BYTES, 0x77, Some(1));
        bench.machine.run(200);
        bench.drain();
        assert_eq!((bench.smmu.page_request_records(), bench.smmu.page_request_counts().overflows), (4, 1));
        assert_eq!(bench.smmu.faults().totals().slots_in_use, 0);
        assert_eq!(bench.smmu.command_counts().answers, 0);
    });
}

fn a_context_descriptor_is_that_of_5_4_with_an_asid_of_its_own() {
    on_each(&[], |profile| {
        // T0SZ 25, 4 KiB, write-back, inner shareable, EPD1, V, IPS, AA64, R, A, ASET, ASID 9; ASET keeps broadcast TLB
        // maintenance of the cores, where they use the same ASID, away from it. IPS is 44 bits on QEMU's, else 48.
        let narrow = u64::from(profile.name().starts_with("qemu")) << 32;
        for (engine, mode, need, word) in [
            (1, FaultMode::Terminate, Termination, 0x0009_e205_c000_3519 - narrow),
            (0, FaultMode::Stall, Stall, 0x0009_f205_c000_3519 - narrow),
        ] {
            // Non-cacheable, outer shareable: IR0, OR0 = 0b00, SH0 = 0b10.
            let word = if profile.name() == "non-coherent" { word - 0x1500 } else { word };
            if !need.is_met(profile) {
                continue;
            }
            let mut bench = Bench::of(profile);
            let space = Space::new(&bench, 9);
            bench.attach(engine, mode, &space).unwrap();
            let memory = bench.machine.memory();
            let table = Some(space.context().table.0);
            let at = (memory_base()..).step_by(64).find(|at| memory.load(at + 8) == table).unwrap();
            assert_eq!(memory.load(at), Some(word));
        }
    });
}

#[test]
fn an_endpoint_that_wants_no_pasid_in_responses_gets_none() {
    on_each(&[PageRequests, Substreams], |profile| {
        let memory = machine::memory(4 << 20, profile.features().coherent);
        let machine = Machine::with(memory, profile.modelled().unwrap(), 8);
        let mut bench = Bench::on(machine, Options { limit_us: LIMIT_US, ..Options::default() }, u64::MAX).unwrap();
        let space = Space::new(&bench, 1);
        let pasid = SubstreamId::new(1).unwrap();
        // Engine 6 is one of these (docs/engine.md).
        let config = StreamConfig {
            translation: Translation::Stage1 { context: None, substream_bits: 4 },
            ..plain(FaultMode::PageRequest)
        };
        bench.smmu.attach(&mut bench.cpu, profile.engine_stream(6), &config).unwrap();
        bench.smmu.attach_substream(&mut bench.cpu, profile.engine_stream(6), pasid, Some(&space.context())).unwrap();
        let pager = Pager::with(BTreeMap::from([(Some(pasid), space.clone())]), SOURCE..SOURCE + BYTES);
        bench.enable(6, pager).unwrap();
        bench.fill(6, SOURCE, BYTES, 3, Some(1));
        bench.finish([6]);
        assert_eq!((bench.state(6), space.word(SOURCE + BYTES - 8)), (status::DONE, 3));
        assert_eq!(bench.machine.read_engine(6, reg::RESPONSES_UNEXPECTED), 0);
    });
}

fn a_context_table_that_is_used_again_leads_to_nobodys_address_space() {
    on_each(&[Substreams], |profile| {
        let mut bench = Bench::of(profile);
        let config = substreams(FaultMode::Terminate, 4);
        let space = Space::new(&bench, 1);
        space.map(SOURCE);
        bench.smmu.attach(&mut bench.cpu, profile.engine_stream(2), &config).unwrap();
        let pasid = SubstreamId::new(5).unwrap();
        bench.smmu.attach_substream(&mut bench.cpu, profile.engine_stream(2), pasid, Some(&space.context())).unwrap();
        bench.smmu.detach(&mut bench.cpu, profile.engine_stream(2)).unwrap();
        bench.smmu.attach(&mut bench.cpu, profile.engine_stream(3), &config).unwrap();
        bench.fill(3, SOURCE, 8, 1, Some(5));
        bench.finish([3]);
        assert_eq!((bench.state(3), space.word(SOURCE)), (status::ABORTED, 0));
    });
}

fn substreams_and_transactions_without_one_go_different_ways() {
    on_each(&[Substreams], |profile| {
        let mut bench = Bench::of(profile);
        let spaces = [1, 2].map(|asid| Space::new(&bench, asid));
        spaces.iter().for_each(|space| space.map(SOURCE));
        let context = Some(spaces[0].context());
        let config = StreamConfig {
            translation: Translation::Stage1 { context, substream_bits: 4 },
            ..plain(FaultMode::Terminate)
        };
        bench.smmu.attach(&mut bench.cpu, profile.engine_stream(2), &config).unwrap();
        let substream = SubstreamId::new(5).unwrap();
        bench
            .smmu
            .attach_substream(&mut bench.cpu, profile.engine_stream(2), substream, Some(&spaces[1].context()))
            .unwrap();
        for (pasid, pattern, state) in
            [(None, 1, status::DONE), (Some(5), 2, status::DONE), (Some(6), 3, status::ABORTED)]
        {
            bench.fill(2, SOURCE, 8, pattern, pasid);
            bench.finish([2]);
            assert_eq!(bench.state(2), state);
        }
        assert_eq!([0, 1].map(|space| spaces[space].word(SOURCE)), [1, 2]);
    });
}

fn stall_records_that_found_the_event_queue_full_come_later_and_are_answered_too() {
    on(Modelled::Small, |profile| {
        // On the others the queue has room for all.
        let mut bench = Bench::of(profile);
        let space = Space::new(&bench, 1);
        bench.attach(0, FaultMode::Stall, &space).unwrap();
        bench.enable(0, Pager::new(&space, SOURCE..SOURCE + BYTES)).unwrap();
        bench.machine.write_engine(0, reg::DEPTH, 8);
        bench.fill(0, SOURCE, BYTES, 5, None);
        bench.machine.run(200);
        assert!(bench.model_count(diagnostics::STALLS_HELD) > 0);
        bench.finish([0]);
        assert_eq!((bench.state(0), space.word(SOURCE + BYTES - 8)), (status::DONE, 5));
        assert_eq!(bench.smmu.event_counts().overflows, 0, "stalls do not overflow");
    });
}

fn a_terminated_access_reaches_the_sink_with_its_stream_address_and_reason() {
    on_each(&[Termination], |profile| {
        let mut bench = Bench::of(profile);
        let space = Space::new(&bench, 1);
        space.map_read_only(SOURCE);
        bench.attach(0, FaultMode::Terminate, &space).unwrap();
        bench.machine.take_raised();
        for address in [DESTINATION, SOURCE] {
            bench.fill(0, address, 8, 1, None);
            bench.finish([0]);
            assert_eq!((bench.state(0), bench.fault_address(0)), (status::ABORTED, address));
            assert_eq!(bench.machine.take_raised(), [Wire::EventQueue]);
        }
        let events = core::mem::take(&mut *bench.sink.0.lock());
        let faults = events.iter().map(|event| match event {
            Event::Fault(fault) => (fault.kind, fault.stream, fault.address, fault.stag, fault.access.write),
            other => panic!("{other:?}"),
        });
        let expected = [
            (FaultKind::Translation, profile.engine_stream(0), DESTINATION, None, true),
            (FaultKind::Permission, profile.engine_stream(0), SOURCE, None, true),
        ];
        assert_eq!(faults.collect::<Vec<_>>(), expected);
        assert_eq!(bench.smmu.command_counts().answers, 0);
    });
}

fn streams_that_are_not_attached_are_terminated_and_reported() {
    on_each(&[], |profile| {
        let mut bench = Bench::of(profile);
        bench.fill(0, SOURCE, 8, 1, None);
        bench.finish([0]);
        assert_eq!(bench.state(0), status::ABORTED);
        // Engine 1's second-level table comes with its neighbour's.
        let space = Space::new(&bench, 1);
        bench.attach(0, FaultMode::Terminate, &space).unwrap();
        bench.fill(1, SOURCE, 8, 1, None);
        bench.finish([1]);
        assert_eq!(bench.state(1), status::ABORTED);
        let streams = bench.sink.0.lock().iter().map(Event::stream).collect::<Vec<_>>();
        assert_eq!(streams, [0, 1].map(|engine| Some(profile.engine_stream(engine))));
    });
}

fn a_record_of_no_stall_reaches_the_sink_beside_a_stall() {
    on_each(&[Stall], |profile| {
        let mut bench = Bench::of(profile);
        let space = Space::new(&bench, 1);
        bench.attach(0, FaultMode::Stall, &space).unwrap();
        bench.enable(0, Pager::new(&space, DESTINATION..DESTINATION + 0x1000)).unwrap();
        (0..2).for_each(|engine| bench.fill(engine, DESTINATION, 8, 1, None));
        bench.machine.run(1000);
        let drained = bench.cpu.masked(|masked| bench.smmu.drain_events(masked));
        assert_eq!(drained.records, 2, "one batch");
        let streams = bench.sink.0.lock().iter().map(Event::stream).collect::<Vec<_>>();
        assert_eq!(streams, [Some(profile.engine_stream(1))]);
        bench.finish([0, 1]);
        assert_eq!([0, 1].map(|engine| bench.state(engine)), [status::DONE, status::ABORTED]);
        assert_eq!(bench.smmu.command_counts().answers, 1);
        bench.disable(0).unwrap();
    });
}

fn attaching_and_enabling_twice_or_without_need_is_refused() {
    on_each(&[Stall], |profile| {
        let mut bench = Bench::of(profile);
        let space = Space::new(&bench, 1);
        let pager = Pager::new(&space, 0..0x1000);
        assert_eq!(bench.enable(0, pager.clone()), Err(DriverError::NotAttached(profile.engine_stream(0))));
        bench.attach(0, FaultMode::Stall, &space).unwrap();
        assert_eq!(
            bench.attach(0, FaultMode::Stall, &space),
            Err(DriverError::AlreadyAttached(profile.engine_stream(0)))
        );
        assert_eq!(bench.disable(0), Err(DriverError::FaultsNotEnabled(profile.engine_stream(0))));
        bench.enable(0, pager.clone()).unwrap();
        assert_eq!(bench.enable(0, pager.clone()), Err(DriverError::FaultsEnabled(profile.engine_stream(0))));
        assert_eq!(
            bench.smmu.detach(&mut bench.cpu, profile.engine_stream(0)),
            Err(DriverError::FaultsEnabled(profile.engine_stream(0)))
        );
        bench.attach(1, FaultMode::Terminate, &space).unwrap();
        assert!(matches!(bench.enable(1, pager), Err(DriverError::NotSupported { .. })));
    });
}

fn streams_and_substreams_that_the_smmu_does_not_have_are_refused() {
    on_each(&[], |profile| {
        let mut bench = Bench::of(profile);
        // SIDSIZE, but 20 at most by default; SSIDSIZE and one.
        let (bits, substream_bits) = match profile.name() {
            "small" => (4, 1),
            "linear-only" => (6, 9),
            "big" => (20, 21),
            "qemu" | "qemu-7.2" | "qemu-10" => (16, 1),
            _ => (16, 9),
        };
        let (far, stream) = (StreamId(1 << bits), profile.engine_stream(2));
        let config = plain(FaultMode::Terminate);
        let refused = bench.smmu.attach(&mut bench.cpu, far, &config);
        assert_eq!(refused, Err(DriverError::StreamOutOfRange { stream: far, bits }));
        let refused = bench.smmu.attach(&mut bench.cpu, stream, &substreams(FaultMode::Terminate, substream_bits));
        assert_eq!(refused, Err(DriverError::NotSupported { stream, what: "as many substreams" }));
    });
}

fn a_detached_stream_is_terminated_and_can_be_attached_again() {
    on_each(&[], |profile| {
        let mut bench = Bench::of(profile);
        let space = Space::new(&bench, 1);
        space.map(SOURCE);
        for state in [status::DONE, status::ABORTED, status::DONE] {
            if state == status::DONE {
                bench.attach(0, FaultMode::Terminate, &space).unwrap();
            } else {
                bench.smmu.detach(&mut bench.cpu, profile.engine_stream(0)).unwrap();
            }
            bench.fill(0, SOURCE, 8, 1, None);
            bench.finish([0]);
            assert_eq!(bench.state(0), state);
        }
    });
}

fn a_device_with_two_stream_ids_shares_one_life() {
    on_each(&[Stall], |profile| {
        let mut bench = Bench::of(profile);
        let space = Space::new(&bench, 1);
        bench.attach(0, FaultMode::Stall, &space).unwrap();
        bench.attach(1, FaultMode::Stall, &space).unwrap();
        let pager = Pager::new(&space, SOURCE..SOURCE + BYTES);
        bench
            .smmu
            .enable_faults(&mut bench.cpu, &[profile.engine_stream(0), profile.engine_stream(1)], None, pager, LIMITS)
            .unwrap();
        bench.fill(0, SOURCE, 0x1000, 1, None);
        bench.fill(1, SOURCE + 0x1000, 0x1000, 2, None);
        bench.finish([0, 1]);
        assert_eq!([SOURCE, SOURCE + 0x1000].map(|address| space.word(address)), [1, 2]);
        bench.disable(1).unwrap();
        assert_eq!(bench.live(), 0);
        bench.fill(0, SOURCE, 0x1000, 1, None);
        bench.finish([0]);
        assert_eq!(bench.state(0), status::ABORTED, "both are aborted");
    });
}

/// The trace of one run with engine 0's windows in the order of `seed`.
fn trace(profile: Profile, seed: u32) -> u64 {
    let mut bench = Bench::with(profile, Options { trace: true, ..Options::default() });
    let space = Space::new(&bench, 1);
    bench.attach(0, FaultMode::Stall, &space).unwrap();
    bench.enable(0, Pager::new(&space, SOURCE..SOURCE + BYTES)).unwrap();
    bench.machine.write_engine(0, reg::SEED, seed);
    bench.fill(0, SOURCE, BYTES, 3, None);
    bench.finish([0]);
    bench.cpu.masked(|masked| bench.smmu.trace_hash(masked)).unwrap()
}

fn the_trace_tells_runs_apart_by_the_order_of_their_records() {
    on_each(&[Stall], |profile| {
        assert_eq!(trace(profile, 1), trace(profile, 1));
        assert_ne!(trace(profile, 1), trace(profile, 2));
    });
}

/// Answers two faults at once, and all others in `defer`.
struct AnswersInDefer(Arc<Space>, AtomicU64);

impl FaultHandler for AnswersInDefer {
    fn handle(&self, _: &Masked, faults: &[Fault]) -> Verdict {
        self.0.map(faults[0].address);
        match self.1.fetch_add(1, Ordering::Relaxed) {
            0 | 1 => Verdict::Answer(PageResponse::Success),
            _ => Verdict::Defer,
        }
    }

    fn defer(&self, masked: &Masked, group: FaultGroup) {
        let _ = group.respond(masked, PageResponse::Success);
    }
}

fn an_answer_that_a_handler_sends_itself_finds_room_behind_those_of_its_own_drain() {
    on(Modelled::Full, |profile| {
        let options = Options { limit_us: LIMIT_US, command_queue_log2: 1, ..Options::default() };
        let mut bench = Bench::with(profile, options);
        let space = Space::new(&bench, 1);
        bench.attach(0, FaultMode::Stall, &space).unwrap();
        bench.enable(0, Arc::new(AnswersInDefer(space.clone(), 0.into()))).unwrap();
        bench.machine.write_engine(0, reg::DEPTH, 8);
        bench.fill(0, SOURCE, 8 * 4096, 7, None);
        // Eight stalls wait in one batch.
        while bench.model_count(diagnostics::STALLS_RECORDED) < 8 {
            bench.machine.step();
        }
        bench.finish([0]);
        let totals = bench.smmu.faults().totals().statistics;
        assert_eq!((bench.state(0), totals.not_sent), (status::DONE, 0), "{totals:?}");
    });
}

fn a_stream_that_is_named_twice_is_an_error_and_nothing_is_done() {
    on_each(&[Faults], |profile| {
        for (engine, mode) in faulting_engines(profile) {
            let mut bench = Bench::of(profile);
            let space = Space::new(&bench, 1);
            bench.attach(engine, mode, &space).unwrap();
            let (stream, device, pager) = (bench.stream(engine), bench.device(engine), Pager::new(&space, 0..1 << 30));
            let commands = bench.smmu.command_counts().commands;
            let (smmu, cpu) = (&bench.smmu, &mut bench.cpu);
            let twice = smmu.enable_faults(cpu, &[stream, stream], Some(&device), pager.clone(), LIMITS);
            assert_eq!(twice, Err(DriverError::Open(OpenError::Repeated { stream })));
            assert_eq!(smmu.command_counts().commands, commands);
            let twice = smmu.enable_faults(cpu, &[stream, stream], None, pager.clone(), LIMITS);
            assert_eq!(twice, Err(DriverError::Open(OpenError::Repeated { stream })), "before anything else");
            assert_eq!(bench.disable(engine), Err(DriverError::FaultsNotEnabled(stream)));
            bench.enable(engine, pager).unwrap();
            bench.disable(engine).unwrap();
        }
    });
}
