//! Provided buffers: groups of which a request takes one when it has data.
//!
//! A group is a list (`IORING_OP_PROVIDE_BUFFERS`) or a ring in the process's memory (`IORING_REGISTER_PBUF_RING`), whose
//! pages are pinned and count against `RLIMIT_MEMLOCK`. The process may write a ring at any time: an entry is read once, when
//! it is taken.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use abi::io_uring::{BufReg, ProvidedBuf};
use abi::{Errno, Result};
use hal::uio::UserBuf;
use hal::{PAGE_SIZE, UserAddr};
use hashbrown::HashMap;
use mm::PinnedPage;
use sched::Mutex;
use zerocopy::IntoBytes;

use crate::fixed::PageCharge;

/// Most buffers of a group.
const MAX_BUFFERS: usize = 1 << 16;
/// Most places for buffers in all lists together, so that what they take is bounded.
const MAX_PLACES: usize = 1 << 20;
/// Most entries of a ring.
const MAX_RING: u32 = 1 << 15;
/// Where the tail is in a ring.
const TAIL: usize = 14;

/// A buffer that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Selected {
    addr: u64,
    len: u32,
    pub id: u16,
    /// Where the head of its ring was.
    turn: u16,
}

impl Selected {
    pub fn buffer(&self) -> UserBuf {
        UserBuf { addr: UserAddr(self.addr), len: self.len as usize }
    }
}

/// A ring of entries in pinned pages.
struct BufferRing {
    pages: Vec<PinnedPage>,
    entries: u32,
    head: u16,
    /// Buffers that came back when others had been taken after them. They are the next ones.
    returned: Vec<Selected>,
    _charge: Option<PageCharge>,
}

impl BufferRing {
    fn read(&self, offset: usize, bytes: &mut [u8]) {
        if let Some(page) = self.pages.get(offset / PAGE_SIZE) {
            page.frame().read(offset % PAGE_SIZE, bytes);
        }
    }

    /// The next entry, which stays.
    fn peek(&self) -> Option<Selected> {
        let mut tail = [0; 2];
        self.read(TAIL, &mut tail);
        if u16::from_ne_bytes(tail) == self.head {
            return None;
        }
        let at = (u32::from(self.head) & (self.entries - 1)) as usize;
        let mut entry = ProvidedBuf::default();
        self.read(at * size_of::<ProvidedBuf>(), entry.as_mut_bytes());
        Some(Selected { addr: entry.addr, len: entry.len, id: entry.bid, turn: self.head })
    }

    fn take(&mut self) -> Option<Selected> {
        if let Some(returned) = self.returned.pop() {
            return Some(returned);
        }
        let found = self.peek()?;
        self.head = self.head.wrapping_add(1);
        Some(found)
    }

    /// Puts back what was [taken](Self::take). Without memory it is as if it had been used.
    fn give_back(&mut self, selected: Selected) {
        if self.head == selected.turn.wrapping_add(1) {
            self.head = selected.turn;
        } else if self.returned.try_reserve(1).is_ok() {
            self.returned.push(selected);
        }
    }
}

enum Group {
    List(VecDeque<Selected>),
    Ring(BufferRing),
}

struct State {
    groups: HashMap<u16, Group>,
    /// The room of all lists, whether buffers are in it or not.
    nr_places: usize,
}

/// The groups of a ring.
pub(crate) struct Groups(Mutex<State>);

impl Groups {
    pub fn new() -> Self {
        Self(Mutex::new("io_uring.groups", State { groups: HashMap::new(), nr_places: 0 }))
    }

    /// Takes a buffer of `group`. `ENOBUFS`: there is none.
    pub fn select(&self, group: u16) -> Result<Selected> {
        let mut state = self.0.lock();
        let found = match state.groups.get_mut(&group) {
            Some(Group::List(list)) => list.pop_front(),
            Some(Group::Ring(ring)) => ring.take(),
            None => None,
        };
        found.ok_or(Errno::ENOBUFS)
    }

