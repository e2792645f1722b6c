//! What ioctl(2) does with a pidfd: it tells about the process, or opens a namespace of it.

use abi::{Errno, Result};
use hal::{UserAddr, user};
use process::{Task, ThreadGroup, hooks, pid};
use security::{IdKind, ObserveIdentity};
use zerocopy::IntoBytes;

use super::Subject;

/// Type byte of a pidfd's ioctls, and the number of `PIDFD_GET_INFO`; below it are those that open namespaces.
const IOCTL_TYPE: u32 = 0xff;
const GET_INFO: u32 = 11;
/// `FS_IOC_GETVERSION`: always 1, as no inode number is used twice.
const VERSION_TYPE: u32 = 0x76;
const GET_VERSION: u32 = 1;

pub(super) fn ioctl(subject: &Subject, cmd: u32, arg: usize) -> Result<usize> {
    let (kind, number, size) = (cmd >> 8 & 0xff, cmd & 0xff, (cmd >> 16 & 0x3fff) as usize);
    match number {
        GET_VERSION if kind == VERSION_TYPE && cmd >> 30 == 2 => {
            user::write(UserAddr(arg as u64), &1u32)?;
            Ok(0)
        }
        _ if kind != IOCTL_TYPE => Err(Errno::ENOTTY),
        GET_INFO if cmd >> 30 == 3 => get_info(subject, UserAddr(arg as u64), size),
        1..GET_INFO if cmd >> 16 == 0 => {
            if arg != 0 {
                return Err(Errno::EINVAL);
            }
            let task = subject.task().filter(|_| !subject.has_ended()).ok_or(Errno::ESRCH)?;
            if !process::prctl::may_observe(&task, ObserveIdentity::Real) {
                return Err(Errno::EPERM);
            }
            hooks::open_namespace(&task, number)
        }
        _ => Err(Errno::ENOTTY),
    }
}

/// Bits of `pidfd_info::mask`.
mod bit {
    pub const PID: u64 = 1;
    pub const CREDS: u64 = 2;
    pub const CGROUP: u64 = 4;
    pub const EXIT: u64 = 8;
    pub const COREDUMP: u64 = 16;
    pub const SUPPORTED: u64 = 32;
    pub const COREDUMP_SIGNAL: u64 = 64;
    pub const COREDUMP_CODE: u64 = 128;
    pub const ALL: u64 = PID | CREDS | CGROUP | EXIT | COREDUMP | SUPPORTED | COREDUMP_SIGNAL | COREDUMP_CODE;
}

/// Words of `struct pidfd_info`: the mask, the control group's id, ten ids and the exit code, which are its first
/// version, then what is told of a core dump (and a word of padding), and the mask of what is known.
const INFO_WORDS: usize = 22;
/// Size in bytes of its first version.
const FIRST_SIZE: usize = 64;

/// `struct pidfd_info` while it is filled.
#[derive(Default)]
struct Info {
    words: [u32; INFO_WORDS],
    mask: u64,
    /// Words that the caller has room for.
    room: usize,
}

impl Info {
    fn new(size: usize) -> Self {
        Self { room: (size / 4).min(INFO_WORDS), ..Self::default() }
    }

    /// Stores `values` from word `at` on and notes `bit`, if the caller has room for all of them.
    fn put(&mut self, bit: u64, at: usize, values: &[u32]) {
        if at + values.len() > self.room {
            return;
        }
        if let Some(place) = self.words.get_mut(at..at + values.len()) {
            place.copy_from_slice(values);
            self.mask |= bit;
        }
    }

    /// Ids and credentials. `ESRCH`: the caller cannot see it.
    fn put_identity(&mut self, subject: &Subject, task: &Task) -> Result<()> {
        let seen = pid::visible(subject.id());
        if seen == 0 {
            return Err(Errno::ESRCH);
        }
        let (cred, reader) = (task.cred(), process::current().cred());
        self.put(bit::PID, 4, &[seen, pid::visible(task.pid()), pid::visible(task.group().ppid())]);
        let user = |id| reader.user_ns.show(IdKind::User, id);
        let group = |id| reader.user_ns.show(IdKind::Group, id);
        let ids = [
            user(cred.uid),
            group(cred.gid),
            user(cred.euid),
            group(cred.egid),
            user(cred.suid),
            group(cred.sgid),
            user(cred.fsuid),
            group(cred.fsgid),
        ];
        self.put(bit::CREDS, 7, &ids);
        Ok(())
    }

    fn put_cgroup(&mut self, task: &Task) {
        let id = task.cgroup().id();
        self.put(bit::CGROUP, 2, &[id as u32, (id >> 32) as u32]);
    }

    /// What is known of a core dump: how it was made, or while the process lives how it would be.
    fn put_core_dump(&mut self, group: &ThreadGroup) {
        /// Bits of `coredump_mask`: one was made, none would be, with the user's rights, with root's.
        const DUMPED: u32 = 1;
        const SKIP: u32 = 2;
        const USER: u32 = 4;
        const ROOT: u32 = 8;
        let as_who = |dumpable: u8| match dumpable {
            0 => SKIP,
            1 => USER,
            _ => ROOT,
        };
        match group.core_record() {
            Some(record) => {
                self.put(bit::COREDUMP_CODE, 18, &[record.code as u32]);
                self.put(bit::COREDUMP_SIGNAL, 17, &[u32::from(record.signal)]);
                self.put(bit::COREDUMP, 16, &[DUMPED | as_who(record.dumpable)]);
            }
            None if !group.is_zombie() => self.put(bit::COREDUMP, 16, &[as_who(group.dumpable())]),
            None => {}
        }
    }
}

/// `PIDFD_GET_INFO`. `ENOTTY`: a structure smaller than its first version. `ESRCH`: it is gone, and its exit code was not
/// asked for.
fn get_info(subject: &Subject, out: UserAddr, size: usize) -> Result<usize> {
    if size < FIRST_SIZE {
        return Err(Errno::ENOTTY);
    }
    let asked: u64 = user::read(out)?;
    let mut info = Info::new(size);
    if subject.is_gone() {
        if asked & bit::EXIT == 0 {
            return Err(Errno::ESRCH);
        }
        info.put(bit::EXIT, 15, &[subject.exit_code() as u32]);
    } else {
        let task = subject.task().ok_or(Errno::ESRCH)?;
        info.put_identity(subject, &task)?;
        info.put_cgroup(&task);
    }
    if asked & bit::COREDUMP != 0 {
        info.put_core_dump(subject.group());
    }
    if asked & bit::SUPPORTED != 0 {
        info.put(bit::SUPPORTED, 20, &[bit::ALL as u32, 0]);
    }
    (info.words[0], info.words[1]) = (info.mask as u32, (info.mask >> 32) as u32);
    user::write_bytes(out, &info.words.as_bytes()[..info.room * 4])?;
    // A newer program's structure is longer: what is not known here is zero.
    let zero = [0u8; 64];
    let rest = (size - info.room * 4).min(zero.len());
    user::write_bytes(UserAddr(out.0.wrapping_add(info.room as u64 * 4)), &zero[..rest])?;
    Ok(0)
}
