//! QEMU's `edu` as a device that writes when it is told to: by a message, four bytes, at once. Its DMA takes 100 ms of virtual time.

use alloc::format;
use alloc::vec::Vec;

use smmu_iopf::arch::mmio::Mmio;
use smmu_iopf::kernel::Kernel;
use smmu_iopf::platform::board::Pcie;
use smmu_iopf::platform::edu::{self, Edu};
use smmu_iopf::platform::pci::{Ecam, RootBus};
use virtio_drivers::transport::pci::bus::{ConfigurationAccess, DeviceFunction};

use crate::harness::Failure;

/// The board's PCIe.
pub(crate) fn pcie(kernel: &Kernel) -> Result<&Pcie, Failure> {
    kernel.board.pcie.as_ref().ok_or(Failure::NotHere("PCIe"))
}

pub(crate) fn ecam(kernel: &Kernel, pcie: &Pcie) -> Result<Ecam, Failure> {
    let window = kernel.board.registers(&pcie.ecam).ok_or("configuration space is not mapped")?;
    Ok(Ecam { window, first_bus: pcie.first_bus })
}

/// The PCI devices `vendor`:`device`, let access memory: themselves, their registers and their StreamIDs.
pub(crate) fn find(
    kernel: &Kernel,
    pcie: &Pcie,
    bus: &mut RootBus<Ecam>,
    [vendor, device]: [u16; 2],
) -> Result<Vec<(DeviceFunction, Mmio, u32)>, Failure> {
    let all = bus.functions().iter().filter(|function| (function.vendor, function.device) == (vendor, device));
    let all: Vec<_> = all.cloned().collect();
    let each = |function: smmu_iopf::platform::pci::Function| {
        let bar = function.bars[0].as_ref().ok_or("the device has no BAR 0")?;
        let registers = kernel.board.registers(bar).ok_or("its BAR 0 is not mapped")?;
        bus.allow_dma(function.address, true);
        let (_, stream) = pcie.stream(function.requester()).ok_or("it has no StreamID")?;
        Ok((function.address, registers, stream.0))
    };
    all.into_iter().map(each).collect()
}

pub(crate) struct Device {
    pub(crate) dma: Edu,
    configuration: Ecam,
    function: DeviceFunction,
    /// Where its MSI capability is.
    capability: u8,
    registers: Mmio,
    pub(crate) stream: u32,
}

impl Device {
    const MSI: u32 = 5;
    pub(crate) const RAISE: usize = 0x60;
    pub(crate) const ACKNOWLEDGE: usize = 0x64;

    /// Every `edu` there is, by rising StreamID.
    pub(crate) fn all(kernel: &Kernel, pcie: &Pcie, bus: &mut RootBus<Ecam>) -> Result<Vec<Self>, Failure> {
        let found = find(kernel, pcie, bus, [edu::VENDOR, edu::DEVICE])?;
        found
            .into_iter()
            .map(|(function, registers, stream)| {
                let dma = Edu::new(registers.clone())?;
                let configuration = ecam(kernel, pcie)?;
                let mut capability = configuration.read_word(function, 0x34) as u8;
                for _ in 0..48 {
                    let header = configuration.read_word(function, capability);
                    if header & 0xff == Self::MSI {
                        break;
                    }
                    capability = (header >> 8) as u8 & 0xfc;
                }
                let mut device = Self { dma, configuration, function, capability, registers, stream };
                let control = device.configuration.read_word(function, capability);
                if control & 0xff != Self::MSI || control >> 23 & 1 == 0 {
                    return Err(format!("edu has no MSI capability with 64-bit addresses: {control:#x}").into());
                }
                device.configure(0, control | 1 << 16);
                Ok(device)
            })
            .collect()
    }

    fn configure(&mut self, offset: u8, value: u32) {
        self.configuration.write_word(self.function, self.capability + offset, value);
    }

    /// Writes `value`, and zeros above it, to the four bytes at `address`, as the SMMU translates it.
    pub(crate) fn write(&mut self, address: u64, value: u16) {
        self.configure(4, address as u32);
        self.configure(8, (address >> 32) as u32);
        self.configure(12, value.into());
        self.registers.write32(Self::RAISE, 1);
        self.registers.write32(Self::ACKNOWLEDGE, 1);
    }
}
