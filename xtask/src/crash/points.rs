//! Disks as a power failure leaves them, made from a record of writes.
//!
//! ```text
//!   record   W W F W W W F W W | W W ...        the failure is at |
//!            `-------------'                    flushed: all of it is on the disk
//!                            `-'                any part of it, in any order, in blocks of the file system
//! ```
//!
//! A disk is taken to write blocks whole. The journal needs it: the checksum of a commit block is over all of the
//! block, so that half of one is damage, to e2fsck and to Linux as well.

use std::collections::BTreeMap;

use user_disk::{MARK_LEN, Promises, Random};

use super::log::Event;

/// Where the file system and the marks lie on the recorded disk, in bytes.
#[derive(Clone, Copy)]
pub struct Places {
    /// Start and end of the file system.
    pub fs: (u64, u64),
    /// Start and end of the marks.
    pub marks: (u64, u64),
}

/// One disk after a failure.
pub struct Point {
    /// Number of events before the failure.
    pub event: usize,
    /// The file system.
    pub image: Vec<u8>,
    /// What must be in it.
    pub promises: Vec<Promises>,
}

/// Goes through a record once, from its start to its end.
pub struct Replay<'a> {
    events: &'a [Event],
    places: Places,
    /// What is written whole, in bytes.
    unit: usize,
    /// The file system with all that was flushed.
    durable: Vec<u8>,
    /// What was written since the last flush.
    pending: Vec<(usize, &'a [u8])>,
    promises: BTreeMap<usize, Promises>,
    next: usize,
}

impl<'a> Replay<'a> {
    /// Begins with the file system `base`; the disk writes `unit` bytes whole.
    pub fn new(base: Vec<u8>, events: &'a [Event], places: Places, unit: usize) -> Replay<'a> {
        Replay {
            events,
            places,
            unit,
            durable: base,
            pending: Vec::new(),
            promises: BTreeMap::new(),
            next: 0,
        }
    }

    /// The disk after a failure behind event `end`, which is not before that of an earlier call.
    pub fn fail(&mut self, end: usize, random: &mut Random) -> Result<Point, String> {
        while self.next < end {
            let event = &self.events[self.next];
            self.next += 1;
            self.take(event)?;
        }
        let mut image = self.durable.clone();
        // Of what was not flushed nothing, some or all reached the disk.
        let share = random.below(5);
        for (at, bytes) in &self.pending {
            for (nr, unit) in bytes.chunks(self.unit).enumerate() {
                if random.below(4) < share {
                    image[at + nr * self.unit..][..unit.len()].copy_from_slice(unit);
                }
            }
        }
        Ok(Point { event: end, image, promises: self.promises.values().cloned().collect() })
    }

    fn take(&mut self, event: &'a Event) -> Result<(), String> {
        match event {
            Event::Flush => {
                for (at, bytes) in self.pending.drain(..) {
                    self.durable[at..at + bytes.len()].copy_from_slice(bytes);
                }
            }
            Event::Write { at, bytes } => {
                let is_in = |(start, end): (u64, u64)| *at >= start && at + bytes.len() as u64 <= end;
                if is_in(self.places.fs) {
                    self.pending.push(((at - self.places.fs.0) as usize, bytes));
                } else if is_in(self.places.marks) {
                    self.note((at - self.places.marks.0) as usize, bytes)?;
                } else {
                    return Err(format!(
                        "a write of {} bytes at {at}, outside of the partitions",
                        bytes.len()
                    ));
                }
            }
        }
        Ok(())
    }

    /// Workers' marks lie side by side; several may be written at once.
    fn note(&mut self, at: usize, bytes: &[u8]) -> Result<(), String> {
        for (nr, mark) in bytes.chunks(MARK_LEN).enumerate() {
            if mark.iter().any(|&byte| byte != 0) {
                self.promises.insert(at / MARK_LEN + nr, Promises::decode(mark)?);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_flushed_is_there_and_the_rest_in_parts() {
        let write = |at, byte| Event::Write { at, bytes: vec![byte; 2048] };
        let mut mark = Promises { worker: 1, step: 4, paths: BTreeMap::new() };
        mark.paths.insert("w1/log".into(), vec![user_disk::State::Absent]);
        let events =
            [write(0, 1), Event::Flush, Event::Write { at: 8192, bytes: mark.encode() }, write(2048, 2)];
        let places = Places { fs: (0, 4096), marks: (8192, 16384) };
        let mut random = Random::new(1);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..100 {
            let mut replay = Replay::new(vec![0; 4096], &events, places, 1024);
            let point = replay.fail(4, &mut random).unwrap();
            assert_eq!(point.promises, [mark.clone()]);
            assert!(point.image[..2048].iter().all(|&byte| byte == 1));
            seen.insert((point.image[2048], point.image[3072]));
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [(0, 0), (0, 2), (2, 0), (2, 2)]);
        assert!(Replay::new(vec![0; 4096], &[write(5000, 1)], places, 1024).fail(1, &mut random).is_err());
    }
}
