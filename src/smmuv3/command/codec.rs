//! The words of a command.

use super::{Command, CommandError, Msi, ResumeAction, SyncCompletion, TlbiRange, TlbiSpan};
use crate::smmuv3::bits::Field;
use crate::smmuv3::{Asid, Granule, PageResponse, PhysAddr, PrgIndex, Shareability, Stag, StreamId, SubstreamId, Vmid};

// Word 0, shared by many commands.
const OPCODE: Field = Field::new(7, 0);
const SUBSTREAM_VALID: Field = Field::bit(11);
const SUBSTREAM: Field = Field::new(31, 12);
const STREAM: Field = Field::new(63, 32);
const NUM: Field = Field::new(16, 12);
const SCALE: Field = Field::new(24, 20);
const VMID: Field = Field::new(47, 32);
const ASID: Field = Field::new(63, 48);
// Word 0, of one command.
const ATC_GLOBAL: Field = Field::bit(9);
const RESUME_RETRY: Field = Field::bit(12);
const RESUME_ABORT: Field = Field::bit(13);
const SYNC_SIGNAL: Field = Field::new(13, 12);
const MSI_SHAREABILITY: Field = Field::new(23, 22);
const MSI_ATTRIBUTES: Field = Field::new(27, 24);
const MSI_DATA: Field = Field::new(63, 32);
// Word 1.
const LEAF: Field = Field::bit(0);
const RANGE: Field = Field::new(4, 0);
const TTL: Field = Field::new(9, 8);
const GRANULE: Field = Field::new(11, 10);
const VIRTUAL_ADDRESS: Field = Field::new(63, 12);
// Addresses end at bit 51 until SMMUv3.4 (4.1.6).
const IPA: Field = Field::new(51, 12);
const PREFETCH_SPAN: Field = Field::new(9, 0);
const ATC_SIZE: Field = Field::new(5, 0);
const GROUP: Field = Field::new(8, 0);
const RESPONSE: Field = Field::new(13, 12);
const STAG: Field = Field::new(15, 0);
const MSI_ADDRESS: Field = Field::new(51, 2);

const PREFETCH_CONFIG: u8 = 0x01;
const PREFETCH_ADDRESS: u8 = 0x02;
const CFGI_STE: u8 = 0x03;
const CFGI_STE_RANGE: u8 = 0x04;
const CFGI_CD: u8 = 0x05;
const CFGI_CD_ALL: u8 = 0x06;
const TLBI_NH_ALL: u8 = 0x10;
const TLBI_NH_ASID: u8 = 0x11;
const TLBI_NH_VA: u8 = 0x12;
const TLBI_NH_VAA: u8 = 0x13;
const TLBI_EL2_ALL: u8 = 0x20;
const TLBI_EL2_ASID: u8 = 0x21;
const TLBI_EL2_VA: u8 = 0x22;
const TLBI_EL2_VAA: u8 = 0x23;
const TLBI_S12_VMALL: u8 = 0x28;
const TLBI_S2_IPA: u8 = 0x2a;
const TLBI_NSNH_ALL: u8 = 0x30;
const ATC_INV: u8 = 0x40;
const PRI_RESP: u8 = 0x41;
const RESUME: u8 = 0x44;
const STALL_TERM: u8 = 0x45;
const SYNC: u8 = 0x46;

/// `CFGI_STE_RANGE.Range` of `CFGI_ALL` (4.3.6).
const RANGE_ALL: u8 = 31;

/// The bits that a command defines, in each word.
const fn defined(opcode: u8) -> Option<[u64; 2]> {
    const SUBSTREAMS: u64 = SUBSTREAM_VALID.mask() | SUBSTREAM.mask() | STREAM.mask();
    const SPAN: u64 = NUM.mask() | SCALE.mask();
    const PLACE: u64 = LEAF.mask() | TTL.mask() | GRANULE.mask();
    const VA: u64 = PLACE | VIRTUAL_ADDRESS.mask();
    let [first, second] = match opcode {
        PREFETCH_CONFIG => [SUBSTREAMS, 0],
        // Below the address lie Size and Stride: only how much more to prefetch. NS is reserved here (4.2.2).
        PREFETCH_ADDRESS => [SUBSTREAMS, VIRTUAL_ADDRESS.mask() | PREFETCH_SPAN.mask()],
        CFGI_STE => [STREAM.mask(), LEAF.mask()],
        CFGI_STE_RANGE => [STREAM.mask(), RANGE.mask()],
        CFGI_CD => [SUBSTREAM.mask() | STREAM.mask(), LEAF.mask()],
        CFGI_CD_ALL | STALL_TERM => [STREAM.mask(), 0],
        TLBI_NH_ALL | TLBI_S12_VMALL => [VMID.mask(), 0],
        TLBI_NH_ASID => [VMID.mask() | ASID.mask(), 0],
        TLBI_NH_VA => [SPAN | VMID.mask() | ASID.mask(), VA],
        TLBI_NH_VAA => [SPAN | VMID.mask(), VA],
        TLBI_EL2_ALL | TLBI_NSNH_ALL => [0, 0],
        TLBI_EL2_ASID => [ASID.mask(), 0],
        TLBI_EL2_VA => [SPAN | ASID.mask(), VA],
        TLBI_EL2_VAA => [SPAN, VA],
        TLBI_S2_IPA => [SPAN | VMID.mask(), PLACE | IPA.mask()],
        ATC_INV => [SUBSTREAMS | ATC_GLOBAL.mask(), ATC_SIZE.mask() | VIRTUAL_ADDRESS.mask()],
        PRI_RESP => [SUBSTREAMS, GROUP.mask() | RESPONSE.mask()],
        RESUME => [RESUME_RETRY.mask() | RESUME_ABORT.mask() | STREAM.mask(), STAG.mask()],
        SYNC => {
            [SYNC_SIGNAL.mask() | MSI_SHAREABILITY.mask() | MSI_ATTRIBUTES.mask() | MSI_DATA.mask(), MSI_ADDRESS.mask()]
        }
        _ => return None,
    };
    Some([first | OPCODE.mask(), second])
}

