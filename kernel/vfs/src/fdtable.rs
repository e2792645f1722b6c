//! File descriptors of a process.
//!
//! # Lookup without a lock
//!
//! A slot holds its file twice: a strong reference that only the lock's holder touches, and a weak one that readers
//! follow by RCU. A reader upgrades the weak one, which fails once the last strong one is gone. So close(2) drops
//! the file at once (a pipe's reader sees the end, a lock is freed), and only the weak reference waits for a grace
//! period.
//!
//! ```text
//!   lookup                                   close
//!   RCU: weak = slots[fd]                    lock; strong.take(), slots[fd] = none; unlock
//!   weak.upgrade() -> file or EBADF          drop(strong): perhaps the last
//!                                            later, after a grace period: drop(weak)
//! ```
//!
//! # Who keeps it open
//!
//! A task uses its table through a [`TableCell`]. With the last one the descriptors are closed, at once, whoever else
//! looks at the table meanwhile; the memory goes after a grace period.
//!
//! # Invariants
//!
//! - F1: bit `fd` of `open` is set if and only if the descriptor is open or reserved by an installation in progress.
//! - F2: no bit below `next` is clear in `open`.
//!
//! # Locks
//!
//! `state` is a spinlock; nothing sleeps and no file is dropped under it.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering::*};

use abi::{Errno, Result};
use bitflags::bitflags;
use hal::rcu::{self, ReadGuard};
use hal::sync::{ArcCell, RcuCell, SpinLock, SpinLockGuard, WeakCell};

use crate::file::{File, FileMode};
use crate::lock;

bitflags! {
    /// Flags of a descriptor (fcntl(2) `F_GETFD`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct FdFlags: u32 {
        /// `FD_CLOEXEC`.
        const CLOEXEC = 1;
    }
}

/// No table grows beyond this (/proc/sys/fs/nr_open).
pub static NR_OPEN: AtomicUsize = AtomicUsize::new(1 << 20);

/// Descriptors that a new table has room for.
const INITIAL: usize = 64;

type Slots = Box<[WeakCell<File>]>;

struct State {
    files: Vec<Option<Arc<File>>>,
    open: Vec<u64>,
    cloexec: Vec<u64>,
    next: usize,
}

impl State {
    /// Word `at` of the bit map of open descriptors.
    fn is_open(&self, at: usize) -> u64 {
        self.open.get(at).copied().unwrap_or(0)
    }

    /// Word `at` of the bit map of those of them that exec(2) closes.
    fn closes_on_exec(&self, at: usize) -> u64 {
        self.is_open(at) & self.cloexec.get(at).copied().unwrap_or(0)
    }

    /// The first descriptor from `from` on that is in the map whose words `map` gives.
    fn first_in(&self, from: usize, map: fn(&Self, usize) -> u64) -> Option<usize> {
        let first = map(self, from / 64) & u64::MAX << (from % 64);
        let rest = (from / 64 + 1..self.open.len()).map(|at| (at, map(self, at)));
        let (at, word) = core::iter::once((from / 64, first)).chain(rest).find(|(_, word)| *word != 0)?;
        Some(at * 64 + word.trailing_zeros() as usize)
    }
}

/// A table of file descriptors, shared by the tasks that were cloned with `CLONE_FILES`.
pub struct FdTable {
    slots: RcuCell<Slots>,
    state: SpinLock<State>,
    id: u64,
    /// How many [`TableCell`]s hold it.
    users: AtomicU32,
}

fn bit(map: &[u64], at: usize) -> bool {
    map.get(at / 64).is_some_and(|word| word & (1 << (at % 64)) != 0)
}

fn set_bit(map: &mut [u64], at: usize, value: bool) {
    if let Some(word) = map.get_mut(at / 64) {
        let mask = 1 << (at % 64);
        *word = if value { *word | mask } else { *word & !mask };
    }
}