    /// Gives a buffer back that was not used. Without memory it is lost.
    pub fn give_back(&self, group: u16, selected: Selected) {
        let mut state = self.0.lock();
        let State { groups, nr_places } = &mut *state;
        match groups.get_mut(&group) {
            Some(Group::List(list)) => {
                // Its place may be another's or gone.
                let old = list.capacity();
                if list.try_reserve(1).is_ok() {
                    *nr_places += list.capacity() - old;
                    list.push_front(selected);
                }
            }
            Some(Group::Ring(ring)) => ring.give_back(selected),
            None => {}
        }
    }

    /// Adds `nr` buffers of `len` bytes from `addr` on, with ids from `first` on. `E2BIG`, `ENOMEM`, `EEXIST`.
    pub fn provide(&self, group: u16, addr: u64, len: u32, nr: u32, first: u16) -> Result<()> {
        let mut state = self.0.lock();
        let State { groups, nr_places } = &mut *state;
        groups.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        let group = groups.entry(group).or_insert_with(|| Group::List(VecDeque::new()));
        let Group::List(list) = group else { return Err(Errno::EINVAL) };
        let old = list.capacity();
        let needed = list.len() + nr as usize;
        if needed > MAX_BUFFERS || *nr_places + needed.saturating_sub(old) > MAX_PLACES {
            return Err(Errno::ENOMEM);
        }
        list.try_reserve(nr as usize).map_err(|_| Errno::ENOMEM)?;
        *nr_places += list.capacity() - old;
        for n in 0..nr {
            let addr = addr.wrapping_add(u64::from(n) * u64::from(len));
            list.push_back(Selected { addr, len, id: first.wrapping_add(n as u16), turn: 0 });
        }
        Ok(())
    }

    /// Takes up to `nr` buffers out; gives how many. `ENOENT`: no such group. `EINVAL`: it is a ring.
    pub fn remove(&self, group: u16, nr: u32) -> Result<usize> {
        let mut state = self.0.lock();
        let State { groups, nr_places } = &mut *state;
        match groups.get_mut(&group) {
            Some(Group::List(list)) => {
                let nr = list.len().min(nr as usize);
                list.drain(..nr);
                if list.is_empty() {
                    *nr_places -= list.capacity();
                    *list = VecDeque::new();
                }
                Ok(nr)
            }
            Some(Group::Ring(_)) => Err(Errno::EINVAL),
            None => Err(Errno::ENOENT),
        }
    }

    /// Registers a ring in the caller's memory. `EINVAL`, `EFAULT`, `EEXIST`. `ENOMEM`: memory, or
    /// `RLIMIT_MEMLOCK`. May sleep.
    pub fn register(&self, reg: &BufReg) -> Result<()> {
        let is_aligned = reg.ring_addr.is_multiple_of(PAGE_SIZE as u64) && reg.ring_addr != 0;
        if reg.resv != [0; 3] || reg.flags != 0 || !reg.ring_entries.is_power_of_two() {
            return Err(Errno::EINVAL);
        }
        if !is_aligned {
            return Err(Errno::EINVAL);
        }
        if reg.ring_entries > MAX_RING {
            return Err(Errno::EINVAL);
        }
        let bytes = u64::from(reg.ring_entries) * size_of::<ProvidedBuf>() as u64;
        let end = reg.ring_addr.checked_add(bytes).ok_or(Errno::EFAULT)?;
        let mm = process::current().mm().ok_or(Errno::EFAULT)?;
        let charge = PageCharge::new(bytes.div_ceil(PAGE_SIZE as u64))?;
        let pages = mm.pin_for_long(reg.ring_addr..end)?;
        let mut state = self.0.lock();
        let State { groups, nr_places } = &mut *state;
        let is_taken = match groups.get(&reg.bgid) {
            Some(Group::Ring(_)) => true,
            Some(Group::List(list)) => !list.is_empty(),
            None => false,
        };
        if is_taken {
            return Err(Errno::EEXIST);
        }
        groups.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        let returned = Vec::new();
        let ring = BufferRing { pages, entries: reg.ring_entries, head: 0, returned, _charge: charge };
        if let Some(Group::List(old)) = groups.insert(reg.bgid, Group::Ring(ring)) {
            *nr_places -= old.capacity();
        }
        Ok(())
    }

