//! Receiving packets by calls.

use alloc::vec::Vec;

use abi::{Errno, Result};
use hal::uio::Dest;
use net_core::options::{SO_TIMESTAMP, SO_TIMESTAMPNS};
use net_core::{Control, MsgFlags, Patience, Received};

use crate::options::{PACKET_AUXDATA, SOL_PACKET};
use crate::ring::STATUS_USER;
use crate::socket::{Packet, PacketSocket};
use crate::view::View;
use crate::virtio;

/// `SOL_SOCKET`.
const SOL_SOCKET: i32 = 1;

impl PacketSocket {
    /// recv(2). `EINVAL`: flags that it has not, or no room for the header of `PACKET_VNET_HDR`. `EAGAIN`, `EFAULT`.
    pub(crate) fn receive_packet(&self, dst: &mut Dest<'_>, flags: MsgFlags) -> Result<Received> {
        let known = MsgFlags::PEEK | MsgFlags::DONTWAIT | MsgFlags::TRUNC | MsgFlags::ERRQUEUE;
        if !known.union(MsgFlags::CMSG_CLOEXEC).contains(flags) {
            return Err(Errno::EINVAL);
        }
        if flags.contains(MsgFlags::ERRQUEUE) {
            // Nothing ever gets there.
            return Err(Errno::EAGAIN);
        }
        let peeks = flags.contains(MsgFlags::PEEK);
        let patience = Patience::new(flags, self.options.receive_timeout());
        let packet = patience.wait(&self.wait, || self.first(peeks))??;
        let header = self.settings.virtio_header();
        if header > 0 {
            if dst.remaining() < header {
                return Err(Errno::EINVAL);
            }
            dst.put_bytes(virtio::BLANK.get(..header).unwrap_or_default())?;
        }
        let view = View::new(self.kind, &packet.frame, packet.way);
        let bytes = view.seen().get(..packet.len).unwrap_or_default();
        let fits = bytes.get(..dst.remaining()).unwrap_or(bytes);
        let done = if fits.is_empty() { 0 } else { dst.put_bytes(fits)? };
        if done < fits.len() {
            return Err(Errno::EFAULT);
        }
        Ok(Received {
            len: header + if flags.contains(MsgFlags::TRUNC) { bytes.len() } else { done },
            flags: if done < bytes.len() { MsgFlags::TRUNC } else { MsgFlags::empty() },
            name: view.sender().to_array().to_vec(),
            control: self.control_of(&view, &packet),
            ..Received::default()
        })
    }

    /// What the user wants to know beside a packet.
    fn control_of(&self, view: &View<'_>, packet: &Packet) -> Vec<Control> {
        let mut all = Vec::new();
        let [seconds, rest] = [view.frame.time_ns / 1_000_000_000, view.frame.time_ns % 1_000_000_000];
        let stamp = |kind: i32, rest: i64| {
            let data = [seconds.to_ne_bytes(), rest.to_ne_bytes()].concat();
            Control { level: SOL_SOCKET, kind, data }
        };
        if self.settings.stamps_ns() {
            all.push(stamp(SO_TIMESTAMPNS, rest));
        } else if self.options.has(SO_TIMESTAMP) {
            all.push(stamp(SO_TIMESTAMP, rest / 1000));
        }
        if self.settings.tells_more() {
            // struct tpacket_auxdata: status, length, length here, link and network header, tag and its protocol.
            let words = [STATUS_USER, view.seen().len() as u32, packet.len as u32];
            let halves = [0, view.network_at() as u16, 0, 0];
            let words = words.into_iter().flat_map(u32::to_ne_bytes);
            let data = words.chain(halves.into_iter().flat_map(u16::to_ne_bytes)).collect();
            all.push(Control { level: SOL_PACKET, kind: PACKET_AUXDATA, data });
        }
        all
    }
}
