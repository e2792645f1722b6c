#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::vec::Vec;
use core::fmt::Write;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use abi::{Errno, Result};
use hal::klog::{self, RecordInfo};
use hal::sync::Once;
use hal::uio::Dest;
use sched::{Mutex, WaitQueue};
use security::{Cap, Cred};

/// What a reader or administrator of the log wants to do (the actions of syslog(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Action {
    /// Nothing: kept for old programs.
    Close = 0,
    /// Nothing: kept for old programs.
    Open = 1,
    /// Read at the shared position, which moves on.
    Read = 2,
    /// Read what came since the last clear.
    ReadAll = 3,
    /// The same, then clear.
    ReadClear = 4,
    /// Set the mark where `ReadAll` starts.
    Clear = 5,
    /// Show only emergencies on consoles.
    ConsoleOff = 6,
    /// Undo `ConsoleOff`.
    ConsoleOn = 7,
    /// Set what consoles show.
    ConsoleLevel = 8,
    /// Tell how many bytes `Read` would give.
    SizeUnread = 9,
    /// Tell how many bytes the log holds at most.
    SizeBuffer = 10,
}

impl Action {
    /// The action with number `n`. `EINVAL`: there is none.
    pub fn from_number(n: i32) -> Result<Self> {
        Ok(match n {
            0 => Action::Close,
            1 => Action::Open,
            2 => Action::Read,
            3 => Action::ReadAll,
            4 => Action::ReadClear,
            5 => Action::Clear,
            6 => Action::ConsoleOff,
            7 => Action::ConsoleOn,
            8 => Action::ConsoleLevel,
            9 => Action::SizeUnread,
            10 => Action::SizeBuffer,
            _ => return Err(Errno::EINVAL),
        })
    }
}

/// May only `CAP_SYSLOG` read the log (/proc/sys/kernel/dmesg_restrict)?
pub static DMESG_RESTRICT: AtomicU32 = AtomicU32::new(0);

/// The second to fourth number of /proc/sys/kernel/printk: the level of messages that name none, the lowest that the
/// console level can be set to, and the console level at boot.
pub static LEVELS: [AtomicU32; 3] = [AtomicU32::new(4), AtomicU32::new(1), AtomicU32::new(7)];

/// Levels are numbered from 0 to 7, so 8 shows all.
const HIGHEST_LEVEL: i32 = 8;
/// `SAVED_LEVEL` when nothing is saved.
const NOTHING_SAVED: u32 = u32::MAX;
/// The console level before [`Action::ConsoleOff`].
static SAVED_LEVEL: AtomicU32 = AtomicU32::new(NOTHING_SAVED);

/// The number of the first record that [`read_all`] gives.
static CLEARED: AtomicU64 = AtomicU64::new(0);

/// Where the readers of syslog(2) and /proc/kmsg are: the next record, and how many bytes of its text were read.
struct Position {
    seq: u64,
    offset: usize,
}

static POSITION: Mutex<Position> = Mutex::new("syslog.position", Position { seq: 0, offset: 0 });
/// Mirror of the position's record, for wait conditions.
static NEXT_SEQ: AtomicU64 = AtomicU64::new(0);

static WAIT: WaitQueue = WaitQueue::new();
/// Readers that may wait. While there are none a new record costs no wake-up.
static READERS: AtomicU32 = AtomicU32::new(0);
static WAKER: Once<()> = Once::new();

fn wake_readers() {
    if READERS.load(Relaxed) > 0 {
        WAIT.wake_all();
    }
}

/// One that may wait for records; it hears of new ones while this lives.
pub struct Reader(());

impl Reader {
    /// Joins the readers.
    #[expect(clippy::new_without_default, reason = "it has an effect on all")]
    pub fn new() -> Self {
        WAKER.call_once(|| klog::set_waker(wake_readers));
        READERS.fetch_add(1, Relaxed);
        Reader(())
    }

    /// Waits until there is something to read. `ERESTARTSYS`: a signal came.
    pub fn wait(&self) -> Result<()> {
        Ok(WAIT.wait_interruptible(|| has_unread().then_some(()))?)
    }

