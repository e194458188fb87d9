//! Commands of the Non-secure command queue (4).

mod codec;
mod display;

use thiserror::Error;

use super::features::Features;
use super::{Asid, Granule, PageResponse, PhysAddr, PrgIndex, Shareability, Stag, StreamId, SubstreamId, Vmid};

/// A command. The bits of addresses that a command cannot carry, such as the low 12, are dropped when it is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// Reads the configuration of a stream ahead of its first transaction (4.2.1).
    PrefetchConfig {
        /// Whose.
        stream: StreamId,
        /// The substream whose CD is read too.
        substream: Option<SubstreamId>,
    },
    /// Translates an address ahead of its first use (4.2.2). Size and Stride, which ask for more of the same, are
    /// neither expressed nor understood: a prefetch is a hint.
    PrefetchAddress {
        /// Whose.
        stream: StreamId,
        /// In which substream.
        substream: Option<SubstreamId>,
        /// The address, a multiple of 4096.
        address: u64,
    },
    /// Invalidates one STE and all CDs that were found through it (4.3.1).
    CfgiSte {
        /// Whose.
        stream: StreamId,
        /// Leaves level 1 stream table descriptors alone.
        leaf: bool,
    },
    /// Invalidates 2^(`range` + 1) STEs, aligned, and what was found through them (4.3.2).
    CfgiSteRange {
        /// One of the streams.
        stream: StreamId,
        /// 0 to 30; 31 is [`Command::CfgiAll`].
        range: u8,
    },
    /// Invalidates all cached configuration (4.3.6).
    CfgiAll,
    /// Invalidates one CD as found through one stream (4.3.3).
    CfgiCd {
        /// Whose.
        stream: StreamId,
        /// Its index in the table, 0 without substreams.
        substream: SubstreamId,
        /// Leaves level 1 CD descriptors alone.
        leaf: bool,
    },
    /// Invalidates all CDs as found through one stream (4.3.4).
    CfgiCdAll {
        /// Whose.
        stream: StreamId,
    },
    /// Invalidates the stage 1 EL1 translations of a VMID (4.4.2.1).
    TlbiNhAll {
        /// Of which.
        vmid: Vmid,
    },
    /// Invalidates the non-global stage 1 EL1 translations of an ASID (4.4.2.2).
    TlbiNhAsid {
        /// Of which virtual machine.
        vmid: Vmid,
        /// Of which address space.
        asid: Asid,
    },
    /// Invalidates stage 1 EL1 translations of an ASID, and global ones, by address (4.4.2.4).
    TlbiNhVa {
        /// Of which virtual machine.
        vmid: Vmid,
        /// Of which address space.
        asid: Asid,
        /// Which addresses.
        range: TlbiRange,
    },
    /// Invalidates stage 1 EL1 translations of all ASIDs by address (4.4.2.3).
    TlbiNhVaa {
        /// Of which virtual machine.
        vmid: Vmid,
        /// Which addresses.
        range: TlbiRange,
    },
    /// Invalidates all EL2 translations (4.4.2.7).
    TlbiEl2All,
    /// Invalidates the non-global EL2-E2H translations of an ASID (4.4.2.10).
    TlbiEl2Asid {
        /// Of which address space.
        asid: Asid,
    },
    /// Invalidates EL2 translations of an ASID, and global ones, by address (4.4.2.8).
    TlbiEl2Va {
        /// Of which address space; ignored without E2H.
        asid: Asid,
        /// Which addresses.
        range: TlbiRange,
    },
    /// Invalidates EL2 translations of all ASIDs by address (4.4.2.9).
    TlbiEl2Vaa {
        /// Which addresses.
        range: TlbiRange,
    },
    /// Invalidates the translations of a VMID at both stages (4.4.3.2).
    TlbiS12VmAll {
        /// Of which.
        vmid: Vmid,
    },
    /// Invalidates stage 2 translations of a VMID by IPA (4.4.3.1).
    TlbiS2Ipa {
        /// Of which virtual machine.
        vmid: Vmid,
        /// Which IPAs.
        range: TlbiRange,
    },
    /// Invalidates all Non-secure translations but those of EL2 (4.4.4.1).
    TlbiNsnhAll,
    /// Makes a device forget translations that it got by ATS (4.5.1).
    AtcInv {
        /// Which device.
        stream: StreamId,
        /// Of which PASID; `None` for translations without one.
        substream: Option<SubstreamId>,
        /// Of all PASIDs. Means nothing without `substream`.
        global: bool,
        /// An address in the span.
        address: u64,
        /// log2 of the span in pages of 4096, aligned to itself; [`Command::ATC_INV_ALL`] is everything.
        size: u8,
    },
    /// Answers a page request group (4.5.2).
    PriResp {
        /// Which device asked.
        stream: StreamId,
        /// The PASID that the response carries, if it carries one.
        substream: Option<SubstreamId>,
        /// Which of its groups.
        group: PrgIndex,
        /// The answer.
        response: PageResponse,
    },
    /// Answers one stalled transaction (4.7.1).
    Resume {
        /// Whose.
        stream: StreamId,
        /// Which of its transactions.
        stag: Stag,
        /// The answer.
        action: ResumeAction,
    },
    /// Terminates all stalled transactions of a stream whose STE already aborts new ones (4.7.2).
    StallTerm {
        /// Whose.
        stream: StreamId,
    },
    /// Is consumed when the commands before it are complete (4.7.3).
    Sync(SyncCompletion),
}

