//! The words of an event record.

use super::{Event, EventError, FaultClass, FaultKind, Fetch, Origin, TranslationFault};
use crate::smmuv3::bits::Field;
use crate::smmuv3::{Access, Stag, StreamId, SubstreamId};

// Word 0.
const NUMBER: Field = Field::new(7, 0);
const SUBSTREAM_VALID: Field = Field::bit(11);
const SUBSTREAM: Field = Field::new(31, 12);
const STREAM: Field = Field::new(63, 32);
/// The three above.
pub(super) const ORIGIN: Field = Field::new(63, 11);
// Word 1.
const REASON: Field = Field::new(15, 0);
const GRANULE_PROTECTION: Field = Field::bit(16);
pub(super) const STAG: Field = Field::new(15, 0);
pub(super) const STALL: Field = Field::bit(31);
const PRIVILEGED: Field = Field::bit(33);
const INSTRUCTION: Field = Field::bit(34);
const READ: Field = Field::bit(35);
/// The three above.
pub(super) const ACCESS: Field = Field::new(35, 33);
const STAGE2: Field = Field::bit(39);
const CLASS: Field = Field::new(41, 40);
const TABLE_READ: Field = Field::bit(44);
// Word 1 of E_PAGE_REQUEST.
const HINT_EXECUTE: Field = Field::bit(33);
const HINT_WRITE: Field = Field::bit(34);
const HINT_READ: Field = Field::bit(35);
const HINT_PRIVILEGED_EXECUTE: Field = Field::bit(37);
const HINT_PRIVILEGED_WRITE: Field = Field::bit(38);
const HINT_PRIVILEGED_READ: Field = Field::bit(39);
const HINT_SPAN: Field = Field::new(51, 44);
// Word 2.
const PAGE_ADDRESS: Field = Field::new(63, 12);
// Word 3.
const IPA: Field = Field::new(55, 12);
const FETCH_ADDRESS: Field = Field::new(55, 3);

const F_UUT: u8 = 0x01;
const C_BAD_STREAMID: u8 = 0x02;
const F_STE_FETCH: u8 = 0x03;
const C_BAD_STE: u8 = 0x04;
const F_BAD_ATS_TREQ: u8 = 0x05;
const F_STREAM_DISABLED: u8 = 0x06;
const F_TRANSL_FORBIDDEN: u8 = 0x07;
const C_BAD_SUBSTREAMID: u8 = 0x08;
const F_CD_FETCH: u8 = 0x09;
const C_BAD_CD: u8 = 0x0a;
const F_WALK_EABT: u8 = 0x0b;
pub(super) const F_TRANSLATION: u8 = 0x10;
const F_ADDR_SIZE: u8 = 0x11;
const F_ACCESS: u8 = 0x12;
pub(super) const F_PERMISSION: u8 = 0x13;
const F_TLB_CONFLICT: u8 = 0x20;
const F_CFG_CONFLICT: u8 = 0x21;
const E_PAGE_REQUEST: u8 = 0x24;
const F_VMS_FETCH: u8 = 0x25;

