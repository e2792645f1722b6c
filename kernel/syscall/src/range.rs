//! Advice, seals and questions about ranges: process_madvise(2), mseal(2), cachestat(2) and others; membarrier(2).

use abi::mman::MapFlags;
use abi::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use hal::thread::Work;
use hal::{PAGE_SHIFT, UserAddr, user};
use mm::Prefs;
use process::{ExitState, ThreadGroup};
use security::{Cap, ObserveIdentity};
use vfs::FileMode;

use crate::Cx;
use crate::caller::{self, file};
use crate::mem::own_mm;

/// The process behind descriptor `fd`. `EBADF`: no pidfd.
fn process_of(fd: i32) -> Result<Arc<ThreadGroup>> {
    let file = file(fd)?;
    events::pidfd::group_of(&file).cloned().ok_or(Errno::EBADF)
}

/// process_madvise(2).
pub(crate) fn sys_process_madvise(
    _cx: &mut Cx<'_>,
    fd: i32,
    vec: UserAddr,
    count: usize,
    advice: u32,
    flags: u32,
) -> Result<usize> {
    /// `PIDFD_SELF_THREAD`, `PIDFD_SELF_THREAD_GROUP`.
    const SELF: [i32; 2] = [-10000, -10001];
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let ranges = caller::iovec(vec, count)?;
    let own = own_mm()?;
    let mm = if SELF.contains(&fd) {
        own.clone()
    } else {
        let task = process_of(fd)?.live_task().ok_or(Errno::ESRCH)?;
        if !process::prctl::may_observe(&task, ObserveIdentity::File) {
            return Err(Errno::EPERM);
        }
        task.mm().ok_or(Errno::ESRCH)?
    };
    mm::advise::check(advice)?;
    if !Arc::ptr_eq(&mm, &own) {
        if !mm::advise::is_harmless(advice) {
            return Err(Errno::EINVAL);
        }
        if !process::current().cred().capable(Cap::SYS_NICE) {
            return Err(Errno::EPERM);
        }
    }
    let mut done = 0;
    for range in ranges {
        match mm.advise(range.addr.0, range.len as u64, advice) {
            Ok(()) => done += range.len,
            Err(errno) if done == 0 => return Err(errno),
            Err(_) => break,
        }
    }
    Ok(done)
}

/// process_mrelease(2).
pub(crate) fn sys_process_mrelease(_cx: &mut Cx<'_>, fd: i32, flags: u32) -> Result<usize> {
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let group = process_of(fd)?;
    let mm = group.live_task().and_then(|task| task.mm()).ok_or(Errno::ESRCH)?;
    if group.exit_state() == ExitState::Alive && !group.is_being_killed() {
        return Err(Errno::EINVAL);
    }
    mm.reap();
    Ok(0)
}

/// mseal(2).
pub(crate) fn sys_mseal(_cx: &mut Cx<'_>, addr: u64, len: u64, flags: u64) -> Result<usize> {
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    own_mm()?.seal(addr, len).map(|()| 0)
}

/// remap_file_pages(2).
pub(crate) fn sys_remap_file_pages(
    _cx: &mut Cx<'_>,
    addr: u64,
    size: u64,
    prot: u64,
    offset: u64,
    flags: u32,
) -> Result<usize> {
    if prot != 0 {
        return Err(Errno::EINVAL);
    }
    own_mm()?.remap_file_pages(addr, size, offset, MapFlags::from_bits_truncate(flags)).map(|()| 0)
}

