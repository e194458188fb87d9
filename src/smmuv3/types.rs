//! Identifiers and small values that several layouts share.

use core::fmt;

/// A StreamID: which device (or function of it) a transaction came from. Up to 32 bits wide, `IDR1.SIDSIZE` says how
/// many are used (3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u32);

/// A SubstreamID, equivalent to a PCIe PASID: which address space of a stream. 20 bits (3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubstreamId(u32);

impl SubstreamId {
    /// The number of SubstreamIDs, 2^20.
    pub const COUNT: u32 = 1 << 20;

    /// `value` as a SubstreamID, or `None` if it has more than 20 bits.
    pub const fn new(value: u32) -> Option<Self> {
        if value < Self::COUNT { Some(Self(value)) } else { None }
    }

    /// The low 20 bits of `value`.
    pub const fn from_low_bits(value: u64) -> Self {
        Self((value & (Self::COUNT as u64 - 1)) as u32)
    }

    /// The number, below [`SubstreamId::COUNT`].
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// A stall tag: with the StreamID it names one stalled transaction (3.12.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stag(pub u16);

/// A page request group index: with the StreamID it names one page request group. 9 bits (8.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PrgIndex(u16);

impl PrgIndex {
    /// The number of indices of a stream, 2^9.
    pub const COUNT: u16 = 1 << 9;

    /// `value` as an index, or `None` if it has more than 9 bits.
    pub const fn new(value: u16) -> Option<Self> {
        if value < Self::COUNT { Some(Self(value)) } else { None }
    }

    /// The low 9 bits of `value`.
    pub const fn from_low_bits(value: u64) -> Self {
        Self((value & (Self::COUNT as u64 - 1)) as u16)
    }

    /// The number, below [`PrgIndex::COUNT`].
    pub const fn get(self) -> u16 {
        self.0
    }
}

/// An address space identifier, tagging stage 1 translations (3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Asid(pub u16);

/// A virtual machine identifier, tagging stage 2 translations (3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vmid(pub u16);

/// A physical address in bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PhysAddr(pub u64);

impl fmt::Debug for PhysAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PhysAddr({:#x})", self.0)
    }
}

/// What an access wants to do. An access that is neither read nor write nor execute asks for translation only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Access {
    /// Reads data.
    pub read: bool,
    /// Writes data.
    pub write: bool,
    /// Fetches instructions.
    pub execute: bool,
    /// Runs privileged.
    pub privileged: bool,
}

impl Access {
    /// An unprivileged data read.
    pub const READ: Self = Self { read: true, write: false, execute: false, privileged: false };
    /// An unprivileged data write.
    pub const WRITE: Self = Self { read: false, write: true, execute: false, privileged: false };
}

/// How a page fault is answered. Numbered as `CMD_PRI_RESP.Resp` (4.5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PageResponse {
    /// ResponseFailure: paging has failed for the whole function, which then stops using PRI. Terminates a stall.
    Failure = 0,
    /// InvalidRequest: this access is refused. Terminates a stall.
    Invalid = 1,
    /// Every page asked for is there: the device tries again.
    Success = 2,
}

/// A translation granule. How it is coded depends on the structure, so each has its own coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Granule {
    /// 4 KiB.
    Size4K,
    /// 16 KiB.
    Size16K,
    /// 64 KiB.
    Size64K,
}

impl Granule {
    /// log2 of its size in bytes.
    pub const fn shift(self) -> u32 {
        match self {
            Self::Size4K => 12,
            Self::Size16K => 14,
            Self::Size64K => 16,
        }
    }
}

/// With which observers an access is coherent. Numbered as every two-bit shareability field is; 1 is reserved there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Shareability {
    /// None.
    #[default]
    NonShareable = 0,
    /// The outer shareable domain.
    OuterShareable = 2,
    /// The inner shareable domain.
    InnerShareable = 3,
}

impl Shareability {
    /// The low two bits of `value`, the reserved 1 as non-shareable.
    pub const fn from_low_bits(value: u64) -> Self {
        match value & 3 {
            2 => Self::OuterShareable,
            3 => Self::InnerShareable,
            _ => Self::NonShareable,
        }
    }
}

