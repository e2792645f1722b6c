//! Memory: mmap(2) and its family.

use alloc::vec::Vec;

use abi::mman::{MapFlags, MlockallFlags, MremapFlags, MsyncFlags, Prot};
use abi::raw::general::MADV_HWPOISON;
use abi::signal::SigInfo;
use abi::{Errno, Result};
use alloc::sync::Arc;
use hal::uio::UserBuf;
use hal::{PAGE_SIZE, UserAddr, pkey, user};
use mm::hugetlb::HugeObject;
use mm::{Backing, MapRequest, Mm, OnFault, RemapRequest, VmFlags};
use security::ObserveIdentity;
use vfs::{FdFlags, FileMode, InodeFlags};

use crate::Cx;
use crate::caller::{self, file};

pub(crate) fn own_mm() -> Result<Arc<Mm>> {
    process::current().mm().ok_or(Errno::ENOMEM)
}

const MAY_ALL: VmFlags = VmFlags::MAYREAD.union(VmFlags::MAYWRITE).union(VmFlags::MAYEXEC);

/// The flags that `MAP_SHARED_VALIDATE` accepts (Linux: `LEGACY_MAP_MASK` and `MAP_SYNC`, which needs DAX).
const VALIDATED: MapFlags = MapFlags::TYPE
    .union(MapFlags::FIXED)
    .union(MapFlags::ANONYMOUS)
    .union(MapFlags::DENYWRITE)
    .union(MapFlags::EXECUTABLE)
    .union(MapFlags::UNINITIALIZED)
    .union(MapFlags::GROWSDOWN)
    .union(MapFlags::LOCKED)
    .union(MapFlags::NORESERVE)
    .union(MapFlags::POPULATE)
    .union(MapFlags::NONBLOCK)
    .union(MapFlags::STACK)
    .union(MapFlags::HUGETLB)
    .union(MapFlags::MAP_32BIT)
    .union(MapFlags::FIXED_NOREPLACE);

/// mmap(2).
pub(crate) fn sys_mmap(
    _cx: &mut Cx<'_>,
    addr: u64,
    len: u64,
    prot: u32,
    raw_flags: u32,
    fd: i32,
    offset: u64,
) -> Result<usize> {
    if !offset.is_multiple_of(PAGE_SIZE as u64) {
        return Err(Errno::EINVAL);
    }
    let flags = MapFlags::from_bits_retain(raw_flags);
    let mut request = MapRequest {
        addr,
        len,
        prot: Prot::from_bits_truncate(prot),
        flags,
        backing: Backing::Anonymous,
        offset,
        may: MAY_ALL,
        extra: VmFlags::empty(),
        shown_as: None,
    };
    if flags.contains(MapFlags::ANONYMOUS) {
        if flags & MapFlags::TYPE == MapFlags::SHARED_VALIDATE {
            return Err(Errno::EINVAL);
        }
        request.offset = 0;
        if flags.contains(MapFlags::HUGETLB) {
            map_huge(&mut request)?;
        }
    } else {
        map_file(&mut request, fd)?;
    }
    own_mm()?.map(request).map(|addr| addr as usize)
}

/// Makes what a mapping of anonymous huge pages shows. `EINVAL`: pages of a size that there is not, or no length.
/// `ENOMEM`: too long.
fn map_huge(request: &mut MapRequest) -> Result<()> {
    if !hugetlbfs::has_size(request.flags.bits()) || request.len == 0 {
        return Err(Errno::EINVAL);
    }
    let len = mm::hugetlb::align_up(request.len).filter(|len| *len <= i64::MAX as u64);
    request.backing = Backing::file(Arc::new(HugeObject::new(len.ok_or(Errno::ENOMEM)?)));
    Ok(())
}

/// pkey_mprotect(2): as mprotect(2), and the pages get key `key`; -1 for none.
pub(crate) fn sys_pkey_mprotect(_cx: &mut Cx<'_>, addr: u64, len: u64, prot: u32, key: i32) -> Result<usize> {
    let prot = Prot::from_bits(prot).ok_or(Errno::EINVAL)?;
    own_mm()?.protect(addr, len, prot, (key != -1).then_some(key)).map(|()| 0)
}

