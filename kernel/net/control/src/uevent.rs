//! `NETLINK_KOBJECT_UEVENT`: devices that come, go and change, as udev hears of them.
//!
//! An event is a text: what happened and where, then a line `KEY=VALUE` for each property, each ended by NUL. The listeners
//! of group 1 hear it in all network namespaces of the first user namespace. A program that may do everything can also send
//! events to the listeners of its own network namespace.
//!
//! Sources: Documentation/ABI/testing/sysfs-uevent, netlink(7).

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use abi::socket::Ucred;
use abi::{Errno, Result};
use net_netlink::message::HEADER_LEN;
use net_netlink::{Answer, Protocol, Request};
use security::Cap;

/// The one group.
const GROUP: u32 = 1;
/// Most bytes of an event's properties, and of a message that a program sends with its number (`UEVENT_BUFFER_SIZE`).
const MOST: usize = 2048;

/// What can happen to a device.
const ACTIONS: [&str; 8] = ["add", "remove", "change", "move", "online", "offline", "bind", "unbind"];
/// Characters of the id that the writer of an event may choose.
const ID_LEN: usize = 36;

static SEQUENCE: AtomicU64 = AtomicU64::new(0);

/// The number of the last event (/sys/kernel/uevent_seqnum).
pub fn last_number() -> u64 {
    SEQUENCE.load(Relaxed)
}

fn next_number() -> u64 {
    SEQUENCE.fetch_add(1, Relaxed) + 1
}

/// What a program wrote to a device's file `uevent`: an event that did not happen.
#[derive(Debug, PartialEq, Eq)]
struct Wish<'a> {
    action: &'static str,
    /// The properties that say so, in order.
    properties: Vec<(&'a str, &'a str)>,
}

/// Reads `ACTION [UUID [KEY=VALUE ...]]`. `EINVAL`: it is not so.
fn parse(text: &[u8]) -> Result<Wish<'_>> {
    let text = core::str::from_utf8(text).map_err(|_| Errno::EINVAL)?;
    let text = text.strip_suffix(['\n', '\0']).unwrap_or(text);
    let mut words = text.split(' ');
    let first = words.next().unwrap_or_default();
    let action = ACTIONS.into_iter().find(|known| *known == first).ok_or(Errno::EINVAL)?;
    let mut properties = Vec::from([("SYNTH_UUID", "0")]);
    if let Some(id) = words.next() {
        let is_good = |(at, byte): (usize, u8)| {
            if [8, 13, 18, 23].contains(&at) { byte == b'-' } else { byte.is_ascii_hexdigit() }
        };
        if id.len() != ID_LEN || !id.bytes().enumerate().all(is_good) {
            return Err(Errno::EINVAL);
        }
        properties = Vec::from([("SYNTH_UUID", id)]);
    }
    for word in words {
        let (key, value) = word.split_once('=').ok_or(Errno::EINVAL)?;
        let is_good = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !is_good(key) || !is_good(value) {
            return Err(Errno::EINVAL);
        }
        properties.push((key, value));
    }
    Ok(Wish { action, properties })
}

/// Sends the event that `wish` describes, about the device at `path` (below /sys, with a leading '/') of `subsystem`, whose
/// own properties are the lines of `properties`.
///
/// `EINVAL`: no such event. `ENOMEM`: its text is too long.
pub fn synthesize(wish: &[u8], path: &str, subsystem: &str, properties: &[u8]) -> Result<()> {
    let wish = parse(wish)?;
    // What the writer has chosen is marked, so that nobody takes it for the kernel's.
    let mark = |at: usize| if at == 0 { "" } else { "SYNTH_ARG_" };
    let line = |(at, (key, value)): (usize, &(&str, &str))| format!("{}{key}={value}\0", mark(at));
    let extra: String = wish.properties.iter().enumerate().map(line).collect();
    send(wish.action, path, subsystem, &extra, properties)
}

/// Sends an event that did happen: `action` to the device at `path` of `subsystem`. As [`synthesize`] else.
pub fn announce(action: &str, path: &str, subsystem: &str, properties: &[u8]) -> Result<()> {
    send(action, path, subsystem, "", properties)
}

fn send(action: &str, path: &str, subsystem: &str, extra: &str, properties: &[u8]) -> Result<()> {
    let head = format!("{action}@{path}\0ACTION={action}\0DEVPATH={path}\0SUBSYSTEM={subsystem}\0{extra}");
    let mut event = head.into_bytes();
    for line in properties.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        event.extend_from_slice(line);
        event.push(0);
    }
    if event.len() > MOST {
        return Err(Errno::ENOMEM);
    }
    event.extend_from_slice(format!("SEQNUM={}\0", next_number()).as_bytes());
    net_netlink::announce(net_netlink::KOBJECT_UEVENT, GROUP, event, Ucred::default(), |net| {
        net.id().owner().is_initial()
    });
    Ok(())
}

/// The protocol.
pub(crate) struct Uevent;

impl Protocol for Uevent {
    fn groups(&self) -> u32 {
        GROUP
    }

    fn anyone_listens(&self) -> bool {
        true
    }

    /// Passes an event on, as from its sender. `EPERM`: that is not for everybody. `EINVAL`: it is too long. `ENOBUFS`: there
    /// is no memory.
    fn request(&self, request: &Request<'_>) -> Result<Answer> {
        if !request.capable(request.net().id().owner(), Cap::SYS_ADMIN) {
            return Err(Errno::EPERM);
        }
        let number = format!("SEQNUM={}\0", next_number());
        let len = request.message.body.len().saturating_add(HEADER_LEN + number.len());
        if len > MOST {
            return Err(Errno::EINVAL);
        }
        let mut event = Vec::new();
        event.try_reserve(request.message.body.len() + number.len()).map_err(|_| Errno::ENOBUFS)?;
        event.extend_from_slice(request.message.body);
        event.extend_from_slice(number.as_bytes());
        let id = request.net().id().id();
        net_netlink::announce(net_netlink::KOBJECT_UEVENT, GROUP, event, request.sender(), |net| {
            net.id().id() == id
        });
        Ok(Answer::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_are_read_as_on_linux() {
        let plain = Wish { action: "add", properties: vec![("SYNTH_UUID", "0")] };
        assert_eq!((parse(b"add"), parse(b"add\n")), (Ok(plain), parse(b"add")));
        let id = "fe4d7c9d-b8c6-4a70-9ef1-3d8a58d18eed";
        let text = format!("change {id} A=1 B=abc\n");
        let wish = parse(text.as_bytes()).unwrap();
        assert_eq!(wish.properties, [("SYNTH_UUID", id), ("A", "1"), ("B", "abc")]);
        for wrong in ["", "ad", "adds", "add x", "add ", &format!("add {id} A"), &format!("add {id} A=1-2")] {
            assert_eq!(parse(wrong.as_bytes()), Err(Errno::EINVAL), "{wrong}");
        }
    }

    #[test]
    fn every_event_has_a_number() {
        let before = last_number();
        synthesize(b"add", "/devices/virtual/mem/full", "mem", b"MAJOR=1\nMINOR=7\n").unwrap();
        assert!(last_number() > before);
        assert_eq!(synthesize(b"add", "/x", "mem", &[b'a'; 4096]), Err(Errno::ENOMEM));
    }
}
