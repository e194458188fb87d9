//! PRI queue records: what a device asks for by PCIe page request (8).

use super::bits::Field;
use super::{Access, PrgIndex, StreamId, SubstreamId};

const STREAM: Field = Field::new(31, 0);
const SUBSTREAM: Field = Field::new(51, 32);
const PRIVILEGED: Field = Field::bit(58);
const EXECUTE: Field = Field::bit(59);
const READ: Field = Field::bit(60);
const WRITE: Field = Field::bit(61);
const LAST: Field = Field::bit(62);
const SUBSTREAM_VALID: Field = Field::bit(63);

const GROUP: Field = Field::new(8, 0);
const ADDRESS: Field = Field::new(63, 12);

/// One record of the PRI queue: a page request, or a Stop marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PageRequest {
    /// Who asks.
    pub stream: StreamId,
    /// For which of its address spaces; `None` without PASID.
    pub substream: Option<SubstreamId>,
    /// What it wants to do there. Without PASID never execute or privileged.
    pub access: Access,
    /// The last request of its group, which is the one that wants the answer.
    pub last: bool,
    /// The group it belongs to.
    pub group: PrgIndex,
    /// The page's address, a multiple of 4096.
    pub address: u64,
}

impl PageRequest {
    /// The bytes that a record takes.
    pub const SIZE: usize = 16;

    /// Whether this is a Stop marker, the end of a PASID's page requests, which wants no answer. Without PASID the same
    /// bits are an ordinary request.
    pub const fn is_stop_marker(&self) -> bool {
        self.last && !self.access.read && !self.access.write && self.substream.is_some()
    }

    /// The record's words.
    pub const fn encode(&self) -> [u64; 2] {
        let substream = match self.substream {
            Some(substream) => {
                SUBSTREAM_VALID.mask()
                    | SUBSTREAM.put(substream.get() as u64)
                    | PRIVILEGED.flag(self.access.privileged)
                    | EXECUTE.flag(self.access.execute)
            }
            None => 0,
        };
        [
            substream
                | STREAM.put(self.stream.0 as u64)
                | READ.flag(self.access.read)
                | WRITE.flag(self.access.write)
                | LAST.flag(self.last),
            GROUP.put(self.group.get() as u64) | ADDRESS.address(self.address),
        ]
    }

    /// The request in a record. Every pair of words is one: reserved bits, and without PASID its bits too, are ignored.
    pub const fn decode(words: [u64; 2]) -> Self {
        let [first, second] = words;
        let pasid = SUBSTREAM_VALID.is_set(first);
        Self {
            stream: StreamId(STREAM.get(first) as u32),
            substream: if pasid { Some(SubstreamId::from_low_bits(SUBSTREAM.get(first))) } else { None },
            access: Access {
                read: READ.is_set(first),
                write: WRITE.is_set(first),
                execute: pasid && EXECUTE.is_set(first),
                privileged: pasid && PRIVILEGED.is_set(first),
            },
            last: LAST.is_set(first),
            group: PrgIndex::from_low_bits(GROUP.get(second)),
            address: ADDRESS.address(second),
        }
    }
}

#[cfg(test)]
mod tests {
    //! Words of records, written by hand from chapter 8.

    use super::*;

    fn request() -> PageRequest {
        PageRequest {
            stream: StreamId(0x300),
            substream: None,
            access: Access::default(),
            last: true,
            group: PrgIndex::new(0).unwrap(),
            address: 0,
        }
    }

    #[track_caller]
    fn check(words: [u64; 2], request: PageRequest) {
        assert_eq!(request.encode(), words, "encode {request:?}");
        assert_eq!(PageRequest::decode(words), request, "decode {words:#x?}");
    }

    #[test]
    fn a_request_with_pasid_has_all_fields() {
        // SSV, Last, R, Priv.
        check(
            [0xd401_2345_0000_0300, 0x0000_7fff_ffff_f1ab],
            PageRequest {
                substream: SubstreamId::new(0x12345),
                access: Access { privileged: true, ..Access::READ },
                group: PrgIndex::new(0x1ab).unwrap(),
                address: 0x0000_7fff_ffff_f000,
                ..request()
            },
        );
        // SSV, W, X.
        check(
            [0xa80f_ffff_ffff_ffff, 0xffff_ffff_ffff_f000],
            PageRequest {
                stream: StreamId(u32::MAX),
                substream: SubstreamId::new(0xfffff),
                access: Access { execute: true, ..Access::WRITE },
                last: false,
                address: 0xffff_ffff_ffff_f000,
                ..request()
            },
        );
    }

    #[test]
    fn a_request_without_pasid_is_neither_execute_nor_privileged() {
        check(
            [0x7000_0000_0000_0300, 0x1000],
            PageRequest { access: Access { read: true, ..Access::WRITE }, address: 0x1000, ..request() },
        );
        // The same with Priv, X and SubstreamID set, which are unknown then.
        assert_eq!(
            PageRequest::decode([0x7c0f_ffff_0000_0300, 0x1000]),
            PageRequest::decode([0x7000_0000_0000_0300, 0x1000])
        );
    }

    #[test]
    fn a_stop_marker_has_a_pasid() {
        let stop = PageRequest { substream: SubstreamId::new(7), ..request() };
        check([0xc000_0007_0000_0300, 0], stop);
        assert!(stop.is_stop_marker());
        // The same without PASID is a request.
        check([0x4000_0000_0000_0300, 0], request());
        assert!(!request().is_stop_marker());
        for access in [Access::READ, Access::WRITE] {
            assert!(!PageRequest { access, ..stop }.is_stop_marker());
        }
        assert!(!PageRequest { last: false, ..stop }.is_stop_marker());
    }
}
