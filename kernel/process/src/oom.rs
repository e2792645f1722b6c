//! The choice of a victim when memory runs out.
//!
//! A process's badness is the pages that its end would free, shifted by its `oom_score_adj` in thousandths of all memory. The
//! worst one is killed; one that already dies is waited for instead.
//!
//! Sources: proc_pid_oom_score_adj(5).

use alloc::sync::Arc;
use core::sync::atomic::Ordering::Relaxed;

use mm::oom::{Killer, Verdict};
use mm::sysctl::PANIC_ON_OOM;
use sched::Interruptible;
use security::Cap;

use crate::signal;
use crate::task::{self, Task, TaskFlags};
use crate::{ThreadGroup, pid};

/// The adjustment that makes a process immune.
const NEVER: i32 = -1000;
/// How long the caller waits for the victim to give memory back.
const GRACE_NS: u64 = 10_000_000;

/// Most processes that a report lists.
const MAX_LISTED: usize = 256;

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
    let points =
        i64::try_from(mm.rss_pages() + mm.swap_pages()).unwrap_or(i64::MAX) + i64::from(adj) * (total / 1000);
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

/// `vm.oom_kill_allocating_task`.
fn takes_caller() -> bool {
    mm::sysctl::OOM_KILL_ALLOCATING_TASK.load(Relaxed) != 0
}

/// The name of a program, for the log; takes no memory, of which there is none.
struct Name([u8; 16]);

impl core::fmt::Display for Name {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        for chunk in self.0.split(|&byte| byte == 0).next().unwrap_or_default().utf8_chunks() {
            f.write_str(chunk.valid())?;
        }
        Ok(())
    }
}

fn name(task: &Task) -> Name {
    Name(task.comm())
}

/// Tells in the log why `victim` dies, in the words that programs look for.
fn report(caller: Option<&Task>, victim: &ThreadGroup) {
    const KB: u64 = hal::PAGE_SIZE as u64 / 1024;
    if let Some(caller) = caller {
        let adj = caller.group().oom_score_adj();
        log::warn!("{} invoked oom-killer: order=0, oom_score_adj={adj}", name(caller));
    }
    let stats = hal::frame::stats();
    log::warn!("Mem-Info: total:{}kB free:{}kB", stats.total as u64 * KB, stats.free as u64 * KB);
    if mm::sysctl::OOM_DUMP_TASKS.load(Relaxed) != 0 {
        log::info!("[  pid  ]   uid      rss oom_score_adj name");
        for group in pid::processes().take(MAX_LISTED) {
            let Some(task) = group.live_task() else { continue };
            let Some(mm) = task.mm() else { continue };
            let (uid, adj, rss) = (task.cred().uid, group.oom_score_adj(), mm.rss_pages());
            log::info!("[{:7}] {uid:5} {rss:8} {adj:13} {}", group.pid(), name(&task));
        }
    }
    let Some(task) = victim.live_task() else { return };
    let Some(mm) = task.mm() else { return };
    // Without the lock of the address space: the caller may hold it.
    let [total, anon, file, shmem] = mm.sizes_now().map(|pages| pages * KB);
    log::error!(
        "Out of memory: Killed process {} ({}) total-vm:{total}kB, anon-rss:{anon}kB, file-rss:{file}kB, \
         shmem-rss:{shmem}kB, UID:{} oom_score_adj:{}",
        victim.pid(),
        name(&task),
        task.cred().uid,
        victim.oom_score_adj()
    );
}

fn is_capable(cap: Cap) -> bool {
    task::try_current().is_some_and(|me| me.with_cred(|cred| cred.capable(cap)))
}

impl Killer for OomKiller {
    fn out_of_memory(&self) -> Verdict {
        let me = task::try_current();
        if me.as_ref().is_some_and(|me| me.has(TaskFlags::KILLED)) {
            return Verdict::GiveUp;
        }
        if PANIC_ON_OOM.load(Relaxed) != 0 {
            hal::power::stop("Out of memory: system-wide panic_on_oom is enabled");
        }
        if !someone_is_dying() {
            let own = me.as_ref().map(|me| me.group()).filter(|group| takes_caller() && badness(group) > 0);
            let Some(victim) = own.cloned().or_else(|| worst().map(|(group, _)| group)) else {
                return Verdict::GiveUp;
            };
            report(me.as_deref(), &victim);
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

    fn is_administrator(&self) -> bool {
        is_capable(Cap::SYS_ADMIN)
    }

    fn has_raw_io(&self) -> bool {
        is_capable(Cap::SYS_RAWIO)
    }
}
