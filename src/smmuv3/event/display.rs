//! Event records in words: the specification's name of the event, what it means, and each field that is valid in it.

use core::fmt;

use super::{Event, FaultClass, FaultKind, Fetch, Origin, TranslationFault};
use crate::smmuv3::Access;

/// One line: `F_TRANSLATION, translation fault: StreamID=0x10 SSV=0 Stall=0 PnU=0 InD=0 RnW=1 S2=0 CLASS=IN InputAddr=0x1000`.
/// A field that is valid only with another one is left out without it. NSIPA is always 0 in the Non-secure event queue (7.3).
impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}:", self.name(), self.meaning())?;
        match *self {
            Self::Uut { origin, reason, access, address } => {
                put_origin(f, origin)?;
                put_reason(f, reason)?;
                put_access(f, access)?;
                put_address(f, address)
            }
            Self::BadStreamId { origin } | Self::BadSte { origin } | Self::BadCd { origin } => put_origin(f, origin),
            Self::SteFetch { origin, fetch } | Self::CdFetch { origin, fetch } | Self::VmsFetch { origin, fetch } => {
                put_origin(f, origin)?;
                put_fetch(f, fetch)
            }
            Self::BadAtsTreq { origin, address } => {
                put_origin(f, origin)?;
                put_address(f, address)
            }
            Self::StreamDisabled { stream } => write!(f, " StreamID={:#x}", stream.0),
            Self::TranslForbidden { origin, write, address } => {
                put_origin(f, origin)?;
                write!(f, " RnW={}", u8::from(!write))?;
                put_address(f, address)
            }
            Self::BadSubstreamId { stream, substream } => {
                write!(f, " StreamID={:#x} SubstreamID={:#x}", stream.0, substream.get())
            }
            Self::WalkEabt { origin, access, class, stage2, address, fetch } => {
                put_origin(f, origin)?;
                put_access(f, access)?;
                put_stage(f, stage2, class)?;
                put_address(f, address)?;
                put_fetch(f, fetch)
            }
            Self::Fault(ref fault) => put_fault(f, fault),
            Self::TlbConflict { origin, reason, access, address, ipa } => {
                put_origin(f, origin)?;
                put_reason(f, reason)?;
                put_access(f, access)?;
                write!(f, " S2={}", u8::from(ipa.is_some()))?;
                put_address(f, address)?;
                put_ipa(f, ipa)
            }
            Self::CfgConflict { origin, reason } => {
                put_origin(f, origin)?;
                put_reason(f, reason)
            }
            Self::PageRequest { origin, unprivileged, privileged, address, span } => {
                put_origin(f, origin)?;
                for (letter, access) in [('u', unprivileged), ('p', privileged)] {
                    let [read, write, execute] = [access.read, access.write, access.execute].map(u8::from);
                    write!(f, " {letter}R={read} {letter}W={write} {letter}X={execute}")?;
                }
                write!(f, " Span={span}")?;
                put_address(f, address)
            }
            Self::ImplementationDefined { words } => words.iter().try_for_each(|word| write!(f, " {word:#018x}")),
        }
    }
}

impl Event {
    /// What the event means (7.3.2 to 7.3.21).
    const fn meaning(&self) -> &'static str {
        match self {
            Self::Uut { .. } => "unsupported upstream transaction",
            Self::BadStreamId { .. } => "StreamID out of range",
            Self::SteFetch { .. } => "fetch of the STE aborted",
            Self::BadSte { .. } => "the STE is invalid",
            Self::BadAtsTreq { .. } => "ATS translation request disallowed",
            Self::StreamDisabled { .. } => "transactions without a substream disabled",
            Self::TranslForbidden { .. } => "translated transaction disallowed",
            Self::BadSubstreamId { .. } => "SubstreamID disallowed or out of range",
            Self::CdFetch { .. } => "fetch of the CD aborted",
            Self::BadCd { .. } => "the CD is invalid",
            Self::WalkEabt { .. } => "translation table walk aborted",
            Self::Fault(TranslationFault { kind, .. }) => match kind {
                FaultKind::Translation => "translation fault",
                FaultKind::AddressSize => "address size fault",
                FaultKind::Access => "Access flag fault",
                FaultKind::Permission => "permission fault",
            },
            Self::TlbConflict { .. } => "TLB conflict",
            Self::CfgConflict { .. } => "configuration cache conflict",
            Self::PageRequest { .. } => "speculative page request hint",
            Self::VmsFetch { .. } => "fetch of the VMS aborted",
            Self::ImplementationDefined { .. } => "defined by the implementation",
        }
    }
}

fn put_fault(f: &mut fmt::Formatter<'_>, fault: &TranslationFault) -> fmt::Result {
    put_origin(f, Origin { stream: fault.stream, substream: fault.substream })?;
    match fault.stag {
        Some(stag) => write!(f, " Stall=1 STAG={:#x}", stag.0)?,
        None => write!(f, " Stall=0")?,
    }
    put_access(f, fault.access)?;
    put_stage(f, fault.ipa.is_some(), fault.class)?;
    if fault.names_table_access() {
        write!(f, " TTRnW={}", u8::from(!fault.table_write))?;
    }
    put_address(f, fault.address)?;
    put_ipa(f, fault.ipa)
}

fn put_origin(f: &mut fmt::Formatter<'_>, Origin { stream, substream }: Origin) -> fmt::Result {
    write!(f, " StreamID={:#x}", stream.0)?;
    match substream {
        Some(substream) => write!(f, " SSV=1 SubstreamID={:#x}", substream.get()),
        None => write!(f, " SSV=0"),
    }
}

fn put_fetch(f: &mut fmt::Formatter<'_>, fetch: Fetch) -> fmt::Result {
    let Fetch { reason, granule_protection, address } = fetch;
    put_reason(f, reason)?;
    write!(f, " GPCF={} FetchAddr={address:#x}", u8::from(granule_protection))
}

fn put_reason(f: &mut fmt::Formatter<'_>, reason: u16) -> fmt::Result {
    write!(f, " Reason={reason:#x}")
}

fn put_access(f: &mut fmt::Formatter<'_>, access: Access) -> fmt::Result {
    let Access { write, execute, privileged, .. } = access;
    let [privileged, instruction, read] = [privileged, execute && !write, !write].map(u8::from);
    write!(f, " PnU={privileged} InD={instruction} RnW={read}")
}

fn put_stage(f: &mut fmt::Formatter<'_>, stage2: bool, class: FaultClass) -> fmt::Result {
    let class = match class {
        FaultClass::ContextDescriptor => "CD",
        FaultClass::TableDescriptor => "TTD",
        FaultClass::Input => "IN",
    };
    write!(f, " S2={} CLASS={class}", u8::from(stage2))
}

fn put_address(f: &mut fmt::Formatter<'_>, address: u64) -> fmt::Result {
    write!(f, " InputAddr={address:#x}")
}

fn put_ipa(f: &mut fmt::Formatter<'_>, ipa: Option<u64>) -> fmt::Result {
    ipa.map_or(Ok(()), |ipa| write!(f, " IPA={ipa:#x}"))
}
