//! System V semaphores, messages and shared memory, and POSIX message queues (sysvipc(7), mq_overview(7)).

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::fs::OpenFlags;
use abi::time::Timespec;
use abi::{Errno, Result};
use hal::time::{now_ns, wall_base_ns};
use hal::{UserAddr, user};
use ipc::PermDs;
use ipc::mq::{self, How, MqFile, MqQueue, Size};
use ipc::msg::{self, Message};
use ipc::sem::{self, Named, Query, SemOp, Usage};
use ipc::shm;
use vfs::{FdFlags, File, FileMode};

use crate::Cx;
use crate::caller;

/// Commands that all kinds share (`linux/ipc.h`).
mod cmd {
    pub const RMID: i32 = 0;
    pub const SET: i32 = 1;
    pub const STAT: i32 = 2;
    pub const INFO: i32 = 3;
    pub const GETPID: i32 = 11;
    pub const GETVAL: i32 = 12;
    pub const GETALL: i32 = 13;
    pub const GETNCNT: i32 = 14;
    pub const GETZCNT: i32 = 15;
    pub const SETVAL: i32 = 16;
    pub const SETALL: i32 = 17;
    pub const SEM_STAT: i32 = 18;
    pub const SEM_INFO: i32 = 19;
    pub const SEM_STAT_ANY: i32 = 20;
    pub const MSG_STAT: i32 = 11;
    pub const MSG_INFO: i32 = 12;
    pub const MSG_STAT_ANY: i32 = 13;
    pub const SHM_LOCK: i32 = 11;
    pub const SHM_UNLOCK: i32 = 12;
    pub const SHM_STAT: i32 = 13;
    pub const SHM_INFO: i32 = 14;
    pub const SHM_STAT_ANY: i32 = 15;
    /// `IPC_64`: the structures are the new ones, as they always are on x86-64.
    pub const IPC_64: i32 = 0x100;
}

/// The words of a `*_ds` structure, which begins with `struct ipc64_perm`.
fn put_ds<const N: usize>(out: UserAddr, perm: &PermDs, rest: &[u64; N]) -> Result<()> {
    user::write(out, perm)?;
    user::write(UserAddr(out.0.wrapping_add(size_of::<PermDs>() as u64)), rest)?;
    Ok(())
}

/// Reads the owner and mode of a `*_ds` structure.
fn read_perm(from: UserAddr) -> Result<PermDs> {
    Ok(user::read(from)?)
}

/// Two 32-bit numbers as the word that holds them.
fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

/// What a `*_STAT` command returns: the identifier for those that were given an index.
fn stat_result(named: Named, id: i32) -> usize {
    if matches!(named, Named::Id(_)) { 0 } else { id as usize }
}

/// semget(2).
pub(crate) fn sys_semget(_cx: &mut Cx<'_>, key: i32, count: i32, flags: i32) -> Result<usize> {
    sem::semget(key, count, flags).map(|id| id as usize)
}

/// semop(2).
pub(crate) fn sys_semop(cx: &mut Cx<'_>, id: i32, ops: UserAddr, count: u32) -> Result<usize> {
    sys_semtimedop(cx, id, ops, count, UserAddr(0))
}

/// semtimedop(2).
pub(crate) fn sys_semtimedop(
    _cx: &mut Cx<'_>,
    id: i32,
    ops: UserAddr,
    count: u32,
    timeout: UserAddr,
) -> Result<usize> {
    let deadline = if timeout.0 == 0 {
        None
    } else {
        Some(now_ns().saturating_add(user::read::<Timespec>(timeout)?.to_ns()?))
    };
    if count == 0 || id < 0 {
        return Err(Errno::EINVAL);
    }
    if count as usize > sem::max_ops()? {
        return Err(Errno::E2BIG);
    }
    let mut list = Vec::new();
    list.try_reserve_exact(count as usize).map_err(|_| Errno::ENOMEM)?;
    for index in 0..u64::from(count) {
        let words: [u16; 3] = user::read(UserAddr(ops.0.wrapping_add(6 * index)))?;
        list.push(SemOp::from_words(words));
    }
    sem::semop(id, list, deadline).map(|()| 0)
}

