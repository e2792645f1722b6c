//! What a socket sees of a frame, and what its filter is told about it.

use cbpf::{Ancillary, Packet};
use net_core::SockType;
use net_inet::interface::LO_INDEX;
use net_inet::tap::{Frame, Way};

use crate::address::{Address, HARDWARE, LOOPBACK};

/// A frame as a socket of some type sees it.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    kind: SockType,
    pub(crate) frame: &'a Frame,
    pub(crate) way: Way,
}

impl<'a> View<'a> {
    pub(crate) fn new(kind: SockType, frame: &'a Frame, way: Way) -> Self {
        Self { kind, frame, way }
    }

    /// What the program of a group is told, whatever sockets are in it: what comes is seen from the network header on, what
    /// goes with the Ethernet header.
    pub(crate) fn of_group(frame: &'a Frame, way: Way) -> Self {
        let kind = if way == Way::Outgoing { SockType::Raw } else { SockType::Datagram };
        Self::new(kind, frame, way)
    }

    /// The bytes that it sees: without the Ethernet header for a socket of datagrams.
    pub(crate) fn seen(&self) -> &'a [u8] {
        if self.kind == SockType::Raw { &self.frame.bytes } else { self.frame.network() }
    }

    /// Where the network header begins in those bytes.
    pub(crate) fn network_at(&self) -> usize {
        self.seen().len() - self.frame.network().len()
    }

    /// Who has sent it.
    pub(crate) fn sender(&self) -> Address {
        let mut bytes = [0; 8];
        if let Some(source) = self.frame.bytes.get(HARDWARE..2 * HARDWARE) {
            bytes[..HARDWARE].copy_from_slice(source);
        }
        Address {
            protocol: self.frame.protocol,
            interface: LO_INDEX as i32,
            hardware: LOOPBACK,
            way: self.way as u8,
            len: HARDWARE as u8,
            bytes,
        }
    }
}

impl Packet for View<'_> {
    fn bytes(&self) -> &[u8] {
        self.seen()
    }

    fn network(&self) -> &[u8] {
        self.frame.network()
    }

    fn link(&self) -> &[u8] {
        &self.frame.bytes
    }

    fn ancillary(&self, which: Ancillary) -> u32 {
        match which {
            Ancillary::Protocol => u32::from(self.frame.protocol),
            Ancillary::PacketType => self.way as u32,
            Ancillary::Interface => LO_INDEX,
            Ancillary::Mark => self.frame.mark,
            Ancillary::HardwareType => u32::from(LOOPBACK),
            Ancillary::Hash => self.frame.flow().hash,
            Ancillary::Payload => self.frame.flow().payload + self.network_at() as u32,
            Ancillary::Cpu => hal::cpu::raw_current_id().0 as u32,
            Ancillary::Random => random::next_u64() as u32,
            // One queue, no tags beside the bytes; the rest is not asked for.
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_of_groups_see_headers_of_what_goes() {
        let frame = Frame::new((0..60).collect(), 0x800, 0, 0);
        let first = |way| View::of_group(&frame, way).bytes()[0];
        assert_eq!([first(Way::Outgoing), first(Way::Host), first(Way::OtherHost)], [0, 14, 14]);
    }
}