/// pkey_alloc(2). `EINVAL`: flags, or rights that there are not.
pub(crate) fn sys_pkey_alloc(_cx: &mut Cx<'_>, flags: u64, rights: u64) -> Result<usize> {
    if flags != 0 || rights & !u64::from(pkey::NO_ACCESS | pkey::NO_WRITE) != 0 {
        return Err(Errno::EINVAL);
    }
    own_mm()?.alloc_key(rights as u32).map(usize::from)
}

/// pkey_free(2).
pub(crate) fn sys_pkey_free(_cx: &mut Cx<'_>, key: i32) -> Result<usize> {
    own_mm()?.free_key(key).map(|()| 0)
}

/// Fills in what a mapping of descriptor `fd` needs. `EBADF`, `EACCES`, `EPERM`, `ENODEV`, `EOPNOTSUPP`.
fn map_file(request: &mut MapRequest, fd: i32) -> Result<()> {
    let file = file(fd)?;
    let mode = file.mode();
    let is_noexec = file.path().mount.flags().contains(vfs::MountFlags::NOEXEC);
    match request.flags & MapFlags::TYPE {
        kind if kind == MapFlags::SHARED || kind == MapFlags::SHARED_VALIDATE => {
            if kind == MapFlags::SHARED_VALIDATE && !VALIDATED.contains(request.flags) {
                return Err(Errno::EOPNOTSUPP);
            }
            if request.prot.contains(Prot::WRITE) && !mode.contains(FileMode::WRITE) {
                return Err(Errno::EACCES);
            }
            if request.prot.contains(Prot::WRITE) && file.inode().flags().contains(InodeFlags::SWAPFILE) {
                return Err(Errno::ETXTBSY);
            }
            if !mode.contains(FileMode::WRITE) {
                request.may -= VmFlags::MAYWRITE;
            }
        }
        kind if kind == MapFlags::PRIVATE => {}
        _ => return Err(Errno::EINVAL),
    }
    if !mode.contains(FileMode::READ) {
        return Err(Errno::EACCES);
    }
    if is_noexec {
        if request.prot.contains(Prot::EXEC) {
            return Err(Errno::EPERM);
        }
        request.may -= VmFlags::MAYEXEC;
    }
    request.backing = file.ops().mmap_at(&file, request.offset, request.len)?;
    if matches!(request.backing, Backing::Anonymous) && request.flags & MapFlags::TYPE == MapFlags::PRIVATE {
        request.shown_as = Some(mm::ShownFile(file.clone()));
    }
    if let Some(object) = request.backing.object() {
        request.extra |= object.extra_flags();
        if request.flags & MapFlags::TYPE != MapFlags::PRIVATE && !object.may_share_writable() {
            if request.prot.contains(Prot::WRITE) {
                return Err(Errno::EPERM);
            }
            request.may -= VmFlags::MAYWRITE;
        }
    }
    let is_huge = file.mapping().is_some_and(|mapping| mapping.is_huge());
    if request.flags.contains(MapFlags::HUGETLB) && !is_huge {
        return Err(Errno::EINVAL);
    }
    if request.backing.object().is_some_and(|object| object.is_secret()) {
        if request.flags & MapFlags::TYPE == MapFlags::PRIVATE {
            return Err(Errno::EINVAL);
        }
        if request.prot.contains(Prot::EXEC) {
            return Err(Errno::EPERM);
        }
        request.may -= VmFlags::MAYEXEC;
        request.extra |= VmFlags::DONTDUMP;
    }
    Ok(())
}

/// munmap(2).
pub(crate) fn sys_munmap(_cx: &mut Cx<'_>, addr: u64, len: u64) -> Result<usize> {
    own_mm()?.unmap(addr, len).map(|()| 0)
}

/// mprotect(2).
pub(crate) fn sys_mprotect(_cx: &mut Cx<'_>, addr: u64, len: u64, prot: u32) -> Result<usize> {
    let prot = Prot::from_bits(prot).ok_or(Errno::EINVAL)?;
    own_mm()?.protect(addr, len, prot, None).map(|()| 0)
}

