//! The demand pager: faults that want one page bring it in once, and each has its own answer.

#[path = "support/fault_bench.rs"]
mod fault_bench;

use std::collections::HashSet;
use std::sync::Arc;

use fault_bench::*;
use smmu_iopf::driver::dma::Coherence;
use smmu_iopf::iopf::{
    Decided, Fault, FaultGroup, FaultHandler, Kind, Limits, Report, StreamLimits, Verdict, WorkQueues,
};
use smmu_iopf::model::host::HostMemory;
use smmu_iopf::smmuv3::PageResponse::{Invalid, Success};
use smmu_iopf::smmuv3::event::{Stall, StallBuffer};
use smmu_iopf::smmuv3::{Access, Asid, PhysAddr, StreamId, SubstreamId};
use smmu_iopf::sva::Permissions;
use smmu_iopf::sva::address_space::{AddressSpace, Backing, Effort, Region, Resolution};
use smmu_iopf::sva::frames::{Frame, FramePool};
use smmu_iopf::sva::page_in::{Step, WAITING};
use smmu_iopf::sva::pager::DemandPager;
use smmu_iopf::sync::{Cpu, Masked};

const PAGE: u64 = 0x1000;
const MANY: StreamLimits = StreamLimits { groups: 64, requests: 8, ..STREAM_LIMITS };
/// A stream whose groups the test holds: they lead.
const LEADER: StreamId = StreamId(3);

/// The pager's stream and one of the bench's own handler, on one address space. No frame is zeroed, so all is deferred.
struct World {
    bench: Bench,
    work: Arc<WorkQueues>,
    frames: Arc<FramePool>,
    space: Arc<AddressSpace>,
}

impl World {
    fn new(kind: Kind) -> Self {
        let frames = Arc::new(FramePool::new(&HostMemory::new(1 << 20), 64, Coherence::COHERENT).unwrap());
        let region =
            Region { start: 0, bytes: 64 * PAGE, permissions: Permissions::READ_WRITE, backing: Backing::Anonymous };
        let space = Arc::new(AddressSpace::new(Asid(1), &[region], frames.clone()).unwrap());
        let mut world = Self {
            bench: Bench::with_limits(Limits { states: 4, groups: 256 }),
            work: Arc::new(WorkQueues::new(Box::new(|_, _| {}))),
            frames,
            space,
        };
        let pager = world.pager(&world.space);
        world.bench.open_to(STREAM, kind, pager, MANY);
        world.bench.handler.defers.store(true, std::sync::atomic::Ordering::SeqCst);
        world.bench.open_with(&[LEADER], Kind::Stall, MANY, 0).unwrap();
        world.soil();
        world
    }

    fn pager(&self, space: &Arc<AddressSpace>) -> Arc<DemandPager> {
        Arc::new(DemandPager::new(Box::new([(None, space.clone())]), self.work.clone()))
    }

    /// Leaves no frame zeroed.
    fn soil(&self) {
        let frames: Vec<Frame> = std::iter::from_fn(|| self.frames.take_zeroed()).collect();
        frames.into_iter().for_each(|frame| self.frames.free(frame));
    }

    /// A group of the leading stream that begins to bring in the page at `address`.
    fn lead(&self, tag: u16, address: u64, access: Access) -> FaultGroup {
        assert_eq!(self.bench.report(Fault { access, ..stall(LEADER, tag, address) }), Report::Deferred);
        let mut group = Some(self.bench.handler.take_one());
        let step = self.bench.cpu.masked(|masked| self.space.page_ins().join(masked, address, access, &mut group));
        assert_eq!(step, Step::Lead);
        group.unwrap()
    }

    /// The leader's page-in ends.
    fn end(&self, address: u64, is_there: bool) {
        if is_there {
            let effort = smmu_iopf::sva::address_space::Effort::Zero;
            self.space.resolve(address, Access::READ, effort);
        }
        self.bench.cpu.masked(|masked| self.space.page_ins().end(masked, &self.work, address, is_there));
    }

    fn report(&self, tag: u16, address: u64) {
        assert_eq!(self.bench.report(stall(STREAM, tag, address)), Report::Deferred);
    }

    fn work(&self) {
        while self.work.work(&self.bench.cpu) > 0 {}
    }
}

