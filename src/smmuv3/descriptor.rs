//! Translation table descriptors: VMSAv8-64, stage 1, 4 KiB granule (Arm DDI 0487, D8.3).

use super::bits::Field;
use super::{Access, PhysAddr, Shareability};

/// The entries of a table.
pub const ENTRIES: usize = 512;

/// The bytes of a table and of the smallest page.
pub const PAGE_SIZE: u64 = 4096;

const VALID: Field = Field::bit(0);
/// A table at levels 0 to 2, a page at level 3; else a block.
const TABLE_OR_PAGE: Field = Field::bit(1);
const ATTRIBUTES: Field = Field::new(4, 2);
const UNPRIVILEGED: Field = Field::bit(6);
const READ_ONLY: Field = Field::bit(7);
const SHAREABILITY: Field = Field::new(9, 8);
const ACCESSED: Field = Field::bit(10);
const NOT_GLOBAL: Field = Field::bit(11);
const ADDRESS: Field = Field::new(47, 12);
const PRIVILEGED_EXECUTE_NEVER: Field = Field::bit(53);
const UNPRIVILEGED_EXECUTE_NEVER: Field = Field::bit(54);
const TABLE_PRIVILEGED_EXECUTE_NEVER: Field = Field::bit(59);
const TABLE_UNPRIVILEGED_EXECUTE_NEVER: Field = Field::bit(60);
const TABLE_PRIVILEGED_ONLY: Field = Field::bit(61);
const TABLE_READ_ONLY: Field = Field::bit(62);

/// A level of the walk. A walk goes from a lower to a higher number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Level {
    /// Entries of 512 GiB, tables only.
    Zero = 0,
    /// Entries of 1 GiB.
    One = 1,
    /// Entries of 2 MiB.
    Two = 2,
    /// Entries of 4 KiB, pages only.
    Three = 3,
}

impl Level {
    /// log2 of the bytes that an entry maps.
    pub const fn shift(self) -> u32 {
        match self {
            Self::Zero => 39,
            Self::One => 30,
            Self::Two => 21,
            Self::Three => 12,
        }
    }

    /// The level that tables of this level lead to.
    pub const fn next(self) -> Option<Self> {
        match self {
            Self::Zero => Some(Self::One),
            Self::One => Some(Self::Two),
            Self::Two => Some(Self::Three),
            Self::Three => None,
        }
    }

    /// The index of the entry for `address` in a table of this level, below [`ENTRIES`].
    pub const fn index(self, address: u64) -> usize {
        ((address >> self.shift()) & (ENTRIES as u64 - 1)) as usize
    }
}

/// The size of an address space, as `TxSZ` says: 2^(64 - `tsz`) addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InputSize(u8);

impl InputSize {
    /// The size for this `TxSZ`, 16 to 48; `None` for another.
    pub const fn new(tsz: u8) -> Option<Self> {
        if tsz >= 16 && tsz <= 48 { Some(Self(tsz)) } else { None }
    }

    /// The size of an address in bits, 16 to 48.
    pub const fn bits(self) -> u32 {
        64 - self.0 as u32
    }

    /// `TxSZ`.
    pub const fn tsz(self) -> u8 {
        self.0
    }

    /// Whether the address belongs to the half that begins at 0.
    pub const fn contains(self, address: u64) -> bool {
        address >> self.bits() == 0
    }

    /// The level of the first table.
    pub const fn start_level(self) -> Level {
        match self.bits() {
            40.. => Level::Zero,
            31..=39 => Level::One,
            22..=30 => Level::Two,
            _ => Level::Three,
        }
    }

    /// The entries of the first table, 2 to 512.
    pub const fn start_entries(self) -> usize {
        1 << (self.bits() - self.start_level().shift())
    }

    /// The first table's address when `TTBx` holds `base`: aligned to its size. At least 64 bytes would be with 52-bit
    /// output addresses alone, which tables with pages of 4 KiB do not have (5.4, TTB0).
    pub const fn start_table(self, base: PhysAddr) -> PhysAddr {
        let size = self.start_entries() as u64 * 8;
        PhysAddr(base.0 & !(size - 1))
    }
}

/// An entry of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Descriptor {
    /// Nothing is mapped: a translation fault.
    Invalid,
    /// Leads to a table of the next level.
    Table(TableDescriptor),
    /// Maps a block (levels 1 and 2) or a page (level 3).
    Leaf(PageDescriptor),
}

/// Leads to a table, and limits what everything behind it allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableDescriptor {
    /// The table, a multiple of 4096 below 2^48.
    pub table: PhysAddr,
    /// Nothing behind it can be written (`APTable[1]`).
    pub read_only: bool,
    /// Nothing behind it can be read or written unprivileged (`APTable[0]`).
    pub privileged_only: bool,
    /// Nothing behind it can be executed privileged (`PXNTable`).
    pub privileged_execute_never: bool,
    /// Nothing behind it can be executed unprivileged (`UXNTable`).
    pub unprivileged_execute_never: bool,
}

