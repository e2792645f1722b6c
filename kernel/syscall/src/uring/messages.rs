//! The calls of requests on sockets.
//!
//! LINUX: `MSG_WAITALL` goes on until all came; here a part that came before the wait is the result. A multishot recvmsg,
//! whose results lie in its buffers, is `EINVAL`.

use alloc::boxed::Box;
use alloc::vec::Vec;

use abi::io_uring::{ACCEPT_MULTISHOT, RECV_MULTISHOT, RECVSEND_POLL_FIRST, Sqe, op};
use abi::socket::Msghdr;
use abi::{Errno, Result};
use hal::uio::{Dest, Src, UserBuf};
use hal::{UserAddr, user};
use io_uring::{Call, Outcome};
use net_core::{Halves, MsgFlags};

use super::calls::with_file;
use crate::caller::{self, Caller};
use crate::net;

/// The call that `sqe` asks for.
pub(super) fn prepare(sqe: &Sqe) -> Result<Call> {
    let sqe = *sqe;
    match sqe.opcode {
        op::SEND => send(&sqe),
        op::RECV => receive(&sqe),
        op::SENDMSG => send_message(&sqe),
        op::RECVMSG => receive_message(&sqe),
        op::ACCEPT => accept(&sqe),
        op::CONNECT => connect(&sqe),
        op::SOCKET => socket(&sqe),
        op::SHUTDOWN if sqe.off != 0 || sqe.addr != 0 || sqe.op_flags != 0 => Err(Errno::EINVAL),
        op::SHUTDOWN => Ok(with_file(move |file, _| {
            net_core::socket_of(file)?.shutdown(Halves::from_raw(sqe.len as i32)?).map(|()| 0)
        })),
        op::BIND if sqe.len != 0 || sqe.op_flags != 0 => Err(Errno::EINVAL),
        op::BIND => {
            let address = net::read_address(UserAddr(sqe.addr), sqe.off as i32)?;
            Ok(with_file(move |file, _| {
                net_core::socket_of(file)?.bind(&Caller::new()?.walk(), &address).map(|()| 0)
            }))
        }
        op::LISTEN if sqe.addr != 0 || sqe.off != 0 || sqe.op_flags != 0 => Err(Errno::EINVAL),
        op::LISTEN => {
            Ok(with_file(move |file, _| net_core::socket_of(file)?.listen(sqe.len as i32).map(|()| 0)))
        }
        _ => Err(Errno::EINVAL),
    }
}

/// `EINVAL`: flags in the priority that there are not.
fn check_flags(sqe: &Sqe, known: u16) -> Result<()> {
    if sqe.ioprio & !known != 0 { Err(Errno::EINVAL) } else { Ok(()) }
}

/// The flags of a message, of which none raises SIGPIPE.
fn send_flags(raw: u32) -> u32 {
    raw | MsgFlags::NOSIGNAL.bits()
}

fn send(sqe: &Sqe) -> Result<Call> {
    check_flags(sqe, RECVSEND_POLL_FIRST)?;
    // The upper half of `file_index` is padding.
    let (addr_len, rest) = (sqe.file_index & 0xffff, sqe.file_index >> 16);
    if rest != 0 {
        return Err(Errno::EINVAL);
    }
    let name = match sqe.off {
        0 => None,
        addr => Some(net::read_address(UserAddr(addr), addr_len as i32)?),
    };
    let buf = UserBuf { addr: UserAddr(sqe.addr), len: (sqe.len as usize).min(vfs::rw::MAX_COUNT) };
    let flags = send_flags(sqe.op_flags);
    Ok(with_file(move |file, _| {
        net::send_bytes(&Caller::new()?, file, Src::user(buf.addr, buf.len), name.as_deref(), flags)
    }))
}

fn receive(sqe: &Sqe) -> Result<Call> {
    check_flags(sqe, RECVSEND_POLL_FIRST | RECV_MULTISHOT)?;
    if sqe.off != 0 {
        return Err(Errno::EINVAL);
    }
    let asked = UserBuf { addr: UserAddr(sqe.addr), len: (sqe.len as usize).min(vfs::rw::MAX_COUNT) };
    let flags = sqe.op_flags;
    Ok(with_file(move |file, cx| {
        let buf = match cx.buffer {
            Some(buf) if asked.len > 0 => UserBuf { len: buf.len.min(asked.len), ..buf },
            Some(buf) => buf,
            None => asked,
        };
        let socket = net_core::socket_of(file)?;
        let mut dst = Dest::user(buf.addr, buf.len);
        socket.receive(&mut dst, net::with_file(file, flags)).map(|received| received.len)
    }))
}

