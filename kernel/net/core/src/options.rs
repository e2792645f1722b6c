//! Options of level `SOL_SOCKET` (socket(7)).
//!
//! Kept here: buffer sizes, timeouts, credentials, and flags that are only remembered because nothing in this machine
//! needs them. The values of a socket itself (type, error, peer) come from it.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use abi::socket::Ucred;
use abi::time::Timeval;
use abi::{Errno, Result};
use security::{Cap, Cred};

use crate::Socket;

/// What buffers are without a word about them.
const DEFAULT_BUF: u32 = 212_992;
/// `net.core.wmem_default`: the size of a send buffer of a new socket.
pub static WMEM_DEFAULT: AtomicU32 = AtomicU32::new(DEFAULT_BUF);
/// `net.core.rmem_default`: the size of a receive buffer of a new socket.
pub static RMEM_DEFAULT: AtomicU32 = AtomicU32::new(DEFAULT_BUF);
/// `net.core.wmem_max`: half the largest send buffer that anyone may ask for.
pub static WMEM_MAX: AtomicU32 = AtomicU32::new(DEFAULT_BUF);
/// `net.core.rmem_max`: half the largest receive buffer that anyone may ask for.
pub static RMEM_MAX: AtomicU32 = AtomicU32::new(DEFAULT_BUF);
/// The least that a send buffer can be.
pub const MIN_SNDBUF: u32 = 4608;
/// The least that a receive buffer can be.
pub const MIN_RCVBUF: u32 = 2304;

const SO_DEBUG: i32 = 1;
/// An option of socket(7).
pub const SO_REUSEADDR: i32 = 2;
const SO_TYPE: i32 = 3;
const SO_ERROR: i32 = 4;
const SO_DONTROUTE: i32 = 5;
/// An option of socket(7).
pub const SO_BROADCAST: i32 = 6;
/// An option of socket(7).
pub const SO_SNDBUF: i32 = 7;
/// An option of socket(7).
pub const SO_RCVBUF: i32 = 8;
/// An option of socket(7).
pub const SO_KEEPALIVE: i32 = 9;
/// An option of socket(7).
pub const SO_OOBINLINE: i32 = 10;
const SO_PRIORITY: i32 = 12;
const SO_LINGER: i32 = 13;
/// An option of socket(7).
pub const SO_REUSEPORT: i32 = 15;
const SO_PASSCRED: i32 = 16;
const SO_PEERCRED: i32 = 17;
const SO_RCVLOWAT: i32 = 18;
const SO_SNDLOWAT: i32 = 19;
const SO_RCVTIMEO: i32 = 20;
const SO_SNDTIMEO: i32 = 21;
/// An option of socket(7).
pub const SO_TIMESTAMP: i32 = 29;
/// An option of socket(7): as the one before, with nanoseconds.
pub const SO_TIMESTAMPNS: i32 = 35;
/// An option of socket(7); read back, it gives the filter.
pub const SO_ATTACH_FILTER: i32 = 26;
/// An option of socket(7).
pub const SO_DETACH_FILTER: i32 = 27;
/// An option of socket(7).
pub const SO_LOCK_FILTER: i32 = 44;
const SO_ACCEPTCONN: i32 = 30;
/// An option of socket(7).
pub const SO_SNDBUFFORCE: i32 = 32;
/// An option of socket(7).
pub const SO_RCVBUFFORCE: i32 = 33;
const SO_PASSSEC: i32 = 34;
const SO_MARK: i32 = 36;
const SO_PROTOCOL: i32 = 38;
const SO_DOMAIN: i32 = 39;
const SO_COOKIE: i32 = 57;
/// The same as those without `NEW` where `time_t` has 64 bits.
const SO_RCVTIMEO_NEW: i32 = 66;
const SO_SNDTIMEO_NEW: i32 = 67;
/// An option of unix(7); who cannot tell its senders does not take it.
pub const SO_PASSPIDFD: i32 = 76;
const SO_NETNS_COOKIE: i32 = 71;

/// Flags that are kept and given back.
const FLAGS: [i32; 10] = [
    SO_DEBUG,
    SO_REUSEADDR,
    SO_DONTROUTE,
    SO_BROADCAST,
    SO_KEEPALIVE,
    SO_OOBINLINE,
    SO_REUSEPORT,
    SO_PASSCRED,
    SO_TIMESTAMP,
    SO_PASSSEC,
];

