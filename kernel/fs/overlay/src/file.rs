//! Open regular files: they pass on to the layer's file.

use alloc::sync::Arc;

use abi::fs::OpenFlags;
use abi::{Errno, Result};
use hal::sync::Once;
use hal::uio::{Dest, Src};
use mm::Mapping;
use vfs::open::{self, How};
use vfs::{File, FileOps, Inode, Path, ShowPart, SyncMode, Whence, fcntl, rw};

use crate::inode::{OverlayInode, overlay, refresh};
use crate::layers::Overlay;

/// Flags of open(2) that the layer's file gets too. `O_APPEND` is resolved above.
const PASSED: OpenFlags = OpenFlags::DIRECT.union(OpenFlags::NOATIME).union(OpenFlags::LARGEFILE);

fn open_real(fs: &Overlay, path: &Path, flags: OpenFlags) -> Result<Arc<File>> {
    let access = OpenFlags::from_bits_retain(flags.bits() & 3);
    open::open_path(path, &How::new((access | flags & PASSED).bits(), 0)?, &fs.cred)
}

/// An open regular file.
pub(crate) struct Regular {
    opened: Arc<File>,
    /// The copy, if it was copied up after it was opened.
    newer: Once<Arc<File>>,
}

impl Regular {
    /// Opens what `this` shows.
    pub(crate) fn open(this: &OverlayInode, flags: OpenFlags) -> Result<Self> {
        Ok(Self { opened: open_real(&this.fs, this.data()?, flags)?, newer: Once::new() })
    }

    /// The layer's file.
    fn real(&self, file: &File) -> Result<&Arc<File>> {
        if let Some(newer) = self.newer.get() {
            return Ok(newer);
        }
        let this = overlay(file.inode())?;
        let path = this.data()?;
        match path.inode() {
            Some(inode) if !Arc::ptr_eq(inode, self.opened.inode()) => {
                let newer = open_real(&this.fs, path, file.flags())?;
                Ok(self.newer.call_once(|| newer))
            }
            _ => Ok(&self.opened),
        }
    }
}

/// After a change of the data of `real`, which `inode` shows.
fn resized(inode: &Inode, real: &File) {
    inode.set_size(real.inode().size());
}

impl FileOps for Regular {
    fn read(&self, file: &File, dst: &mut Dest<'_>, pos: u64) -> Result<usize> {
        let real = self.real(file)?;
        real.ops().read(real, dst, pos)
    }

    fn write(&self, file: &File, src: &mut Src<'_>, pos: u64) -> Result<usize> {
        let real = self.real(file)?;
        let _exclusive = real.inode().sem.write();
        let done = real.ops().write(real, src, pos)?;
        resized(file.inode(), real);
        Ok(done)
    }

    fn share(&self, file: &File, pos: u64, len: usize, each: &mut ShowPart<'_>) -> Result<usize> {
        let real = self.real(file)?;
        real.ops().share(real, pos, len, each)
    }

    fn ioctl(&self, file: &Arc<File>, cmd: u32, arg: usize) -> Result<usize> {
        let real = self.real(file)?;
        real.ops().ioctl(real, cmd, arg)
    }

    fn mapping(&self) -> Option<&Arc<Mapping>> {
        self.newer.get().unwrap_or(&self.opened).mapping()
    }

    fn seek(&self, file: &File, offset: i64, whence: Whence) -> Result<u64> {
        let real = self.real(file)?;
        match whence {
            Whence::Data | Whence::Hole => real.ops().seek(real, offset, whence),
            _ => {
                refresh(file.inode())?;
                rw::generic_seek(file, offset, whence)
            }
        }
    }

    fn fsync(&self, file: &File, mode: SyncMode) -> Result<()> {
        let this = overlay(file.inode())?;
        let Some(upper) = this.upper().filter(|_| !this.fs.options.volatile) else { return Ok(()) };
        if this.is_metacopy() {
            // What changed are the attributes, which are in the upper file; the data is that of a lower layer.
            let real = open_real(&this.fs, upper, OpenFlags::empty())?;
            return fcntl::fsync(&real, mode);
        }
        fcntl::fsync(self.real(file)?, mode)
    }

    fn fallocate(&self, file: &File, mode: u32, offset: u64, len: u64) -> Result<()> {
        let real = self.real(file)?;
        let _exclusive = real.inode().sem.write();
        real.ops().fallocate(real, mode, offset, len)?;
        resized(file.inode(), real);
        Ok(())
    }

    fn flush(&self, file: &File) -> Result<()> {
        let real = self.real(file)?;
        real.ops().flush(real)
    }

    fn check_flags(&self, file: &File, flags: OpenFlags) -> Result<()> {
        let real = self.real(file)?;
        real.ops().check_flags(real, flags)
    }

    fn seals(&self, _file: &File, _add: Option<u32>) -> Result<u32> {
        Err(Errno::EINVAL)
    }
}
