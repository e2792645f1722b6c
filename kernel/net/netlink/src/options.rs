//! Options of level `SOL_NETLINK` (netlink(7)).

use alloc::vec::Vec;

use abi::{Errno, Result};
use bitflags::bitflags;
use security::Cred;

use crate::socket::NetlinkSocket;

/// The level.
pub(crate) const SOL_NETLINK: i32 = 270;
const ADD_MEMBERSHIP: i32 = 1;
const DROP_MEMBERSHIP: i32 = 2;
/// Option, and type of the control message that it asks for.
pub(crate) const PKTINFO: i32 = 3;
const BROADCAST_ERROR: i32 = 4;
const NO_ENOBUFS: i32 = 5;
/// The groups that the socket is in, in words of 32 bits.
pub(crate) const LIST_MEMBERSHIPS: i32 = 9;
const CAP_ACK: i32 = 10;
const EXT_ACK: i32 = 11;
const GET_STRICT_CHK: i32 = 12;

bitflags! {
    /// What is switched by an option of its own.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(crate) struct Switches: u8 {
        /// Messages come with the group that they went to.
        const PKTINFO = 1;
        /// Senders of groups want to know of losses; here only kept, since the kernel's senders do not look.
        const BROADCAST_ERROR = 2;
        /// Losses are not told, and end nothing.
        const NO_ENOBUFS = 4;
        /// Acknowledgements leave the request's body out.
        const CAP_ACK = 8;
        /// Acknowledgements may have attributes; there are none here.
        const EXT_ACK = 16;
        /// Wrong requests to get are refused.
        const STRICT = 32;
    }
}

fn switch(name: i32) -> Option<Switches> {
    Some(match name {
        PKTINFO => Switches::PKTINFO,
        BROADCAST_ERROR => Switches::BROADCAST_ERROR,
        NO_ENOBUFS => Switches::NO_ENOBUFS,
        CAP_ACK => Switches::CAP_ACK,
        EXT_ACK => Switches::EXT_ACK,
        GET_STRICT_CHK => Switches::STRICT,
        _ => return None,
    })
}

/// setsockopt(2). `ENOPROTOOPT`: another level or option. `EINVAL`: too few bytes, or no such group. `EPERM`: to listen is
/// not for everybody.
pub(crate) fn set(socket: &NetlinkSocket, level: i32, name: i32, value: &[u8], cred: &Cred) -> Result<()> {
    if level != SOL_NETLINK {
        return Err(Errno::ENOPROTOOPT);
    }
    let value = match value.first_chunk() {
        Some(raw) => u32::from_ne_bytes(*raw),
        // Linux looks at the value only when there is enough of it.
        None => 0,
    };
    if name == ADD_MEMBERSHIP || name == DROP_MEMBERSHIP {
        if !socket.may_listen(cred) {
            return Err(Errno::EPERM);
        }
        socket.set_groups(|old| old);
        let bit = value.checked_sub(1).filter(|&bit| bit < socket.groups_of_protocol());
        let mask = 1u64 << bit.ok_or(Errno::EINVAL)?;
        socket.set_groups(|old| if name == ADD_MEMBERSHIP { old | mask } else { old & !mask });
        return Ok(());
    }
    socket.switch(switch(name).ok_or(Errno::ENOPROTOOPT)?, value != 0);
    Ok(())
}

/// getsockopt(2). `ENOPROTOOPT`: another level or option. `EINVAL`: no room for a number.
pub(crate) fn get(socket: &NetlinkSocket, level: i32, name: i32, room: usize) -> Result<Vec<u8>> {
    if level != SOL_NETLINK {
        return Err(Errno::ENOPROTOOPT);
    }
    if name == LIST_MEMBERSHIPS {
        let known = socket.inner().lock().known_groups;
        let words = known.div_ceil(u32::BITS) as usize;
        let groups = socket.groups();
        return Ok((0..words).flat_map(|word| ((groups >> (32 * word)) as u32).to_ne_bytes()).collect());
    }
    let switch = switch(name).ok_or(Errno::ENOPROTOOPT)?;
    if room < size_of::<i32>() {
        return Err(Errno::EINVAL);
    }
    let is_on = socket.inner().lock().switches.contains(switch);
    Ok(i32::from(is_on).to_ne_bytes().to_vec())
}
