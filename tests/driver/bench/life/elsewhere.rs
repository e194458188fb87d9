//! Lives of devices that are led elsewhere: by PASIDs, with ATS alone, in a virtual machine.

use smmu_iopf::driver::{DeviceControl, Gathered, GuestInvalidation, StreamConfig, Synced, Translation};
use smmu_iopf::smmuv3::Vmid;
use smmu_iopf::smmuv3::features::StallModel;

use super::super::world::{GUEST, ONE_CD, guest};
use super::super::{Device, plain};
use super::*;

/// The PASID that comes to an end, and the one that stays for longer.
const STOPPED: SubstreamId = SubstreamId::from_low_bits(1);
const OTHER: SubstreamId = SubstreamId::from_low_bits(2);

/// Engine 2 as a device that has ATS alone.
fn with_ats(bench: &Bench) -> Device {
    Device { silent: true, ..bench.device(2) }
}

pub(super) fn disable_ats(bench: &mut Bench) -> Result<(), DriverError> {
    let (stream, device) = (bench.stream(2), with_ats(bench));
    bench.smmu.disable_ats(&mut bench.cpu, stream, &device)
}

fn forget(bench: &mut Bench, tag: Tag) -> Result<(), DriverError> {
    match bench.smmu.forget(&mut bench.cpu, Tables(tag)) {
        Ok(_) => Ok(()),
        Err(remembered) => Err(remembered.error),
    }
}

impl Kernel {
    /// The life of a driver whose device uses PASIDs: one is stopped in the middle of its work, its address space forgotten and another one put
    /// in its place; page requests end by a Failure and are served again; the other PASID loses its address space.
    pub(crate) fn live_with_pasids(&mut self) {
        self.engines.retain(|&(_, mode)| mode == FaultMode::PageRequest);
        let (stream, device) = (self.bench.stream(2), self.bench.device(2));
        let [first, second] = self.spaces.clone();
        let next = Space::new(&self.bench, 3);
        self.lead("attach", 2, substreams(FaultMode::PageRequest, 4));
        self.attach_substream(2, STOPPED, Some(&first));
        self.attach_substream(2, OTHER, Some(&second));
        let valid = BASE..BASE + BYTES;
        let spaces = [(Some(STOPPED), first.clone()), (Some(OTHER), second.clone())];
        let pager = Pager::with(spaces.into(), valid.clone());
        self.enable_to(2, &pager);
        self.job(2, Some(OTHER), 7);
        self.job(2, Some(STOPPED), 7);

        self.let_wait(2, STOPPED, &pager);
        self.again("stop", |bench| bench.smmu.stop_substream(&mut bench.cpu, stream, STOPPED, &device));
        let is_gone = self.bench.smmu.is_given_up();
        for group in pager.take() {
            let answered = self.bench.cpu.masked(|masked| group.respond(masked, PageResponse::Success));
            assert!(answered.is_err() || is_gone);
        }
        assert!(self.bench.state(2) != status::BUSY || is_gone);
        self.forget(first.tag);
        self.attach_substream(2, STOPPED, Some(&next));
        let own = Pager::with([(Some(STOPPED), next.clone())].into(), valid);
        let Bench { smmu, cpu, .. } = &mut self.bench;
        let set = smmu.faults().set_substream_handler(cpu, stream, STOPPED, own.clone());
        assert!(set.is_ok() || is_gone, "{set:?}");
        self.job(2, Some(STOPPED), 7);
        self.has(&next, [0, BYTES / 2 - 8], 7);

        self.let_wait(2, STOPPED, &own);
        for group in own.take() {
            let _ = self.bench.cpu.masked(|masked| group.respond(masked, PageResponse::Failure));
        }
        self.bench.machine.run(100);
        self.outcome.failed = self.bench.machine.read_engine(2, reg::PRI_STATUS) & pri_status::RESPONSE_FAILURE != 0;
        self.again("reopen", |bench| bench.reopen(2));
        self.job(2, Some(STOPPED), 7);

        self.attach_substream(2, OTHER, None);
        self.forget(second.tag);
        self.forget(next.tag);
        self.take_down();
    }

