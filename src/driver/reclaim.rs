//! Memory that an SMMU reads by itself, and the order in which it is taken back.
//!
//! ```text
//! out of the cores' reach -> grace period -> entries cleared, CFGI or TLBI, SYNC -> ATC_INV, SYNC -> used again
//! ```
//!
//! A grace period proves nothing about an SMMU, and a CMD_SYNC nothing about cores. Invalidated too early, the SMMU would
//! find again what a core that is still in its read section writes to the tables; so the order is part of the proof:
//!
//! | step | what it takes | what it gives |
//! |---|---|---|
//! | out of reach | the memory's owner, by value: no core can find it any more | |
//! | grace period | | [`Grace`] |
//! | invalidation, complete | a [`Grace`] | [`Synced`] |
//! | the same for devices with ATS | the [`Synced`] of the step before | [`Synced`] |
//! | together | owner, [`Grace`] and the last [`Synced`] | [`Forgotten`], for which the owner gives its memory back |
//!
//! A time-out, a refused command and CERROR_ATC_INV_SYNC give nothing, and the owner comes back as it was:
//! [`Remembered`].

use core::sync::atomic::Ordering;

use embedded_hal::delay::DelayNs;

use super::command_queue::Synced;
use super::error::DriverError;
use super::hardware::Hardware;
use super::invalidation::Gathered;
use super::registers::Registers;
use super::smmu::Control;
use super::stream::Stream;
use super::structure::WORDS;
use super::translation::aborted;
use super::{Delay, Smmu};
use crate::smmuv3::cd::ContextDescriptor;
use crate::smmuv3::command::Command;
use crate::smmuv3::{Asid, Vmid};
use crate::sync::Cpu;
use crate::sync::grace::{Domain, Grace};
#[cfg(loom)]
use crate::sync::mutant::mutant;

/// The owner of translation tables, and of what they lead to.
///
/// Whoever has it by value has taken it from every core, so it is implemented for owners alone, never for references. What it changes in
/// tables while an SMMU walks them, it cleans by [`Smmu::coherence`].
pub trait Walked {
    /// The tag of the tables' translations.
    fn tag(&self) -> Tag;
}

/// What tags translations in a TLB (3.17).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tag {
    /// Those of an address space, by stage 1 alone.
    AddressSpace(Asid),
    /// Those of a virtual machine, by all stages.
    VirtualMachine(Vmid),
}

/// A tag that came to no use.
impl Walked for Tag {
    fn tag(&self) -> Tag {
        *self
    }
}

/// What no core uses any more, and no SMMU, and no device: its memory may be used for something else.
///
/// The SMMU that forgot it is the one that it was asked for, so memory is walked by one SMMU only.
///
/// It is made by [`Smmu::forget`](super::Smmu::forget) alone:
///
/// ```compile_fail,E0451
/// # use smmu_iopf::driver::Forgotten;
/// # use smmu_iopf::sync::grace::Grace;
/// fn wrong<T>(memory: T, grace: Grace) -> Forgotten<T> {
///     Forgotten { memory, grace, synced: todo!() }
/// }
/// ```
#[derive(Debug)]
#[must_use = "it is the permission to use the memory again"]
pub struct Forgotten<T> {
    memory: T,
    #[expect(dead_code, reason = "the cores' half of the proof")]
    grace: Grace,
    #[expect(dead_code, reason = "the hardware's half")]
    synced: Synced,
}

impl<T> Forgotten<T> {
    /// What was forgotten. Its tag may be somebody else's by now.
    pub fn into_inner(self) -> T {
        self.memory
    }
}

/// What an SMMU or a device may still read: nothing of it may be used again. It may be tried anew.
#[derive(Debug, thiserror::Error)]
#[error("memory that the SMMU reads stays in use: {error}")]
pub struct Remembered<T> {
    /// The owner of the memory.
    pub memory: T,
    /// Why.
    pub error: DriverError,
}

/// Lets a grace period pass, then has `invalidate` clear the entries and invalidate them. The caller has taken `memory` out
/// of the cores' reach.
pub(super) fn forget<T>(
    domain: &Domain,
    cpu: &mut Cpu,
    delay: &mut impl DelayNs,
    limit_us: u32,
    memory: T,
    invalidate: impl FnOnce(&mut Cpu, &T, &Grace) -> Result<Synced, DriverError>,
) -> Result<Forgotten<T>, Remembered<T>> {
    #[cfg(loom)]
    if mutant!("reclaim_before_sync") {
        return Ok(Forgotten { memory, grace: Grace::forged(), synced: Synced::forged() });
    }
    #[cfg(loom)]
    if mutant!("sync_before_grace") {
        let synced = invalidate(cpu, &memory, &Grace::forged());
        let passed = domain.synchronize(cpu, delay, limit_us).map_err(DriverError::from);
        return match passed.and_then(|grace| Ok((grace, synced?))) {
            Ok((grace, synced)) => Ok(Forgotten { memory, grace, synced }),
            Err(error) => Err(Remembered { memory, error }),
        };
    }
    let grace = match domain.synchronize(cpu, delay, limit_us) {
        Ok(grace) => grace,
        Err(held_up) => return Err(Remembered { memory, error: held_up.into() }),
    };
    match invalidate(cpu, &memory, &grace) {
        Ok(synced) => Ok(Forgotten { memory, grace, synced }),
        Err(error) => Err(Remembered { memory, error }),
    }
}

