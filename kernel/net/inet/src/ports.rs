//! Who has which port.
//!
//! A port is taken by a [`Binding`], which its socket keeps; dropping it frees the port.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use abi::{Errno, Result};
use hal::sync::SpinLock;

use crate::ip::{Endpoint, Ip};
use crate::sysctl;

/// Buckets of the table.
const BUCKETS: usize = 128;

/// What a socket says about sharing its port.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sharing {
    /// `SO_REUSEADDR`.
    pub(crate) address: bool,
    /// `SO_REUSEPORT`.
    pub(crate) port: bool,
    /// Who may share by `SO_REUSEPORT`.
    pub(crate) uid: u32,
    /// The port was found by connect(2): it may serve other connections.
    pub(crate) automatic: bool,
}

/// A port of a socket.
pub(crate) struct Binding {
    pub(crate) at: Endpoint,
    /// A socket of version 6 that takes nothing of version 4.
    v6_only: bool,
    sharing: Sharing,
    listens: AtomicBool,
    table: Weak<Table>,
}

struct Table {
    buckets: Vec<SpinLock<Vec<Weak<Binding>>>>,
}

/// The ports of one protocol.
pub(crate) struct Ports(Arc<Table>);

impl Binding {
    /// Its socket listens no more.
    pub(crate) fn stop_listening(&self) {
        self.listens.store(false, Relaxed);
    }

    /// Its socket listens from now on. `EADDRINUSE`: another one does, with which it may not share that.
    pub(crate) fn listen(&self) -> Result<()> {
        let Some(table) = self.table.upgrade() else { return Ok(()) };
        let bucket = table.bucket(self.at.port).lock();
        // The references are dropped after the lock: the last one takes it.
        let others: Vec<Arc<Binding>> = bucket.iter().filter_map(Weak::upgrade).collect();
        let is_taken = others.iter().any(|other| {
            !core::ptr::eq(&**other, self) && other.listens.load(Relaxed) && self.conflicts(other)
        });
        if !is_taken {
            self.listens.store(true, Relaxed);
        }
        drop(bucket);
        drop(others);
        if is_taken { Err(Errno::EADDRINUSE) } else { Ok(()) }
    }

    fn covers_v4(&self) -> bool {
        self.at.ip == Ip::ANY && !self.v6_only
    }

    /// Whether a packet could be meant for both.
    fn overlaps(&self, other: &Binding) -> bool {
        let (a, b) = (self.at.ip, other.at.ip);
        if a.is_v4() != b.is_v4() {
            return self.covers_v4() && b.is_v4() || other.covers_v4() && a.is_v4();
        }
        a.is_any() || b.is_any() || a == b
    }

    /// Whether `self`, which is new, must not have the port beside `old`.
    fn conflicts(&self, old: &Binding) -> bool {
        if self.at.port != old.at.port
            || !self.overlaps(old)
            || (self.sharing.automatic && old.sharing.automatic)
        {
            return false;
        }
        let (mine, theirs) = (self.sharing, old.sharing);
        let by_address = mine.address && theirs.address && !old.listens.load(Relaxed);
        let by_port = mine.port && theirs.port && mine.uid == theirs.uid;
        !(by_address || by_port)
    }
}

impl Drop for Binding {
    fn drop(&mut self) {
        if let Some(table) = self.table.upgrade() {
            let me: *const Binding = self;
            let mut bucket = table.bucket(self.at.port).lock();
            bucket.retain(|other| !core::ptr::eq(other.as_ptr(), me));
        }
    }
}

impl Table {
    fn bucket(&self, port: u16) -> &SpinLock<Vec<Weak<Binding>>> {
        &self.buckets[usize::from(port) % BUCKETS]
    }

    /// Enters `new` unless it conflicts. `EADDRINUSE`.
    fn enter(&self, new: Binding) -> Result<Arc<Binding>> {
        let new = Arc::new(new);
        let mut bucket = self.bucket(new.at.port).lock();
        // The references are dropped after the lock: the last one takes it.
        let others: Vec<Arc<Binding>> = bucket.iter().filter_map(Weak::upgrade).collect();
        let conflicts = others.iter().any(|old| new.conflicts(old));
        if !conflicts {
            bucket.push(Arc::downgrade(&new));
        }
        drop(bucket);
        drop(others);
        if conflicts { Err(Errno::EADDRINUSE) } else { Ok(new) }
    }
}

