//! From the entry code's view of the machine to the kernel's: the device tree read, memory laid out, everything mapped.

use core::ops::{Deref, Range};
use core::ptr::NonNull;

use arm_gic::UniqueMmioPointer;
use arm_gic::gicv3::{GicError, GicV3};

use super::board::Board;
use super::device_memory::DeviceMemory;
use super::device_tree;
use crate::arch::entry::{self, Boot};
use crate::arch::heap::Heap;
use crate::arch::image;
use crate::arch::mmio::Mmio;
use crate::arch::mmu::{AddressMap, Kind};

/// The size of the heap in bytes.
const HEAP_BYTES: u64 = 64 << 20;

/// The size of a core's redistributor in bytes: the frames RD_base and SGI_base of a GICv3.
const REDISTRIBUTOR_BYTES: u64 = 0x2_0000;

/// Where QEMU puts the device tree for an ELF image that it enters without one.
const DEFAULT_TREE: u64 = 0x4000_0000;

/// Why the machine can't be used.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// There is no device tree, or not one of this board.
    #[error("device tree at {0:#x}: {1}")]
    Tree(u64, device_tree::BoardError),
    /// The image does not lie in memory with room behind it.
    #[error("no memory around the image at {0:#x?}, with {HEAP_BYTES:#x} bytes more behind it")]
    Memory(Range<u64>),
    /// A part of the machine can't be mapped.
    #[error("{0:#x?} can't be mapped: {1}")]
    Map(Range<u64>, aarch64_paging::MapError),
    /// The GIC's registers make no sense.
    #[error("interrupt controller: {0}")]
    Gic(#[from] GicError),
    /// The GIC has too few redistributors.
    #[error("{bytes:#x} bytes of GIC redistributors are too few for {cores} cores")]
    Redistributors {
        /// The size of the first region of redistributors, in bytes.
        bytes: u64,
        /// How many cores the board has.
        cores: usize,
    },
}

/// What the kernel gets of the machine.
#[derive(Debug)]
pub struct Machine {
    /// The board.
    pub board: MappedBoard,
    /// The memory above the heap.
    pub device_memory: DeviceMemory,
    /// The interrupt controller, as reset left it.
    pub gic: GicV3<'static>,
}

impl Machine {
    /// Reads the device tree, gives `heap` its memory, and replaces the entry code's address space by one that maps only what
    /// is there, each part as it is used.
    ///
    /// # Errors
    ///
    /// [`MachineError`]. The machine can't be started a second time then either.
    pub fn start(boot: Boot, heap: &Heap) -> Result<Self, MachineError> {
        let tree = find_tree(&boot)?;
        let at = tree.as_ptr() as u64;
        let mut board = Board::parse(tree).map_err(|error| MachineError::Tree(at, error))?;
        // QEMU's PCIe window for 64-bit BARs ends at 1 TiB, out of reach: the kernel does without.
        if let Some(pcie) = &mut board.pcie {
            pcie.windows.retain(|window| window.cpu.end <= AddressMap::REACH);
        }
        let tree = at..at + tree.len() as u64;
        let (heap_memory, device_memory) = lay_out_memory(&board, &tree)?;

        // SAFETY: the entry code has mapped it; it lies in the board's memory above the image and apart from the tree, so `Boot`
        // says that nobody uses it, and there is no second `Boot` to come by here with.
        unsafe { heap.start(heap_memory.clone()) };
        let board = MappedBoard::map(boot, board, &tree, &[heap_memory, device_memory.clone()])?;
        // SAFETY: `map` has mapped it as data, one to one. It lies above the heap and apart from the tree, as above.
        let device_memory = unsafe { DeviceMemory::new(device_memory) };
        Ok(Self { gic: gic(&board)?, board, device_memory })
    }
}

/// A board whose windows of registers are all mapped as devices, at their own addresses and for good.
#[derive(Clone, Debug)]
pub struct MappedBoard(Board);

impl MappedBoard {
    /// Maps the image, `tree`, `memory` and the windows of `board`, in place of what the entry code has mapped.
    fn map(_: Boot, board: Board, tree: &Range<u64>, memory: &[Range<u64>]) -> Result<Self, MachineError> {
        let mut map = AddressMap::empty();
        let mut add =
            |range: Range<u64>, kind| map.map(range.clone(), kind).map_err(|error| MachineError::Map(range, error));
        add(image::code(), Kind::Code)?;
        add(image::constants(), Kind::Constants)?;
        add(image::data(), Kind::Data)?;
        image::stacks_without_guards().try_for_each(|stack| add(stack, Kind::Data))?;
        memory.iter().try_for_each(|range| add(range.clone(), Kind::Data))?;
        add(tree.clone(), Kind::Constants)?;
        board.windows().try_for_each(|(_, window)| add(window.clone(), Kind::Device))?;
        // SAFETY: code, constants, data and stacks are mapped as they are used, `memory` as data. The `Boot`, used up here,
        // says that nothing else is in use.
        unsafe { map.activate() };
        Ok(Self(board))
    }