    /// What tells of new records.
    pub fn wait_queue(&self) -> &'static WaitQueue {
        &WAIT
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        READERS.fetch_sub(1, Relaxed);
    }
}

/// May `cred` do `action`? `EPERM`: not without `CAP_SYSLOG`.
pub fn check(action: Action, cred: &Cred) -> Result<()> {
    let is_free = matches!(action, Action::ReadAll | Action::SizeBuffer) && DMESG_RESTRICT.load(Relaxed) == 0;
    if is_free || cred.capable(Cap::SYSLOG) { Ok(()) } else { Err(Errno::EPERM) }
}

/// Whether the shared position has something to read.
pub fn has_unread() -> bool {
    NEXT_SEQ.load(Relaxed) < klog::seq_range().1
}

/// A record as syslog(2) and /proc/kmsg show it: priority and time before each line.
fn format(info: &RecordInfo, record: &[u8], out: &mut Vec<u8>) -> Result<()> {
    struct Head([u8; 48], usize);
    impl Write for Head {
        fn write_str(&mut self, s: &str) -> core::fmt::Result {
            let place = self.0.get_mut(self.1..self.1 + s.len()).ok_or(core::fmt::Error)?;
            place.copy_from_slice(s.as_bytes());
            self.1 += s.len();
            Ok(())
        }
    }
    let micros = info.time_ns / 1000;
    let mut head = Head([0; 48], 0);
    // Fits: three numbers of at most 20 digits with 10 more bytes would not, but 584 years do.
    let _fits = write!(head, "<{}>[{:5}.{:06}] ", info.priority, micros / 1_000_000, micros % 1_000_000);
    for line in record.split(|&byte| byte == b'\n') {
        out.try_reserve(head.1 + line.len() + 1).map_err(|_| Errno::ENOMEM)?;
        out.extend_from_slice(&head.0[..head.1]);
        out.extend_from_slice(line);
        out.push(b'\n');
    }
    Ok(())
}

/// Moves records from the shared position to `dst` as far as they fit, the last perhaps in part. 0: there are none.
pub fn read(dst: &mut Dest<'_>) -> Result<usize> {
    let mut position = POSITION.lock();
    let (mut record, mut text) = (Vec::new(), Vec::new());
    let mut done = 0;
    while dst.remaining() > 0 {
        let Some(info) = klog::read(position.seq, &mut record) else { break };
        text.clear();
        format(&info, &record, &mut text)?;
        let skip = if info.seq == position.seq { position.offset } else { 0 };
        let rest = text.get(skip..).unwrap_or(&[]);
        let put = match dst.put_bytes(rest) {
            Ok(put) => put,
            Err(_) if done > 0 => break,
            Err(fault) => return Err(fault.into()),
        };
        done += put;
        *position = if put == rest.len() {
            Position { seq: info.seq + 1, offset: 0 }
        } else {
            Position { seq: info.seq, offset: skip + put }
        };
        NEXT_SEQ.store(position.seq, Relaxed);
    }
    Ok(done)
}

/// Bytes that [`read`] would give.
pub fn unread() -> Result<usize> {
    let position = POSITION.lock();
    let all = measure(position.seq)?;
    let total: usize = all.iter().map(|&(_, len)| len).sum();
    Ok(total.saturating_sub(position.offset))
}

/// Numbers and formatted lengths of the records from `seq` on.
fn measure(mut seq: u64) -> Result<Vec<(u64, usize)>> {
    let (mut record, mut text, mut found) = (Vec::new(), Vec::new(), Vec::new());
    while let Some(info) = klog::read(seq, &mut record) {
        text.clear();
        format(&info, &record, &mut text)?;
        found.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        found.push((info.seq, text.len()));
        seq = info.seq + 1;
    }
    Ok(found)
}