impl Command {
    /// The command's opcode (4.1.1).
    pub const fn opcode(&self) -> u8 {
        match self {
            Self::PrefetchConfig { .. } => PREFETCH_CONFIG,
            Self::PrefetchAddress { .. } => PREFETCH_ADDRESS,
            Self::CfgiSte { .. } => CFGI_STE,
            Self::CfgiSteRange { .. } | Self::CfgiAll => CFGI_STE_RANGE,
            Self::CfgiCd { .. } => CFGI_CD,
            Self::CfgiCdAll { .. } => CFGI_CD_ALL,
            Self::TlbiNhAll { .. } => TLBI_NH_ALL,
            Self::TlbiNhAsid { .. } => TLBI_NH_ASID,
            Self::TlbiNhVa { .. } => TLBI_NH_VA,
            Self::TlbiNhVaa { .. } => TLBI_NH_VAA,
            Self::TlbiEl2All => TLBI_EL2_ALL,
            Self::TlbiEl2Asid { .. } => TLBI_EL2_ASID,
            Self::TlbiEl2Va { .. } => TLBI_EL2_VA,
            Self::TlbiEl2Vaa { .. } => TLBI_EL2_VAA,
            Self::TlbiS12VmAll { .. } => TLBI_S12_VMALL,
            Self::TlbiS2Ipa { .. } => TLBI_S2_IPA,
            Self::TlbiNsnhAll => TLBI_NSNH_ALL,
            Self::AtcInv { .. } => ATC_INV,
            Self::PriResp { .. } => PRI_RESP,
            Self::Resume { .. } => RESUME,
            Self::StallTerm { .. } => STALL_TERM,
            Self::Sync(_) => SYNC,
        }
    }

    /// The command's words.
    #[inline(always)]
    pub const fn encode(&self) -> [u64; 2] {
        let [first, second] = match *self {
            Self::PrefetchConfig { stream, substream } => [put_stream(stream) | put_substream(substream), 0],
            Self::PrefetchAddress { stream, substream, address } => {
                [put_stream(stream) | put_substream(substream), VIRTUAL_ADDRESS.address(address)]
            }
            Self::CfgiSte { stream, leaf } => [put_stream(stream), LEAF.flag(leaf)],
            Self::CfgiSteRange { stream, range } => [put_stream(stream), RANGE.put(range as u64)],
            Self::CfgiAll => [0, RANGE.put(RANGE_ALL as u64)],
            Self::CfgiCd { stream, substream, leaf } => {
                [put_stream(stream) | SUBSTREAM.put(substream.get() as u64), LEAF.flag(leaf)]
            }
            Self::CfgiCdAll { stream } | Self::StallTerm { stream } => [put_stream(stream), 0],
            Self::TlbiNhAll { vmid } | Self::TlbiS12VmAll { vmid } => [put_vmid(vmid), 0],
            Self::TlbiNhAsid { vmid, asid } => [put_vmid(vmid) | put_asid(asid), 0],
            Self::TlbiNhVa { vmid, asid, range } => range.put(put_vmid(vmid) | put_asid(asid), VIRTUAL_ADDRESS),
            Self::TlbiNhVaa { vmid, range } => range.put(put_vmid(vmid), VIRTUAL_ADDRESS),
            Self::TlbiEl2All | Self::TlbiNsnhAll => [0, 0],
            Self::TlbiEl2Asid { asid } => [put_asid(asid), 0],
            Self::TlbiEl2Va { asid, range } => range.put(put_asid(asid), VIRTUAL_ADDRESS),
            Self::TlbiEl2Vaa { range } => range.put(0, VIRTUAL_ADDRESS),
            Self::TlbiS2Ipa { vmid, range } => range.put(put_vmid(vmid), IPA),
            Self::AtcInv { stream, substream, global, address, size } => [
                put_stream(stream) | put_substream(substream) | ATC_GLOBAL.flag(global && substream.is_some()),
                ATC_SIZE.put(size as u64) | VIRTUAL_ADDRESS.address(address),
            ],
            Self::PriResp { stream, substream, group, response } => [
                put_stream(stream) | put_substream(substream),
                GROUP.put(group.get() as u64) | RESPONSE.put(response as u64),
            ],
            Self::Resume { stream, stag, action } => {
                let action = match action {
                    ResumeAction::Retry => RESUME_RETRY.mask(),
                    ResumeAction::Abort => RESUME_ABORT.mask(),
                    ResumeAction::Terminate => 0,
                };
                [put_stream(stream) | action, STAG.put(stag.0 as u64)]
            }
            Self::Sync(completion) => completion.put(),
        };
        [first | OPCODE.put(self.opcode() as u64), second]
    }

