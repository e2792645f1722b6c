//! /proc/sysvipc (sysvipc(7)): one line for each object of the reader's namespace.

use abi::Result;
use process::try_current;
use vfs::put;
use vfs::text::Text;

use crate::state::current;

/// Key, owner and mode in `struct ipc64_perm`.
const KEY: usize = 0;
const UID: usize = 1;
const GID: usize = 2;
const CUID: usize = 3;
const CGID: usize = 4;
const MODE: usize = 5;

fn reader() -> security::UserNs {
    try_current().map(|task| task.cred().user_ns.clone()).unwrap_or_default()
}

/// The lines of /proc/sysvipc/sem.
pub fn sem(out: &mut Text) -> Result<()> {
    let (_, ipc) = current()?;
    for set in ipc.sems.all() {
        let info = set.info(&reader());
        let perm = info.perm;
        put!(out, "{:10} {:10}  {:4o} {:10}", perm[KEY] as i32, info.id, perm[MODE], info.count);
        put!(out, " {:5} {:5} {:5} {:5}", perm[UID], perm[GID], perm[CUID], perm[CGID]);
        put!(out, " {:10} {:10}\n", info.otime, info.ctime);
    }
    Ok(())
}

/// The lines of /proc/sysvipc/msg.
pub fn msg(out: &mut Text) -> Result<()> {
    let (_, ipc) = current()?;
    for queue in ipc.queues.all() {
        let info = queue.info(&reader());
        let perm = info.perm;
        put!(out, "{:10} {:10}  {:4o}", perm[KEY] as i32, info.id, perm[MODE]);
        put!(out, "  {:10} {:10} {:5} {:5}", info.counts[0], info.counts[1], info.pids[0], info.pids[1]);
        put!(out, " {:5} {:5} {:5} {:5}", perm[UID], perm[GID], perm[CUID], perm[CGID]);
        put!(out, " {:10} {:10} {:10}\n", info.times[0], info.times[1], info.times[2]);
    }
    Ok(())
}

/// The lines of /proc/sysvipc/shm.
pub fn shm(out: &mut Text) -> Result<()> {
    let (_, ipc) = current()?;
    for segment in ipc.segments.all() {
        let info = segment.info(&reader());
        let perm = info.perm;
        put!(out, "{:10} {:10}  {:4o} {:21}", perm[KEY] as i32, info.id, perm[MODE], info.size);
        put!(out, " {:5} {:5}  {:5}", info.pids[0], info.pids[1], info.attached);
        put!(out, " {:5} {:5} {:5} {:5}", perm[UID], perm[GID], perm[CUID], perm[CGID]);
        put!(out, " {:10} {:10} {:10}", info.times[0], info.times[1], info.times[2]);
        let page = hal::PAGE_SIZE as u64;
        put!(out, " {:21} {:21}\n", info.resident * page, info.swapped * page);
    }
    Ok(())
}
