//! io_uring: io_uring_setup(2), io_uring_enter(2), io_uring_register(2), and the system calls that requests ask for.

mod calls;
mod messages;

use abi::io_uring::{EnterFlags, GeteventsArg, Params, register::USE_REGISTERED_RING};
use abi::time::Timespec;
use abi::{Errno, Result};
use hal::time::now_ns;
use hal::{UserAddr, user};
use io_uring::Enter;
use vfs::{FdFlags, File};

use crate::Cx;
use crate::caller;
use crate::poll::{call_mask, finish};
use alloc::sync::Arc;

/// Registers what requests ask for. Once, at boot.
pub(crate) fn init() {
    io_uring::init(&calls::Table);
}

/// io_uring_setup(2).
pub(crate) fn sys_io_uring_setup(_cx: &mut Cx<'_>, entries: u32, params: UserAddr) -> Result<usize> {
    let mut asked: Params = user::read(params)?;
    let file = io_uring::setup(entries, &mut asked)?;
    let files = caller::files()?;
    let reserved = files.reserve(0, caller::nofile(), FdFlags::CLOEXEC)?;
    user::write(params, &asked)?;
    Ok(reserved.install(file) as usize)
}

/// What the last two arguments of io_uring_enter(2) say.
#[derive(Default)]
struct Extra {
    mask: UserAddr,
    mask_size: usize,
    deadline_ns: Option<u64>,
}

impl Extra {
    /// `EINVAL`: not the size of the structure. `EFAULT`.
    fn read(flags: EnterFlags, arg: UserAddr, size: usize) -> Result<Self> {
        if !flags.contains(EnterFlags::EXT_ARG) {
            return Ok(Self { mask: arg, mask_size: size, deadline_ns: None });
        }
        if size != size_of::<GeteventsArg>() {
            return Err(Errno::EINVAL);
        }
        let ext: GeteventsArg = user::read(arg)?;
        if ext.min_wait_usec != 0 {
            return Err(Errno::EINVAL);
        }
        let mut deadline_ns = None;
        if ext.ts != 0 {
            let ns = user::read::<Timespec>(UserAddr(ext.ts))?.to_ns()?;
            let from = if flags.contains(EnterFlags::ABS_TIMER) { 0 } else { now_ns() };
            deadline_ns = Some(from.saturating_add(ns));
        }
        Ok(Self { mask: UserAddr(ext.sigmask), mask_size: ext.sigmask_sz as usize, deadline_ns })
    }
}

/// The ring that `fd` names, as the flags of a call say.
fn ring_file(fd: i32, is_registered: bool) -> Result<Arc<File>> {
    let file = io_uring::file(fd, is_registered)?;
    io_uring::ring_of(&file)?;
    Ok(file)
}

/// io_uring_enter(2): gives how many requests were taken; the error of the wait only when that is none.
pub(crate) fn sys_io_uring_enter(
    _cx: &mut Cx<'_>,
    fd: i32,
    to_submit: u32,
    min_complete: u32,
    flags: u32,
    arg: UserAddr,
    size: usize,
) -> Result<usize> {
    let flags = EnterFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
    let file = ring_file(fd, flags.contains(EnterFlags::REGISTERED_RING))?;
    let mut enter = Enter { to_submit, min_complete, flags, deadline_ns: None };
    let taken = io_uring::submit(&file, &enter)?;
    if !flags.contains(EnterFlags::GETEVENTS) || (taken as u32) < to_submit {
        return Ok(taken);
    }
    let waited = Extra::read(flags, arg, size).and_then(|extra| {
        enter.deadline_ns = extra.deadline_ns;
        let mask = call_mask(extra.mask, extra.mask_size)?;
        finish(mask, io_uring::wait(&file, &enter))
    });
    match waited {
        Err(errno) if taken == 0 => Err(errno),
        _ => Ok(taken),
    }
}

/// io_uring_register(2).
pub(crate) fn sys_io_uring_register(
    _cx: &mut Cx<'_>,
    fd: i32,
    opcode: u32,
    arg: UserAddr,
    count: u32,
) -> Result<usize> {
    let file = ring_file(fd, opcode & USE_REGISTERED_RING != 0)?;
    io_uring::register(&file, opcode & !USE_REGISTERED_RING, arg, count)
}
