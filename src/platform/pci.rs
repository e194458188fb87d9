//! The functions on the PCIe root bus: found, their memory BARs placed.
//!
//! Nothing has placed them before: QEMU starts a kernel without firmware. Bridges are left alone, so what is behind them
//! is not found. I/O BARs stay where they are, disabled.

use core::ops::Range;

use heapless::Vec;
use virtio_drivers::transport::pci::bus::{
    BarInfo, Command, ConfigurationAccess, DeviceFunction, HeaderType, MemoryBarType, PciRoot,
};
#[cfg(target_os = "none")]
use virtio_drivers::{
    Hal,
    transport::pci::{PciTransport, VirtioPciError},
};

use super::board::{Pcie, PcieSpace, PcieWindow};

/// The most functions.
pub const MAX_FUNCTIONS: usize = 32;

/// BARs are placed so that no two share a page.
const PAGE_SIZE: u64 = 0x1000;

/// Why the functions can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PciError {
    /// A BAR is of no known kind, or its size is none.
    #[error("PCI function {function}: BAR {bar} is malformed")]
    Bar {
        /// Which function.
        function: DeviceFunction,
        /// Which BAR.
        bar: usize,
    },
    /// No window has room for a BAR.
    #[error("PCI function {function}: no room for the {size:#x} bytes of BAR {bar}")]
    NoRoom {
        /// Which function.
        function: DeviceFunction,
        /// Which BAR.
        bar: usize,
        /// Its size in bytes.
        size: u64,
    },
    /// There are more functions than [`MAX_FUNCTIONS`].
    #[error("more than {MAX_FUNCTIONS} PCI functions")]
    TooMany,
}

/// A function, its memory BARs enabled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Where it is.
    pub address: DeviceFunction,
    /// Who made it.
    pub vendor: u16,
    /// What the vendor calls it.
    pub device: u16,
    /// Where the CPU reaches its registers, by BAR. A BAR of 64 bits counts as two, the second being `None`.
    pub bars: [Option<Range<u64>>; 6],
}

impl Function {
    /// The requester ID: bus in 15:8, device in 7:3, function in 2:0.
    pub fn requester(&self) -> u16 {
        let DeviceFunction { bus, device, function } = self.address;
        u16::from(bus) << 8 | u16::from(device) << 3 | u16::from(function)
    }
}

/// The root bus.
#[derive(Debug)]
pub struct RootBus<C: ConfigurationAccess> {
    root: PciRoot<C>,
    functions: Vec<Function, MAX_FUNCTIONS>,
}

impl<C: ConfigurationAccess> RootBus<C> {
    /// Finds the functions on the first bus of `pcie` and places their BARs. None of them may do DMA yet.
    ///
    /// # Errors
    ///
    /// [`PciError`] if a function is malformed or something does not fit.
    pub fn bring_up(access: C, pcie: &Pcie) -> Result<Self, PciError> {
        let mut bus = Self { root: PciRoot::new(access), functions: Vec::new() };
        let mut windows = pcie.windows.iter().map(Free::of).collect();
        for (address, info) in bus.root.enumerate_bus(pcie.first_bus) {
            if info.header_type != HeaderType::Standard {
                continue;
            }
            bus.root.set_command(address, Command::empty());
            let bars = place_bars(&mut bus.root, address, &mut windows)?;
            bus.root.set_command(address, Command::MEMORY_SPACE);
            let function = Function { address, vendor: info.vendor_id, device: info.device_id, bars };
            bus.functions.push(function).map_err(|_| PciError::TooMany)?;
        }
        Ok(bus)
    }

    /// The functions, by rising address.
    pub fn functions(&self) -> &[Function] {
        &self.functions
    }

    /// The first function that `vendor` calls `device`.
    pub fn find(&self, vendor: u16, device: u16) -> Option<&Function> {
        self.functions.iter().find(|function| (function.vendor, function.device) == (vendor, device))
    }

    /// Lets `function` do DMA, which includes its MSIs, or no longer.
    pub fn allow_dma(&mut self, function: DeviceFunction, allowed: bool) {
        let mut command = Command::MEMORY_SPACE;
        command.set(Command::BUS_MASTER, allowed);
        self.root.set_command(function, command);
    }

