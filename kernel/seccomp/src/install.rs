//! Giving up system calls.
//!
//! Sources: seccomp(2), prctl(2) `PR_SET_SECCOMP`; precedence of errors as on Linux 7.2.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use bitflags::bitflags;
use cbpf::{Instruction, Program};
use hal::{UserAddr, user};
use process::seccomp::{Mode, Refused, State, Sync, install};
use process::{Task, current};
use security::Cap;
use vfs::FdFlags;
use zerocopy::IntoBytes;

use crate::filter::Filter;
use crate::listener;
use crate::notify::Notifications;

bitflags! {
    /// `SECCOMP_FILTER_FLAG_*`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct FilterFlags: u32 {
        /// All threads get the filter.
        const TSYNC = 1;
        /// Answers other than `ALLOW` are logged.
        const LOG = 2;
        /// Speculation is not restricted, as it never is.
        const SPEC_ALLOW = 4;
        /// The call gives a descriptor for notifications.
        const NEW_LISTENER = 8;
        /// A thread that cannot be synchronised is `ESRCH`, not its id.
        const TSYNC_ESRCH = 16;
        /// Once a notification was received, only a fatal signal ends the wait for its answer.
        const WAIT_KILLABLE_RECV = 32;
    }
}

/// Most instructions of a chain.
const MAX_TOTAL: usize = (1 << 18) / 8;

/// Strict mode: read(2), write(2), exit(2) and rt_sigreturn(2) remain. `EINVAL`: another mode is on.
pub fn set_strict() -> Result<()> {
    let me = current();
    let now = me.seccomp();
    if now.as_ref().is_some_and(|now| now.mode != Mode::Strict) {
        return Err(Errno::EINVAL);
    }
    let new = State { mode: Mode::Strict, nr_filters: 0, chain: None };
    install(&me, Arc::new(new), now.as_ref(), Sync::Caller, &|_| true).map_err(|_| Errno::EINVAL)
}

/// The chain of a task.
pub(crate) fn chain_of(state: &State) -> Option<Arc<Filter>> {
    state.chain.clone()?.downcast().ok()
}

/// `struct sock_fprog`: reads the program of `addr`. `EFAULT`, `EINVAL`, `ENOMEM`.
fn read_program(addr: UserAddr) -> Result<Vec<Instruction>> {
    let [len, at]: [u64; 2] = user::read(addr)?;
    let len = usize::from(len as u16);
    if len == 0 || len > cbpf::MAX_LEN {
        return Err(Errno::EINVAL);
    }
    if !current().no_new_privs() && !current().with_cred(|cred| cred.own_capable(Cap::SYS_ADMIN)) {
        return Err(Errno::EACCES);
    }
    let words: Vec<u64> = user::read_vec(UserAddr(at), len).map_err(|error| match error {
        hal::CStrError::NoMemory => Errno::ENOMEM,
        _ => Errno::EFAULT,
    })?;
    let mut source = Vec::new();
    source.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
    source.extend(words.into_iter().map(Instruction::from_word));
    Ok(source)
}

/// Adds the filter at `addr`. Gives 0, or with `NEW_LISTENER` a descriptor, or with `TSYNC` the id of a thread that is in
/// the way.
///
/// `EINVAL`: flags that do not go together, a bad program, or strict mode. `EACCES`: neither no_new_privs nor rights.
/// `EFAULT`, `ENOMEM`. `EBUSY`: the chain has a listener. `ESRCH`: see `TSYNC_ESRCH`.
pub fn set_filter(flags: FilterFlags, addr: UserAddr) -> Result<usize> {
    let has = |flag: FilterFlags| flags.contains(flag);
    let is_contradictory =
        has(FilterFlags::TSYNC | FilterFlags::NEW_LISTENER) && !has(FilterFlags::TSYNC_ESRCH);
    if is_contradictory || (has(FilterFlags::WAIT_KILLABLE_RECV) && !has(FilterFlags::NEW_LISTENER)) {
        return Err(Errno::EINVAL);
    }
    let source = read_program(addr)?;
    let me = current();
    let notifications =
        has(FilterFlags::NEW_LISTENER).then(|| Notifications::new(has(FilterFlags::WAIT_KILLABLE_RECV)));
    let listener = match &notifications {
        None => None,
        Some(notifications) => {
            let files = me.files().ok_or(Errno::EBADF)?;
            let limit =
                usize::try_from(me.group().rlimits().cur(limits::Resource::Nofile)).unwrap_or(usize::MAX);
            let reserved = files.reserve(0, limit, FdFlags::CLOEXEC)?;
            Some((reserved, listener::create(notifications.clone(), &me.cred())?))
        }
    };
    loop {
        let mut copy = Vec::new();
        copy.try_reserve_exact(source.len()).map_err(|_| Errno::ENOMEM)?;
        copy.extend_from_slice(&source);
        let program = Program::new(copy).ok_or(Errno::ENOMEM)?.map_err(|_| Errno::EINVAL)?;
        match try_add(&me, program, flags, &notifications) {
            Err(Refused::Changed) => {}
            Err(Refused::Other(errno)) => return Err(errno),
            Err(Refused::Thread(_)) if has(FilterFlags::TSYNC_ESRCH) => return Err(Errno::ESRCH),
            Err(Refused::Thread(tid)) => return Ok(tid as usize),
            Ok(()) => break,
        }
    }
    match listener {
        Some((reserved, file)) => Ok(reserved.install(file) as usize),
        None => Ok(0),
    }
}

