//! Moving data between files without a user buffer: sendfile(2), copy_file_range(2), splice(2), tee(2).
//!
//! Into a pipe go references to the pages of a file that has them, as far as the pipe takes them; to other files their bytes
//! are copied from there. What has no pages goes through one kernel buffer.
//!
//! Sources: sendfile(2), copy_file_range(2), splice(2), tee(2).

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::fs::OpenFlags;
use abi::{Errno, Result};
use hal::uio::{Dest, Src};
use mm::PagePart;
use sched::Interruptible;
use smallvec::SmallVec;

use crate::file::{File, FileMode};
use crate::pipe::{Blocking, Pipe, PipeEnd};
use crate::rw;

/// Pages that are shared at once.
const PARTS: usize = 16;
/// The buffer's size.
const CHUNK: usize = 64 * 1024;

/// Pages with bytes of a file.
type Parts = SmallVec<[PagePart; PARTS]>;

/// A file and where in it: at an offset that the caller keeps, or at the file's own position.
pub struct End<'a> {
    /// The file.
    pub file: &'a Arc<File>,
    /// The offset, moved behind what was done; `None` uses the position.
    pub offset: Option<&'a mut i64>,
}

impl End<'_> {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        let mut dst = Dest::kernel(buf);
        match &mut self.offset {
            None => rw::read(self.file, &mut dst),
            Some(offset) => {
                let done = rw::pread(self.file, &mut dst, **offset)?;
                **offset += done as i64;
                Ok(done)
            }
        }
    }

    fn write(&mut self, src: &mut Src<'_>, fsize: u64) -> Result<usize> {
        match &mut self.offset {
            None => rw::write(self.file, src, fsize),
            Some(offset) => {
                let done = rw::pwrite(self.file, src, **offset, fsize)?;
                **offset += done as i64;
                Ok(done)
            }
        }
    }

    /// Goes back over `count` bytes that were read and found no taker.
    fn unread(&mut self, count: usize) {
        match &mut self.offset {
            Some(offset) => **offset -= count as i64,
            None => self.file.set_pos(self.file.pos().saturating_sub(count as u64)),
        }
    }

    fn pos(&self) -> Result<u64> {
        match &self.offset {
            Some(offset) => u64::try_from(**offset).map_err(|_| Errno::EINVAL),
            None => Ok(self.file.pos()),
        }
    }

    /// The pages of at most `max` bytes from `pos` on; none: the bytes have to be read.
    fn parts(&self, pos: u64, max: usize) -> Result<Parts> {
        let mut parts = Parts::new();
        rw::share_at(self.file, pos, max, &mut |part| {
            parts.push(part);
            parts.len() < PARTS
        })?;
        Ok(parts)
    }

    /// Copies at most `max` bytes to `to` straight from the pages that hold them; how many. 0: they have to be read.
    fn copy_pages(&mut self, to: &mut End<'_>, max: usize, fsize: u64) -> Result<usize> {
        let pos = self.pos()?;
        let parts = self.parts(pos, max)?;
        if parts.is_empty() {
            return Ok(0);
        }
        let done = to.write(&mut Src::parts(&parts), fsize)?;
        match &mut self.offset {
            Some(offset) => **offset += done as i64,
            None => self.file.set_pos(pos + done as u64),
        }
        Ok(done)
    }

    /// Puts references to at most `max` bytes into `sink`, which has room; how many. 0: they have to be copied.
    fn share(&mut self, sink: &Pipe, max: usize) -> Result<usize> {
        let locked = if self.offset.is_none() { self.file.lock_pos() } else { None };
        let pos = self.pos()?;
        let parts = self.parts(pos, max)?;
        if parts.is_empty() {
            return Ok(0);
        }
        let done = sink.put_pages(parts)?;
        match &mut self.offset {
            Some(offset) => **offset += done as i64,
            None if locked.is_some() => self.file.set_pos(pos + done as u64),
            None => {}
        }
        Ok(done)
    }

    fn pipe(&self) -> Option<&Arc<Pipe>> {
        self.file.ops_as::<PipeEnd>().map(|end| end.pipe())
    }
}

fn buffer(len: usize) -> Result<Vec<u8>> {
    let mut buf = Vec::new();
    buf.try_reserve_exact(len.min(CHUNK)).map_err(|_| Errno::ENOMEM)?;
    buf.resize(len.min(CHUNK), 0);
    Ok(buf)
}

