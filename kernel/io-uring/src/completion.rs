//! The completion queue: what became of the requests.
//!
//! A completion that finds no place waits in a list, in order, until the process has taken others and comes into
//! io_uring_enter(2) (`IORING_FEAT_NODROP`). The list is bounded: while it is long, nothing more is submitted, and a request
//! that tells many things ends.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::*};

use abi::io_uring::{CQ_EVENTFD_DISABLED, Cqe, CqeFlags, SqFlags};
use events::eventfd::EventFd;
use hal::sync::SpinLock;
use vfs::File;

use crate::memory::Memory;

/// Completions without a place from which on nothing is submitted.
const MANY: usize = 65536;

/// How many of them share a piece of memory.
const CHUNK: usize = 128;
/// How many find their places at a time, before others have a turn at the lock.
const AT_ONCE: usize = 256;

/// A list that grows without moving what is in it, by chunks that are made before the lock is taken.
struct Overflow {
    /// None is empty, and all but the last have or had [`CHUNK`].
    chunks: VecDeque<VecDeque<Cqe>>,
    len: usize,
}

impl Overflow {
    /// `None`: no memory.
    fn new_chunk() -> Option<VecDeque<Cqe>> {
        let mut chunk = VecDeque::new();
        chunk.try_reserve_exact(CHUNK).ok()?;
        Some(chunk)
    }

    /// Adds `one` where there is room, or into `spare`; whether it could.
    fn push(&mut self, one: Cqe, spare: &mut Option<VecDeque<Cqe>>) -> bool {
        if let Some(last) = self.chunks.back_mut()
            && last.len() < CHUNK
            && last.len() < last.capacity()
        {
            last.push_back(one);
            self.len += 1;
            return true;
        }
        if self.chunks.try_reserve(1).is_err() {
            return false;
        }
        let Some(mut chunk) = spare.take() else { return false };
        chunk.push_back(one);
        self.chunks.push_back(chunk);
        self.len += 1;
        true
    }

    fn pop(&mut self) -> Option<Cqe> {
        let first = self.chunks.front_mut()?;
        let one = first.pop_front()?;
        if first.is_empty() {
            self.chunks.pop_front();
        }
        self.len -= 1;
        Some(one)
    }
}

struct State {
    /// Where the next completion goes.
    tail: u32,
    overflow: Overflow,
}

/// The kernel's side of the queue. `state` is a leaf but for the bytes of the ring, and is taken in task context only.
pub(crate) struct Completions {
    memory: Arc<Memory>,
    state: SpinLock<State>,
    has_overflow: AtomicBool,
    /// `IORING_SQ_*`, as last shown.
    sq_flags: AtomicU32,
    eventfd: SpinLock<Option<Arc<File>>>,
    has_eventfd: AtomicBool,
}

impl Completions {
    pub fn new(memory: Arc<Memory>) -> Self {
        Self {
            memory,
            state: SpinLock::new(
                "io_uring.cq",
                State { tail: 0, overflow: Overflow { chunks: VecDeque::new(), len: 0 } },
            ),
            has_overflow: AtomicBool::new(false),
            sq_flags: AtomicU32::new(0),
            eventfd: SpinLock::new("io_uring.eventfd", None),
            has_eventfd: AtomicBool::new(false),
        }
    }

    fn is_full(&self, tail: u32) -> bool {
        // A head that is nonsense makes the ring look full, to the loss of who wrote it.
        tail.wrapping_sub(self.memory.cq_head()) >= self.memory.shape().cq_entries
    }

    /// Puts `cqe` into its place and shows it; `false`: there is none for it now.
    #[inline]
    fn put(&self, state: &mut State, cqe: &Cqe) -> bool {
        if state.overflow.len > 0 || self.is_full(state.tail) {
            return false;
        }
        self.memory.put_cqe(state.tail, cqe);
        state.tail = state.tail.wrapping_add(1);
        self.memory.set_cq_tail(state.tail);
        true
    }

    /// Tells `cqe`. It is kept, in order, when there is no place; lost, and counted, only without memory. May sleep.
    #[inline]
    pub fn post(&self, cqe: Cqe) {
        if !self.try_post(cqe) {
            self.post_or_keep(cqe);
        }
    }

    #[cold]
    fn post_or_keep(&self, cqe: Cqe) {
        let (mut spare, mut was_made) = (None, false);
        loop {
            let mut state = self.state.lock();
            if self.put(&mut state, &cqe) {
                return;
            }
            let has_room = state.overflow.len < 2 * MANY;
            if has_room && state.overflow.push(cqe, &mut spare) {
                self.has_overflow.store(true, Relaxed);
                self.change_flags(SqFlags::empty(), SqFlags::CQ_OVERFLOW);
                return;
            }
            if was_made || !has_room {
                self.memory.count_overflow();
                return;
            }
            drop(state);
            spare = Overflow::new_chunk();
            was_made = true;
        }
    }

    /// Tells `cqe` if there is a place for it now; was there?
    #[inline]
    pub fn try_post(&self, cqe: Cqe) -> bool {
        self.put(&mut self.state.lock(), &cqe)
    }

    /// Moves what waits to the places that became free.
    pub fn flush(&self) {
        if !self.has_overflow.load(Relaxed) {
            return;
        }
        while self.flush_some() == AT_ONCE {}
    }

