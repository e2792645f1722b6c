//! The kernel's log: a ring of records behind the `log` crate, consoles that show them, dmesg that reads them.

use alloc::vec::Vec;
use core::fmt::Write;
use core::sync::atomic::{AtomicU8, Ordering};

use crate::sync::{IrqLock, Once};

/// Bytes of records kept.
pub const RING_BYTES: usize = 128 * 1024;
/// Longest record; the rest is cut.
const MAX_LINE: usize = 1000;

/// The seriousness of a record, as syslog(2) numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// KERN_EMERG
    Emergency = 0,
    /// KERN_ALERT
    Alert = 1,
    /// KERN_CRIT
    Critical = 2,
    /// KERN_ERR
    Error = 3,
    /// KERN_WARNING
    Warning = 4,
    /// KERN_NOTICE
    Notice = 5,
    /// KERN_INFO
    Info = 6,
    /// KERN_DEBUG
    Debug = 7,
}

/// What is known about a record besides its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordInfo {
    /// Counts up by one from 0.
    pub seq: u64,
    /// When, in nanoseconds since boot.
    pub time_ns: u64,
    /// syslog priority: facility times 8 plus level.
    pub priority: u16,
}

/// A device that shows records as they come. Called with interrupts off; must not log or sleep.
pub trait Console: Sync {
    /// Shows a line (with its newline).
    fn write(&self, line: &[u8]);
}

/// Records stored back to back, oldest first, in a fixed buffer used as a ring.
struct Ring {
    bytes: [u8; RING_BYTES],
    /// Positions count up for ever; the byte of position p is `bytes[p % RING_BYTES]`.
    head: u64,
    tail: u64,
    first_seq: u64,
    next_seq: u64,
    /// Number and position of the record after the one read last: readers mostly go on from there.
    hint: (u64, u64),
}

/// Header of a stored record: length (2), priority (2), time (8).
const HEADER: usize = 12;

impl Ring {
    fn put(&mut self, data: &[u8]) {
        for &byte in data {
            self.bytes[(self.tail % RING_BYTES as u64) as usize] = byte;
            self.tail += 1;
        }
    }

    fn get(&self, at: u64, out: &mut [u8]) {
        for (i, byte) in out.iter_mut().enumerate() {
            *byte = self.bytes[((at + i as u64) % RING_BYTES as u64) as usize];
        }
    }

    fn header(&self, at: u64) -> (usize, u16, u64) {
        let mut raw = [0; HEADER];
        self.get(at, &mut raw);
        let [l0, l1, p0, p1, t @ ..] = raw;
        (u16::from_le_bytes([l0, l1]) as usize, u16::from_le_bytes([p0, p1]), u64::from_le_bytes(t))
    }

    fn push(&mut self, priority: u16, time_ns: u64, text: &[u8]) {
        let text = &text[..text.len().min(MAX_LINE)];
        let need = (HEADER + text.len()) as u64;
        while self.tail + need - self.head > RING_BYTES as u64 {
            let (len, ..) = self.header(self.head);
            self.head += (HEADER + len) as u64;
            self.first_seq += 1;
        }
        self.put(&(text.len() as u16).to_le_bytes());
        self.put(&priority.to_le_bytes());
        self.put(&time_ns.to_le_bytes());
        self.put(text);
        self.next_seq += 1;
    }
}

static RING: IrqLock<Ring> = IrqLock::new(
    "hal.klog.ring",
    Ring { bytes: [0; RING_BYTES], head: 0, tail: 0, first_seq: 0, next_seq: 0, hint: (0, 0) },
);
static CONSOLES: IrqLock<Vec<&'static dyn Console>> = IrqLock::new("hal.klog.consoles", Vec::new());
static CONSOLE_LEVEL: AtomicU8 = AtomicU8::new(7);
/// /dev/kmsg and /proc/kmsg.
const MAX_WAKERS: usize = 2;
static WAKERS: [Once<fn()>; MAX_WAKERS] = [const { Once::new() }; MAX_WAKERS];

/// Bytes for the time before a line on a console: 20 digits at most, and what is around them.
const MAX_PREFIX: usize = 40;

/// A line of up to `N` bytes on the stack.
struct Line<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Write for Line<N> {
    fn write_str(&mut self, s: &str) -> core::fmt::Result {
        let n = s.len().min(N - self.len);
        self.bytes[self.len..self.len + n].copy_from_slice(&s.as_bytes()[..n]);
        self.len += n;
        Ok(())
    }
}

