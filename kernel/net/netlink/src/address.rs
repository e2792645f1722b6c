//! Socket addresses (`struct sockaddr_nl`): a port and a mask of groups.

use alloc::vec::Vec;

use abi::socket::AF_NETLINK;
use abi::{Errno, Result};

/// Bytes of `struct sockaddr_nl`.
const LEN: usize = 12;
/// The family that ends an association.
const AF_UNSPEC: u16 = 0;

/// An address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Address {
    /// Port; 0 is the kernel's.
    pub(crate) port: u32,
    /// Bit n - 1 for group n.
    pub(crate) groups: u32,
}

/// The family of a socket address. `EINVAL`: too few bytes for one.
fn family(bytes: &[u8]) -> Result<u16> {
    bytes.first_chunk().map(|raw| u16::from_ne_bytes(*raw)).ok_or(Errno::EINVAL)
}

/// Whether the address only says that there is none any more. `EINVAL`: it is not even that long.
pub(crate) fn is_unspecified(bytes: &[u8]) -> Result<bool> {
    family(bytes).map(|family| family == AF_UNSPEC)
}

impl Address {
    /// Reads one. `EINVAL`: too short, or of another family.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        if family(bytes)? != AF_NETLINK {
            return Err(Errno::EINVAL);
        }
        let &[_, _, _, _, a, b, c, d, e, f, g, h] = bytes.first_chunk::<LEN>().ok_or(Errno::EINVAL)?;
        Ok(Self { port: u32::from_ne_bytes([a, b, c, d]), groups: u32::from_ne_bytes([e, f, g, h]) })
    }

    /// The lowest of the groups, counted from 1; 0: none.
    pub(crate) fn group(self) -> u32 {
        if self.groups == 0 { 0 } else { self.groups.trailing_zeros() + 1 }
    }

    /// That of `port`, or of group `group`, which is left out when the mask has no bit for it.
    pub(crate) fn of(port: u32, group: u32) -> Self {
        let groups = group.checked_sub(1).and_then(|bit| 1u32.checked_shl(bit)).unwrap_or(0);
        Self { port, groups }
    }

    /// As user space has it.
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(LEN);
        bytes.extend_from_slice(&AF_NETLINK.to_ne_bytes());
        bytes.extend_from_slice(&[0; 2]);
        bytes.extend_from_slice(&self.port.to_ne_bytes());
        bytes.extend_from_slice(&self.groups.to_ne_bytes());
        bytes
    }
}
