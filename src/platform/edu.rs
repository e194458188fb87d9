//! QEMU's `edu` device: a 4 KiB buffer and a DMA engine between it and memory, behind QEMU's SMMU.
//!
//! What the SMMU blocks is silent here: a blocked read gives zeros, a blocked write is dropped. A DMA needs bus-mastering
//! ([`allow_dma`](super::pci::RootBus::allow_dma)) and `dma_mask` wide enough for the address, or it goes astray.

use embedded_hal::delay::DelayNs;

use crate::arch::mmio::Mmio;
use crate::sync::wait;

/// The PCI vendor ID.
pub const VENDOR: u16 = 0x1234;
/// The PCI device ID.
pub const DEVICE: u16 = 0x11e8;

/// The most bytes that one DMA moves. The buffer has 4096, but QEMU 7.2 ends itself when a DMA reaches its last one.
pub const MAX_DMA: u32 = 2048;

const IDENTIFICATION: usize = 0x00;
const DMA_SOURCE: usize = 0x80;
const DMA_DESTINATION: usize = 0x88;
const DMA_COUNT: usize = 0x90;
const DMA_COMMAND: usize = 0x98;
const REGISTERS_SIZE: usize = 0xa0;

const RUN: u64 = 1 << 0;
const TO_MEMORY: u64 = 1 << 1;

/// Where the DMA engine sees the buffer.
const BUFFER: u64 = 0x4_0000;

/// A DMA starts 100 ms of virtual time after it is asked for.
const LIMIT_US: u32 = 2_000_000;

/// Why the device can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EduError {
    /// It is no `edu` device.
    #[error("no edu device: a window of {size:#x} bytes, identification {identification:#010x}")]
    NotEdu {
        /// The size of its window in bytes.
        size: usize,
        /// What its identification register says, 0 if the window is too small.
        identification: u32,
    },
    /// More was asked for than one DMA can move.
    #[error("a DMA of {bytes} bytes is not one of 1 to {MAX_DMA}")]
    Length {
        /// How much.
        bytes: u32,
    },
    /// A DMA did not end.
    #[error("edu: DMA command register {command:#x} after {waited_us} us, expected bit 0 clear")]
    Timeout {
        /// What the command register says.
        command: u64,
        /// How long was waited, in microseconds.
        waited_us: u32,
    },
}

/// An `edu` device, polled.
#[derive(Debug)]
pub struct Edu {
    registers: Mmio,
}

impl Edu {
    /// The device whose BAR 0 is `registers`.
    ///
    /// # Errors
    ///
    /// [`EduError::NotEdu`] if it is something else.
    pub fn new(registers: Mmio) -> Result<Self, EduError> {
        let size = registers.size();
        let identification = if size < REGISTERS_SIZE { 0 } else { registers.read32(IDENTIFICATION) };
        // The upper half is a version, the low byte a signature.
        if identification & 0xff != 0xed {
            return Err(EduError::NotEdu { size, identification });
        }
        Ok(Self { registers })
    }

    /// Reads `bytes` bytes at `from`, as the SMMU translates it, into the start of the buffer.
    ///
    /// # Errors
    ///
    /// [`EduError`] if that is too much, or the device does not come to an end. A blocked DMA is no error.
    pub fn read(&mut self, delay: &mut impl DelayNs, from: u64, bytes: u32) -> Result<(), EduError> {
        self.dma(delay, [from, BUFFER], bytes, RUN)
    }

    /// Writes the first `bytes` bytes of the buffer to `to`, as the SMMU translates it.
    ///
    /// # Errors
    ///
    /// As [`Edu::read`].
    pub fn write(&mut self, delay: &mut impl DelayNs, to: u64, bytes: u32) -> Result<(), EduError> {
        self.dma(delay, [BUFFER, to], bytes, RUN | TO_MEMORY)
    }

    /// Copies `bytes` bytes, any number, from `from` to `to`, piece by piece.
    ///
    /// # Errors
    ///
    /// As [`Edu::read`].
    pub fn copy(&mut self, delay: &mut impl DelayNs, from: u64, to: u64, bytes: u32) -> Result<(), EduError> {
        for done in (0..bytes).step_by(MAX_DMA as usize) {
            let piece = MAX_DMA.min(bytes - done);
            self.read(delay, from.wrapping_add(done.into()), piece)?;
            self.write(delay, to.wrapping_add(done.into()), piece)?;
        }
        Ok(())
    }

    fn dma(
        &mut self,
        delay: &mut impl DelayNs,
        [source, destination]: [u64; 2],
        bytes: u32,
        command: u64,
    ) -> Result<(), EduError> {
        if !(1..=MAX_DMA).contains(&bytes) {
            return Err(EduError::Length { bytes });
        }
        self.registers.write64(DMA_SOURCE, source);
        self.registers.write64(DMA_DESTINATION, destination);
        self.registers.write64(DMA_COUNT, bytes.into());
        self.registers.write64(DMA_COMMAND, command);
        wait::until(delay, LIMIT_US, || match self.registers.read64(DMA_COMMAND) {
            command if command & RUN == 0 => Ok(()),
            command => Err(command),
        })
        .map_err(|expired| EduError::Timeout { command: expired.last, waited_us: expired.waited_us })
    }
}