fn new_slots(len: usize) -> Result<Slots> {
    let mut slots = Vec::new();
    slots.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
    slots.resize_with(len, WeakCell::empty);
    Ok(slots.into_boxed_slice())
}

impl State {
    fn with_room(len: usize) -> Result<Self> {
        let mut files = Vec::new();
        files.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
        files.resize_with(len, || None);
        let mut open = Vec::new();
        open.try_reserve_exact(len / 64).map_err(|_| Errno::ENOMEM)?;
        open.resize(len / 64, 0);
        let mut cloexec = Vec::new();
        cloexec.try_reserve_exact(len / 64).map_err(|_| Errno::ENOMEM)?;
        cloexec.resize(len / 64, 0);
        Ok(Self { files, open, cloexec, next: 0 })
    }

    /// The lowest free descriptor from `min` on; may be just beyond the room.
    fn lowest_free(&self, min: usize) -> usize {
        let start = min.max(self.next);
        let mut at = start / 64;
        let mut skip = (1u64 << (start % 64)) - 1;
        while let Some(&word) = self.open.get(at) {
            let taken = word | skip;
            if taken != u64::MAX {
                return at * 64 + taken.trailing_ones() as usize;
            }
            skip = 0;
            at += 1;
        }
        start.max(self.open.len() * 64)
    }

    fn take_bit(&mut self, fd: usize, flags: FdFlags) {
        set_bit(&mut self.open, fd, true);
        set_bit(&mut self.cloexec, fd, flags.contains(FdFlags::CLOEXEC));
        if fd == self.next {
            self.next += 1;
        }
    }

    fn clear_bit(&mut self, fd: usize) {
        set_bit(&mut self.open, fd, false);
        set_bit(&mut self.cloexec, fd, false);
        self.next = self.next.min(fd);
    }
}

impl FdTable {
    /// An empty table.
    pub fn new() -> Result<Arc<Self>> {
        Self::from_parts(new_slots(INITIAL)?, State::with_room(INITIAL)?)
    }

    fn from_parts(slots: Slots, state: State) -> Result<Arc<Self>> {
        Ok(Arc::new(Self {
            slots: RcuCell::new(Box::new(slots)),
            state: SpinLock::new("vfs.fdtable", state),
            id: lock::new_owner_id(),
            users: AtomicU32::new(0),
        }))
    }

    /// Whether more than one task uses it.
    pub fn is_shared(&self) -> bool {
        self.users.load(Acquire) > 1
    }

    /// The owner of the POSIX locks that are taken through this table.
    #[inline]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The file behind `fd`, whatever it can do. `EBADF`.
    #[inline]
    pub fn get_any(&self, fd: i32) -> Result<Arc<File>> {
        self.look_up(fd, &rcu::read_lock())
    }

    /// As [`FdTable::get_any`] for a reader by RCU.
    #[inline]
    fn look_up(&self, fd: i32, guard: &ReadGuard) -> Result<Arc<File>> {
        // A negative number becomes a huge index.
        let slot = self.slots.get(guard).and_then(|slots| slots.get(fd as u32 as usize));
        slot.and_then(|slot| slot.upgrade(guard)).ok_or(Errno::EBADF)
    }

    /// The file behind `fd`. `EBADF`: there is none, or it only names a file (`O_PATH`).
    #[inline]
    pub fn get(&self, fd: i32) -> Result<Arc<File>> {
        let file = self.get_any(fd)?;
        if file.mode().contains(FileMode::PATH) { Err(Errno::EBADF) } else { Ok(file) }
    }