/// One attempt: another thread may synchronise its own filters meanwhile.
fn try_add(
    me: &process::CurrentTask,
    program: Program,
    flags: FilterFlags,
    notifications: &Option<Arc<Notifications>>,
) -> core::result::Result<(), Refused> {
    let now = me.seccomp();
    let before = match &now {
        Some(now) if now.mode == Mode::Strict => return Err(Refused::Other(Errno::EINVAL)),
        Some(now) => chain_of(now),
        None => None,
    };
    let has_listener = |top: &Arc<Filter>| top.chain().any(|filter| filter.notifications.is_some());
    if notifications.is_some() && before.as_ref().is_some_and(has_listener) {
        return Err(Refused::Other(Errno::EBUSY));
    }
    let filter =
        Filter::new(program, flags.contains(FilterFlags::LOG), notifications.clone(), before.clone());
    if filter.total_len > MAX_TOTAL {
        return Err(Refused::Other(Errno::ENOMEM));
    }
    let nr_filters = now.as_ref().map_or(0, |now| now.nr_filters) + 1;
    let new = State { mode: Mode::Filter, nr_filters, chain: Some(Arc::new(filter)) };
    let sync = if flags.contains(FilterFlags::TSYNC) { Sync::AllThreads } else { Sync::Caller };
    // Another thread can follow if what it has is a part of what the caller has.
    let fits = |theirs: &State| {
        let Some(top) = chain_of(theirs) else { return false };
        before.as_ref().is_some_and(|mine| mine.chain().any(|filter| core::ptr::eq(filter, &*top)))
    };
    install(me, Arc::new(new), now.as_ref(), sync, &fits)
}

/// `PTRACE_SECCOMP_GET_FILTER`: writes filter `idx` of `task`, the first one being the oldest, to `to` unless that is null;
/// gives its length. `EINVAL`: no filters. `ENOENT`: not so many.
pub fn get_filter(task: &Task, idx: u64, to: UserAddr) -> Result<usize> {
    may_look()?;
    let top = top_of(task)?;
    let filter = nth(&top, idx)?;
    let source = filter.program().source();
    if to.0 != 0 {
        for (at, op) in (0u64..).zip(source) {
            let word =
                u64::from(op.code) | u64::from(op.jt) << 16 | u64::from(op.jf) << 24 | u64::from(op.k) << 32;
            user::write(UserAddr(to.0.wrapping_add(at * 8)), &word)?;
        }
    }
    Ok(source.len())
}

/// `PTRACE_SECCOMP_GET_METADATA`: `struct seccomp_metadata` at `at` names a filter as for [`get_filter`] and receives its
/// flags; gives the bytes written. `EINVAL`: less `room` than for the number, or no filters. `ENOENT`: not so many.
pub fn get_metadata(task: &Task, room: u64, at: UserAddr) -> Result<usize> {
    may_look()?;
    let len = room.min(2 * size_of::<u64>() as u64) as usize;
    if len < size_of::<u64>() {
        return Err(Errno::EINVAL);
    }
    let idx: u64 = user::read(at)?;
    let top = top_of(task)?;
    let flags = if nth(&top, idx)?.logs { FilterFlags::LOG } else { FilterFlags::empty() };
    let out = [idx, u64::from(flags.bits())];
    user::write_bytes(at, out.as_bytes().get(..len).unwrap_or_default())?;
    Ok(len)
}

/// `EACCES`: the caller may not look at filters.
fn may_look() -> Result<()> {
    let is_root = current().with_cred(|cred| cred.capable(Cap::SYS_ADMIN));
    if is_root && current().seccomp().is_none() { Ok(()) } else { Err(Errno::EACCES) }
}

fn top_of(task: &Task) -> Result<Arc<Filter>> {
    task.seccomp().and_then(|state| chain_of(&state)).ok_or(Errno::EINVAL)
}

/// Filter `idx` of the chain below `top`, the oldest being 0. `ENOENT`.
fn nth(top: &Filter, idx: u64) -> Result<&Filter> {
    let count = top.chain().count() as u64;
    let from_top = count.checked_sub(1).and_then(|last| last.checked_sub(idx)).ok_or(Errno::ENOENT)?;
    top.chain().nth(from_top as usize).ok_or(Errno::ENOENT)
}
