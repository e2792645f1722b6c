//! The deadline scheduler: requests sorted by sector, none waiting too long (Linux: mq-deadline).
//!
//! [`Deadline`] holds what a driver did not take at once. It gives requests out in batches of ascending sectors,
//! reads before writes; one whose time has come starts the next batch, and writes are passed over only so often.
//! It is bookkeeping only, so it is tested with plain numbers.
//!
//! # Invariants
//!
//! - E1: `sorted[d]` holds each request of direction `d` once; `order[d]` holds its key at least until it is
//!   given out, oldest first. Keys of requests that are gone are skipped when they reach the front.

use alloc::collections::{BTreeMap, VecDeque};

/// What the scheduler must know of a request.
pub trait Item {
    /// First sector.
    fn sector(&self) -> u64;
    /// The sector behind the last.
    fn end_sector(&self) -> u64;
    /// Is it a read? Everything else counts as a write.
    fn is_read(&self) -> bool;
    /// When it came.
    fn start_ns(&self) -> u64;
}

const READ: usize = 0;
const WRITE: usize = 1;

/// How long a read may wait, and a write.
pub const EXPIRE_NS: [u64; 2] = [500_000_000, 5_000_000_000];
/// Requests of a batch.
pub const BATCH: u32 = 16;
/// How many batches of reads may pass a waiting write.
pub const WRITES_STARVED: u32 = 2;

/// Sector, and a number that makes it unique.
type Key = (u64, u64);

/// Requests that wait.
pub struct Deadline<T> {
    sorted: [BTreeMap<Key, T>; 2],
    order: [VecDeque<(Key, u64)>; 2],
    next_id: u64,
    /// Direction of the batch, where it goes on, and how many it may still give.
    direction: usize,
    position: [u64; 2],
    batch_left: u32,
    /// Batches of reads since a write waits.
    passed: u32,
}

impl<T> Default for Deadline<T> {
    fn default() -> Self {
        Deadline::new()
    }
}

impl<T> Deadline<T> {
    /// Nothing waits.
    pub const fn new() -> Self {
        Deadline {
            sorted: [BTreeMap::new(), BTreeMap::new()],
            order: [VecDeque::new(), VecDeque::new()],
            next_id: 0,
            direction: READ,
            position: [0; 2],
            batch_left: 0,
            passed: 0,
        }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.sorted[READ].len() + self.sorted[WRITE].len()
    }

    /// Does none wait?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T: Item> Deadline<T> {
    /// Adds a request.
    pub fn insert(&mut self, item: T) {
        let direction = usize::from(!item.is_read());
        let key = (item.sector(), self.next_id);
        self.next_id = self.next_id.wrapping_add(1);
        self.order[direction].push_back((key, item.start_ns()));
        self.sorted[direction].insert(key, item);
    }

    /// Takes back the request that [`Deadline::take_next`] gave last: the driver had no room.
    pub fn put_back(&mut self, item: T) {
        let direction = usize::from(!item.is_read());
        let key = (item.sector(), self.next_id);
        self.next_id = self.next_id.wrapping_add(1);
        self.position[direction] = item.sector();
        self.batch_left = self.batch_left.saturating_add(1);
        self.order[direction].push_front((key, item.start_ns()));
        self.sorted[direction].insert(key, item);
    }

    /// The waiting request of the same direction that ends where `sector` begins.
    pub fn find_before(&mut self, is_read: bool, sector: u64) -> Option<&mut T> {
        let (_, item) = self.sorted[usize::from(!is_read)].range_mut(..(sector, 0)).next_back()?;
        (item.end_sector() == sector).then_some(item)
    }

    /// Takes the request that should run next.
    pub fn take_next(&mut self, now_ns: u64) -> Option<T> {
        let direction = self.direction;
        if self.batch_left > 0
            && let Some(key) = self.at_or_after(direction, self.position[direction])
        {
            return self.give(direction, key);
        }
        let direction = self.choose_direction(now_ns)?;
        let key = match self.expired(direction, now_ns) {
            Some(key) => key,
            // Go on where the last batch ended; at the end start over.
            None => self
                .at_or_after(direction, self.position[direction])
                .or_else(|| self.at_or_after(direction, 0))?,
        };
        self.direction = direction;
        self.batch_left = BATCH;
        self.give(direction, key)
    }

