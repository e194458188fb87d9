//! One value for each core.

use core::array;

use super::{CoreId, MAX_CORES, Masked};

/// A value for each core, each on cache lines of its own.
#[derive(Debug)]
pub struct PerCore<T>([Line<T>; MAX_CORES]);

/// 128 bytes: the largest line of today's Arm cores, and two of the usual ones, which are fetched in pairs.
#[derive(Debug)]
#[repr(align(128))]
struct Line<T>(T);

impl<T> PerCore<T> {
    /// Makes each core's value with `make`.
    pub fn new(mut make: impl FnMut() -> T) -> Self {
        Self(array::from_fn(|_| Line(make())))
    }

    /// The value of the core that is masked.
    pub fn here(&self, masked: &Masked) -> &T {
        self.of(masked.core())
    }

    /// The value of `core`.
    pub fn of(&self, core: CoreId) -> &T {
        // A CoreId is below MAX_CORES by construction, which the remainder tells the compiler.
        &self.0[core.index() % MAX_CORES].0
    }

    /// Every core's value, in the order of the cores.
    pub fn iter(&self) -> impl Iterator<Item = (CoreId, &T)> {
        CoreId::all().zip(&self.0).map(|(core, line)| (core, &line.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_lie_on_lines_of_their_own() {
        let values = PerCore::new(|| 0_u8);
        let addresses: std::vec::Vec<usize> =
            values.iter().map(|(_, value)| core::ptr::from_ref(value).addr()).collect();
        assert_eq!(addresses.len(), MAX_CORES);
        assert!(addresses.windows(2).all(|pair| pair[1] - pair[0] == 128));
        assert_eq!(addresses[0] % 128, 0);
    }
}