    /// The command in two words. Fields that the command ignores are dropped.
    ///
    /// # Errors
    ///
    /// [`CommandError`] for what an SMMU refuses, or may refuse, whatever its features are (4.1.3).
    pub const fn decode(words: [u64; 2]) -> Result<Self, CommandError> {
        let [first, second] = words;
        let opcode = OPCODE.get(first) as u8;
        let Some(defined) = defined(opcode) else { return Err(CommandError::Opcode(opcode)) };
        if first & !defined[0] != 0 {
            return Err(CommandError::Reserved { opcode, word: 0, bits: first & !defined[0] });
        }
        if second & !defined[1] != 0 {
            return Err(CommandError::Reserved { opcode, word: 1, bits: second & !defined[1] });
        }
        let stream = StreamId(STREAM.get(first) as u32);
        let substream = if SUBSTREAM_VALID.is_set(first) { Some(get_substream(first)) } else { None };
        let vmid = Vmid(VMID.get(first) as u16);
        let asid = Asid(ASID.get(first) as u16);
        let leaf = LEAF.is_set(second);
        Ok(match opcode {
            PREFETCH_CONFIG => Self::PrefetchConfig { stream, substream },
            PREFETCH_ADDRESS => Self::PrefetchAddress { stream, substream, address: VIRTUAL_ADDRESS.address(second) },
            CFGI_STE => Self::CfgiSte { stream, leaf },
            CFGI_STE_RANGE => match RANGE.get(second) as u8 {
                RANGE_ALL => Self::CfgiAll,
                range => Self::CfgiSteRange { stream, range },
            },
            CFGI_CD => Self::CfgiCd { stream, substream: get_substream(first), leaf },
            CFGI_CD_ALL => Self::CfgiCdAll { stream },
            TLBI_NH_ALL => Self::TlbiNhAll { vmid },
            TLBI_NH_ASID => Self::TlbiNhAsid { vmid, asid },
            TLBI_EL2_ALL => Self::TlbiEl2All,
            TLBI_EL2_ASID => Self::TlbiEl2Asid { asid },
            TLBI_S12_VMALL => Self::TlbiS12VmAll { vmid },
            TLBI_NSNH_ALL => Self::TlbiNsnhAll,
            TLBI_NH_VA | TLBI_NH_VAA | TLBI_EL2_VA | TLBI_EL2_VAA | TLBI_S2_IPA => {
                let range = match TlbiRange::get(words) {
                    Ok(range) => range,
                    Err(error) => return Err(error),
                };
                match opcode {
                    TLBI_NH_VA => Self::TlbiNhVa { vmid, asid, range },
                    TLBI_NH_VAA => Self::TlbiNhVaa { vmid, range },
                    TLBI_EL2_VA => Self::TlbiEl2Va { asid, range },
                    TLBI_EL2_VAA => Self::TlbiEl2Vaa { range },
                    _ => Self::TlbiS2Ipa { vmid, range },
                }
            }
            ATC_INV => {
                let size = ATC_SIZE.get(second) as u8;
                if size > Self::ATC_INV_ALL {
                    return Err(CommandError::AtcSize(size));
                }
                let global = ATC_GLOBAL.is_set(first) && substream.is_some();
                Self::AtcInv { stream, substream, global, address: VIRTUAL_ADDRESS.address(second), size }
            }
            PRI_RESP => {
                let response = match RESPONSE.get(second) {
                    0 => PageResponse::Failure,
                    1 => PageResponse::Invalid,
                    2 => PageResponse::Success,
                    _ => return Err(CommandError::Response),
                };
                Self::PriResp { stream, substream, group: PrgIndex::from_low_bits(GROUP.get(second)), response }
            }
            RESUME => {
                let action = match (RESUME_RETRY.is_set(first), RESUME_ABORT.is_set(first)) {
                    (true, _) => ResumeAction::Retry,
                    (false, true) => ResumeAction::Abort,
                    (false, false) => ResumeAction::Terminate,
                };
                Self::Resume { stream, stag: Stag(STAG.get(second) as u16), action }
            }
            STALL_TERM => Self::StallTerm { stream },
            SYNC => match SyncCompletion::get(words) {
                Ok(completion) => Self::Sync(completion),
                Err(error) => return Err(error),
            },
            _ => return Err(CommandError::Opcode(opcode)),
        })
    }
}