/// Puts up to `count` bytes of `from` into `to` by reference if that is a pipe; gives how many.
fn share(from: &mut End<'_>, to: &End<'_>, count: usize) -> Result<usize> {
    let Some(sink) = to.pipe() else { return Ok(0) };
    let mut total = 0;
    while total < count {
        let result = sink
            .wait_for_room(Blocking::from_flags(to.file.flags()))
            .and_then(|room| from.share(sink, room.min(count - total)));
        match result {
            Ok(0) => break,
            Ok(done) => total += done,
            Err(_) if total > 0 => break,
            Err(errno) => return Err(errno),
        }
        if is_dying() {
            break;
        }
    }
    Ok(total)
}

/// Whether the thread is to end: a source without end, such as /dev/urandom, would keep it for many seconds.
fn is_dying() -> bool {
    sched::current().is_interrupted(Interruptible::Killable)
}

/// Copies up to `count` bytes from `from`, which has positions, to `to`.
fn copy(from: &mut End<'_>, to: &mut End<'_>, count: usize, fsize: u64) -> Result<usize> {
    let mut total = share(from, to, count)?;
    let mut buf = Vec::new();
    while total < count {
        // Pages with nothing behind them are worth a try each time: a file may be in memory in parts.
        match from.copy_pages(to, count - total, fsize) {
            Ok(0) => {}
            Ok(done) => {
                total += done;
                if is_dying() {
                    break;
                }
                continue;
            }
            Err(_) if total > 0 => break,
            Err(errno) => return Err(errno),
        }
        if buf.is_empty() {
            buf = buffer(count - total)?;
        }
        let want = buf.len().min(count - total);
        let got = match from.read(&mut buf[..want]) {
            Ok(0) => break,
            Ok(got) => got,
            Err(_) if total > 0 => break,
            Err(errno) => return Err(errno),
        };
        let result = to.write(&mut Src::kernel(&buf[..got]), fsize);
        let done = *result.as_ref().unwrap_or(&0);
        if done < got {
            from.unread(got - done);
        }
        total += done;
        match result {
            Ok(done) if done < got => break,
            Err(errno) if total == 0 => return Err(errno),
            Err(_) => break,
            Ok(_) if is_dying() => break,
            Ok(_) => {}
        }
    }
    Ok(total)
}

/// sendfile(2). `EINVAL`: `from` cannot be read at positions, or `to` is opened with `O_APPEND`.
pub fn sendfile(to: &Arc<File>, from: &mut End<'_>, count: usize, fsize: u64) -> Result<usize> {
    from.file.require(FileMode::READ)?;
    to.require(FileMode::WRITE)?;
    if from.file.inode().is_dir() {
        return Err(Errno::EINVAL);
    }
    if from.offset.is_some() && !from.file.mode().contains(FileMode::SEEK) {
        return Err(Errno::ESPIPE);
    }
    if from.offset.as_ref().is_some_and(|offset| **offset < 0) || to.flags().contains(OpenFlags::APPEND) {
        return Err(Errno::EINVAL);
    }
    if !from.file.mode().contains(FileMode::SEEK) {
        return Err(Errno::EINVAL);
    }
    copy(from, &mut End { file: to, offset: None }, count.min(rw::MAX_COUNT), fsize)
}

/// ioctl_ficlone(2): no file system here shares blocks between files.
///
/// `EXDEV`: two file systems. `EISDIR`, `EINVAL`: not regular files. `EBADF`: not open for that. `EOPNOTSUPP`.
pub fn clone_file(from: &File, to: &File) -> Result<()> {
    let (a, b) = (from.inode(), to.inode());
    if !Arc::ptr_eq(a.sb(), b.sb()) {
        return Err(Errno::EXDEV);
    }
    if a.is_dir() || b.is_dir() {
        return Err(Errno::EISDIR);
    }
    if !a.is_regular() || !b.is_regular() {
        return Err(Errno::EINVAL);
    }
    from.require(FileMode::READ)?;
    to.require(FileMode::WRITE)?;
    if to.flags().contains(OpenFlags::APPEND) { Err(Errno::EBADF) } else { Err(Errno::EOPNOTSUPP) }
}

