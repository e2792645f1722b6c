//! The system as a whole: names, random numbers, the CPU one runs on.

use abi::fs::OpenFlags;
use abi::{Errno, Result};
use hal::uio::Dest;
use hal::{UserAddr, user};
use ns::uts;
use security::Cap;
use syslog::Action;
use vfs::At;
use vfs::open::How;

use crate::Cx;
use crate::caller::{self, Caller};

/// uname(2). `EFAULT`.
pub(crate) fn sys_uname(_cx: &mut Cx<'_>, buf: UserAddr) -> Result<usize> {
    user::write(buf, &process::current().uts().utsname())?;
    Ok(0)
}

fn set_name(which: uts::Name, name: UserAddr, len: i32) -> Result<usize> {
    let me = process::current();
    let uts = me.uts();
    if !me.with_cred(|cred| cred.ns_capable(uts.id().owner(), Cap::SYS_ADMIN)) {
        return Err(Errno::EPERM);
    }
    let len = usize::try_from(len).ok().filter(|&len| len <= uts::NAME_LEN).ok_or(Errno::EINVAL)?;
    let mut bytes = [0; uts::NAME_LEN];
    user::read_bytes(name, &mut bytes[..len])?;
    uts.set_name(which, &bytes[..len])?;
    Ok(0)
}

/// sethostname(2). `EPERM`: no `CAP_SYS_ADMIN`. `EINVAL`: too long. `EFAULT`.
pub(crate) fn sys_sethostname(_cx: &mut Cx<'_>, name: UserAddr, len: i32) -> Result<usize> {
    set_name(uts::Name::Host, name, len)
}

/// setdomainname(2), with the errors of sethostname(2).
pub(crate) fn sys_setdomainname(_cx: &mut Cx<'_>, name: UserAddr, len: i32) -> Result<usize> {
    set_name(uts::Name::Domain, name, len)
}

/// syslog(2). `EINVAL`: no such action, no buffer, a negative length. `EPERM`: `CAP_SYSLOG` is missing. `EFAULT`.
pub(crate) fn sys_syslog(_cx: &mut Cx<'_>, action: i32, buf: UserAddr, len: i32) -> Result<usize> {
    // Linux asks for the permission first, also for numbers that are no action.
    let action = Action::from_number(action);
    process::current().with_cred(|cred| syslog::check(action.unwrap_or(Action::Open), cred))?;
    let action = action?;
    let dest = || match usize::try_from(len) {
        Ok(len) if buf.0 != 0 => Ok(Dest::user(buf, len)),
        _ => Err(Errno::EINVAL),
    };
    match action {
        Action::Close | Action::Open => {}
        Action::Read => {
            let mut dest = dest()?;
            let reader = syslog::Reader::new();
            while dest.remaining() > 0 {
                match syslog::read(&mut dest)? {
                    0 => reader.wait()?,
                    done => return Ok(done),
                }
            }
        }
        Action::ReadAll | Action::ReadClear => {
            let done = syslog::read_all(&mut dest()?)?;
            if action == Action::ReadClear && len > 0 {
                syslog::clear();
            }
            return Ok(done);
        }
        Action::Clear => syslog::clear(),
        Action::ConsoleOff => syslog::console_off(),
        Action::ConsoleOn => syslog::console_on(),
        Action::ConsoleLevel => syslog::set_console_level(len)?,
        Action::SizeUnread => return syslog::unread(),
        Action::SizeBuffer => return Ok(hal::klog::RING_BYTES),
    }
    Ok(0)
}

/// Flags of getrandom(2).
mod grnd {
    pub const NONBLOCK: u32 = 1;
    pub const RANDOM: u32 = 2;
    pub const INSECURE: u32 = 4;
}

/// getrandom(2). `EAGAIN`: not seeded yet and `GRND_NONBLOCK`. `EINVAL`: unknown or clashing flags. `EFAULT`.
pub(crate) fn sys_getrandom(_cx: &mut Cx<'_>, buf: UserAddr, len: usize, flags: u32) -> Result<usize> {
    if flags & !(grnd::NONBLOCK | grnd::RANDOM | grnd::INSECURE) != 0
        || flags & (grnd::RANDOM | grnd::INSECURE) == grnd::RANDOM | grnd::INSECURE
    {
        return Err(Errno::EINVAL);
    }
    if flags & grnd::INSECURE == 0 && !random::is_seeded() {
        if flags & grnd::NONBLOCK != 0 {
            return Err(Errno::EAGAIN);
        }
        // The jitter of a tick is what is missing: wait for some.
        while !random::is_seeded() {
            let second = hal::time::now_ns() + 1_000_000_000;
            sched::sleep_until(second, sched::Interruptible::Yes)?;
            random::stir(&hal::rng::timing_sample().to_le_bytes());
            random::mark_seeded();
        }
    }
    let len = len.min(i32::MAX as usize);
    let mut done = 0;
    let mut chunk = [0; 256];
    while done < len {
        let now = (len - done).min(chunk.len());
        random::fill(&mut chunk[..now]);
        let copied = user::write_partial(UserAddr(buf.0.wrapping_add(done as u64)), &chunk[..now]);
        done += copied;
        if copied < now {
            return if done > 0 { Ok(done) } else { Err(Errno::EFAULT) };
        }
        if done.is_multiple_of(hal::PAGE_SIZE) && sched::current().is_interrupted(sched::Interruptible::Yes) {
            break;
        }
        if process::current().signal_pending() && done > 256 {
            break;
        }
    }
    Ok(done)
}