/// Maps a page or a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageDescriptor {
    /// What it maps to, a multiple of the page's or block's size below 2^48.
    pub output: PhysAddr,
    /// Which of the eight attributes in MAIR the memory has, 0 to 7 (`AttrIndx`).
    pub attributes: u8,
    /// Who else sees accesses in order (`SH`).
    pub shareability: Shareability,
    /// It has been accessed; if not, an access faults (`AF`).
    pub accessed: bool,
    /// It belongs to the ASID alone (`nG`).
    pub not_global: bool,
    /// It can be read, and written unless `read_only`, unprivileged (`AP[1]`).
    pub unprivileged: bool,
    /// It cannot be written (`AP[2]`).
    pub read_only: bool,
    /// It cannot be executed privileged (`PXN`).
    pub privileged_execute_never: bool,
    /// It cannot be executed unprivileged (`UXN`).
    pub unprivileged_execute_never: bool,
}

impl Descriptor {
    /// The word of [`Descriptor::Invalid`].
    pub const INVALID: u64 = 0;

    /// The descriptor in an entry of a table of `level`. What the architecture reserves there is invalid.
    pub const fn decode(word: u64, level: Level) -> Self {
        match (VALID.is_set(word), TABLE_OR_PAGE.is_set(word), level) {
            (true, true, Level::Three) | (true, false, Level::One | Level::Two) => {
                Self::Leaf(PageDescriptor::decode(word, level))
            }
            (true, true, _) => Self::Table(TableDescriptor::decode(word)),
            _ => Self::Invalid,
        }
    }
}

impl TableDescriptor {
    /// Leads to `table` and limits nothing.
    pub const fn new(table: PhysAddr) -> Self {
        Self {
            table,
            read_only: false,
            privileged_only: false,
            privileged_execute_never: false,
            unprivileged_execute_never: false,
        }
    }

    /// The entry.
    pub const fn encode(&self) -> u64 {
        VALID.mask()
            | TABLE_OR_PAGE.mask()
            | ADDRESS.address(self.table.0)
            | TABLE_READ_ONLY.flag(self.read_only)
            | TABLE_PRIVILEGED_ONLY.flag(self.privileged_only)
            | TABLE_PRIVILEGED_EXECUTE_NEVER.flag(self.privileged_execute_never)
            | TABLE_UNPRIVILEGED_EXECUTE_NEVER.flag(self.unprivileged_execute_never)
    }

    const fn decode(word: u64) -> Self {
        Self {
            table: PhysAddr(ADDRESS.address(word)),
            read_only: TABLE_READ_ONLY.is_set(word),
            privileged_only: TABLE_PRIVILEGED_ONLY.is_set(word),
            privileged_execute_never: TABLE_PRIVILEGED_EXECUTE_NEVER.is_set(word),
            unprivileged_execute_never: TABLE_UNPRIVILEGED_EXECUTE_NEVER.is_set(word),
        }
    }
}

impl PageDescriptor {
    /// The entry for a table of `level`; at level 0, where nothing but tables can be, an invalid one.
    pub const fn encode(&self, level: Level) -> u64 {
        let kind = match level {
            Level::Zero => return Descriptor::INVALID,
            Level::One | Level::Two => VALID.mask(),
            Level::Three => VALID.mask() | TABLE_OR_PAGE.mask(),
        };
        kind | output(level).address(self.output.0)
            | ATTRIBUTES.put(self.attributes as u64)
            | SHAREABILITY.put(self.shareability as u64)
            | ACCESSED.flag(self.accessed)
            | NOT_GLOBAL.flag(self.not_global)
            | UNPRIVILEGED.flag(self.unprivileged)
            | READ_ONLY.flag(self.read_only)
            | PRIVILEGED_EXECUTE_NEVER.flag(self.privileged_execute_never)
            | UNPRIVILEGED_EXECUTE_NEVER.flag(self.unprivileged_execute_never)
    }

    const fn decode(word: u64, level: Level) -> Self {
        Self {
            output: PhysAddr(output(level).address(word)),
            attributes: ATTRIBUTES.get(word) as u8,
            shareability: Shareability::from_low_bits(SHAREABILITY.get(word)),
            accessed: ACCESSED.is_set(word),
            not_global: NOT_GLOBAL.is_set(word),
            unprivileged: UNPRIVILEGED.is_set(word),
            read_only: READ_ONLY.is_set(word),
            privileged_execute_never: PRIVILEGED_EXECUTE_NEVER.is_set(word),
            unprivileged_execute_never: UNPRIVILEGED_EXECUTE_NEVER.is_set(word),
        }
    }

    /// What is left of the permissions behind `table`.
    pub const fn limited_by(self, table: &TableDescriptor) -> Self {
        Self {
            unprivileged: self.unprivileged && !table.privileged_only,
            read_only: self.read_only || table.read_only,
            privileged_execute_never: self.privileged_execute_never || table.privileged_execute_never,
            unprivileged_execute_never: self.unprivileged_execute_never || table.unprivileged_execute_never,
            ..self
        }
    }

    /// Whether the permissions allow `access` in the EL1&0 regime. The Access flag is not looked at.
    pub const fn permits(&self, access: Access) -> bool {
        let read = access.privileged || self.unprivileged;
        let write = read && !self.read_only;
        let execute = if access.privileged {
            // What EL0 can write, EL1 can't execute.
            let unprivileged_write = self.unprivileged && !self.read_only;
            !self.privileged_execute_never && !unprivileged_write
        } else {
            !self.unprivileged_execute_never
        };
        (read || !access.read) && (write || !access.write) && (execute || !access.execute)
    }
}

/// The output address in an entry of `level`.
const fn output(level: Level) -> Field {
    Field::new(47, level.shift())
}

#[cfg(test)]
mod tests;
