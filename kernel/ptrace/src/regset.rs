//! Sets of registers: general ones and the floating-point state.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::socket::Iovec;
use abi::{Errno, Result};
use hal::{USER_END, UserAddr, user};
use process::Task;
use process::trace;
use zerocopy::IntoBytes;

use crate::regs;

const NT_PRSTATUS: u64 = 1;
const NT_PRFPREG: u64 = 2;
/// The map of I/O ports.
const NT_386_IOPERM: u64 = 0x201;
const NT_X86_XSTATE: u64 = 0x202;
/// Bytes of `struct user_i387_struct`.
const FPREGS_LEN: usize = 512;

/// `PTRACE_GETREGS`.
pub(crate) fn get_regs(task: &Arc<Task>, data: u64) -> Result<()> {
    let words = trace::with_stop(task, |stop| Ok(regs::all(stop)))?;
    Ok(user::write(UserAddr(data), &words)?)
}

/// `PTRACE_SETREGS`.
pub(crate) fn set_regs(task: &Arc<Task>, data: u64) -> Result<()> {
    let words: [u64; regs::NR_WORDS] = user::read(UserAddr(data))?;
    set_words(task, &words)
}

/// Sets the first registers to `words`; those before a refused one are set.
fn set_words(task: &Arc<Task>, words: &[u64]) -> Result<()> {
    trace::with_stop(task, |stop| {
        words.iter().enumerate().try_for_each(|(idx, &word)| regs::set(stop, idx, word))
    })
}

/// The whole floating-point state.
fn fpu_bytes(task: &Arc<Task>) -> Result<Vec<u8>> {
    trace::run_in(task, |me| me.hal().fpu_bytes())?.map_err(|_| Errno::ENOMEM)
}

/// Sets the floating-point state. `EINVAL`: the CPU refuses it.
fn set_fpu_bytes(task: &Arc<Task>, bytes: Vec<u8>) -> Result<()> {
    trace::run_in(task, move |me| me.hal().set_fpu_bytes(&bytes))?.map_err(|_| Errno::EINVAL)
}

/// `PTRACE_GETFPREGS`.
pub(crate) fn get_fpregs(task: &Arc<Task>, data: u64) -> Result<()> {
    let bytes = fpu_bytes(task)?;
    Ok(user::write_bytes(UserAddr(data), legacy(&bytes))?)
}

/// The part of the state that every CPU has.
fn legacy(bytes: &[u8]) -> &[u8] {
    bytes.get(..FPREGS_LEN).unwrap_or(bytes)
}

/// `PTRACE_SETFPREGS`.
pub(crate) fn set_fpregs(task: &Arc<Task>, data: u64) -> Result<()> {
    let bytes: [u8; FPREGS_LEN] = user::read(UserAddr(data))?;
    set_fpu_bytes(task, bytes.to_vec())
}

/// Size and unit of set `kind`. `EINVAL`: unknown.
fn shape(kind: u64) -> Result<(usize, usize)> {
    match kind {
        NT_PRSTATUS => Ok((regs::LEN, 8)),
        NT_PRFPREG => Ok((FPREGS_LEN, FPREGS_LEN)),
        NT_X86_XSTATE => Ok((xstate_len(), 8)),
        NT_386_IOPERM => Ok((hal::ports::MAP_BYTES, 8)),
        _ => Err(Errno::EINVAL),
    }
}

/// Bytes of the whole state: what a signal frame has without its end mark.
fn xstate_len() -> usize {
    let frame = hal::thread::fpu_frame_size();
    if frame > FPREGS_LEN { frame - 4 } else { frame }
}

/// The user's buffer, cut to the size of the set.
fn buffer(kind: u64, data: u64) -> Result<(Iovec, usize)> {
    let mut iov: Iovec = user::read(UserAddr(data))?;
    let (len, unit) = shape(kind)?;
    let wanted = usize::try_from(iov.iov_len).unwrap_or(usize::MAX);
    if !wanted.is_multiple_of(unit) {
        return Err(Errno::EINVAL);
    }
    let wanted = wanted.min(len);
    iov.iov_len = wanted as u64;
    Ok((iov, wanted))
}

/// The task's map of I/O ports. `ENXIO`: it has none.
fn port_bytes(task: &Task) -> Result<Vec<u8>> {
    let thread = task.thread().ok_or(Errno::ESRCH)?;
    let map = thread.hal().ports().map.ok_or(Errno::ENXIO)?;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(map.as_bytes().len()).map_err(|_| Errno::ENOMEM)?;
    bytes.extend_from_slice(map.as_bytes());
    Ok(bytes)
}

/// `PTRACE_GETREGSET`: set `kind` into the iovec at `data`, whose length becomes that of the answer.
pub(crate) fn get_regset(task: &Arc<Task>, kind: u64, data: u64) -> Result<()> {
    let (iov, len) = buffer(kind, data)?;
    let bytes = match kind {
        NT_PRSTATUS => trace::with_stop(task, |stop| Ok(regs::all(stop)))?.as_bytes().to_vec(),
        NT_386_IOPERM => port_bytes(task)?,
        _ => fpu_bytes(task)?,
    };
    let part = bytes.get(..len).ok_or(Errno::EINVAL)?;
    user::write_bytes(UserAddr(iov.iov_base), part)?;
    Ok(user::write(UserAddr(data.wrapping_add(8)), &iov.iov_len)?)
}

/// `PTRACE_SETREGSET`.
pub(crate) fn set_regset(task: &Arc<Task>, kind: u64, data: u64) -> Result<()> {
    let (iov, len) = buffer(kind, data)?;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
    bytes.resize(len, 0);
    user::read_bytes(UserAddr(iov.iov_base), &mut bytes)?;
    match kind {
        NT_386_IOPERM => return Err(Errno::EOPNOTSUPP),
        NT_PRSTATUS => {
            let word = |chunk: &[u8]| u64::from_le_bytes(chunk.try_into().unwrap_or_default());
            let words: Vec<u64> = bytes.chunks_exact(8).map(word).collect();
            set_words(task, &words)?;
        }
        // Linux takes the state as a whole only.
        _ if len != shape(kind)?.0 => return Err(Errno::EFAULT),
        _ => set_fpu_bytes(task, bytes)?,
    }
    Ok(user::write(UserAddr(data.wrapping_add(8)), &iov.iov_len)?)
}

/// `PTRACE_ARCH_PRCTL`: segment bases. `EINVAL`: an unknown option. `EPERM`: no user address.
pub(crate) fn arch_prctl(task: &Arc<Task>, option: u64, addr: u64) -> Result<()> {
    const SET_GS: u64 = 0x1001;
    const SET_FS: u64 = 0x1002;
    const GET_FS: u64 = 0x1003;
    const GET_GS: u64 = 0x1004;
    match option {
        SET_GS | SET_FS if addr >= USER_END => Err(Errno::EPERM),
        SET_GS => trace::with_stop(task, |stop| {
            stop.bases.gs = addr;
            Ok(())
        }),
        SET_FS => trace::with_stop(task, |stop| {
            stop.bases.fs = addr;
            Ok(())
        }),
        GET_FS | GET_GS => {
            let bases = trace::with_stop(task, |stop| Ok(stop.bases))?;
            let base = if option == GET_FS { bases.fs } else { bases.gs };
            Ok(user::write(UserAddr(addr), &base)?)
        }
        _ => Err(Errno::EINVAL),
    }
}
