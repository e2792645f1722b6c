//! Programs that the kernel itself starts, as root and as children of the first process, which need not wait for them.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;

use abi::{Errno, Result};
use hal::trap::UserRegs;
use vfs::{FdFlags, FdTable, File};

use crate::family::{self, adopt};
use crate::unforked::{Plan, Unforked};
use crate::{exec, exit, pgrp};

/// The environment of such programs.
const ENVIRONMENT: [&[u8]; 2] = [b"HOME=/", b"PATH=/sbin:/bin:/usr/sbin:/usr/bin"];

/// Starts the program `args[0]` with `stdin` as its only descriptor. That it can be executed is not known yet: if it cannot,
/// it ends at once and closes its descriptor.
pub fn spawn(args: Vec<Vec<u8>>, stdin: Arc<File>) -> Result<()> {
    let init = family::init().ok_or(Errno::ESRCH)?;
    let first = init.live_task().ok_or(Errno::ESRCH)?;
    let home = init.pgrp().ok_or(Errno::ESRCH)?;
    let fs = first.fs().ok_or(Errno::ESRCH)?.fork();
    let files = FdTable::new()?;
    files.insert(stdin, 0, 1, FdFlags::empty())?;
    let (name, comm) = ("kernel-helper", *b"kernel-helper\0\0\0");
    let helper = Unforked::new(Plan { name, comm, ppid: init.pid(), exit_signal: 0, fs, files })?;
    helper.group().reaps_itself.store(true, Relaxed);
    // Its own end must not start the next one.
    helper.group().rlimits().clamp(limits::Resource::Core, 1);
    let start = move || {
        let path = args.first().cloned().unwrap_or_default();
        let words: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
        let outcome = exec::exec_first(&path, &words, &ENVIRONMENT);
        drop((path, words));
        drop(args);
        outcome.unwrap_or_else(|_| exit::exit_thread(127 << 8, &mut UserRegs::default()))
    };
    helper.start(start, |group, tree| {
        adopt(init, group, tree);
        pgrp::join(group, &home, tree);
    })
}