/// Which addresses a TLB invalidation affects (4.4.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TlbiRange {
    /// The first address, a multiple of 4096.
    pub address: u64,
    /// Leaves cached table descriptors alone.
    pub leaf: bool,
    /// A range and level hint, only with `IDR3.RIL`; `None` for the one entry that translates `address`.
    pub span: Option<TlbiSpan>,
}

impl TlbiRange {
    /// The entry that translates `address`.
    pub const fn single(address: u64, leaf: bool) -> Self {
        Self { address, leaf, span: None }
    }
}

/// The length of a [`TlbiRange`]: (`num` + 1) * 2^`scale` granules. Not all of `num`, `scale` and `ttl` may be 0
/// (4.4.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TlbiSpan {
    /// The granule of the tables that the entries came from.
    pub granule: Granule,
    /// The level of the leaf entries, 1 to 3; 0 for any.
    pub ttl: u8,
    /// 0 to 31.
    pub num: u8,
    /// 0 to 31.
    pub scale: u8,
}

impl TlbiSpan {
    /// The length in bytes.
    pub const fn bytes(&self) -> u64 {
        (((self.num & 31) as u64 + 1) << (self.scale & 31)) << self.granule.shift()
    }
}

/// What becomes of a stalled transaction (4.7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ResumeAction {
    /// It is tried again, as though it had just arrived.
    Retry,
    /// It ends with an abort at the device.
    Abort,
    /// It ends as though it had succeeded: a read gives zeros, a write is dropped. An abort where `IDR0.TERM_MODEL` is 1.
    Terminate,
}

/// How a [`Command::Sync`] says that it is complete, besides being consumed (4.7.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SyncCompletion {
    /// Not at all.
    None,
    /// By an interrupt: on the wire, and by `msi` where the SMMU can.
    Interrupt {
        /// Where to write what.
        msi: Option<Msi>,
    },
    /// By a WFE wake-up event, where `IDR0.SEV` is 1.
    Event,
}

/// A message: a 32-bit write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Msi {
    /// Where, a multiple of 4 and not 0.
    pub address: PhysAddr,
    /// What is written.
    pub data: u32,
    /// The memory type, 4 bits coded as `STE.MemAttr` (5.2); 15 is Normal write-back.
    pub attributes: u8,
    /// The shareability of the write.
    pub shareability: Shareability,
}

