//! The stream table: STEs and level 1 descriptors (5.1, 5.2).

mod codec;
mod stage2;
mod used;

use thiserror::Error;

use super::bits::Field;
use super::{AddressSize, FlagUpdate, Granule, PhysAddr, TableAttributes, Vmid};

/// A stream table entry: what happens to the transactions of one stream (5.2).
///
/// What it does not express is 0 when encoded and ignored when decoded: overrides of incoming memory types, MPAM, and
/// everything after SMMUv3.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ste {
    /// Which stages translate, and how.
    pub config: StreamConfig,
    /// What the stream may do by ATS. Means nothing unless a stage translates (`EATS`).
    pub ats: AtsMode,
    /// Automatic PRI responses carry the request's PASID, where `IDR3.PPS` is 0 (`PPAR`).
    pub response_with_pasid: bool,
    /// Like events may be merged into one record (`MEV`).
    pub merge_events: bool,
    /// Untranslated transactions keep their shareability instead of becoming non-shareable; only with
    /// `IDR1.ATTR_TYPES_OVR` (`SHCFG`).
    pub incoming_shareability: bool,
    /// Whether accesses count as privileged; only with `IDR1.ATTR_PERMS_OVR` (`PRIVCFG`).
    pub privilege: PrivilegeOverride,
    /// Whether reads count as instruction fetches; only with `IDR1.ATTR_PERMS_OVR` (`INSTCFG`).
    pub instruction: InstructionOverride,
    /// Tags the translations of EL1 streams, where stage 2 is supported (`S2VMID`).
    pub vmid: Vmid,
}

/// Which stages of translation a stream goes through (`Config`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamConfig {
    /// All transactions are aborted, without a record.
    Abort,
    /// Transactions go through untranslated.
    Bypass,
    /// Stage 1.
    Stage1(Stage1),
    /// Stage 2.
    Stage2(Stage2),
    /// Stage 1, whose output stage 2 translates.
    Nested(Stage1, Stage2),
}

/// Where the context descriptors of a stream are and how they are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage1 {
    /// The CD or the table of CDs, a multiple of 64 and of the table's size; an IPA if stage 2 translates too
    /// (`S1ContextPtr`).
    pub context: PhysAddr,
    /// log2 of the number of CDs; 0: a single CD and no substreams (`S1CDMax`).
    pub cd_max: u8,
    /// How the table is laid out. Means nothing when `cd_max` is 0 (`S1Fmt`).
    pub format: ContextTableFormat,
    /// What happens without SubstreamID. Means nothing when `cd_max` is 0 (`S1DSS`).
    pub default_substream: DefaultSubstream,
    /// How the table is read (`S1CIR`, `S1COR`, `S1CSH`).
    pub attributes: TableAttributes,
    /// CDs may not ask for stalls; where `IDR0.STALL_MODEL` is 0b00 PCIe streams must have this set (`S1STALLD`, 5.5).
    pub stall_disabled: bool,
    /// Whose translation regime it is. Means nothing if stage 2 translates too (`STRW`).
    pub world: StreamWorld,
}

/// How a table of context descriptors is laid out. Numbered as `S1Fmt`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContextTableFormat {
    /// One array of CDs.
    Linear = 0,
    /// Level 1 descriptors for 64 CDs each.
    TwoLevel4K = 1,
    /// Level 1 descriptors for 1024 CDs each.
    TwoLevel64K = 2,
}

/// What happens to a transaction without SubstreamID when there are substreams. Numbered as `S1DSS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultSubstream {
    /// It is terminated with `F_STREAM_DISABLED`.
    Terminate = 0,
    /// It bypasses stage 1.
    Bypass = 1,
    /// It uses the CD of SubstreamID 0, which transactions with SubstreamID 0 then cannot use.
    Substream0 = 2,
}

/// What an STE makes of the privilege of an access. Numbered as `PRIVCFG`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PrivilegeOverride {
    /// It stays as it comes.
    #[default]
    Incoming = 0,
    /// Every access is unprivileged.
    Unprivileged = 2,
    /// Every access is privileged.
    Privileged = 3,
}

/// What an STE makes of reads. Writes are always of data (13.1.2). Numbered as `INSTCFG`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InstructionOverride {
    /// They stay as they come.
    #[default]
    Incoming = 0,
    /// Every read is of data.
    Data = 2,
    /// Every read is an instruction fetch.
    Instruction = 3,
}

/// Whose translation regime a stage 1 stream belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamWorld {
    /// EL1's.
    El1,
    /// EL2's: one half, one privilege, no ASIDs.
    El2,
    /// That of EL2 with E2H. It has the same `STRW` as EL2, so what decodes as EL2 is this where `CR2.E2H` is 1.
    El2E2h,
}

