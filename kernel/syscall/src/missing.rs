//! Calls that do not exist: told once for each program, answered with `ENOSYS`.
//!
//! Locks: one sleeping lock around the set of what was told, since a new entry is allocated under it; nothing
//! else nests in it.

use alloc::collections::BTreeSet;

use abi::{Errno, Result};
use sched::Mutex;

use crate::table::TABLE;

/// Most pairs of program and call that are remembered; after that nothing new is told.
const MAX_TOLD: usize = 1024;

/// Program names and call numbers that were told.
static TOLD: Mutex<BTreeSet<([u8; 16], u64)>> = Mutex::new("syscall.missing", BTreeSet::new());

/// Answers system call `nr`, which does not exist.
#[cold]
pub(crate) fn missing(nr: u64) -> Result<usize> {
    let task = process::current();
    let comm = task.comm();
    let is_new = {
        let mut told = TOLD.lock();
        told.len() < MAX_TOLD && told.insert((comm, nr))
    };
    if is_new {
        let len = comm.iter().position(|&byte| byte == 0).unwrap_or(comm.len());
        let program = alloc::string::String::from_utf8_lossy(&comm[..len]);
        match TABLE.get(nr as usize) {
            Some(row) if !row.name.is_empty() => {
                log::info!("{program}[{}]: system call {} is missing", task.pid(), row.name);
            }
            _ => log::info!("{program}[{}]: there is no system call {nr}", task.pid()),
        }
    }
    Err(Errno::ENOSYS)
}
