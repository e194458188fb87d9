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
