//! Control messages of sendmsg(2) and recvmsg(2): descriptors and credentials (cmsg(3), unix(7)).

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::socket::{Cmsghdr, Msghdr, Ucred};
use abi::{Errno, Result};
use hal::{UserAddr, user};
use net_core::{Control, MsgFlags, Process, Received};
use process::pid;
use security::{Cap, IdKind};
use vfs::{FdFlags, File};
use zerocopy::IntoBytes;

use crate::caller::{self, Caller};
use crate::net::SOL_SOCKET;

const SCM_RIGHTS: i32 = 1;
const SCM_CREDENTIALS: i32 = 2;
const SCM_PIDFD: i32 = 4;
/// Most descriptors in one message (unix(7)).
const SCM_MAX_FD: usize = 253;
/// Most bytes of control data (/proc/sys/net/core/optmem_max).
const MAX_CONTROL: u64 = 128 << 10;
/// Most bytes in a control message of another level than `SOL_SOCKET`; none is longer.
const MAX_OTHER: u64 = 256;
/// Size of a control message without data.
const HEADER: u64 = size_of::<Cmsghdr>() as u64;

/// What a message carries beside its data.
#[derive(Default)]
pub(crate) struct Sent {
    pub rights: Vec<Arc<File>>,
    pub creds: Option<Ucred>,
    pub control: Vec<Control>,
}

/// Reads control messages.
///
/// `ENOBUFS`: too many bytes. `EINVAL`: a malformed or unknown message, too many descriptors, or one of a ring of
/// io_uring. `EBADF`.
/// `ETOOMANYREFS`: the user has more files in messages than descriptors are allowed. `EPERM`:
/// credentials that are not the caller's. `EFAULT`.
pub(crate) fn parse(caller: &Caller, control: UserAddr, len: u64) -> Result<Sent> {
    let mut sent = Sent::default();
    if control.0 == 0 || len == 0 {
        return Ok(sent);
    }
    if len > MAX_CONTROL {
        return Err(Errno::ENOBUFS);
    }
    let mut at = 0;
    while at + HEADER <= len {
        let header: Cmsghdr = user::read(UserAddr(control.0.wrapping_add(at)))?;
        if header.cmsg_len < HEADER || header.cmsg_len > len - at {
            return Err(Errno::EINVAL);
        }
        if header.cmsg_level == SOL_SOCKET {
            let data = UserAddr(control.0.wrapping_add(at + HEADER));
            let size = (header.cmsg_len - HEADER) as usize;
            match header.cmsg_type {
                SCM_RIGHTS => read_rights(caller, data, size / size_of::<i32>(), &mut sent.rights)?,
                SCM_CREDENTIALS if size == size_of::<Ucred>() => {
                    let creds: Ucred = user::read(data)?;
                    sent.creds = Some(global_creds(caller, &creds)?);
                }
                _ => return Err(Errno::EINVAL),
            }
        } else if header.cmsg_len - HEADER <= MAX_OTHER {
            let mut data = alloc::vec![0; (header.cmsg_len - HEADER) as usize];
            user::read_bytes(UserAddr(control.0.wrapping_add(at + HEADER)), &mut data)?;
            sent.control.push(Control { level: header.cmsg_level, kind: header.cmsg_type, data });
        }
        at += header.cmsg_len.next_multiple_of(8);
    }
    Ok(sent)
}

fn read_rights(caller: &Caller, data: UserAddr, count: usize, rights: &mut Vec<Arc<File>>) -> Result<()> {
    if count > SCM_MAX_FD - rights.len() {
        return Err(Errno::EINVAL);
    }
    let is_privileged = || caller.cred.capable(Cap::SYS_RESOURCE) || caller.cred.capable(Cap::SYS_ADMIN);
    if net_unix::in_flight_of(caller.cred.euid) > caller::nofile() && !is_privileged() {
        return Err(Errno::ETOOMANYREFS);
    }
    for index in 0..count as u64 {
        let fd: i32 = user::read(UserAddr(data.0.wrapping_add(index * 4)))?;
        let file = caller.files.get_any(fd)?;
        // A ring may hold the socket that the message lies in: nobody would find that they hold only each other.
        if io_uring::ring_of(&file).is_ok() {
            return Err(Errno::EINVAL);
        }
        rights.push(file);
    }
    Ok(())
}

/// Only one's own ids may be shown, unless privileged (unix(7)).
///
/// Gives them in numbers of the first namespaces. `EINVAL`: ids without a number there. `ESRCH`: no such process.
fn global_creds(caller: &Caller, creds: &Ucred) -> Result<Ucred> {
    let cred = &caller.cred;
    let uid = cred.user_ns.to_global(IdKind::User, creds.uid).ok_or(Errno::EINVAL)?;
    let gid = cred.user_ns.to_global(IdKind::Group, creds.gid).ok_or(Errno::EINVAL)?;
    let is_own_pid = creds.pid == caller.task.own_pid() as i32;
    let admin = || cred.ns_capable(caller.task.group().pid_ns().id().owner(), Cap::SYS_ADMIN);
    let uid_ok = [cred.uid, cred.euid, cred.suid].contains(&uid) || cred.own_capable(Cap::SETUID);
    let gid_ok = [cred.gid, cred.egid, cred.sgid].contains(&gid) || cred.own_capable(Cap::SETGID);
    if !((is_own_pid || admin()) && uid_ok && gid_ok) {
        return Err(Errno::EPERM);
    }
    let pid = if is_own_pid {
        caller.task.pid()
    } else {
        let number = u32::try_from(creds.pid).map_err(|_| Errno::ESRCH)?;
        pid::find_process(number).ok_or(Errno::ESRCH)?.pid()
    };
    Ok(Ucred { pid: pid as i32, uid, gid })
}