impl Ports {
    pub(crate) fn new() -> Self {
        let bucket = |_| SpinLock::new("inet.ports", Vec::new());
        Self(Arc::new(Table { buckets: (0..BUCKETS).map(bucket).collect() }))
    }

    /// Takes port `at`, or with port 0 a free one for which `suits` holds.
    ///
    /// `EADDRINUSE`: it is taken, or none is free. `EADDRNOTAVAIL`: none suits for a connection.
    pub(crate) fn bind(
        &self,
        at: Endpoint,
        v6_only: bool,
        sharing: Sharing,
        mut suits: impl FnMut(u16) -> bool,
    ) -> Result<Arc<Binding>> {
        let binding = |port, sharing| Binding {
            at: Endpoint { port, ..at },
            v6_only,
            sharing,
            listens: AtomicBool::new(false),
            table: Arc::downgrade(&self.0),
        };
        if at.port != 0 {
            return self.0.enter(binding(at.port, sharing));
        }
        let (first, last) = sysctl::port_range();
        let count = u32::from(last - first) + 1;
        let start = (random::next_u64() % u64::from(count)) as u32;
        // A port that somebody else has is no free one, even where it could be shared.
        let alone = Sharing { address: false, port: false, ..sharing };
        for step in 0..count {
            let port = first + ((start + step) % count) as u16;
            if suits(port)
                && let Ok(found) = self.0.enter(binding(port, alone))
            {
                return if sharing.automatic || !(sharing.address || sharing.port) {
                    Ok(found)
                } else {
                    // From now on it shares as its socket says.
                    drop(found);
                    self.0.enter(binding(port, sharing))
                };
            }
        }
        Err(if sharing.automatic { Errno::EADDRNOTAVAIL } else { Errno::EADDRINUSE })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(ports: &Ports, ip: Ip, port: u16, sharing: Sharing) -> Result<Arc<Binding>> {
        ports.bind(Endpoint { ip, port }, false, sharing, |_| true)
    }

    #[test]
    fn a_port_is_taken_until_its_binding_goes() {
        let ports = Ports::new();
        let plain = Sharing::default();
        let held = bind(&ports, Ip::LOOPBACK_V4, 80, plain).unwrap();
        for ip in [Ip::LOOPBACK_V4, Ip::ANY_V4, Ip::ANY] {
            assert!(bind(&ports, ip, 80, plain).is_err(), "{ip}");
        }
        assert!(bind(&ports, Ip::v4(0x7f00_0002), 80, plain).is_ok());
        assert!(bind(&ports, Ip::LOOPBACK_V6, 80, plain).is_ok());
        drop(held);
        assert!(bind(&ports, Ip::ANY, 80, plain).is_ok());
    }

    #[test]
    fn ports_are_shared_by_consent() {
        let ports = Ports::new();
        let reuse = Sharing { address: true, ..Sharing::default() };
        let first = bind(&ports, Ip::ANY_V4, 80, reuse).unwrap();
        assert!(bind(&ports, Ip::ANY_V4, 80, reuse).is_ok());
        first.listen().unwrap();
        assert!(bind(&ports, Ip::ANY_V4, 80, reuse).is_err());
        let group = |uid| Sharing { port: true, uid, ..Sharing::default() };
        let _one = bind(&ports, Ip::ANY_V4, 81, group(1)).unwrap();
        assert!(bind(&ports, Ip::ANY_V4, 81, group(1)).is_ok());
        assert!(bind(&ports, Ip::ANY_V4, 81, group(2)).is_err());
    }

    #[test]
    fn free_ports_come_from_the_range() {
        let ports = Ports::new();
        let (first, last) = sysctl::port_range();
        let found = bind(&ports, Ip::ANY_V4, 0, Sharing::default()).unwrap();
        assert!((first..=last).contains(&found.at.port));
        let auto = Sharing { automatic: true, ..Sharing::default() };
        let none = ports.bind(Endpoint::NONE, false, auto, |_| false);
        assert_eq!(none.err(), Some(Errno::EADDRNOTAVAIL));
    }
}
