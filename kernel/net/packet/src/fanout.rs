//! Groups of sockets that share packets among them (packet(7), `PACKET_FANOUT`).
//!
//! A group is one tap: a packet goes to one of its members. Sockets of a group are no taps of their own.
//!
//! Locks: `PacketSocket::hook` is held while [`GROUPS`] is taken. `Group::members` and those below are spinlocks.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use abi::{Errno, Result};
use cbpf::Filter;
use hal::UserAddr;
use hal::sync::SpinLock;
use net_core::filter;
use net_inet::tap::{self, Frame, Tap, Way};
use ns::NetNs;
use sched::Mutex;

use crate::socket::{ETH_P_ALL, PacketSocket};
use crate::view::View;

/// The member that takes care of what another has no room for.
const FLAG_ROLLOVER: u16 = 0x10;
/// The kernel chooses the number of the group.
const FLAG_UNIQUE: u16 = 0x20;
/// What goes is not seen.
const FLAG_IGNORE_OUTGOING: u16 = 0x40;
/// Most members that may be asked for, and how many there may be without a word about it.
const MAX_MEMBERS: u32 = 1 << 16;
const USUAL_MEMBERS: u32 = 256;
/// `PACKET_FANOUT_CBPF`, for programs.
const KIND_PROGRAM: u16 = 6;
/// `PACKET_FANOUT_EBPF`.
const KIND_EXTENDED_PROGRAM: u16 = 7;

/// How a member is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    Hash,
    RoundRobin,
    Cpu,
    /// The first one with room.
    Rollover,
    Random,
    /// By the queue that it came by, of which there is one.
    Queue,
    Program,
}

impl Choice {
    fn of(kind: u16) -> Option<Self> {
        Some(match kind {
            0 => Self::Hash,
            1 => Self::RoundRobin,
            2 => Self::Cpu,
            3 => Self::Rollover,
            4 => Self::Random,
            5 => Self::Queue,
            KIND_PROGRAM | KIND_EXTENDED_PROGRAM => Self::Program,
            _ => return None,
        })
    }
}

/// How much room a member has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    None,
    /// Less than it should have.
    Low,
    Normal,
}

/// A group.
pub(crate) struct Group {
    net: Arc<NetNs>,
    id: u16,
    kind: u16,
    choice: Choice,
    flags: u16,
    protocol: u16,
    interface: u32,
    most: u32,
    members: SpinLock<Vec<Arc<PacketSocket>>>,
    next: AtomicUsize,
    /// Where the last one was found that had room.
    spare: AtomicUsize,
    /// How often one was looked for, and how often there was none.
    rolled: AtomicU64,
    failed: AtomicU64,
    program: SpinLock<Option<Arc<Filter>>>,
}

static GROUPS: Mutex<Vec<Arc<Group>>> = Mutex::new("packet.groups", Vec::new());

/// What the value of the option asks for (`struct fanout_args`, or the first four bytes of it).
struct Wanted {
    id: u16,
    kind: u16,
    flags: u16,
    most: u32,
}

impl Wanted {
    /// `EINVAL`: a wrong length, too many members, an unknown kind, or flags that do not go with it.
    fn parse(value: &[u8]) -> Result<Self> {
        if value.len() != 4 && value.len() != 8 {
            return Err(Errno::EINVAL);
        }
        let &[i0, i1, kind, flags] = value.first_chunk().ok_or(Errno::EINVAL)?;
        let most =
            value.get(4..).and_then(|rest| rest.first_chunk()).map_or(0, |raw| u32::from_ne_bytes(*raw));
        let (kind, flags) = (u16::from(kind), u16::from(flags));
        if most > MAX_MEMBERS {
            return Err(Errno::EINVAL);
        }
        let choice = Choice::of(kind).ok_or(Errno::EINVAL)?;
        if choice == Choice::Rollover && flags & FLAG_ROLLOVER != 0 {
            return Err(Errno::EINVAL);
        }
        let id = u16::from_ne_bytes([i0, i1]);
        if flags & FLAG_UNIQUE != 0 && id != 0 {
            return Err(Errno::EINVAL);
        }
        Ok(Self { id, kind, flags, most })
    }
}

