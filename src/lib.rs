//! I/O page faults on an Arm SMMUv3: the architecture, a fault core, a driver, and a model to run them against.
//!
//! | room | what lives there | runs on |
//! |---|---|---|
//! | [`smmuv3`] | the architecture written down: registers, commands, records, tables, queue indices | host, target |
//! | [`sync`] | cores and masked sections, grace periods, reference counts, locks, the one bounded wait | host, target |
//! | [`iopf`] | the fault core: which stream a fault belongs to, what is unanswered, who may answer it | host, target |
//! | [`driver`] | programs an SMMUv3: bring-up, queues, tables, faults on and off, global errors | host, target |
//! | [`sva`] | address spaces shared with devices: regions, page frames, page tables, the demand pager | host, target |
//! | [`model`] | an SMMUv3 with stall, ATS and PRI in software, and the DMA engines behind it | host, EL2 |
//! | `arch` | the aarch64 core: entry, exceptions, MMU, image and heap, timer, device registers, semihosting | target |
//! | [`platform`] | the QEMU virt board: device tree, memory, console, PCIe, QEMU's `edu` device | host (in part), target |
//! | `kernel` | what ties them together: boot, cores and their work, the main job, its report | target |
//!
//! A room imports only rooms above it in this list. [`driver`], [`iopf`] and [`sva`] do not know [`model`]. `unsafe` stands only
//! in [`sync`], [`model::el2`], `arch` and [`platform`]; the other rooms forbid it.
//!
//! # The way of one fault
//!
//! 1. A device's access misses its translation. The SMMU stalls it and writes an event record; or the device asked by
//!    ATS beforehand, got nothing, and sends a page request group, which the SMMU writes to its PRI queue.
//! 2. The queue was empty, so the SMMU raises an interrupt. [`driver::Smmu::drain_events`] or
//!    [`driver::Smmu::drain_page_requests`] reads PROD and decodes at most [`driver::BATCH`] records.
//! 3. [`iopf::FaultTable::stalls`] or [`iopf::FaultTable::batch`] finds their streams' fault states in a read section of
//!    [`sync::grace`], without a lock. Page requests wait in a slot until the last of their group has come; a stall is a group by itself.
//! 4. The stream's [`iopf::FaultHandler`] looks at the group. [`sva::pager::DemandPager`] maps the pages inline while zeroed
//!    frames are ready. Else the group becomes an [`iopf::FaultGroup`], which owns a reference to the state and goes to a
//!    core that has time.
//! 5. Who answers a group that was kept claims its slot by compare-exchange, so that of handler, time-out and disabler
//!    one answers. The answers of a batch become CMD_RESUME or CMD_PRI_RESP in the command queue, with one write of PROD; CONS was
//!    written before.
//! 6. The device goes on. If its stream was disabled meanwhile, the last reference retires the fault state, and it is
//!    freed when every core has been quiescent since.
//!
//! # Invariants
//!
//! 1. Every stall record and every page request group with a last request gets one answer. STALL_TERM counts as one.
//! 2. No fault state is read after it was freed, and none leaks.
//! 3. A report that races with disabling is either in a group that the disabler ends, or it is refused or swallowed.
//! 4. Groups, partial groups and fault states stay within their limits whatever devices send.
//! 5. Queue indices move only forward; CONS is written once a batch, and OVACKFLG follows OVFLG.
//! 6. Any record, register value and device tree is survived: an error or a count, never a panic.
//! 7. Every wait is bounded, and its error says what was waited for, what was seen, and for how long.
//!
//! `docs/architecture.md` names the tests of each.
//!
//! # As a library
//!
//! A kernel brings the registers ([`driver::registers::Registers`]), memory ([`driver::dma::DmaMemory`]), a delay
//! (`embedded_hal::delay::DelayNs`), two hooks, and each core's [`sync::Cpu`]. On the host [`model`] takes the place of
//! hardware:
//!
#![cfg_attr(not(target_os = "none"), doc = "```")]
#![cfg_attr(target_os = "none", doc = "```ignore")]
#![doc = include_str!("../docs/example.rs")]
//! ```
#![no_std]

extern crate alloc;
#[cfg(not(target_os = "none"))]
extern crate std;

#[cfg(target_os = "none")]
pub mod arch;
#[forbid(unsafe_code)]
pub mod driver;
#[forbid(unsafe_code)]
pub mod iopf;
#[cfg(target_os = "none")]
#[forbid(unsafe_code)]
pub mod kernel;
pub mod model;
pub mod platform;
#[forbid(unsafe_code)]
pub mod smmuv3;
#[forbid(unsafe_code)]
pub mod sva;
pub mod sync;
