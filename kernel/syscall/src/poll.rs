//! Waiting for descriptors: poll(2), select(2), epoll(7) and their siblings.

use alloc::boxed::Box;

use abi::fs::OpenFlags;
use abi::poll::{EpollEvent, PollFd};
use abi::signal::SigSet;
use abi::time::{Timespec, Timeval};
use abi::{Errno, Result};
use events::epoll::{self, Ctl};
use events::poll;
use events::select::FdSet;
use hal::time::now_ns;
use hal::{UserAddr, user};
use limits::Resource;
use process::signal::{self, CallMask};
use smallvec::SmallVec;
use vfs::FdTable;
use zerocopy::IntoBytes;

use crate::Cx;
use crate::caller::{self, Caller, file, files, rlimit};

/// When a wait of `timeout_ns` from now ends.
fn deadline_in(timeout_ns: u64) -> u64 {
    // Past deadlines and those of no length are the same: no wait.
    if timeout_ns == 0 { 0 } else { now_ns().saturating_add(timeout_ns) }
}

/// The deadline of a timeout in milliseconds; a negative one never ends.
fn deadline_ms(timeout: i32) -> Option<u64> {
    u64::try_from(timeout).ok().map(|ms| deadline_in(ms * 1_000_000))
}

/// The deadline of a `timespec` argument; none without one. `EFAULT`, `EINVAL`.
fn deadline_at(timeout: UserAddr) -> Result<Option<u64>> {
    if timeout.0 == 0 {
        return Ok(None);
    }
    Ok(Some(deadline_in(user::read::<Timespec>(timeout)?.to_ns()?)))
}

/// Replaces the signal mask for this call if there is one at `mask`. `EINVAL`: not the size of a mask. `EFAULT`.
pub(crate) fn call_mask(mask: UserAddr, size: usize) -> Result<Option<CallMask>> {
    if mask.0 == 0 {
        return Ok(None);
    }
    if size != size_of::<SigSet>() {
        return Err(Errno::EINVAL);
    }
    Ok(Some(signal::set_mask_for_call(user::read(mask)?)))
}

/// Ends a call that ran with the mask of [`call_mask`].
pub(crate) fn finish<T>(mask: Option<CallMask>, result: Result<T>) -> Result<T> {
    match mask {
        Some(mask) => mask.finish(result),
        None => result,
    }
}

/// How the time left is written back.
#[derive(Clone, Copy)]
enum TimeFormat {
    Spec,
    Val,
}

/// Writes back what is left until `deadline`, as Linux does after select(2) and ppoll(2).
fn write_left(timeout: UserAddr, deadline: Option<u64>, format: TimeFormat) {
    let Some(deadline) = deadline else { return };
    let left = deadline.saturating_sub(now_ns());
    // A time that cannot be written is not worth losing the result.
    let _ = match format {
        TimeFormat::Spec => user::write(timeout, &Timespec::from_ns(left)),
        TimeFormat::Val => user::write(timeout, &Timeval::from_ns(left)),
    };
}

/// Reads the entries, polls them, writes the results. `EINVAL`: more entries than `RLIMIT_NOFILE`.
fn poll_user(fds: UserAddr, count: u32, deadline: Option<u64>) -> Result<usize> {
    if u64::from(count) > rlimit(Resource::Nofile) {
        return Err(Errno::EINVAL);
    }
    let (count, files) = (count as usize, files()?);
    let mut block = [PollFd::default(); poll::BLOCK];
    let (mut ready, mut done) = (0, 0);
    while done < count {
        let len = block.len().min(count - done);
        let Some(part) = block.get_mut(..len) else { break };
        let at = UserAddr(fds.0.wrapping_add((done * size_of::<PollFd>()) as u64));
        user::read_bytes(at, part.as_mut_bytes())?;
        ready += poll::ask(&files, part);
        write_revents(at, part)?;
        done += len;
    }
    if ready > 0 || poll::is_over(deadline) { Ok(ready) } else { poll_wait(&files, fds, count, deadline) }
}

