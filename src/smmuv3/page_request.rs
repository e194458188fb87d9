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
