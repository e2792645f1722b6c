//! Reads and writes past the page cache that go on by themselves: begun by a thread, ended by the disk's interrupt.
//!
//! ```text
//! thread                                       interrupt, or a worker
//!   lend memory, make a job
//!   begin()    sem.read { checks, FileOps::begin_direct: the disk is asked }
//!   goes on                                      what the file system has to do, job.done(result)
//!   ... or has the job back: read() or write() do what it asks for
//! ```
//! What belongs to the access as such, times and those who watch, is seen to when it begins, as Linux does it.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::any::Any;

use abi::{Errno, Result};
use hal::sync::Once;
use hal::uio::{FramePart, Memory};
use mm::{Lend, LentMemory};
use sched::Completion;

use crate::file::{File, FileMode, RwKind};
use crate::notify;
use crate::rw::{self, RwFlags};

/// Who waits for a [`Direct`].
pub trait DirectJob: Any + Send + Sync {
    /// The memory that is filled or read, which stays what it is until the job is done.
    fn memory(&self) -> &[FramePart];

    /// It is over: how many bytes went, or why none. In any context; must not sleep.
    fn done(self: Box<Self>, result: Result<usize>);
}

/// A read or write to be begun.
pub struct Direct {
    /// From or to the file.
    pub kind: RwKind,
    /// Where in it.
    pub pos: u64,
    /// Bytes of the memory, not 0.
    pub len: usize,
    /// Whose it is.
    pub job: Box<dyn DirectJob>,
}

/// It was begun, or is given back.
pub type Begun = core::result::Result<(), Direct>;

/// Begins `direct`, which then ends by [`DirectJob::done`]; or gives it back, as it cannot go on by itself: then nothing has
/// happened, but that the time of a write may be noted. `fsize`: the caller's `RLIMIT_FSIZE`. May sleep, but not for the transfer.
pub fn begin(file: &File, direct: Direct, flags: RwFlags, fsize: u64) -> Begun {
    let kind = direct.kind;
    if notify::has_asking() {
        return Err(direct);
    }
    begin_untold(file, direct, flags, fsize)?;
    match kind {
        RwKind::Read => rw::accessed(file, 1),
        RwKind::Write => rw::wrote(file),
    }
    Ok(())
}

/// As [`begin`], but for what those hear of it who watch, and the time of access.
fn begin_untold(file: &File, direct: Direct, flags: RwFlags, fsize: u64) -> Begun {
    let is_plain = (RwFlags::HIPRI | RwFlags::NOAPPEND | RwFlags::NOSIGNAL).contains(flags);
    if !is_plain || !file.mode().contains(FileMode::FLIES) {
        return Err(direct);
    }
    let inode = file.inode();
    let _shared = inode.sem.read();
    if direct.kind == RwKind::Read {
        return file.ops().begin_direct(file, direct);
    }
    // A write goes on by itself where it changes nothing but bytes that are there.
    if !rw::is_plain_overwrite(inode, direct.pos, direct.len, fsize) {
        return Err(direct);
    }
    // Who hears that it is over finds the new time.
    inode.touch_mtime();
    inode.ops().times_changed(inode);
    file.ops().begin_direct(file, direct)
}

/// The most that [`perform`] has under way, in bytes: so much memory is pinned meanwhile.
const MAX_LEN: usize = 8 << 20;

/// What the thread waits for.
struct Waiter {
    result: Once<Result<usize>>,
    is_over: Completion,
}

/// The job of a thread that waits.
struct Waited {
    memory: LentMemory,
    waiter: Arc<Waiter>,
}

impl DirectJob for Waited {
    fn memory(&self) -> &[FramePart] {
        self.memory.parts()
    }

    fn done(self: Box<Self>, result: Result<usize>) {
        let Self { memory, waiter } = *self;
        drop(memory);
        waiter.result.call_once(|| result);
        waiter.is_over.complete();
    }
}

/// Reads or writes at `pos`, past the cache and with nothing copied, the bytes of `memory`, and waits. `None`: it has to be done
/// otherwise, and nothing has happened, as with [`begin`]. Nobody is told of it.
pub(crate) fn perform(
    file: &File,
    kind: RwKind,
    pos: u64,
    memory: Memory,
    flags: RwFlags,
    fsize: u64,
) -> Option<Result<usize>> {
    if !file.mode().contains(FileMode::FLIES) {
        return None;
    }
    let memory = match memory {
        Memory::User(bufs) if total(bufs.iter().map(|buf| buf.len)) <= MAX_LEN => {
            let lend = if kind == RwKind::Read { Lend::ToFill } else { Lend::ToRead };
            // Who copies finds out what there is to say of an error.
            mm::lend(&bufs, lend).ok().flatten()?
        }
        Memory::User(_) => return None,
        Memory::Parts(parts) => LentMemory::of_parts(parts),
    };
    let len = total(memory.parts().iter().map(|part| part.len));
    if len == 0 {
        return None;
    }
    let waiter = Arc::new(Waiter { result: Once::new(), is_over: Completion::new() });
    let job = Box::new(Waited { memory, waiter: waiter.clone() });
    begin_untold(file, Direct { kind, pos, len, job }, flags, fsize).ok()?;
    waiter.is_over.wait();
    waiter.result.get().copied()
}

fn total(lens: impl Iterator<Item = usize>) -> usize {
    lens.fold(0, usize::saturating_add)
}

impl Direct {
    /// The position behind its last byte. `EINVAL`: there is no such.
    pub fn end(&self) -> Result<u64> {
        self.pos.checked_add(self.len as u64).ok_or(Errno::EINVAL)
    }

    /// All offsets and lengths of its memory, or-ed.
    pub fn alignment(&self) -> u64 {
        self.job.memory().iter().fold(0, |bits, part| bits | (part.offset | part.len) as u64)
    }
}
