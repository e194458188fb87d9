//! What one thread can show, standing for several cores. Orders between threads are loom's: `tests/loom_grace.rs`.

use std::string::{String, ToString};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};

use embedded_hal::delay::DelayNs;

use super::*;

fn cpu(core: usize) -> Cpu {
    Cpu::of_test(core)
}

/// A clock that nobody waits for.
struct NoDelay;

impl DelayNs for NoDelay {
    fn delay_ns(&mut self, _: u32) {}
}

/// Keeps what this thread logs.
struct Log;

std::thread_local! {
    static LINES: core::cell::RefCell<std::vec::Vec<String>> = const { core::cell::RefCell::new(std::vec::Vec::new()) };
}

impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        LINES.with_borrow_mut(|lines| lines.push(std::format!("{}: {}", record.level(), record.args())));
    }

    fn flush(&self) {}
}

/// What this thread logs while `work` runs.
fn logged(work: impl FnOnce()) -> std::vec::Vec<String> {
    // Another test may have been first.
    let _ = log::set_logger(&Log);
    log::set_max_level(log::LevelFilter::Warn);
    LINES.take();
    work();
    LINES.take()
}

/// Counts how often it is dropped.
#[derive(Debug)]
struct Witness(Arc<AtomicUsize>);

impl Drop for Witness {
    fn drop(&mut self) {
        self.0.fetch_add(1, Relaxed);
    }
}

fn witness(domain: &Arc<Domain>) -> (Ref<Witness>, Arc<AtomicUsize>) {
    let dropped = Arc::new(AtomicUsize::new(0));
    (Ref::new(domain, Witness(Arc::clone(&dropped))).unwrap(), dropped)
}

#[test]
fn a_retired_object_is_freed_once_every_core_was_quiescent() {
    let domain = Arc::new(Domain::new());
    let (mut here, mut there) = (cpu(0), cpu(1));
    domain.online(&mut here);
    domain.online(&mut there);
    let (object, dropped) = witness(&domain);
    drop(object);
    assert_eq!(dropped.load(Relaxed), 0);
    assert_eq!(domain.poll(&mut here), 0);
    assert_eq!(domain.poll(&mut here), 0);
    assert_eq!(dropped.load(Relaxed), 0, "core 1 was not quiescent yet");
    assert_eq!(domain.poll(&mut there), 1);
    assert_eq!(dropped.load(Relaxed), 1);
    assert_eq!(domain.poll(&mut here), 0);
    assert_eq!(dropped.load(Relaxed), 1);
    assert_eq!(
        domain.stats(),
        Stats { periods: 1, expedited: 0, stuck: 0, created: 1, retired: 1, freed: 1, leaked: 0 }
    );
}

#[test]
fn the_end_of_an_interrupt_is_a_quiescent_point() {
    let domain = Arc::new(Domain::new());
    let (mut here, mut there) = (cpu(0), cpu(1));
    domain.online(&mut here);
    domain.online(&mut there);
    let (object, dropped) = witness(&domain);
    drop(object);
    assert_eq!(domain.poll(&mut here), 0);
    // SAFETY: no other proof for core 1 is alive.
    domain.quiescent(unsafe { Masked::new(CoreId::new(1).unwrap()) });
    assert_eq!(domain.poll(&mut here), 1);
    assert_eq!(dropped.load(Relaxed), 1);
}

#[test]
fn a_read_object_stays_until_the_section_ends() {
    let domain = Arc::new(Domain::new());
    let (mut here, there) = (cpu(0), cpu(1));
    domain.online(&mut here);
    let slot = Slot::new(Arc::clone(&domain));
    let (object, dropped) = witness(&domain);
    slot.publish(object).unwrap();
    there.masked(|masked| {
        let guard = domain.read(masked);
        let found = slot.load(&guard).unwrap();
        drop(slot.unpublish());
        assert!(slot.load(&guard).is_none());
        for _ in 0..3 {
            assert_eq!(domain.poll(&mut here), 0);
        }
        assert_eq!(found.0.load(Relaxed), 0);
        assert!(found.try_ref().is_none(), "the last reference is gone");
    });
    let mut there = there;
    domain.offline(&mut there);
    assert_eq!(domain.poll(&mut here), 1);
    assert_eq!(dropped.load(Relaxed), 1);
}