/// mremap(2).
pub(crate) fn sys_mremap(
    _cx: &mut Cx<'_>,
    addr: u64,
    old_len: u64,
    new_len: u64,
    flags: u32,
    new_addr: u64,
) -> Result<usize> {
    let flags = MremapFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
    own_mm()?.remap(RemapRequest { addr, old_len, new_len, flags, new_addr }).map(|addr| addr as usize)
}

/// brk(2): never fails, but returns the old end when it cannot move.
pub(crate) fn sys_brk(_cx: &mut Cx<'_>, brk: u64) -> Result<usize> {
    Ok(own_mm()?.brk(brk) as usize)
}

/// madvise(2).
pub(crate) fn sys_madvise(_cx: &mut Cx<'_>, addr: u64, len: u64, advice: u32) -> Result<usize> {
    let mm = own_mm()?;
    if advice != MADV_HWPOISON {
        return mm.advise(addr, len, advice).map(|()| 0);
    }
    if let Some(lost) = mm.fail_pages(addr, len)? {
        // As if the caller had looked there.
        process::signal::force(SigInfo::poison(lost));
    }
    Ok(0)
}

/// msync(2).
pub(crate) fn sys_msync(_cx: &mut Cx<'_>, addr: u64, len: u64, flags: u32) -> Result<usize> {
    let flags = MsyncFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
    own_mm()?.sync(addr, len, flags).map(|()| 0)
}

/// mlock(2).
pub(crate) fn sys_mlock(_cx: &mut Cx<'_>, addr: u64, len: u64) -> Result<usize> {
    crate::task::pass_on_limits(&process::current());
    own_mm()?.lock(addr, len, OnFault::No).map(|()| 0)
}

/// mlock2(2).
pub(crate) fn sys_mlock2(_cx: &mut Cx<'_>, addr: u64, len: u64, flags: u32) -> Result<usize> {
    let on_fault = match flags {
        0 => OnFault::No,
        1 => OnFault::Yes,
        _ => return Err(Errno::EINVAL),
    };
    crate::task::pass_on_limits(&process::current());
    own_mm()?.lock(addr, len, on_fault).map(|()| 0)
}

/// munlock(2).
pub(crate) fn sys_munlock(_cx: &mut Cx<'_>, addr: u64, len: u64) -> Result<usize> {
    own_mm()?.unlock(addr, len).map(|()| 0)
}

/// mlockall(2).
pub(crate) fn sys_mlockall(_cx: &mut Cx<'_>, flags: u32) -> Result<usize> {
    let flags = MlockallFlags::from_bits(flags).filter(|f| !f.is_empty()).ok_or(Errno::EINVAL)?;
    crate::task::pass_on_limits(&process::current());
    own_mm()?.lock_all(flags).map(|()| 0)
}

/// munlockall(2).
pub(crate) fn sys_munlockall(_cx: &mut Cx<'_>) -> Result<usize> {
    own_mm()?.unlock_all().map(|()| 0)
}

/// mincore(2): works in pieces, so that no lock is held while the answer is written.
pub(crate) fn sys_mincore(_cx: &mut Cx<'_>, addr: u64, len: u64, vec: UserAddr) -> Result<usize> {
    const PIECE: u64 = 256;
    let mm = own_mm()?;
    if !addr.is_multiple_of(PAGE_SIZE as u64) {
        return Err(Errno::EINVAL);
    }
    let nr_pages = len.checked_add(PAGE_SIZE as u64 - 1).ok_or(Errno::ENOMEM)? / PAGE_SIZE as u64;
    let mut done = 0;
    while done < nr_pages {
        let now = PIECE.min(nr_pages - done);
        let mut answer = Vec::with_capacity(PIECE as usize);
        let at = addr.checked_add(done * PAGE_SIZE as u64).ok_or(Errno::ENOMEM)?;
        mm.mincore(at, now * PAGE_SIZE as u64, |present| answer.push(u8::from(present)))?;
        user::write_bytes(UserAddr(vec.0.wrapping_add(done)), &answer)?;
        done += now;
    }
    Ok(0)
}

