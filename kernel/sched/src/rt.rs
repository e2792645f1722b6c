//! The queue of FIFO and round-robin threads of one CPU: a list for each priority.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// Priorities are 1 to 99.
const NR_PRIORITIES: usize = 100;

/// Runnable real-time threads; `T` identifies one. The current one is not in the queue.
#[derive(Debug)]
pub struct RtQueue<T> {
    /// Made at the first use: most CPUs never see a real-time thread.
    lists: Vec<VecDeque<T>>,
    /// Bit p is set when list p is not empty.
    filled: u128,
    len: usize,
}

/// At which end of its priority a thread enters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was preempted and goes on next.
    Front,
    /// It woke up, or its turn is over.
    Back,
}

impl<T> RtQueue<T> {
    /// An empty queue.
    pub const fn new() -> RtQueue<T> {
        RtQueue { lists: Vec::new(), filled: 0, len: 0 }
    }

    /// Number of threads.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a thread.
    pub fn push(&mut self, priority: u8, id: T, end: End) {
        if self.lists.is_empty() {
            self.lists.resize_with(NR_PRIORITIES, VecDeque::new);
        }
        let priority = usize::from(priority).min(NR_PRIORITIES - 1);
        match end {
            End::Front => self.lists[priority].push_front(id),
            End::Back => self.lists[priority].push_back(id),
        }
        self.filled |= 1 << priority;
        self.len += 1;
    }

    /// The highest priority that waits.
    pub fn top(&self) -> Option<u8> {
        (self.filled != 0).then(|| (127 - self.filled.leading_zeros()) as u8)
    }

    /// Takes the next thread of the highest priority.
    pub fn pop(&mut self) -> Option<T> {
        let priority = usize::from(self.top()?);
        let id = self.lists[priority].pop_front();
        self.removed(priority);
        id
    }

    fn removed(&mut self, priority: usize) {
        if self.lists[priority].is_empty() {
            self.filled &= !(1 << priority);
        }
        self.len -= 1;
    }

    /// Takes a certain thread out.
    pub fn remove(&mut self, is_it: impl Fn(&T) -> bool) -> Option<T> {
        for priority in 0..self.lists.len() {
            if let Some(at) = self.lists[priority].iter().position(&is_it) {
                let id = self.lists[priority].remove(at);
                self.removed(priority);
                return id;
            }
        }
        None
    }

    /// The waiting ones, lowest priority first.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.lists.iter().flatten()
    }
}

impl<T> Default for RtQueue<T> {
    fn default() -> Self {
        RtQueue::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_priority_comes_first_and_turns_are_kept() {
        let mut queue = RtQueue::new();
        for (priority, id) in [(1, 'a'), (50, 'b'), (50, 'c'), (99, 'd')] {
            queue.push(priority, id, End::Back);
        }
        queue.push(50, 'p', End::Front);
        assert_eq!(queue.remove(|&id| id == 'a'), Some('a'));
        let order: Vec<char> = core::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order, ['d', 'p', 'b', 'c']);
        assert!(queue.is_empty() && queue.top().is_none());
    }
}
