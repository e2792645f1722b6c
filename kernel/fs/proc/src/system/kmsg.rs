//! /proc/kmsg: the kernel's log as a stream. All readers share one position: what one has read, no other sees.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use abi::poll::PollEvents;
use abi::{Errno, Result};
use hal::klog;
use hal::sync::Once;
use hal::uio::Dest;
use sched::{Mutex, PollTable, WaitQueue};
use vfs::text::Text;
use vfs::{File, FileMode, FileOps, put};

static WAIT: WaitQueue = WaitQueue::new();
static WAKER: Once<()> = Once::new();
/// Open descriptions. While there are none a new record costs no wake-up.
static OPEN: AtomicU32 = AtomicU32::new(0);

/// The next record, and how many bytes of its text were read already.
static NEXT: Mutex<(u64, usize)> = Mutex::new("proc.kmsg", (0, 0));

struct Kmsg;

/// Opens it.
pub(super) fn open() -> Arc<dyn FileOps> {
    WAKER.call_once(|| klog::set_waker(wake_readers));
    OPEN.fetch_add(1, Relaxed);
    Arc::new(Kmsg)
}

impl Drop for Kmsg {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Relaxed);
    }
}

fn wake_readers() {
    if OPEN.load(Relaxed) > 0 {
        WAIT.wake_all();
    }
}

fn has_record() -> bool {
    NEXT.lock().0 < klog::seq_range().1
}

/// A record as it is shown: priority, time, text; each line of it.
fn format(info: &klog::RecordInfo, record: &[u8]) -> Result<Vec<u8>> {
    let micros = info.time_ns / 1000;
    let mut out = Text::new();
    for line in record.split(|&byte| byte == b'\n') {
        put!(out, "<{}>[{:5}.{:06}] ", info.priority, micros / 1_000_000, micros % 1_000_000);
        out.push(line);
        out.push(b"\n");
    }
    out.finish()
}

/// Moves records to `dst` as far as they fit; gives the number of bytes.
fn take(dst: &mut Dest<'_>) -> Result<usize> {
    let mut next = NEXT.lock();
    let mut record = Vec::new();
    let mut done = 0;
    while dst.remaining() > 0 {
        let Some(info) = klog::read(next.0, &mut record) else { break };
        let skip = if info.seq == next.0 { next.1 } else { 0 };
        let text = format(&info, &record)?;
        let rest = text.get(skip..).unwrap_or(&[]);
        let put = match dst.put_bytes(rest) {
            Ok(put) => put,
            Err(_) if done > 0 => break,
            Err(fault) => return Err(fault.into()),
        };
        done += put;
        *next = if put == rest.len() { (info.seq + 1, 0) } else { (info.seq, skip + put) };
    }
    Ok(done)
}

impl FileOps for Kmsg {
    fn mode(&self) -> FileMode {
        FileMode::STREAM
    }

    fn read(&self, file: &File, dst: &mut Dest<'_>, _pos: u64) -> Result<usize> {
        if dst.remaining() == 0 {
            return Ok(0);
        }
        loop {
            let done = take(dst)?;
            if done > 0 {
                return Ok(done);
            }
            if file.is_nonblocking() {
                return Err(Errno::EAGAIN);
            }
            let (next, _) = *NEXT.lock();
            WAIT.wait_interruptible(|| (next < klog::seq_range().1).then_some(()))?;
        }
    }

    fn poll(&self, _file: &File, table: &mut PollTable) -> PollEvents {
        table.register(&WAIT);
        if has_record() { PollEvents::IN | PollEvents::RDNORM } else { PollEvents::empty() }
    }
}