/// copy_file_range(2).
///
/// `EINVAL`: not regular files, or overlapping ranges of one. `EISDIR`. `EBADF`: `O_APPEND`. `EXDEV`: different types
/// of file system.
pub fn copy_file_range(
    from: &mut End<'_>,
    to: &mut End<'_>,
    count: usize,
    flags: u32,
    fsize: u64,
) -> Result<usize> {
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    from.file.require(FileMode::READ)?;
    to.file.require(FileMode::WRITE)?;
    if to.file.flags().contains(OpenFlags::APPEND) {
        return Err(Errno::EBADF);
    }
    let (a, b) = (from.file.inode(), to.file.inode());
    if a.is_dir() || b.is_dir() {
        return Err(Errno::EISDIR);
    }
    if !a.is_regular() || !b.is_regular() {
        return Err(Errno::EINVAL);
    }
    if a.sb().fs_type().name() != b.sb().fs_type().name() {
        return Err(Errno::EXDEV);
    }
    let start = |end: &End<'_>| end.offset.as_ref().map_or(end.file.pos() as i64, |offset| **offset);
    let (x, y) = (start(from), start(to));
    if x < 0 || y < 0 {
        return Err(Errno::EINVAL);
    }
    let count = count.min(rw::MAX_COUNT);
    let len = count as i64;
    let (x_end, y_end) =
        (x.checked_add(len).ok_or(Errno::EOVERFLOW)?, y.checked_add(len).ok_or(Errno::EOVERFLOW)?);
    if Arc::ptr_eq(a, b) && x < y_end && y < x_end {
        return Err(Errno::EINVAL);
    }
    copy(from, to, count, fsize)
}

const SPLICE_F_MOVE: u32 = 1;
const SPLICE_F_NONBLOCK: u32 = 2;
const SPLICE_F_ALL: u32 = SPLICE_F_MOVE | SPLICE_F_NONBLOCK | 4 | 8;

fn blocking(file: &File, flags: u32) -> Blocking {
    if flags & SPLICE_F_NONBLOCK != 0 { Blocking::No } else { Blocking::from_flags(file.flags()) }
}

/// splice(2). `EINVAL`: neither end is a pipe, or both are the same. `ESPIPE`: an offset for a pipe.
pub fn splice(from: &mut End<'_>, to: &mut End<'_>, count: usize, flags: u32, fsize: u64) -> Result<usize> {
    if flags & !SPLICE_F_ALL != 0 {
        return Err(Errno::EINVAL);
    }
    if count == 0 {
        return Ok(0);
    }
    from.file.require(FileMode::READ)?;
    to.file.require(FileMode::WRITE)?;
    let (source, sink) = (from.pipe().cloned(), to.pipe().cloned());
    if (source.is_some() && from.offset.is_some()) || (sink.is_some() && to.offset.is_some()) {
        return Err(Errno::ESPIPE);
    }
    match (source, sink) {
        (Some(a), Some(b)) if Arc::ptr_eq(&a, &b) => Err(Errno::EINVAL),
        (Some(source), _) => {
            if to.file.flags().contains(OpenFlags::APPEND) && to.file.inode().is_regular() {
                return Err(Errno::EINVAL);
            }
            if !source.wait_for_bytes(blocking(from.file, flags))? {
                return Ok(0);
            }
            let mut buf = buffer(count)?;
            let got = source.peek(&mut buf);
            let done = to.write(&mut Src::kernel(&buf[..got]), fsize)?;
            source.discard(done);
            Ok(done)
        }
        (None, Some(sink)) => {
            let room = sink.wait_for_room(blocking(to.file, flags))?;
            let shared = from.share(&sink, count.min(room))?;
            if shared > 0 {
                return Ok(shared);
            }
            let mut buf = buffer(count.min(room))?;
            let got = from.read(&mut buf)?;
            let done = to.write(&mut Src::kernel(&buf[..got]), fsize)?;
            if done < got && from.file.mode().contains(FileMode::SEEK) {
                from.unread(got - done);
            }
            Ok(done)
        }
        (None, None) => Err(Errno::EINVAL),
    }
}

/// tee(2): copies what is in a pipe to another without taking it. `EINVAL`: not two pipes.
pub fn tee(from: &Arc<File>, to: &Arc<File>, count: usize, flags: u32) -> Result<usize> {
    if flags & !SPLICE_F_ALL != 0 {
        return Err(Errno::EINVAL);
    }
    if count == 0 {
        return Ok(0);
    }
    from.require(FileMode::READ)?;
    to.require(FileMode::WRITE)?;
    let source = from.ops_as::<PipeEnd>().ok_or(Errno::EINVAL)?.pipe();
    let sink = to.ops_as::<PipeEnd>().ok_or(Errno::EINVAL)?.pipe();
    if Arc::ptr_eq(source, sink) {
        return Err(Errno::EINVAL);
    }
    if !source.wait_for_bytes(blocking(from, flags))? {
        return Ok(0);
    }
    let room = sink.wait_for_room(blocking(to, flags))?;
    let mut buf = buffer(count.min(room))?;
    let got = source.peek(&mut buf);
    sink.write(&mut Src::kernel(&buf[..got]), blocking(to, flags), false)
}