/// Why two words are not a command that the SMMU accepts. All of them are `CERROR_ILL` (4.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CommandError {
    /// No such command on the Non-secure queue, or none that this crate knows.
    #[error("unknown command {0:#04x}")]
    Opcode(u8),
    /// Bits that must be 0 are not. The SMMU may ignore that (4.1.5), except for `SSec` (4.1.6).
    #[error("command {opcode:#04x}: reserved bits {bits:#x} set in word {word}")]
    Reserved {
        /// The command.
        opcode: u8,
        /// 0 or 1.
        word: u8,
        /// Those bits.
        bits: u64,
    },
    /// `CMD_PRI_RESP.Resp` is 3.
    #[error("CMD_PRI_RESP with the reserved response 3")]
    Response,
    /// `CMD_SYNC.CS` is 3.
    #[error("CMD_SYNC with the reserved completion signal 3")]
    Completion,
    /// `CMD_ATC_INV.Size` is over 52.
    #[error("CMD_ATC_INV with size {0}, over 52")]
    AtcSize(u8),
    /// The SMMU lacks the feature that the command needs.
    #[error("command {0:#04x} is not supported by this SMMU")]
    NotSupported(u8),
    /// A granule without a range or a level.
    #[error("TLB invalidation {0:#04x} with a granule, but NUM, SCALE and TTL all 0")]
    EmptySpan(u8),
    /// A [`TlbiSpan`] that does not fit its fields.
    #[error("TLB invalidation {0:#04x} with NUM or SCALE over 31, or TTL over 3")]
    WideSpan(u8),
}

impl Command {
    /// The bytes that a command takes.
    pub const SIZE: usize = 16;

    /// The `size` of a [`Command::AtcInv`] that invalidates everything (4.5.1).
    pub const ATC_INV_ALL: u8 = 52;

    /// Checks that an SMMU with `features` has this command (4.3 to 4.7), and that what it says has room in its fields.
    ///
    /// # Errors
    ///
    /// [`CommandError::NotSupported`], [`CommandError::EmptySpan`] or [`CommandError::AtcSize`] if it answers `CERROR_ILL`, or may do so,
    /// such as because a span is reserved without `IDR3.RIL`. [`CommandError::WideSpan`] if it would be another command.
    pub const fn check(&self, features: &Features) -> Result<(), CommandError> {
        if let Some(span) = self.span() {
            if !features.range_invalidation {
                return Err(CommandError::NotSupported(self.opcode()));
            }
            if span.num > 31 || span.scale > 31 || span.ttl > 3 {
                return Err(CommandError::WideSpan(self.opcode()));
            }
            // A level that the granule has only with DS counts as none (4.4.1.1).
            let ttl =
                if matches!(span.granule, Granule::Size16K) && span.ttl == 1 && !features.ds { 0 } else { span.ttl };
            if span.num == 0 && span.scale == 0 && ttl == 0 {
                return Err(CommandError::EmptySpan(self.opcode()));
            }
        }
        if let Self::AtcInv { size, .. } = self
            && *size > Self::ATC_INV_ALL
        {
            return Err(CommandError::AtcSize(*size));
        }
        let supported = match self {
            Self::CfgiCd { .. }
            | Self::CfgiCdAll { .. }
            | Self::TlbiNhAll { .. }
            | Self::TlbiNhAsid { .. }
            | Self::TlbiNhVa { .. }
            | Self::TlbiNhVaa { .. } => features.stage1,
            Self::TlbiEl2All | Self::TlbiEl2Asid { .. } | Self::TlbiEl2Va { .. } | Self::TlbiEl2Vaa { .. } => {
                features.hyp
            }
            Self::TlbiS12VmAll { .. } | Self::TlbiS2Ipa { .. } => features.stage2,
            Self::AtcInv { .. } => features.ats,
            Self::PriResp { .. } => features.pri,
            Self::Resume { .. } | Self::StallTerm { .. } => features.can_stall(),
            Self::PrefetchConfig { .. }
            | Self::PrefetchAddress { .. }
            | Self::CfgiSte { .. }
            | Self::CfgiSteRange { .. }
            | Self::CfgiAll
            | Self::TlbiNsnhAll
            | Self::Sync(_) => true,
        };
        if supported { Ok(()) } else { Err(CommandError::NotSupported(self.opcode())) }
    }

    /// The span of a TLB invalidation by address, if it has one.
    const fn span(&self) -> Option<TlbiSpan> {
        match self {
            Self::TlbiNhVa { range, .. }
            | Self::TlbiNhVaa { range, .. }
            | Self::TlbiEl2Va { range, .. }
            | Self::TlbiEl2Vaa { range }
            | Self::TlbiS2Ipa { range, .. } => range.span,
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
