//! Ranges of addresses as commands have them (4.4.1.1, 4.5.1).

use crate::smmuv3::Granule;
use crate::smmuv3::command::{TlbiRange, TlbiSpan};

const PAGE_SHIFT: u32 = 12;

/// The most ranges that are kept apart.
const RANGES: usize = 16;

/// The most commands for the device's translations of one range. What would take more takes one for all around it.
const SPANS: usize = 8;

/// A range of 4 KiB pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pages {
    /// The address of the first, a multiple of 4096.
    pub first: u64,
    /// How many. What lies beyond the last address is none.
    pub count: u64,
}

/// What of an address space or of a virtual machine's memory is to be forgotten: ranges of pages, gathered for one invalidation, or all of it.
///
/// Neighbours become one range. What finds no room makes it all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gathered {
    ranges: heapless::Vec<Pages, RANGES>,
    is_all: bool,
}

/// A CMD_ATC_INV's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AtcSpan {
    pub(super) address: u64,
    /// log2 of the pages, from 0 to [`ALL`](Self::ALL).
    pub(super) size: u8,
}

impl AtcSpan {
    /// Everything.
    pub(super) const ALL: Self = Self { address: 0, size: 52 };
}

impl Pages {
    /// The number of the first page, and of the one behind the last.
    fn numbers(self) -> (u64, u64) {
        let first = self.first >> PAGE_SHIFT;
        (first, first.saturating_add(self.count).min(1 << (u64::BITS - PAGE_SHIFT)))
    }

    const fn of_numbers(first: u64, end: u64) -> Self {
        Self { first: first << PAGE_SHIFT, count: end - first }
    }

    /// The range around both, if no page is between them.
    fn joined(self, other: Self) -> Option<Self> {
        let ((first, end), (other_first, other_end)) = (self.numbers(), other.numbers());
        let touch = first <= other_end && other_first <= end;
        touch.then(|| Self::of_numbers(first.min(other_first), end.max(other_end)))
    }

    /// What makes the TLB forget these pages and no other: with range invalidation (IDR3.RIL) a command for each five bits of their number, else
    /// one for each.
    pub(super) fn tlb_ranges(self, has_ranges: bool) -> impl Iterator<Item = TlbiRange> {
        let (mut next, end) = self.numbers();
        core::iter::from_fn(move || {
            let left = end.checked_sub(next).filter(|&left| left > 0)?;
            let scale = if has_ranges { left.trailing_zeros().min(31) } else { 0 };
            let num = if has_ranges { left >> scale & 31 } else { 1 };
            // The last command has what SCALE does not reach.
            let num = if num == 0 { 32 } else { num };
            let address = next << PAGE_SHIFT;
            next += num << scale;
            let span = TlbiSpan { granule: Granule::Size4K, ttl: 0, num: num as u8 - 1, scale: scale as u8 };
            // One page is no range: NUM, SCALE and TTL all 0 are reserved.
            Some(TlbiRange { address, leaf: false, span: (num << scale > 1).then_some(span) })
        })
    }

    /// What makes a device forget these pages: as they are, if naturally aligned powers of two of them are few, else one around them all.
    pub(super) fn atc_spans(self) -> heapless::Vec<AtcSpan, SPANS> {
        let (first, end) = self.numbers();
        let mut spans = heapless::Vec::new();
        let mut next = first;
        while next < end {
            let size = next.trailing_zeros().min((end - next).ilog2());
            if spans.push(AtcSpan { address: next << PAGE_SHIFT, size: size as u8 }).is_err() {
                let size = u64::BITS - (first ^ (end - 1)).leading_zeros();
                spans.clear();
                let around = AtcSpan { address: first >> size << size << PAGE_SHIFT, size: size as u8 };
                // There is room for one.
                let _ = spans.push(around);
                break;
            }
            next += 1 << size;
        }
        spans
    }
}

impl Gathered {
    /// Nothing yet.
    pub const fn new() -> Self {
        Self { ranges: heapless::Vec::new(), is_all: false }
    }

    /// All of it.
    pub const fn all() -> Self {
        Self { ranges: heapless::Vec::new(), is_all: true }
    }

    /// Adds `pages`.
    pub fn add(&mut self, pages: Pages) {
        let (first, end) = pages.numbers();
        if first >= end {
            return;
        }
        let mut whole = Pages::of_numbers(first, end);
        // What is joined may touch another one.
        while let Some((index, joined)) =
            self.ranges.iter().enumerate().find_map(|(index, range)| Some((index, range.joined(whole)?)))
        {
            self.ranges.swap_remove(index);
            whole = joined;
        }
        self.is_all |= self.ranges.push(whole).is_err();
    }

    /// Whether it is nothing.
    pub fn is_empty(&self) -> bool {
        !self.is_all && self.ranges.is_empty()
    }

    /// What makes a device forget it.
    pub(super) fn atc_spans(&self) -> impl Iterator<Item = AtcSpan> {
        let spans = self.ranges().map(|ranges| ranges.iter().flat_map(|pages| pages.atc_spans()));
        let all = spans.is_none().then_some(AtcSpan::ALL);
        spans.into_iter().flatten().chain(all)
    }