#[test]
fn records_for_one_page_share_its_page_in_and_each_has_its_answer() {
    let world = World::new(Kind::Stall);
    let leader = world.lead(1, PAGE, Access::READ);
    for tag in 1..4 {
        world.report(tag, PAGE + u64::from(tag));
    }
    world.work();
    assert_eq!(world.bench.responder.take(), []);
    assert_eq!((world.space.pages(), world.frames.in_use()), (0, 1));
    world.end(PAGE, true);
    world.work();
    assert_eq!(world.bench.responder.take(), [1, 2, 3].map(|tag| to_stall(STREAM, tag, Success)));
    assert_eq!((world.space.pages(), world.space.page_ins().saved()), (1, 3));
    world.bench.cpu.masked(|masked| leader.respond(masked, Success)).unwrap();
    assert_eq!(world.bench.responder.take(), [to_stall(LEADER, 1, Success)]);
}

#[test]
fn who_waited_for_a_leader_that_failed_goes_through_again() {
    let world = World::new(Kind::Stall);
    let leader = world.lead(1, PAGE, Access::READ);
    world.report(1, PAGE);
    world.report(2, PAGE);
    world.work();
    world.end(PAGE, false);
    world.work();
    assert_eq!(world.bench.responder.take(), [1, 2].map(|tag| to_stall(STREAM, tag, Success)));
    assert_eq!((world.space.pages(), world.space.page_ins().saved()), (1, 0));
    drop(leader);
}

#[test]
fn an_access_that_the_leader_does_not_need_is_not_covered_by_it() {
    for access in [Access::WRITE, Access { privileged: true, ..Access::READ }] {
        let world = World::new(Kind::Stall);
        let _leader = world.lead(1, PAGE, Access::READ);
        assert_eq!(world.bench.report(Fault { access, ..stall(STREAM, 1, PAGE) }), Report::Deferred);
        world.work();
        assert_eq!(world.bench.responder.take(), [to_stall(STREAM, 1, Success)]);
        assert_eq!((world.space.pages(), world.space.page_ins().saved()), (1, 0));
        assert!(world.space.page_ins().are_under_way(), "the leader's");
    }
}

#[test]
fn what_becomes_of_the_leaders_group_does_not_matter_to_who_waits() {
    for fate in ["dropped", "timed out", "disabled"] {
        let mut world = World::new(Kind::Stall);
        let leader = world.lead(1, PAGE, Access::READ);
        if fate == "timed out" {
            world.bench.table.expire(&world.bench.cpu, 0);
        }
        world.report(1, PAGE);
        world.work();
        match fate {
            "dropped" => drop(leader),
            "timed out" => assert_eq!(world.bench.table.expire(&world.bench.cpu, 1_000_000), 1),
            _ => world.bench.close(LEADER),
        }
        world.bench.responder.take();
        world.end(PAGE, true);
        world.work();
        assert_eq!(world.bench.responder.take(), [to_stall(STREAM, 1, Success)], "{fate}");
    }
}

#[test]
fn a_group_that_waits_keeps_its_own_deadline_and_its_streams_end() {
    let mut world = World::new(Kind::Stall);
    let _leader = world.lead(1, PAGE, Access::READ);
    world.report(1, PAGE);
    world.report(2, PAGE);
    world.work();
    world.bench.table.expire(&world.bench.cpu, 0);
    // The leader's time is over too.
    assert_eq!(world.bench.table.expire(&world.bench.cpu, 1_000_000), 3);
    let mut sent = world.bench.responder.take();
    sent.retain(|answer| answer.stream == STREAM);
    assert_eq!(sent, [1, 2].map(|tag| to_stall(STREAM, tag, Invalid)));
    world.report(3, PAGE);
    world.work();
    world.bench.close(STREAM);
    world.bench.free();
    assert_eq!(world.bench.table.live(), 2, "the waiting groups refer to it");
    world.end(PAGE, true);
    world.work();
    assert_eq!(world.bench.responder.take(), []);
    world.bench.free();
    assert_eq!(world.bench.table.live(), 1);
}

