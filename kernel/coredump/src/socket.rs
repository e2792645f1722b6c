//! A server that takes dumps at a unix socket: `@PATH` and `@@PATH` in kernel.core_pattern.
//!
//! ```text
//! dying process                         server
//! connect ────────────────────────────▶ accept; SO_PEERPIDFD tells who
//! request: what the kernel can do ────▶         (with @@ only, like the next two)
//!         ◀──────────────────────────── answer: what it shall do
//! mark: understood, or why not ───────▶
//! the dump, then the end ─────────────▶ reads
//! end ◀──────────────────────────────── closes  (if the answer said to wait)
//! ```
//!
//! Sources: linux/coredump.h of Linux 7.2 and Documentation/admin-guide/sysctl/kernel.rst "core_pattern".

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::fs::{OpenFlags, OpenHow, ResolveFlags};
use abi::socket::{AF_UNIX, UNIX_PATH_MAX};
use abi::{Errno, Result};
use bitflags::bitflags;
use hal::uio::{Dest, Src};
use net_core::{Halves, MsgFlags, Socket};
use process::coredump::CoreDump;
use process::pid;
use security::Cred;
use vfs::open::{How, open as open_file};
use vfs::{At, File, WalkContext};

use crate::image;
use crate::sink::Sink;

/// `SOCK_STREAM`.
const STREAM: i32 = 1;
/// Size in bytes of `struct coredump_req` and of `struct coredump_ack`, and of the latter's first version.
const MESSAGE_LEN: usize = 16;

bitflags! {
    /// What kernel and server can do (`COREDUMP_*`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Duties: u64 {
        /// The kernel writes the dump.
        const KERNEL = 1;
        /// The server makes one itself.
        const USERSPACE = 2;
        /// There shall be none.
        const REJECT = 4;
        /// The process stays until the server is done.
        const WAIT = 8;
    }
}

/// What the kernel makes of an answer (`enum coredump_mark`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    Understood = 0,
    TooShort = 1,
    TooLong = 2,
    Unsupported = 3,
    Conflicting = 4,
}

/// Whether `path` can be that of a server: absolute, without a step up, short enough, and without the blanks that may
/// separate parameters one day.
pub(crate) fn is_valid(path: &[u8]) -> bool {
    path.first() == Some(&b'/')
        && path.len() < UNIX_PATH_MAX
        && !path.contains(&b' ')
        && path.split(|&byte| byte == b'/').all(|name| name != b"..")
}

/// Hands the dump to the server at `path`, after asking it with `asks`; tells whether there is a dump.
///
/// `ECONNREFUSED`, `ENOENT`, `EAGAIN` (its queue is full) and others: there is no server. `EPROTO`: its answer is none.
pub(crate) fn dump(dump: &CoreDump<'_>, path: &[u8], asks: bool) -> Result<bool> {
    // The server may ask for it at once.
    dump.note();
    let file = connect(dump, path)?;
    let socket = net_core::socket_of(&file)?;
    let duties = if asks { ask(&file, &**socket)? } else { Duties::KERNEL };
    if duties.contains(Duties::REJECT) {
        return Ok(false);
    }
    if duties.contains(Duties::KERNEL) {
        image::write(dump, &mut Sink::stream(file.clone()))?;
    }
    // A server that is gone already needs no end.
    let _ended = socket.shutdown(Halves { receive: false, send: true });
    if duties.contains(Duties::WAIT) {
        // Whatever comes, it is done.
        let _done = socket.receive(&mut Dest::kernel(&mut [0]), MsgFlags::empty());
    }
    Ok(true)
}

/// A connection to the server: its path is looked up by the kernel, from the root of the first process, and leads through no
/// symbolic link.
fn connect(dump: &CoreDump<'_>, path: &[u8]) -> Result<Arc<File>> {
    let init = pid::find_task_global(1).ok_or(Errno::ENOENT)?;
    let fs = init.fs().ok_or(Errno::ENOENT)?;
    let files = dump.task.files().ok_or(Errno::ENOENT)?;
    let cred = Arc::new(Cred::root());
    let walk = WalkContext { fs: &fs, files: &files, cred: &cred };
    let how = OpenHow {
        flags: u64::from(OpenFlags::PATH.bits()),
        mode: 0,
        resolve: ResolveFlags::NO_SYMLINKS.bits(),
    };
    open_file(&walk, At::Cwd, path, &How::from_openat2(&how)?)?;
    let file = net_core::open(net_unix::create(STREAM, 0)?, OpenFlags::empty(), &cred)?;
    let mut address = Vec::from(AF_UNIX.to_ne_bytes());
    address.extend_from_slice(path);
    address.push(0);
    net_core::socket_of(&file)?.connect(&walk, &address, MsgFlags::DONTWAIT)?;
    Ok(file)
}

