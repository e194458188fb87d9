//! Commands in words: the specification's name, and its parameters.

use core::fmt;

use super::{Command, ResumeAction, SyncCompletion, TlbiRange};
use crate::smmuv3::{Granule, PageResponse, StreamId, SubstreamId};

/// One line: `CMD_CFGI_CD StreamID=0x10 SubstreamID=0x5 Leaf=1`.
impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match *self {
            Self::PrefetchConfig { stream, substream } => put_origin(f, stream, substream),
            Self::PrefetchAddress { stream, substream, address } => {
                put_origin(f, stream, substream)?;
                write!(f, " Address={address:#x}")
            }
            Self::CfgiSte { stream, leaf } => write!(f, " StreamID={:#x} Leaf={}", stream.0, u8::from(leaf)),
            Self::CfgiSteRange { stream, range } => write!(f, " StreamID={:#x} Range={range}", stream.0),
            Self::CfgiCd { stream, substream, leaf } => {
                write!(f, " StreamID={:#x} SubstreamID={:#x} Leaf={}", stream.0, substream.get(), u8::from(leaf))
            }
            Self::CfgiCdAll { stream } | Self::StallTerm { stream } => write!(f, " StreamID={:#x}", stream.0),
            Self::TlbiNhAll { vmid } | Self::TlbiS12VmAll { vmid } => write!(f, " VMID={:#x}", vmid.0),
            Self::TlbiNhAsid { vmid, asid } => write!(f, " VMID={:#x} ASID={:#x}", vmid.0, asid.0),
            Self::TlbiNhVa { vmid, asid, range } => {
                write!(f, " VMID={:#x} ASID={:#x}", vmid.0, asid.0)?;
                put_range(f, range)
            }
            Self::TlbiNhVaa { vmid, range } | Self::TlbiS2Ipa { vmid, range } => {
                write!(f, " VMID={:#x}", vmid.0)?;
                put_range(f, range)
            }
            Self::TlbiEl2Asid { asid } => write!(f, " ASID={:#x}", asid.0),
            Self::TlbiEl2Va { asid, range } => {
                write!(f, " ASID={:#x}", asid.0)?;
                put_range(f, range)
            }
            Self::TlbiEl2Vaa { range } => put_range(f, range),
            Self::CfgiAll | Self::TlbiEl2All | Self::TlbiNsnhAll => Ok(()),
            Self::AtcInv { stream, substream, global, address, size } => {
                put_origin(f, stream, substream)?;
                write!(f, " Global={} Address={address:#x} Size={size}", u8::from(global))
            }
            Self::PriResp { stream, substream, group, response } => {
                put_origin(f, stream, substream)?;
                let response = match response {
                    PageResponse::Failure => "ResponseFailure",
                    PageResponse::Invalid => "InvalidRequest",
                    PageResponse::Success => "Success",
                };
                write!(f, " PRGIndex={:#x} Resp={response}", group.get())
            }
            Self::Resume { stream, stag, action } => {
                let action = match action {
                    ResumeAction::Retry => "Retry",
                    ResumeAction::Abort => "Terminate Abort=1",
                    ResumeAction::Terminate => "Terminate Abort=0",
                };
                write!(f, " StreamID={:#x} STAG={:#x} Action={action}", stream.0, stag.0)
            }
            Self::Sync(SyncCompletion::None) => write!(f, " CS=SIG_NONE"),
            Self::Sync(SyncCompletion::Event) => write!(f, " CS=SIG_SEV"),
            Self::Sync(SyncCompletion::Interrupt { msi: None }) => write!(f, " CS=SIG_IRQ"),
            Self::Sync(SyncCompletion::Interrupt { msi: Some(msi) }) => {
                write!(f, " CS=SIG_IRQ MSIAddress={:#x} MSIData={:#x}", msi.address.0, msi.data)
            }
        }
    }
}

impl Command {
    /// The specification's name.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::PrefetchConfig { .. } => "CMD_PREFETCH_CONFIG",
            Self::PrefetchAddress { .. } => "CMD_PREFETCH_ADDR",
            Self::CfgiSte { .. } => "CMD_CFGI_STE",
            Self::CfgiSteRange { .. } => "CMD_CFGI_STE_RANGE",
            Self::CfgiAll => "CMD_CFGI_ALL",
            Self::CfgiCd { .. } => "CMD_CFGI_CD",
            Self::CfgiCdAll { .. } => "CMD_CFGI_CD_ALL",
            Self::TlbiNhAll { .. } => "CMD_TLBI_NH_ALL",
            Self::TlbiNhAsid { .. } => "CMD_TLBI_NH_ASID",
            Self::TlbiNhVa { .. } => "CMD_TLBI_NH_VA",
            Self::TlbiNhVaa { .. } => "CMD_TLBI_NH_VAA",
            Self::TlbiEl2All => "CMD_TLBI_EL2_ALL",
            Self::TlbiEl2Asid { .. } => "CMD_TLBI_EL2_ASID",
            Self::TlbiEl2Va { .. } => "CMD_TLBI_EL2_VA",
            Self::TlbiEl2Vaa { .. } => "CMD_TLBI_EL2_VAA",
            Self::TlbiS12VmAll { .. } => "CMD_TLBI_S12_VMALL",
            Self::TlbiS2Ipa { .. } => "CMD_TLBI_S2_IPA",
            Self::TlbiNsnhAll => "CMD_TLBI_NSNH_ALL",
            Self::AtcInv { .. } => "CMD_ATC_INV",
            Self::PriResp { .. } => "CMD_PRI_RESP",
            Self::Resume { .. } => "CMD_RESUME",
            Self::StallTerm { .. } => "CMD_STALL_TERM",
            Self::Sync(_) => "CMD_SYNC",
        }
    }
}

fn put_origin(f: &mut fmt::Formatter<'_>, stream: StreamId, substream: Option<SubstreamId>) -> fmt::Result {
    write!(f, " StreamID={:#x}", stream.0)?;
    match substream {
        Some(substream) => write!(f, " SSV=1 SubstreamID={:#x}", substream.get()),
        None => write!(f, " SSV=0"),
    }
}

fn put_range(f: &mut fmt::Formatter<'_>, TlbiRange { address, leaf, span }: TlbiRange) -> fmt::Result {
    write!(f, " Address={address:#x} Leaf={}", u8::from(leaf))?;
    let Some(span) = span else { return Ok(()) };
    let granule = match span.granule {
        Granule::Size4K => "4KB",
        Granule::Size16K => "16KB",
        Granule::Size64K => "64KB",
    };
    write!(f, " NUM={} SCALE={} TTL={} TG={granule}", span.num, span.scale, span.ttl)
}
