//! Address spaces and their tables, on a pool of frames whose physical addresses are not where the CPU sees them.

use std::sync::Arc;
use std::thread;
use std::vec::Vec;

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::address_space::{AddressSpace, Backing, Effort, Region, Resolution, SpaceError};
use super::frames::FramePool;
use super::{Permissions, page_table::PageTable};
use crate::driver::Forgotten;
use crate::driver::dma::{Coherence, DmaMemory, DmaRegion, NoMemory};
use crate::smmuv3::event::{Stall, StallBuffer};
use crate::smmuv3::{Access, Asid, PhysAddr};
use crate::sync::Cpu;
use crate::sync::grace::Domain;

struct Heap;

impl DmaMemory for Heap {
    fn allocate(&self, bytes: usize, _: usize) -> Result<DmaRegion, NoMemory> {
        let words: Vec<AtomicU64> = (0..bytes / 8).map(|_| AtomicU64::new(0)).collect();
        Ok(DmaRegion { phys: PhysAddr(0x8000_0000), words: words.leak() })
    }
}

const EXECUTE: Access = Access { read: false, write: false, execute: true, privileged: false };

fn pool(frames: u32) -> Arc<FramePool> {
    Arc::new(FramePool::new(&Heap, frames, Coherence::COHERENT).unwrap())
}

fn region(start: u64, bytes: u64) -> Region {
    Region { start, bytes, permissions: Permissions::READ_WRITE, backing: Backing::Anonymous }
}

fn space(regions: &[Region], frames: &Arc<FramePool>) -> AddressSpace {
    AddressSpace::new(Asid(1), regions, frames.clone()).unwrap()
}

/// Stalled writes at `addresses`.
fn writes<const N: usize>(addresses: [u64; N]) -> StallBuffer<N> {
    let mut stalls = StallBuffer::new();
    for words in addresses.map(|address| [0x10, 1 << 31, address]) {
        if !stalls.push(words) {
            stalls.begin(Stall::decode(words).unwrap());
        }
    }
    stalls
}

#[test]
fn a_page_comes_with_the_first_touch_and_is_there_at_the_second() {
    let frames = pool(8);
    let space = space(&[region(0x10_0000, 0x2000)], &frames);
    assert_eq!(space.translate(0x10_1234), None);
    assert_eq!(space.resolve(0x10_1234, Access::READ, Effort::Ready), Resolution::Mapped);
    assert_eq!(space.resolve(0x10_1fff, Access::WRITE, Effort::Ready), Resolution::Present);
    assert_eq!(space.translate(0x10_1234).map(|at| at.0 & 0xfff), Some(0x234));
    assert_eq!(space.translate(0x10_0000), None);
    assert_eq!(space.pages(), 1);
    // Root, two tables, the page.
    assert_eq!(frames.in_use(), 4);
}

#[test]
fn a_page_comes_without_a_walk_in_the_region_and_behind_the_table_that_were_found_last() {
    let frames = pool(8);
    let memory = |start, permissions| Region {
        permissions,
        backing: Backing::Memory(PhysAddr(0x4000_0000 + start)),
        ..region(start, 0x40_0000)
    };
    let read_only = memory(0x80_0000, Permissions::READ);
    let space = space(&[memory(0, Permissions::READ_WRITE), read_only, region(0xc0_0000, 0x2000)], &frames);
    let soon = |address, access| space.resolve_soon(address, access);
    assert!(!soon(0x1000, Access::WRITE), "no table yet");
    assert_eq!(space.resolve(0x1000, Access::WRITE, Effort::Ready), Resolution::Mapped);
    assert!(soon(0x1000, Access::READ), "it is there");
    assert!(soon(0x1f_f123, Access::WRITE));
    assert_eq!(space.translate(0x1f_f123), Some(PhysAddr(0x401f_f123)));
    assert!(!soon(0x2000, EXECUTE));
    assert!(!soon(0x20_0000, Access::READ), "another table");
    assert!(!soon(0x80_0000, Access::READ), "another region");
    assert!(!soon(u64::MAX, Access::READ));
    assert_eq!(space.resolve(0x80_0000, Access::READ, Effort::Ready), Resolution::Mapped);
    assert!(!soon(0x80_1000, Access::WRITE), "read only");
    assert!(soon(0x80_1000, Access::READ));
    assert_eq!(space.resolve(0xc0_0000, Access::READ, Effort::Ready), Resolution::Mapped);
    assert!(!soon(0xc0_1000, Access::READ), "it takes a frame");
    assert!(soon(0xc0_0fff, Access::WRITE));
    assert_eq!(space.pages(), 5);
}

