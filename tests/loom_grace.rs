//! Grace periods in every order that the memory model allows. `tools/loom.sh` runs it, also with mistakes built in.
//!
//! A thread stands for a core. What a read section finds is a [`Witness`], whose end loom compares with every read of it.
#![cfg(loom)]

use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use embedded_hal::delay::DelayNs;
use loom::cell::UnsafeCell;
use loom::thread::{self, JoinHandle};
use smmu_iopf::sync::grace::{Counted, Domain, Ref, Slot};
use smmu_iopf::sync::{CoreId, Cpu, Masked};

/// An object that tells when it is used after its end, or ended twice.
#[derive(Debug)]
struct Witness {
    alive: UnsafeCell<bool>,
    ended: Arc<AtomicUsize>,
}

// SAFETY: loom watches every access to `alive`, and reports two that conflict.
unsafe impl Sync for Witness {}
// SAFETY: as above.
unsafe impl Send for Witness {}

impl Witness {
    fn read(&self) {
        // SAFETY: loom reports a conflicting access.
        self.alive.with(|alive| assert!(unsafe { *alive }, "used after its end"));
    }

    /// As its only user.
    fn reuse(&self) {
        // SAFETY: loom reports a conflicting access.
        self.alive.with_mut(|alive| assert!(unsafe { *alive }, "used after its end"));
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        // SAFETY: loom reports a conflicting access.
        self.alive.with_mut(|alive| assert!(unsafe { alive.replace(false) }, "ended twice"));
        self.ended.fetch_add(1, Relaxed);
    }
}

/// A domain with a slot, and the count of witnesses that ended.
struct World {
    domain: Arc<Domain>,
    slot: Slot<Witness>,
    ended: Arc<AtomicUsize>,
}

impl World {
    /// A world with cores 0 (the test's thread) to `cores` - 1 online.
    fn new(cores: usize) -> Arc<Self> {
        let domain = Arc::new(Domain::new());
        for core in 0..cores {
            domain.online(&mut cpu(core));
        }
        Arc::new(Self { slot: Slot::new(Arc::clone(&domain)), domain, ended: Arc::default() })
    }

    /// A world whose slot is occupied.
    fn occupied(cores: usize) -> Arc<Self> {
        let world = Self::new(cores);
        assert!(world.slot.publish(world.witness()).is_ok());
        world
    }

    fn witness(&self) -> Ref<Witness> {
        Ref::new(&self.domain, Witness { alive: UnsafeCell::new(true), ended: Arc::clone(&self.ended) }).unwrap()
    }

    /// Runs `life` as core `core`, which goes offline after it.
    fn core(self: &Arc<Self>, core: usize, life: impl FnOnce(&Self, &mut Cpu) + 'static) -> JoinHandle<()> {
        let world = Arc::clone(self);
        thread::spawn(move || {
            let mut cpu = cpu(core);
            life(&world, &mut cpu);
            world.domain.offline(&mut cpu);
        })
    }

    /// One read section.
    fn section(&self, masked: &Masked) {
        let guard = self.domain.read(masked);
        if let Some(object) = self.slot.load(&guard) {
            object.read();
        }
    }

    /// Empties the slot, and drops what was in it.
    fn remove(&self) {
        drop(self.slot.unpublish());
    }

    /// Empties the slot, and uses what was in it anew if a grace period passes within `looks` looks.
    fn reclaim(&self, cpu: &mut Cpu, looks: u32) {
        // Not dropped while a failed use unwinds: that would be a second failure.
        let object = ManuallyDrop::new(self.slot.unpublish());
        if self.domain.synchronize(cpu, &mut Yield, looks).is_ok() {
            object.as_ref().into_iter().for_each(|object| object.reuse());
        }
        drop(ManuallyDrop::into_inner(object));
    }

    /// When all other cores are offline: `objects` were made, and each ends once.
    fn close(&self, cpu: &mut Cpu, objects: usize) {
        self.remove();
        self.domain.poll(cpu);
        assert_eq!(self.domain.stats().in_memory(), 0, "not freed");
        assert_eq!(self.ended.load(Relaxed), objects);
    }
}

fn cpu(core: usize) -> Cpu {
    // SAFETY: a test uses each core's on one thread at a time.
    unsafe { Cpu::new(CoreId::new(core).unwrap()) }
}

/// The end of an interrupt on `cpu`'s core.
fn interrupt_ends(domain: &Domain, cpu: &Cpu) {
    // SAFETY: called between the sections of the thread that stands for the core.
    domain.quiescent(unsafe { Masked::new(cpu.core()) });
}

fn explore(preemptions: impl Into<Option<usize>>, test: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = preemptions.into();
    model.check(test);
}

/// Lets the other threads go on.
struct Yield;

impl DelayNs for Yield {
    fn delay_ns(&mut self, _: u32) {
        thread::yield_now();
    }
}