/// The least number that is not among `used`. `ENOMEM`: all are, or there is no memory to find it.
fn unused_id(used: impl Iterator<Item = u16>) -> Result<u16> {
    let mut words: Vec<u64> = Vec::new();
    words.try_reserve_exact(1024).map_err(|_| Errno::ENOMEM)?;
    words.resize(1024, 0);
    for id in used {
        if let Some(word) = words.get_mut(usize::from(id / 64)) {
            *word |= 1 << (id % 64);
        }
    }
    let free = words.iter().zip(0u16..).find(|(word, _)| **word != u64::MAX);
    free.map(|(word, at)| at * 64 + word.trailing_ones() as u16).ok_or(Errno::ENOMEM)
}

/// `PACKET_FANOUT`: joins a group, which is made if there is none of this number.
///
/// `EINVAL`: a group of another kind, or a socket without a protocol. `EALREADY`: it is in one. `ENOSPC`: the group is full.
/// `ENOMEM`: no number is left. `ENOBUFS`.
pub(crate) fn join(socket: &PacketSocket, value: &[u8]) -> Result<()> {
    let mut wanted = Wanted::parse(value)?;
    let mut hook = socket.hook.lock();
    if hook.group.is_some() {
        return Err(Errno::EALREADY);
    }
    let mut groups = GROUPS.lock();
    let net = socket.net.id().id();
    let find = |groups: &[Arc<Group>], id: u16| {
        groups.iter().find(|group| group.net.id().id() == net && group.id == id).cloned()
    };
    if wanted.flags & FLAG_UNIQUE != 0 {
        let used = groups.iter().filter(|group| group.net.id().id() == net).map(|group| group.id);
        wanted.id = unused_id(used)?;
        wanted.flags &= !FLAG_UNIQUE;
    }
    let (protocol, interface) = {
        let inner = socket.inner.lock();
        (inner.protocol, inner.interface)
    };
    let me = socket.weak().upgrade().ok_or(Errno::EINVAL)?;
    let found = find(&groups, wanted.id);
    let is_new = found.is_none();
    let group = found.unwrap_or_else(|| Group::new(socket, &wanted, protocol, interface));
    let has_other_most = wanted.most != 0 && wanted.most != group.most;
    let fits = (group.kind, group.flags, group.protocol, group.interface)
        == (wanted.kind, wanted.flags, protocol, interface);
    if protocol == 0 || !fits || has_other_most {
        return Err(Errno::EINVAL);
    }
    if is_new {
        groups.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
    }
    {
        let mut members = group.members.lock();
        if members.len() >= group.most as usize {
            return Err(Errno::ENOSPC);
        }
        // With GROUPS locked, nobody else joins.
        members.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
    }
    if is_new {
        let tap: Arc<dyn Tap> = group.clone();
        tap::add(&socket.net, &tap)?;
        groups.push(group.clone());
    }
    hook.group = Some(group.clone());
    // It is no tap any more, which needs no memory.
    let _ = socket.rehook(&mut hook);
    group.members.lock().push(me);
    Ok(())
}

/// `PACKET_FANOUT_DATA`: the program that chooses. `EINVAL`: no group, or one that chooses otherwise. `EPERM`: it is locked.
pub(crate) fn set_program(socket: &PacketSocket, value: &[u8]) -> Result<()> {
    let group = socket.hook.lock().group.clone().ok_or(Errno::EINVAL)?;
    // LINUX: PACKET_FANOUT_EBPF takes the descriptor of a program, of which there are none.
    if group.kind != KIND_PROGRAM {
        return Err(Errno::EINVAL);
    }
    if socket.filter.is_locked() {
        return Err(Errno::EPERM);
    }
    let raw: &[u8; 16] = value.try_into().map_err(|_| Errno::EINVAL)?;
    let [l0, l1, _, _, _, _, _, _, at @ ..] = *raw;
    let nr = usize::from(u16::from_ne_bytes([l0, l1]));
    let program = filter::read_program(UserAddr(u64::from_ne_bytes(at)), nr)?;
    let old = group.program.lock().replace(program);
    drop(old);
    Ok(())
}

