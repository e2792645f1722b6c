//! /dev/kmsg: the kernel's log, a record a read (Documentation/ABI/testing/dev-kmsg).

use alloc::format;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};

use abi::poll::PollEvents;
use abi::{Errno, Result};
use hal::klog;
use hal::sync::Once;
use hal::uio::{Dest, Src};
use sched::{PollTable, WaitQueue};
use vfs::{File, FileOps, Whence};

/// Readers that wait for records.
static WAIT: WaitQueue = WaitQueue::new();
/// Open readers. While there are none a new record costs no wake-up.
static READERS: AtomicU32 = AtomicU32::new(0);
static WAKER: Once<()> = Once::new();

/// The longest record that a write may make.
const WRITE_MAX: usize = 1024;
/// Facility "user" with priority "warning": the default of written records.
const DEFAULT_PRIORITY: u16 = 1 << 3 | 4;

fn wake_readers() {
    if READERS.load(Relaxed) > 0 {
        WAIT.wake_all();
    }
}

/// An open description of /dev/kmsg.
pub(crate) struct Kmsg {
    /// The next record to read.
    seq: AtomicU64,
}

impl Kmsg {
    pub(crate) fn new() -> Self {
        WAKER.call_once(|| klog::set_waker(wake_readers));
        READERS.fetch_add(1, Relaxed);
        Self { seq: AtomicU64::new(klog::seq_range().0) }
    }

    fn has_record(&self) -> bool {
        self.seq.load(Relaxed) < klog::seq_range().1
    }
}

impl Drop for Kmsg {
    fn drop(&mut self) {
        READERS.fetch_sub(1, Relaxed);
    }
}

/// Appends `text` with what is not printable as \xNN.
fn push_escaped(out: &mut Vec<u8>, text: &[u8]) {
    for &byte in text {
        match byte {
            b'\\' => out.extend_from_slice(b"\\x5c"),
            b' '..=b'~' | 128.. | b'\t' => out.push(byte),
            _ => out.extend(format!("\\x{byte:02x}").bytes()),
        }
    }
}

impl FileOps for Kmsg {
    fn read(&self, file: &File, dst: &mut Dest<'_>, _pos: u64) -> Result<usize> {
        if !self.has_record() {
            if file.is_nonblocking() {
                return Err(Errno::EAGAIN);
            }
            WAIT.wait_interruptible(|| self.has_record().then_some(())).map_err(|_| Errno::ERESTARTSYS)?;
        }
        let seq = self.seq.load(Relaxed);
        let first = klog::seq_range().0;
        if seq < first {
            // Records were lost: told once.
            self.seq.store(first, Relaxed);
            return Err(Errno::EPIPE);
        }
        let mut text = Vec::new();
        let Some(info) = klog::read(seq, &mut text) else { return Err(Errno::EAGAIN) };
        let mut line = format!("{},{},{},-;", info.priority, info.seq, info.time_ns / 1000).into_bytes();
        push_escaped(&mut line, &text);
        line.push(b'\n');
        if line.len() > dst.remaining() {
            return Err(Errno::EINVAL);
        }
        self.seq.store(info.seq + 1, Relaxed);
        Ok(dst.put_bytes(&line)?)
    }

    fn write(&self, _file: &File, src: &mut Src<'_>, _pos: u64) -> Result<usize> {
        let len = src.remaining();
        if len > WRITE_MAX {
            return Err(Errno::EINVAL);
        }
        let mut buf = [0; WRITE_MAX];
        if src.take_bytes(&mut buf[..len])? < len {
            return Err(Errno::EFAULT);
        }
        let (priority, text) = split_priority(&buf[..len]);
        klog::append(priority, text);
        Ok(len)
    }

    fn poll(&self, _file: &File, table: &mut PollTable) -> PollEvents {
        table.register(&WAIT);
        let writable = PollEvents::OUT | PollEvents::WRNORM;
        if !self.has_record() {
            return writable;
        }
        let lost = self.seq.load(Relaxed) < klog::seq_range().0;
        let extra = if lost { PollEvents::ERR | PollEvents::PRI } else { PollEvents::empty() };
        writable | extra | PollEvents::IN | PollEvents::RDNORM
    }

    fn seek(&self, _file: &File, offset: i64, whence: Whence) -> Result<u64> {
        if offset != 0 {
            return Err(Errno::ESPIPE);
        }
        let (first, next) = klog::seq_range();
        let seq = match whence {
            Whence::Set => first,
            // What came after the last clear (syslog(2)).
            Whence::Data => first.max(syslog::cleared()),
            Whence::End => next,
            _ => return Err(Errno::EINVAL),
        };
        self.seq.store(seq, Relaxed);
        Ok(0)
    }
}

/// Takes `<N>` off the front of a written record; facility 0 is the kernel's own.
fn split_priority(text: &[u8]) -> (u16, &[u8]) {
    let parse = || {
        let rest = text.strip_prefix(b"<")?;
        let end = rest.iter().position(|&byte| byte == b'>')?;
        let number: u16 = core::str::from_utf8(&rest[..end]).ok()?.parse().ok()?;
        let facility = if number >> 3 == 0 { 1 } else { number >> 3 };
        Some((facility << 3 | number & 7, &rest[end + 1..]))
    };
    parse().unwrap_or((DEFAULT_PRIORITY, text))
}