/// memfd_create(2).
pub(crate) fn sys_memfd_create(_cx: &mut Cx<'_>, name: UserAddr, flags: u32) -> Result<usize> {
    /// Longest name with its NUL (`NAME_MAX` less "memfd:").
    const NAME_SIZE: usize = 250;
    /// `MFD_CLOEXEC`.
    const CLOEXEC: u32 = 1;
    let task = process::current();
    let flags = tmpfs::memfd_flags(flags, task.group().pid_ns().memfd_noexec())?;
    let name = caller::string(name, NAME_SIZE, Errno::EINVAL)?;
    let file = if flags & hugetlbfs::MFD_HUGETLB != 0 {
        hugetlbfs::create_memfd(&name, flags, &task.cred())?
    } else {
        tmpfs::create_memfd(&name, flags, &task.cred())?
    };
    let fd_flags = if flags & CLOEXEC != 0 { FdFlags::CLOEXEC } else { FdFlags::empty() };
    caller::install(&*caller::files()?, file, fd_flags)
}

/// Which way process_vm_* copies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Read,
    Write,
}

/// process_vm_readv(2).
pub(crate) fn sys_process_vm_readv(
    _cx: &mut Cx<'_>,
    pid: i32,
    local: UserAddr,
    nr_local: usize,
    remote: UserAddr,
    nr_remote: usize,
    flags: u64,
) -> Result<usize> {
    copy_remote(pid, (local, nr_local), (remote, nr_remote), flags, Way::Read)
}

/// process_vm_writev(2).
pub(crate) fn sys_process_vm_writev(
    _cx: &mut Cx<'_>,
    pid: i32,
    local: UserAddr,
    nr_local: usize,
    remote: UserAddr,
    nr_remote: usize,
    flags: u64,
) -> Result<usize> {
    copy_remote(pid, (local, nr_local), (remote, nr_remote), flags, Way::Write)
}

/// Copies between the caller and process `pid`. `ESRCH`, `EPERM`, `EINVAL`, `EFAULT`.
fn copy_remote(
    pid: i32,
    local: (UserAddr, usize),
    remote: (UserAddr, usize),
    flags: u64,
    way: Way,
) -> Result<usize> {
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let local = caller::iovec(local.0, local.1)?;
    let remote = caller::iovec(remote.0, remote.1)?;
    let task = u32::try_from(pid).ok().and_then(process::pid::find_task).ok_or(Errno::ESRCH)?;
    if !process::prctl::may_observe(&task, ObserveIdentity::Real) {
        return Err(Errno::EPERM);
    }
    let mm = task.mm().ok_or(Errno::ESRCH)?;
    let mut spans = LocalSpans { bufs: &local, used: 0 };
    let mut total = 0;
    for place in &remote {
        let mut at = 0;
        while at < place.len {
            let mut buf = [0; 512];
            let Some((addr, room)) = spans.current() else { return Ok(total) };
            let now = room.min(buf.len()).min(place.len - at);
            let there = place.addr.0.wrapping_add(at as u64);
            let done = match way {
                Way::Read => {
                    let got = mm.read_remote(there, &mut buf[..now], mm::Rights::Obey);
                    user::write_bytes(addr, &buf[..got])?;
                    got
                }
                Way::Write => {
                    user::read_bytes(addr, &mut buf[..now])?;
                    mm.write_remote(there, &buf[..now], mm::Rights::Obey)
                }
            };
            spans.advance(done);
            total += done;
            at += done;
            if done < now {
                return if total > 0 { Ok(total) } else { Err(Errno::EFAULT) };
            }
        }
    }
    Ok(total)
}

/// A place in the caller's vector.
struct LocalSpans<'a> {
    bufs: &'a [UserBuf],
    used: usize,
}

impl LocalSpans<'_> {
    fn current(&mut self) -> Option<(UserAddr, usize)> {
        while let Some(first) = self.bufs.first() {
            if self.used < first.len {
                return Some((UserAddr(first.addr.0.wrapping_add(self.used as u64)), first.len - self.used));
            }
            self.bufs = &self.bufs[1..];
            self.used = 0;
        }
        None
    }

    fn advance(&mut self, count: usize) {
        self.used += count;
    }
}
