//! A device model on the other side of the queue.

use super::*;

struct Model {
    available: u16,
    used: u16,
}

type Chain = Vec<(u64, u32, u16)>;

impl Model {
    fn descriptor(memory: &Buffer, at: usize) -> (u64, u32, u16, u16) {
        let rest = memory.read_u64(at * DESCRIPTOR + 8);
        (memory.read_u64(at * DESCRIPTOR), rest as u32, (rest >> 32) as u16, (rest >> 48) as u16)
    }

    /// The next request: its head and its chain.
    fn take<T>(&mut self, queue: &Queue<T>) -> Option<(u16, Chain)> {
        let memory = &queue.memory;
        if memory.read_u16(queue.layout.available() + 2) == self.available {
            return None;
        }
        let head = memory.read_u16(queue.layout.available_entry(self.available));
        self.available = self.available.wrapping_add(1);
        let (addr, len, flags, _) = Model::descriptor(memory, head.into());
        let mut chain = Vec::new();
        if flags & ring::INDIRECT != 0 {
            let table = queue.slots[usize::from(head)].page.as_ref().unwrap();
            assert_eq!(table.paddr().0, addr);
            for at in 0..len as usize / DESCRIPTOR {
                let (addr, len, flags, _) = Model::descriptor(table, at);
                chain.push((addr, len, flags & ring::WRITE));
            }
            return Some((head, chain));
        }
        let mut at = head;
        loop {
            let (addr, len, flags, next) = Model::descriptor(memory, at.into());
            chain.push((addr, len, flags & ring::WRITE));
            if flags & ring::NEXT == 0 {
                return Some((head, chain));
            }
            at = next;
        }
    }

    fn finish<T>(&mut self, queue: &Queue<T>, head: u32, written: u32) {
        let entry = queue.layout.used_entry(self.used);
        queue.memory.write_u32(entry, head);
        queue.memory.write_u32(entry + 4, written);
        self.used = self.used.wrapping_add(1);
        queue.memory.write_u16(queue.layout.used() + 2, self.used);
    }
}

fn piece(paddr: u64, len: u32, is_written: bool) -> Piece {
    Piece { paddr: PhysAddr(paddr), len, is_written }
}

const MODES: [Features; 2] = [Features::INDIRECT, Features::VERSION_1];

#[test]
fn a_request_arrives_as_it_was_given() {
    for features in MODES {
        let mut queue = Queue::new(8, features, None).unwrap();
        let mut model = Model { available: 0, used: 0 };
        let pieces = [(0x1000, 4096), (0x2000, 512), (0x9000, 512)].map(|(at, len)| piece(at, len, true));
        queue.add(&[1; 16], pieces.into_iter(), 1, 'a').unwrap();
        let (head, chain) = model.take(&queue).unwrap();
        // The first two are adjacent and became one.
        assert_eq!(chain.len(), 4);
        assert_eq!((chain[0].1, chain[0].2), (16, 0));
        assert_eq!(chain[1..3], [(0x1000, 4608, ring::WRITE), (0x9000, 512, ring::WRITE)]);
        assert_eq!((chain[3].1, chain[3].2), (1, ring::WRITE));
        assert!(queue.pop().is_none());
        queue.slots[usize::from(head)].page.as_ref().unwrap().write(TAIL_AT, &[7]);
        model.finish(&queue, head.into(), 5121);
        let done = queue.pop().unwrap();
        assert_eq!((done.token, done.written, done.tail[0]), ('a', 5121, 7));
        assert!(queue.is_idle());
    }
}

#[test]
fn descriptors_are_neither_lost_nor_shared() {
    for features in MODES {
        let mut queue = Queue::new(16, features, None).unwrap();
        let mut model = Model { available: 0, used: 0 };
        let (mut seed, mut token, mut running) = (1u64, 0u32, Vec::new());
        for _ in 0..100_000 {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            if seed >> 40 & 1 == 0 {
                let pieces = (0..seed >> 50 & 3).map(|n| piece(n * 0x10000, 512, false));
                if queue.add(&[0; 16], pieces, 1, token).is_ok() {
                    let (head, chain) = model.take(&queue).unwrap();
                    assert_eq!(chain.len() as u64, (seed >> 50 & 3) + 2);
                    running.push((head, token));
                    token += 1;
                }
            } else if !running.is_empty() {
                let (head, token) = running.swap_remove((seed >> 45) as usize % running.len());
                model.finish(&queue, head.into(), 0);
                assert_eq!(queue.pop().map(|done| done.token), Some(token));
            }
            let in_chains = usize::from(queue.size() - queue.nr_free);
            assert!(in_chains >= running.len() && (in_chains == 0) == running.is_empty());
        }
        assert!(token > 1000);
    }
}

#[test]
fn a_lying_device_breaks_its_queue_only() {
    for id in [3, 1, 8, u32::MAX] {
        let mut queue = Queue::new(8, Features::INDIRECT, None).unwrap();
        let mut model = Model { available: 0, used: 0 };
        queue.add(&[0; 16], core::iter::empty(), 1, ()).unwrap();
        model.finish(&queue, id, u32::MAX);
        assert!(queue.pop().is_none() && queue.is_broken());
        assert!(queue.add(&[0; 16], core::iter::empty(), 1, ()).is_err());
        assert_eq!(queue.drain().count(), 1);
    }
}

#[test]
fn a_full_queue_gives_the_token_back() {
    let mut queue = Queue::new(2, Features::INDIRECT, None).unwrap();
    for n in 0..2 {
        queue.add(&[0], core::iter::empty(), 1, n).unwrap();
    }
    assert_eq!(queue.add(&[0], core::iter::empty(), 1, 9), Err(9));
    let many = (0..MAX_PIECES as u64 + 1).map(|n| piece(n * 8192, 512, false));
    let mut queue = Queue::new(2, Features::INDIRECT, None).unwrap();
    assert_eq!(queue.add(&[0], many.clone(), 1, 1), Err(1));
    queue.add(&[0], many.take(MAX_PIECES), 1, 1).unwrap();
}

#[test]
fn the_device_is_told_when_it_asked_for_it() {
    let mut queue = Queue::new(8, Features::INDIRECT | Features::EVENT_IDX, None).unwrap();
    let add = |queue: &mut Queue<()>| queue.add(&[0], core::iter::empty(), 1, ()).unwrap();
    assert!(!queue.should_notify());
    add(&mut queue);
    assert!(queue.should_notify() && !queue.should_notify());
    add(&mut queue);
    assert!(!queue.should_notify(), "it asked from entry 0 on, which passed");
    queue.memory.write_u16(queue.layout.avail_event(), 2);
    add(&mut queue);
    assert!(queue.should_notify());
}