/// semctl(2).
pub(crate) fn sys_semctl(_cx: &mut Cx<'_>, id: i32, num: i32, command: i32, arg: u64) -> Result<usize> {
    let out = UserAddr(arg);
    if id < 0 {
        return Err(Errno::EINVAL);
    }
    match command & !cmd::IPC_64 {
        cmd::INFO | cmd::SEM_INFO => {
            let usage = if command == cmd::INFO { Usage::Limits } else { Usage::Now };
            let (numbers, highest) = sem::info(usage)?;
            user::write(out, &numbers)?;
            Ok(highest as usize)
        }
        cmd::STAT => sem_stat(Named::Id(id), out),
        cmd::SEM_STAT => sem_stat(Named::Index(id), out),
        cmd::SEM_STAT_ANY => sem_stat(Named::AnyIndex(id), out),
        cmd::GETVAL => sem::query(id, num, Query::Value),
        cmd::GETPID => sem::query(id, num, Query::Pid),
        cmd::GETNCNT => sem::query(id, num, Query::WaitingToGrow),
        cmd::GETZCNT => sem::query(id, num, Query::WaitingForZero),
        cmd::GETALL => {
            user::write(out, &sem::values(id)?[..])?;
            Ok(0)
        }
        cmd::SETVAL => sem::set_value(id, num, arg as i32).map(|()| 0),
        cmd::SETALL => {
            let values: Vec<u16> = user::read_vec(out, sem::len_for_change(id)?).map_err(vec_error)?;
            sem::set_values(id, &values).map(|()| 0)
        }
        cmd::SET => sem::set_perm(id, &read_perm(out)?).map(|()| 0),
        cmd::RMID => sem::remove(id).map(|()| 0),
        _ => Err(Errno::EINVAL),
    }
}

fn vec_error(error: hal::CStrError) -> Errno {
    match error {
        hal::CStrError::NoMemory => Errno::ENOMEM,
        _ => Errno::EFAULT,
    }
}

fn sem_stat(named: Named, out: UserAddr) -> Result<usize> {
    let info = sem::stat(named)?;
    put_ds(out, &info.perm, &[info.otime as u64, 0, info.ctime as u64, 0, info.count as u64, 0, 0])?;
    Ok(stat_result(named, info.id))
}

/// msgget(2).
pub(crate) fn sys_msgget(_cx: &mut Cx<'_>, key: i32, flags: i32) -> Result<usize> {
    msg::msgget(key, flags).map(|id| id as usize)
}

/// msgsnd(2).
pub(crate) fn sys_msgsnd(_cx: &mut Cx<'_>, id: i32, from: UserAddr, len: usize, flags: i32) -> Result<usize> {
    let kind: i64 = user::read(from)?;
    if len > msg::max_text()? || id < 0 || kind < 1 {
        return Err(Errno::EINVAL);
    }
    let text = user::read_vec(UserAddr(from.0.wrapping_add(8)), len).map_err(vec_error)?;
    msg::msgsnd(id, Message { kind, text }, flags).map(|()| 0)
}

/// msgrcv(2).
pub(crate) fn sys_msgrcv(
    _cx: &mut Cx<'_>,
    id: i32,
    to: UserAddr,
    max: usize,
    kind: i64,
    flags: i32,
) -> Result<usize> {
    if id < 0 || max > isize::MAX as usize {
        return Err(Errno::EINVAL);
    }
    let message = msg::msgrcv(id, kind, max, flags)?;
    user::write(to, &message.kind)?;
    user::write(UserAddr(to.0.wrapping_add(8)), &message.text[..])?;
    Ok(message.text.len())
}

/// msgctl(2).
pub(crate) fn sys_msgctl(_cx: &mut Cx<'_>, id: i32, command: i32, out: UserAddr) -> Result<usize> {
    /// Where `msg_qbytes` is in `struct msqid64_ds`.
    const QBYTES: u64 = 88;
    if id < 0 {
        return Err(Errno::EINVAL);
    }
    match command & !cmd::IPC_64 {
        cmd::INFO | cmd::MSG_INFO => {
            let usage = if command == cmd::INFO { Usage::Limits } else { Usage::Now };
            let (numbers, highest) = msg::info(usage)?;
            let [pool, map, max, per_queue, queues, size, total] = numbers;
            user::write(out, &[pool, map, max, per_queue, queues, size, total, 0xffff])?;
            Ok(highest as usize)
        }
        cmd::STAT => msg_stat(Named::Id(id), out),
        cmd::MSG_STAT => msg_stat(Named::Index(id), out),
        cmd::MSG_STAT_ANY => msg_stat(Named::AnyIndex(id), out),
        cmd::SET => {
            let max_bytes: u64 = user::read(UserAddr(out.0.wrapping_add(QBYTES)))?;
            msg::set_perm(id, &read_perm(out)?, max_bytes).map(|()| 0)
        }
        cmd::RMID => msg::remove(id).map(|()| 0),
        _ => Err(Errno::EINVAL),
    }
}