/// Adds a record and shows it on the consoles if it is serious enough. Usable anywhere.
pub fn print(level: Level, args: core::fmt::Arguments<'_>) {
    let mut line = Line::<MAX_LINE> { bytes: [0; MAX_LINE], len: 0 };
    let _cut = line.write_fmt(args);
    append(level as u16, &line.bytes[..line.len]);
}

/// Adds a record with a syslog priority (writes to /dev/kmsg have a facility).
pub fn append(priority: u16, text: &[u8]) {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let time_ns = crate::time::now_ns();
    RING.lock().push(priority, time_ns, text);
    if priority as u8 & 7 < CONSOLE_LEVEL.load(Ordering::Relaxed) {
        show(time_ns, text);
    }
    WAKERS.iter().filter_map(|waker| waker.get()).for_each(|waker| waker());
}

fn show(time_ns: u64, text: &[u8]) {
    let consoles = CONSOLES.lock();
    if consoles.is_empty() {
        crate::arch::boot::early_console(time_ns, text);
        return;
    }
    let mut prefix = Line::<MAX_PREFIX> { bytes: [0; MAX_PREFIX], len: 0 };
    let _cut = write!(prefix, "[{:5}.{:06}] ", time_ns / 1_000_000_000, time_ns / 1000 % 1_000_000);
    for console in consoles.iter() {
        console.write(&prefix.bytes[..prefix.len]);
        console.write(text);
        console.write(b"\n");
    }
}

/// Adds a console.
pub fn register_console(console: &'static dyn Console) {
    CONSOLES.lock().push(console);
}

/// Only records below this level are shown on consoles (`loglevel=`, syslog(2) action 8).
pub fn set_console_level(level: u8) {
    CONSOLE_LEVEL.store(level, Ordering::Relaxed);
}

/// The level set by [`set_console_level`].
pub fn console_level() -> u8 {
    CONSOLE_LEVEL.load(Ordering::Relaxed)
}

/// Registers a function that is called after each new record (it wakes readers); any context. There is room for two.
pub fn set_waker(waker: fn()) {
    for place in &WAKERS {
        let mut is_ours = false;
        place.call_once(|| {
            is_ours = true;
            waker
        });
        if is_ours {
            return;
        }
    }
}

/// The numbers of the oldest kept record and of the next one to come.
pub fn seq_range() -> (u64, u64) {
    let ring = RING.lock();
    (ring.first_seq, ring.next_seq)
}

/// Reads the first record with number `seq` or later into `text`; `None` when there is none yet.
/// Costs a walk over the records before it, unless it comes after the one that was read last.
pub fn read(seq: u64, text: &mut Vec<u8>) -> Option<RecordInfo> {
    text.clear();
    text.try_reserve(MAX_LINE).ok()?;
    let mut ring = RING.lock();
    let seq = seq.max(ring.first_seq);
    if seq >= ring.next_seq {
        return None;
    }
    let (hint_seq, hint_at) = ring.hint;
    let is_near = (ring.first_seq..=seq).contains(&hint_seq);
    let (start, mut at) = if is_near { (hint_seq, hint_at) } else { (ring.first_seq, ring.head) };
    for _ in start..seq {
        let (len, ..) = ring.header(at);
        at += (HEADER + len) as u64;
    }
    let (len, priority, time_ns) = ring.header(at);
    text.resize(len, 0);
    ring.get(at + HEADER as u64, text);
    ring.hint = (seq + 1, at + (HEADER + len) as u64);
    Some(RecordInfo { seq, time_ns, priority })
}

struct Backend;

impl log::Log for Backend {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let level = match record.level() {
            log::Level::Error => Level::Error,
            log::Level::Warn => Level::Warning,
            log::Level::Info => Level::Info,
            log::Level::Debug | log::Level::Trace => Level::Debug,
        };
        print(level, *record.args());
    }

    fn flush(&self) {}
}

/// Makes this log the backend of the `log` crate.
pub fn init() {
    static BACKEND: Backend = Backend;
    // A second call finds the backend set already.
    let _again = log::set_logger(&BACKEND);
    log::set_max_level(log::LevelFilter::Info);
}