#[test]
fn a_fault_that_could_be_answered_at_once_waits_for_its_page_if_that_is_on_its_way() {
    let world = World::new(Kind::Stall);
    world.frames.zero_some(8);
    let _leader = world.lead(1, PAGE, Access::READ);
    world.report(1, PAGE);
    // Another page comes at once.
    let other = world.bench.report(stall(STREAM, 2, 2 * PAGE));
    assert_eq!(other, Report::Answer(to_stall(STREAM, 2, Success)));
    world.work();
    world.end(PAGE, true);
    world.work();
    assert_eq!(world.bench.responder.take(), [to_stall(STREAM, 1, Success)]);
    assert_eq!(world.space.pages(), 2);
}

#[test]
fn the_same_page_of_another_address_space_is_another_page() {
    let mut world = World::new(Kind::Stall);
    let region = Region { start: 0, bytes: PAGE, permissions: Permissions::READ, backing: Backing::Anonymous };
    let other = Arc::new(AddressSpace::new(Asid(2), &[region], world.frames.clone()).unwrap());
    let pager = world.pager(&other);
    world.bench.open_to(StreamId(9), Kind::Stall, pager, MANY);
    let _leader = world.lead(1, 0, Access::READ);
    assert_eq!(world.bench.report(stall(StreamId(9), 1, 0)), Report::Deferred);
    world.work();
    assert_eq!(world.bench.responder.take(), [to_stall(StreamId(9), 1, Success)]);
    assert_eq!((world.space.pages(), other.pages()), (0, 1));
}

#[test]
fn a_group_of_several_pages_waits_for_one_and_brings_in_the_others_itself() {
    let world = World::new(Kind::Page);
    let _leader = world.lead(1, 2 * PAGE, Access::READ);
    assert_eq!(world.bench.report(page(STREAM, 1, false, PAGE)), Report::Held);
    assert_eq!(world.bench.report(page(STREAM, 1, false, 2 * PAGE)), Report::Held);
    assert_eq!(world.bench.report(page(STREAM, 1, true, 3 * PAGE)), Report::Deferred);
    world.work();
    assert_eq!((world.bench.responder.take(), world.space.pages()), (vec![], 1));
    world.end(2 * PAGE, true);
    world.work();
    assert_eq!((world.bench.responder.take(), world.space.pages()), (vec![to_group(STREAM, 1, Success)], 3));
}

/// Leaves everything to the workers.
struct Deferring(Arc<DemandPager>);
impl FaultHandler for Deferring {
    fn handle(&self, _: &Masked, _: &[Fault]) -> Verdict {
        Verdict::Defer
    }

    fn defer(&self, masked: &Masked, group: FaultGroup) {
        self.0.defer(masked, group);
    }

    fn serve(&self, cpu: &Cpu, group: FaultGroup) -> Option<Decided> {
        self.0.serve(cpu, group)
    }
}

#[test]
fn a_group_with_a_page_that_is_refused_has_none_of_its_pages_mapped() {
    for is_deferred in [false, true] {
        let mut world = World::new(Kind::Page);
        if is_deferred {
            world.bench.close(STREAM);
            let pager = world.pager(&world.space);
            world.bench.open_to(STREAM, Kind::Page, Arc::new(Deferring(pager)), MANY);
        }
        world.frames.zero_some(8);
        assert_eq!(world.bench.report(page(STREAM, 1, false, PAGE)), Report::Held);
        let report = world.bench.report(page(STREAM, 1, true, 64 * PAGE));
        world.work();
        match is_deferred {
            false => assert_eq!(report, Report::Answer(to_group(STREAM, 1, Invalid))),
            true => assert_eq!(world.bench.responder.take(), [to_group(STREAM, 1, Invalid)]),
        }
        assert_eq!(world.space.pages(), 0, "deferred: {is_deferred}");
    }
}

#[test]
fn who_finds_no_room_to_wait_brings_the_page_in() {
    let world = World::new(Kind::Stall);
    let _leader = world.lead(1, PAGE, Access::READ);
    for tag in 0..=WAITING as u16 {
        world.report(tag, PAGE);
    }
    world.work();
    assert_eq!(world.bench.responder.take(), [to_stall(STREAM, WAITING as u16, Success)]);
    world.end(PAGE, true);
    world.work();
    assert_eq!(world.bench.responder.take().len(), WAITING);
    assert_eq!(world.space.pages(), 1);
}