impl<R: Registers, D: Delay> Smmu<R, D> {
    /// Makes the SMMU and the devices behind it forget an address space or a virtual machine, so that its owner may use the
    /// memory again.
    ///
    /// The caller has taken `memory` from every core: a fault that comes from now on finds nothing of it. A grace period
    /// passes for those that come before. Then every descriptor that leads to the tables of an address space loses them, and its
    /// accesses are aborted without a record from there on (where the SMMU stalls every fault they stall); the streams of a virtual
    /// machine are aborted without a record. The SMMU and devices with ATS lose the translations. What takes a descriptor's place is
    /// [`Smmu::attach_substream`]'s to decide, and what takes a virtual machine's [`Smmu::change`]'s. The tag is free for
    /// [`Smmu::take_asid`] or [`Smmu::take_vmid`] then.
    ///
    /// Cores that can still find the address space keep it from being forgotten:
    ///
    /// ```compile_fail,E0277
    /// # use smmu_iopf::driver::{Delay, Smmu, registers::Registers};
    /// # use smmu_iopf::{sva::address_space::AddressSpace, sync::Cpu};
    /// # use std::sync::Arc;
    /// fn wrong<R: Registers, D: Delay>(smmu: &Smmu<R, D>, cpu: &mut Cpu, shared: Arc<AddressSpace>) {
    ///     let _ = smmu.forget(cpu, shared);
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Remembered`] with [`DriverError::Grace`], [`DriverError::CommandTimeout`], [`DriverError::IllegalCommand`],
    /// [`DriverError::AtcInvalidationTimeout`] or [`DriverError::Busy`]. The memory stays in use; the call may be repeated.
    pub fn forget<T: Walked>(&self, cpu: &mut Cpu, memory: T) -> Result<Forgotten<T>, Remembered<T>> {
        let Hardware { domain, limit_us, .. } = &*self.hardware;
        forget(domain, cpu, &mut self.hardware.delay(), *limit_us, memory, |cpu, memory, grace| {
            let mut control = self.control(cpu)?;
            // Tables that a change or an attachment which failed may have left in use.
            for (&stream, failed) in control.streams.iter().filter(|(_, own)| !own.complete) {
                self.change_entry(cpu, stream, failed, &[0; WORDS])?;
            }
            match memory.tag() {
                Tag::AddressSpace(asid) => self.take_address_space(cpu, &mut control, grace, asid),
                Tag::VirtualMachine(vmid) => self.take_virtual_machine(cpu, &mut control, grace, vmid),
            }
        })
    }

    fn take_address_space(
        &self,
        cpu: &mut Cpu,
        control: &mut Control,
        grace: &Grace,
        asid: Asid,
    ) -> Result<Synced, DriverError> {
        let quiet = self.quiet();
        let streams = &control.streams;
        let is_its = |own: &Stream| own.spaces.iter().any(|(_, other)| *other == asid);
        let its = || {
            let its = streams.iter().filter(|(_, own)| is_its(own));
            its.filter_map(|(&stream, own)| Some((stream, own, own.contexts.as_ref()?)))
        };
        for (stream, own, contexts) in its() {
            if !contexts.settled().get() {
                self.settle_descriptors(cpu, stream, contexts)?;
            }
            for &(substream, _) in own.spaces.iter().filter(|(_, other)| *other == asid) {
                let Some(descriptor) = contexts.entry(substream) else { continue };
                let [first, ..] = descriptor;
                if ContextDescriptor::asid_of(first.load(Ordering::Relaxed)) == Some(asid) {
                    // Relaxed: it leads nowhere then. A change of one word, so it is one step (see `structure`).
                    contexts.settled().set(false);
                    first.store(quiet, Ordering::Relaxed);
                    self.hardware.coherence.clean(descriptor);
                }
            }
        }
        let unsettled = || its().filter(|(.., contexts)| !contexts.settled().get());
        let commands = unsettled().flat_map(|(stream, own, _)| {
            let substreams = own.spaces.iter().filter(|(_, other)| *other == asid);
            substreams.map(move |&(substream, _)| Command::CfgiCd { stream, substream, leaf: true })
        });
        self.execute_all(cpu, commands)?;
        unsettled().for_each(|(.., contexts)| contexts.settled().set(true));
        let synced = self.invalidate_asid(cpu, grace, asid)?;
        let synced = self.forget_space_by_devices(cpu, control, synced, asid, &Gathered::all())?;
        control.streams.values_mut().for_each(|attached| attached.spaces.retain(|(_, other)| *other != asid));
        control.asids.give_back(asid.0);
        Ok(synced)
    }

    /// Leaves its streams aborted, and as if they had been attached so.
    fn take_virtual_machine(
        &self,
        cpu: &mut Cpu,
        control: &mut Control,
        grace: &Grace,
        vmid: Vmid,
    ) -> Result<Synced, DriverError> {
        let is_its = |own: &Stream| own.vmid() == Some(vmid);
        for (&stream, attached) in control.streams.iter_mut().filter(|(_, own)| own.complete && is_its(own)) {
            attached.enabled = aborted(attached.disabled);
            attached.disabled = attached.enabled;
            self.change_entry(cpu, stream, attached, &attached.disabled)?;
        }
        let synced = self.forget_stage2(cpu, grace, vmid, &Gathered::all())?;
        let synced = self.forget_machine_by_devices(cpu, control, synced, vmid, &Gathered::all())?;
        control.streams.values_mut().filter(|own| is_its(own)).for_each(|own| (own.guest, own.stage2) = (None, None));
        control.vmids.give_back(vmid.0);
        Ok(synced)
    }
}

#[cfg(test)]
impl<T> Forgotten<T> {
    /// What no SMMU has ever known.
    pub(crate) fn of_test(memory: T, grace: Grace) -> Self {
        Self { memory, grace, synced: Synced::forged() }
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use alloc::sync::Arc;

    use loom::cell::Cell;
    use loom::sync::Mutex;
    use loom::sync::atomic::{AtomicBool, Ordering};
    use loom::thread;

    use super::*;
    use crate::sync::grace::{Ref, Slot};

    /// A page, which loom watches, and what leads to it.
    struct World {
        domain: Arc<Domain>,
        /// The region that fault handlers look at before they map the page.
        region: Slot<()>,
        /// The page's table entry.
        mapped: AtomicBool,
        /// Held by the SMMU during one access: a SYNC waits for the accesses under way.
        access: Mutex<()>,
        page: Cell<u8>,
    }

    #[derive(Clone)]
    struct Yield;

    impl DelayNs for Yield {
        fn delay_ns(&mut self, _: u32) {
            thread::yield_now();
        }
    }

    impl World {
        fn new() -> loom::sync::Arc<Self> {
            let domain = Arc::new(Domain::new());
            for core in [0, 1] {
                domain.online(&mut Cpu::of_test(core));
            }
            let region = Slot::new(domain.clone());
            assert!(region.publish(Ref::new(&domain, ()).unwrap()).is_ok());
            let (mapped, access) = (AtomicBool::new(true), Mutex::new(()));
            loom::sync::Arc::new(Self { domain, region, mapped, access, page: Cell::new(1) })
        }

        /// One access of a device.
        fn walk(&self) {
            let _access = self.access.lock().unwrap();
            if self.mapped.load(Ordering::Acquire) {
                assert_eq!(self.page.get(), 1, "the page is somebody else's");
            }
        }

        /// A fault handler on core 1.
        fn handle_fault(&self) {
            let mut cpu = Cpu::of_test(1);
            cpu.masked(|masked| {
                let section = self.domain.read(masked);
                if self.region.load(&section).is_some() {
                    self.mapped.store(true, Ordering::Release);
                }
            });
            self.domain.offline(&mut cpu);
        }

        /// Takes the page back and uses it for something else.
        fn take_back(&self) {
            let mut cpu = Cpu::of_test(0);
            let region = self.region.unpublish();
            let invalidate = |_: &mut Cpu, _: &_, _: &Grace| {
                self.mapped.store(false, Ordering::Release);
                drop(self.access.lock().unwrap());
                Ok(Synced::forged())
            };
            let forgotten = forget(&self.domain, &mut cpu, &mut Yield, 8, region, invalidate);
            if forgotten.is_ok() {
                self.page.set(2);
            }
            drop(forgotten);
            self.domain.offline(&mut cpu);
        }
    }

    #[test]
    fn nothing_is_mapped_again_behind_the_invalidation() {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(|| {
            let world = World::new();
            let handler = {
                let world = world.clone();
                thread::spawn(move || world.handle_fault())
            };
            world.take_back();
            handler.join().unwrap();
            world.walk();
        });
    }

    #[test]
    fn an_access_under_way_ends_before_the_page_is_used_again() {
        loom::model(|| {
            let world = World::new();
            world.domain.offline(&mut Cpu::of_test(1));
            let device = {
                let world = world.clone();
                thread::spawn(move || world.walk())
            };
            world.take_back();
            device.join().unwrap();
        });
    }
}