impl TlbiRange {
    /// The words of a command that has `first` in word 0 and the address where `address` says.
    const fn put(self, first: u64, address: Field) -> [u64; 2] {
        let second = LEAF.flag(self.leaf) | address.address(self.address);
        match self.span {
            None => [first, second],
            Some(TlbiSpan { granule, ttl, num, scale }) => {
                let granule = match granule {
                    Granule::Size4K => 1,
                    Granule::Size16K => 2,
                    Granule::Size64K => 3,
                };
                [
                    first | NUM.put(num as u64) | SCALE.put(scale as u64),
                    second | GRANULE.put(granule) | TTL.put(ttl as u64),
                ]
            }
        }
    }

    const fn get([first, second]: [u64; 2]) -> Result<Self, CommandError> {
        let (num, scale, ttl) = (NUM.get(first) as u8, SCALE.get(first) as u8, TTL.get(second) as u8);
        let opcode = OPCODE.get(first) as u8;
        let granule = match GRANULE.get(second) {
            0 => None,
            1 => Some(Granule::Size4K),
            2 => Some(Granule::Size16K),
            _ => Some(Granule::Size64K),
        };
        let span = match granule {
            // Without a granule the range is reserved too.
            None if NUM.is_set(first) || SCALE.is_set(first) => {
                let bits = first & (NUM.mask() | SCALE.mask());
                return Err(CommandError::Reserved { opcode, word: 0, bits });
            }
            None if ttl != 0 => {
                return Err(CommandError::Reserved { opcode, word: 1, bits: second & TTL.mask() });
            }
            None => None,
            Some(_) if num == 0 && scale == 0 && ttl == 0 => return Err(CommandError::EmptySpan(opcode)),
            Some(granule) => Some(TlbiSpan { granule, ttl, num, scale }),
        };
        Ok(Self { address: VIRTUAL_ADDRESS.address(second), leaf: LEAF.is_set(second), span })
    }
}

impl SyncCompletion {
    const fn put(self) -> [u64; 2] {
        match self {
            Self::None => [SYNC_SIGNAL.put(0), 0],
            Self::Interrupt { msi: None } => [SYNC_SIGNAL.put(1), 0],
            Self::Interrupt { msi: Some(msi) } => [
                SYNC_SIGNAL.put(1)
                    | MSI_SHAREABILITY.put(msi.shareability as u64)
                    | MSI_ATTRIBUTES.put(msi.attributes as u64)
                    | MSI_DATA.put(msi.data as u64),
                MSI_ADDRESS.address(msi.address.0),
            ],
            Self::Event => [SYNC_SIGNAL.put(2), 0],
        }
    }

    const fn get([first, second]: [u64; 2]) -> Result<Self, CommandError> {
        match SYNC_SIGNAL.get(first) {
            0 => Ok(Self::None),
            1 if MSI_ADDRESS.is_set(second) => Ok(Self::Interrupt {
                msi: Some(Msi {
                    address: PhysAddr(MSI_ADDRESS.address(second)),
                    data: MSI_DATA.get(first) as u32,
                    attributes: MSI_ATTRIBUTES.get(first) as u8,
                    shareability: Shareability::from_low_bits(MSI_SHAREABILITY.get(first)),
                }),
            }),
            1 => Ok(Self::Interrupt { msi: None }),
            2 => Ok(Self::Event),
            _ => Err(CommandError::Completion),
        }
    }
}

const fn put_stream(stream: StreamId) -> u64 {
    STREAM.put(stream.0 as u64)
}

const fn put_substream(substream: Option<SubstreamId>) -> u64 {
    match substream {
        Some(substream) => SUBSTREAM_VALID.mask() | SUBSTREAM.put(substream.get() as u64),
        None => 0,
    }
}

const fn get_substream(first: u64) -> SubstreamId {
    SubstreamId::from_low_bits(SUBSTREAM.get(first))
}

const fn put_vmid(vmid: Vmid) -> u64 {
    VMID.put(vmid.0 as u64)
}

const fn put_asid(asid: Asid) -> u64 {
    ASID.put(asid.0 as u64)
}
