//! The descriptor of `SECCOMP_FILTER_FLAG_NEW_LISTENER`.
//!
//! Source: seccomp_unotify(2).

use alloc::sync::Arc;

use abi::fs::OpenFlags;
use abi::poll::PollEvents;
use abi::{Errno, Result};
use hal::{UserAddr, user};
use process::current;
use sched::PollTable;
use security::Cred;
use vfs::{FdFlags, File, FileMode, FileOps};
use zerocopy::IntoBytes;

use crate::notify::{CONTINUE, NOTIF_LEN, NewFd, Notif, Notifications, Response};

const RECV: u32 = 0xc050_2100;
const SEND: u32 = 0xc018_2101;
const ID_VALID: u32 = 0x4008_2102;
/// `ID_VALID` as it was first defined, with the direction reversed.
const ID_VALID_OLD: u32 = 0x8008_2102;
/// `ADDFD` without its size, which may grow, and its direction, which may change.
const ADDFD: u32 = 0x2103;
const CODE_BITS: u32 = 0xffff;
const SET_FLAGS: u32 = 0x4008_2104;
/// Bytes of `struct seccomp_notif_addfd`.
const ADDFD_LEN: usize = 24;

struct Listener(Arc<Notifications>);

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Makes the listener's file.
pub(crate) fn create(notifications: Arc<Notifications>, cred: &Arc<Cred>) -> Result<Arc<File>> {
    vfs::anon::file("seccomp notify", Arc::new(Listener(notifications)), OpenFlags::RDWR, cred)
}

impl Listener {
    /// `SECCOMP_IOCTL_NOTIF_RECV`. `EINVAL`: the structure is not zeroed. `EINTR`. `ENOENT`: nobody will ever call.
    fn receive(&self, at: UserAddr) -> Result<usize> {
        let garbage: [u8; NOTIF_LEN] = user::read(at)?;
        if garbage.iter().any(|&byte| byte != 0) {
            return Err(Errno::EINVAL);
        }
        let look = || match self.0.receive() {
            Some(notif) => Some(Ok(notif)),
            None => self.0.has_no_users().then_some(Err(Errno::ENOENT)),
        };
        let mut notif: Notif = self.0.listeners.wait_interruptible(look).map_err(|_| Errno::EINTR)??;
        notif.pid = process::pid::visible(notif.pid);
        if let Err(fault) = user::write_bytes(at, notif.as_bytes()) {
            self.0.put_back(notif.id);
            return Err(fault.into());
        }
        Ok(0)
    }

    /// `SECCOMP_IOCTL_NOTIF_SEND`. `EINVAL`: unknown flags, or a result for a call that goes on.
    fn send(&self, at: UserAddr) -> Result<usize> {
        let response: Response = user::read(at)?;
        let goes_on = response.flags & CONTINUE != 0;
        if response.flags & !CONTINUE != 0 || (goes_on && (response.error != 0 || response.val != 0)) {
            return Err(Errno::EINVAL);
        }
        self.0.answer(&response).map(|()| 0)
    }

    /// `SECCOMP_IOCTL_NOTIF_ADDFD`.
    fn add_fd(&self, at: UserAddr, size: usize) -> Result<usize> {
        const SETFD: u32 = 1;
        const ANSWER: u32 = 2;
        if !(ADDFD_LEN..=hal::PAGE_SIZE).contains(&size) {
            return Err(Errno::EINVAL);
        }
        let [id, flags_src, new_flags]: [u64; 3] = user::read(at)?;
        let (flags, src) = (flags_src as u32, (flags_src >> 32) as i32);
        let (newfd, fd_flags) = (new_flags as i32, (new_flags >> 32) as u32);
        if size > ADDFD_LEN {
            let rest: alloc::vec::Vec<u8> =
                user::read_vec(UserAddr(at.0.wrapping_add(ADDFD_LEN as u64)), size - ADDFD_LEN)
                    .map_err(|_| Errno::EFAULT)?;
            if rest.iter().any(|&byte| byte != 0) {
                return Err(Errno::E2BIG);
            }
        }
        let is_bad_flag = fd_flags & !OpenFlags::CLOEXEC.bits() != 0 || flags & !(SETFD | ANSWER) != 0;
        if is_bad_flag || (newfd != 0 && flags & SETFD == 0) {
            return Err(Errno::EINVAL);
        }
        let file = current().file(src)?;
        let fd_flags = if fd_flags == 0 { FdFlags::empty() } else { FdFlags::CLOEXEC };
        let place = (flags & SETFD != 0).then_some(newfd);
        self.0.add_fd(id, NewFd::new(file, place, fd_flags, flags & ANSWER != 0))
    }
}

impl FileOps for Listener {
    fn mode(&self) -> FileMode {
        FileMode::STREAM
    }

    fn poll(&self, _file: &File, table: &mut PollTable) -> PollEvents {
        table.register(&self.0.listeners);
        let (waiting, received) = self.0.pending();
        let mut events = PollEvents::empty();
        events.set(PollEvents::IN | PollEvents::RDNORM, waiting);
        events.set(PollEvents::OUT | PollEvents::WRNORM, received);
        events.set(PollEvents::HUP, self.0.has_no_users());
        events
    }

    fn ioctl(&self, _file: &Arc<File>, cmd: u32, arg: usize) -> Result<usize> {
        let at = UserAddr(arg as u64);
        match cmd {
            RECV => self.receive(at),
            SEND => self.send(at),
            ID_VALID | ID_VALID_OLD => {
                let id: u64 = user::read(at)?;
                if self.0.is_received(id) { Ok(0) } else { Err(Errno::ENOENT) }
            }
            // Whether to wake on the same CPU is only a hint.
            SET_FLAGS if arg as u64 & !1 == 0 => Ok(0),
            _ if cmd & CODE_BITS == ADDFD => self.add_fd(at, (cmd >> 16 & 0x3fff) as usize),
            _ => Err(Errno::EINVAL),
        }
    }
}