    /// The registers of the virtio device `function`.
    #[cfg(target_os = "none")]
    pub(super) fn virtio<H: Hal>(&mut self, function: &Function) -> Result<PciTransport, VirtioPciError> {
        PciTransport::new::<H, C>(&mut self.root, function.address)
    }
}

/// What is left of a window.
struct Free<'a> {
    window: &'a PcieWindow,
    taken: u64,
}

impl<'a> Free<'a> {
    const fn of(window: &'a PcieWindow) -> Self {
        Self { window, taken: 0 }
    }

    /// Takes an aligned piece: where it is for PCI, and where for the CPU.
    fn take(&mut self, size: u64) -> Option<(u64, Range<u64>)> {
        let Self { window: PcieWindow { pci, cpu, .. }, taken } = self;
        let start = pci.checked_add(*taken)?.checked_next_multiple_of(size)?;
        let end = (start - *pci).checked_add(size).filter(|end| *end <= cpu.end - cpu.start)?;
        *taken = end;
        Some((start, cpu.start + end - size..cpu.start + end))
    }
}

type Windows<'a> = Vec<Free<'a>, { super::board::MAX_PCIE_WINDOWS }>;

fn place_bars<C: ConfigurationAccess>(
    root: &mut PciRoot<C>,
    function: DeviceFunction,
    windows: &mut Windows<'_>,
) -> Result<[Option<Range<u64>>; 6], PciError> {
    let mut places = [const { None }; 6];
    let mut bars = places.iter_mut().enumerate();
    while let Some((bar, place)) = bars.next() {
        let malformed = PciError::Bar { function, bar };
        let info = root.bar_info(function, bar as u8).map_err(|_| malformed)?;
        let Some(BarInfo::Memory { address_type, size, .. }) = info else { continue };
        let wide = match address_type {
            MemoryBarType::Width32 => false,
            MemoryBarType::Width64 => true,
            MemoryBarType::Below1MiB => return Err(malformed),
        };
        if !size.is_power_of_two() {
            return Err(malformed);
        }
        // A BAR of 64 bits may lie low too, and goes high only when the low window is full.
        let spaces = if wide { &[PcieSpace::Memory32, PcieSpace::Memory64][..] } else { &[PcieSpace::Memory32] };
        let mut take = |space| {
            let mut windows = windows.iter_mut().filter(|free| free.window.space == space);
            windows.find_map(|free| free.take(size.max(PAGE_SIZE)))
        };
        let (pci, cpu) =
            spaces.iter().find_map(|space| take(*space)).ok_or(PciError::NoRoom { function, bar, size })?;
        if wide {
            root.set_bar_64(function, bar as u8, pci);
            bars.next();
        } else {
            root.set_bar_32(function, bar as u8, pci as u32);
        }
        *place = Some(cpu.start..cpu.start + size);
    }
    Ok(places)
}

#[cfg(target_os = "none")]
pub use ecam::Ecam;

#[cfg(target_os = "none")]
mod ecam {
    use virtio_drivers::transport::pci::bus::{Cam, ConfigurationAccess, DeviceFunction};

    use crate::arch::mmio::Mmio;

    /// Configuration space in memory, of which the window starts at the first bus.
    #[derive(Debug)]
    pub struct Ecam {
        /// All of it.
        pub window: Mmio,
        /// The number of the first bus.
        pub first_bus: u8,
    }

    impl Ecam {
        /// Where the function's register is. Past the window's end there is no function.
        fn offset(&self, function: DeviceFunction, register: u8) -> Option<usize> {
            let bus = function.bus.checked_sub(self.first_bus)?;
            let offset = Cam::Ecam.cam_offset(DeviceFunction { bus, ..function }, register) as usize;
            (offset < self.window.size()).then_some(offset)
        }
    }

    impl ConfigurationAccess for Ecam {
        fn read_word(&self, function: DeviceFunction, register: u8) -> u32 {
            self.offset(function, register).map_or(u32::MAX, |offset| self.window.read32(offset))
        }

        fn write_word(&mut self, function: DeviceFunction, register: u8, value: u32) {
            if let Some(offset) = self.offset(function, register) {
                self.window.write32(offset, value);
            }
        }

        unsafe fn unsafe_clone(&self) -> Self {
            Self { window: self.window.clone(), first_bus: self.first_bus }
        }
    }
}

#[cfg(test)]
mod tests;