#[test]
fn no_section_uses_an_object_after_its_end() {
    explore(None, || {
        let world = World::occupied(2);
        let mut here = cpu(0);
        // Loom's choice of schedules leaves this one out, unless the threads offer it by yielding: read, retire, start,
        // acknowledge, look.
        let reader = world.core(1, |world, cpu| {
            for _ in 0..2 {
                cpu.masked(|masked| world.section(masked));
                thread::yield_now();
                interrupt_ends(&world.domain, cpu);
            }
        });
        world.remove();
        world.domain.poll(&mut here);
        thread::yield_now();
        world.domain.poll(&mut here);
        reader.join().unwrap();
        world.close(&mut here, 1);
    });
}

#[test]
fn a_core_that_acknowledged_finds_the_slot_empty() {
    explore(None, || {
        let world = World::occupied(2);
        let mut here = cpu(0);
        let reader = world.core(1, |world, cpu| {
            interrupt_ends(&world.domain, cpu);
            cpu.masked(|masked| world.section(masked));
        });
        world.remove();
        world.domain.poll(&mut here);
        thread::yield_now();
        world.domain.poll(&mut here);
        reader.join().unwrap();
        world.close(&mut here, 1);
    });
}

#[test]
fn a_core_that_acknowledged_finds_the_slot_empty_whoever_emptied_it() {
    explore(3, || {
        let world = World::occupied(2);
        let mut here = cpu(0);
        let remover = {
            let world = Arc::clone(&world);
            thread::spawn(move || world.remove())
        };
        // As above, what yields is to be: remove, start, acknowledge, look, read.
        thread::yield_now();
        let reader = world.core(1, |world, cpu| {
            interrupt_ends(&world.domain, cpu);
            thread::yield_now();
            cpu.masked(|masked| world.section(masked));
        });
        world.domain.poll(&mut here);
        thread::yield_now();
        world.domain.poll(&mut here);
        reader.join().unwrap();
        remover.join().unwrap();
        world.close(&mut here, 1);
    });
}

#[test]
fn what_a_section_finds_is_complete() {
    explore(None, || {
        let world = World::new(2);
        let reader = world.core(1, |world, cpu| cpu.masked(|masked| world.section(masked)));
        assert!(world.slot.publish(world.witness()).is_ok());
        reader.join().unwrap();
        world.close(&mut cpu(0), 1);
    });
}

#[test]
fn a_core_that_leaves_during_a_period_has_read_before() {
    explore(None, || {
        let world = World::occupied(2);
        let mut here = cpu(0);
        let reader = world.core(1, |world, cpu| cpu.masked(|masked| world.section(masked)));
        world.remove();
        world.domain.poll(&mut here);
        world.domain.poll(&mut here);
        reader.join().unwrap();
        world.close(&mut here, 1);
    });
}

#[test]
fn what_another_core_takes_out_is_complete() {
    explore(None, || {
        let world = World::new(2);
        let taker = world.core(1, |world, _| {
            if let Some(object) = world.slot.unpublish() {
                // Not dropped while a failed read unwinds: that would be a second failure.
                let object = ManuallyDrop::new(object);
                object.read();
                drop(ManuallyDrop::into_inner(object));
            }
        });
        assert!(world.slot.publish(world.witness()).is_ok());
        taker.join().unwrap();
        world.close(&mut cpu(0), 1);
    });
}

#[test]
fn who_waits_for_a_period_that_another_core_ends_comes_after_all_sections() {
    explore(None, || {
        let world = World::occupied(2);
        let mut here = cpu(0);
        let reader = world.core(1, |world, cpu| {
            cpu.masked(|masked| world.section(masked));
            // Ends the period that the other core has started.
            let _ = world.domain.synchronize(cpu, &mut Yield, 0);
        });
        world.reclaim(&mut here, 0);
        reader.join().unwrap();
        world.close(&mut here, 1);
    });
}

#[test]
fn what_waits_for_a_period_that_another_core_ends_is_freed_after_all_sections() {
    explore(2, || {
        let world = World::occupied(2);
        let mut here = cpu(0);
        let reader = world.core(1, |world, cpu| {
            cpu.masked(|masked| world.section(masked));
            thread::yield_now();
            // May end the period that the other core has started, and leave to it what is due.
            let _ = world.domain.synchronize(cpu, &mut Yield, 0);
        });
        let other = world.witness();
        let other = thread::spawn(move || drop(other));
        world.remove();
        world.domain.poll(&mut here);
        world.domain.poll(&mut here);
        reader.join().unwrap();
        other.join().unwrap();
        world.close(&mut here, 2);
    });
}

#[test]
fn a_period_that_another_core_asked_for_waits_for_who_came_before_it() {
    explore(3, || {
        let world = World::occupied(1);
        let mut here = cpu(0);
        let reader = world.core(1, |world, cpu| {
            world.domain.online(cpu);
            cpu.masked(|masked| world.section(masked));
        });
        let remover = world.core(2, |world, cpu| world.reclaim(cpu, 1));
        // Starts a period, perhaps the one that is asked for.
        let _ = world.domain.synchronize(&mut here, &mut Yield, 0);
        reader.join().unwrap();
        remover.join().unwrap();
        world.close(&mut here, 1);
    });
}

