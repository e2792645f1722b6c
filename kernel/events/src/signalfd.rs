//! signalfd(2): reading signals from a file.
//!
//! The file holds a mask only. Who reads or polls it sees the signals pending for itself.
//!
//! Sources: signalfd(2).

use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

use abi::fs::OpenFlags;
use abi::poll::PollEvents;
use abi::signal::{self, SigInfo, SigSet};
use abi::{Errno, Result};
use hal::uio::Dest;
use process::signal::{dequeue, signals_pending};
use sched::{Interruptible, PollTable};
use security::Cred;
use vfs::{File, FileMode, FileOps, Whence};
use zerocopy::{Immutable, IntoBytes};

use crate::seek_nowhere;

/// `struct signalfd_siginfo` (signalfd(2)), 128 bytes.
#[derive(Clone, Copy, Default, IntoBytes, Immutable)]
#[repr(C)]
struct Record {
    signo: u32,
    errno: i32,
    code: i32,
    pid: u32,
    uid: u32,
    fd: i32,
    tid: u32,
    band: u32,
    overrun: u32,
    trapno: u32,
    status: i32,
    int: i32,
    ptr: u64,
    utime: u64,
    stime: u64,
    addr: u64,
    addr_lsb: u16,
    pad0: u16,
    syscall: i32,
    call_addr: u64,
    arch: u32,
    pad1: [u32; 7],
}

const RECORD_SIZE: usize = size_of::<Record>();
const _: () = assert!(RECORD_SIZE == 128);

impl From<&SigInfo> for Record {
    fn from(info: &SigInfo) -> Self {
        let fields = &info.fields;
        let mut record =
            Self { signo: info.signo as u32, errno: info.errno, code: info.code, ..Self::default() };
        let is_fault = matches!(
            info.signo as u32,
            signal::SIGILL | signal::SIGFPE | signal::SIGSEGV | signal::SIGBUS | signal::SIGTRAP
        );
        match info.code {
            signal::SI_TIMER => {
                (record.tid, record.overrun) = (fields[0] as u32, (fields[0] >> 32) as u32);
                (record.ptr, record.int) = (fields[1], fields[1] as i32);
            }
            1.. if info.code != signal::SI_KERNEL && is_fault => {
                (record.addr, record.addr_lsb) = (fields[0], fields[1] as u16);
            }
            1.. if info.signo as u32 == signal::SIGIO => {
                (record.band, record.fd) = (fields[0] as u32, fields[1] as i32);
            }
            1.. if info.signo as u32 == signal::SIGSYS => {
                (record.call_addr, record.syscall) = (fields[0], fields[1] as i32);
                record.arch = (fields[1] >> 32) as u32;
            }
            code => {
                (record.pid, record.uid) = (info.pid() as u32, info.uid());
                if code >= 0 && info.signo as u32 == signal::SIGCHLD {
                    record.status = fields[1] as i32;
                    (record.utime, record.stime) = (fields[2], fields[3]);
                } else if code < 0 {
                    (record.ptr, record.int) = (fields[1], fields[1] as i32);
                }
            }
        }
        record
    }
}

/// The operations of a signalfd.
pub struct SignalFd {
    mask: AtomicU64,
}

impl SignalFd {
    fn mask(&self) -> SigSet {
        SigSet(self.mask.load(SeqCst))
    }

    /// Replaces the mask.
    pub fn set_mask(&self, mask: SigSet) {
        self.mask.store(mask.minus(SigSet::UNBLOCKABLE).0, SeqCst);
        // Those who poll for it may now have something.
        process::current().group().signal_wait.wake_all();
    }

    fn first(&self, file: &File) -> Result<SigInfo> {
        if let Some(info) = dequeue(self.mask()) {
            return Ok(info);
        }
        if file.is_nonblocking() {
            return Err(Errno::EAGAIN);
        }
        let task = process::current();
        let wait = &task.group().signal_wait;
        Ok(wait.wait_deadline(|| dequeue(self.mask()), None, Interruptible::Yes)?)
    }
}

impl FileOps for SignalFd {
    fn mode(&self) -> FileMode {
        FileMode::STREAM | FileMode::SEEK
    }

    fn seek(&self, file: &File, _offset: i64, _whence: Whence) -> Result<u64> {
        seek_nowhere(file)
    }

    fn read(&self, file: &File, dst: &mut Dest<'_>, _pos: u64) -> Result<usize> {
        let room = dst.remaining() / RECORD_SIZE;
        if room == 0 {
            return Err(Errno::EINVAL);
        }
        let mut next = Some(self.first(file)?);
        let mut done = 0;
        while let Some(info) = next {
            match dst.put_bytes(Record::from(&info).as_bytes()) {
                Ok(RECORD_SIZE) => done += 1,
                _ if done > 0 => break,
                _ => return Err(Errno::EFAULT),
            }
            next = if done < room { dequeue(self.mask()) } else { None };
        }
        Ok(done * RECORD_SIZE)
    }

    fn poll(&self, _file: &File, table: &mut PollTable) -> PollEvents {
        let Some(task) = process::try_current() else { return PollEvents::empty() };
        table.register(&task.group().signal_wait);
        if signals_pending(self.mask()) { PollEvents::IN | PollEvents::RDNORM } else { PollEvents::empty() }
    }

    fn show_fdinfo(&self, _file: &File, out: &mut Vec<u8>) {
        out.extend_from_slice(format!("sigmask:\t{:016x}\n", self.mask().0).as_bytes());
    }
}

/// Makes a signalfd for the signals in `mask`.
pub fn create(mask: SigSet, flags: OpenFlags, cred: &Arc<Cred>) -> Result<Arc<File>> {
    let ops = SignalFd { mask: AtomicU64::new(mask.minus(SigSet::UNBLOCKABLE).0) };
    vfs::anon::file("[signalfd]", Arc::new(ops), OpenFlags::RDWR | flags & OpenFlags::NONBLOCK, cred)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_s_end_shows_its_status() {
        let record = Record::from(&SigInfo::child(signal::CLD_EXITED, 7, 1000, 3, 4, 5));
        assert_eq!((record.pid, record.uid, record.status), (7, 1000, 3));
        assert_eq!((record.utime, record.stime), (4, 5));
    }

    #[test]
    fn a_queued_value_is_shown_as_number_and_pointer() {
        let mut info = SigInfo::user(40, signal::SI_QUEUE, 9, 1);
        info.fields[1] = 0x1_0000_0002;
        let record = Record::from(&info);
        assert_eq!((record.pid, record.int, record.ptr), (9, 2, 0x1_0000_0002));
    }
}