    /// Holds the table still, to look at many files without counting references. Atomic context until it is dropped,
    /// so look at a few dozen at a time.
    #[inline]
    pub fn hold(&self) -> Held<'_> {
        Held { state: self.state.lock() }
    }

    /// Shows readers what the locked table holds at `fd`.
    fn publish(&self, fd: usize, file: Option<&Arc<File>>) {
        let guard = rcu::read_lock();
        if let Some(slot) = self.slots.get(&guard).and_then(|slots| slots.get(fd)) {
            slot.set(file);
        }
    }

    /// Makes room for `fd`. `EMFILE`: beyond the system's limit.
    fn grow(&self, fd: usize) -> Result<()> {
        if fd >= NR_OPEN.load(Relaxed) {
            return Err(Errno::EMFILE);
        }
        let len = (fd + 1).next_power_of_two().max(INITIAL);
        let slots = new_slots(len)?;
        let mut new = State::with_room(len)?;
        let mut state = self.state.lock();
        if state.files.len() >= len {
            return Ok(());
        }
        for (at, file) in state.files.iter().enumerate() {
            slots[at].set(file.as_ref());
        }
        new.open[..state.open.len()].copy_from_slice(&state.open);
        new.cloexec[..state.cloexec.len()].copy_from_slice(&state.cloexec);
        new.next = state.next;
        core::mem::swap(&mut *state, &mut new);
        for (to, from) in state.files.iter_mut().zip(new.files.iter_mut()) {
            *to = from.take();
        }
        self.slots.set(Some(Box::new(slots)));
        drop(state);
        Ok(())
    }

    /// Takes the lowest free descriptor from `min` on, below `limit` (`RLIMIT_NOFILE`), for a file to come.
    ///
    /// `EMFILE`: there is none. `ENOMEM`.
    pub fn reserve(self: &Arc<Self>, min: usize, limit: usize, flags: FdFlags) -> Result<Reserved> {
        let (fd, _) = self.reserve_number(min, limit, flags)?;
        Ok(Reserved { table: self.clone(), fd, is_used: false })
    }

    /// Takes a number for [`FdTable::reserve`]; the table is still locked.
    fn reserve_number(
        &self,
        min: usize,
        limit: usize,
        flags: FdFlags,
    ) -> Result<(usize, SpinLockGuard<'_, State>)> {
        loop {
            let mut state = self.state.lock();
            let fd = state.lowest_free(min);
            if fd >= limit {
                return Err(Errno::EMFILE);
            }
            if fd < state.files.len() {
                state.take_bit(fd, flags);
                return Ok((fd, state));
            }
            drop(state);
            self.grow(fd)?;
        }
    }

    /// Puts `file` at a descriptor that was taken; gives what was there.
    fn install(&self, state: &mut State, fd: usize, file: Arc<File>) -> Option<Arc<File>> {
        self.publish(fd, Some(&file));
        state.files.get_mut(fd).and_then(|slot| slot.replace(file))
    }

    /// Installs `file` at the lowest free descriptor from `min` on and below `limit`. `EMFILE`, `ENOMEM`.
    pub fn insert(&self, file: Arc<File>, min: usize, limit: usize, flags: FdFlags) -> Result<i32> {
        let (fd, mut state) = self.reserve_number(min, limit, flags)?;
        let old = self.install(&mut state, fd, file);
        drop(state);
        // Nothing by F1, but no file may be dropped under the lock.
        drop(old);
        Ok(fd as i32)
    }

    /// Takes the file out of `fd`.
    fn remove(&self, fd: usize) -> Option<Arc<File>> {
        let mut state = self.state.lock();
        let file = state.files.get_mut(fd)?.take()?;
        state.clear_bit(fd);
        self.publish(fd, None);
        Some(file)
    }

    /// close(2). `EBADF`; other errors come from [`crate::file::FileOps::flush`], and the descriptor is gone anyway.
    pub fn close(&self, fd: i32) -> Result<()> {
        let file = usize::try_from(fd).ok().and_then(|fd| self.remove(fd)).ok_or(Errno::EBADF)?;
        self.closed(&file)
    }

    /// What every close of a descriptor does.
    fn closed(&self, file: &Arc<File>) -> Result<()> {
        if file.mode().contains(FileMode::PATH) {
            return Ok(());
        }
        if let Some(locks) = file.inode().locks_if_any() {
            locks.table_closed(self.id);
        }
        crate::dnotify::closed(file, self.id);
        file.ops().flush(file)
    }

    /// dup2(2) and dup3(2) to another number: `to` becomes `file`; what was there is closed.
    ///
    /// `EBADF`: `to` is not below `limit`. `EBUSY`: another thread is just opening something there.
    pub fn replace(&self, to: i32, file: Arc<File>, limit: usize, flags: FdFlags) -> Result<()> {
        let fd = usize::try_from(to).ok().filter(|&fd| fd < limit).ok_or(Errno::EBADF)?;
        self.grow(fd).map_err(|errno| if errno == Errno::EMFILE { Errno::EBADF } else { errno })?;
        let mut state = self.state.lock();
        let is_reserved = bit(&state.open, fd) && state.files.get(fd).is_some_and(Option::is_none);
        if is_reserved {
            return Err(Errno::EBUSY);
        }
        state.take_bit(fd, flags);
        let old = self.install(&mut state, fd, file);
        drop(state);
        if let Some(old) = old {
            // As on Linux, an error of the implied close is lost.
            let _ = self.closed(&old);
        }
        Ok(())
    }

    /// The flags of a descriptor. `EBADF`.
    pub fn fd_flags(&self, fd: i32) -> Result<FdFlags> {
        let state = self.state.lock();
        let fd = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        state.files.get(fd).and_then(Option::as_ref).ok_or(Errno::EBADF)?;
        Ok(if bit(&state.cloexec, fd) { FdFlags::CLOEXEC } else { FdFlags::empty() })
    }

    /// Sets the flags of a descriptor. `EBADF`.
    pub fn set_fd_flags(&self, fd: i32, flags: FdFlags) -> Result<()> {
        let mut state = self.state.lock();
        let fd = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        state.files.get(fd).and_then(Option::as_ref).ok_or(Errno::EBADF)?;
        set_bit(&mut state.cloexec, fd, flags.contains(FdFlags::CLOEXEC));
        Ok(())
    }

    /// Closes all descriptors in `first..=last` (close_range(2)).
    pub fn close_range(&self, first: u32, last: u32) {
        for fd in self.open_fds(first, last, State::is_open) {
            let _ = self.close(fd);
        }
    }

    /// Sets close-on-exec for all descriptors in `first..=last`.
    pub fn cloexec_range(&self, first: u32, last: u32) {
        for fd in self.open_fds(first, last, State::is_open) {
            let _ = self.set_fd_flags(fd, FdFlags::CLOEXEC);
        }
    }

    /// The descriptors in `first..=last` that are `wanted`, looked for one by one without the lock in between.
    fn open_fds(
        &self,
        first: u32,
        last: u32,
        wanted: fn(&State, usize) -> u64,
    ) -> impl Iterator<Item = i32> + '_ {
        let mut from = first as usize;
        core::iter::from_fn(move || {
            let state = self.state.lock();
            let mut fd = state.first_in(from, wanted)?;
            // Numbers are reserved before their file is there.
            while state.files.get(fd).is_none_or(Option::is_none) {
                fd = state.first_in(fd + 1, wanted)?;
            }
            from = fd + 1;
            (fd <= last as usize).then_some(fd as i32)
        })
    }

    /// All open descriptors, ascending: for /proc/PID/fd.
    pub fn fds(&self) -> Vec<i32> {
        self.open_fds(0, u32::MAX, State::is_open).collect()
    }

    /// Room of the table in descriptors (`FDSize` of /proc/PID/status).
    pub fn capacity(&self) -> usize {
        self.state.lock().files.len()
    }

    /// A copy with the same files, for fork(2) and `unshare(CLONE_FILES)`.
    pub fn fork(&self) -> Result<Arc<Self>> {
        self.fork_below(usize::MAX)
    }

    /// A copy of the descriptors below `end` (`CLOSE_RANGE_UNSHARE`).
    pub fn fork_below(&self, end: usize) -> Result<Arc<Self>> {
        loop {
            let needed = self.capacity();
            let slots = new_slots(needed)?;
            let mut new = State::with_room(needed)?;
            let state = self.state.lock();
            if state.files.len() != needed {
                continue;
            }
            for (at, file) in state.files.iter().enumerate().take(end) {
                if let Some(file) = file {
                    new.files[at] = Some(file.clone());
                    slots[at].set(Some(file));
                    set_bit(&mut new.open, at, true);
                    set_bit(&mut new.cloexec, at, bit(&state.cloexec, at));
                }
            }
            drop(state);
            return Self::from_parts(slots, new);
        }
    }

    /// Closes what is marked close-on-exec: at execve(2).
    pub fn close_on_exec(&self) {
        for fd in self.open_fds(0, u32::MAX, State::closes_on_exec) {
            let _ = self.close(fd);
        }
    }

    /// Closes everything: at exit.
    pub fn close_all(&self) {
        self.close_range(0, u32::MAX);
    }
}

