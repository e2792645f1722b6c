//! Options of level `SOL_PACKET` (packet(7)).

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use abi::{Errno, Result};
use net_core::Place;
use net_inet::interface::LO_INDEX;
use security::Cred;

use crate::address::HARDWARE;
use crate::fanout;
use crate::ring::{self, Side, Version};
use crate::socket::{Counts, PacketSocket};
use crate::virtio;

/// The level.
pub(crate) const SOL_PACKET: i32 = 263;
const PACKET_ADD_MEMBERSHIP: i32 = 1;
const PACKET_DROP_MEMBERSHIP: i32 = 2;
const PACKET_RX_RING: i32 = 5;
const PACKET_STATISTICS: i32 = 6;
const PACKET_COPY_THRESH: i32 = 7;
/// Also the type of its control message.
pub(crate) const PACKET_AUXDATA: i32 = 8;
const PACKET_ORIGDEV: i32 = 9;
const PACKET_VERSION: i32 = 10;
const PACKET_HDRLEN: i32 = 11;
const PACKET_RESERVE: i32 = 12;
const PACKET_TX_RING: i32 = 13;
const PACKET_LOSS: i32 = 14;
const PACKET_VNET_HDR: i32 = 15;
const PACKET_TIMESTAMP: i32 = 17;
const PACKET_FANOUT: i32 = 18;
const PACKET_TX_HAS_OFF: i32 = 19;
const PACKET_QDISC_BYPASS: i32 = 20;
const PACKET_ROLLOVER_STATS: i32 = 21;
const PACKET_FANOUT_DATA: i32 = 22;
const PACKET_IGNORE_OUTGOING: i32 = 23;
const PACKET_VNET_HDR_SZ: i32 = 24;

/// `SOF_TIMESTAMPING_SOFTWARE`.
const STAMP_SOFTWARE: u32 = 16;
/// `TP_STATUS_TS_SOFTWARE`.
const STATUS_STAMP_SOFTWARE: u32 = 1 << 29;
/// Most different memberships of a socket.
///
/// LINUX: there may be any number of them, each of which is memory of the kernel that nothing is charged for.
const MAX_MEMBERS: usize = 256;
/// Bytes of `struct packet_mreq`.
const MEMBER_LEN: usize = 16;

/// What a socket wants the interface to let in besides (`struct packet_mreq`); `lo` lets in everything anyway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    kind: u16,
    len: u16,
    /// As many bytes as `len` says, and zeroes.
    address: [u8; HARDWARE],
    count: u32,
}

/// Settings that are only numbers.
#[derive(Default)]
pub(crate) struct Settings {
    tells_more: AtomicBool,
    tells_origin: AtomicBool,
    loses: AtomicBool,
    has_offsets: AtomicBool,
    bypasses: AtomicBool,
    ignores_outgoing: AtomicBool,
    stamps_ns: AtomicBool,
    /// Bytes of the header before packets; 0: none.
    virtio: AtomicU32,
    stamp: AtomicU32,
    version: AtomicU32,
    reserve: AtomicU32,
    copy_threshold: AtomicU32,
}

impl Settings {
    /// Whether packets come with `PACKET_AUXDATA`.
    pub(crate) fn tells_more(&self) -> bool {
        self.tells_more.load(Relaxed)
    }

    /// Whether it does not see what goes.
    pub(crate) fn ignores_outgoing(&self) -> bool {
        self.ignores_outgoing.load(Relaxed)
    }

    /// Whether packets come with the time in nanoseconds (`SO_TIMESTAMPNS`).
    pub(crate) fn stamps_ns(&self) -> bool {
        self.stamps_ns.load(Relaxed)
    }

    /// Sets that.
    pub(crate) fn set_stamps_ns(&self, is_on: bool) {
        self.stamps_ns.store(is_on, Relaxed);
    }

    /// Bytes of the header that goes before packets.
    pub(crate) fn virtio_header(&self) -> usize {
        self.virtio.load(Relaxed) as usize
    }

    /// What the status of a packet in a ring says about its time.
    pub(crate) fn stamp_status(&self) -> u32 {
        if self.stamp.load(Relaxed) & STAMP_SOFTWARE != 0 { STATUS_STAMP_SOFTWARE } else { 0 }
    }

    /// Whether a ring of packets to send passes over those that are wrong.
    pub(crate) fn loses(&self) -> bool {
        self.loses.load(Relaxed)
    }

    /// Whether a ring of packets to send says where each begins.
    pub(crate) fn has_offsets(&self) -> bool {
        self.has_offsets.load(Relaxed)
    }

    /// Version of the rings.
    pub(crate) fn version(&self) -> Version {
        Version::from_raw(self.version.load(Relaxed)).unwrap_or(Version::V1)
    }

    /// Bytes to leave before each packet of a ring.
    pub(crate) fn reserve(&self) -> usize {
        self.reserve.load(Relaxed) as usize
    }

