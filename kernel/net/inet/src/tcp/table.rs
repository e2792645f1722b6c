//! Finding the connection or the listener that a segment is for.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use hal::sync::SpinLock;

use super::conn::Conn;
use crate::ip::{Endpoint, Ip};

/// Buckets for connections and for listeners.
const CONNECTIONS: usize = 512;
const LISTENERS: usize = 64;

type Bucket<T> = SpinLock<Vec<T>>;

struct Entry {
    local: Endpoint,
    remote: Endpoint,
    conn: Arc<Conn>,
}

struct Listener {
    at: Endpoint,
    v6_only: bool,
    conn: Arc<Conn>,
}

/// The connections and listeners of a namespace.
pub(crate) struct Connections {
    established: Vec<Bucket<Entry>>,
    listening: Vec<Bucket<Listener>>,
    secret: u64,
    /// Connections in TIME-WAIT.
    pub(crate) time_wait: AtomicU32,
}

impl Connections {
    pub(crate) fn new() -> Self {
        let bucket = |_| SpinLock::new("inet.connections", Vec::new());
        let listeners = |_| SpinLock::new("inet.listeners", Vec::new());
        Self {
            established: (0..CONNECTIONS).map(bucket).collect(),
            listening: (0..LISTENERS).map(listeners).collect(),
            secret: random::next_u64() | 1,
            time_wait: AtomicU32::new(0),
        }
    }

    #[inline]
    fn bucket(&self, local: Endpoint, remote: Endpoint) -> &Bucket<Entry> {
        let ports = u64::from(local.port) << 16 | u64::from(remote.port);
        let ips = (local.ip.0 ^ remote.ip.0.rotate_left(64)) as u64 ^ (remote.ip.0 as u64).rotate_left(17);
        let hash = (ports ^ ips ^ self.secret).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        &self.established[(hash >> 40) as usize % CONNECTIONS]
    }

    #[inline]
    fn listeners(&self, port: u16) -> &Bucket<Listener> {
        &self.listening[usize::from(port) % LISTENERS]
    }

    /// The connection between both ends.
    #[inline]
    pub(crate) fn find(&self, local: Endpoint, remote: Endpoint) -> Option<Arc<Conn>> {
        let bucket = self.bucket(local, remote).lock();
        bucket.iter().find(|e| e.local == local && e.remote == remote).map(|e| e.conn.clone())
    }

    /// Enters a connection; `false`: there is one between these ends.
    pub(crate) fn enter(&self, local: Endpoint, remote: Endpoint, conn: &Arc<Conn>) -> bool {
        let mut bucket = self.bucket(local, remote).lock();
        if bucket.iter().any(|e| e.local == local && e.remote == remote) {
            return false;
        }
        bucket.push(Entry { local, remote, conn: conn.clone() });
        true
    }

    /// Takes a connection out.
    pub(crate) fn remove(&self, local: Endpoint, remote: Endpoint, conn: &Conn) {
        let mut bucket = self.bucket(local, remote).lock();
        let at = bucket.iter().position(|e| core::ptr::eq(&*e.conn, conn));
        let gone = at.map(|at| bucket.swap_remove(at));
        drop(bucket);
        drop(gone);
    }

    /// Adds a listener.
    pub(crate) fn listen(&self, at: Endpoint, v6_only: bool, conn: &Arc<Conn>) {
        self.listeners(at.port).lock().push(Listener { at, v6_only, conn: conn.clone() });
    }

    /// Takes a listener out.
    pub(crate) fn unlisten(&self, at: Endpoint, conn: &Conn) {
        let mut bucket = self.listeners(at.port).lock();
        let found = bucket.iter().position(|e| core::ptr::eq(&*e.conn, conn));
        let gone = found.map(|found| bucket.remove(found));
        drop(bucket);
        drop(gone);
    }

    /// The listener that suits `local` best; among equals, those of `SO_REUSEPORT`, the sender decides.
    pub(crate) fn find_listener(&self, local: Endpoint, remote: Endpoint) -> Option<Arc<Conn>> {
        let bucket = self.listeners(local.port).lock();
        let score = |l: &Listener| match l.at.ip {
            _ if l.at.port != local.port => 0,
            ip if ip == local.ip => 3,
            Ip::ANY_V4 if local.ip.is_v4() => 2,
            Ip::ANY if !local.ip.is_v4() => 2,
            Ip::ANY if !l.v6_only => 1,
            _ => 0,
        };
        let best = bucket.iter().map(score).max().filter(|&best| best > 0)?;
        let count = bucket.iter().filter(|l| score(l) == best).count();
        let hash = (u64::from(remote.port) ^ self.secret).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let chosen = hash as usize % count.max(1);
        bucket.iter().filter(|l| score(l) == best).nth(chosen).map(|l| l.conn.clone())
    }

    /// How many parts [`Connections::part`] knows.
    pub(crate) const PARTS: usize = LISTENERS + CONNECTIONS;

    /// One part of all listeners and connections of the moment: listeners first.
    pub(crate) fn part(&self, at: usize) -> Vec<Arc<Conn>> {
        if let Some(bucket) = self.listening.get(at) {
            return bucket.lock().iter().map(|l| l.conn.clone()).collect();
        }
        let bucket = at.checked_sub(LISTENERS).and_then(|at| self.established.get(at));
        bucket.map_or_else(Vec::new, |bucket| bucket.lock().iter().map(|e| e.conn.clone()).collect())
    }

    /// Calls `each` for all connections and listeners of the moment.
    pub(crate) fn for_each(&self, mut each: impl FnMut(&Arc<Conn>)) {
        (0..Self::PARTS).for_each(|at| self.part(at).iter().for_each(&mut each));
    }

    /// Counts a connection that enters TIME-WAIT; `false`: there are too many.
    pub(crate) fn may_wait(&self) -> bool {
        let most = crate::sysctl::MAX_TIME_WAIT.load(Relaxed);
        self.time_wait.fetch_update(Relaxed, Relaxed, |n| (n < most).then_some(n + 1)).is_ok()
    }
}
