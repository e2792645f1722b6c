//! The calls of sockets.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::Ordering::Relaxed;

use abi::poll::PollEvents;
use abi::socket::{AF_PACKET, Ucred};
use abi::{Errno, Result};
use hal::uio::Dest;
use hal::{UserAddr, user};
use mm::Backing;
use net_core::options::{SO_TIMESTAMP, SO_TIMESTAMPNS};
use net_core::{End, MsgFlags, Options, Outgoing, Place, Received, SockType, Socket, filter};
use net_inet::interface::LO_INDEX;
use sched::PollTable;
use security::Cred;
use vfs::WalkContext;

use crate::address::{Address, HARDWARE, LOOPBACK};
use crate::options::SOL_PACKET;
use crate::ring;
use crate::socket::PacketSocket;

/// When the last packet came: with microseconds, with nanoseconds.
const SIOCGSTAMP: u32 = 0x8906;
const SIOCGSTAMPNS: u32 = 0x8907;

impl Socket for PacketSocket {
    fn family(&self) -> u16 {
        AF_PACKET
    }

    fn kind(&self) -> SockType {
        self.kind
    }

    fn protocol_name(&self) -> &'static str {
        "PACKET"
    }

    fn options(&self) -> &Options {
        &self.options
    }

    fn filter(&self) -> Option<&filter::Slot> {
        Some(&self.filter)
    }

    fn bind(&self, _walk: &WalkContext<'_>, address: &[u8]) -> Result<()> {
        self.bind_to(Address::parse_for_bind(address)?)
    }

    fn connect(&self, _walk: &WalkContext<'_>, _address: &[u8], _flags: MsgFlags) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    fn send(&self, _walk: Option<&WalkContext<'_>>, message: Outgoing<'_, '_>) -> Result<usize> {
        self.send_packet(message)
    }

    fn receive(&self, dst: &mut Dest<'_>, flags: MsgFlags) -> Result<Received> {
        self.receive_packet(dst, flags)
    }

    fn address(&self, end: End) -> Result<Vec<u8>> {
        if end == End::Peer {
            return Err(Errno::EOPNOTSUPP);
        }
        let (protocol, interface) = {
            let inner = self.inner.lock();
            (inner.protocol, inner.interface)
        };
        let (hardware, len) = if interface == LO_INDEX { (LOOPBACK, HARDWARE as u8) } else { (0, 0) };
        Ok(Address { protocol, interface: interface as i32, hardware, len, ..Address::default() }.to_short())
    }

    fn poll(&self, table: &mut PollTable) -> PollEvents {
        table.register(&self.wait);
        let (has_packet, has_error) = {
            let inner = self.inner.lock();
            (!inner.queue.is_empty(), inner.error.is_some())
        };
        let in_ring = self.rx.lock().as_ref().is_some_and(|ring| ring.is_readable());
        // Whatever is in a ring to send.
        let mut events = PollEvents::OUT | PollEvents::WRNORM | PollEvents::WRBAND;
        events.set(PollEvents::IN | PollEvents::RDNORM, has_packet || in_ring);
        events.set(PollEvents::ERR, has_error);
        events
    }

    fn readable_bytes(&self) -> Result<usize> {
        Ok(self.inner.lock().queue.front().map_or(0, |first| first.len))
    }

    fn unsent_bytes(&self) -> Result<usize> {
        Ok(0)
    }

    fn take_error(&self) -> Option<Errno> {
        self.inner.lock().error.take()
    }

    fn is_listening(&self) -> bool {
        false
    }

    fn peer_cred(&self) -> Ucred {
        Ucred { pid: 0, uid: u32::MAX, gid: u32::MAX }
    }

    fn net_cookie(&self) -> u64 {
        self.net.id().id()
    }

    fn set_option(&self, level: i32, name: i32, value: &[u8], cred: &Cred) -> Result<()> {
        if level != SOL_PACKET {
            return Err(Errno::ENOPROTOOPT);
        }
        self.set_packet_option(name, value, cred)
    }

    fn get_option(&self, level: i32, name: i32, place: &Place<'_>) -> Result<Vec<u8>> {
        if level != SOL_PACKET {
            return Err(Errno::ENOPROTOOPT);
        }
        self.packet_option(name, place)
    }

    fn set_own_option(&self, name: i32, value: i32) -> Result<()> {
        if name != SO_TIMESTAMPNS {
            return self.own_option(name).map(drop);
        }
        self.settings.set_stamps_ns(value != 0);
        Ok(())
    }

    fn own_option(&self, name: i32) -> Result<i32> {
        match name {
            SO_TIMESTAMPNS => Ok(i32::from(self.settings.stamps_ns())),
            net_core::options::SO_PASSPIDFD => Err(Errno::EOPNOTSUPP),
            _ => Err(Errno::ENOPROTOOPT),
        }
    }

    fn option_changed(&self, name: i32) {
        // The one takes the place of the other.
        if name == SO_TIMESTAMP {
            self.settings.set_stamps_ns(false);
        }
    }

    fn net(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        Some(self.net.clone())
    }

    /// `ENOENT`: no packet was received yet.
    fn ioctl(&self, cmd: u32, arg: UserAddr) -> Result<usize> {
        if cmd != SIOCGSTAMP && cmd != SIOCGSTAMPNS {
            return Err(Errno::ENOTTY);
        }
        let last_ns = self.inner.lock().last_ns;
        if last_ns == 0 {
            return Err(Errno::ENOENT);
        }
        let rest = last_ns % 1_000_000_000;
        let rest = if cmd == SIOCGSTAMP { rest / 1000 } else { rest };
        user::write(arg, &[last_ns / 1_000_000_000, rest])?;
        Ok(0)
    }

    fn mmap(&self, offset: u64, len: u64) -> Result<Backing> {
        ring::mmap(self, offset, len)
    }

    fn opened(&self, ino: u64) {
        self.ino.store(ino, Relaxed);
    }

    fn release(&self) {
        self.close();
    }
}