/// Only the results: another thread may write the other fields meanwhile.
fn write_revents(fds: UserAddr, entries: &[PollFd]) -> Result<()> {
    Ok(user::write_u16_fields(fds, entries, core::mem::offset_of!(PollFd, revents))?)
}

/// As `poll_user`, when nothing is ready yet.
fn poll_wait(files: &FdTable, fds: UserAddr, count: usize, deadline: Option<u64>) -> Result<usize> {
    let mut entries: SmallVec<[PollFd; 16]> = SmallVec::new();
    entries.try_reserve(count).map_err(|_| Errno::ENOMEM)?;
    entries.resize(count, PollFd::default());
    user::read_bytes(fds, entries.as_mut_slice().as_mut_bytes())?;
    let ready = poll::wait(files, &mut entries, deadline)?;
    write_revents(fds, &entries)?;
    Ok(ready)
}

fn poll_until(fds: UserAddr, count: u32, deadline: Option<u64>) -> Result<usize> {
    match poll_user(fds, count, deadline) {
        // The rest of the time is what goes on after a stop.
        Err(Errno::ERESTARTNOHAND) => {
            Err(signal::restart_with(Box::new(move || poll_until(fds, count, deadline))))
        }
        result => result,
    }
}

/// poll(2).
pub(crate) fn sys_poll(_cx: &mut Cx<'_>, fds: UserAddr, count: u32, timeout: i32) -> Result<usize> {
    poll_until(fds, count, deadline_ms(timeout))
}

/// ppoll(2).
pub(crate) fn sys_ppoll(
    _cx: &mut Cx<'_>,
    fds: UserAddr,
    count: u32,
    timeout: UserAddr,
    mask: UserAddr,
    size: usize,
) -> Result<usize> {
    let deadline = deadline_at(timeout)?;
    let mask = call_mask(mask, size)?;
    let result = finish(mask, poll_user(fds, count, deadline));
    write_left(timeout, deadline, TimeFormat::Spec);
    result
}

/// Reads a set of `words` words, if there is one.
fn read_set(addr: UserAddr, words: usize) -> Result<Option<FdSet>> {
    if addr.0 == 0 {
        return Ok(None);
    }
    let mut set = FdSet::new();
    set.try_reserve(words).map_err(|_| Errno::ENOMEM)?;
    set.resize(words, 0);
    user::read_bytes(addr, set.as_mut_slice().as_mut_bytes())?;
    Ok(Some(set))
}

/// Reads the sets, selects, writes the results.
fn select_user(nfds: i32, addrs: [UserAddr; 3], deadline: Option<u64>) -> Result<usize> {
    let nfds = usize::try_from(nfds).map_err(|_| Errno::EINVAL)?;
    let files = files()?;
    let nfds = nfds.min(files.capacity());
    let words = nfds.div_ceil(64);
    let mut sets = [read_set(addrs[0], words)?, read_set(addrs[1], words)?, read_set(addrs[2], words)?];
    let count = events::select::select(&files, nfds, &mut sets, deadline)?;
    for (addr, set) in addrs.into_iter().zip(&sets) {
        if let Some(set) = set {
            user::write_bytes(addr, set.as_slice().as_bytes())?;
        }
    }
    Ok(count)
}

/// select(2).
pub(crate) fn sys_select(
    _cx: &mut Cx<'_>,
    nfds: i32,
    read: UserAddr,
    write: UserAddr,
    except: UserAddr,
    timeout: UserAddr,
) -> Result<usize> {
    let mut deadline = None;
    if timeout.0 != 0 {
        let Timeval { tv_sec, tv_usec } = user::read(timeout)?;
        // More than a second of microseconds is accepted here, unlike elsewhere.
        let tv_sec = tv_sec.checked_add(tv_usec / 1_000_000).ok_or(Errno::EINVAL)?;
        let rest = Timespec { tv_sec, tv_nsec: tv_usec % 1_000_000 * 1000 };
        deadline = Some(deadline_in(rest.to_ns()?));
    }
    let result = select_user(nfds, [read, write, except], deadline);
    write_left(timeout, deadline, TimeFormat::Val);
    result
}