/// What getsockopt(2) tells: number, kind and flags; 0 without a group.
pub(crate) fn describe(socket: &PacketSocket) -> i32 {
    let hook = socket.hook.lock();
    hook.group.as_ref().map_or(0, |group| {
        (u32::from(group.id) | u32::from(group.kind) << 16 | u32::from(group.flags) << 24) as i32
    })
}

/// `PACKET_ROLLOVER_STATS`: how often another member had to take a packet, of which flows of their own are none, and how
/// often none could. `EINVAL`: the group has no such thing.
pub(crate) fn rollover_counts(socket: &PacketSocket) -> Result<Vec<u8>> {
    let hook = socket.hook.lock();
    let group = hook.group.as_ref().filter(|group| group.rolls()).ok_or(Errno::EINVAL)?;
    let counts = [group.rolled.load(Relaxed), 0, group.failed.load(Relaxed)];
    Ok(counts.into_iter().flat_map(u64::to_ne_bytes).collect())
}

impl Group {
    fn new(socket: &PacketSocket, wanted: &Wanted, protocol: u16, interface: u32) -> Arc<Self> {
        Arc::new(Self {
            net: socket.net.clone(),
            id: wanted.id,
            kind: wanted.kind,
            choice: Choice::of(wanted.kind).unwrap_or(Choice::Hash),
            flags: wanted.flags,
            protocol,
            interface,
            most: if wanted.most == 0 { USUAL_MEMBERS } else { wanted.most },
            members: SpinLock::new("packet.members", Vec::new()),
            next: AtomicUsize::new(0),
            spare: AtomicUsize::new(0),
            rolled: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            program: SpinLock::new("packet.program", None),
        })
    }

    fn rolls(&self) -> bool {
        self.choice == Choice::Rollover || self.flags & FLAG_ROLLOVER != 0
    }

    /// `socket` is a member no more; with the last one the group ends. May sleep.
    pub(crate) fn leave(self: &Arc<Self>, socket: &PacketSocket) {
        let mut groups = GROUPS.lock();
        let (gone, is_last) = {
            let mut members = self.members.lock();
            let at = members.iter().position(|member| core::ptr::eq(&**member, socket));
            // The last one takes its place, as on Linux.
            (at.map(|at| members.swap_remove(at)), members.is_empty())
        };
        if is_last {
            groups.retain(|group| !Arc::ptr_eq(group, self));
            let tap: Arc<dyn Tap> = self.clone();
            tap::remove(&self.net, &tap);
        }
        drop(groups);
        drop(gone);
    }

    /// The number by which a packet's member is chosen. What takes long is done here, without a lock.
    fn number(&self, frame: &Frame, way: Way) -> u32 {
        match self.choice {
            Choice::Hash => frame.flow().hash,
            Choice::RoundRobin => (self.next.fetch_add(1, Relaxed) as u32).wrapping_add(1),
            Choice::Cpu => hal::cpu::raw_current_id().0 as u32,
            Choice::Random => random::next_u64() as u32,
            Choice::Queue | Choice::Rollover => 0,
            Choice::Program => {
                let program = self.program.lock().clone();
                program.map_or(0, |program| program.run(&View::of_group(frame, way)))
            }
        }
    }

    /// Which of `nr` members the packet of a `number` goes to.
    fn choose(&self, number: u32, nr: usize) -> usize {
        match self.choice {
            Choice::Hash | Choice::Random => ((u64::from(number) * nr as u64) >> 32) as usize,
            _ => number as usize % nr.max(1),
        }
    }