    /// The switch of option `name`, if it is one that may be set at any time.
    fn switch(&self, name: i32) -> Option<&AtomicBool> {
        Some(match name {
            PACKET_AUXDATA => &self.tells_more,
            PACKET_ORIGDEV => &self.tells_origin,
            PACKET_QDISC_BYPASS => &self.bypasses,
            PACKET_IGNORE_OUTGOING => &self.ignores_outgoing,
            _ => return None,
        })
    }

    /// The one of those that may not be set once there is a ring.
    fn early_switch(&self, name: i32) -> Option<&AtomicBool> {
        Some(match name {
            PACKET_LOSS => &self.loses,
            PACKET_TX_HAS_OFF => &self.has_offsets,
            _ => return None,
        })
    }
}

/// An `int` and nothing behind it. `EINVAL`.
fn exact_int(value: &[u8]) -> Result<i32> {
    if value.len() == size_of::<i32>() { int(value) } else { Err(Errno::EINVAL) }
}

/// An `int`. `EINVAL`: too short.
fn int(value: &[u8]) -> Result<i32> {
    value.first_chunk().map(|raw| i32::from_ne_bytes(*raw)).ok_or(Errno::EINVAL)
}

impl Member {
    fn is_like(&self, other: &Self) -> bool {
        (self.kind, self.len, self.address) == (other.kind, other.len, other.address)
    }
}

/// `ENOBUFS`: too many.
fn add_member(members: &mut Vec<Member>, member: Member) -> Result<()> {
    if let Some(old) = members.iter_mut().find(|old| old.is_like(&member)) {
        old.count = old.count.saturating_add(1);
        return Ok(());
    }
    if members.len() >= MAX_MEMBERS {
        return Err(Errno::ENOBUFS);
    }
    members.try_reserve(1).map_err(|_| Errno::ENOBUFS)?;
    members.push(member);
    Ok(())
}

fn drop_member(members: &mut Vec<Member>, member: &Member) {
    if let Some(at) = members.iter().position(|old| old.is_like(member))
        && let Some(old) = members.get_mut(at)
    {
        old.count = old.count.saturating_sub(1);
        if old.count == 0 {
            members.remove(at);
        }
    }
}

impl PacketSocket {
    fn has_ring(&self) -> bool {
        self.rx.lock().is_some() || self.tx.lock().is_some()
    }

    /// setsockopt(2).
    ///
    /// `ENOPROTOOPT`: no such option. `EINVAL`: too short or for some too long, or not a value of it. `EBUSY`: there is a ring.
    pub(crate) fn set_packet_option(&self, name: i32, value: &[u8], _cred: &Cred) -> Result<()> {
        let settings = &self.settings;
        if let Some(switch) = settings.switch(name) {
            let is_exact = matches!(name, PACKET_QDISC_BYPASS | PACKET_IGNORE_OUTGOING);
            let value = if is_exact { exact_int(value)? } else { int(value)? };
            if name == PACKET_IGNORE_OUTGOING && !(0..=1).contains(&value) {
                return Err(Errno::EINVAL);
            }
            switch.store(value != 0, Relaxed);
            return Ok(());
        }
        match name {
            PACKET_ADD_MEMBERSHIP | PACKET_DROP_MEMBERSHIP => self.change_members(name, value),
            PACKET_RX_RING => ring::set(self, Side::Receive, value),
            PACKET_TX_RING => ring::set(self, Side::Send, value),
            PACKET_FANOUT => fanout::join(self, value),
            PACKET_FANOUT_DATA => fanout::set_program(self, value),
            PACKET_COPY_THRESH => {
                settings.copy_threshold.store(exact_int(value)? as u32, Relaxed);
                Ok(())
            }
            PACKET_TIMESTAMP => {
                settings.stamp.store(exact_int(value)? as u32, Relaxed);
                Ok(())
            }
            PACKET_VERSION | PACKET_RESERVE => self.set_early(name, exact_int(value)?),
            PACKET_VNET_HDR | PACKET_VNET_HDR_SZ => self.set_early(name, int(value)?),
            _ => {
                let switch = settings.early_switch(name).ok_or(Errno::ENOPROTOOPT)?;
                let value = exact_int(value)?;
                // A ring is made with this held.
                let _hook = self.hook.lock();
                if self.has_ring() {
                    return Err(Errno::EBUSY);
                }
                switch.store(value != 0, Relaxed);
                Ok(())
            }
        }
    }

