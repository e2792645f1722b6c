//! Credentials: user and group ids, capabilities, prctl (credentials(7), capabilities(7), prctl(2)).

use abi::raw::prctl as pr;
use abi::{Errno, Result};
use hal::{UserAddr, user};
use process::cred::{change, change_if};
use process::{pid, prctl};
use security::{Cap, CapSet, Cred, IdKind, SecureBits};

use crate::caller::{global_id, shown_id};
use crate::{Cx, trace};

/// Reads one field of the caller's credentials.
fn id(kind: IdKind, field: impl FnOnce(&Cred) -> u32) -> Result<usize> {
    Ok(process::current().with_cred(|cred| cred.user_ns.show(kind, field(cred))) as usize)
}

/// getuid(2).
pub(crate) fn sys_getuid(_cx: &mut Cx<'_>) -> Result<usize> {
    id(IdKind::User, |cred| cred.uid)
}

/// geteuid(2).
pub(crate) fn sys_geteuid(_cx: &mut Cx<'_>) -> Result<usize> {
    id(IdKind::User, |cred| cred.euid)
}

/// getgid(2).
pub(crate) fn sys_getgid(_cx: &mut Cx<'_>) -> Result<usize> {
    id(IdKind::Group, |cred| cred.gid)
}

/// getegid(2).
pub(crate) fn sys_getegid(_cx: &mut Cx<'_>) -> Result<usize> {
    id(IdKind::Group, |cred| cred.egid)
}

fn write_three(kind: IdKind, ids: [u32; 3], places: [UserAddr; 3]) -> Result<usize> {
    for (id, place) in ids.into_iter().zip(places) {
        user::write(place, &shown_id(kind, id))?;
    }
    Ok(0)
}

/// getresuid(2).
pub(crate) fn sys_getresuid(_cx: &mut Cx<'_>, r: UserAddr, e: UserAddr, s: UserAddr) -> Result<usize> {
    let ids = process::current().with_cred(|cred| [cred.uid, cred.euid, cred.suid]);
    write_three(IdKind::User, ids, [r, e, s])
}

/// getresgid(2).
pub(crate) fn sys_getresgid(_cx: &mut Cx<'_>, r: UserAddr, e: UserAddr, s: UserAddr) -> Result<usize> {
    let ids = process::current().with_cred(|cred| [cred.gid, cred.egid, cred.sgid]);
    write_three(IdKind::Group, ids, [r, e, s])
}

/// setuid(2).
pub(crate) fn sys_setuid(_cx: &mut Cx<'_>, uid: u32) -> Result<usize> {
    let uid = global_id(IdKind::User, uid)?;
    change(|cred| cred.setuid(uid)).map(|()| 0)
}

/// setgid(2).
pub(crate) fn sys_setgid(_cx: &mut Cx<'_>, gid: u32) -> Result<usize> {
    let gid = global_id(IdKind::Group, gid)?;
    change(|cred| cred.setgid(gid)).map(|()| 0)
}

/// setreuid(2).
pub(crate) fn sys_setreuid(_cx: &mut Cx<'_>, real: u32, effective: u32) -> Result<usize> {
    let real = global_id(IdKind::User, real)?;
    let effective = global_id(IdKind::User, effective)?;
    change(|cred| cred.setreuid(real, effective)).map(|()| 0)
}

/// setregid(2).
pub(crate) fn sys_setregid(_cx: &mut Cx<'_>, real: u32, effective: u32) -> Result<usize> {
    let real = global_id(IdKind::Group, real)?;
    let effective = global_id(IdKind::Group, effective)?;
    change(|cred| cred.setregid(real, effective)).map(|()| 0)
}

/// setresuid(2).
pub(crate) fn sys_setresuid(_cx: &mut Cx<'_>, real: u32, effective: u32, saved: u32) -> Result<usize> {
    let real = global_id(IdKind::User, real)?;
    let effective = global_id(IdKind::User, effective)?;
    let saved = global_id(IdKind::User, saved)?;
    change(|cred| cred.setresuid(real, effective, saved)).map(|()| 0)
}