/// The options of one socket.
pub struct Options {
    sndbuf: AtomicU32,
    rcvbuf: AtomicU32,
    rcvlowat: AtomicU32,
    /// Nanoseconds; 0: no limit.
    rcvtimeo_ns: AtomicU64,
    sndtimeo_ns: AtomicU64,
    /// Bit `n` for option `n` of [`FLAGS`].
    flags: AtomicU64,
    priority: AtomicU32,
    mark: AtomicU32,
    /// Switch and seconds.
    linger: [AtomicU32; 2],
    passcred: AtomicBool,
    passpidfd: AtomicBool,
    /// 0 until somebody asks.
    cookie: AtomicU64,
}

/// The value of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// An `int`.
    Int(i32),
    /// A `struct timeval`.
    Time(Timeval),
    /// A `struct linger`.
    Linger([i32; 2]),
    /// A `struct ucred`.
    Cred(Ucred),
    /// A number of 64 bits, which needs room for all of them.
    Wide(u64),
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}

impl Options {
    /// What a new socket has.
    #[inline]
    pub fn new() -> Self {
        Self::with_buffers(WMEM_DEFAULT.load(Relaxed), RMEM_DEFAULT.load(Relaxed))
    }

    /// What a new socket of a family has whose buffers begin with other sizes.
    #[inline]
    pub fn with_buffers(sndbuf: u32, rcvbuf: u32) -> Self {
        Self {
            sndbuf: AtomicU32::new(sndbuf),
            rcvbuf: AtomicU32::new(rcvbuf),
            rcvlowat: AtomicU32::new(1),
            rcvtimeo_ns: AtomicU64::new(0),
            sndtimeo_ns: AtomicU64::new(0),
            flags: AtomicU64::new(0),
            priority: AtomicU32::new(0),
            mark: AtomicU32::new(0),
            linger: [AtomicU32::new(0), AtomicU32::new(0)],
            passcred: AtomicBool::new(false),
            passpidfd: AtomicBool::new(false),
            cookie: AtomicU64::new(0),
        }
    }

    /// The family has enlarged the send buffer.
    pub fn grow_sndbuf(&self, size: u32) {
        self.sndbuf.store(size, Relaxed);
    }

    /// Bytes that may wait to be received.
    pub fn rcvbuf(&self) -> usize {
        self.rcvbuf.load(Relaxed) as usize
    }

    /// Bytes that a receive waits for.
    pub fn rcvlowat(&self) -> usize {
        self.rcvlowat.load(Relaxed) as usize
    }

    /// Whether the flag with option number `name` is set.
    pub fn has(&self, name: i32) -> bool {
        self.flags.load(Relaxed) >> name & 1 != 0
    }

    /// Seconds that close(2) waits for what is under way (`SO_LINGER`).
    pub fn linger(&self) -> Option<u32> {
        (self.linger[0].load(Relaxed) != 0).then(|| self.linger[1].load(Relaxed))
    }

    /// Bytes that may be under way.
    pub fn sndbuf(&self) -> usize {
        self.sndbuf.load(Relaxed) as usize
    }

    /// Whether messages come with credentials.
    pub fn passcred(&self) -> bool {
        self.passcred.load(Relaxed)
    }

    /// Whether messages come with a pidfd of their sender.
    pub fn passpidfd(&self) -> bool {
        self.passpidfd.load(Relaxed)
    }

    /// Sets that; for the families that know it.
    pub fn set_passpidfd(&self, is_on: bool) {
        self.passpidfd.store(is_on, Relaxed);
    }

    /// Whether messages tell who sent them, in one way or another.
    pub fn tells_senders(&self) -> bool {
        self.passcred() || self.passpidfd()
    }

