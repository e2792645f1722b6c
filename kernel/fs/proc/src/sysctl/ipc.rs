//! Limits of System V objects and POSIX message queues in the reader's IPC namespace (proc_sys_kernel(5), mq_overview(7)).

use core::sync::atomic::Ordering::Relaxed;

use abi::{Errno, Result};
use ipc::{ObjectKind, current};
use vfs::put;
use vfs::text::Text;

use crate::node::{Entry, Kind, parse};

/// A tunable that is a field of `ipc::Ipc`, with the values that it takes.
macro_rules! limit {
    ($name:literal, $ty:ty, $range:expr, $($field:tt)+) => {
        Entry {
            name: $name,
            kind: Kind::Tunable(
                |out| {
                    put!(out, "{}\n", current()?.1.$($field)+.load(Relaxed));
                    Ok(())
                },
                |bytes| {
                    let new = <$ty>::try_from(parse_wide(bytes)?).map_err(|_| Errno::EINVAL)?;
                    if !($range).contains(&new) {
                        return Err(Errno::EINVAL);
                    }
                    current()?.1.$($field)+.store(new, Relaxed);
                    Ok(())
                },
            ),
        }
    };
}

/// The identifier that the next object of a kind shall get.
macro_rules! next_id {
    ($name:literal, $kind:expr) => {
        Entry {
            name: $name,
            kind: Kind::Tunable(
                |out| {
                    put!(out, "{}\n", current()?.1.next_id($kind));
                    Ok(())
                },
                |bytes| {
                    let id = i32::try_from(parse(bytes)?).map_err(|_| Errno::EINVAL)?;
                    current()?.1.set_next_id($kind, id)
                },
            ),
        }
    };
}

/// A number that may be as large as `ULONG_MAX`.
fn parse_wide(bytes: &[u8]) -> Result<i128> {
    match parse(bytes) {
        Ok(number) => Ok(i128::from(number)),
        Err(errno) => {
            let text = core::str::from_utf8(bytes).map_err(|_| errno)?;
            text.trim_end_matches('\0').trim().parse::<u64>().map(i128::from).map_err(|_| errno)
        }
    }
}

const MAX: u32 = i32::MAX as u32;
/// Most System V objects of one kind (`IPCMNI`).
const MAX_OBJECTS: u32 = 32768;

/// kernel.sem: four numbers.
fn sem(out: &mut Text) -> Result<()> {
    let (_, ipc) = current()?;
    let [per_set, in_all, per_call, sets] = [0, 1, 2, 3].map(|at| ipc.sem_limits[at].load(Relaxed));
    put!(out, "{per_set}\t{in_all}\t{per_call}\t{sets}\n");
    Ok(())
}

/// Sets as many of them as are given. `EINVAL`: no numbers, or too many sets.
fn set_sem(bytes: &[u8]) -> Result<()> {
    let (_, ipc) = current()?;
    let text = core::str::from_utf8(bytes).map_err(|_| Errno::EINVAL)?;
    let mut new = [0, 1, 2, 3].map(|at| ipc.sem_limits[at].load(Relaxed));
    for (place, word) in new.iter_mut().zip(text.trim_end_matches('\0').split_ascii_whitespace()) {
        *place = word.parse().ok().filter(|number| *number <= MAX).ok_or(Errno::EINVAL)?;
    }
    if new[3] > MAX_OBJECTS {
        return Err(Errno::EINVAL);
    }
    for (limit, new) in ipc.sem_limits.iter().zip(new) {
        limit.store(new, Relaxed);
    }
    Ok(())
}

/// What /proc/sys/kernel has of them.
pub(super) const SEM: Entry = Entry { name: "sem", kind: Kind::Tunable(sem, set_sem) };
pub(super) const SEM_NEXT_ID: Entry = next_id!("sem_next_id", ObjectKind::Semaphores);
pub(super) const MSG_NEXT_ID: Entry = next_id!("msg_next_id", ObjectKind::Messages);
pub(super) const SHM_NEXT_ID: Entry = next_id!("shm_next_id", ObjectKind::Memory);
pub(super) const MSGMAX: Entry = limit!("msgmax", u32, 0..=MAX, msg_max);
pub(super) const MSGMNB: Entry = limit!("msgmnb", u32, 0..=MAX, msg_mnb);
pub(super) const MSGMNI: Entry = limit!("msgmni", u32, 0..=MAX_OBJECTS, msg_mni);
pub(super) const SHMMAX: Entry = limit!("shmmax", u64, 0..=u64::MAX, shm_max);
pub(super) const SHMALL: Entry = limit!("shmall", u64, 0..=u64::MAX, shm_all);
pub(super) const SHMMNI: Entry = limit!("shmmni", u32, 0..=MAX_OBJECTS, shm_mni);
pub(super) const SHM_RMID_FORCED: Entry = limit!("shm_rmid_forced", u32, 0..=1, shm_rmid_forced);

/// What is in /proc/sys/fs/mqueue.
pub(super) static MQUEUE: &[Entry] = &[
    limit!("msg_default", u32, 1..=65536, mq.msg_default),
    limit!("msg_max", u32, 1..=65536, mq.msg_max),
    limit!("msgsize_default", u32, 128..=16 << 20, mq.msgsize_default),
    limit!("msgsize_max", u32, 128..=16 << 20, mq.msgsize_max),
    limit!("queues_max", u32, 0..=MAX, mq.queues_max),
];