    /// The life of a driver whose device stalls and uses PASIDs: under stalls that wait, one loses its address space by its being forgotten, and
    /// the other one goes over to another.
    pub(crate) fn live_with_stalling_pasids(&mut self) {
        self.engines.retain(|&(_, mode)| mode == FaultMode::Stall);
        let [first, second] = self.spaces.clone();
        let next = Space::new(&self.bench, 3);
        (0..BYTES).step_by(4096).for_each(|offset| next.map(BASE + offset));
        self.lead("attach", 0, substreams(FaultMode::Stall, 4));
        self.attach_substream(0, STOPPED, Some(&first));
        self.attach_substream(0, OTHER, Some(&second));
        let spaces = [(Some(STOPPED), first.clone()), (Some(OTHER), second.clone())];
        let pager = Pager::with(spaces.into(), BASE..BASE + BYTES);
        self.enable_to(0, &pager);
        self.job(0, Some(STOPPED), 7);
        self.job(0, Some(OTHER), 7);

        self.let_wait(0, STOPPED, &pager);
        self.forget(first.tag);
        // What stalls again, where everything does, is refused.
        pager.defers.store(true, Ordering::Relaxed);
        self.answer(&pager, PageResponse::Success);
        self.is_refused(0, Some(&pager));
        self.start(0, Some(STOPPED), 8);
        self.is_refused(0, Some(&pager));
        pager.defers.store(false, Ordering::Relaxed);
        self.attach_substream(0, STOPPED, Some(&next));
        self.job(0, Some(STOPPED), 8);
        self.has(&next, [0, BYTES / 2 - 8], 8);

        self.let_wait(0, OTHER, &pager);
        self.attach_substream(0, OTHER, Some(&next));
        self.forget(second.tag);
        self.answer(&pager, PageResponse::Success);
        if self.end_of_job(0, None) == status::DONE {
            self.has(&next, [BYTES / 2, BYTES - 8], 7);
        }
        self.job(0, Some(OTHER), 9);
        self.has(&next, [0, BYTES / 2 - 8], 9);
        self.forget(next.tag);
        self.take_down();
    }

    /// The life of a driver whose device has ATS alone, with and without PASIDs: what is invalidated, stopped, led elsewhere or forgotten the
    /// device knows no more, nor what it knew before its ATS was disabled and enabled again.
    pub(crate) fn live_with_ats(&mut self) {
        self.engines = Vec::from([(2, FaultMode::Ats)]);
        let (stream, [first, second]) = (self.bench.stream(2), self.spaces.clone());
        for space in [&first, &second] {
            (0..BYTES / 2).step_by(4096).for_each(|offset| space.map(BASE + offset));
        }
        let translation = Translation::Stage1 { context: Some(first.context()), substream_bits: 4 };
        self.lead("attach", 2, StreamConfig { translation, ..plain(FaultMode::Ats) });
        self.attach_substream(2, STOPPED, Some(&second));
        self.enable_ats();
        self.job(2, None, 7);
        self.job(2, Some(STOPPED), 7);

        self.takes_away(&second, Some(STOPPED), |bench, space, gathered| {
            let grace = bench.grace();
            bench.smmu.invalidate(&mut bench.cpu, &grace, asid(space), gathered)
        });
        self.takes_away(&second, Some(STOPPED), |bench, _, _| {
            let grace = bench.grace();
            bench.smmu.invalidate_all(&mut bench.cpu, &grace)
        });
        self.attach_substream(2, STOPPED, Some(&first));
        self.forget(second.tag);
        self.job(2, Some(STOPPED), 8);
        self.has(&first, [0, BYTES / 2 - 8], 8);
        let device = with_ats(&self.bench);
        self.again("stop", |bench| bench.smmu.stop_substream(&mut bench.cpu, stream, STOPPED, &device));
        self.start(2, Some(STOPPED), 9);
        self.is_refused(2, None);

        self.again("disable", disable_ats);
        self.job(2, None, 10);
        self.takes_away(&first, None, |bench, space, gathered| {
            let grace = bench.grace();
            bench.smmu.invalidate(&mut bench.cpu, &grace, asid(space), gathered)
        });
        first.hide(BASE);
        let grace = self.bench.grace();
        self.again("invalidate", |bench| bench.smmu.invalidate_asid(&mut bench.cpu, &grace, asid(&first)).map(drop));
        self.enable_ats();
        self.start(2, None, 11);
        self.is_refused(2, None);
        first.map(BASE);
        self.job(2, None, 12);
        self.forget(first.tag);
        self.start(2, None, 13);
        self.is_refused(2, None);
        self.take_down();
    }

