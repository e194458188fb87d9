//! A map whose insertion does not end the machine when the heap is full.

use alloc::collections::TryReserveError;
use alloc::vec::Vec;

/// A map in a sorted vector. What is inserted behind everything else moves nothing, so keys had best come in their order.
pub(super) struct Sorted<K, V>(Vec<(K, V)>);

impl<K: Ord, V> Sorted<K, V> {
    pub(super) const fn new() -> Self {
        Self(Vec::new())
    }

    pub(super) const fn len(&self) -> usize {
        self.0.len()
    }

    /// Makes room for one more. It stays when something is removed.
    pub(super) fn try_reserve(&mut self) -> Result<(), TryReserveError> {
        self.0.try_reserve(1)
    }

    /// Puts `value` where nothing is, into the room that was made.
    pub(super) fn insert(&mut self, key: K, value: V) {
        let (Ok(place) | Err(place)) = self.find(&key);
        self.0.insert(place, (key, value));
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let place = self.find(key).ok()?;
        Some(self.0.remove(place).1)
    }

    /// Takes out the last one.
    pub(super) fn pop(&mut self) -> Option<(K, V)> {
        self.0.pop()
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.0.get(self.find(key).ok()?).map(|(_, value)| value)
    }

    pub(super) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let place = self.find(key).ok()?;
        self.0.get_mut(place).map(|(_, value)| value)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.0.iter().map(|(key, value)| (key, value))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (&K, &mut V)> {
        self.0.iter_mut().map(|(key, value)| (&*key, value))
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.0.iter_mut().map(|(_, value)| value)
    }

    fn find(&self, key: &K) -> Result<usize, usize> {
        self.0.binary_search_by(|(other, _)| other.cmp(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_inserted_in_any_order_is_found_and_removed() {
        let mut map = Sorted::new();
        for key in [5, 1, 9, 3] {
            map.try_reserve().unwrap();
            map.insert(key, 10 * key);
        }
        assert_eq!(map.iter().collect::<Vec<_>>(), [(&1, &10), (&3, &30), (&5, &50), (&9, &90)]);
        assert_eq!((map.get(&9), map.get(&4)), (Some(&90), None));
        assert_eq!((map.remove(&3), map.remove(&3), map.len()), (Some(30), None, 3));
        assert_eq!(map.pop(), Some((9, 90)));
        map.insert(9, 90);
        *map.get_mut(&5).unwrap() += 1;
        map.values_mut().for_each(|value| *value += 1);
        assert_eq!(map.iter().collect::<Vec<_>>(), [(&1, &11), (&5, &52), (&9, &91)]);
    }
}