/// A size of output or intermediate addresses. Numbered as `IDR5.OAS`, `CD.IPS` and `STE.S2PS` (6.3.6, 5.4, 5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum AddressSize {
    /// 32 bits.
    Bits32 = 0,
    /// 36 bits.
    Bits36 = 1,
    /// 40 bits.
    Bits40 = 2,
    /// 42 bits.
    Bits42 = 3,
    /// 44 bits.
    Bits44 = 4,
    /// 48 bits.
    Bits48 = 5,
    /// 52 bits.
    Bits52 = 6,
    /// 56 bits.
    Bits56 = 7,
}

impl AddressSize {
    /// The size that the low three bits of `value` code.
    pub const fn from_low_bits(value: u64) -> Self {
        match value & 7 {
            0 => Self::Bits32,
            1 => Self::Bits36,
            2 => Self::Bits40,
            3 => Self::Bits42,
            4 => Self::Bits44,
            5 => Self::Bits48,
            6 => Self::Bits52,
            _ => Self::Bits56,
        }
    }

    /// The number of bits.
    pub const fn bits(self) -> u8 {
        match self {
            Self::Bits32 => 32,
            Self::Bits36 => 36,
            Self::Bits40 => 40,
            Self::Bits42 => 42,
            Self::Bits44 => 44,
            Self::Bits48 => 48,
            Self::Bits52 => 52,
            Self::Bits56 => 56,
        }
    }
}

/// Cacheability of the SMMU's own reads of a table. Numbered as every two-bit field of STE and CD for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Cacheability {
    /// Not cached.
    #[default]
    NonCacheable = 0,
    /// Write-back, allocating.
    WriteBack = 1,
    /// Write-through, allocating on reads.
    WriteThrough = 2,
    /// Write-back, with fewer allocation hints.
    WriteBackNoAllocate = 3,
}

impl Cacheability {
    /// The cacheability that the low two bits of `value` code.
    pub const fn from_low_bits(value: u64) -> Self {
        match value & 3 {
            0 => Self::NonCacheable,
            1 => Self::WriteBack,
            2 => Self::WriteThrough,
            _ => Self::WriteBackNoAllocate,
        }
    }
}

/// How the SMMU reads a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TableAttributes {
    /// In the inner caches.
    pub inner: Cacheability,
    /// In the outer caches.
    pub outer: Cacheability,
    /// Coherent with whom.
    pub shareability: Shareability,
}

impl TableAttributes {
    /// Coherent with the cores' caches, for an SMMU with `IDR0.COHACC`.
    pub const COHERENT: Self = Self {
        inner: Cacheability::WriteBack,
        outer: Cacheability::WriteBack,
        shareability: Shareability::InnerShareable,
    };

    /// Around all caches, for an SMMU without `IDR0.COHACC`.
    pub const NON_CACHEABLE: Self = Self {
        inner: Cacheability::NonCacheable,
        outer: Cacheability::NonCacheable,
        shareability: Shareability::OuterShareable,
    };
}

/// Which flags the SMMU updates in the leaf descriptors of a translation table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum FlagUpdate {
    /// None.
    #[default]
    None,
    /// The Access flag.
    AccessFlag,
    /// The Access flag and dirty state.
    AccessFlagAndDirty,
}

impl FlagUpdate {
    /// What `HA` and `HD` ask for together; `HD` alone is reserved and asks for nothing (5.4).
    pub const fn new(access_flag: bool, dirty: bool) -> Self {
        match (access_flag, dirty) {
            (false, _) => Self::None,
            (true, false) => Self::AccessFlag,
            (true, true) => Self::AccessFlagAndDirty,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::format;

    use super::*;

    #[test]
    fn sizes_and_cacheabilities_are_numbered_as_their_fields_are() {
        // 6.3.6, OAS; 5.2, S1CIR. Bits above the field do not count.
        let sizes = [0, 1, 2, 3, 4, 5, 6, 7, 8].map(|value| AddressSize::from_low_bits(value).bits());
        assert_eq!(sizes, [32, 36, 40, 42, 44, 48, 52, 56, 32]);
        assert_eq!(
            [0, 1, 2, 3, 4].map(Cacheability::from_low_bits),
            [
                Cacheability::NonCacheable,
                Cacheability::WriteBack,
                Cacheability::WriteThrough,
                Cacheability::WriteBackNoAllocate,
                Cacheability::NonCacheable
            ]
        );
    }

    #[test]
    fn physical_addresses_are_shown_in_hexadecimal() {
        assert_eq!(format!("{:?}", PhysAddr(0x8123_4000)), "PhysAddr(0x81234000)");
    }
}