/// Copies the newest records since the last clear to `dst`: as many whole ones as fit.
pub fn read_all(dst: &mut Dest<'_>) -> Result<usize> {
    let all = measure(CLEARED.load(Relaxed))?;
    let mut room = dst.remaining();
    let newest = all.iter().rev().take_while(|&&(_, len)| {
        let fits = len <= room;
        room = if fits { room - len } else { 0 };
        fits
    });
    let Some(&(first, _)) = newest.last() else { return Ok(0) };
    let end = all.last().map_or(first, |&(last, _)| last + 1);
    let (mut record, mut text) = (Vec::new(), Vec::new());
    let mut done = 0;
    let mut seq = first;
    while let Some(info) = klog::read(seq, &mut record).filter(|info| info.seq < end) {
        text.clear();
        format(&info, &record, &mut text)?;
        // Records that were dropped meanwhile only make room.
        if text.len() > dst.remaining() {
            break;
        }
        if dst.put_bytes(&text)? < text.len() {
            return Err(Errno::EFAULT);
        }
        done += text.len();
        seq = info.seq + 1;
    }
    Ok(done)
}

/// Sets the mark where [`read_all`] starts behind the newest record.
pub fn clear() {
    CLEARED.store(klog::seq_range().1, Relaxed);
}

/// The number of the first record after the last clear.
pub fn cleared() -> u64 {
    CLEARED.load(Relaxed)
}

/// Shows only what is most serious on consoles, until [`console_on`].
pub fn console_off() {
    let now = u32::from(klog::console_level());
    // Kept from the first of several calls.
    let _kept = SAVED_LEVEL.compare_exchange(NOTHING_SAVED, now, Relaxed, Relaxed);
    set_level(LEVELS[1].load(Relaxed));
}

/// Undoes [`console_off`].
pub fn console_on() {
    let saved = SAVED_LEVEL.swap(NOTHING_SAVED, Relaxed);
    if saved != NOTHING_SAVED {
        set_level(saved);
    }
}

/// Shows records below `level` on consoles. `EINVAL`: it is not 1 to 8.
pub fn set_console_level(level: i32) -> Result<()> {
    if !(1..=HIGHEST_LEVEL).contains(&level) {
        return Err(Errno::EINVAL);
    }
    SAVED_LEVEL.store(NOTHING_SAVED, Relaxed);
    set_level((level as u32).max(LEVELS[1].load(Relaxed)));
    Ok(())
}

fn set_level(level: u32) {
    klog::set_console_level(u8::try_from(level).unwrap_or(u8::MAX));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(action: impl Fn(&mut Dest<'_>) -> Result<usize>, len: usize) -> alloc::string::String {
        let mut out = alloc::vec![0; len];
        let done = action(&mut Dest::kernel(&mut out)).unwrap();
        out.truncate(done);
        alloc::string::String::from_utf8(out).unwrap()
    }

    /// One test, as the log is one.
    #[test]
    fn readers_share_a_position_and_a_mark() {
        read(&mut Dest::kernel(&mut [0; 1 << 16])).unwrap();
        clear();
        klog::append(6, b"first\n");
        klog::append(3, b"second\nof two lines");
        let all = text(read_all, 4096);
        let lines: Vec<&str> = all.lines().map(|line| line.split_once("] ").unwrap().1).collect();
        assert_eq!(lines, ["first", "second", "of two lines"]);
        assert!(all.starts_with("<6>[") && all.contains("<3>["));
        assert_eq!(unread(), Ok(all.len()));
        let newest = text(read_all, all.len() - 1);
        assert!(newest.starts_with("<3>[") && newest.ends_with("of two lines\n"));
        assert_eq!(text(read_all, 5), "");

        let part = text(read, 10);
        assert_eq!((part.as_str(), unread()), (&all[..10], Ok(all.len() - 10)));
        assert_eq!(text(read, 4096), all[10..]);
        assert!(!has_unread());
        assert_eq!(text(read_all, 4096), all, "reading does not clear");
        clear();
        assert_eq!(text(read_all, 4096), "");
    }

    #[test]
    fn the_console_level_is_saved_once() {
        klog::set_console_level(7);
        console_off();
        console_off();
        assert_eq!(klog::console_level(), 1);
        console_on();
        console_on();
        assert_eq!(klog::console_level(), 7);
        assert_eq!(set_console_level(0), Err(Errno::EINVAL));
        assert_eq!(set_console_level(9), Err(Errno::EINVAL));
        set_console_level(8).unwrap();
        assert_eq!(klog::console_level(), 8);
    }
}