/// Asks the server what to do. `EPROTO`: an answer that is none, which it was told.
fn ask(file: &Arc<File>, socket: &dyn Socket) -> Result<Duties> {
    let mut request = [0; MESSAGE_LEN];
    request[..4].copy_from_slice(&(MESSAGE_LEN as u32).to_le_bytes());
    request[4..8].copy_from_slice(&(MESSAGE_LEN as u32).to_le_bytes());
    request[8..].copy_from_slice(&Duties::all().bits().to_le_bytes());
    send(file, &request)?;
    let mut size = [0; 4];
    receive(socket, &mut size, MsgFlags::PEEK)?;
    let answer = match checked_size(u32::from_le_bytes(size)) {
        Ok(()) => {
            let mut answer = [0; MESSAGE_LEN];
            receive(socket, &mut answer, MsgFlags::empty())?;
            read_answer(&answer)
        }
        Err(mark) => Err(mark),
    };
    let mark = answer.err().unwrap_or(Mark::Understood);
    send(file, &(mark as u32).to_le_bytes())?;
    answer.map_err(|_| Errno::EPROTO)
}

/// Whether an answer may have `size` bytes.
fn checked_size(size: u32) -> core::result::Result<(), Mark> {
    match (size as usize).cmp(&MESSAGE_LEN) {
        core::cmp::Ordering::Less => Err(Mark::TooShort),
        core::cmp::Ordering::Equal => Ok(()),
        core::cmp::Ordering::Greater => Err(Mark::TooLong),
    }
}

/// What a `struct coredump_ack` says: its size, 4 bytes of zero, and exactly one of three duties, perhaps with `WAIT`.
fn read_answer(answer: &[u8; MESSAGE_LEN]) -> core::result::Result<Duties, Mark> {
    let [_, spare, low, high] = zerocopy::transmute!(*answer);
    let (spare, low, high): (u32, u32, u32) = (spare, low, high);
    let duties = Duties::from_bits(u64::from(high) << 32 | u64::from(low)).ok_or(Mark::Unsupported)?;
    if (duties & Duties::WAIT.complement()).bits().count_ones() != 1 {
        return Err(Mark::Conflicting);
    }
    if spare != 0 {
        return Err(Mark::Unsupported);
    }
    Ok(duties)
}

/// Sends all of `bytes`.
fn send(file: &Arc<File>, bytes: &[u8]) -> Result<()> {
    let mut src = Src::kernel(bytes);
    while src.remaining() > 0 {
        vfs::rw::write(file, &mut src, u64::MAX)?;
    }
    Ok(())
}

/// Receives all of `bytes`. `EPROTO`: the server has closed the connection.
fn receive(socket: &dyn Socket, bytes: &mut [u8], flags: MsgFlags) -> Result<()> {
    let wanted = bytes.len();
    let received = socket.receive(&mut Dest::kernel(bytes), flags | MsgFlags::WAITALL)?;
    if received.len == wanted { Ok(()) } else { Err(Errno::EPROTO) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_absolute_and_plain() {
        for good in ["/run/dumps", "/a", "/a..b/..c"] {
            assert!(is_valid(good.as_bytes()), "{good}");
        }
        for bad in ["", "run", " /run", "/run/../dumps", "/..", "/run/..", "/run/my dumps", &"/a".repeat(54)]
        {
            assert!(!is_valid(bad.as_bytes()), "{bad}");
        }
    }

    fn answer(spare: u32, mask: u64) -> core::result::Result<Duties, Mark> {
        let mut bytes = [0; MESSAGE_LEN];
        bytes[0] = 16;
        bytes[4..8].copy_from_slice(&spare.to_le_bytes());
        bytes[8..].copy_from_slice(&mask.to_le_bytes());
        read_answer(&bytes)
    }

    #[test]
    fn answers_name_one_duty() {
        assert_eq!(answer(0, 1 | 8), Ok(Duties::KERNEL | Duties::WAIT));
        assert_eq!(answer(0, 4), Ok(Duties::REJECT));
        assert_eq!(answer(0, 1 | 2), Err(Mark::Conflicting));
        assert_eq!(answer(0, 8), Err(Mark::Conflicting));
        assert_eq!(answer(0, 0), Err(Mark::Conflicting));
        assert_eq!(answer(0, 1 << 63 | 1), Err(Mark::Unsupported));
        assert_eq!(answer(1, 1), Err(Mark::Unsupported));
        assert_eq!((checked_size(15), checked_size(17)), (Err(Mark::TooShort), Err(Mark::TooLong)));
    }
}
