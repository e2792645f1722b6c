//! Sending packets by calls.

use alloc::vec::Vec;

use abi::{Errno, Result};
use hal::uio::Src;
use net_core::{Outgoing, SockType};
use net_inet::interface::{self, LO_INDEX};
use net_inet::tap::{self, Frame};

use crate::address::{Address, HARDWARE};
use crate::socket::{ETH_P_ALL, PacketSocket};
use crate::virtio::Offload;

/// Bytes of an Ethernet header.
pub(crate) const ETHERNET: usize = 14;
/// Most bytes of a packet that a wire would cut into several, behind the Ethernet header.
const MAX_LARGE: usize = 65535;

/// Where packets go: the protocol that they are said to have, and the hardware address.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    protocol: u16,
    to: [u8; HARDWARE],
    /// Most bytes of a packet.
    pub(crate) mtu: usize,
}

impl PacketSocket {
    /// Where a message goes to `name`, or where the socket is bound to.
    ///
    /// `EINVAL`: a malformed name. `ENXIO`: no such interface. `ENETDOWN`: it is off.
    pub(crate) fn target(&self, name: Option<&[u8]>) -> Result<Target> {
        let (protocol, interface, to) = match name {
            Some(name) => {
                let needed = if self.kind == SockType::Datagram { HARDWARE } else { 0 };
                let address = Address::parse_receiver(name, needed)?;
                (address.protocol, address.interface, address.ethernet())
            }
            None => {
                let inner = self.inner.lock();
                (inner.protocol, inner.interface as i32, [0; HARDWARE])
            }
        };
        if interface != LO_INDEX as i32 {
            return Err(Errno::ENXIO);
        }
        let link = interface::link(&self.net);
        if !link.is_up {
            return Err(Errno::ENETDOWN);
        }
        Ok(Target { protocol, to, mtu: link.mtu as usize })
    }

    /// Takes `len` bytes of a packet, before which a header is put for `SOCK_DGRAM`. `ENOBUFS`, `EFAULT`.
    fn take_bytes(&self, target: &Target, data: &mut Src<'_>, len: usize) -> Result<Vec<u8>> {
        let mut bytes = self.begin(target, len)?;
        let at = bytes.len();
        bytes.resize(at + len, 0);
        let room = bytes.get_mut(at..).unwrap_or_default();
        if len > 0 && data.take_bytes(room)? < len {
            return Err(Errno::EFAULT);
        }
        Ok(bytes)
    }

    /// An empty packet with room for `len` bytes, with what goes before them. `ENOBUFS`.
    pub(crate) fn begin(&self, target: &Target, len: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(ETHERNET + len).map_err(|_| Errno::ENOBUFS)?;
        if own_header(self.kind) == 0 {
            bytes.extend_from_slice(&target.to);
            bytes.extend_from_slice(&[0; HARDWARE]);
            bytes.extend_from_slice(&target.protocol.to_be_bytes());
        }
        Ok(bytes)
    }

    /// Checks the `len` bytes that the user has written. `EMSGSIZE`: more than a packet may have. `EINVAL`: less than a header.
    pub(crate) fn check_len(&self, target: &Target, len: usize, is_large: bool) -> Result<()> {
        check_len(self.kind, target.mtu, len, is_large)
    }

    /// Sends a whole frame.
    pub(crate) fn transmit(&self, target: &Target, bytes: Vec<u8>) {
        let mut frame = Frame::new(bytes, target.protocol, self.id, self.options.mark());
        if target.protocol == 0 || target.protocol == ETH_P_ALL {
            frame.protocol = frame.named_protocol();
        }
        tap::transmit(&self.net, frame);
    }

    /// send(2).
    ///
    /// `EMSGSIZE`: more than a packet may have. `EINVAL`: less than a header, or a header of `PACKET_VNET_HDR` that makes
    /// no sense. `ENOBUFS`, `EFAULT`. Else as for [`PacketSocket::target`].
    pub(crate) fn send_packet(&self, message: Outgoing<'_, '_>) -> Result<usize> {
        let Outgoing { data, name, .. } = message;
        if self.tx.lock().is_some() {
            return self.send_ring(name);
        }
        let target = self.target(name)?;
        if let Some(error) = self.inner.lock().error.take() {
            return Err(error);
        }
        let whole = data.remaining();
        let header = self.settings.virtio_header();
        let mut offload = Offload::default();
        let len = whole.checked_sub(header).ok_or(Errno::EINVAL)?;
        if header > 0 {
            let mut raw = [0; crate::virtio::LEN_MERGED];
            let raw = raw.get_mut(..header).unwrap_or_default();
            if data.take_bytes(raw)? < header {
                return Err(Errno::EFAULT);
            }
            offload = Offload::parse(raw, len)?;
        }
        self.check_len(&target, len, offload.is_large)?;
        let mut bytes = self.take_bytes(&target, data, len)?;
        let own = bytes.len() - len;
        offload.apply(bytes.get_mut(own..).unwrap_or_default())?;
        self.transmit(&target, bytes);
        Ok(whole)
    }
}

/// Bytes of a frame that a socket writes itself: those of the Ethernet header with `SOCK_RAW`.
fn own_header(kind: SockType) -> usize {
    if kind == SockType::Raw { ETHERNET } else { 0 }
}

/// See [`PacketSocket::check_len`].
fn check_len(kind: SockType, mtu: usize, len: usize, is_large: bool) -> Result<()> {
    let header = own_header(kind);
    if len < header {
        return Err(Errno::EINVAL);
    }
    // An interface of Ethernet would have room for the tag of a virtual network besides.
    let most = if is_large { MAX_LARGE } else { mtu };
    if len > most + header { Err(Errno::EMSGSIZE) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_have_a_length_that_can_be() {
        let check = |len, is_large| check_len(SockType::Raw, 1500, len, is_large);
        assert_eq!(
            [check(13, true), check(14, false), check(1514, false)],
            [Err(Errno::EINVAL), Ok(()), Ok(())]
        );
        assert_eq!([check(1515, false), check(1515, true)], [Err(Errno::EMSGSIZE), Ok(())]);
        assert_eq!([check(65549, true), check(65550, true)], [Ok(()), Err(Errno::EMSGSIZE)]);
        assert_eq!(check_len(SockType::Datagram, 1500, 65536, true), Err(Errno::EMSGSIZE));
    }
}