/// pselect6(2): the sixth argument points to the address and size of the mask.
pub(crate) fn sys_pselect6(
    _cx: &mut Cx<'_>,
    nfds: i32,
    read: UserAddr,
    write: UserAddr,
    except: UserAddr,
    timeout: UserAddr,
    mask: UserAddr,
) -> Result<usize> {
    let [mask_addr, mask_size] = if mask.0 == 0 { [0; 2] } else { user::read::<[u64; 2]>(mask)? };
    let deadline = deadline_at(timeout)?;
    let mask = call_mask(UserAddr(mask_addr), mask_size as usize)?;
    let result = finish(mask, select_user(nfds, [read, write, except], deadline));
    write_left(timeout, deadline, TimeFormat::Spec);
    result
}

/// epoll_create1(2).
pub(crate) fn sys_epoll_create1(_cx: &mut Cx<'_>, flags: u32) -> Result<usize> {
    let flags = OpenFlags::from_bits(flags).filter(|flags| OpenFlags::CLOEXEC.contains(*flags));
    let flags = flags.ok_or(Errno::EINVAL)?;
    let caller = Caller::new()?;
    caller.install(epoll::create(&caller.cred)?, caller::cloexec(flags))
}

/// epoll_create(2): the size only has to be positive.
pub(crate) fn sys_epoll_create(cx: &mut Cx<'_>, size: i32) -> Result<usize> {
    if size <= 0 {
        return Err(Errno::EINVAL);
    }
    sys_epoll_create1(cx, 0)
}

/// epoll_ctl(2).
pub(crate) fn sys_epoll_ctl(_cx: &mut Cx<'_>, ep: i32, op: i32, fd: i32, event: UserAddr) -> Result<usize> {
    const ADD: i32 = 1;
    const DEL: i32 = 2;
    const MOD: i32 = 3;
    let event = || user::read::<EpollEvent>(event);
    let op = match op {
        ADD => Ctl::Add(event()?),
        MOD => Ctl::Mod(event()?),
        DEL => Ctl::Del,
        _ => {
            event()?;
            Ctl::Unknown
        }
    };
    let files = files()?;
    let set = files.get(ep)?;
    let target = files.get(fd)?;
    epoll::ctl(&set, &target, fd, op).map(|()| 0)
}

/// Waits until `deadline` and writes at most `max` events to `events`.
fn epoll_wait(ep: i32, events: UserAddr, max: i32, deadline: Option<u64>) -> Result<usize> {
    const MAX_EVENTS: usize = i32::MAX as usize / size_of::<EpollEvent>();
    let max = usize::try_from(max).ok().filter(|max| (1..=MAX_EVENTS).contains(max)).ok_or(Errno::EINVAL)?;
    let file = file(ep)?;
    let set = epoll::get(&file)?;
    let mut at = events;
    set.wait(max, deadline, &mut |event| {
        user::write(at, &event)?;
        at = UserAddr(at.0.wrapping_add(size_of::<EpollEvent>() as u64));
        Ok(())
    })
}

/// epoll_wait(2).
pub(crate) fn sys_epoll_wait(
    _cx: &mut Cx<'_>,
    ep: i32,
    events: UserAddr,
    max: i32,
    timeout: i32,
) -> Result<usize> {
    epoll_wait(ep, events, max, deadline_ms(timeout))
}

/// epoll_pwait(2).
pub(crate) fn sys_epoll_pwait(
    _cx: &mut Cx<'_>,
    ep: i32,
    events: UserAddr,
    max: i32,
    timeout: i32,
    mask: UserAddr,
    size: usize,
) -> Result<usize> {
    let mask = call_mask(mask, size)?;
    finish(mask, epoll_wait(ep, events, max, deadline_ms(timeout)))
}

/// epoll_pwait2(2).
pub(crate) fn sys_epoll_pwait2(
    _cx: &mut Cx<'_>,
    ep: i32,
    events: UserAddr,
    max: i32,
    timeout: UserAddr,
    mask: UserAddr,
    size: usize,
) -> Result<usize> {
    let deadline = deadline_at(timeout)?;
    let mask = call_mask(mask, size)?;
    finish(mask, epoll_wait(ep, events, max, deadline))
}