/// getcpu(2). `EFAULT`.
pub(crate) fn sys_getcpu(_cx: &mut Cx<'_>, cpu: UserAddr, node: UserAddr, _cache: u64) -> Result<usize> {
    if cpu.0 != 0 {
        user::write(cpu, &hal::cpu::raw_current_id().0)?;
    }
    if node.0 != 0 {
        user::write(node, &0u32)?;
    }
    Ok(0)
}

/// Magic numbers and commands of reboot(2).
mod reboot {
    pub const MAGIC1: u32 = 0xfee1_dead;
    pub const MAGIC2: [u32; 4] = [672_274_793, 85_072_278, 369_367_448, 537_993_216];
    pub const CAD_OFF: u32 = 0;
    pub const CAD_ON: u32 = 0x89ab_cdef;
    pub const HALT: u32 = 0xcdef_0123;
    pub const POWER_OFF: u32 = 0x4321_fedc;
    pub const RESTART: u32 = 0x0123_4567;
    pub const RESTART2: u32 = 0xa1b2_c3d4;
}

/// reboot(2). `EPERM`: no `CAP_SYS_BOOT`. `EINVAL`: bad magic numbers or command.
pub(crate) fn sys_reboot(
    _cx: &mut Cx<'_>,
    magic1: u32,
    magic2: u32,
    command: u32,
    _arg: u64,
) -> Result<usize> {
    crate::require(Cap::SYS_BOOT)?;
    if magic1 != reboot::MAGIC1 || !reboot::MAGIC2.contains(&magic2) {
        return Err(Errno::EINVAL);
    }
    match command {
        reboot::CAD_OFF | reboot::CAD_ON => Ok(0),
        reboot::HALT => {
            log::info!("reboot: System halted");
            hal::power::halt()
        }
        reboot::POWER_OFF => {
            log::info!("reboot: Power down");
            hal::power::power_off()
        }
        reboot::RESTART | reboot::RESTART2 => {
            log::info!("reboot: Restarting system");
            hal::power::reboot()
        }
        _ => Err(Errno::EINVAL),
    }
}

/// sysinfo(2).
pub(crate) fn sys_sysinfo(_cx: &mut Cx<'_>, out: UserAddr) -> Result<usize> {
    /// Fixed-point one of the load averages (Linux: `1 << SI_LOAD_SHIFT`).
    const LOAD_SHIFT: u32 = 16;
    /// Fraction bits of the scheduler's load average.
    const SCHED_SHIFT: u32 = 11;
    let info = mm::counters::collect_meminfo();
    let frames = hal::frame::stats();
    let page = hal::PAGE_SIZE as u64;
    let answer = abi::system::Sysinfo {
        uptime: crate::time::boottime_ns().div_ceil(abi::time::NSEC_PER_SEC) as i64,
        loads: sched::stats::load_average().map(|load| load << (LOAD_SHIFT - SCHED_SHIFT)),
        totalram: frames.total as u64 * page,
        freeram: frames.free as u64 * page,
        sharedram: info.shmem * page,
        totalswap: mm::swap::TOTAL.get() * page,
        freeswap: mm::swap::TOTAL.get().saturating_sub(mm::swap::USED.get()) * page,
        procs: u16::try_from(process::exit::nr_threads()).unwrap_or(u16::MAX),
        mem_unit: 1,
        ..Default::default()
    };
    user::write(out, &answer)?;
    Ok(0)
}

/// acct(2). `EPERM`: no `CAP_SYS_PACCT`. `EACCES`: no regular file. `EINVAL`: one of /proc, /sys or of no mount.
pub(crate) fn sys_acct(_cx: &mut Cx<'_>, name: UserAddr) -> Result<usize> {
    /// `O_WRONLY`.
    const WRITE: u32 = 1;
    let caller = Caller::new()?;
    if !caller.cred.capable(Cap::SYS_PACCT) {
        return Err(Errno::EPERM);
    }
    if name.0 == 0 {
        process::acct::stop(caller.task.group().pid_ns());
        return Ok(0);
    }
    let name = caller::path(name)?;
    let how = How::new(WRITE | OpenFlags::APPEND.bits(), 0)?;
    let file = vfs::open::open(&caller.walk(), At::Cwd, &name, &how)?;
    let fs = file.inode().sb().fs_type().name();
    if !file.inode().is_regular() {
        return Err(Errno::EACCES);
    }
    if file.path().mount.is_internal() || matches!(fs, "proc" | "sysfs") {
        return Err(Errno::EINVAL);
    }
    process::acct::start(file).map(|()| 0)
}