    /// The ranges; `None` for all.
    pub(super) fn ranges(&self) -> Option<&[Pages]> {
        (!self.is_all).then_some(&*self.ranges)
    }
}

impl From<Pages> for Gathered {
    fn from(pages: Pages) -> Self {
        let mut gathered = Self::new();
        gathered.add(pages);
        gathered
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::vec::Vec;

    use super::*;

    fn tlb(first: u64, count: u64, has_ranges: bool) -> Vec<(u64, u64)> {
        let pages = Pages { first, count };
        pages
            .tlb_ranges(has_ranges)
            .map(|range| (range.address, range.span.map_or(4096, |span| span.bytes())))
            .collect()
    }

    #[test]
    fn a_range_is_five_bits_of_its_number_a_command() {
        assert_eq!(tlb(0x5000, 1, true), [(0x5000, 0x1000)]);
        assert_eq!(tlb(0x5000, 31, true), [(0x5000, 0x1f000)]);
        assert_eq!(tlb(0x5000, 32, true), [(0x5000, 0x20000)]);
        assert_eq!(tlb(0x5000, 33, true), [(0x5000, 0x2_1000 - 0x2_0000), (0x6000, 0x2_0000)]);
        assert_eq!(tlb(0x5000, 3, false), [(0x5000, 0x1000), (0x6000, 0x1000), (0x7000, 0x1000)]);
        assert_eq!(tlb(0, 1 << 52, true).iter().map(|range| range.1 >> 12).take(1).collect::<Vec<_>>(), [32 << 31]);
    }

    #[test]
    fn no_range_is_the_reserved_one() {
        for count in 1..1000 {
            for range in (Pages { first: 0x1000, count }).tlb_ranges(true) {
                assert!(range.span.is_none_or(|span| span.num > 0 || span.scale > 0), "{count}: {range:?}");
                assert!(range.span.is_none_or(|span| span.num < 32 && span.scale < 32), "{count}: {range:?}");
            }
        }
    }

    /// Every page of every range up to 200 pages, by its number.
    #[test]
    fn commands_cover_all_pages_and_where_they_are_to_no_other() {
        for first in [0, 1, 2, 3, 7, 12, 31, 32, 33, 63, 100, (1 << 52) - 100] {
            for count in 0..200 {
                let wanted = (first..first + count).filter(|page| *page < 1 << 52).collect::<BTreeSet<_>>();
                let pages = Pages { first: first << 12, count };
                for has_ranges in [false, true] {
                    let ranges = tlb(first << 12, count, has_ranges);
                    let covered = ranges.iter().flat_map(|(from, bytes)| (from >> 12..).take((bytes >> 12) as usize));
                    let covered = covered.collect::<Vec<_>>();
                    assert_eq!(covered.len(), wanted.len(), "none twice");
                    assert_eq!(covered.into_iter().collect::<BTreeSet<_>>(), wanted);
                }
                let spans = pages.atc_spans();
                let covered = spans.iter().flat_map(|span| {
                    assert!((span.address >> 12).is_multiple_of(1 << span.size), "{span:?}");
                    (span.address >> 12..).take(1 << span.size)
                });
                let covered = covered.collect::<BTreeSet<_>>();
                assert!(covered.is_superset(&wanted));
                assert!(
                    covered == wanted || spans.len() == 1 && covered.len() <= 4 * count.next_power_of_two() as usize
                );
            }
        }
    }

    #[test]
    fn a_device_forgets_two_pages_across_a_boundary_by_two_commands_and_all_by_one() {
        let spans =
            |first, count| Pages { first, count }.atc_spans().iter().map(|s| (s.address, s.size)).collect::<Vec<_>>();
        assert_eq!(spans(0x7000, 2), [(0x7000, 0), (0x8000, 0)]);
        assert_eq!(spans(0x2000, 2), [(0x2000, 1)]);
        assert_eq!(spans(0, 1 << 52), [(0, 52)]);
        // 2^8 - 1 from page 1 on: eight; one more page at each end: around.
        assert_eq!(spans(0x1000, 255).len(), 8);
        assert_eq!(spans(0x1000, 510), [(0, 9)]);
        assert_eq!(spans(!0xfff, 5), [(!0xfff, 0)]);
    }

    #[test]
    fn neighbours_become_one_range_and_too_many_ranges_all() {
        let mut gathered = Gathered::from(Pages { first: 0x1000, count: 1 });
        gathered.add(Pages { first: 0x3000, count: 2 });
        assert_eq!(gathered.ranges().unwrap().len(), 2);
        gathered.add(Pages { first: 0x2000, count: 1 });
        assert_eq!(gathered.ranges(), Some(&[Pages { first: 0x1000, count: 4 }][..]));
        gathered.add(Pages { first: 0, count: 0 });
        gathered.add(Pages { first: 0x2000, count: 2 });
        assert_eq!(gathered.ranges(), Some(&[Pages { first: 0x1000, count: 4 }][..]));
        for range in 1..RANGES as u64 {
            gathered.add(Pages { first: range << 20, count: 1 });
        }
        assert_eq!(gathered.ranges().unwrap().len(), RANGES);
        gathered.add(Pages { first: 1 << 30, count: 1 });
        assert_eq!((gathered.ranges(), gathered.is_empty()), (None, false));
        assert!(Gathered::new().is_empty());
    }
}
