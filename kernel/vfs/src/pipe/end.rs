//! The ends of pipes: making them, opening FIFOs, and the operations of their open file descriptions.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering::*};

use abi::fs::{OpenFlags, S_IFIFO};
use abi::poll::PollEvents;
use abi::{Errno, Result};
use hal::uio::{Dest, Src};
use sched::PollTable;
use security::Cred;

use super::{Blocking, Pipe};
use crate::anon;
use crate::file::{File, FileMode, FileOps};
use crate::inode::Inode;

/// Operations of one open end of a pipe or FIFO.
pub struct PipeEnd {
    pipe: Arc<Pipe>,
    reads: bool,
    writes: bool,
    /// `writer_opens` when a FIFO was opened for reading: POLLHUP waits for a writer to have come since.
    seen_writers: AtomicU32,
}

/// Makes a pipe; gives its read end and its write end (pipe2(2)).
///
/// Of `flags`, `NONBLOCK` and `DIRECT` (packet mode) count.
pub fn create(flags: OpenFlags, cred: &Arc<Cred>) -> Result<(Arc<File>, Arc<File>)> {
    let inode = anon::new_inode(anon::PIPE, S_IFIFO | 0o600, cred);
    // The inode keeps it, for those who open the pipe again by /proc/PID/fd.
    let pipe = inode.fifo().clone();
    let status = flags & (OpenFlags::NONBLOCK | OpenFlags::DIRECT);
    let end = |reads: bool| {
        let access = if reads { OpenFlags::empty() } else { OpenFlags::WRONLY };
        anon::open(&inode, Arc::new(PipeEnd::new(&pipe, reads, !reads)), status | access, cred)
    };
    Ok((end(true)?, end(false)?))
}

impl PipeEnd {
    fn new(pipe: &Arc<Pipe>, reads: bool, writes: bool) -> Self {
        // A pipe that was never a FIFO always had its writer.
        pipe.attach(reads, writes);
        Self { pipe: pipe.clone(), reads, writes, seen_writers: AtomicU32::new(u32::MAX) }
    }

    /// Opens FIFO `inode`. Waits for the other side unless `flags` say otherwise (fifo(7)).
    ///
    /// A pipe without a name had both sides from the start: opening it again never waits.
    ///
    /// `ENXIO`: write only, not blocking, and no reader. `ERESTARTSYS`: a signal came.
    pub(crate) fn open_fifo(inode: &Arc<Inode>, flags: OpenFlags) -> Result<Arc<dyn FileOps>> {
        let pipe = inode.fifo();
        let (reads, writes) = (flags.can_read(), flags.can_write());
        let blocking = Blocking::from_flags(flags);
        if anon::PIPE.holds(inode) {
            return Ok(Arc::new(Self::new(pipe, reads, writes)));
        }
        if writes && !reads && blocking == Blocking::No && !pipe.has_readers() {
            return Err(Errno::ENXIO);
        }
        let had_writers = pipe.has_writers();
        let (readers_before, writers_before) =
            (pipe.reader_opens.load(Acquire), pipe.writer_opens.load(Acquire));
        let end = Self::new(pipe, reads, writes);
        if reads && !writes && !had_writers {
            end.seen_writers.store(writers_before, Relaxed);
            if blocking == Blocking::Yes {
                let came = || (pipe.writer_opens.load(Acquire) != writers_before).then_some(());
                pipe.read_wait.wait_interruptible(came).map_err(|_| Errno::ERESTARTSYS)?;
            }
        }
        if writes && !reads && !pipe.has_readers() {
            let came = || (pipe.reader_opens.load(Acquire) != readers_before).then_some(());
            pipe.write_wait.wait_interruptible(came).map_err(|_| Errno::ERESTARTSYS)?;
        }
        Ok(Arc::new(end))
    }

    /// The pipe itself, for splice(2) and fcntl(2).
    pub fn pipe(&self) -> &Arc<Pipe> {
        &self.pipe
    }
}

impl Drop for PipeEnd {
    fn drop(&mut self) {
        self.pipe.detach(self.reads, self.writes);
    }
}

impl FileOps for PipeEnd {
    fn mode(&self) -> FileMode {
        FileMode::STREAM
    }

    fn read(&self, file: &File, dst: &mut Dest<'_>, _pos: u64) -> Result<usize> {
        self.pipe.read(dst, Blocking::from_flags(file.flags()))
    }

    fn write(&self, file: &File, src: &mut Src<'_>, _pos: u64) -> Result<usize> {
        let flags = file.flags();
        self.pipe.write(src, Blocking::from_flags(flags), flags.contains(OpenFlags::DIRECT))
    }

    fn poll(&self, _file: &File, table: &mut PollTable) -> PollEvents {
        if self.reads {
            table.register(&self.pipe.read_wait);
        }
        if self.writes {
            table.register(&self.pipe.write_wait);
        }
        let had_writer = self.pipe.writer_opens.load(Acquire) != self.seen_writers.load(Relaxed);
        self.pipe.readiness(self.reads, self.writes, had_writer)
    }

    fn ready(&self, _file: &File) -> Option<PollEvents> {
        let had_writer = self.pipe.writer_opens.load(Acquire) != self.seen_writers.load(Relaxed);
        Some(self.pipe.readiness(self.reads, self.writes, had_writer))
    }

    fn readable_bytes(&self, _file: &File) -> Result<usize> {
        Ok(self.pipe.len())
    }

    fn raises_sigpipe(&self) -> bool {
        true
    }

    fn check_flags(&self, _file: &File, _flags: OpenFlags) -> Result<()> {
        Ok(())
    }
}
