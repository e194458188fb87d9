//! One node, read so that every error names it.

use core::ops::Range;

use dtoolkit::fdt::FdtNode;
use dtoolkit::standard::{NodeStandard as _, Reg};
use dtoolkit::{FdtStringListIterator, Node as _, Property as _};

use super::{BoardError, NodeName, interrupt};
use crate::platform::board::Interrupt;

/// Addresses are mapped up to here.
const ADDRESS_END: u64 = 1 << 48;

/// What maps in whole pages.
const PAGE_SIZE: u64 = 0x1000;

#[derive(Clone, Copy)]
pub(super) struct Node<'a>(pub(super) FdtNode<'a>);

impl<'a> Node<'a> {
    fn name(self) -> NodeName {
        let mut name = NodeName::new();
        for character in self.0.name().chars() {
            if name.push(character).is_err() {
                break;
            }
        }
        name
    }

    pub(super) fn unusable(self, property: &'static str) -> BoardError {
        BoardError::Property { node: self.name(), property }
    }

    /// Whether its name without the address is `name`.
    pub(super) fn is_called(self, name: &str) -> bool {
        self.0.name_without_address() == name
    }

    pub(super) fn is_okay(self) -> bool {
        !self.has("status") || self.strings("status").is_ok_and(|mut status| status.next() == Some("okay"))
    }

    pub(super) fn children(self) -> impl Iterator<Item = Self> {
        self.0.children().map(Self)
    }

    /// The children that are there and of the kind `name`.
    pub(super) fn compatible(self, name: &str) -> impl Iterator<Item = Self> {
        self.children().filter(move |node| node.0.is_compatible(name) && node.is_okay())
    }

    pub(super) fn has(self, property: &str) -> bool {
        self.0.property(property).is_some()
    }

    fn value(self, property: &'static str) -> Result<&'a [u8], BoardError> {
        let value = self.0.property(property);
        let value = value.ok_or_else(|| BoardError::NoProperty { node: self.name(), property })?;
        value.value_as().map_err(|_| self.unusable(property))
    }

    pub(super) fn strings(self, property: &'static str) -> Result<FdtStringListIterator<'a>, BoardError> {
        let value = self.0.property(property);
        let value = value.ok_or_else(|| BoardError::NoProperty { node: self.name(), property })?;
        value.value_as().map_err(|_| self.unusable(property))
    }

    /// A property of groups of `N` cells.
    pub(super) fn arrays<const N: usize>(
        self,
        property: &'static str,
    ) -> Result<impl Iterator<Item = [u32; N]>, BoardError> {
        let (cells, odd_bytes) = self.value(property)?.as_chunks::<4>();
        let (groups, odd_cells) = cells.as_chunks::<N>();
        if !odd_bytes.is_empty() || !odd_cells.is_empty() {
            return Err(self.unusable(property));
        }
        Ok(groups.iter().map(|group| group.map(u32::from_be_bytes)))
    }

    /// A property of just `N` cells.
    pub(super) fn only<const N: usize>(self, property: &'static str) -> Result<[u32; N], BoardError> {
        let mut groups = self.arrays(property)?;
        match (groups.next(), groups.next()) {
            (Some(group), None) => Ok(group),
            _ => Err(self.unusable(property)),
        }
    }

    pub(super) fn cell(self, property: &'static str) -> Result<u32, BoardError> {
        self.only(property).map(|[cell]| cell)
    }

    /// A property of one cell or two.
    pub(super) fn number(self, property: &'static str) -> Result<u64, BoardError> {
        match *self.value(property)? {
            [a, b, c, d] => Ok(u32::from_be_bytes([a, b, c, d]).into()),
            [a, b, c, d, e, f, g, h] => Ok(u64::from_be_bytes([a, b, c, d, e, f, g, h])),
            _ => Err(self.unusable(property)),
        }
    }

    fn reg(self) -> Result<impl Iterator<Item = Result<(u64, u64), BoardError>>, BoardError> {
        let unusable = move || self.unusable("reg");
        self.value("reg")?;
        let reg = self.0.reg().map_err(|_| unusable())?;
        let pair = |entry: Reg<'_>| Some((entry.address().ok()?, entry.size().ok()?));
        Ok(reg.into_iter().flatten().map(move |entry| pair(entry).ok_or_else(unusable)))
    }

    /// The ranges of bytes that `reg` names.
    pub(super) fn ranges(self) -> Result<impl Iterator<Item = Result<Range<u64>, BoardError>>, BoardError> {
        Ok(self.reg()?.map(move |entry| {
            let (start, size) = entry?;
            start.checked_add(size).map(|end| start..end).ok_or_else(|| self.unusable("reg"))
        }))
    }

    /// The ranges of pages that `reg` names.
    pub(super) fn windows(self) -> Result<impl Iterator<Item = Result<Range<u64>, BoardError>>, BoardError> {
        Ok(self.reg()?.map(move |entry| {
            let (start, size) = entry?;
            self.pages("reg", start, size)
        }))
    }

    /// The first range of pages that `reg` names, which must have `at_least` so many bytes.
    pub(super) fn window(self, at_least: u64) -> Result<Range<u64>, BoardError> {
        let window = self.windows()?.next().ok_or_else(|| self.unusable("reg"))??;
        if window.end - window.start < at_least { Err(self.unusable("reg")) } else { Ok(window) }
    }

    /// `size` bytes from `start` on, if these are whole pages, some, and can be mapped.
    pub(super) fn pages(self, property: &'static str, start: u64, size: u64) -> Result<Range<u64>, BoardError> {
        let end = start.checked_add(size).filter(|end| *end <= ADDRESS_END && start < *end);
        let aligned = start.is_multiple_of(PAGE_SIZE) && size.is_multiple_of(PAGE_SIZE);
        end.filter(|_| aligned).map(|end| start..end).ok_or_else(|| self.unusable(property))
    }

    pub(super) fn interrupts(self) -> Result<impl Iterator<Item = Result<Interrupt, BoardError>>, BoardError> {
        let specifiers = self.arrays("interrupts")?;
        Ok(specifiers.map(move |cells| interrupt(cells).ok_or_else(|| self.unusable("interrupts"))))
    }
}