impl Event {
    /// The record's words, reserved and unknown fields zero.
    pub const fn encode(&self) -> [u64; 4] {
        match *self {
            Self::Uut { origin, reason, access, address } => {
                [origin.put(F_UUT), REASON.put(reason as u64) | put_access(access), address, 0]
            }
            Self::BadStreamId { origin } => [origin.put(C_BAD_STREAMID), 0, 0, 0],
            Self::SteFetch { origin, fetch } => fetch.put(origin.put(F_STE_FETCH), 0, 0),
            Self::BadSte { origin } => [origin.put(C_BAD_STE), 0, 0, 0],
            Self::BadAtsTreq { origin, address } => [origin.put(F_BAD_ATS_TREQ), 0, PAGE_ADDRESS.address(address), 0],
            Self::StreamDisabled { stream } => {
                // This record has no SubstreamID, although one may have been the cause.
                [Origin { stream, substream: None }.put(F_STREAM_DISABLED), 0, 0, 0]
            }
            Self::TranslForbidden { origin, write, address } => {
                [origin.put(F_TRANSL_FORBIDDEN), READ.flag(!write), address, 0]
            }
            Self::BadSubstreamId { stream, substream } => {
                // This record has no SSV: its SubstreamID is always valid.
                let origin = Origin { stream, substream: Some(substream) };
                [origin.put(C_BAD_SUBSTREAMID) & !SUBSTREAM_VALID.mask(), 0, 0, 0]
            }
            Self::CdFetch { origin, fetch } => fetch.put(origin.put(F_CD_FETCH), 0, 0),
            Self::BadCd { origin } => [origin.put(C_BAD_CD), 0, 0, 0],
            Self::WalkEabt { origin, access, class, stage2, address, fetch } => fetch.put(
                origin.put(F_WALK_EABT),
                put_access(access) | STAGE2.flag(stage2) | CLASS.put(class as u64),
                address,
            ),
            Self::Fault(fault) => fault.encode(),
            Self::TlbConflict { origin, reason, access, address, ipa } => {
                let (stage2, ipa) = put_ipa(ipa);
                [origin.put(F_TLB_CONFLICT), REASON.put(reason as u64) | put_access(access) | stage2, address, ipa]
            }
            Self::CfgConflict { origin, reason } => [origin.put(F_CFG_CONFLICT), REASON.put(reason as u64), 0, 0],
            Self::PageRequest { origin, unprivileged, privileged, address, span } => [
                origin.put(E_PAGE_REQUEST),
                HINT_EXECUTE.flag(unprivileged.execute)
                    | HINT_WRITE.flag(unprivileged.write)
                    | HINT_READ.flag(unprivileged.read)
                    | HINT_PRIVILEGED_EXECUTE.flag(privileged.execute)
                    | HINT_PRIVILEGED_WRITE.flag(privileged.write)
                    | HINT_PRIVILEGED_READ.flag(privileged.read)
                    | HINT_SPAN.put(span as u64),
                PAGE_ADDRESS.address(address),
                0,
            ],
            Self::VmsFetch { origin, fetch } => fetch.put(origin.put(F_VMS_FETCH), 0, 0),
            Self::ImplementationDefined { words } => words,
        }
    }

    /// The event in a record. Reserved bits are ignored, as later versions of the architecture use some.
    ///
    /// # Errors
    ///
    /// [`EventError`] for a reserved number or class; the specification wants software to go on after such a record
    /// (7.3).
    #[inline(always)]
    pub const fn decode(words: [u64; 4]) -> Result<Self, EventError> {
        let [first, second, address, _] = words;
        let number = NUMBER.get(first) as u8;
        let origin = Origin::get(first);
        let access = get_access(second);
        let reason = REASON.get(second) as u16;
        let fetch = Fetch::get(words);
        Ok(match number {
            F_UUT => Self::Uut { origin, reason, access, address },
            C_BAD_STREAMID => Self::BadStreamId { origin },
            F_STE_FETCH => Self::SteFetch { origin, fetch },
            C_BAD_STE => Self::BadSte { origin },
            F_BAD_ATS_TREQ => Self::BadAtsTreq { origin, address: PAGE_ADDRESS.address(address) },
            F_STREAM_DISABLED => Self::StreamDisabled { stream: origin.stream },
            F_TRANSL_FORBIDDEN => Self::TranslForbidden { origin, write: !READ.is_set(second), address },
            C_BAD_SUBSTREAMID => {
                let substream = SubstreamId::from_low_bits(SUBSTREAM.get(first));
                Self::BadSubstreamId { stream: origin.stream, substream }
            }
            F_CD_FETCH => Self::CdFetch { origin, fetch },
            C_BAD_CD => Self::BadCd { origin },
            F_WALK_EABT => match get_class(number, second) {
                Ok(class) => Self::WalkEabt { origin, access, class, stage2: STAGE2.is_set(second), address, fetch },
                Err(error) => return Err(error),
            },
            F_TRANSLATION => return TranslationFault::decode(FaultKind::Translation, words),
            F_ADDR_SIZE => return TranslationFault::decode(FaultKind::AddressSize, words),
            F_ACCESS => return TranslationFault::decode(FaultKind::Access, words),
            F_PERMISSION => return TranslationFault::decode(FaultKind::Permission, words),
            F_TLB_CONFLICT => Self::TlbConflict { origin, reason, access, address, ipa: get_ipa(words) },
            F_CFG_CONFLICT => Self::CfgConflict { origin, reason },
            E_PAGE_REQUEST => Self::PageRequest {
                origin,
                unprivileged: Access {
                    read: HINT_READ.is_set(second),
                    write: HINT_WRITE.is_set(second),
                    execute: HINT_EXECUTE.is_set(second),
                    privileged: false,
                },
                privileged: Access {
                    read: HINT_PRIVILEGED_READ.is_set(second),
                    write: HINT_PRIVILEGED_WRITE.is_set(second),
                    execute: HINT_PRIVILEGED_EXECUTE.is_set(second),
                    privileged: true,
                },
                address: PAGE_ADDRESS.address(address),
                span: HINT_SPAN.get(second) as u8,
            },
            F_VMS_FETCH => Self::VmsFetch { origin, fetch },
            0xe0..=0xef => Self::ImplementationDefined { words },
            _ => return Err(EventError::Number(number)),
        })
    }
}