impl Drop for FdTable {
    fn drop(&mut self) {
        self.close_all();
    }
}

/// A task's use of a table: where the task looks for its descriptors, and what keeps them open.
pub struct TableCell(ArcCell<FdTable>);

impl TableCell {
    /// A use of `table`.
    #[inline]
    pub fn new(table: Arc<FdTable>) -> Self {
        table.users.fetch_add(1, Relaxed);
        Self(ArcCell::new(table))
    }

    /// The table; `None` once the task has given it up.
    #[inline]
    pub fn table(&self) -> Option<Arc<FdTable>> {
        self.0.load()
    }

    /// The open file `fd`, as [`FdTable::get_any`], without counting a use of the table. `EBADF`.
    #[inline]
    pub fn file(&self, fd: i32) -> Result<Arc<File>> {
        let guard = rcu::read_lock();
        match self.0.get(&guard) {
            Some(table) => table.look_up(fd, &guard),
            None => Err(Errno::EBADF),
        }
    }

    /// Uses `new` from now on. If nobody else uses the old table, its descriptors are closed. May sleep.
    pub fn replace(&self, new: Option<Arc<FdTable>>) {
        if let Some(new) = &new {
            new.users.fetch_add(1, Relaxed);
        }
        // AcqRel: what other users did to the table comes before its end.
        if let Some(old) = self.0.swap(new)
            && old.users.fetch_sub(1, AcqRel) == 1
        {
            old.close_all();
        }
    }
}