    /// Moves up to [`AT_ONCE`]; gives how many.
    fn flush_some(&self) -> usize {
        let mut state = self.state.lock();
        let mut nr = 0;
        while nr < AT_ONCE && !self.is_full(state.tail) {
            let Some(cqe) = state.overflow.pop() else { break };
            self.memory.put_cqe(state.tail, &cqe);
            state.tail = state.tail.wrapping_add(1);
            nr += 1;
        }
        self.memory.set_cq_tail(state.tail);
        if state.overflow.len == 0 {
            state.overflow.chunks.shrink_to_fit();
            self.has_overflow.store(false, Relaxed);
            self.change_flags(SqFlags::CQ_OVERFLOW, SqFlags::empty());
        }
        nr
    }

    /// Whether so many wait that nothing more may be submitted.
    pub fn is_swamped(&self) -> bool {
        self.has_overflow.load(Relaxed) && self.state.lock().overflow.len >= MANY
    }

    pub fn has_overflow(&self) -> bool {
        self.has_overflow.load(Relaxed)
    }

    /// How many completions there were ever, modulo 2^32; those without a place count.
    pub fn posted(&self) -> u32 {
        let state = self.state.lock();
        state.tail.wrapping_add(state.overflow.len as u32)
    }

    /// Completions in the ring that the process has not taken.
    pub fn ready(&self) -> u32 {
        let tail = self.state.lock().tail;
        tail.wrapping_sub(self.memory.cq_head()).min(self.memory.shape().cq_entries)
    }

    /// The tail as the process sees it.
    pub fn tail(&self) -> u32 {
        self.state.lock().tail
    }

    /// Changes the flags of the submission ring. Usable in any context.
    pub fn change_flags(&self, clear: SqFlags, set: SqFlags) {
        let new = |old: u32| Some(old & !clear.bits() | set.bits());
        let _ = self.sq_flags.fetch_update(SeqCst, SeqCst, new);
        // Two that change at once show the later state both, or it is shown once more.
        let mut shown = self.sq_flags.load(SeqCst);
        loop {
            self.memory.set_sq_flags(shown);
            let now = self.sq_flags.load(SeqCst);
            if now == shown {
                return;
            }
            shown = now;
        }
    }

    /// The eventfd that is told of completions; gives the old one.
    pub fn set_eventfd(&self, file: Option<Arc<File>>) -> Option<Arc<File>> {
        let mut place = self.eventfd.lock();
        self.has_eventfd.store(file.is_some(), Relaxed);
        core::mem::replace(&mut *place, file)
    }

    /// Whether there is an eventfd.
    pub fn has_eventfd(&self) -> bool {
        self.has_eventfd.load(SeqCst)
    }

    /// Signals the eventfd, unless the process does not want it now.
    pub fn signal(&self) {
        if !self.has_eventfd.load(Relaxed) || self.memory.cq_flags() & CQ_EVENTFD_DISABLED != 0 {
            return;
        }
        let file = self.eventfd.lock().clone();
        if let Some(eventfd) = file.as_ref().and_then(|file| file.ops_as::<EventFd>()) {
            eventfd.signal(1);
        }
    }
}

/// The flags of a completion that used the buffer `id`.
pub(crate) fn buffer_flags(id: u16) -> CqeFlags {
    CqeFlags::from_bits_retain(CqeFlags::BUFFER.bits() | u32::from(id) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Shape;

    fn queue(entries: u32) -> Completions {
        let shape = Shape { sq_entries: 1, cq_entries: entries, sqe_size: 64, cqe_size: 16, has_array: true };
        Completions::new(Arc::new(Memory::new(shape).unwrap()))
    }

    fn cqe(n: u64) -> Cqe {
        Cqe { user_data: n, res: 0, flags: 0 }
    }

    #[test]
    fn what_finds_no_place_waits() {
        let queue = queue(4);
        for n in 0..7 {
            queue.post(cqe(n));
        }
        assert_eq!((queue.ready(), queue.posted(), queue.has_overflow()), (4, 7, true));
        assert!(!queue.try_post(cqe(9)));
        queue.flush();
        assert_eq!(queue.ready(), 4);
        assert!(!queue.is_swamped());
    }

    #[test]
    fn many_without_a_place_stay_in_order() {
        let mut list = Overflow { chunks: VecDeque::new(), len: 0 };
        let (mut next, mut wanted) = (0, 0);
        for round in 1..=1000 {
            for _ in 0..round % 7 {
                let mut spare = Overflow::new_chunk();
                assert!(list.push(cqe(next), &mut spare));
                next += 1;
            }
            for _ in 0..round % 6 {
                let Some(found) = list.pop() else { break };
                assert_eq!(found.user_data, wanted);
                wanted += 1;
            }
            assert_eq!(list.len as u64, next - wanted);
        }
        assert!(list.chunks.len() <= list.len / CHUNK + 2);
        while list.pop().is_some() {}
        assert!(list.chunks.is_empty() && list.len == 0);
    }

    #[test]
    fn flags_are_shown_together() {
        let queue = queue(4);
        queue.change_flags(SqFlags::empty(), SqFlags::TASKRUN);
        queue.change_flags(SqFlags::empty(), SqFlags::CQ_OVERFLOW);
        queue.change_flags(SqFlags::TASKRUN, SqFlags::empty());
        assert_eq!(queue.sq_flags.load(SeqCst), SqFlags::CQ_OVERFLOW.bits());
    }
}
