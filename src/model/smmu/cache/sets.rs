//! A set-associative array of entries, and the chance that decides what goes.

/// A pseudo-random sequence (xorshift). The same seed gives the same sequence, so a run can be repeated.
#[derive(Debug)]
pub(in crate::model::smmu) struct Random(u32);

impl Random {
    /// The sequence of `seed`; 0 stands for a fixed one.
    pub(in crate::model::smmu) const fn new(seed: u32) -> Self {
        Self(if seed == 0 { 0x9e37_79b9 } else { seed })
    }

    /// A number below `bound`, or 0.
    pub(in crate::model::smmu) fn below(&mut self, bound: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        // The low bits are the weak ones.
        (self.0 >> 8).checked_rem(bound).unwrap_or(0)
    }
}

/// `SETS` sets, a power of two, of `WAYS` entries. An entry's set is fixed by a number that its look-ups know.
#[derive(Debug)]
pub(super) struct Sets<E, const SETS: usize, const WAYS: usize>([[Option<E>; WAYS]; SETS]);

impl<E: Copy, const SETS: usize, const WAYS: usize> Sets<E, SETS, WAYS> {
    pub(super) const fn new() -> Self {
        const { assert!(SETS.is_power_of_two()) }
        Self([[None; WAYS]; SETS])
    }

    /// The entries in the set of `number`.
    pub(super) fn set(&self, number: u64) -> impl Iterator<Item = &E> {
        self.0.get(index::<SETS>(number)).into_iter().flatten().flatten()
    }

    /// Puts `entry` into the set of `number`: in the place of one that it `replaces`, of none, or of one left to chance.
    pub(super) fn insert(&mut self, number: u64, entry: E, replaces: impl Fn(&E) -> bool, random: &mut Random) {
        let Some(set) = self.0.get_mut(index::<SETS>(number)) else { return };
        let way = set
            .iter()
            .position(|old| old.as_ref().is_some_and(&replaces))
            .or_else(|| set.iter().position(Option::is_none))
            .unwrap_or_else(|| random.below(WAYS as u32) as usize);
        if let Some(place) = set.get_mut(way) {
            *place = Some(entry);
        }
    }

    /// Drops every entry that is `named`.
    pub(super) fn drop_where(&mut self, named: impl Fn(&E) -> bool) {
        for place in self.0.iter_mut().flatten() {
            if place.as_ref().is_some_and(&named) {
                *place = None;
            }
        }
    }

    /// Drops every entry.
    pub(super) fn clear(&mut self) {
        self.drop_where(|_| true);
    }

    /// Empties one place, left to chance.
    pub(super) fn evict(&mut self, random: &mut Random) {
        let (set, way) = (random.below(SETS as u32) as usize, random.below(WAYS as u32) as usize);
        if let Some(place) = self.0.get_mut(set).and_then(|set| set.get_mut(way)) {
            *place = None;
        }
    }

    /// All entries.
    pub(super) fn iter(&self) -> impl Iterator<Item = &E> {
        self.0.iter().flatten().flatten()
    }
}

/// The set of `number`: all its bits have a say.
const fn index<const SETS: usize>(number: u64) -> usize {
    let folded = number ^ number >> 32;
    let folded = folded ^ folded >> 16;
    let folded = folded ^ folded >> 8;
    let folded = folded ^ folded >> 4;
    folded as usize & (SETS - 1)
}