    /// A number that no other socket has or had (`SO_COOKIE`).
    pub fn cookie(&self) -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let new = NEXT.fetch_add(1, Relaxed);
        self.cookie.compare_exchange(0, new, Relaxed, Relaxed).map_or_else(|old| old, |_| new)
    }

    /// Its mark.
    pub fn mark(&self) -> u32 {
        self.mark.load(Relaxed)
    }

    /// Takes over what an accepted socket inherits.
    pub fn inherit(&self, listener: &Self) {
        self.flags.store(listener.flags.load(Relaxed), Relaxed);
        self.passcred.store(listener.passcred(), Relaxed);
        self.passpidfd.store(listener.passpidfd(), Relaxed);
    }

    /// Takes over everything, as accepted sockets of the internet do.
    pub fn inherit_all(&self, listener: &Self) {
        self.inherit(listener);
        for (mine, theirs) in [
            (&self.sndbuf, &listener.sndbuf),
            (&self.rcvbuf, &listener.rcvbuf),
            (&self.rcvlowat, &listener.rcvlowat),
            (&self.priority, &listener.priority),
            (&self.mark, &listener.mark),
            (&self.linger[0], &listener.linger[0]),
            (&self.linger[1], &listener.linger[1]),
        ] {
            mine.store(theirs.load(Relaxed), Relaxed);
        }
        self.rcvtimeo_ns.store(listener.rcvtimeo_ns.load(Relaxed), Relaxed);
        self.sndtimeo_ns.store(listener.sndtimeo_ns.load(Relaxed), Relaxed);
    }

    /// How long a receive may wait in nanoseconds; `None`: for ever.
    pub fn receive_timeout(&self) -> Option<u64> {
        Some(self.rcvtimeo_ns.load(Relaxed)).filter(|&ns| ns != 0)
    }

    /// How long a send, connect or accept may wait.
    pub fn send_timeout(&self) -> Option<u64> {
        Some(self.sndtimeo_ns.load(Relaxed)).filter(|&ns| ns != 0)
    }

    fn set_flag(&self, name: i32, is_on: bool) {
        if is_on {
            self.flags.fetch_or(1 << name, Relaxed);
        } else {
            self.flags.fetch_and(!(1 << name), Relaxed);
        }
        if name == SO_PASSCRED {
            self.passcred.store(is_on, Relaxed);
        }
    }

    /// setsockopt(2) with an `int`; `time` and `linger` read the larger values, which fail with `EINVAL` when the
    /// caller gave too few bytes.
    ///
    /// `ENOPROTOOPT`: no such option. `EPERM`: not for everybody. `EDOM`: microseconds out of range.
    pub fn set(
        &self,
        name: i32,
        value: i32,
        time: impl FnOnce() -> Result<Timeval>,
        linger: impl FnOnce() -> Result<[i32; 2]>,
        cred: &Cred,
    ) -> Result<()> {
        let forced =
            |value: i32| if cred.capable(Cap::NET_ADMIN) { Ok(value as u32) } else { Err(Errno::EPERM) };
        let limited = |value: i32, most: &AtomicU32| (value as u32).min(most.load(Relaxed));
        match name {
            SO_SNDBUF => self.sndbuf.store(doubled(limited(value, &WMEM_MAX), MIN_SNDBUF), Relaxed),
            SO_SNDBUFFORCE => self.sndbuf.store(doubled(forced(value.max(0))?, MIN_SNDBUF), Relaxed),
            SO_RCVBUF => self.rcvbuf.store(doubled(limited(value, &RMEM_MAX), MIN_RCVBUF), Relaxed),
            SO_RCVBUFFORCE => self.rcvbuf.store(doubled(forced(value.max(0))?, MIN_RCVBUF), Relaxed),
            SO_RCVLOWAT => {
                self.rcvlowat.store(if value < 0 { i32::MAX as u32 } else { value.max(1) as u32 }, Relaxed)
            }
            SO_RCVTIMEO | SO_RCVTIMEO_NEW => self.rcvtimeo_ns.store(timeout(time()?)?, Relaxed),
            SO_SNDTIMEO | SO_SNDTIMEO_NEW => self.sndtimeo_ns.store(timeout(time()?)?, Relaxed),
            SO_PRIORITY => {
                if !(0..=6).contains(&value) {
                    forced(0)?;
                }
                self.priority.store(value as u32, Relaxed);
            }
            SO_MARK => {
                self.mark.store(forced(value)?, Relaxed);
            }
            SO_LINGER => {
                let [is_on, seconds] = linger()?;
                self.linger[0].store(u32::from(is_on != 0), Relaxed);
                self.linger[1].store(seconds as u32, Relaxed);
            }
            SO_DEBUG if value != 0 && !cred.capable(Cap::NET_ADMIN) => return Err(Errno::EACCES),
            _ if FLAGS.contains(&name) => self.set_flag(name, value != 0),
            _ => return Err(Errno::ENOPROTOOPT),
        }
        Ok(())
    }
}