    /// The registers at `window`, or `None` if that is not all inside one of the board's windows, or does not start at a
    /// multiple of 8.
    pub fn registers(&self, window: &Range<u64>) -> Option<Mmio> {
        let is_inside = |(_, whole): (_, &Range<u64>)| whole.start <= window.start && window.end <= whole.end;
        if !window.start.is_multiple_of(8) || window.is_empty() || !self.windows().any(is_inside) {
            return None;
        }
        // SAFETY: inside a window of the board, each of which is mapped at its own address as a device, for good, and lies
        // apart from memory, as `Board` promises.
        Some(unsafe { Mmio::new(window.start as usize, (window.end - window.start) as usize) })
    }
}

impl Deref for MappedBoard {
    type Target = Board;

    fn deref(&self) -> &Board {
        &self.0
    }
}

/// The device tree that the entry code was given, or the one where QEMU puts it.
fn find_tree(boot: &Boot) -> Result<&'static [u8], MachineError> {
    let image = image::whole();
    let mut error = MachineError::Tree(boot.tree, device_tree::BoardError::NoTree { magic: 0, size: 0 });
    for address in [boot.tree, DEFAULT_TREE] {
        if !entry::MAPPED.contains(&address) || !address.is_multiple_of(8) || image.contains(&address) {
            continue;
        }
        // SAFETY: 8 bytes of memory that the entry code has mapped, and apart from the image, so that nobody writes them.
        let header = unsafe { *(address as *const [u8; device_tree::HEADER_SIZE]) };
        let end = if address < image.start { image.start } else { entry::MAPPED.end };
        match device_tree::size(header) {
            Ok(size) if size as u64 <= end - address => {
                // SAFETY: as above, up to `end`; and `lay_out_memory` never gives the tree out as free memory.
                return Ok(unsafe { core::slice::from_raw_parts(address as *const u8, size) });
            }
            Ok(_) => {}
            Err(no_tree) => error = MachineError::Tree(address, no_tree),
        }
    }
    Err(error)
}

/// The memory for the heap and, behind it, that for devices: what is left of the image's piece of memory above it.
fn lay_out_memory(board: &Board, tree: &Range<u64>) -> Result<(Range<u64>, Range<u64>), MachineError> {
    let image = image::whole();
    let around = board
        .memory
        .iter()
        .find(|memory| memory.start <= image.start && image.end + HEAP_BYTES < memory.end)
        .ok_or_else(|| MachineError::Memory(image.clone()))?;
    let heap = image.end..image.end + HEAP_BYTES;
    // What is reserved above the heap ends the memory for devices.
    let end = board
        .reserved
        .iter()
        .chain([tree])
        .filter(|reserved| reserved.end > heap.start)
        .map(|reserved| reserved.start & !0xfff)
        .fold(around.end.min(entry::MAPPED.end), u64::min);
    if end <= heap.end { Err(MachineError::Memory(image)) } else { Ok((heap.clone(), heap.end..end)) }
}

/// The board's interrupt controller, once.
fn gic(board: &MappedBoard) -> Result<GicV3<'static>, MachineError> {
    let window = board.gic.redistributors.first().cloned().unwrap_or_default();
    let (bytes, cores) = (window.end - window.start, board.cores.len());
    if bytes / REDISTRIBUTOR_BYTES < cores as u64 {
        return Err(MachineError::Redistributors { bytes, cores });
    }
    let (Some(distributor), Some(redistributors)) =
        (NonNull::new(board.gic.distributor.start as *mut _), NonNull::new(window.start as *mut _))
    else {
        return Err(GicError::InvalidRedistributorIndex(0).into());
    };
    // SAFETY: the tree says that a distributor is there; it is mapped as a device, and `Machine::start` comes by here once.
    let distributor = unsafe { UniqueMmioPointer::new(distributor) };
    // SAFETY: as above, for the redistributors, of which the window has one for each core.
    Ok(unsafe { GicV3::new(distributor, redistributors, cores)? })
}