#[test]
fn pages_of_several_accesses_come_up_to_the_first_that_takes_more() {
    let frames = pool(8);
    let backing = Backing::Memory(PhysAddr(0x4000_0000));
    let space = space(&[Region { backing, ..region(0, 0x40_0000) }], &frames);
    assert_eq!(space.resolve(0, Access::READ, Effort::Ready), Resolution::Mapped);
    assert_eq!(space.resolve_run(writes([0x1000, 0x3000, 0x1000, 0x20_0000, 0x5000]).run()), 3);
    assert_eq!((space.pages(), space.translate(0x5000)), (3, None));
    assert_eq!(space.translate(0x3000), Some(PhysAddr(0x4000_3000)));
}

#[test]
fn a_run_ends_before_an_access_that_is_not_allowed_or_leaves_the_region_or_takes_a_frame() {
    let frames = pool(8);
    let backing = Backing::Memory(PhysAddr(0x4000_0000));
    let read_only = Region { backing, permissions: Permissions::READ, ..region(0x3000, 0x3000) };
    let space = space(&[read_only, region(0x8000, 0x2000)], &frames);
    assert_eq!(space.resolve(0x3000, Access::READ, Effort::Ready), Resolution::Mapped);
    // RnW is bit 35 (7.3.13).
    let run = |accesses: [(u64, u64); 3]| {
        let mut stalls = StallBuffer::<3>::new();
        for words in accesses.map(|(access, address)| [0x10, access | 1 << 31, address]) {
            if !stalls.push(words) {
                stalls.begin(Stall::decode(words).unwrap());
            }
        }
        space.resolve_run(stalls.run())
    };
    const READ: u64 = 1 << 35;
    assert_eq!(run([(READ, 0x5fff), (0, 0x4000), (READ, 0x4000)]), 1, "a write");
    assert_eq!(run([(READ, 0x4000), (READ | 1 << 34, 0x4000), (READ, 0x4000)]), 1, "a fetch");
    assert_eq!(run([(READ, 0x2fff), (READ, 0x4000), (READ, 0x4000)]), 0, "before the region");
    assert_eq!(run([(READ, 0x3000), (READ, 0x5000), (READ, 0x6000)]), 2, "behind the region");
    assert_eq!(space.translate(0x5abc), Some(PhysAddr(0x4000_2abc)));
    assert_eq!((space.pages(), space.translate(0x6000), space.translate(0x2000)), (3, None, None));
    assert_eq!(space.resolve(0x8000, Access::READ, Effort::Ready), Resolution::Mapped);
    assert_eq!(run([(READ, 0x8000), (0, 0x8fff), (READ, 0x9000)]), 2, "no page yet");
    assert_eq!(space.pages(), 4);
}

#[test]
fn a_run_behind_the_first_table_of_a_region_maps_the_pages_that_belong_there() {
    let frames = pool(8);
    let backing = Backing::Memory(PhysAddr(0x4000_0000));
    let space = space(&[Region { backing, ..region(0x1f_f000, 0x40_0000) }], &frames);
    assert_eq!(space.resolve(0x20_0000, Access::READ, Effort::Ready), Resolution::Mapped);
    assert_eq!(space.resolve_run(writes([0x20_1000, 0x20_3000]).run()), 2);
    assert_eq!(space.translate(0x20_3000), Some(PhysAddr(0x4000_4000)));
}

#[test]
fn a_run_of_writes_to_a_read_only_region_of_the_pools_pages_is_not_served() {
    let frames = pool(8);
    let space = space(&[Region { permissions: Permissions::READ, ..region(0x3000, 0x3000) }], &frames);
    assert_eq!(space.resolve(0x3000, Access::READ, Effort::Ready), Resolution::Mapped);
    assert_eq!(space.resolve_run(writes([0x3000, 0x3008]).run()), 0);
}

