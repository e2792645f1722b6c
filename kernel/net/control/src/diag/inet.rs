//! Sockets of TCP and UDP (linux/inet_diag.h).

use alloc::boxed::Box;
use alloc::vec::Vec;

use abi::socket::AF_INET6;
use abi::{Errno, Result};
use net_inet::diag::{self, Description, Found, Side};
use net_netlink::message::{self, Builder, Header};
use net_netlink::{Answer, Request};
use security::{IdKind, UserNs};

use super::filter::Filter;
use super::{BY_FAMILY, NO_COOKIE, cookie, word};

/// Bytes of `struct inet_diag_req_v2`.
const REQUEST_LEN: usize = 56;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// A filter as a program (`INET_DIAG_REQ_BYTECODE`).
const BYTECODE: u16 = 1;
/// `INET_DIAG_*`: attributes; bit n - 1 of a request wants attribute n.
const INFO: u16 = 2;
const SHUTDOWN: u16 = 8;
const V6_ONLY: u16 = 11;
/// States in which a socket has no other end.
const ALONE: [u8; 2] = [7, 10];

/// What a request is about.
struct Wanted {
    family: u16,
    extensions: u8,
    states: u32,
    local: Side,
    remote: Side,
    cookie: u64,
}

/// Reads it. `EINVAL`: it is too short.
fn parse(body: &[u8], family: u16) -> Result<(u8, Wanted)> {
    let head: &[u8; REQUEST_LEN] = body.first_chunk().ok_or(Errno::EINVAL)?;
    let side = |port: usize, ip: usize| {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&head[ip..ip + 16]);
        Side { ip: bytes, port: u16::from_be_bytes([head[port], head[port + 1]]) }
    };
    let wanted = Wanted {
        family,
        extensions: head[2],
        states: word(head, 4),
        local: side(8, 12),
        remote: side(10, 28),
        cookie: cookie(head, 48),
    };
    Ok((head[1], wanted))
}

impl Wanted {
    /// Whether a list of all should have it, if it has the family and ports.
    fn lists(&self, one: &Description) -> bool {
        self.states.checked_shr(u32::from(one.state)).is_some_and(|bits| bits & 1 != 0)
    }

    /// Whether it is the one that is meant.
    fn is(&self, one: &Description) -> bool {
        let is_alone = ALONE.contains(&one.state) && one.local == self.local;
        one.family == self.family && (is_alone || one.local == self.local && one.remote == self.remote)
    }
}

/// The message about a socket, whose user is shown as in `viewer`.
fn describe(header: Header, found: &Found, one: &Description, extensions: u8, viewer: &UserNs) -> Vec<u8> {
    let mut out = Builder::new(header);
    out.put(&[one.family as u8, one.state, one.timer, one.retries]);
    out.put(&one.local.port.to_be_bytes()).put(&one.remote.port.to_be_bytes());
    // Then the interface that it is bound to, of which there is no choice.
    out.put(&one.local.ip).put(&one.remote.ip).put(&[0; 4]).put(&one.cookie.to_ne_bytes());
    let uid = viewer.show(IdKind::User, one.uid);
    for number in [one.expires_ms, one.receivable, one.unsent, uid, one.ino as u32] {
        out.put(&number.to_ne_bytes());
    }
    out.byte(SHUTDOWN, u8::from(one.shut.receive) | u8::from(one.shut.send) << 1);
    if one.family == AF_INET6 && ALONE.contains(&one.state) {
        out.byte(V6_ONLY, u8::from(one.v6_only));
    }
    if extensions & 1 << (INFO - 1) != 0
        && let Some(info) = found.tcp_info()
    {
        out.attribute(INFO, &info);
    }
    out.finish()
}

/// `EINVAL`: too short. `ENOENT`: another protocol, or no such socket. `ESTALE`: it is another one now. And what
/// [`Filter::new`] gives.
pub(super) fn request(request: &Request<'_>, family: u16) -> Result<Answer> {
    let (protocol, wanted) = parse(request.message.body, family)?;
    let rest = request.message.body.get(REQUEST_LEN..).unwrap_or_default();
    let program = message::attributes(rest).find(BYTECODE);
    let filter = program.map(|program| Filter::new(program.data)).transpose()?;
    if request.is_dump() {
        request.check_dump()?;
    }
    let sockets = match protocol {
        TCP => diag::tcp_sockets(request.net()),
        UDP => diag::udp_sockets(request.net()),
        _ if request.is_dump() => return Ok(Answer::NoDump(Errno::ENOENT)),
        _ => return Err(Errno::ENOENT),
    };
    if request.is_dump() {
        let header = request.header(BY_FAMILY, message::MULTI);
        let viewer = request.viewer().clone();
        let messages = sockets.filter_map(move |found| {
            if !found.is_at(wanted.family, wanted.local.port, wanted.remote.port) {
                return None;
            }
            let one = found.describe();
            let is_taken = wanted.lists(&one) && filter.as_ref().is_none_or(|filter| filter.takes(&one));
            is_taken.then(|| describe(header, &found, &one, wanted.extensions, &viewer))
        });
        return Ok(Answer::Dump(Box::new(messages)));
    }
    // All that are listed have a port.
    if wanted.local.port == 0 {
        return Err(Errno::ENOENT);
    }
    let near = sockets.filter(|found| found.is_at(wanted.family, wanted.local.port, 0));
    let mut described = near.map(|found| (found.describe(), found));
    let (one, found) = described.find(|(one, _)| wanted.is(one)).ok_or(Errno::ENOENT)?;
    if wanted.cookie != NO_COOKIE && wanted.cookie != one.cookie {
        return Err(Errno::ESTALE);
    }
    let header = request.header(BY_FAMILY, 0);
    request.reply(describe(header, &found, &one, wanted.extensions, request.viewer()));
    Ok(Answer::Done)
}
