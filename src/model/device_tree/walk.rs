//! Reads a flattened tree token by token, trusting nothing in it.

use core::ops::Range;

use super::TreeError;

const MAGIC: u32 = 0xd00d_feed;
const VERSION: u32 = 17;
const HEADER: usize = 40;

const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROPERTY: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;

/// A flattened device tree whose header and blocks lie inside its bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blocks<'a> {
    /// The memory reservations with the terminating entry.
    pub(super) reservations: &'a [u8],
    pub(super) structure: &'a [u8],
    pub(super) strings: &'a [u8],
    pub(super) boot_core: u32,
}

/// One token of the structure block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// A node of this name starts.
    Begin(&'a str),
    /// A property of the node that started last.
    Property(&'a str, &'a [u8]),
    /// The innermost node ends.
    End,
}

impl<'a> Blocks<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, TreeError> {
        let field = |index: usize| word(bytes, 4 * index).ok_or(TreeError::Truncated { block: "header", end: HEADER });
        let magic = field(0)?;
        if magic != MAGIC {
            return Err(TreeError::Magic(magic));
        }
        let (version, oldest) = (field(5)?, field(6)?);
        if version < VERSION || oldest > VERSION {
            return Err(TreeError::Version { version, oldest });
        }
        let total = field(1)? as usize;
        let bytes = bytes.get(..total).ok_or(TreeError::Truncated { block: "whole", end: total })?;
        let block = |block, start: u32, length: usize| {
            let end = (start as usize).saturating_add(length);
            bytes.get(start as usize..end).ok_or(TreeError::Truncated { block, end })
        };
        let structure = block("structure", field(2)?, field(9)? as usize)?;
        let strings = block("strings", field(3)?, field(8)? as usize)?;
        let reservations = block("reservation", field(4)?, total.saturating_sub(field(4)? as usize))?;
        let entries = reservations.as_chunks::<16>().0.iter().position(|entry| *entry == [0; 16]);
        let entries = entries.ok_or(TreeError::Truncated { block: "reservation", end: total })?;
        Ok(Self { reservations: &reservations[..16 * (entries + 1)], structure, strings, boot_core: field(7)? })
    }

    pub(super) fn walk(self) -> Walk<'a> {
        Walk { blocks: self, offset: 0, depth: 0, properties: false }
    }
}

/// A walk over the structure block, from the root's begin to its end.
///
/// It yields only what the Devicetree Specification allows: one root without a name, well-formed names, properties
/// before subnodes, every node closed.
#[derive(Clone, Debug)]
pub(super) struct Walk<'a> {
    blocks: Blocks<'a>,
    offset: usize,
    depth: usize,
    /// Whether the node that started last may still have properties.
    properties: bool,
}

impl<'a> Walk<'a> {
    /// How many nodes are open.
    pub(super) fn depth(&self) -> usize {
        self.depth
    }

    /// The next token and where it lies in the structure block; `None` after the root's end.
    pub(super) fn next(&mut self) -> Result<Option<(Range<usize>, Token<'a>)>, TreeError> {
        loop {
            let start = self.offset;
            let kind = self.word(start)?;
            self.offset = start + 4;
            let token = match kind {
                NOP => continue,
                BEGIN_NODE if self.depth > 0 || start == self.first() => self.begin(start)?,
                PROPERTY if self.properties => self.property(start)?,
                END_NODE if self.depth > 0 => {
                    (self.depth, self.properties) = (self.depth - 1, false);
                    Token::End
                }
                END if self.depth == 0 && start != self.first() => return Ok(None),
                _ => return Err(TreeError::Token { offset: start, token: kind }),
            };
            return Ok(Some((start..self.offset, token)));
        }
    }

    /// The value of a property of the node that started last.
    pub(super) fn property_of_node(&self, wanted: &str) -> Result<Option<&'a [u8]>, TreeError> {
        let mut ahead = self.clone();
        while let Some((_, Token::Property(name, value))) = ahead.next()? {
            if name == wanted {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// Walks to behind the end of the node that started last.
    pub(super) fn skip_node(&mut self) -> Result<(), TreeError> {
        let outside = self.depth - 1;
        while self.depth > outside {
            self.next()?;
        }
        Ok(())
    }

    /// Where the root starts: behind leading NOPs.
    fn first(&self) -> usize {
        let words = self.blocks.structure.as_chunks::<4>().0;
        4 * words.iter().take_while(|word| **word == NOP.to_be_bytes()).count()
    }

    fn begin(&mut self, start: usize) -> Result<Token<'a>, TreeError> {
        let name = string(self.blocks.structure, self.offset).ok_or(TreeError::Name { offset: start })?;
        if !(if self.depth == 0 { name.is_empty() } else { is_node_name(name) }) {
            return Err(TreeError::Name { offset: start });
        }
        (self.depth, self.properties) = (self.depth + 1, true);
        self.advance(name.len() + 1)?;
        Ok(Token::Begin(name))
    }

    fn property(&mut self, start: usize) -> Result<Token<'a>, TreeError> {
        let (length, name) = (self.word(start + 4)? as usize, self.word(start + 8)? as usize);
        let name = string(self.blocks.strings, name).ok_or(TreeError::Name { offset: start })?;
        if !is_property_name(name) {
            return Err(TreeError::Name { offset: start });
        }
        let value = start + 12;
        self.offset = value;
        self.advance(length)?;
        Ok(Token::Property(name, &self.blocks.structure[value..value + length]))
    }

    /// Moves on by `length` bytes and the padding to the next word, all of which must exist.
    fn advance(&mut self, length: usize) -> Result<(), TreeError> {
        let end = self.offset.saturating_add(length).checked_next_multiple_of(4);
        match end {
            Some(end) if end <= self.blocks.structure.len() => self.offset = end,
            _ => return Err(TreeError::Truncated { block: "structure", end: end.unwrap_or(usize::MAX) }),
        }
        Ok(())
    }

    fn word(&self, offset: usize) -> Result<u32, TreeError> {
        word(self.blocks.structure, offset).ok_or(TreeError::Truncated { block: "structure", end: offset + 4 })
    }
}

/// The big-endian word at `offset`.
pub(super) fn word(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..)?.first_chunk().map(|word| u32::from_be_bytes(*word))
}

/// The NUL-terminated string at `offset`, which is ASCII.
fn string(bytes: &[u8], offset: usize) -> Option<&str> {
    let bytes = bytes.get(offset..)?;
    let end = bytes.iter().position(|byte| *byte == 0)?;
    core::str::from_utf8(&bytes[..end]).ok().filter(|name| name.is_ascii())
}

fn is_node_name(name: &str) -> bool {
    let (base, unit) = name.split_once('@').unwrap_or((name, "0"));
    let is_word = |part: &str| !part.is_empty() && part.bytes().all(is_name_byte);
    is_word(base) && base.len() <= 31 && is_word(unit)
}

fn is_property_name(name: &str) -> bool {
    (1..=31).contains(&name.len()) && name.bytes().all(|byte| is_name_byte(byte) || matches!(byte, b'?' | b'#'))
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b',' | b'.' | b'_' | b'+' | b'-')
}