#[test]
fn what_no_region_allows_is_refused_and_maps_nothing() {
    let frames = pool(8);
    let read_only = Region { permissions: Permissions::READ, ..region(0x20_0000, 0x1000) };
    let space = space(&[region(0x10_0000, 0x1000), read_only], &frames);
    for (address, access) in [
        (0xf_ffff, Access::READ),
        (0x10_1000, Access::READ),
        (0x20_0000, Access::WRITE),
        (0x10_0000, EXECUTE),
        (0, Access::READ),
        (u64::MAX, Access::READ),
    ] {
        assert_eq!(space.resolve(address, access, Effort::Zero), Resolution::Refused, "{address:#x} {access:?}");
    }
    assert_eq!(space.pages(), 0);
    assert_eq!(frames.in_use(), 1);
    assert_eq!(space.resolve(0x20_0000, Access::READ, Effort::Zero), Resolution::Mapped);
}

#[test]
fn bad_regions_are_named() {
    let backed = |memory| Region { backing: Backing::Memory(PhysAddr(memory)), ..region(0x1000, 0x1000) };
    for bad in [
        region(0x1000, 0),
        region(0x1001, 0x1000),
        region(0x1000, 0x800),
        region(PageTable::REACH, 0x1000),
        region(PageTable::REACH - 0x1000, 0x2000),
        region(0xffff_ffff_ffff_f000, 0x2000),
        backed(0x8000_0010),
        backed(0xffff_ffff_ffff_f000),
        backed(1 << 48),
        Region { bytes: 0x2000, ..backed((1 << 48) - 0x1000) },
    ] {
        let made = AddressSpace::new(Asid(1), &[bad], pool(1));
        assert_eq!(made.err(), Some(SpaceError::BadRegion(bad)));
    }
    let second = region(0x4000, 0x1000);
    let overlapping = AddressSpace::new(Asid(1), &[second, region(0x3000, 0x2000)], pool(1));
    assert_eq!(overlapping.err(), Some(SpaceError::BadRegion(second)));
    assert_eq!(AddressSpace::new(Asid(1), &[], pool(0)).err(), Some(SpaceError::NoFrame));
}

#[test]
fn a_backed_region_may_end_where_the_output_addresses_do() {
    let backed = Region { backing: Backing::Memory(PhysAddr((1 << 48) - 0x1000)), ..region(0x1000, 0x1000) };
    let space = space(&[backed], &pool(8));
    assert_eq!(space.resolve(0x1000, Access::READ, Effort::Ready), Resolution::Mapped);
    assert_eq!(space.translate(0x1008), Some(PhysAddr((1 << 48) - 0xff8)));
}

#[test]
fn entries_are_what_the_architecture_says() {
    let frames = pool(8);
    let read_only = Region { permissions: Permissions::READ, ..region(0x4000_1000, 0x1000) };
    let space = space(&[region(0x4000_0000, 0x1000), read_only], &frames);
    space.resolve(0x4000_0000, Access::WRITE, Effort::Ready);
    space.resolve(0x4000_1000, Access::READ, Effort::Ready);
    let word = |table: u64, index: usize| frames.words(PhysAddr(table)).unwrap()[index].load(Relaxed);
    // Arm DDI 0487, D8.3: frames are handed out in ascending order, so each address is known. 0x4000_0000 is entry 1 of
    // level 1, entry 0 of level 2 and of level 3.
    assert_eq!(space.root(), PhysAddr(0x8000_0000));
    assert_eq!(word(0x8000_0000, 1), 0x8000_1003);
    assert_eq!(word(0x8000_1000, 0), 0x8000_2003);
    // UXN, PXN; nG, AF, inner shareable, AP[1] unprivileged, index 0, page.
    assert_eq!(word(0x8000_2000, 0), 0x0060_0000_8000_3f43);
    // And AP[2], read-only.
    assert_eq!(word(0x8000_2000, 1), 0x0060_0000_8000_4fc3);
}

#[test]
fn a_backed_region_maps_its_owners_memory() {
    let frames = pool(8);
    let backed = Region { backing: Backing::Memory(PhysAddr(0x4242_0000)), ..region(0x10_0000, 0x4000) };
    let space = space(&[backed], &frames);
    assert_eq!(space.resolve(0x10_3010, Access::READ, Effort::Ready), Resolution::Mapped);
    assert_eq!(space.translate(0x10_3010), Some(PhysAddr(0x4242_3010)));
    assert_eq!(frames.in_use(), 3);
}