    fn choose_direction(&mut self, now_ns: u64) -> Option<usize> {
        let (has_reads, has_writes) = (!self.sorted[READ].is_empty(), !self.sorted[WRITE].is_empty());
        if !has_writes {
            self.passed = 0;
            return has_reads.then_some(READ);
        }
        if has_reads && self.passed < WRITES_STARVED && self.expired(WRITE, now_ns).is_none() {
            self.passed += 1;
            return Some(READ);
        }
        self.passed = 0;
        Some(WRITE)
    }

    fn at_or_after(&self, direction: usize, sector: u64) -> Option<Key> {
        self.sorted[direction].range((sector, 0)..).next().map(|(key, _)| *key)
    }

    /// The oldest request of `direction`, if its time has come.
    fn expired(&mut self, direction: usize, now_ns: u64) -> Option<Key> {
        while let Some(&(key, start_ns)) = self.order[direction].front() {
            if self.sorted[direction].contains_key(&key) {
                return (now_ns.saturating_sub(start_ns) >= EXPIRE_NS[direction]).then_some(key);
            }
            self.order[direction].pop_front();
        }
        None
    }

    fn give(&mut self, direction: usize, key: Key) -> Option<T> {
        let item = self.sorted[direction].remove(&key)?;
        self.batch_left = self.batch_left.saturating_sub(1);
        self.position[direction] = item.end_sector();
        if self.sorted[direction].is_empty() {
            self.order[direction].clear();
        }
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Eq, Clone, Copy)]
    struct Io(char, u64, u64);

    impl Item for Io {
        fn sector(&self) -> u64 {
            self.1
        }
        fn end_sector(&self) -> u64 {
            self.1 + 8
        }
        fn is_read(&self) -> bool {
            self.0 == 'r'
        }
        fn start_ns(&self) -> u64 {
            self.2
        }
    }

    fn drain(queue: &mut Deadline<Io>, now_ns: u64) -> Vec<(char, u64)> {
        core::iter::from_fn(|| queue.take_next(now_ns)).map(|io| (io.0, io.1)).collect()
    }

    #[test]
    fn requests_go_out_in_the_order_of_their_sectors() {
        let mut queue = Deadline::new();
        for sector in [40, 8, 24, 0] {
            queue.insert(Io('r', sector, 0));
        }
        assert_eq!(drain(&mut queue, 1), [('r', 0), ('r', 8), ('r', 24), ('r', 40)]);
        assert!(queue.is_empty());
    }

    #[test]
    fn writes_are_passed_only_so_often() {
        let mut queue = Deadline::new();
        queue.insert(Io('w', 0, 0));
        for n in 0..100 {
            queue.insert(Io('r', n * 8, 0));
        }
        let order = drain(&mut queue, 1);
        let write = order.iter().position(|io| io.0 == 'w');
        assert_eq!(write, Some((WRITES_STARVED * BATCH) as usize));
        assert_eq!(order.len(), 101);
    }

    #[test]
    fn an_old_request_starts_the_next_batch() {
        let mut queue = Deadline::new();
        queue.insert(Io('r', 8000, 0));
        for n in 0..40 {
            queue.insert(Io('r', n * 8, EXPIRE_NS[READ]));
        }
        assert_eq!(queue.take_next(EXPIRE_NS[READ]).map(|io| io.1), Some(8000));
    }

    #[test]
    fn every_request_goes_out_exactly_once() {
        let mut queue = Deadline::new();
        let (mut seed, mut given, mut put) = (1u64, 0, 0);
        for now in 0..10_000u64 {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            if seed >> 33 & 1 == 0 {
                queue.insert(Io(if seed >> 34 & 1 == 0 { 'r' } else { 'w' }, (seed >> 40) * 8, now));
                put += 1;
            } else {
                given += usize::from(queue.take_next(now * 1_000_000).is_some());
            }
            assert_eq!(queue.len(), put - given);
        }
        given += drain(&mut queue, 0).len();
        assert_eq!(given, put);
        assert!(queue.order.iter().all(VecDeque::is_empty));
    }

    #[test]
    fn what_continues_a_request_finds_it() {
        let mut queue = Deadline::new();
        queue.insert(Io('w', 16, 0));
        assert!(queue.find_before(false, 24).is_some());
        assert!(queue.find_before(true, 24).is_none());
        assert!(queue.find_before(false, 32).is_none());
        assert!(queue.find_before(false, 0).is_none());
    }
}