/// What a stream may do by ATS. Numbered as `EATS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtsMode {
    /// Nothing.
    Disabled = 0,
    /// Translation requests are answered with physical addresses.
    Full = 1,
    /// Translation requests are answered with IPAs, which stage 2 translates later.
    Split = 2,
}

/// Stage 2 with VMSAv8-64 tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage2 {
    /// The first table, a multiple of its size (`S2TTB`).
    pub table: PhysAddr,
    /// The input has 64 - `t0sz` bits (`S2T0SZ`).
    pub t0sz: u8,
    /// The first level, coded differently for each granule: see [`Stage2::start_level`] (`S2SL0`).
    pub sl0: u8,
    /// The granule (`S2TG`).
    pub granule: Granule,
    /// How the tables are read (`S2IR0`, `S2OR0`, `S2SH0`).
    pub attributes: TableAttributes,
    /// The output address size (`S2PS`).
    pub output_size: AddressSize,
    /// The tables are big-endian (`S2ENDI`).
    pub big_endian: bool,
    /// A clear Access flag is no fault (`S2AFFD`).
    pub access_flag_fault_disabled: bool,
    /// Stage 1 tables in device memory are a fault. Means nothing unless stage 1 translates too (`S2PTW`).
    pub protected_walk: bool,
    /// Which flags the SMMU updates (`S2HA`, `S2HD`).
    pub flag_update: FlagUpdate,
    /// Faults stall (`S2S`).
    pub stall: bool,
    /// Faults that do not stall are recorded (`S2R`).
    pub record: bool,
}

/// Why an STE cannot be used: the transaction gets `C_BAD_STE` (7.3.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SteError {
    /// `V` is 0.
    #[error("the STE is not valid")]
    NotValid,
    /// A field is ILLEGAL, for this SMMU or beside the other fields (5.2.2).
    #[error("STE.{field} is illegal here: {value:#x}")]
    Illegal {
        /// Which field.
        field: &'static str,
        /// Its value; of an address the address.
        value: u64,
    },
}

impl Ste {
    /// The bytes that an STE takes.
    pub const SIZE: usize = 64;

    /// The words of an STE that is not valid: transactions are aborted and recorded as `C_BAD_STE`.
    pub const NOT_VALID: [u64; 8] = [0; 8];

    /// An STE with this configuration and nothing else.
    pub const fn new(config: StreamConfig) -> Self {
        Self {
            config,
            ats: AtsMode::Disabled,
            response_with_pasid: false,
            merge_events: false,
            incoming_shareability: false,
            privilege: PrivilegeOverride::Incoming,
            instruction: InstructionOverride::Incoming,
            vmid: Vmid(0),
        }
    }

    /// Stage 1, if it translates.
    pub const fn stage1(&self) -> Option<&Stage1> {
        match &self.config {
            StreamConfig::Stage1(stage1) | StreamConfig::Nested(stage1, _) => Some(stage1),
            _ => None,
        }
    }

    /// Stage 2, if it translates.
    pub const fn stage2(&self) -> Option<&Stage2> {
        match &self.config {
            StreamConfig::Stage2(stage2) | StreamConfig::Nested(_, stage2) => Some(stage2),
            _ => None,
        }
    }
}

const SPAN: Field = Field::new(4, 0);
const LEVEL2: Field = Field::new(55, 6);

/// A level 1 stream table descriptor: the STEs of some neighbouring streams (5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct L1StreamTableDescriptor {
    /// The array of STEs, a multiple of its size.
    pub table: PhysAddr,
    /// 1 + log2 of the number of STEs, 1 to 11 and at most `STRTAB_BASE_CFG.SPLIT` + 1.
    pub span: u8,
}

impl L1StreamTableDescriptor {
    /// The bytes that a descriptor takes.
    pub const SIZE: usize = 8;

    /// A descriptor without STEs: transactions are aborted and may be recorded as `C_BAD_STREAMID`.
    pub const NOT_VALID: u64 = 0;

    /// The number of STEs.
    pub const fn entries(&self) -> u32 {
        match self.span {
            span @ 1..=11 => 1 << (span - 1),
            _ => 0,
        }
    }

    /// The descriptor's word.
    pub const fn encode(&self) -> u64 {
        SPAN.put(self.span as u64) | LEVEL2.address(self.table.0)
    }

    /// The descriptor in a word, its table aligned to its size; `None` if it has no STEs.
    pub const fn decode(word: u64) -> Option<Self> {
        match SPAN.get(word) as u8 {
            span @ 1..=11 => {
                let size = (Ste::SIZE as u64) << (span - 1);
                Some(Self { table: PhysAddr(LEVEL2.address(word) & !(size - 1)), span })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