#[test]
fn a_reference_outlives_section_slot_and_grace_period() {
    let domain = Arc::new(Domain::new());
    let mut cpu = cpu(0);
    let slot = Slot::new(Arc::clone(&domain));
    let (object, dropped) = witness(&domain);
    slot.publish(object).unwrap();
    let kept = cpu.masked(|masked| slot.load(&domain.read(masked)).and_then(Counted::try_ref)).unwrap();
    drop(slot);
    assert!(domain.synchronize(&mut cpu, &mut NoDelay, 0).is_ok());
    assert_eq!(domain.poll(&mut cpu), 0);
    assert_eq!((dropped.load(Relaxed), domain.stats().live()), (0, 1));
    drop(kept);
    assert_eq!((domain.stats().live(), domain.stats().pending(), domain.stats().in_memory()), (0, 1, 1));
    assert_eq!(domain.poll(&mut cpu), 1);
    assert_eq!((dropped.load(Relaxed), domain.stats().in_memory()), (1, 0));
}

#[test]
fn only_an_empty_slot_takes_an_object() {
    let domain = Arc::new(Domain::new());
    let mut cpu = cpu(0);
    let slot = Slot::new(Arc::clone(&domain));
    let one = Ref::new(&domain, 1).unwrap();
    let two = Ref::new(&domain, 2).unwrap();
    slot.publish(one).unwrap();
    let back = slot.publish(two).unwrap_err();
    assert_eq!(**back, 2);
    assert_eq!(slot.unpublish().map(|object| **object), Some(1));
    assert!(slot.unpublish().is_none());
    slot.publish(back).unwrap();
    drop(slot);
    assert_eq!(domain.poll(&mut cpu), 2);
}

#[test]
fn another_domain_s_guard_finds_nothing_and_its_objects_are_not_taken() {
    let (domain, other) = (Arc::new(Domain::new()), Arc::new(Domain::new()));
    let mut cpu = cpu(0);
    let slot = Slot::new(Arc::clone(&domain));
    let stranger = slot.publish(Ref::new(&other, 1).unwrap()).unwrap_err();
    slot.publish(Ref::new(&domain, 2).unwrap()).unwrap();
    cpu.masked(|masked| {
        assert!(slot.load(&other.read(masked)).is_none());
        assert_eq!(slot.load(&domain.read(masked)).map(|object| **object), Some(2));
    });
    drop((stranger, slot));
    assert_eq!((other.poll(&mut cpu), domain.poll(&mut cpu)), (1, 1));
}

#[test]
fn idle_and_offline_cores_hold_nothing_up() {
    let domain = Arc::new(Domain::new());
    let (mut here, mut idle, mut offline) = (cpu(0), cpu(1), cpu(2));
    for cpu in [&mut here, &mut idle, &mut offline] {
        domain.online(cpu);
    }
    domain.offline(&mut offline);
    domain.idle(&mut idle, |_| false, || assert!(domain.synchronize(&mut here, &mut NoDelay, 0).is_ok()));
    let Err(held) = domain.synchronize(&mut here, &mut NoDelay, 0) else { panic!("core 1 is back") };
    assert_eq!(held.holding.to_string(), "core 1");
    domain.online(&mut offline);
    domain.offline(&mut idle);
    assert!(domain.synchronize(&mut here, &mut NoDelay, 0).is_err(), "core 2 came back before the second period");
    domain.offline(&mut offline);
    assert!(domain.synchronize(&mut here, &mut NoDelay, 0).is_ok());
}

#[test]
fn a_core_with_work_does_not_sleep() {
    let domain = Domain::new();
    let mut cpu = cpu(0);
    domain.online(&mut cpu);
    domain.idle(&mut cpu, |_| true, || panic!("slept over its work"));
}

#[test]
fn a_core_that_was_away_since_the_start_is_not_waited_for() {
    let domain = Domain::new();
    let (mut here, mut there) = (cpu(0), cpu(1));
    domain.online(&mut here);
    domain.online(&mut there);
    assert!(domain.synchronize(&mut here, &mut NoDelay, 0).is_err());
    domain.idle(&mut there, |_| false, || ());
    assert_eq!(domain.stats().periods, 0);
    // Two steps: the period that runs ends, and the one asked for starts.
    assert!(domain.synchronize(&mut here, &mut NoDelay, 0).is_err());
    assert_eq!(domain.stats().periods, 1);
}

#[test]
fn the_core_that_never_becomes_quiescent_is_named() {
    let domain = Domain::new();
    let (mut here, mut busy) = (cpu(0), cpu(5));
    domain.online(&mut here);
    domain.online(&mut busy);
    let Err(error) = domain.synchronize(&mut here, &mut NoDelay, 7) else { panic!("core 5 was not quiescent") };
    assert_eq!(error.to_string(), "grace period held up by core 5 for 7 us");
}