/// cachestat(2).
pub(crate) fn sys_cachestat(
    _cx: &mut Cx<'_>,
    fd: i32,
    range: UserAddr,
    out: UserAddr,
    flags: u32,
) -> Result<usize> {
    let file = file(fd)?;
    let [offset, len]: [u64; 2] = user::read(range)?;
    let cred = process::current().cred();
    let ids = file.path().mount.id_view().ids(file.inode());
    let may_look = file.mode().contains(FileMode::WRITE)
        || security::owner_or_capable(&cred, ids.uid)
        || security::inode_permission(&cred, &ids, security::Access::WRITE).is_ok();
    if !may_look {
        return Err(Errno::EPERM);
    }
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let first = offset >> PAGE_SHIFT;
    let end = match len {
        0 => u64::MAX,
        len => (offset.saturating_add(len - 1) >> PAGE_SHIFT).saturating_add(1),
    };
    let stat = file.mapping().map(|m| m.count_pages(first..end)).unwrap_or_default();
    user::write(out, &[stat.cached, stat.dirty, stat.writeback, stat.evicted, 0])?;
    Ok(0)
}

/// membarrier(2).
///
/// `EINVAL`: unknown command or flags. `EPERM`: an expedited command without registration.
pub(crate) fn sys_membarrier(_cx: &mut Cx<'_>, command: i32, flags: u32, _cpu: i32) -> Result<usize> {
    const QUERY: i32 = 0;
    const GLOBAL: i32 = 1;
    const GLOBAL_EXPEDITED: i32 = 2;
    const REGISTER_GLOBAL_EXPEDITED: i32 = 4;
    const PRIVATE_EXPEDITED: i32 = 8;
    const PRIVATE_EXPEDITED_SYNC_CORE: i32 = 32;
    const PRIVATE_EXPEDITED_RSEQ: i32 = 128;
    const GET_REGISTRATIONS: i32 = 512;
    /// The private commands; the command that registers for one is twice its number.
    const PRIVATE: i32 = PRIVATE_EXPEDITED | PRIVATE_EXPEDITED_SYNC_CORE | PRIVATE_EXPEDITED_RSEQ;
    const ALL: i32 =
        GLOBAL | GLOBAL_EXPEDITED | REGISTER_GLOBAL_EXPEDITED | PRIVATE | PRIVATE << 1 | GET_REGISTRATIONS;
    /// `MEMBARRIER_CMD_FLAG_CPU`: only the CPU that is named; here all are, which does no harm.
    const FLAG_CPU: u32 = 1;
    if flags != 0 && (command != PRIVATE_EXPEDITED_RSEQ || flags != FLAG_CPU) {
        return Err(Errno::EINVAL);
    }
    let registrations = || own_mm().map(|mm| mm.membarrier().load(core::sync::atomic::Ordering::SeqCst));
    match command {
        QUERY => return Ok(ALL as usize),
        GET_REGISTRATIONS => return registrations().map(|bits| bits as usize),
        REGISTER_GLOBAL_EXPEDITED => register_barrier(command)?,
        command if command & (PRIVATE << 1) == command && command.count_ones() == 1 => {
            register_barrier(command)?;
        }
        GLOBAL | GLOBAL_EXPEDITED => hal::ipi::call(hal::cpu::CpuMask::ALL, |_| (), 0),
        command if command & PRIVATE == command && command.count_ones() == 1 => {
            if registrations()? & (command as u32) << 1 == 0 {
                return Err(Errno::EPERM);
            }
            // An interrupt on each CPU orders what its thread did before with what it does after, and its
            // return serialises the instruction stream.
            let restart: fn(u64) = if command == PRIVATE_EXPEDITED_RSEQ { leave_sequence } else { |_| () };
            hal::ipi::call(hal::cpu::CpuMask::ALL, restart, 0);
        }
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

fn register_barrier(command: i32) -> Result<()> {
    own_mm()?.membarrier().fetch_or(command as u32, core::sync::atomic::Ordering::SeqCst);
    Ok(())
}

/// Has the thread on this CPU look at its restartable sequence before it goes on in user mode.
fn leave_sequence(_: u64) {
    if let Some(task) = process::try_current() {
        task.hal().set_work(Work::NOTIFY);
    }
}

/// The options of prctl(2) about memory. `EINVAL`: unknown.
pub(crate) fn prctl(option: u32, args: [u64; 4]) -> Result<usize> {
    const SET_THP_DISABLE: u32 = 41;
    const GET_THP_DISABLE: u32 = 42;
    const SET_MDWE: u32 = 65;
    const GET_MDWE: u32 = 66;
    const SET_MEMORY_MERGE: u32 = 67;
    const GET_MEMORY_MERGE: u32 = 68;
    const SET_VMA: u32 = 0x5356_4d41;
    /// `PR_THP_DISABLE_EXCEPT_ADVISED`.
    const EXCEPT_ADVISED: u64 = 2;
    let mm = own_mm()?;
    let both = Prefs::NO_EXEC_GAIN | Prefs::NOT_INHERITED;
    let thp = Prefs::NO_HUGE_PAGES | Prefs::ADVISED_HUGE_PAGES;
    match (option, args) {
        (SET_THP_DISABLE, [disable, flags @ (0 | EXCEPT_ADVISED), 0, 0]) if disable != 0 || flags == 0 => {
            let mut prefs = mm.prefs() - thp;
            prefs.set(Prefs::NO_HUGE_PAGES, disable != 0);
            prefs.set(Prefs::ADVISED_HUGE_PAGES, flags != 0);
            mm.set_prefs(prefs);
            Ok(0)
        }
        (GET_THP_DISABLE, [0, 0, 0, 0]) => {
            let prefs = mm.prefs();
            let advised = if prefs.contains(Prefs::ADVISED_HUGE_PAGES) { EXCEPT_ADVISED as usize } else { 0 };
            Ok(usize::from(prefs.contains(Prefs::NO_HUGE_PAGES)) | advised)
        }
        (SET_MDWE, [bits, 0, 0, 0]) => {
            let wanted = u32::try_from(bits).ok().and_then(Prefs::from_bits).filter(|p| both.contains(*p));
            let wanted = wanted.filter(|p| *p != Prefs::NOT_INHERITED).ok_or(Errno::EINVAL)?;
            let now = mm.prefs() & both;
            if !now.is_empty() && now != wanted {
                return Err(Errno::EPERM);
            }
            mm.set_prefs(mm.prefs() | wanted);
            Ok(0)
        }
        (SET_MEMORY_MERGE, [0, 0, 0, 0]) => mm.merge_none().map(|()| 0),
        (SET_MEMORY_MERGE, [_, 0, 0, 0]) => mm.merge_all().map(|()| 0),
        (GET_MEMORY_MERGE, [0, 0, 0, 0]) => Ok(usize::from(mm.merges_all())),
        (GET_MDWE, [0, 0, 0, 0]) => Ok((mm.prefs() & both).bits() as usize),
        (SET_VMA, [0, addr, len, name]) => mm.set_name(addr, len, vma_name(UserAddr(name))?).map(|()| 0),
        _ => Err(Errno::EINVAL),
    }
}

/// Reads the name of a mapping; `None` for a null pointer. `EINVAL`: too long, or bytes that would confuse readers.
fn vma_name(addr: UserAddr) -> Result<Option<Vec<u8>>> {
    /// `ANON_VMA_NAME_MAX_LEN`.
    const MAX: usize = 80;
    if addr.0 == 0 {
        return Ok(None);
    }
    let name = caller::string(addr, MAX, Errno::EINVAL)?;
    let is_good = |byte: &u8| (b' '..=b'~').contains(byte) && !b"\\`$[]".contains(byte);
    if name.iter().all(is_good) { Ok(Some(name)) } else { Err(Errno::EINVAL) }
}

/// memfd_secret(2).
pub(crate) fn sys_memfd_secret(_cx: &mut Cx<'_>, flags: u32) -> Result<usize> {
    let cloexec = abi::fs::OpenFlags::CLOEXEC;
    if flags & !cloexec.bits() != 0 {
        return Err(Errno::EINVAL);
    }
    let caller = caller::Caller::new()?;
    let file = tmpfs::create_secret(&caller.cred)?;
    let fd_flags = if flags != 0 { vfs::FdFlags::CLOEXEC } else { vfs::FdFlags::empty() };
    caller.install(file, fd_flags)
}
