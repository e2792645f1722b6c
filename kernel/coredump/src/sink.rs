//! Where the bytes go: a file, with holes, or somebody who reads them, like a program at its standard input.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::fs::{OpenFlags, S_IFMT, S_IFREG};
use abi::{Errno, Result};
use hal::PAGE_SIZE;
use hal::uio::Src;
use limits::Resource;
use process::coredump::CoreDump;
use security::Cred;
use vfs::open::{How, open as open_file};
use vfs::{At, File, WalkContext};

use crate::pattern::{self, Facts, Place};

/// Bytes that a pipe's program may not limit.
const NO_LIMIT: u64 = u64::MAX;

/// An open place for a dump.
pub(crate) struct Sink {
    file: Arc<File>,
    /// Bytes written or skipped.
    at: u64,
    /// `RLIMIT_CORE`; a dump ends there.
    limit: u64,
    /// Holes are left out, not written.
    has_holes: bool,
    /// Bytes skipped at the end so far.
    pending_hole: u64,
}

impl Sink {
    /// A sink that is read to its end by somebody else, without a limit.
    pub(crate) fn stream(file: Arc<File>) -> Self {
        Self { file, at: 0, limit: NO_LIMIT, has_holes: false, pending_hole: 0 }
    }

    /// Writes `bytes`. `EFBIG`: the limit is reached. Errors of write(2).
    pub(crate) fn put(&mut self, bytes: &[u8]) -> Result<()> {
        if self.at.checked_add(bytes.len() as u64).is_none_or(|end| end > self.limit) {
            return Err(Errno::EFBIG);
        }
        let mut src = Src::kernel(bytes);
        while src.remaining() > 0 {
            let done = if self.has_holes {
                let pos = i64::try_from(self.at).map_err(|_| Errno::EFBIG)?;
                vfs::rw::pwrite(&self.file, &mut src, pos, NO_LIMIT)?
            } else {
                vfs::rw::write(&self.file, &mut src, NO_LIMIT)?
            };
            if done == 0 {
                return Err(Errno::EIO);
            }
            self.at += done as u64;
        }
        self.pending_hole = 0;
        Ok(())
    }

    /// Leaves out `len` bytes of zeros.
    pub(crate) fn skip(&mut self, len: u64) -> Result<()> {
        if self.has_holes {
            self.at = self.at.checked_add(len).filter(|&at| at <= self.limit).ok_or(Errno::EFBIG)?;
            self.pending_hole = len;
            return Ok(());
        }
        static ZEROS: [u8; PAGE_SIZE] = [0; PAGE_SIZE];
        let mut left = len;
        while left > 0 {
            let part = left.min(ZEROS.len() as u64);
            self.put(&ZEROS[..part as usize])?;
            left -= part;
        }
        Ok(())
    }

    /// Gives the file its length when it ends in a hole.
    pub(crate) fn finish(&mut self) -> Result<()> {
        if self.pending_hole == 0 || self.at == 0 {
            return Ok(());
        }
        self.at -= 1;
        self.put(&[0])
    }
}

/// What is known about the process for its pattern.
fn facts(dump: &CoreDump<'_>) -> Facts {
    let group = dump.task.group();
    let (uid, gid) = dump.task.with_cred(|cred| (cred.uid, cred.gid));
    let comm = dump.task.comm();
    Facts {
        own_pid: group.own_pid(),
        pid: group.pid(),
        own_tid: dump.task.own_tid(),
        tid: dump.task.tid(),
        uid,
        gid,
        dumpable: group.dumpable(),
        signal: dump.info.signo,
        seconds: hal::time::wall_base_ns().saturating_add_unsigned(hal::time::now_ns()) / 1_000_000_000,
        limit: group.rlimits().cur(Resource::Core),
        cpu: hal::cpu::raw_current_id().0,
        host: dump.task.uts().name(ns::uts::Name::Host).into_iter().take_while(|&byte| byte != 0).collect(),
        comm: comm.iter().copied().take_while(|&byte| byte != 0).collect(),
        program: group.exe().map_or_else(Vec::new, |exe| exe.path().display(None)),
    }
}

/// What kernel.core_pattern names for `dump`. `ENOENT`: nothing.
pub(crate) fn place(dump: &CoreDump<'_>) -> Result<Place> {
    pattern::expand(&crate::core_pattern(), &facts(dump), crate::uses_pid()).ok_or(Errno::ENOENT)
}

/// Opens the file `name`.
pub(crate) fn open(dump: &CoreDump<'_>, name: &[u8]) -> Result<Sink> {
    let file = open_core_file(dump, name)?;
    let limit = dump.task.group().rlimits().cur(Resource::Core);
    Ok(Sink { file, at: 0, limit, has_holes: true, pending_hole: 0 })
}

/// Starts the program of `args`, which reads what is written.
pub(crate) fn start(args: Vec<Vec<u8>>) -> Result<Sink> {
    let cred = Arc::new(Cred::root());
    let (read, write) = vfs::pipe::create(OpenFlags::empty(), &cred)?;
    process::helper::spawn(args, read)?;
    Ok(Sink::stream(write))
}

/// Makes the file, in place of one that has its name. It must be a plain one of the process's own that only it can read.
fn open_core_file(dump: &CoreDump<'_>, name: &[u8]) -> Result<Arc<File>> {
    let fs = dump.task.fs().ok_or(Errno::ENOENT)?;
    let files = dump.task.files().ok_or(Errno::ENOENT)?;
    let cred = dump.task.cred();
    let flags = OpenFlags::CREAT | OpenFlags::EXCL | OpenFlags::NOFOLLOW | OpenFlags::WRONLY;
    let context = WalkContext { fs: &fs, files: &files, cred: &cred };
    // What cannot be removed is in the way below.
    let _removed = vfs::namespace::unlinkat(&context, At::Cwd, name);
    let file = open_file(&context, At::Cwd, name, &How::new(flags.bits(), 0o600)?)?;
    let inode = file.inode();
    let is_plain = inode.mode() & S_IFMT == S_IFREG && inode.nlink() == 1;
    if !is_plain || file.path().mount.id_view().uid(inode) != cred.fsuid || inode.mode() & 0o77 != 0 {
        return Err(Errno::EPERM);
    }
    Ok(file)
}