    /// The life of a virtual machine with a device that stalls and one that asks for pages: without a stage 1 of its own and with one, until it
    /// is forgotten under them at work, and then everywhere else.
    pub(crate) fn live_in_virtual_machine(&mut self) {
        let Bench { smmu, cpu, .. } = &mut self.bench;
        let vmid = smmu.take_vmid(cpu).unwrap();
        let features = *smmu.features();
        let machine = Space::machine(&self.bench, vmid.0);
        guest(&machine, BASE, features.stall_model == StallModel::Forced);
        let pager = Pager::new(&machine, BASE..BASE + BYTES);
        let engines = self.engines.clone();
        let nested = Translation::Nested(ONE_CD, machine.stage2());
        for (step, translation) in [("attach", machine.translation()), ("change", nested)] {
            for &(engine, mode) in &engines {
                self.lead(step, engine, StreamConfig { translation, ..plain(mode) });
                self.enable_to(engine, &pager);
                self.job(engine, None, 7);
                machine.hide(BASE);
                let grace = self.bench.grace();
                let pages = Gathered::from(Pages { first: BASE, count: 1 });
                self.again("invalidate_ipas", |bench| {
                    bench.smmu.invalidate_ipas(&mut bench.cpu, &grace, vmid, &pages).map(drop)
                });
                let before = pager.faults.load(Ordering::Relaxed);
                self.job(engine, None, 8);
                assert!(pager.faults.load(Ordering::Relaxed) > before || self.bench.smmu.is_given_up());
                if step == "change" {
                    self.changes_its_stage(&machine, engine, vmid);
                } else {
                    self.again("disable", |bench| bench.disable(engine));
                }
            }
        }
        self.forget(machine.tag);
        for &(engine, _) in &engines {
            self.start(engine, None, 9);
            self.is_refused(engine, None);
        }
        for (index, &(engine, mode)) in engines.iter().enumerate() {
            self.again("disable", |bench| bench.disable(engine));
            let space = self.spaces[index].clone();
            let context = Some(space.context());
            let table = Translation::Stage1 { context, substream_bits: features.ssid_bits.min(4) };
            for (is_last, mode, translation) in [
                (false, mode, table),
                (false, FaultMode::Terminate, Translation::Bypass),
                (false, FaultMode::Terminate, Translation::Abort),
                (true, mode, space.translation()),
            ] {
                self.lead("change", engine, StreamConfig { translation, ..plain(mode) });
                if mode == FaultMode::Terminate {
                    continue;
                }
                let value = if is_last { 11 } else { 10 };
                self.enable(engine, &space);
                self.job(engine, None, value);
                self.has(&space, [0, BYTES / 2 - 8], value);
                if !is_last {
                    self.again("disable", |bench| bench.disable(engine));
                }
            }
        }
        self.take_down();
    }

    /// The virtual machine has its first page where its second one is, and then where it was.
    fn changes_its_stage(&mut self, machine: &Space, engine: usize, vmid: Vmid) {
        let stream = self.bench.stream(engine);
        let device = GuestInvalidation::Device { stream, substream: None, global: false, address: BASE, size: 0 };
        for (page, value) in [(BASE + 4096, 11), (BASE, 12)] {
            machine.set_word(GUEST + 0x3000 + (BASE >> 12 & 0x1ff) * 8, page | 0xf43);
            for what in [&[GuestInvalidation::Contexts(stream), GuestInvalidation::All][..], &[device]] {
                if what != [device] || self.engines.contains(&(engine, FaultMode::PageRequest)) {
                    self.again("invalidate_guest", |bench| {
                        bench.smmu.invalidate_guest(&mut bench.cpu, vmid, what).map(drop)
                    });
                }
            }
            self.job(engine, None, value);
            let moved = machine.word(BASE) != value;
            assert!(moved == (page != BASE) || self.bench.smmu.is_given_up(), "{:?}", self.outcome);
        }
    }

    /// Attaches or changes a stream.
    fn lead(&mut self, step: &'static str, engine: usize, config: StreamConfig) {
        let stream = self.bench.stream(engine);
        self.again(step, |bench| match step {
            "attach" => bench.smmu.attach(&mut bench.cpu, stream, &config),
            _ => bench.smmu.change(&mut bench.cpu, stream, &config).map(drop),
        });
    }

    fn attach_substream(&mut self, engine: usize, pasid: SubstreamId, space: Option<&Arc<Space>>) {
        let (stream, context) = (self.bench.stream(engine), space.map(|space| space.context()));
        self.again("attach_substream", |bench| {
            bench.smmu.attach_substream(&mut bench.cpu, stream, pasid, context.as_ref())
        });
    }

    /// Enables ATS; where that failed, and could not be undone, it disables it first.
    fn enable_ats(&mut self) {
        let (stream, device) = (self.bench.stream(2), with_ats(&self.bench));
        self.again("enable", |bench| match bench.smmu.enable_ats(&mut bench.cpu, &[stream], &device) {
            Err(DriverError::FaultsEnabled(_)) => {
                disable_ats(bench)?;
                bench.smmu.enable_ats(&mut bench.cpu, &[stream], &device)
            }
            enabled => enabled,
        });
    }