/// setresgid(2).
pub(crate) fn sys_setresgid(_cx: &mut Cx<'_>, real: u32, effective: u32, saved: u32) -> Result<usize> {
    let real = global_id(IdKind::Group, real)?;
    let effective = global_id(IdKind::Group, effective)?;
    let saved = global_id(IdKind::Group, saved)?;
    change(|cred| cred.setresgid(real, effective, saved)).map(|()| 0)
}

/// setfsuid(2): always returns the id before.
pub(crate) fn sys_setfsuid(_cx: &mut Cx<'_>, uid: u32) -> Result<usize> {
    let old = id(IdKind::User, |cred| cred.fsuid);
    if let Ok(uid) = global_id(IdKind::User, uid) {
        change_if(|cred| cred.setfsuid(uid));
    }
    old
}

/// setfsgid(2): always returns the id before.
pub(crate) fn sys_setfsgid(_cx: &mut Cx<'_>, gid: u32) -> Result<usize> {
    let old = id(IdKind::Group, |cred| cred.fsgid);
    if let Ok(gid) = global_id(IdKind::Group, gid) {
        change_if(|cred| cred.setfsgid(gid));
    }
    old
}

/// The version numbers of capget(2): the first has one word a set, the others two.
const CAP_VERSION_1: u32 = 0x1998_0330;
const CAP_VERSION_2: u32 = 0x2007_1026;
const CAP_VERSION_3: u32 = 0x2008_0522;

/// Reads the header of capget(2) and capset(2): words per set and the pid. An unknown version is answered
/// with the newest one.
fn cap_header(header: UserAddr) -> Result<Option<(usize, i32)>> {
    let version: u32 = user::read(header)?;
    let words = match version {
        CAP_VERSION_1 => 1,
        CAP_VERSION_2 | CAP_VERSION_3 => 2,
        _ => {
            user::write(header, &CAP_VERSION_3)?;
            return Ok(None);
        }
    };
    let pid: i32 = user::read(UserAddr(header.0.wrapping_add(4)))?;
    Ok(Some((words, pid)))
}

/// capget(2).
pub(crate) fn sys_capget(_cx: &mut Cx<'_>, header: UserAddr, data: UserAddr) -> Result<usize> {
    let Some((words, pid)) = cap_header(header)? else {
        return if data.0 == 0 { Ok(0) } else { Err(Errno::EINVAL) };
    };
    let pid = u32::try_from(pid).map_err(|_| Errno::EINVAL)?;
    let me = process::current();
    let cred = if pid == 0 || pid == me.own_tid() {
        me.cred()
    } else {
        pid::find_task(pid).ok_or(Errno::ESRCH)?.cred()
    };
    if data.0 == 0 {
        return Ok(0);
    }
    for word in 0..words {
        let part = |set: CapSet| (set.bits() >> (32 * word)) as u32;
        let triple = [part(cred.effective), part(cred.permitted), part(cred.inheritable)];
        user::write(UserAddr(data.0.wrapping_add(12 * word as u64)), &triple)?;
    }
    Ok(0)
}

/// capset(2).
pub(crate) fn sys_capset(_cx: &mut Cx<'_>, header: UserAddr, data: UserAddr) -> Result<usize> {
    let Some((words, pid)) = cap_header(header)? else { return Err(Errno::EINVAL) };
    if pid != 0 && pid != process::current().own_tid() as i32 {
        return Err(Errno::EPERM);
    }
    let mut sets = [0u64; 3];
    for word in 0..words {
        let triple: [u32; 3] = user::read(UserAddr(data.0.wrapping_add(12 * word as u64)))?;
        for (set, part) in sets.iter_mut().zip(triple) {
            *set |= u64::from(part) << (32 * word);
        }
    }
    let [effective, permitted, inheritable] = sets.map(CapSet::from_bits);
    change(|cred| cred.capset(effective, permitted, inheritable)).map(|()| 0)
}

