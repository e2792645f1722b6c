//! memfd_create(2) and file seals (fcntl(2) "File sealing").

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering::*};

use abi::fs::{OpenFlags, S_IFREG};
use abi::{Errno, Result};
use hal::sync::LazyLock;
use hal::uio::Src;
use mm::{Backing, FileId, Mappable, Mapping};
use security::Cred;
use vfs::dentry::Dentry;
use vfs::{File, FileMode, FileOps, NewInode, anon};

use crate::inode;
use crate::superblock::{Account, Instance, Tmpfs, new_instance};

/// Seals of a file, as bits.
#[derive(Clone, Copy)]
pub struct Seals(u32);

impl Seals {
    /// `F_SEAL_SEAL`: no more seals.
    pub(crate) const SEAL: Self = Self(1);
    const SHRINK: u32 = 2;
    const GROW: u32 = 4;
    const WRITE: u32 = 8;
    const FUTURE_WRITE: u32 = 16;
    const EXEC: u32 = 32;
    const ALL: u32 = 63;

    pub(crate) fn bits(self) -> u32 {
        self.0
    }

    /// Checks a change of size.
    pub(crate) fn check_resize(seals: u32, old: u64, new: u64) -> Result<()> {
        let is_sealed = (new < old && seals & Self::SHRINK != 0) || (new > old && seals & Self::GROW != 0);
        if is_sealed { Err(Errno::EPERM) } else { Ok(()) }
    }

    /// Checks a change of mode: `F_SEAL_EXEC` fixes the execute bits.
    pub(crate) fn check_mode(seals: u32, old: u32, new: u32) -> Result<()> {
        if seals & Self::EXEC != 0 && (old ^ new) & 0o111 != 0 { Err(Errno::EPERM) } else { Ok(()) }
    }

    /// `EPERM`: the contents of `file`, one of an instance of this crate, are sealed.
    pub fn check_contents(file: &File) -> Result<()> {
        let (seals, _) = inode::sealed(file.inode()).ok_or(Errno::EINVAL)?;
        Self::check_punch(seals.load(Relaxed))
    }

    /// `EPERM`: such a `file` may not grow to `size` bytes.
    pub fn check_growth(file: &File, size: u64) -> Result<()> {
        let (seals, mapping) = inode::sealed(file.inode()).ok_or(Errno::EINVAL)?;
        Self::check_resize(seals.load(Relaxed), mapping.size(), size.max(mapping.size()))
    }

    /// The seals of such a `file`, after those in `add` were added. As fcntl(2) `F_ADD_SEALS` and `F_GET_SEALS`.
    pub fn get_or_add(file: &File, add: Option<u32>) -> Result<u32> {
        let (seals, mapping) = inode::sealed(file.inode()).ok_or(Errno::EINVAL)?;
        match add {
            None => Ok(seals.load(Relaxed)),
            Some(add) => Self::add(file, seals, mapping, add),
        }
    }

    pub(crate) fn check_punch(seals: u32) -> Result<()> {
        if seals & (Self::WRITE | Self::FUTURE_WRITE) != 0 { Err(Errno::EPERM) } else { Ok(()) }
    }

    /// Checks a write at `pos`; a sealed end cuts it.
    pub(crate) fn check_write(seals: u32, size: u64, pos: u64, src: &mut Src<'_>) -> Result<()> {
        if seals & !Self::SEAL.0 == 0 {
            return Ok(());
        }
        Self::check_punch(seals)?;
        if seals & Self::GROW != 0 && pos.saturating_add(src.remaining() as u64) > size {
            if pos >= size {
                return Err(Errno::EPERM);
            }
            src.truncate(usize::try_from(size - pos).unwrap_or(usize::MAX));
        }
        Ok(())
    }

    /// `F_ADD_SEALS`; gives the new set.
    ///
    /// `EPERM`: not open for writing, or sealed against seals. `EBUSY`: writable mappings. `EINVAL`.
    pub(crate) fn add(file: &File, seals: &AtomicU32, mapping: &Mapping, add: u32) -> Result<u32> {
        if !file.mode().contains(FileMode::WRITE) {
            return Err(Errno::EPERM);
        }
        if add & !Self::ALL != 0 {
            return Err(Errno::EINVAL);
        }
        let _exclusive = file.inode().sem.write();
        let old = seals.load(Relaxed);
        if old & Self::SEAL.0 != 0 {
            return Err(Errno::EPERM);
        }
        let mut new = old | add;
        if new & Self::WRITE != 0 && old & Self::WRITE == 0 {
            mapping.deny_writable()?;
        }
        // A file that cannot become executable any more must not be so (memfd_create(2)).
        if add & Self::EXEC != 0 && file.inode().mode() & 0o111 != 0 {
            new |= Self::SHRINK | Self::GROW | Self::WRITE | Self::FUTURE_WRITE;
        }
        if new & Self::FUTURE_WRITE != 0 {
            mapping.deny_new_writable();
        }
        seals.store(new, Relaxed);
        Ok(new)
    }
}

static HOME: LazyLock<Result<Arc<Dentry>>> = LazyLock::new(|| new_instance(Instance::Memfd));

const MFD_CLOEXEC: u32 = 1;
const MFD_ALLOW_SEALING: u32 = 2;
const MFD_NOEXEC_SEAL: u32 = 8;
const MFD_EXEC: u32 = 16;

