//! Restartable sequences (rseq(2)): per-CPU data without atomic instructions in user space.
//!
//! A thread registers an area in which the kernel keeps the number of the CPU that it runs on. While a critical
//! section runs, the area points to its description; when the thread is preempted, moved or signalled in it, it
//! goes on at the section's abort handler.
//!
//! ```text
//! struct rseq                         struct rseq_cs, 32 bytes
//!  0 cpu_id_start  u32                 0 version, flags    u32 u32
//!  4 cpu_id        u32                 8 start_ip          u64
//!  8 rseq_cs       u64  ──────────▶   16 post_commit_offset u64
//! 16 flags         u32                24 abort_ip          u64   (preceded by the signature)
//! 20 node_id       u32
//! 24 mm_cid        u32
//! ```
//!
//! The scheduler raises `Work::NOTIFY` when a thread that registered was preempted or moved; the work is done on
//! the way out, where user memory can be touched. A thread with the first layout, 32 bytes, is told whenever it comes
//! back to a CPU: Linux promises to write `cpu_id_start` then, and allocators (tcmalloc) live by that.
//!
//! `mm_cid` is the CPU's number: no two threads that run have the same, and it is below the number of CPUs.
//! LINUX: the numbers of a process with fewer threads than CPUs are below the number of threads there.
//!
//! Sources: rseq(2), Documentation/core-api (Linux 7.2), `linux/rseq.h`.

use core::sync::atomic::Ordering::Relaxed;

use abi::signal::{SIGSEGV, SigInfo};
use abi::{Errno, Result};
use hal::thread::Work;
use hal::trap::UserRegs;
use hal::{Fault, USER_END, UserAddr, user};
use sched::Notices;

use crate::signal;
use crate::task::{self, CurrentTask};

/// `AT_RSEQ_FEATURE_SIZE`: the fields up to `mm_cid`.
pub(crate) const FEATURE_SIZE: u64 = 28;
/// `AT_RSEQ_ALIGN`.
pub(crate) const ALIGN: u64 = 32;
/// Size of the first layout, the smallest area.
const LEN: u32 = 32;
/// `RSEQ_FLAG_UNREGISTER`.
const UNREGISTER: u32 = 1;
/// `RSEQ_CPU_ID_UNINITIALIZED`.
pub(crate) const UNINITIALIZED: u32 = u32::MAX;
/// Offset of `rseq_cs`.
const CS_OFFSET: u64 = 8;
/// Offset of `node_id`, which `mm_cid` follows. There is one node, 0.
const NODE_OFFSET: u64 = 20;

/// rseq(2).
///
/// `EINVAL`: bad flags, length or alignment, or another area is registered. `EPERM`: another signature. `EBUSY`:
/// registered already. `EFAULT`.
pub fn register(area: UserAddr, len: u32, flags: u32, signature: u32) -> Result<()> {
    let task = task::current();
    let own = &task.registered;
    let present = own.rseq.load(Relaxed);
    if flags & UNREGISTER != 0 {
        if flags != UNREGISTER || present == 0 || present != area.0 || len != own.rseq_len.load(Relaxed) {
            return Err(Errno::EINVAL);
        }
        if own.rseq_sig.load(Relaxed) != signature {
            return Err(Errno::EPERM);
        }
        user::write(area, &[0, UNINITIALIZED])?;
        user::write(UserAddr(area.0 + NODE_OFFSET), &[0_u32; 2])?;
        forget(&task);
        return Ok(());
    }
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    if present != 0 {
        if present != area.0 || len != own.rseq_len.load(Relaxed) {
            return Err(Errno::EINVAL);
        }
        return Err(if own.rseq_sig.load(Relaxed) == signature { Errno::EBUSY } else { Errno::EPERM });
    }
    if len < LEN || !area.0.is_multiple_of(ALIGN) {
        return Err(Errno::EINVAL);
    }
    if area.0 > USER_END - u64::from(len) {
        return Err(Errno::EFAULT);
    }
    // The area may hold what a thread before left: no critical section, and the present CPU.
    user::write(UserAddr(area.0 + CS_OFFSET), &0_u64)?;
    user::write(UserAddr(area.0 + NODE_OFFSET), &[0_u32; 2])?;
    own.rseq_len.store(len, Relaxed);
    own.rseq_sig.store(signature, Relaxed);
    own.rseq_cpu.store(UNINITIALIZED, Relaxed);
    own.rseq.store(area.0, Relaxed);
    watch(&task);
    Ok(())
}

