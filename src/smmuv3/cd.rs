//! Context descriptors and level 1 context descriptors (5.3, 5.4).

mod codec;
mod used;

use thiserror::Error;

use super::bits::Field;
use super::{AddressSize, Asid, FlagUpdate, Granule, PhysAddr, TableAttributes};

/// A context descriptor: one address space of a stream, with VMSAv8-64 tables (5.4).
///
/// What it does not express is 0 when encoded and ignored when decoded: MPAM, and everything after SMMUv3.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContextDescriptor {
    /// The tables for addresses whose high bits are 0; `None`: none are walked, so that such an address faults where the TLB
    /// does not translate it (`TTB0`, `EPD0`).
    pub ttb0: Option<TableBase>,
    /// The same for addresses whose high bits are 1 (`TTB1`, `EPD1`).
    pub ttb1: Option<TableBase>,
    /// In the lower half, and in the upper: the top byte of an address is ignored (`TBI0`, `TBI1`).
    pub ignore_top_byte: [bool; 2],
    /// In the lower half, and in the upper: unprivileged accesses fault as if nothing was mapped; only with `IDR3.E0PD`
    /// (`E0PD0`, `E0PD1`).
    pub unprivileged_disabled: [bool; 2],
    /// The tables are big-endian (`ENDI`).
    pub big_endian: bool,
    /// The output address size (`IPS`).
    pub output_size: AddressSize,
    /// A clear Access flag is no fault (`AFFD`).
    pub access_flag_fault_disabled: bool,
    /// Which flags the SMMU updates (`HA`, `HD`).
    pub flag_update: FlagUpdate,
    /// What can be written cannot be executed (`WXN`).
    pub write_execute_never: bool,
    /// Privileged accesses to data do not reach what can be accessed unprivileged (`PAN`).
    pub privileged_access_never: bool,
    /// Faults stall (`S`).
    pub stall: bool,
    /// Faults that do not stall are recorded (`R`).
    pub record: bool,
    /// Faulting transactions that are terminated are aborted, instead of RAZ/WI. Must be true where
    /// `IDR0.TERM_MODEL` is 1 (`A`).
    pub abort: bool,
    /// Tags the translations (`ASID`).
    pub asid: Asid,
    /// The ASID is the SMMU's own: the cores' broadcast TLB maintenance by ASID does not touch it (`ASET`).
    pub private_asid: bool,
    /// The eight memory attributes that descriptors select from, as `MAIR_EL1` (`MAIR0`, `MAIR1`).
    pub mair: u64,
}

/// Where the tables for one half of the address space begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableBase {
    /// The first table, a multiple of its size; an IPA if stage 2 translates too (`TTBx`).
    pub table: PhysAddr,
    /// The half has 2^(64 - `tsz`) addresses (`TxSZ`).
    pub tsz: u8,
    /// The granule (`TGx`).
    pub granule: Granule,
    /// How the tables are read (`IRx`, `ORx`, `SHx`).
    pub attributes: TableAttributes,
    /// Table descriptors limit nothing; only with `IDR3.HAD` (`HADx`).
    pub hierarchy_disabled: bool,
}

/// Why a CD cannot be used: the transaction gets `C_BAD_CD` (7.3.11).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ContextError {
    /// `V` is 0.
    #[error("the CD is not valid")]
    NotValid,
    /// A field is ILLEGAL, for this SMMU, under this STE or beside the other fields (5.4.2).
    #[error("CD.{field} is illegal here: {value:#x}")]
    Illegal {
        /// Which field.
        field: &'static str,
        /// Its value; of an address the address.
        value: u64,
    },
}

impl ContextDescriptor {
    /// The bytes that a CD takes.
    pub const SIZE: usize = 64;

    /// The words of a CD that is not valid: transactions are aborted and recorded as `C_BAD_CD`.
    pub const NOT_VALID: [u64; 8] = [0; 8];
}

const VALID: Field = Field::bit(0);
const LEVEL2: Field = Field::new(55, 12);

/// A level 1 context descriptor: the CDs of some neighbouring substreams (5.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct L1ContextDescriptor {
    /// The array of 64 or 1024 CDs, a multiple of its size.
    pub table: PhysAddr,
}

impl L1ContextDescriptor {
    /// The bytes that a descriptor takes.
    pub const SIZE: usize = 8;

    /// A descriptor without CDs: transactions are aborted and recorded as `C_BAD_SUBSTREAMID`.
    pub const NOT_VALID: u64 = 0;

    /// The descriptor's word.
    pub const fn encode(&self) -> u64 {
        VALID.mask() | LEVEL2.address(self.table.0)
    }

    /// The descriptor in a word; `None` if it has no CDs.
    pub const fn decode(word: u64) -> Option<Self> {
        if VALID.is_set(word) { Some(Self { table: PhysAddr(LEVEL2.address(word)) }) } else { None }
    }
}

#[cfg(test)]
mod tests;