fn doubled(value: u32, min: u32) -> u32 {
    value.min(i32::MAX as u32 / 2).saturating_mul(2).max(min)
}

/// A timeout in nanoseconds; 0: none. `EDOM`.
fn timeout(value: Timeval) -> Result<u64> {
    if !(0..1_000_000).contains(&value.tv_usec) {
        return Err(Errno::EDOM);
    }
    if value.tv_sec < 0 {
        // Linux: a negative time makes calls fail at once, like a shortest one here.
        return Ok(1);
    }
    value.to_ns()
}

/// getsockopt(2). `ENOPROTOOPT`: no such option.
pub fn get(socket: &dyn Socket, name: i32) -> Result<Value> {
    let options = socket.options();
    let as_int = |value: &AtomicU32| Value::Int(value.load(Relaxed) as i32);
    let as_time = |value: &AtomicU64| Value::Time(Timeval::from_ns(value.load(Relaxed)));
    Ok(match name {
        SO_TYPE => Value::Int(socket.kind() as i32),
        SO_DOMAIN => Value::Int(i32::from(socket.family())),
        SO_PROTOCOL => Value::Int(socket.protocol()),
        SO_ERROR => Value::Int(socket.take_error().map_or(0, |errno| -(errno.to_return() as i32))),
        SO_ACCEPTCONN => Value::Int(i32::from(socket.is_listening())),
        SO_PEERCRED => Value::Cred(crate::shown(socket.peer_cred())),
        SO_SNDBUF => as_int(&options.sndbuf),
        SO_RCVBUF => as_int(&options.rcvbuf),
        SO_RCVLOWAT => as_int(&options.rcvlowat),
        SO_SNDLOWAT => Value::Int(1),
        SO_RCVTIMEO | SO_RCVTIMEO_NEW => as_time(&options.rcvtimeo_ns),
        SO_SNDTIMEO | SO_SNDTIMEO_NEW => as_time(&options.sndtimeo_ns),
        SO_PRIORITY => as_int(&options.priority),
        SO_MARK => as_int(&options.mark),
        SO_COOKIE => Value::Wide(options.cookie()),
        SO_NETNS_COOKIE => Value::Wide(socket.net_cookie()),
        SO_LINGER => {
            Value::Linger([options.linger[0].load(Relaxed) as i32, options.linger[1].load(Relaxed) as i32])
        }
        _ if FLAGS.contains(&name) => Value::Int((options.flags.load(Relaxed) >> name & 1) as i32),
        _ => Value::Int(socket.own_option(name)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(options: &Options, name: i32, value: i32) -> Result<()> {
        let none = || Err(Errno::EINVAL);
        options.set(name, value, none, || Err(Errno::EINVAL), &Cred::root())
    }

    #[test]
    fn buffer_sizes_are_doubled_and_bounded() {
        let options = Options::new();
        for (value, expected) in
            [(10_000, 20_000), (1, MIN_SNDBUF), (i32::MAX, 2 * DEFAULT_BUF), (-1, 2 * DEFAULT_BUF)]
        {
            set(&options, SO_SNDBUF, value).unwrap();
            assert_eq!(options.sndbuf(), expected as usize);
        }
    }

    #[test]
    fn timeouts_are_checked() {
        assert_eq!(timeout(Timeval { tv_sec: 0, tv_usec: 1_000_000 }), Err(Errno::EDOM));
        assert_eq!(timeout(Timeval { tv_sec: 1, tv_usec: 1 }), Ok(1_000_001_000));
        assert_eq!(set(&Options::new(), 9999, 1), Err(Errno::ENOPROTOOPT));
        for name in [SO_RCVTIMEO, SO_RCVTIMEO_NEW] {
            let options = Options::new();
            let time = || Ok(Timeval { tv_sec: 5, tv_usec: 0 });
            options.set(name, 5, time, || Err(Errno::EINVAL), &Cred::root()).unwrap();
            assert_eq!(options.receive_timeout(), Some(5_000_000_000));
        }
    }
}