#[test]
fn a_core_that_holds_a_period_up_for_long_is_named_once_a_period() {
    let domain = Arc::new(Domain::new());
    let (mut here, mut busy) = (cpu(0), cpu(5));
    domain.online(&mut here);
    domain.online(&mut busy);
    assert_eq!(domain.stuck(&here, 0, 0), None, "no period runs");
    for period in [1, 2] {
        drop(Ref::new(&domain, ()));
        domain.poll(&mut here);
        let start = period * 10_000;
        assert_eq!(domain.stuck(&here, start, 1000), None);
        assert_eq!(domain.stuck(&here, start + 999, 1000), None);
        let stuck = domain.stuck(&here, start + 1001, 1000).unwrap();
        assert_eq!(stuck.to_string(), std::format!("grace period {period} is held up by core 5 for 1001 us"));
        assert_eq!(domain.stuck(&here, start + 9000, 1000), None);
        assert_eq!(domain.stats().stuck, period);
        domain.poll(&mut busy);
        assert_eq!(domain.stats().pending(), 0);
    }
}

#[test]
fn a_core_that_has_just_let_go_is_not_named() {
    let domain = Arc::new(Domain::new());
    let (mut here, mut busy) = (cpu(0), cpu(5));
    domain.online(&mut here);
    domain.online(&mut busy);
    drop(Ref::new(&domain, ()));
    domain.poll(&mut here);
    assert_eq!(domain.stuck(&here, 0, 1000), None);
    domain.offline(&mut busy);
    assert_eq!(domain.stuck(&here, 5000, 1000), None);
    assert_eq!(domain.stats().stuck, 0);
    assert_eq!(domain.poll(&mut here), 1);
}

#[test]
fn a_wait_interrupts_each_core_that_holds_it_up_once() {
    static KICKED: [AtomicU32; 3] = [const { AtomicU32::new(0) }; 3];
    let domain = Domain::new();
    domain.set_expedite(|core| {
        KICKED[core.index()].fetch_add(1, Relaxed);
    });
    let (mut here, mut busy, mut idle) = (cpu(0), cpu(1), cpu(2));
    for cpu in [&mut here, &mut busy, &mut idle] {
        domain.online(cpu);
    }
    domain.offline(&mut idle);
    assert!(domain.synchronize(&mut here, &mut NoDelay, 9).is_err());
    assert_eq!(KICKED.each_ref().map(|count| count.load(Relaxed)), [0, 1, 0]);
    assert_eq!(domain.stats().expedited, 1);
}

#[test]
fn a_period_that_many_wait_for_or_that_lasts_is_expedited() {
    static KICKS: AtomicU32 = AtomicU32::new(0);
    let domain = Arc::new(Domain::new());
    domain.set_expedite(|_| {
        KICKS.fetch_add(1, Relaxed);
    });
    let (mut here, mut busy) = (cpu(0), cpu(1));
    domain.online(&mut here);
    domain.online(&mut busy);
    drop(Ref::new(&domain, ()));
    for _ in 0..256 {
        domain.poll(&mut here);
    }
    assert_eq!(KICKS.load(Relaxed), 0);
    domain.poll(&mut here);
    assert_eq!(KICKS.load(Relaxed), 1);
    assert_eq!(domain.poll(&mut busy), 1);

    for _ in 0..32 {
        drop(Ref::new(&domain, ()));
    }
    domain.poll(&mut here);
    assert_eq!(KICKS.load(Relaxed), 1);
    drop(Ref::new(&domain, ()));
    domain.poll(&mut here);
    assert_eq!(KICKS.load(Relaxed), 2);
    domain.poll(&mut busy);
    domain.poll(&mut here);
    domain.poll(&mut busy);
    assert_eq!(domain.stats().pending(), 0);
}

#[test]
#[cfg_attr(miri, ignore = "it leaks, as it must")]
fn a_saturated_object_is_named_once_counted_as_leaked_and_never_freed() {
    let domain = Arc::new(Domain::new());
    let mut cpu = cpu(0);
    let object = Ref::with_references(&domain, String::from("for ever"), u32::MAX - 1).unwrap();
    let mut kept = std::vec::Vec::new();
    let lines = logged(|| kept.extend((0..3).map(|_| object.try_ref().unwrap())));
    assert_eq!(lines, ["ERROR: \"for ever\" has too many references, and will never be freed"]);
    assert_eq!(object.references(), 0xffff_ffff);
    let third = kept.pop().unwrap();
    drop((object, kept));
    assert_eq!(domain.poll(&mut cpu), 0);
    assert_eq!(third.as_str(), "for ever");
    assert_eq!((domain.stats().leaked, domain.stats().retired), (1, 0));
}

#[test]
fn dropping_an_object_may_retire_others() {
    let domain = Arc::new(Domain::new());
    let mut cpu = cpu(0);
    let (inner, dropped) = witness(&domain);
    drop(Ref::new(&domain, inner).unwrap());
    assert_eq!(domain.poll(&mut cpu), 1);
    assert_eq!(dropped.load(Relaxed), 0);
    assert_eq!(domain.poll(&mut cpu), 1);
    assert_eq!(dropped.load(Relaxed), 1);
}
