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
use core::any::Any;

use abi::{Errno, Result};
use hal::uio::FramePart;

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

/// It was begun, or is given back untouched.
pub type Begun = core::result::Result<(), Direct>;

/// Begins `direct`, which then ends by [`DirectJob::done`]; or gives it back, as it cannot go on by itself: then nothing has
/// happened. `fsize`: the caller's `RLIMIT_FSIZE`. May sleep, but not for the transfer.
pub fn begin(file: &File, direct: Direct, flags: RwFlags, fsize: u64) -> Begun {
    let is_plain = (RwFlags::HIPRI | RwFlags::NOAPPEND | RwFlags::NOSIGNAL).contains(flags);
    if !is_plain || !file.mode().contains(FileMode::SEEK | FileMode::CACHED) || notify::has_asking() {
        return Err(direct);
    }
    match direct.kind {
        RwKind::Read => {
            let begun = {
                let _shared = file.inode().sem.read();
                file.ops().begin_direct(file, direct)
            };
            begun.map(|()| rw::accessed(file, 1))
        }
        RwKind::Write => begin_write(file, direct, fsize),
    }
}

/// A write goes on by itself where it changes nothing but bytes that are there.
fn begin_write(file: &File, direct: Direct, fsize: u64) -> Begun {
    let inode = file.inode();
    {
        let _shared = inode.sem.read();
        if !rw::is_plain_overwrite(inode, direct.pos, direct.len, fsize) {
            return Err(direct);
        }
        file.ops().begin_direct(file, direct)?;
        inode.touch_mtime();
        inode.ops().times_changed(inode);
    }
    rw::wrote(file);
    Ok(())
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