    /// The member that takes a packet of `idx`: itself if it has room and is asked at all, else the next one that has.
    fn roll(&self, members: &[Arc<PacketSocket>], idx: usize, tries_self: bool) -> usize {
        // LINUX: one that has little room takes packets of flows that it has not seen much of lately.
        if tries_self && members.get(idx).is_some_and(|member| member.room() == Room::Normal) {
            return idx;
        }
        let nr = members.len().max(1);
        let first = self.spare.load(Relaxed).min(nr - 1);
        let is_free = |&at: &usize| {
            (!tries_self || at != idx) && members.get(at).is_some_and(|member| member.room() == Room::Normal)
        };
        let found = (first..nr).chain(0..first).find(is_free);
        match found {
            Some(at) => {
                self.spare.store(at, Relaxed);
                self.rolled.fetch_add(1, Relaxed);
                at
            }
            None => {
                self.failed.fetch_add(1, Relaxed);
                idx
            }
        }
    }

    fn wants(&self, frame: &Frame, way: Way) -> bool {
        match way {
            Way::Outgoing => self.protocol == ETH_P_ALL && self.flags & FLAG_IGNORE_OUTGOING == 0,
            _ => self.protocol == ETH_P_ALL || self.protocol == frame.protocol,
        }
    }
}

impl Tap for Group {
    fn see(&self, frame: &Arc<Frame>, way: Way) {
        if !self.wants(frame, way) {
            return;
        }
        // What a member sends, none of them sees go.
        if way == Way::Outgoing && self.members.lock().iter().any(|member| member.id == frame.sender) {
            return;
        }
        let number = self.number(frame, way);
        let member = {
            let members = self.members.lock();
            let mut idx = self.choose(number, members.len());
            if self.rolls() {
                idx = self.roll(&members, idx, self.choice != Choice::Rollover);
            }
            members.get(idx).cloned()
        };
        if let Some(member) = member {
            member.take_in(frame, way);
        }
    }

    fn protocol(&self) -> u16 {
        self.protocol
    }

    fn link_down(&self) {
        // From the end, as the last one takes the place of one that leaves meanwhile.
        let nr = self.members.lock().len();
        for at in (0..nr).rev() {
            let member = self.members.lock().get(at).cloned();
            if let Some(member) = member {
                member.link_down();
            }
        }
    }
}

impl PacketSocket {
    /// How much room there is for packets.
    fn room(&self) -> Room {
        if let Some(ring) = self.rx.lock().as_ref() {
            return ring.room();
        }
        let most = self.options.rcvbuf();
        let left = most.saturating_sub(self.inner.lock().charged);
        match left {
            0 => Room::None,
            left if left > most / 4 => Room::Normal,
            _ => Room::Low,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(id: u16, kind: u8, flags: u8, most: u32) -> Result<(u16, u16, u32)> {
        let value = [&id.to_ne_bytes()[..], &[kind, flags], &most.to_ne_bytes()].concat();
        Wanted::parse(&value).map(|wanted| (wanted.kind, wanted.flags, wanted.most))
    }

    #[test]
    fn unused_numbers_are_found() {
        assert_eq!(unused_id([].into_iter()), Ok(0));
        assert_eq!(unused_id((0..100).chain(101..=u16::MAX)), Ok(100));
        assert_eq!(unused_id(0..u16::MAX), Ok(u16::MAX));
        assert_eq!(unused_id(0..=u16::MAX), Err(Errno::ENOMEM));
    }

    #[test]
    fn what_is_wanted_is_checked() {
        assert_eq!(parse(1, 0, 0x80, 5), Ok((0, 0x80, 5)));
        for (id, kind, flags, most) in [(0, 3, 0x10, 0), (0, 8, 0, 0), (1, 0, 0x20, 0), (0, 0, 0, 65537)] {
            assert_eq!(parse(id, kind, flags, most), Err(Errno::EINVAL));
        }
        assert!(Wanted::parse(&[0, 0, 0]).is_err() && Wanted::parse(&[0; 5]).is_err());
        assert!(Wanted::parse(&[0, 0, 0, 0]).is_ok_and(|wanted| wanted.most == 0));
    }
}
