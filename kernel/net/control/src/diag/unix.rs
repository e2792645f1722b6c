//! Sockets of the family `AF_UNIX` (linux/unix_diag.h).

use alloc::boxed::Box;
use alloc::vec::Vec;

use abi::socket::AF_UNIX;
use abi::{Errno, Result};
use net_netlink::message::{self, Builder, Header};
use net_netlink::{Answer, Request};
use net_unix::State;
use net_unix::all::{self, Description};

use super::{BY_FAMILY, NO_COOKIE, cookie, word};

/// Bytes of `struct unix_diag_req`.
const REQUEST_LEN: usize = 24;
/// `UNIX_DIAG_*`: attributes; those that are wanted are bits (`UDIAG_SHOW_*`), numbered alike but for the first two.
const NAME: u16 = 0;
const PEER: u16 = 2;
const WAITING: u16 = 3;
const QUEUES: u16 = 4;
const SHUTDOWN: u16 = 6;
const SHOW_NAME: u32 = 1;
const SHOW_PEER: u32 = 4;
const SHOW_WAITING: u32 = 8;
const SHOW_QUEUES: u32 = 16;

/// The state in the numbers of TCP.
fn number_of(state: State) -> u8 {
    const ESTABLISHED: u8 = 1;
    const CLOSE: u8 = 7;
    const LISTEN: u8 = 10;
    match state {
        State::Connected => ESTABLISHED,
        State::Listening => LISTEN,
        State::Unconnected | State::Dead => CLOSE,
    }
}

fn describe(header: Header, one: &Description, show: u32) -> Vec<u8> {
    let mut out = Builder::new(header);
    out.put(&[AF_UNIX as u8, one.kind as u8, number_of(one.state), 0]);
    out.put(&(one.ino as u32).to_ne_bytes()).put(&one.cookie.to_ne_bytes());
    if show & SHOW_NAME != 0 && !one.name.is_empty() {
        // A path comes without its NUL.
        let is_path = one.name.first() != Some(&0);
        let name = if is_path { one.name.strip_suffix(b"\0").unwrap_or(&one.name) } else { &one.name };
        out.attribute(NAME, name);
    }
    if show & SHOW_PEER != 0
        && let Some(peer) = one.peer
    {
        out.word(PEER, peer as u32);
    }
    if show & SHOW_WAITING != 0 && one.state == State::Listening {
        let inodes: Vec<u8> = one.waiting.iter().flat_map(|ino| (*ino as u32).to_ne_bytes()).collect();
        out.attribute(WAITING, &inodes);
    }
    if show & SHOW_QUEUES != 0 {
        let clamp = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_ne_bytes();
        out.attribute(QUEUES, &[clamp(one.receivable), clamp(one.sent)].concat());
    }
    out.byte(SHUTDOWN, u8::from(one.shut.receive) | u8::from(one.shut.send) << 1);
    out.finish()
}

/// `EINVAL`: too short, or no inode given. `ENOENT`: there is none with it. `ESTALE`: it is another one now.
pub(super) fn request(request: &Request<'_>) -> Result<Answer> {
    let body = request.message.body;
    if body.len() < REQUEST_LEN {
        return Err(Errno::EINVAL);
    }
    let (states, ino, show) = (word(body, 4), word(body, 8), word(body, 12));
    let sockets = all::sockets(request.net());
    if request.is_dump() {
        request.check_dump()?;
        let header = request.header(BY_FAMILY, message::MULTI);
        let messages = sockets.filter_map(move |socket| {
            let one = socket.describe();
            let is_wanted = one.state != State::Dead && states & 1 << number_of(one.state) != 0;
            is_wanted.then(|| describe(header, &one, show))
        });
        return Ok(Answer::Dump(Box::new(messages)));
    }
    if ino == 0 {
        return Err(Errno::EINVAL);
    }
    // To describe them all would be a lot of work for each of a datagram's requests.
    let mut meant = sockets.filter(|socket| socket.ino() as u32 == ino);
    let one = meant.next().ok_or(Errno::ENOENT)?.describe();
    let wanted = cookie(body, 16);
    if wanted != NO_COOKIE && wanted != one.cookie {
        return Err(Errno::ESTALE);
    }
    request.reply(describe(request.header(BY_FAMILY, 0), &one, show));
    Ok(Answer::Done)
}
