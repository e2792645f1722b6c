//! What an IPC namespace keeps, and its limits (/proc/sys/kernel, /proc/sys/fs/mqueue).

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, AtomicU64};

use abi::{Errno, Result};
use hal::sync::Once;
use ns::IpcNs;
use vfs::mount::Mount;

use crate::mqfs::MqState;
use crate::msg::Queue;
use crate::perm::Table;
use crate::sem::SemSet;
use crate::shm::Segment;

/// The objects and limits of one namespace. Limits are those of Linux 7.2 (`include/uapi/linux/{sem,msg,shm}.h`).
pub struct Ipc {
    pub(crate) sems: Table<SemSet>,
    pub(crate) queues: Table<Queue>,
    pub(crate) segments: Table<Segment>,
    /// Pages of all segments.
    pub(crate) shm_pages: AtomicU64,
    /// kernel.sem: semaphores per set, in all, operations per call, sets.
    pub sem_limits: [AtomicU32; 4],
    /// kernel.msgmax: bytes of a message.
    pub msg_max: AtomicU32,
    /// kernel.msgmnb: bytes of a queue.
    pub msg_mnb: AtomicU32,
    /// kernel.msgmni: queues.
    pub msg_mni: AtomicU32,
    /// kernel.shmmax: bytes of a segment.
    pub shm_max: AtomicU64,
    /// kernel.shmall: pages of all segments.
    pub shm_all: AtomicU64,
    /// kernel.shmmni: segments.
    pub shm_mni: AtomicU32,
    /// kernel.shm_rmid_forced.
    pub shm_rmid_forced: AtomicU32,
    /// POSIX queues.
    pub mq: MqState,
    pub(crate) mq_mount: Once<Option<Arc<Mount>>>,
}

/// The three kinds of System V objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectKind {
    /// Sets of semaphores.
    Semaphores,
    /// Message queues.
    Messages,
    /// Shared memory.
    Memory,
}

/// `ULONG_MAX - (1 << 24)`.
const SHM_NO_LIMIT: u64 = u64::MAX - (1 << 24);

impl Ipc {
    pub(crate) fn new() -> Self {
        Self {
            sems: Table::new(),
            queues: Table::new(),
            segments: Table::new(),
            shm_pages: AtomicU64::new(0),
            sem_limits: [32000, 1_024_000_000, 500, 32000].map(AtomicU32::new),
            msg_max: AtomicU32::new(8192),
            msg_mnb: AtomicU32::new(16384),
            msg_mni: AtomicU32::new(32000),
            shm_max: AtomicU64::new(SHM_NO_LIMIT),
            shm_all: AtomicU64::new(SHM_NO_LIMIT),
            shm_mni: AtomicU32::new(4096),
            shm_rmid_forced: AtomicU32::new(0),
            mq: MqState::new(),
            mq_mount: Once::new(),
        }
    }

    /// kernel.sem_next_id, msg_next_id or shm_next_id: the identifier that the next object shall get; -1 for none.
    pub fn next_id(&self, kind: ObjectKind) -> i32 {
        match kind {
            ObjectKind::Semaphores => self.sems.next_id(),
            ObjectKind::Messages => self.queues.next_id(),
            ObjectKind::Memory => self.segments.next_id(),
        }
    }

    /// Sets it. `EINVAL`: negative.
    pub fn set_next_id(&self, kind: ObjectKind, id: i32) -> Result<()> {
        if id < 0 {
            return Err(Errno::EINVAL);
        }
        match kind {
            ObjectKind::Semaphores => self.sems.set_next_id(id),
            ObjectKind::Messages => self.queues.set_next_id(id),
            ObjectKind::Memory => self.segments.set_next_id(id),
        }
        Ok(())
    }

    /// The state of namespace `ns`; made on first use.
    pub fn of(ns: &IpcNs) -> Result<Arc<Self>> {
        let state = ns.state(|| Arc::new(Ipc::new())).clone();
        state.downcast().map_err(|_| Errno::EINVAL)
    }
}

/// The caller's namespace with what it keeps. `ESRCH`: it exits.
pub fn current() -> Result<(Arc<IpcNs>, Arc<Ipc>)> {
    let ns = process::current().ipc().ok_or(Errno::ESRCH)?;
    let state = Ipc::of(&ns)?;
    Ok((ns, state))
}
