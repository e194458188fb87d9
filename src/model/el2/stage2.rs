//! Stage 2: physical memory as EL1 sees it.
//!
//! Everything up to 1 TiB is where it is, with all permissions and the attributes that EL1 gives it, but for two holes:
//! the model's registers and this image.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::IMAGE;
use crate::model::board;

pub(super) const GIB: u64 = 1 << 30;
const MIB2: u64 = 2 << 20;

/// A block: access flag, inner shareable, read and write, Normal write-back memory, which stage 1 may only weaken.
const BLOCK: u64 = 1 << 10 | 3 << 8 | 3 << 6 | 0xf << 2 | 1;
const TABLE: u64 = 3;

#[repr(align(8192))]
struct Level1([AtomicU64; 1024]);
#[repr(align(4096))]
struct Level2([AtomicU64; 512]);

/// Two tables of level 1 in one, for 40 bits.
static LEVEL1: Level1 = Level1([const { AtomicU64::new(0) }; 1024]);
/// The two GiB with holes.
static DEVICES: Level2 = Level2([const { AtomicU64::new(0) }; 512]);
static MEMORY: Level2 = Level2([const { AtomicU64::new(0) }; 512]);

// The holes consist of whole blocks and leave what is around them alone; the devices' hole is in the first GiB, the
// image's in the second.
const HOLE: core::ops::Range<u64> = board::WINDOW.start..board::WINDOW.end.next_multiple_of(MIB2);
const _: () = assert!(HOLE.start.is_multiple_of(MIB2) && HOLE.end <= 0x0c00_0000);
const _: () = assert!(IMAGE.start.is_multiple_of(MIB2) && IMAGE.end.is_multiple_of(MIB2));
const _: () = assert!(IMAGE.start >= GIB && IMAGE.end <= 2 * GIB);

/// Fills the tables in and gives their address. No core uses them yet.
pub(super) fn build() -> u64 {
    let fill = |table: &[AtomicU64], base: u64, size: u64| {
        for (entry, address) in table.iter().zip((base..).step_by(size as usize)) {
            let hidden = size == MIB2 && (HOLE.contains(&address) || IMAGE.contains(&address));
            entry.store(if hidden { 0 } else { address | BLOCK }, Relaxed);
        }
    };
    fill(&LEVEL1.0, 0, GIB);
    fill(&DEVICES.0, 0, MIB2);
    fill(&MEMORY.0, GIB, MIB2);
    LEVEL1.0[0].store((&raw const DEVICES).addr() as u64 | TABLE, Relaxed);
    LEVEL1.0[1].store((&raw const MEMORY).addr() as u64 | TABLE, Relaxed);
    address()
}

/// Where the tables are.
pub(super) fn address() -> u64 {
    (&raw const LEVEL1).addr() as u64
}
