//! The register map of page 0 and page 1 (6.2, 6.3): names, offsets, widths and fields.

/// A register of the Non-secure programming interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Register {
    /// SMMU_IDR0 (6.3.1).
    Idr0,
}

impl Register {
    /// Whether the register is 64 bits wide.
    pub const fn is_64bit(self) -> bool {
        false
    }
}
