//! The choice of a victim when memory runs out.
//!
//! A process's badness is the pages that its end would free, shifted by its `oom_score_adj` in thousandths of all memory. The
//! worst one is killed; one that already dies is waited for instead.
//!
//! Sources: proc_pid_oom_score_adj(5).

use alloc::sync::Arc;

use mm::oom::{Killer, Verdict};
use sched::Interruptible;

use crate::signal;
use crate::task::{self, TaskFlags};
use crate::{ThreadGroup, pid};

/// The adjustment that makes a process immune.
const NEVER: i32 = -1000;
/// How long the caller waits for the victim to give memory back.
const GRACE_NS: u64 = 10_000_000;

/// The OOM killer, for `mm::oom::register_killer`.
pub struct OomKiller;

/// The one killer.
pub static OOM_KILLER: OomKiller = OomKiller;

/// How bad `group` is: 0 for one that must not be killed.
pub fn badness(group: &ThreadGroup) -> u64 {
    let adj = group.oom_score_adj();
    if group.is_init() || adj == NEVER || group.is_zombie() {
        return 0;
    }
    let Some(mm) = group.live_task().and_then(|task| task.mm()) else { return 0 };
    let total = i64::try_from(hal::frame::stats().total).unwrap_or(i64::MAX);
    let points = i64::try_from(mm.rss_pages()).unwrap_or(i64::MAX) + i64::from(adj) * (total / 1000);
    u64::try_from(points.max(1)).unwrap_or(1)
}

/// /proc/PID/oom_score: badness in thousandths of all memory, as Linux scales it.
pub fn score(group: &ThreadGroup) -> u64 {
    let total = (hal::frame::stats().total as u64).max(1);
    match badness(group) {
        0 => 0,
        points => (1000 + points.saturating_mul(1000) / total) * 2 / 3,
    }
}

/// The process with the highest badness.
fn worst() -> Option<(Arc<ThreadGroup>, u64)> {
    let rated = pid::processes().map(|group| {
        let points = badness(&group);
        (group, points)
    });
    rated.filter(|(_, points)| *points > 0).max_by_key(|(_, points)| *points)
}

/// Whether a process is being killed already, so that memory will come.
fn someone_is_dying() -> bool {
    pid::processes().any(|group| {
        let is_killed = group.sig.lock().exit.is_some();
        is_killed && !group.is_zombie() && group.live_task().is_some_and(|task| task.mm().is_some())
    })
}

impl Killer for OomKiller {
    fn out_of_memory(&self) -> Verdict {
        let me = task::try_current();
        if me.as_ref().is_some_and(|me| me.has(TaskFlags::KILLED)) {
            return Verdict::GiveUp;
        }
        if !someone_is_dying() {
            let Some((victim, points)) = worst() else { return Verdict::GiveUp };
            log::error!("Out of memory: Killed process {} ({} pages)", victim.pid(), points);
            signal::kill_process(&victim);
            if me.as_ref().is_some_and(|me| Arc::ptr_eq(me.group(), &victim)) {
                return Verdict::GiveUp;
            }
        }
        let until = hal::time::now_ns().saturating_add(GRACE_NS);
        // Killed meanwhile: then the caller itself is what has to go.
        match sched::sleep_until(until, Interruptible::Killable) {
            Ok(()) => Verdict::Retry,
            Err(_) => Verdict::GiveUp,
        }
    }
}