    /// Forgets a ring. `ENOENT`: there is no such group. `EINVAL`: it is a list.
    pub fn unregister(&self, group: u16) -> Result<()> {
        let mut state = self.0.lock();
        let groups = &mut state.groups;
        match groups.get(&group) {
            Some(Group::Ring(_)) => drop(groups.remove(&group)),
            Some(Group::List(_)) => return Err(Errno::EINVAL),
            None => return Err(Errno::ENOENT),
        }
        Ok(())
    }

    /// Forgets all.
    pub fn clear(&self) {
        let all = {
            let mut state = self.0.lock();
            state.nr_places = 0;
            core::mem::take(&mut state.groups)
        };
        drop(all);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_taken_in_order_and_takes_back() {
        let groups = Groups::new();
        assert_eq!(groups.select(3), Err(Errno::ENOBUFS));
        groups.provide(3, 0x1000, 256, 3, 7).unwrap();
        let first = groups.select(3).unwrap();
        assert_eq!((first.addr, first.len, first.id), (0x1000, 256, 7));
        groups.give_back(3, first);
        assert_eq!(groups.select(3), Ok(first));
        assert_eq!(groups.select(3).map(|next| (next.addr, next.id)), Ok((0x1100, 8)));
        assert_eq!(groups.remove(3, 9), Ok(1));
        assert_eq!(groups.remove(4, 9), Err(Errno::ENOENT));
        assert_eq!(groups.select(3), Err(Errno::ENOBUFS));
    }

    #[test]
    fn what_comes_back_late_is_taken_next() {
        let mut ring =
            BufferRing { pages: Vec::new(), entries: 8, head: 2, returned: Vec::new(), _charge: None };
        let [first, second] = [0, 1].map(|n| Selected { addr: 0, len: 1, id: 7 + n, turn: n });
        // The first comes back while the second is used: only its own place is open again.
        ring.give_back(first);
        assert_eq!(ring.head, 2);
        assert_eq!(ring.take(), Some(first));
        ring.give_back(first);
        ring.give_back(second);
        assert_eq!((ring.head, ring.take()), (1, Some(first)));
        // The last one taken goes back into the ring.
        ring.give_back(first);
        assert_eq!((ring.head, ring.returned.len()), (0, 0));
    }

    #[test]
    fn a_list_takes_back_when_it_was_emptied() {
        let groups = Groups::new();
        groups.provide(1, 0, 1, 2, 0).unwrap();
        let first = groups.select(1).unwrap();
        groups.remove(1, 5).unwrap();
        groups.give_back(1, first);
        assert_eq!(groups.remove(1, 5), Ok(1));
        assert_eq!(groups.0.lock().nr_places, 0);
    }

    #[test]
    fn a_group_is_bounded() {
        let groups = Groups::new();
        groups.provide(0, 0, 1, 65536, 0).unwrap();
        assert_eq!(groups.provide(0, 0, 1, 1, 0), Err(Errno::ENOMEM));
    }

    #[test]
    fn all_lists_together_are_bounded() {
        let groups = Groups::new();
        let fill = || (0..1000).take_while(|n| groups.provide(*n, 0, 1, 65536, 0).is_ok()).count();
        let nr = fill();
        assert!((8..=16).contains(&nr), "{nr}");
        // Taken buffers leave their places; those of a list that was emptied are free again.
        assert!(groups.select(0).is_ok());
        assert_eq!(groups.provide(999, 0, 1, 65536, 0), Err(Errno::ENOMEM));
        assert_eq!(groups.remove(1, 65536), Ok(65536));
        assert_eq!(groups.provide(999, 0, 1, 65536, 0), Ok(()));
        groups.clear();
        assert_eq!(fill(), nr);
    }
}