/// Has the current thread told of moves from now on, and of the CPU it is on at once.
pub(crate) fn watch(task: &task::Task) {
    if let Some(thread) = task.thread() {
        let is_first_layout = task.registered.rseq_len.load(Relaxed) == LEN;
        thread.set_notices(if is_first_layout { Notices::Switches } else { Notices::Moves });
        thread.hal().set_work(Work::NOTIFY);
    }
}

/// Address, length and signature of the area of `task`; zeros when there is none.
pub fn registration(task: &task::Task) -> (u64, u32, u32) {
    let own = &task.registered;
    match own.rseq.load(Relaxed) {
        0 => (0, 0, 0),
        area => (area, own.rseq_len.load(Relaxed), own.rseq_sig.load(Relaxed)),
    }
}

/// Ends the registration: unregister, execve(2).
pub(crate) fn forget(task: &task::Task) {
    if task.registered.rseq.swap(0, Relaxed) != 0
        && let Some(thread) = task.thread()
    {
        thread.set_notices(Notices::Nothing);
    }
}

/// Writes where the thread is: the CPU always, what follows from it when it is another than the last time.
fn write_area(task: &CurrentTask, area: u64, cpu: u32) -> Result<()> {
    user::write(UserAddr(area), &[cpu, cpu])?;
    if task.registered.rseq_cpu.load(Relaxed) != cpu {
        user::write(UserAddr(area + NODE_OFFSET), &[0, cpu])?;
        task.registered.rseq_cpu.store(cpu, Relaxed);
    }
    Ok(())
}

/// Brings the area up to date on the way to user mode, and leaves a critical section that was interrupted.
///
/// A program whose area cannot be written or whose section is nonsense gets `SIGSEGV`, as on Linux.
pub(crate) fn update(task: &CurrentTask, regs: &mut UserRegs) {
    let area = task.registered.rseq.load(Relaxed);
    if area == 0 {
        return;
    }
    let cpu = hal::cpu::raw_current_id().0;
    let done = leave_section(task, area, regs).and_then(|()| write_area(task, area, cpu));
    if done.is_err() {
        signal::force(SigInfo::kernel(SIGSEGV));
    }
}

fn leave_section(task: &CurrentTask, area: u64, regs: &mut UserRegs) -> Result<()> {
    let pointer = UserAddr(area + CS_OFFSET);
    let section: u64 = user::read(pointer)?;
    if section == 0 {
        return Ok(());
    }
    let [head, start, length, abort]: [u64; 4] = user::read(UserAddr(section))?;
    let (version, flags) = (head as u32, (head >> 32) as u32);
    let is_sane = version == 0 && flags == 0 && start < USER_END && abort < USER_END;
    if !is_sane || start.checked_add(length).is_none() || abort.wrapping_sub(start) < length {
        return Err(Errno::EINVAL);
    }
    user::write(pointer, &0_u64)?;
    if regs.rip.wrapping_sub(start) >= length {
        return Ok(());
    }
    let signature: u32 = abort.checked_sub(4).map_or(Err(Fault), |at| user::read(UserAddr(at)))?;
    if signature != task.registered.rseq_sig.load(Relaxed) {
        return Err(Errno::EINVAL);
    }
    regs.rip = abort;
    Ok(())
}
