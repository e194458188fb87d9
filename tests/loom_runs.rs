//! Stalls that are served at once, and a substream's handler that is removed, while their stream ends, in every order that the memory
//! model allows. `tools/loom.sh` runs it, also with mistakes built in.
//!
//! A thread stands for a core.
#![cfg(loom)]

#[path = "support/fault_bench.rs"]
mod fault_bench;
#[path = "support/loom_smmu.rs"]
mod loom_smmu;
#[path = "support/loom_world.rs"]
mod loom_world;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use fault_bench::{WILD, cpu, in_substream, stall, to_stall};
use loom_world::{FIVE, STREAM, World, Yield, explore};
use smmu_iopf::iopf::{Answer, Report, SubstreamError};
use smmu_iopf::smmuv3::PageResponse::{Invalid, Success};
use smmu_iopf::sync::Cpu;

/// In how many orders something happened.
type Count = Arc<AtomicUsize>;

/// Has `report` race with the end of the stream, whose handler serves one stall of a run at once and defers the next. Gives `check` what was
/// sent, and how many were terminated and how many came after the close.
fn race(
    report: impl Fn(&World, &Cpu) + Clone + Send + Sync + 'static,
    check: impl Fn(&[Answer], usize, u64) + Send + Sync + 'static,
) {
    explore(3, move || {
        let world = World::new();
        world.handler.at_once.store(1, SeqCst);
        let report = report.clone();
        let drainer = world.core(1, move |world, cpu| {
            world.domain.poll(cpu);
            report(world, cpu);
        });
        let mut here = cpu(0);
        let closing = here.masked(|masked| world.table.close(masked, STREAM)).unwrap();
        // One look is enough: the orders in which the period does not end in time are not of interest.
        let Ok(grace) = world.domain.synchronize(&mut here, &mut Yield, 1) else {
            drainer.join().unwrap();
            return drop(world.handler.take());
        };
        world.smmu.terminated.store(true, SeqCst);
        let terminated = closing.answer_pending(&here, &grace).terminated;
        drainer.join().unwrap();
        here.masked(|masked| closing.finish(masked)).unwrap();
        drop(world.handler.take());
        let totals = world.table.totals();
        assert_eq!(totals.slots_in_use, 0);
        check(&world.sent(), terminated, totals.statistics.closed);
    });
}

#[test]
fn a_lone_stall_that_races_with_close_is_served_before_stall_term_or_swallowed() {
    let (served, closed) = (Count::default(), Count::default());
    let seen = (served.clone(), closed.clone());
    race(
        |world, cpu| world.report_lone(cpu, 7),
        move |sent, terminated, swallowed| {
            assert_eq!((terminated, sent.len() as u64 + swallowed), (0, 1));
            assert!(sent.is_empty() || sent == [to_stall(STREAM, 7, Success)]);
            served.fetch_add(sent.len(), SeqCst);
            closed.fetch_add(swallowed as usize, SeqCst);
        },
    );
    let seen = [seen.0, seen.1].map(|count| count.load(SeqCst));
    assert!(!seen.contains(&0), "served, swallowed: {seen:?}");
}

#[test]
fn a_run_that_races_with_close_is_served_before_stall_term_terminated_or_swallowed() {
    let (served, ended, closed) = (Count::default(), Count::default(), Count::default());
    // One whose second stall is deferred, and one whose first is.
    for (addresses, at_once) in [([0; 3].as_slice(), [7, 9].as_slice()), (&[WILD, 0], &[8])] {
        let counts = [served.clone(), ended.clone(), closed.clone()];
        race(
            move |world, cpu| world.report_run(cpu, 7, addresses),
            move |sent, terminated, swallowed| {
                assert_eq!((sent.len() + terminated) as u64 + swallowed, addresses.len() as u64);
                // Who is asked about a run is found once: all is served that can be, or nothing.
                let all = at_once.iter().map(|&tag| to_stall(STREAM, tag, Success)).collect::<Vec<_>>();
                assert!(sent == all || sent.is_empty() && terminated == 0);
                for (count, more) in counts.iter().zip([sent.len(), terminated, swallowed as usize]) {
                    count.fetch_add(more, SeqCst);
                }
            },
        );
    }
    let seen = [served, ended, closed].map(|count| count.load(SeqCst));
    assert!(!seen.contains(&0), "served, terminated, swallowed: {seen:?}");
}

#[test]
fn a_substreams_handler_that_is_removed_while_its_stream_ends_has_its_stall_refused_before_stall_term_or_not_at_all() {
    let (refused, terminated) = (Count::default(), Count::default());
    let seen = (refused.clone(), terminated.clone());
    explore(3, move || {
        let world = World::new();
        let mut here = cpu(0);
        world.table.set_substream_handler(&mut here, STREAM, FIVE, world.handler.clone()).unwrap();
        let fault = in_substream(stall(STREAM, 7, 0), FIVE.get());
        assert_eq!(here.masked(|masked| world.table.report(masked, 0, fault)), Report::Deferred);
        let remover =
            world.core(1, |world, cpu| world.table.remove_substream_handler(cpu, &mut Yield, STREAM, FIVE, 1));
        // Lets the remover go on.
        world.domain.poll(&mut here);
        let leftover = world.end(&mut here);
        let removed = remover.join().unwrap();
        drop(world.handler.take());
        if let Some(leftover) = leftover {
            let sent = world.sent();
            assert_eq!(sent.len() + leftover.terminated, 1);
            assert!(sent.is_empty() || sent == [fault.answer(Invalid)]);
            match removed {
                Ok(count) => assert_eq!(count, sent.len()),
                Err(error) => assert!(matches!(error, SubstreamError::NotOpen(_) | SubstreamError::Grace(_))),
            }
            assert_eq!(world.table.totals().slots_in_use, 0);
            refused.fetch_add(sent.len(), SeqCst);
            terminated.fetch_add(leftover.terminated, SeqCst);
        }
    });
    let seen = [seen.0, seen.1].map(|count| count.load(SeqCst));
    assert!(!seen.contains(&0), "refused, terminated: {seen:?}");
}
