//! Stalled transactions, as their records tell of them.
//!
//! Nothing of a record is taken apart before someone asks: a batch of records is read faster than its faults are dealt with.

use core::{fmt, hint, slice};

use super::codec::{ACCESS, F_PERMISSION, F_TRANSLATION, ORIGIN, STAG, STALL, get_access};
use super::{Event, Origin, TranslationFault};
use crate::smmuv3::bits::Field;
use crate::smmuv3::{Access, Stag, StreamId, SubstreamId};

/// The bits of an event number that the four events which can stall have in common.
const KIND: Field = Field::new(7, 2);
const _: () = assert!(F_TRANSLATION == 0x10 && F_PERMISSION == 0x13);
/// What word 0 of a record has in common with those of the stalls beside it.
const BESIDE: u64 = ORIGIN.mask() | KIND.mask();
/// What no record has there.
const NONE: u64 = 1;
const _: () = assert!(NONE & !BESIDE != 0);

/// A stalled transaction: what an answer to it takes. [`TranslationFault`] has the rest of its record.
#[derive(Clone, Copy)]
pub struct Stall {
    /// Word 0 of its record, or [`BESIDE`] of that.
    origin: u64,
    rest: Rest,
}

/// Some of the accesses that a record can tell of.
#[derive(Clone, Copy, Debug)]
pub struct AccessSet {
    /// A bit for each value of [`ACCESS`].
    bits: u8,
}

/// Words 1 and 2 of a record. A pair, since that stays in registers.
type Rest = (u64, u64);

/// Stalled transactions of one stream and address space, in the order of their records.
#[derive(Clone, Copy)]
pub struct StallRun<'a> {
    origin: u64,
    rest: &'a [Rest],
}

/// Where up to `N` stalled transactions of one stream and address space are gathered.
#[derive(Clone)]
pub struct StallBuffer<const N: usize> {
    /// [`BESIDE`] of word 0 of their records, or [`NONE`] as long as there is none.
    origin: u64,
    rest: heapless::Vec<Rest, N>,
}

impl Stall {
    /// The stalled transaction of the record that begins with `words`, or `None` for any other record.
    ///
    /// It waits for its answer whatever else the record says: also with a `CLASS` that [`Event::decode`] refuses.
    #[inline(always)]
    pub const fn decode(words: [u64; 3]) -> Option<Self> {
        let [origin, second, third] = words;
        let may_stall = KIND.address(origin) == F_TRANSLATION as u64;
        if may_stall && STALL.is_set(second) { Some(Self { origin, rest: (second, third) }) } else { None }
    }

    /// Whose transaction it is.
    #[inline(always)]
    pub const fn stream(&self) -> StreamId {
        Origin::get(self.origin).stream
    }

    /// In which of its address spaces it is.
    #[inline(always)]
    pub const fn substream(&self) -> Option<SubstreamId> {
        Origin::get(self.origin).substream
    }

    /// The tag that it waits under.
    #[inline(always)]
    pub const fn stag(&self) -> Stag {
        Stag(STAG.get(self.rest.0) as u16)
    }

    /// What it wanted.
    #[inline(always)]
    pub const fn access(&self) -> Access {
        get_access(self.rest.0)
    }

    /// All that its record says, which has this word 3. `None` with the reserved CLASS. One that comes out of a [`StallRun`] does not know
    /// any more which of the four kinds it is: F_TRANSLATION stands for all.
    pub const fn fault(&self, fourth: u64) -> Option<TranslationFault> {
        let (second, third) = self.rest;
        match Event::decode([self.origin, second, third, fourth]) {
            Ok(Event::Fault(fault)) => Some(fault),
            _ => None,
        }
    }

    /// Whether what it wanted is one of `accesses`.
    #[inline(always)]
    pub const fn is_one_of(&self, accesses: AccessSet) -> bool {
        accesses.bits >> ACCESS.get(self.rest.0) & 1 != 0
    }

    /// Its address, as it came.
    #[inline(always)]
    pub const fn address(&self) -> u64 {
        self.rest.1
    }
}

impl AccessSet {
    /// Those that are `included`.
    #[inline(always)]
    pub fn of(included: impl Fn(Access) -> bool) -> Self {
        let bits = (0..8).map(|value| u8::from(included(get_access(ACCESS.put(value)))) << value).sum();
        Self { bits }
    }
}

impl<'a> StallRun<'a> {
    /// How many.
    #[inline(always)]
    pub const fn len(&self) -> usize {
        self.rest.len()
    }

    /// Whether there is none.
    #[inline(always)]
    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The first one.
    #[inline(always)]
    pub fn first(&self) -> Option<Stall> {
        self.iter().next()
    }

    /// One after the other.
    #[inline(always)]
    pub fn iter(self) -> impl ExactSizeIterator<Item = Stall> + use<'a> {
        self.rest.iter().map(move |&rest| Stall { origin: self.origin, rest })
    }

    /// How many come before the first for which `condition` does not hold.
    #[inline(always)]
    pub fn count_while(self, mut condition: impl FnMut(Stall) -> bool) -> usize {
        let mut rest = self.rest;
        while let [first, others @ ..] = rest
            && condition(Stall { origin: self.origin, rest: *first })
        {
            rest = others;
        }
        self.len() - rest.len()
    }

    /// The first `count`, or all.
    #[inline(always)]
    pub fn up_to(self, count: usize) -> Self {
        Self { rest: self.rest.get(..count).unwrap_or(self.rest), ..self }
    }

    /// Those behind the first `count`.
    #[inline(always)]
    pub fn behind(self, count: usize) -> Self {
        Self { rest: self.rest.get(count..).unwrap_or_default(), ..self }
    }
}

impl<'a> From<&'a Stall> for StallRun<'a> {
    fn from(stall: &'a Stall) -> Self {
        Self { origin: stall.origin, rest: slice::from_ref(&stall.rest) }
    }
}

impl<const N: usize> StallBuffer<N> {
    /// An empty one.
    pub const fn new() -> Self {
        Self { origin: NONE, rest: heapless::Vec::new() }
    }

    /// Makes `first` the only one.
    pub fn begin(&mut self, first: Stall) {
        self.origin = first.origin & BESIDE;
        self.rest.clear();
        // `N` of 0 has room for none.
        let _ = self.rest.push(first.rest);
    }

    /// Adds the stall whose record begins with `words`, and returns `true`; or `false` if the record is not of a stall, or of one that is
    /// not beside those that are here, or if it has no room.
    ///
    /// Two stalls of one stream without a SubstreamID may not seem to be beside each other, since there the field is UNKNOWN.
    #[inline(always)]
    pub fn push(&mut self, words: [u64; 3]) -> bool {
        let [origin, second, third] = words;
        if origin & BESIDE != self.origin {
            hint::cold_path();
            return false;
        }
        if !STALL.is_set(second) {
            hint::cold_path();
            return false;
        }
        self.rest.push((second, third)).is_ok()
    }

    /// Those that are here.
    #[inline(always)]
    pub fn run(&self) -> StallRun<'_> {
        StallRun { origin: self.origin, rest: &self.rest }
    }
}

impl<const N: usize> Default for StallBuffer<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stall")
            .field("stream", &self.stream())
            .field("substream", &self.substream())
            .field("stag", &self.stag())
            .field("access", &self.access())
            .field("address", &self.address())
            .finish()
    }
}

impl fmt::Debug for StallRun<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<const N: usize> fmt::Debug for StallBuffer<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.run().fmt(f)
    }
}