fn msg_stat(named: Named, out: UserAddr) -> Result<usize> {
    let info = msg::stat(named)?;
    let [sent, received, changed] = info.times.map(|time| time as u64);
    let [bytes, messages, max] = info.counts;
    let pids = pair(info.pids[0], info.pids[1]);
    put_ds(out, &info.perm, &[sent, received, changed, bytes, messages, max, pids, 0, 0])?;
    Ok(stat_result(named, info.id))
}

/// shmget(2).
pub(crate) fn sys_shmget(_cx: &mut Cx<'_>, key: i32, size: u64, flags: i32) -> Result<usize> {
    shm::shmget(key, size, flags).map(|id| id as usize)
}

/// shmat(2).
pub(crate) fn sys_shmat(_cx: &mut Cx<'_>, id: i32, addr: u64, flags: i32) -> Result<usize> {
    if id < 0 {
        return Err(Errno::EINVAL);
    }
    shm::shmat(id, addr, flags).map(|addr| addr as usize)
}

/// shmdt(2).
pub(crate) fn sys_shmdt(_cx: &mut Cx<'_>, addr: u64) -> Result<usize> {
    shm::shmdt(addr).map(|()| 0)
}

/// shmctl(2).
pub(crate) fn sys_shmctl(_cx: &mut Cx<'_>, id: i32, command: i32, out: UserAddr) -> Result<usize> {
    if id < 0 {
        return Err(Errno::EINVAL);
    }
    match command & !cmd::IPC_64 {
        cmd::INFO => {
            let ([max, min, segments, per_process, all], highest) = shm::limits()?;
            user::write(out, &[max, min, segments, per_process, all, 0, 0, 0, 0])?;
            Ok(highest as usize)
        }
        cmd::SHM_INFO => {
            let ([used, pages, resident, swapped], highest) = shm::usage()?;
            user::write(out, &[used & 0xffff_ffff, pages, resident, swapped, 0, 0])?;
            Ok(highest as usize)
        }
        cmd::STAT => shm_stat(Named::Id(id), out),
        cmd::SHM_STAT => shm_stat(Named::Index(id), out),
        cmd::SHM_STAT_ANY => shm_stat(Named::AnyIndex(id), out),
        cmd::SET => shm::set_perm(id, &read_perm(out)?).map(|()| 0),
        cmd::RMID => shm::remove(id).map(|()| 0),
        cmd::SHM_LOCK => shm::lock(id, shm::Lock::On).map(|()| 0),
        cmd::SHM_UNLOCK => shm::lock(id, shm::Lock::Off).map(|()| 0),
        _ => Err(Errno::EINVAL),
    }
}

fn shm_stat(named: Named, out: UserAddr) -> Result<usize> {
    let info = shm::stat(named)?;
    let [attached, detached, changed] = info.times.map(|time| time as u64);
    let pids = pair(info.pids[0], info.pids[1]);
    put_ds(out, &info.perm, &[info.size, attached, detached, changed, pids, info.attached, 0, 0])?;
    Ok(stat_result(named, info.id))
}

/// `struct mq_attr`: flags, most messages, most bytes, messages now; four reserved words.
type MqAttr = [i64; 8];

/// mq_open(2).
pub(crate) fn sys_mq_open(
    _cx: &mut Cx<'_>,
    name: UserAddr,
    flags: u32,
    mode: u32,
    attr: UserAddr,
) -> Result<usize> {
    let flags = OpenFlags::from_bits_truncate(flags);
    let size = if attr.0 == 0 {
        None
    } else {
        let [_, messages, bytes, ..]: MqAttr = user::read(attr)?;
        // A negative number is no size: 0 says so.
        let number = |value: i64| u64::try_from(value).unwrap_or(0);
        Some(Size { max_messages: number(messages), max_bytes: number(bytes) })
    };
    let name = caller::path(name)?;
    let file = ipc::mqfs::open(&name, flags, mode, size)?;
    caller::install(&*caller::files()?, file, FdFlags::CLOEXEC)
}

/// mq_unlink(2).
pub(crate) fn sys_mq_unlink(_cx: &mut Cx<'_>, name: UserAddr) -> Result<usize> {
    ipc::mqfs::unlink(&caller::path(name)?).map(|()| 0)
}

/// The queue behind descriptor `fd`, with the file. `EBADF`: not open so, or no queue.
fn queue(fd: i32, needed: FileMode) -> Result<(Arc<File>, Arc<MqQueue>)> {
    let file = caller::file(fd)?;
    let queue = file.ops_as::<MqFile>().ok_or(Errno::EBADF)?.queue().clone();
    file.require(needed)?;
    Ok((file, queue))
}