/// prctl(2).
pub(crate) fn sys_prctl(
    _cx: &mut Cx<'_>,
    option: u32,
    arg2: u64,
    arg3: u64,
    arg4: u64,
    arg5: u64,
) -> Result<usize> {
    match option {
        pr::PR_SET_NAME => {
            let mut name = [0; 16];
            let got = hal::user::read_cstr(UserAddr(arg2), 16);
            match got {
                Ok(text) => name[..text.len().min(15)].copy_from_slice(&text[..text.len().min(15)]),
                Err(hal::CStrError::TooLong) => user::read_bytes(UserAddr(arg2), &mut name[..15])?,
                Err(_) => return Err(Errno::EFAULT),
            }
            let len = name.iter().position(|&byte| byte == 0).unwrap_or(15);
            process::current().set_comm(&name[..len]);
        }
        pr::PR_GET_NAME => user::write(UserAddr(arg2), &process::current().comm())?,
        pr::PR_SET_PDEATHSIG => prctl::set_pdeathsig(arg2)?,
        pr::PR_GET_PDEATHSIG => user::write(UserAddr(arg2), &prctl::pdeathsig())?,
        pr::PR_SET_DUMPABLE => prctl::set_dumpable(arg2)?,
        pr::PR_GET_DUMPABLE => return Ok(process::current().group().dumpable() as usize),
        pr::PR_SET_CHILD_SUBREAPER => prctl::set_subreaper(arg2 != 0),
        pr::PR_GET_CHILD_SUBREAPER => user::write(UserAddr(arg2), &u32::from(prctl::is_subreaper()))?,
        pr::PR_SET_TIMERSLACK => prctl::set_timer_slack(arg2),
        pr::PR_TIMER_CREATE_RESTORE_IDS => return crate::time::restore_ids(arg2, [arg3, arg4, arg5]),
        crate::futex::PR_FUTEX_HASH => return crate::futex::prctl_hash(arg2, arg3, arg4),
        pr::PR_GET_TIMERSLACK => return Ok(prctl::timer_slack() as usize),
        pr::PR_GET_TID_ADDRESS => return Err(Errno::EINVAL),
        pr::PR_GET_TSC => {
            let is_forbidden = hal::thread::current().is_tsc_forbidden();
            user::write(UserAddr(arg2), if is_forbidden { &pr::PR_TSC_SIGSEGV } else { &pr::PR_TSC_ENABLE })?;
        }
        pr::PR_SET_TSC => match u32::try_from(arg2) {
            Ok(pr::PR_TSC_ENABLE) => hal::thread::current().forbid_tsc(false),
            Ok(pr::PR_TSC_SIGSEGV) => hal::thread::current().forbid_tsc(true),
            _ => return Err(Errno::EINVAL),
        },
        pr::PR_SET_SECCOMP => return trace::set_seccomp(arg2, arg3),
        pr::PR_GET_SECCOMP => return Ok(trace::seccomp_mode()),
        pr::PR_SET_SYSCALL_USER_DISPATCH => return trace::set_dispatch(arg2, arg3, arg4, arg5),
        _ => return prctl_security(option, arg2, arg3, arg4, arg5),
    }
    Ok(0)
}