impl Drop for TableCell {
    fn drop(&mut self) {
        self.replace(None);
    }
}

/// A table that nobody changes meanwhile; see [`FdTable::hold`].
pub struct Held<'a> {
    state: SpinLockGuard<'a, State>,
}

impl Held<'_> {
    /// The file behind `fd`; as [`FdTable::get`].
    #[inline]
    pub fn get(&self, fd: i32) -> Option<&File> {
        // A negative number becomes a huge index.
        let file = self.state.files.get(fd as u32 as usize)?.as_deref()?;
        (!file.mode().contains(FileMode::PATH)).then_some(file)
    }
}

/// A descriptor that was taken and waits for its file; given back when dropped.
pub struct Reserved {
    table: Arc<FdTable>,
    fd: usize,
    is_used: bool,
}

impl Reserved {
    /// Its number.
    #[inline]
    pub fn fd(&self) -> i32 {
        self.fd as i32
    }

    /// As [`install`](Self::install), with flags that were not known before.
    pub fn install_with(self, file: Arc<File>, flags: FdFlags) -> i32 {
        self.table.state.lock().take_bit(self.fd, flags);
        self.install(file)
    }

    /// Installs the file. Cannot fail.
    pub fn install(mut self, file: Arc<File>) -> i32 {
        self.is_used = true;
        let old = self.table.install(&mut self.table.state.lock(), self.fd, file);
        drop(old);
        self.fd as i32
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if !self.is_used {
            self.table.state.lock().clear_bit(self.fd);
        }
    }
}