/// When `timeout`, a time of the wall clock, comes on the monotonic clock.
fn wall_deadline(timeout: UserAddr) -> Result<Option<u64>> {
    if timeout.0 == 0 {
        return Ok(None);
    }
    let ns = user::read::<Timespec>(timeout)?.to_ns()?;
    Ok(Some(ns.saturating_sub(u64::try_from(wall_base_ns()).unwrap_or(0))))
}

/// mq_timedsend(2).
pub(crate) fn sys_mq_timedsend(
    _cx: &mut Cx<'_>,
    fd: i32,
    text: UserAddr,
    len: usize,
    priority: u32,
    timeout: UserAddr,
) -> Result<usize> {
    if priority >= mq::PRIORITY_MAX {
        return Err(Errno::EINVAL);
    }
    let deadline = wall_deadline(timeout)?;
    let (file, queue) = queue(fd, FileMode::WRITE)?;
    if len as u64 > queue.size().max_bytes {
        return Err(Errno::EMSGSIZE);
    }
    let text = user::read_vec(text, len).map_err(vec_error)?;
    queue.send(&file, text, priority, deadline).map(|()| 0)
}

/// mq_timedreceive(2).
pub(crate) fn sys_mq_timedreceive(
    _cx: &mut Cx<'_>,
    fd: i32,
    out: UserAddr,
    len: usize,
    priority: UserAddr,
    timeout: UserAddr,
) -> Result<usize> {
    let deadline = wall_deadline(timeout)?;
    let (file, queue) = queue(fd, FileMode::READ)?;
    if (len as u64) < queue.size().max_bytes {
        return Err(Errno::EMSGSIZE);
    }
    let (text, sent_priority) = queue.receive(&file, deadline)?;
    if priority.0 != 0 {
        user::write(priority, &sent_priority)?;
    }
    user::write(out, &text[..])?;
    Ok(text.len())
}

/// mq_notify(2). `EINVAL`: no way to be told. `EBADF`: not a queue. For `SIGEV_THREAD`, where the number of the signal is a
/// descriptor and the value the address of a cookie, also `EFAULT`, `EBADF` and what [`mq::Cookie::new`] gives.
pub(crate) fn sys_mq_notify(_cx: &mut Cx<'_>, fd: i32, event: UserAddr) -> Result<usize> {
    const SIGNAL: i32 = 0;
    const NONE: i32 = 1;
    const THREAD: i32 = 2;
    let how = if event.0 == 0 {
        None
    } else {
        let value: u64 = user::read(event)?;
        let [signo, kind]: [i32; 2] = user::read(UserAddr(event.0.wrapping_add(8)))?;
        Some(match kind {
            NONE => How::Silent,
            SIGNAL => How::Signal(u32::try_from(signo).map_err(|_| Errno::EINVAL)?, value),
            THREAD => {
                let bytes: [u8; mq::COOKIE_LEN] = user::read(UserAddr(value))?;
                How::Thread(mq::Cookie::new(bytes, &*crate::caller::file(signo)?)?)
            }
            _ => return Err(Errno::EINVAL),
        })
    };
    let (_, queue) = queue(fd, FileMode::empty())?;
    queue.notify(how).map(|()| 0)
}

/// mq_getsetattr(2). `EINVAL`: flags other than `O_NONBLOCK`.
pub(crate) fn sys_mq_getsetattr(_cx: &mut Cx<'_>, fd: i32, new: UserAddr, old: UserAddr) -> Result<usize> {
    let nonblock = i64::from(OpenFlags::NONBLOCK.bits());
    let wanted = if new.0 == 0 {
        None
    } else {
        let [flags, ..]: MqAttr = user::read(new)?;
        if flags & !nonblock != 0 {
            return Err(Errno::EINVAL);
        }
        Some(flags)
    };
    let (file, queue) = queue(fd, FileMode::empty())?;
    let size = queue.size();
    let flags = if file.is_nonblocking() { nonblock } else { 0 };
    let before: MqAttr =
        [flags, size.max_messages as i64, size.max_bytes as i64, queue.len() as i64, 0, 0, 0, 0];
    if let Some(flags) = wanted {
        let kept = vfs::fcntl::status_flags(&file) & !OpenFlags::NONBLOCK;
        let set = OpenFlags::from_bits_truncate(flags as u32);
        file.set_flags(kept | set, &process::current().cred())?;
    }
    if old.0 != 0 {
        user::write(old, &before)?;
    }
    Ok(0)
}
