//! A list that grows without memory of its own: each entry brings its place, made before any lock was taken.

use alloc::collections::LinkedList;
use alloc::sync::Arc;

/// Objects in the order in which they came.
pub(crate) struct Roster<T>(LinkedList<Option<Arc<T>>>);

/// Room for one entry of a [`Roster`]; none once it was used.
pub(crate) struct Place<T>(LinkedList<Option<Arc<T>>>);

impl<T> Place<T> {
    /// Gets the memory; call it without locks.
    pub(crate) fn new() -> Self {
        Self(LinkedList::from([None]))
    }

    /// Takes the room out, and leaves none.
    pub(crate) fn take(&mut self) -> Self {
        Self(core::mem::take(&mut self.0))
    }
}

impl<T> Roster<T> {
    /// Nothing.
    pub(crate) const fn new() -> Self {
        Self(LinkedList::new())
    }

    /// Adds `entry` at the end. Without a place left it gets one now, which takes memory.
    pub(crate) fn add(&mut self, mut place: Place<T>, entry: Arc<T>) {
        match place.0.front_mut() {
            Some(slot) => *slot = Some(entry),
            None => place.0.push_back(Some(entry)),
        }
        self.0.append(&mut place.0);
    }

    /// Takes the oldest out, with its place.
    pub(crate) fn take_first(&mut self) -> Option<(Place<T>, Arc<T>)> {
        let rest = if self.0.is_empty() { LinkedList::new() } else { self.0.split_off(1) };
        let first = Place(core::mem::replace(&mut self.0, rest));
        let entry = first.0.front()?.clone()?;
        Some((first, entry))
    }

    /// Takes `entry` out; its place, with a reference to it, is to be dropped without locks.
    #[must_use]
    pub(crate) fn remove(&mut self, entry: &Arc<T>) -> Option<Place<T>> {
        let at =
            self.0.iter().position(|other| other.as_ref().is_some_and(|other| Arc::ptr_eq(other, entry)))?;
        let mut found = self.0.split_off(at);
        let mut rest = found.split_off(1);
        self.0.append(&mut rest);
        Some(Place(found))
    }

    /// The entries, oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<T>> {
        self.0.iter().flatten()
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The newest.
    pub(crate) fn last(&self) -> Option<&Arc<T>> {
        self.0.back().and_then(Option::as_ref)
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    fn numbers(roster: &Roster<u32>) -> Vec<u32> {
        roster.iter().map(|entry| **entry).collect()
    }

    #[test]
    fn entries_keep_their_order_when_others_go() {
        let mut roster = Roster::new();
        let entries: Vec<Arc<u32>> = (0..5).map(Arc::new).collect();
        for entry in &entries {
            roster.add(Place::new(), entry.clone());
        }
        assert!(roster.remove(&entries[2]).is_some() && roster.remove(&entries[2]).is_none());
        assert_eq!(numbers(&roster), [0, 1, 3, 4]);
        assert!(roster.remove(&entries[0]).is_some() && roster.remove(&entries[4]).is_some());
        assert_eq!(numbers(&roster), [1, 3]);
        assert_eq!((roster.len(), roster.last().map(|entry| **entry)), (2, Some(3)));
        let mut other = Roster::new();
        other.add(Place::new(), Arc::new(9));
        while let Some((place, entry)) = roster.take_first() {
            other.add(place, entry);
        }
        assert!(roster.is_empty());
        assert_eq!(numbers(&other), [9, 1, 3]);
    }

    #[test]
    fn a_removed_place_lets_go_of_its_entry_when_dropped() {
        let mut roster = Roster::new();
        let entry = Arc::new(1);
        roster.add(Place::new(), entry.clone());
        let place = roster.remove(&entry);
        assert_eq!(Arc::strong_count(&entry), 2);
        drop(place);
        assert_eq!(Arc::strong_count(&entry), 1);
    }
}