#[test]
fn workers_that_race_for_pages_answer_every_record_once() {
    const CORES: usize = 4;
    let mut world = World::new(Kind::Stall);
    world.bench.close(STREAM);
    let pager = world.pager(&world.space);
    world.bench.open_to(STREAM, Kind::Stall, Arc::new(Deferring(pager)), MANY);
    for tag in 0..64 {
        world.report(tag, PAGE * u64::from(tag % 8));
    }
    let (work, domain) = (&world.work, &world.bench.domain);
    std::thread::scope(|scope| {
        for core in 1..=CORES {
            scope.spawn(move || {
                let mut cpu = cpu(core);
                domain.online(&mut cpu);
                while work.work(&cpu) > 0 {}
                domain.offline(&mut cpu);
            });
        }
    });
    world.work();
    let answers = world.bench.responder.take();
    let tags: HashSet<_> = answers.iter().map(|answer| answer.to).collect();
    assert_eq!((answers.len(), tags.len()), (64, 64));
    assert!(answers.iter().all(|answer| answer.response == Success));
    assert_eq!((world.space.pages(), world.bench.table.totals().slots_in_use), (8, 0));
}

#[test]
fn stalls_that_are_reported_together_wait_for_a_page_that_is_on_its_way_too() {
    let mut world = World::new(Kind::Stall);
    let backing = Backing::Memory(PhysAddr(0x4000_0000));
    let region = Region { start: 0, bytes: 0x10_0000, permissions: Permissions::READ_WRITE, backing };
    let space = Arc::new(AddressSpace::new(Asid(9), &[region], world.frames.clone()).unwrap());
    let stream = StreamId(0x300);
    world.bench.open_to(stream, Kind::Stall, world.pager(&space), STREAM_LIMITS);
    world.frames.zero_some(8);
    assert_eq!(world.bench.report_stalls(0, &[stall(stream, 1, 0)]), [to_stall(stream, 1, Success)]);
    let step = world.bench.cpu.masked(|masked| space.page_ins().join(masked, PAGE, Access::READ, &mut None));
    assert_eq!(step, Step::Lead);
    assert_eq!(world.bench.report_stalls(0, &[stall(stream, 2, PAGE)]), []);
    world.bench.cpu.masked(|masked| space.page_ins().end(masked, &world.work, PAGE, true));
    assert_eq!(world.bench.report_stalls(0, &[stall(stream, 3, PAGE)]), [to_stall(stream, 3, Success)]);
}

#[test]
fn a_run_with_a_substream_is_served_from_its_address_space() {
    let frames = Arc::new(FramePool::new(&HostMemory::new(1 << 20), 16, Coherence::COHERENT).unwrap());
    let backed = |start| {
        let backing = Backing::Memory(PhysAddr(start));
        let region = Region { start: 0, bytes: 8 * PAGE, permissions: Permissions::READ_WRITE, backing };
        Arc::new(AddressSpace::new(Asid(1), &[region], frames.clone()).unwrap())
    };
    let (plain, own) = (backed(0x4000_0000), backed(0x5000_0000));
    let work = Arc::new(WorkQueues::new(Box::new(|_, _| {})));
    let pager = DemandPager::new(Box::new([(None, plain.clone()), (SubstreamId::new(1), own.clone())]), work);
    for space in [&plain, &own] {
        assert_eq!(space.resolve(0, Access::READ, Effort::Ready), Resolution::Mapped);
    }
    // F_TRANSLATION, SSV, SubstreamID 1; Stall, RnW (7.3.13).
    let words = |address| [0x10 | 1 << 11 | 1 << 12, 1 << 31 | 1 << 35, address];
    let mut stalls = StallBuffer::<2>::new();
    stalls.begin(Stall::decode(words(PAGE)).unwrap());
    assert!(stalls.push(words(2 * PAGE)));
    assert_eq!(cpu(0).masked(|masked| pager.serve_at_once(masked, stalls.run())), 2);
    assert_eq!((own.translate(2 * PAGE), plain.translate(2 * PAGE)), (Some(PhysAddr(0x5000_2000)), None));
}
