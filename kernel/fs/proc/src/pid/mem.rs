//! /proc/PID/mem: memory by address (proc_pid_mem(5)).

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use abi::{Errno, Result};
use hal::uio::{Dest, Src};
use mm::{Mm, Rights};
use vfs::{File, FileOps, Whence};

use super::Subject;

/// Bytes moved at a time.
const CHUNK: usize = hal::PAGE_SIZE;

/// The address space of the time of opening; not kept alive by the open file.
pub(super) fn observed_mm(subject: &Subject) -> Result<Weak<Mm>> {
    subject.check_observer()?;
    Ok(subject.task.mm().map_or_else(Weak::new, |mm| Arc::downgrade(&mm)))
}

pub(super) fn chunk() -> Result<Vec<u8>> {
    let mut buf = Vec::new();
    buf.try_reserve_exact(CHUNK).map_err(|_| Errno::ENOMEM)?;
    buf.resize(CHUNK, 0);
    Ok(buf)
}

/// Opens /proc/PID/mem.
pub(super) fn open(subject: &Subject) -> Result<Arc<dyn FileOps>> {
    Ok(Arc::new(Memory(observed_mm(subject)?)))
}

struct Memory(Weak<Mm>);

/// What a transfer answers: the part that was done, else the error.
pub(super) fn partial(done: usize, errno: Errno) -> Result<usize> {
    if done > 0 { Ok(done) } else { Err(errno) }
}

impl FileOps for Memory {
    fn read(&self, _file: &File, dst: &mut Dest<'_>, pos: u64) -> Result<usize> {
        let Some(mm) = self.0.upgrade() else { return Ok(0) };
        let mut buf = chunk()?;
        let mut done = 0;
        while dst.remaining() > 0 {
            let addr = pos.wrapping_add(done as u64);
            let want = dst.remaining().min(CHUNK);
            let Some(part) = buf.get_mut(..want) else { break };
            let got = mm.read_remote(addr, part, Rights::Force);
            if got == 0 {
                return partial(done, Errno::EIO);
            }
            match dst.put_bytes(&buf[..got]) {
                Ok(put) => done += put,
                Err(fault) => return partial(done, fault.into()),
            }
            if got < want {
                break;
            }
        }
        Ok(done)
    }

    fn write(&self, _file: &File, src: &mut Src<'_>, pos: u64) -> Result<usize> {
        let Some(mm) = self.0.upgrade() else { return Ok(0) };
        let mut buf = chunk()?;
        let mut done = 0;
        while src.remaining() > 0 {
            let got = match src.take_bytes(&mut buf) {
                Ok(got) => got,
                Err(fault) => return partial(done, fault.into()),
            };
            let put = mm.write_remote(pos.wrapping_add(done as u64), &buf[..got], Rights::Force);
            if put == 0 {
                return partial(done, Errno::EIO);
            }
            done += put;
            if put < got {
                break;
            }
        }
        Ok(done)
    }

    fn seek(&self, file: &File, offset: i64, whence: Whence) -> Result<u64> {
        vfs::rw::seek_unsized(file, offset, whence)
    }
}