#[test]
fn a_core_that_comes_during_a_period_finds_the_slot_empty_or_is_waited_for() {
    explore(None, || {
        let world = World::occupied(1);
        let mut here = cpu(0);
        let reader = world.core(1, |world, cpu| {
            world.domain.online(cpu);
            cpu.masked(|masked| world.section(masked));
        });
        world.remove();
        world.domain.poll(&mut here);
        reader.join().unwrap();
        world.close(&mut here, 1);
    });
}

#[test]
fn a_core_that_idles_between_sections_is_safe_before_and_after() {
    explore(None, || {
        let world = World::occupied(2);
        let mut here = cpu(0);
        let reader = world.core(1, |world, cpu| {
            cpu.masked(|masked| world.section(masked));
            world.domain.idle(cpu, |_| false, || ());
            cpu.masked(|masked| world.section(masked));
        });
        world.remove();
        world.domain.poll(&mut here);
        world.domain.poll(&mut here);
        reader.join().unwrap();
        world.close(&mut here, 1);
    });
}

#[test]
fn an_interrupt_out_of_idle_may_read() {
    explore(None, || {
        let world = World::occupied(2);
        let mut here = cpu(0);
        let reader = world.core(1, |world, cpu| {
            let core = cpu.core();
            // SAFETY: not so: the sleep of an idle core is not to be unmasked. The domain copes with a kernel that does it.
            let interrupt = || world.section(&unsafe { Masked::new(core) });
            world.domain.idle(cpu, |_| false, interrupt);
        });
        world.remove();
        world.domain.poll(&mut here);
        reader.join().unwrap();
        world.close(&mut here, 1);
    });
}

#[test]
fn a_period_does_not_free_what_was_retired_after_it_was_asked_for() {
    explore(3, || {
        let world = World::occupied(2);
        let mut here = cpu(0);
        let reader = world.core(1, |world, cpu| {
            interrupt_ends(&world.domain, cpu);
            cpu.masked(|masked| world.section(masked));
        });
        let remover = {
            let world = Arc::clone(&world);
            thread::spawn(move || world.remove())
        };
        let _ = world.domain.synchronize(&mut here, &mut Yield, 0);
        world.domain.poll(&mut here);
        reader.join().unwrap();
        remover.join().unwrap();
        world.close(&mut here, 1);
    });
}

#[test]
fn a_period_that_began_before_the_removal_is_not_waited_for() {
    explore(3, || {
        let world = World::occupied(2);
        let mut here = cpu(0);
        let reader = world.core(1, |world, cpu| {
            // Starts a period of its own.
            let _ = world.domain.synchronize(cpu, &mut Yield, 0);
            cpu.masked(|masked| world.section(masked));
        });
        world.reclaim(&mut here, 1);
        reader.join().unwrap();
        world.close(&mut here, 1);
    });
}

#[test]
fn a_reference_taken_in_a_section_keeps_the_object() {
    explore(None, || {
        let world = World::occupied(2);
        let mut here = cpu(0);
        let reader = world.core(1, |world, cpu| {
            let find = |masked: &Masked| world.slot.load(&world.domain.read(masked)).and_then(Counted::try_ref);
            let kept = cpu.masked(find);
            interrupt_ends(&world.domain, cpu);
            if let Some(kept) = kept {
                kept.read();
            }
        });
        world.remove();
        world.domain.poll(&mut here);
        world.domain.poll(&mut here);
        reader.join().unwrap();
        world.close(&mut here, 1);
    });
}

#[test]
fn what_two_cores_retire_and_free_at_once_ends_once() {
    explore(2, || {
        let world = World::new(2);
        let mut here = cpu(0);
        let other = world.core(1, |world, cpu| {
            drop(world.witness());
            world.domain.poll(cpu);
            world.domain.poll(cpu);
        });
        drop(world.witness());
        world.domain.poll(&mut here);
        other.join().unwrap();
        world.domain.poll(&mut here);
        world.close(&mut here, 2);
    });
}

#[test]
fn three_cores_one_of_which_only_retires() {
    explore(3, || {
        let world = World::occupied(2);
        let mut here = cpu(0);
        let reader = world.core(1, |world, cpu| {
            cpu.masked(|masked| world.section(masked));
            interrupt_ends(&world.domain, cpu);
            cpu.masked(|masked| world.section(masked));
        });
        let remover = {
            let world = Arc::clone(&world);
            thread::spawn(move || world.remove())
        };
        world.domain.poll(&mut here);
        world.domain.poll(&mut here);
        reader.join().unwrap();
        remover.join().unwrap();
        world.close(&mut here, 1);
    });
}

#[test]
fn two_cores_that_wait_let_each_other_go() {
    explore(2, || {
        let world = World::new(2);
        let mut here = cpu(0);
        let other = world.core(1, |world, cpu| assert!(world.domain.synchronize(cpu, &mut Yield, 8).is_ok()));
        assert!(world.domain.synchronize(&mut here, &mut Yield, 8).is_ok());
        world.domain.offline(&mut here);
        other.join().unwrap();
    });
}