/// The longest name.
const NAME_MAX: usize = 249;

/// The flags of memfd_create(2) with what `noexec`, the value of /proc/sys/vm/memfd_noexec, adds to them.
///
/// `EACCES`: a file that could be executed is wanted, and must not be.
pub fn memfd_flags(flags: u32, noexec: u32) -> Result<u32> {
    let said = flags & (MFD_EXEC | MFD_NOEXEC_SEAL);
    let flags = if said == 0 && noexec > 0 { flags | MFD_NOEXEC_SEAL } else { flags };
    if noexec > 1 && flags & MFD_NOEXEC_SEAL == 0 { Err(Errno::EACCES) } else { Ok(flags) }
}

/// memfd_create(2); the caller handles `MFD_CLOEXEC`, and `MFD_HUGETLB` with other files ([`memfd_on`]).
///
/// `EINVAL`: unknown or contradicting flags, or a name of more than 249 bytes.
pub fn create_memfd(name: &[u8], flags: u32, cred: &Arc<Cred>) -> Result<Arc<File>> {
    let home = HOME.as_ref().map_err(|errno| *errno)?;
    let account = &home.sb().ops_as::<Tmpfs>().ok_or(Errno::ENODEV)?.account;
    memfd_on(home, account, name, flags, cred)
}

/// As [`create_memfd`], with a file of the instance whose root is `home`.
pub fn memfd_on(
    home: &Arc<Dentry>,
    account: &Arc<Account>,
    name: &[u8],
    flags: u32,
    cred: &Arc<Cred>,
) -> Result<Arc<File>> {
    let known = MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL | MFD_EXEC;
    let both = MFD_EXEC | MFD_NOEXEC_SEAL;
    if flags & !known != 0 || flags & both == both || name.len() > NAME_MAX {
        return Err(Errno::EINVAL);
    }
    let sb = home.sb();
    let is_noexec = flags & MFD_NOEXEC_SEAL != 0;
    let mode = S_IFREG | if is_noexec { 0o666 } else { 0o777 };
    let what = NewInode { mode, uid: cred.fsuid, gid: cred.fsgid, rdev: 0, target: &[] };
    let inode = inode::new(sb, account, &what)?;
    inode.set_nlink(0);
    let (seals, _) = inode::sealed(&inode).ok_or(Errno::EINVAL)?;
    if is_noexec {
        seals.store(Seals::EXEC, Relaxed);
    } else if flags & MFD_ALLOW_SEALING != 0 {
        seals.store(0, Relaxed);
    }
    let mut shown = Vec::from(&b"/memfd:"[..]);
    shown.extend_from_slice(name);
    shown.extend_from_slice(b" (deleted)");
    anon::file_on(&inode, &shown, account.files.operations(), OpenFlags::RDWR, cred)
}

/// memfd_secret(2): a file that can only be mapped, and whose pages no one but its mappers reads.
///
/// LINUX: there its pages leave the kernel's own map of memory; here frames are reached by copying functions
/// only, and those that serve others refuse them.
pub fn create_secret(cred: &Arc<Cred>) -> Result<Arc<File>> {
    let home = HOME.as_ref().map_err(|errno| *errno)?;
    let sb = home.sb();
    let account = &sb.ops_as::<Tmpfs>().ok_or(Errno::ENODEV)?.account;
    let what = NewInode { mode: S_IFREG | 0o600, uid: cred.fsuid, gid: cred.fsgid, rdev: 0, target: &[] };
    let inode = inode::new(sb, account, &what)?;
    inode.set_nlink(0);
    // Whoever reads the device would read what is in it.
    inode.mapping().ok_or(Errno::ENODEV)?.set_locked(true);
    anon::file_on(&inode, b"/secretmem (deleted)", SECRET.clone(), OpenFlags::RDWR, cred)
}

static SECRET: LazyLock<Arc<dyn FileOps>> = LazyLock::new(|| Arc::new(Secret));

/// The operations of such a file: reads, writes and all others are refused.
struct Secret;

impl FileOps for Secret {
    fn mmap(&self, file: &Arc<File>) -> Result<Backing> {
        Ok(Backing::file(Arc::new(SecretMap(file.clone()))))
    }
}

/// What is mapped: the file, marked.
struct SecretMap(Arc<File>);

impl Mappable for SecretMap {
    fn mapping(&self) -> Option<&Arc<Mapping>> {
        self.0.inode().mapping()
    }

    fn name(&self) -> Vec<u8> {
        Mappable::name(&*self.0)
    }

    fn id(&self) -> FileId {
        Mappable::id(&*self.0)
    }

    fn is_secret(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_about_execution_the_tunable_decides() {
        assert_eq!(memfd_flags(MFD_CLOEXEC, 0), Ok(MFD_CLOEXEC));
        assert_eq!(memfd_flags(MFD_CLOEXEC, 1), Ok(MFD_CLOEXEC | MFD_NOEXEC_SEAL));
        assert_eq!(memfd_flags(MFD_EXEC, 1), Ok(MFD_EXEC));
        assert_eq!(memfd_flags(MFD_EXEC, 2), Err(Errno::EACCES));
        assert_eq!(memfd_flags(0, 2), Ok(MFD_NOEXEC_SEAL));
    }
}