    /// Takes the first page away for a while, which engine 2 has to notice.
    fn takes_away(
        &mut self,
        space: &Space,
        pasid: Option<SubstreamId>,
        mut invalidate: impl FnMut(&mut Bench, &Space, &Gathered) -> Result<Synced, DriverError>,
    ) {
        space.hide(BASE);
        let pages = Gathered::from(Pages { first: BASE, count: 1 });
        self.again("invalidate", |bench| invalidate(bench, space, &pages).map(drop));
        self.start(2, pasid, 20);
        self.is_refused(2, None);
        space.map(BASE);
        self.job(2, pasid, 21);
    }

    /// Has the SMMU forget a tag. Nobody else gets it as long as that fails.
    pub(super) fn forget(&mut self, tag: Tag) {
        let mut other = None;
        self.again("forget", |bench| {
            let forgotten = forget(bench, tag);
            if let (Err(_), None, Tag::VirtualMachine(vmid)) = (&forgotten, other, tag) {
                let taken = bench.smmu.take_vmid(&mut bench.cpu)?;
                assert_ne!(taken, vmid);
                other = Some(Tag::VirtualMachine(taken));
            }
            forgotten
        });
        if let Some(other) = other {
            self.again("forget", |bench| forget(bench, other));
        }
    }

    fn start(&self, engine: usize, pasid: Option<SubstreamId>, value: u64) {
        self.bench.fill(engine, BASE, BYTES / 2, value, pasid.map(SubstreamId::get));
    }

    fn answer(&self, pager: &Pager, response: PageResponse) {
        for group in pager.take() {
            let _ = self.bench.cpu.masked(|masked| group.respond(masked, response));
        }
    }

    /// How a job ends; what `refusing` keeps is refused. Where its answer is in a queue that stands still, something else is waited for.
    fn end_of_job(&mut self, engine: usize, refusing: Option<&Pager>) -> u32 {
        for _ in 0..2 {
            for _ in 0..PATIENCE {
                self.step();
                refusing.into_iter().for_each(|pager| self.answer(pager, PageResponse::Invalid));
                if self.bench.state(engine) != status::BUSY || self.bench.smmu.is_given_up() {
                    self.look_after();
                    return self.bench.state(engine);
                }
            }
            let grace = self.bench.grace();
            self.again("invalidate", |bench| bench.smmu.invalidate_all(&mut bench.cpu, &grace).map(drop));
        }
        self.bench.state(engine)
    }

    /// A job in the first half of the pages; once more where what failed has cost it.
    fn job(&mut self, engine: usize, pasid: Option<SubstreamId>, value: u64) {
        for _ in 0..self.tries {
            if self.bench.smmu.is_given_up() {
                return;
            }
            self.start(engine, pasid, value);
            if self.end_of_job(engine, None) == status::DONE {
                return;
            }
            self.bench.machine.run(100);
        }
        assert!(self.bench.smmu.is_given_up(), "{pasid:?}: {:?}", self.outcome);
    }

    /// The job under way is refused.
    fn is_refused(&mut self, engine: usize, refusing: Option<&Pager>) {
        let is_refused = self.end_of_job(engine, refusing) == status::ABORTED;
        assert!(is_refused || self.bench.smmu.is_given_up(), "{:?}", self.outcome);
    }

    /// The words at these offsets are of the last job.
    fn has(&self, space: &Space, offsets: [u64; 2], value: u64) {
        let is_gone = self.bench.smmu.is_given_up();
        assert!(is_gone || offsets.map(|offset| space.word(BASE + offset)) == [value; 2], "{:?}", self.outcome);
    }

    /// A job in the second half, whose faults `pager` keeps.
    fn let_wait(&mut self, engine: usize, pasid: SubstreamId, pager: &Arc<Pager>) {
        pager.defers.store(true, Ordering::Relaxed);
        self.bench.fill(engine, BASE + BYTES / 2, BYTES / 2, 7, Some(pasid.get()));
        // An interrupt may be lost, and then it takes until the kernel looks.
        for _ in 0..COLLECTING {
            self.step();
            if !pager.deferred.lock().is_empty() {
                break;
            }
        }
        (0..20).for_each(|_| self.step());
        pager.defers.store(false, Ordering::Relaxed);
    }
}

fn asid(space: &Space) -> Asid {
    let Tag::AddressSpace(asid) = space.tag else { panic!("a virtual machine") };
    asid
}