/// `creds`, in numbers of the first namespaces, as the caller sees them.
pub(crate) fn shown_creds(creds: Ucred) -> Ucred {
    Ucred {
        pid: u32::try_from(creds.pid).map_or(creds.pid, |pid| process::pid::visible(pid) as i32),
        uid: crate::caller::shown_id(IdKind::User, creds.uid),
        gid: crate::caller::shown_id(IdKind::Group, creds.gid),
    }
}

/// A control buffer of the caller being filled.
struct Writer {
    at: u64,
    left: u64,
}

impl Writer {
    /// Writes one message, cut to the room; gives whether it was whole.
    fn put(&mut self, level: i32, kind: i32, data: &[u8]) -> Result<bool> {
        if self.left < HEADER {
            return Ok(false);
        }
        let whole = HEADER + data.len() as u64;
        let len = whole.min(self.left);
        self.put_header(level, kind, len)?;
        user::write_bytes(UserAddr(self.at.wrapping_add(HEADER)), &data[..(len - HEADER) as usize])?;
        self.advance(whole);
        Ok(len == whole)
    }

    fn put_header(&self, level: i32, kind: i32, len: u64) -> Result<()> {
        let header = Cmsghdr { cmsg_len: len, cmsg_level: level, cmsg_type: kind };
        Ok(user::write(UserAddr(self.at), &header)?)
    }

    fn advance(&mut self, len: u64) {
        let step = len.next_multiple_of(8).min(self.left);
        self.at = self.at.wrapping_add(step);
        self.left -= step;
    }

    /// Installs as many files as there is room for; gives whether that was all.
    fn put_rights(&mut self, caller: &Caller, files: Vec<Arc<File>>, flags: FdFlags) -> Result<bool> {
        let total = files.len();
        let room = (self.left.saturating_sub(HEADER) / 4) as usize;
        let mut count = 0;
        for file in files.into_iter().take(room) {
            let Ok(reserved) = caller.files.reserve(0, caller::nofile(), flags) else { break };
            let place = self.at.wrapping_add(HEADER + 4 * count as u64);
            if user::write(UserAddr(place), &reserved.fd()).is_err() {
                break;
            }
            reserved.install(file);
            count += 1;
        }
        if count > 0 {
            let len = HEADER + 4 * count as u64;
            self.put_header(SOL_SOCKET, SCM_RIGHTS, len)?;
            self.advance(len);
        }
        Ok(count == total)
    }
}

impl Writer {
    /// Installs a pidfd of `process`, or tells why it cannot; gives whether there was room.
    fn put_pidfd(&mut self, caller: &Caller, process: Process) -> Result<bool> {
        const LEN: u64 = HEADER + size_of::<i32>() as u64;
        if self.left < LEN {
            return Ok(false);
        }
        let opened = crate::net::pidfd_of(process, caller).and_then(|file| {
            let reserved = caller.files.reserve(0, caller::nofile(), FdFlags::CLOEXEC)?;
            Ok((reserved, file))
        });
        match opened {
            Ok((reserved, file)) => {
                let is_whole = self.put(SOL_SOCKET, SCM_PIDFD, reserved.fd().as_bytes())?;
                reserved.install(file);
                Ok(is_whole)
            }
            Err(error) => self.put(SOL_SOCKET, SCM_PIDFD, (error.to_return() as i32).as_bytes()),
        }
    }
}

/// Writes the control messages of what was received and gives the bytes used; what does not fit sets `CTRUNC`.
pub(crate) fn write(
    caller: &Caller,
    header: &Msghdr,
    received: &mut Received,
    flags: MsgFlags,
    passes_creds: bool,
) -> Result<u64> {
    let rights = core::mem::take(&mut received.rights);
    let room = if header.msg_control == 0 { 0 } else { header.msg_controllen };
    let mut writer = Writer { at: header.msg_control, left: room };
    let mut is_whole = true;
    if let Some(creds) = received.creds.filter(|_| passes_creds) {
        is_whole &= writer.put(SOL_SOCKET, SCM_CREDENTIALS, shown_creds(creds).as_bytes())?;
    }
    if !rights.is_empty() {
        let is_cloexec = flags.contains(MsgFlags::CMSG_CLOEXEC);
        let fd_flags = if is_cloexec { FdFlags::CLOEXEC } else { FdFlags::empty() };
        is_whole &= writer.put_rights(caller, rights, fd_flags)?;
    }
    if let Some(process) = received.process.take() {
        is_whole &= writer.put_pidfd(caller, process)?;
    }
    for control in &received.control {
        is_whole &= writer.put(control.level, control.kind, &control.data)?;
    }
    received.flags.set(MsgFlags::CTRUNC, !is_whole);
    Ok(room - writer.left)
}