#[test]
fn a_backed_page_is_taken_away_and_comes_back_and_a_page_of_the_pools_is_not_taken() {
    let frames = pool(8);
    let backed = Region { backing: Backing::Memory(PhysAddr(0x4242_0000)), ..region(0x10_0000, 0x2000) };
    let space = space(&[backed, region(0x18_0000, 0x1000)], &frames);
    assert!(!space.unmap(0x10_1000));
    for address in [0x10_0000, 0x10_1000, 0x18_0000] {
        assert_eq!(space.resolve(address, Access::WRITE, Effort::Ready), Resolution::Mapped);
    }
    assert!(space.unmap(0x10_1008));
    assert_eq!(space.translate(0x10_1000), None);
    assert_eq!(space.translate(0x10_0000), Some(PhysAddr(0x4242_0000)));
    assert!(!space.unmap(0x10_1000));
    assert_eq!(space.resolve(0x10_1000, Access::WRITE, Effort::Ready), Resolution::Mapped);
    assert_eq!(space.translate(0x10_1000), Some(PhysAddr(0x4242_1000)));
    assert!(!space.unmap(0x18_0000));
    assert!(space.translate(0x18_0000).is_some());
    assert!(!space.unmap(0x19_0000));
}

#[test]
fn without_a_frame_the_fault_waits_and_later_succeeds() {
    let frames = pool(5);
    let first = space(&[region(0, 0x1000)], &frames);
    first.resolve(0, Access::READ, Effort::Ready);
    let second = space(&[region(0, 0x1000)], &frames);
    assert_eq!(second.resolve(0, Access::READ, Effort::Zero), Resolution::NoFrame);

    let cpu = &mut Cpu::of_test(0);
    let grace = Domain::new().synchronize(cpu, &mut NoDelay, 0).unwrap();
    AddressSpace::reclaim(Forgotten::of_test(first, grace));
    // The frames are there, and not zeroed: an interrupt handler does not wait for that.
    assert_eq!(second.resolve(0, Access::READ, Effort::Ready), Resolution::NoFrame);
    assert_eq!(second.resolve(0, Access::READ, Effort::Zero), Resolution::Mapped);
}

struct NoDelay;

impl embedded_hal::delay::DelayNs for NoDelay {
    fn delay_ns(&mut self, _: u32) {}
}

#[test]
fn freeing_gives_back_every_frame_and_leaves_backed_memory_alone() {
    let frames = pool(64);
    let backed = Region { backing: Backing::Memory(PhysAddr(0x4242_0000)), ..region(0x7f_c000_0000, 0x4000) };
    let space = space(&[region(0, 0x40_0000), backed], &frames);
    for address in [0, 0x1000, 0x20_0000, 0x3f_f000] {
        assert_eq!(space.resolve(address, Access::WRITE, Effort::Ready), Resolution::Mapped);
    }
    space.resolve(0x7f_c000_1000, Access::READ, Effort::Ready);
    let cpu = &mut Cpu::of_test(0);
    let grace = Domain::new().synchronize(cpu, &mut NoDelay, 0).unwrap();
    AddressSpace::reclaim(Forgotten::of_test(space, grace));
    assert_eq!(frames.in_use(), 0);
}

#[test]
fn pool_frames_behind_a_backed_region_stay_their_owners() {
    let frames = pool(8);
    let owned = frames.take().unwrap();
    let backed = Region { backing: Backing::Memory(owned.phys()), ..region(0x40_0000, 0x1000) };
    let space = space(&[region(0x10_0000, 0x1000), backed], &frames);
    for address in [0x10_0000, 0x40_0000] {
        assert_eq!(space.resolve(address, Access::READ, Effort::Ready), Resolution::Mapped);
    }
    let cpu = &mut Cpu::of_test(0);
    let grace = Domain::new().synchronize(cpu, &mut NoDelay, 0).unwrap();
    AddressSpace::reclaim(Forgotten::of_test(space, grace));
    assert_eq!(frames.in_use(), 1);
    frames.free(owned);
    assert_eq!(frames.in_use(), 0);
}

#[test]
fn cores_that_race_for_a_page_map_it_once() {
    for _ in 0..100 {
        let frames = pool(64);
        let space = Arc::new(space(&[region(0, 0x4000)], &frames));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let space = space.clone();
                thread::spawn(move || {
                    (0..4)
                        .filter(|page| space.resolve(page << 12, Access::WRITE, Effort::Ready) == Resolution::Mapped)
                        .count()
                })
            })
            .collect();
        let mapped: usize = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
        assert_eq!(mapped, 4);
        assert_eq!(space.pages(), 4);
        // Root, two tables, four pages; what the losers took is back.
        assert_eq!(frames.in_use(), 7);
    }
}
