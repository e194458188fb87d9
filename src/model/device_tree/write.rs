//! Writes a flattened tree into a buffer of fixed size.

use super::TreeError;
use super::walk::Blocks;

const HEADER: usize = 40;

/// The properties that the model's nodes have.
#[derive(Clone, Copy, Debug)]
pub(super) enum Name {
    Compatible,
    DmaCanStall,
    DmaCoherent,
    InterruptNames,
    Interrupts,
    IommuCells,
    Iommus,
    MsiParent,
    PasidNumBits,
    Phandle,
    Reg,
}

/// The names by [`Name`], as they follow the source's strings.
const NAMES: [&str; 11] = [
    "compatible",
    "dma-can-stall",
    "dma-coherent",
    "interrupt-names",
    "interrupts",
    "#iommu-cells",
    "iommus",
    "msi-parent",
    "pasid-num-bits",
    "phandle",
    "reg",
];

/// A tree being written: the structure block behind a header that [`finish`](Writer::finish) fills in.
#[derive(Debug)]
pub(super) struct Writer<'a, 'o> {
    source: Blocks<'a>,
    out: &'o mut [u8],
    length: usize,
}

impl<'a, 'o> Writer<'a, 'o> {
    /// Starts a tree with the reservations, and later the strings, of `source`.
    pub(super) fn new(source: Blocks<'a>, out: &'o mut [u8]) -> Result<Self, TreeError> {
        let mut writer = Self { source, out, length: 0 };
        writer.bytes(&[0; HEADER])?;
        writer.bytes(source.reservations)?;
        Ok(writer)
    }

    /// Writes `bytes` as they are; the structure block stays in whole words if they are.
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> Result<(), TreeError> {
        let full = TreeError::Full { capacity: self.out.len() };
        let room = self.out.get_mut(self.length..).and_then(|rest| rest.get_mut(..bytes.len())).ok_or(full)?;
        room.copy_from_slice(bytes);
        self.length += bytes.len();
        Ok(())
    }

    /// Starts a node called `name`, or `name@unit` in hexadecimal.
    pub(super) fn begin(&mut self, name: &str, unit: u64) -> Result<(), TreeError> {
        let mut digits = [0; 16];
        let mut first = digits.len();
        let mut rest = unit;
        while rest != 0 || first == digits.len() {
            first -= 1;
            digits[first] = b"0123456789abcdef"[(rest & 0xf) as usize];
            rest >>= 4;
        }
        self.bytes(&1u32.to_be_bytes())?;
        self.bytes(name.as_bytes())?;
        self.bytes(b"@")?;
        self.bytes(&digits[first..])?;
        self.bytes(b"\0")?;
        self.pad()
    }

    /// Ends the innermost node.
    pub(super) fn end(&mut self) -> Result<(), TreeError> {
        self.bytes(&2u32.to_be_bytes())
    }

    /// Writes a property whose value is one string.
    pub(super) fn text(&mut self, name: Name, value: &str) -> Result<(), TreeError> {
        self.property_header(self.offset_of(name), value.len() + 1)?;
        self.bytes(value.as_bytes())?;
        self.bytes(b"\0")?;
        self.pad()
    }

    /// Writes a property whose value is bytes: strings with their NULs, or nothing.
    pub(super) fn property(&mut self, name: Name, value: &[u8]) -> Result<(), TreeError> {
        self.property_header(self.offset_of(name), value.len())?;
        self.bytes(value)?;
        self.pad()
    }

    /// Writes a property whose value is a list of cells.
    pub(super) fn cells(&mut self, name: Name, cells: &[u32]) -> Result<(), TreeError> {
        self.property_header(self.offset_of(name), 4 * cells.len())?;
        cells.iter().try_for_each(|cell| self.bytes(&cell.to_be_bytes()))
    }

    /// Writes what precedes a property's value, the offset of its name given.
    pub(super) fn property_header(&mut self, name: u32, length: usize) -> Result<(), TreeError> {
        for word in [3, length as u32, name] {
            self.bytes(&word.to_be_bytes())?;
        }
        Ok(())
    }

    /// Ends the structure block, appends the strings, fills in the header and gives the tree's length in bytes.
    pub(super) fn finish(mut self) -> Result<usize, TreeError> {
        self.bytes(&9u32.to_be_bytes())?;
        let structure = HEADER + self.source.reservations.len();
        let strings = self.length;
        self.bytes(self.source.strings)?;
        for name in NAMES {
            self.bytes(name.as_bytes())?;
            self.bytes(b"\0")?;
        }
        let header = [
            0xd00d_feed,
            self.length as u32,
            structure as u32,
            strings as u32,
            HEADER as u32,
            17,
            16,
            self.source.boot_core,
            (self.length - strings) as u32,
            (strings - structure) as u32,
        ];
        for (room, word) in self.out.as_chunks_mut().0.iter_mut().zip(header) {
            *room = word.to_be_bytes();
        }
        Ok(self.length)
    }

    fn pad(&mut self) -> Result<(), TreeError> {
        let padding = self.length.next_multiple_of(4) - self.length;
        self.bytes(&[0; 3][..padding])
    }

    /// Where `name` will lie in the strings block.
    fn offset_of(&self, name: Name) -> u32 {
        let before = &NAMES[..name as usize];
        (self.source.strings.len() + before.iter().map(|name| name.len() + 1).sum::<usize>()) as u32
    }
}
