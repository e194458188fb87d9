//! The commands that the kernel gives an ITS (IHI 0069, 5.3).

use crate::smmuv3::PhysAddr;

/// The size of a command, in bytes.
pub const BYTES: usize = 32;

const VALID: u64 = 1 << 63;

/// A redistributor as commands name it: a number of the page of its registers, or of its core, as GITS_TYPER.PTA has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target(pub u64);

/// A command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// MAPC: interrupts of a collection go to this core.
    MapCollection {
        /// The collection.
        collection: u16,
        /// The core.
        target: Target,
    },
    /// MAPD: a device has a table of events.
    MapDevice {
        /// The DeviceID.
        device: u32,
        /// Its table, at a multiple of 256.
        table: PhysAddr,
        /// How many bits its event numbers have, 1 to 32.
        event_bits: u8,
    },
    /// MAPTI: an event of a device is an interrupt.
    MapEvent {
        /// The DeviceID.
        device: u32,
        /// The event.
        event: u32,
        /// The LPI.
        intid: u32,
        /// Its collection.
        collection: u16,
    },
    /// INV: the configuration of an event's LPI has changed in memory.
    Invalidate {
        /// The DeviceID.
        device: u32,
        /// The event.
        event: u32,
    },
    /// SYNC: what came before has taken effect at this core.
    Sync {
        /// The core.
        target: Target,
    },
}

impl Command {
    /// The words of the command in the queue.
    pub const fn encode(self) -> [u64; 4] {
        match self {
            Self::MapCollection { collection, target } => [0x09, 0, VALID | target.0 << 16 | collection as u64, 0],
            Self::MapDevice { device, table, event_bits } => {
                [(device as u64) << 32 | 0x08, event_bits.saturating_sub(1) as u64, VALID | table.0, 0]
            }
            Self::MapEvent { device, event, intid, collection } => {
                [(device as u64) << 32 | 0x0a, (intid as u64) << 32 | event as u64, collection as u64, 0]
            }
            Self::Invalidate { device, event } => [(device as u64) << 32 | 0x0c, event as u64, 0, 0],
            Self::Sync { target } => [0x05, 0, target.0 << 16, 0],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Words by hand, from the figures of IHI 0069, 5.3.
    #[test]
    fn commands_have_the_words_of_the_architecture() {
        let target = Target(0x80a_1234);
        assert_eq!(Command::MapCollection { collection: 0xabcd, target }.encode(), [0x09, 0, 0x8000_080a_1234_abcd, 0]);
        assert_eq!(Command::Sync { target }.encode(), [0x05, 0, 0x0000_080a_1234_0000, 0]);
        let table = PhysAddr(0x9_4321_ff00);
        assert_eq!(
            Command::MapDevice { device: 0x1234_5678, table, event_bits: 5 }.encode(),
            [0x1234_5678_0000_0008, 4, 0x8000_0009_4321_ff00, 0]
        );
        assert_eq!(
            Command::MapEvent { device: 0x1234_5678, event: 0x9abc_def0, intid: 8193, collection: 3 }.encode(),
            [0x1234_5678_0000_000a, 0x0000_2001_9abc_def0, 3, 0]
        );
        assert_eq!(
            Command::Invalidate { device: 0x1234_5678, event: 0x9abc_def0 }.encode(),
            [0x1234_5678_0000_000c, 0x9abc_def0, 0, 0]
        );
    }
}