fn prctl_security(option: u32, arg2: u64, arg3: u64, arg4: u64, arg5: u64) -> Result<usize> {
    match option {
        pr::PR_SET_NO_NEW_PRIVS => {
            if arg2 != 1 || arg3 != 0 || arg4 != 0 || arg5 != 0 {
                return Err(Errno::EINVAL);
            }
            prctl::set_no_new_privs()?;
        }
        pr::PR_GET_NO_NEW_PRIVS => {
            if arg2 != 0 || arg3 != 0 || arg4 != 0 || arg5 != 0 {
                return Err(Errno::EINVAL);
            }
            return Ok(usize::from(process::current().no_new_privs()));
        }
        pr::PR_SET_KEEPCAPS => {
            if arg2 > 1 {
                return Err(Errno::EINVAL);
            }
            change(|cred| cred.set_keepcaps(arg2 == 1))?;
        }
        pr::PR_GET_KEEPCAPS => {
            let bits = process::current().with_cred(|cred| cred.securebits);
            return Ok(usize::from(bits.contains(SecureBits::KEEP_CAPS)));
        }
        pr::PR_SET_SECUREBITS => change(|cred| cred.set_securebits(arg2))?,
        pr::PR_GET_SECUREBITS => {
            return Ok(process::current().with_cred(|cred| cred.securebits.bits() as usize));
        }
        pr::PR_CAPBSET_READ => {
            let cap = Cap::from_number(arg2).ok_or(Errno::EINVAL)?;
            return Ok(usize::from(process::current().with_cred(|cred| cred.bounding.contains(cap))));
        }
        pr::PR_CAPBSET_DROP => {
            let cap = Cap::from_number(arg2).ok_or(Errno::EINVAL)?;
            change(|cred| cred.drop_bounding(cap))?;
        }
        pr::PR_CAP_AMBIENT => return cap_ambient(arg2, arg3, arg4, arg5),
        _ => return crate::range::prctl(option, [arg2, arg3, arg4, arg5]),
    }
    Ok(0)
}

fn cap_ambient(op: u64, cap: u64, arg4: u64, arg5: u64) -> Result<usize> {
    const IS_SET: u64 = 1;
    const RAISE: u64 = 2;
    const LOWER: u64 = 3;
    const CLEAR_ALL: u64 = 4;
    if arg4 != 0 || arg5 != 0 {
        return Err(Errno::EINVAL);
    }
    if op == CLEAR_ALL {
        if cap != 0 {
            return Err(Errno::EINVAL);
        }
        return change(|cred| Ok(cred.lower_ambient(cred.ambient))).map(|()| 0);
    }
    let cap = Cap::from_number(cap).ok_or(Errno::EINVAL)?;
    match op {
        IS_SET => Ok(usize::from(process::current().with_cred(|cred| cred.ambient.contains(cap)))),
        RAISE => change(|cred| cred.raise_ambient(cap)).map(|()| 0),
        LOWER => change(|cred| Ok(cred.lower_ambient(CapSet::default().with(cap)))).map(|()| 0),
        _ => Err(Errno::EINVAL),
    }
}

/// Codes of arch_prctl(2).
mod arch {
    pub const SET_GS: u32 = 0x1001;
    pub const SET_FS: u32 = 0x1002;
    pub const GET_FS: u32 = 0x1003;
    pub const GET_GS: u32 = 0x1004;
    pub const GET_CPUID: u32 = 0x1011;
}

/// arch_prctl(2). `EPERM`: an address outside of user space. `EINVAL`: an unknown code.
pub(crate) fn sys_arch_prctl(_cx: &mut Cx<'_>, code: u32, addr: u64) -> Result<usize> {
    let current = hal::thread::current();
    let in_user_space = addr < hal::USER_END;
    match code {
        arch::SET_FS | arch::SET_GS if !in_user_space => return Err(Errno::EPERM),
        arch::SET_FS => current.set_fs_base(UserAddr(addr))?,
        arch::SET_GS => current.set_gs_base(UserAddr(addr))?,
        arch::GET_FS => user::write(UserAddr(addr), &current.fs_base())?,
        arch::GET_GS => user::write(UserAddr(addr), &current.gs_base())?,
        arch::GET_CPUID => return Ok(1),
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

/// rseq(2).
pub(crate) fn sys_rseq(
    _cx: &mut Cx<'_>,
    area: UserAddr,
    len: u32,
    flags: u32,
    signature: u32,
) -> Result<usize> {
    process::rseq::register(area, len, flags, signature).map(|()| 0)
}