/// A header with its buffers, as they are at the submission. `EMSGSIZE`, `EINVAL`, `EFAULT`, `ENOMEM`.
fn read_message(sqe: &Sqe) -> Result<(Msghdr, Vec<UserBuf>)> {
    if sqe.off != 0 || sqe.file_index != 0 {
        return Err(Errno::EINVAL);
    }
    let header: Msghdr = user::read(UserAddr(sqe.addr))?;
    net::check_header(&header)?;
    let bufs = caller::iovec(UserAddr(header.msg_iov), header.msg_iovlen as usize)?;
    Ok((header, bufs))
}

/// A copy of `bufs`. `ENOMEM`.
fn copy(bufs: &[UserBuf]) -> Result<Vec<UserBuf>> {
    let mut copy = Vec::new();
    copy.try_reserve_exact(bufs.len()).map_err(|_| Errno::ENOMEM)?;
    copy.extend_from_slice(bufs);
    Ok(copy)
}

fn send_message(sqe: &Sqe) -> Result<Call> {
    check_flags(sqe, RECVSEND_POLL_FIRST)?;
    let (header, bufs) = read_message(sqe)?;
    let name = net::header_name(&header)?;
    let flags = send_flags(sqe.op_flags);
    Ok(with_file(move |file, _| {
        net::send_parts(&Caller::new()?, file, &header, copy(&bufs)?, name.as_deref(), flags)
    }))
}

fn receive_message(sqe: &Sqe) -> Result<Call> {
    check_flags(sqe, RECVSEND_POLL_FIRST)?;
    let (header, bufs) = read_message(sqe)?;
    let (at, flags) = (UserAddr(sqe.addr), sqe.op_flags);
    Ok(with_file(move |file, cx| {
        let bufs = match cx.buffer {
            Some(buf) => copy(&[buf])?,
            None => copy(&bufs)?,
        };
        net::receive_parts(&Caller::new()?, file, at, &header, bufs, net::with_file(file, flags))
    }))
}

fn accept(sqe: &Sqe) -> Result<Call> {
    check_flags(sqe, ACCEPT_MULTISHOT)?;
    if sqe.len != 0 {
        return Err(Errno::EINVAL);
    }
    let flags = net::socket_flags(sqe.op_flags)?;
    let cloexec = caller::cloexec(flags);
    let (addr, len, index) = (UserAddr(sqe.addr), UserAddr(sqe.off), sqe.file_index);
    if index != 0 && !cloexec.is_empty() {
        return Err(Errno::EINVAL);
    }
    if sqe.ioprio & ACCEPT_MULTISHOT != 0 && index != 0 && index != u32::MAX {
        return Err(Errno::EINVAL);
    }
    Ok(Box::new(move |cx| {
        let file = cx.file.ok_or(Errno::EBADF)?;
        let new = net::accept(&Caller::new()?, file, flags, addr, len)?;
        Ok(Outcome::File(new, cloexec))
    }))
}

fn connect(sqe: &Sqe) -> Result<Call> {
    if sqe.len != 0 || sqe.op_flags != 0 {
        return Err(Errno::EINVAL);
    }
    let address = net::read_address(UserAddr(sqe.addr), sqe.off as i32)?;
    Ok(with_file(move |file, cx| {
        let socket = net_core::socket_of(file)?;
        match socket.connect(&Caller::new()?.walk(), &address, net::with_file(file, 0)) {
            Ok(()) => Ok(0),
            Err(Errno::EISCONN) if cx.is_retry => Ok(0),
            Err(Errno::EALREADY) if cx.is_retry => Err(Errno::EAGAIN),
            Err(errno) => Err(errno),
        }
    }))
}

fn socket(sqe: &Sqe) -> Result<Call> {
    if sqe.addr != 0 || sqe.op_flags != 0 {
        return Err(Errno::EINVAL);
    }
    let (family, kind, protocol, index) = (sqe.fd, sqe.off as i32, sqe.len as i32, sqe.file_index);
    Ok(Box::new(move |_| {
        let (file, flags) = net::open_socket(family, kind, protocol)?;
        if index != 0 && !flags.is_empty() {
            return Err(Errno::EINVAL);
        }
        Ok(Outcome::File(file, flags))
    }))
}