    /// Sets what may not change once there is a ring. `EINVAL`, `EBUSY`.
    fn set_early(&self, name: i32, value: i32) -> Result<()> {
        let settings = &self.settings;
        let raw = u32::try_from(value).unwrap_or(u32::MAX);
        let (place, value) = match name {
            PACKET_VERSION => (&settings.version, Version::from_raw(raw).ok_or(Errno::EINVAL)? as u32),
            PACKET_RESERVE if raw > i32::MAX as u32 => return Err(Errno::EINVAL),
            PACKET_RESERVE => (&settings.reserve, raw),
            _ if self.kind != net_core::SockType::Raw => return Err(Errno::EINVAL),
            PACKET_VNET_HDR => (&settings.virtio, if value != 0 { virtio::LEN as u32 } else { 0 }),
            _ if [0, virtio::LEN as u32, virtio::LEN_MERGED as u32].contains(&raw) => (&settings.virtio, raw),
            _ => return Err(Errno::EINVAL),
        };
        // A ring is made with this held.
        let _hook = self.hook.lock();
        if self.has_ring() {
            return Err(Errno::EBUSY);
        }
        place.store(value, Relaxed);
        Ok(())
    }

    /// `EINVAL`: too short, or an address that is too long. `ENODEV`: no such interface. `ENOBUFS`: too many. What was not asked for may be
    /// dropped all the same.
    fn change_members(&self, name: i32, value: &[u8]) -> Result<()> {
        let raw: &[u8; MEMBER_LEN] = value.first_chunk().ok_or(Errno::EINVAL)?;
        let [i0, i1, i2, i3, k0, k1, l0, l1, address @ ..] = *raw;
        let len = usize::from(u16::from_ne_bytes([l0, l1]));
        let is_lo = i32::from_ne_bytes([i0, i1, i2, i3]) == LO_INDEX as i32;
        if name == PACKET_ADD_MEMBERSHIP && !is_lo {
            return Err(Errno::ENODEV);
        }
        if name == PACKET_ADD_MEMBERSHIP && len > HARDWARE {
            return Err(Errno::EINVAL);
        }
        let len = len.min(address.len());
        let mut member =
            Member { kind: u16::from_ne_bytes([k0, k1]), len: len as u16, address: [0; HARDWARE], count: 1 };
        for (to, from) in member.address.iter_mut().zip(address.iter().take(len)) {
            *to = *from;
        }
        let members = &mut self.inner.lock().members;
        if name == PACKET_ADD_MEMBERSHIP {
            return add_member(members, member);
        }
        if is_lo {
            drop_member(members, &member);
        }
        Ok(())
    }

    /// getsockopt(2), with what the caller has put in the value's place. `ENOPROTOOPT`, `EINVAL`, `EFAULT`.
    pub(crate) fn packet_option(&self, name: i32, place: &Place<'_>) -> Result<Vec<u8>> {
        let room = place.room;
        let settings = &self.settings;
        let switch = settings.switch(name).or_else(|| settings.early_switch(name));
        let value = match name {
            _ if let Some(switch) = switch => i32::from(switch.load(Relaxed)),
            PACKET_STATISTICS => return Ok(self.take_counts(room)),
            PACKET_VERSION => settings.version() as i32,
            PACKET_HDRLEN => {
                let version =
                    u32::try_from((place.asked)()?).ok().and_then(Version::from_raw).ok_or(Errno::EINVAL)?;
                version.header_len() as i32
            }
            PACKET_RESERVE => settings.reserve.load(Relaxed) as i32,
            PACKET_COPY_THRESH => settings.copy_threshold.load(Relaxed) as i32,
            PACKET_TIMESTAMP => settings.stamp.load(Relaxed) as i32,
            PACKET_VNET_HDR => i32::from(settings.virtio_header() != 0),
            PACKET_VNET_HDR_SZ => settings.virtio_header() as i32,
            PACKET_FANOUT => fanout::describe(self),
            PACKET_ROLLOVER_STATS => return fanout::rollover_counts(self),
            _ => return Err(Errno::ENOPROTOOPT),
        };
        Ok(value.to_ne_bytes().to_vec())
    }

    /// The counts since they were last asked for.
    fn take_counts(&self, room: usize) -> Vec<u8> {
        let Counts { packets, drops, freezes } = core::mem::take(&mut self.inner.lock().counts);
        let all = [packets.wrapping_add(drops), drops, freezes];
        let nr = if self.settings.version() == Version::V3 { 3 } else { 2 };
        all.into_iter().take(nr).flat_map(u32::to_ne_bytes).take(room.max(4)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memberships_are_counted_and_bounded() {
        let member = |kind| Member { kind, len: 0, address: [0; HARDWARE], count: 1 };
        let mut members = Vec::new();
        for _ in 0..2 {
            add_member(&mut members, member(1)).unwrap();
        }
        drop_member(&mut members, &member(2));
        drop_member(&mut members, &member(1));
        assert_eq!(members, [member(1)]);
        drop_member(&mut members, &member(1));
        assert_eq!(members, []);
        for kind in 0..MAX_MEMBERS as u16 {
            add_member(&mut members, member(kind)).unwrap();
        }
        assert_eq!(add_member(&mut members, member(999)), Err(Errno::ENOBUFS));
        assert_eq!(add_member(&mut members, member(0)), Ok(()));
    }
}