impl TranslationFault {
    const fn encode(&self) -> [u64; 4] {
        let origin = Origin { stream: self.stream, substream: self.substream };
        let stall = match self.stag {
            Some(stag) => STALL.mask() | STAG.put(stag.0 as u64),
            None => 0,
        };
        let table_read = self.names_table_access() && !self.table_write;
        let (stage2, ipa) = put_ipa(self.ipa);
        let second =
            stall | put_access(self.access) | stage2 | CLASS.put(self.class as u64) | TABLE_READ.flag(table_read);
        [origin.put(self.kind as u8), second, self.address, ipa]
    }

    const fn decode(kind: FaultKind, words: [u64; 4]) -> Result<Event, EventError> {
        let [first, second, address, _] = words;
        let class = match get_class(kind as u8, second) {
            Ok(class) => class,
            Err(error) => return Err(error),
        };
        let Origin { stream, substream } = Origin::get(first);
        let mut fault = Self {
            kind,
            stream,
            substream,
            stag: if STALL.is_set(second) { Some(Stag(STAG.get(second) as u16)) } else { None },
            access: get_access(second),
            class,
            ipa: get_ipa(words),
            table_write: false,
            address,
        };
        fault.table_write = fault.names_table_access() && !TABLE_READ.is_set(second);
        Ok(Event::Fault(fault))
    }

    /// Whether the record has a valid `TTRnW` (7.3.16).
    pub(super) const fn names_table_access(&self) -> bool {
        matches!((self.kind, self.class), (FaultKind::Permission, FaultClass::TableDescriptor))
    }
}

impl Origin {
    /// Word 0 of event `number`.
    const fn put(self, number: u8) -> u64 {
        let substream = match self.substream {
            Some(substream) => SUBSTREAM_VALID.mask() | SUBSTREAM.put(substream.get() as u64),
            None => 0,
        };
        NUMBER.put(number as u64) | substream | STREAM.put(self.stream.0 as u64)
    }

    pub(super) const fn get(first: u64) -> Self {
        Self {
            stream: StreamId(STREAM.get(first) as u32),
            substream: if SUBSTREAM_VALID.is_set(first) {
                Some(SubstreamId::from_low_bits(SUBSTREAM.get(first)))
            } else {
                None
            },
        }
    }
}

impl Fetch {
    /// The words of a record with `first`, `second` and `address` besides the fetch.
    const fn put(self, first: u64, second: u64, address: u64) -> [u64; 4] {
        let second = second | REASON.put(self.reason as u64) | GRANULE_PROTECTION.flag(self.granule_protection);
        [first, second, address, FETCH_ADDRESS.address(self.address)]
    }

    const fn get([_, second, _, fourth]: [u64; 4]) -> Self {
        Self {
            reason: REASON.get(second) as u16,
            granule_protection: GRANULE_PROTECTION.is_set(second),
            address: FETCH_ADDRESS.address(fourth),
        }
    }
}

const fn put_access(access: Access) -> u64 {
    READ.flag(!access.write) | INSTRUCTION.flag(access.execute && !access.write) | PRIVILEGED.flag(access.privileged)
}

/// `InD` counts only for reads: it is 0 for writes (7.3.13). Without branches: what faults come next nobody can foresee.
pub(super) const fn get_access(second: u64) -> Access {
    let (read, instruction) = (READ.is_set(second), INSTRUCTION.is_set(second));
    Access {
        read: read & !instruction,
        write: !read,
        execute: read & instruction,
        privileged: PRIVILEGED.is_set(second),
    }
}

const fn get_class(number: u8, second: u64) -> Result<FaultClass, EventError> {
    match CLASS.get(second) {
        0 => Ok(FaultClass::ContextDescriptor),
        1 => Ok(FaultClass::TableDescriptor),
        2 => Ok(FaultClass::Input),
        _ => Err(EventError::Class(number)),
    }
}

/// `S2` in word 1 and the IPA in word 3.
const fn put_ipa(ipa: Option<u64>) -> (u64, u64) {
    match ipa {
        Some(ipa) => (STAGE2.mask(), IPA.address(ipa)),
        None => (0, 0),
    }
}

const fn get_ipa([_, second, _, fourth]: [u64; 4]) -> Option<u64> {
    if STAGE2.is_set(second) { Some(IPA.address(fourth)) } else { None }
}
