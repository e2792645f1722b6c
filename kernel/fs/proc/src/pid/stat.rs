//! /proc/PID/stat and /proc/PID/statm (proc_pid_stat(5), proc_pid_statm(5)).

use abi::Result;
use limits::Resource;
use mm::{Counters, Layout};
use process::usage::{Sum, ticks};
use process::{Task, TaskFlags};
use sched::State;
use vfs::put;
use vfs::text::Text;

use super::Subject;
use crate::node::push_c_string;

/// `PF_EXITING`, `PF_FORKNOEXEC` and `PF_KTHREAD` of field 9.
const PF_EXITING: u32 = 0x4;
const PF_FORKNOEXEC: u32 = 0x40;
const PF_KTHREAD: u32 = 0x20_0000;
/// `PF_RANDOMIZE`: the program's addresses are random, as they are unless personality(2) said otherwise.
const PF_RANDOMIZE: u32 = 0x40_0000;
const ADDR_NO_RANDOMIZE: u32 = 0x4_0000;
/// What a normal thread of nice 0 shows as its priority.
const NICE_0_PRIORITY: i32 = 20;

/// The letter and the word for what a thread does.
pub(super) fn state(task: &Task) -> (char, &'static str) {
    let Some(thread) = task.thread().filter(|_| !task.has(TaskFlags::DEAD)) else { return ('Z', "zombie") };
    if task.has(TaskFlags::TRACE_STOPPED) {
        return ('t', "tracing stop");
    }
    if task.has(TaskFlags::STOPPED) {
        return ('T', "stopped");
    }
    match thread.state() {
        State::Running => ('R', "running"),
        State::Sleeping => ('S', "sleeping"),
        State::DiskSleep => ('D', "disk sleep"),
        State::Dead => ('Z', "zombie"),
    }
}

/// What the process, or the thread alone, has used.
fn usage(subject: &Subject) -> (Sum, Sum) {
    let task = &subject.task;
    if subject.is_whole {
        (task.group().cpu_times(), task.group().children_usage())
    } else {
        (task.usage(), Sum::default())
    }
}

/// Policy, priority and nice value of the thread, and the CPU it is on.
struct Scheduling {
    priority: i32,
    nice: i32,
    cpu: u32,
    rt_priority: u32,
    policy: u32,
}

impl Scheduling {
    fn of(task: &Task) -> Self {
        let Some(thread) = task.thread() else {
            return Self { priority: NICE_0_PRIORITY, nice: 0, cpu: 0, rt_priority: 0, policy: 0 };
        };
        let attributes = thread.attributes();
        let nice = i32::from(attributes.nice);
        let rt = u32::from(attributes.priority);
        let priority = if attributes.policy.is_realtime() {
            -1 - i32::from(attributes.priority)
        } else {
            NICE_0_PRIORITY + nice
        };
        Self { priority, nice, cpu: thread.cpu().0, rt_priority: rt, policy: attributes.policy as u32 }
    }
}

fn flags(task: &Task) -> u32 {
    let mut flags = 0;
    if task.has(TaskFlags::EXITING) {
        flags |= PF_EXITING;
    }
    if task.has(TaskFlags::KERNEL) {
        flags |= PF_KTHREAD;
    }
    if task.has(TaskFlags::FORKNOEXEC) {
        flags |= PF_FORKNOEXEC;
    }
    if task.personality() & ADDR_NO_RANDOMIZE == 0 {
        flags |= PF_RANDOMIZE;
    }
    flags
}

/// Addresses of the layout are for those who may look into the process; others see 0, or 1 where 0 would mean that
/// there is no program.
fn visible_layout(subject: &Subject, layout: Option<Layout>) -> Layout {
    match layout {
        Some(layout) if subject.may_observe() => layout,
        Some(_) => Layout { start_code: 1, end_code: 1, ..Layout::default() },
        None => Layout::default(),
    }
}

/// /proc/PID/stat.
pub(super) fn show(subject: &Subject, out: &mut Text) -> Result<()> {
    let task = &*subject.task;
    let group = task.group();
    let id = if subject.is_whole { group.pid() } else { task.tid() };
    put!(out, "{} (", subject.number(id));
    push_c_string(out, &task.comm());
    let tty = group.pgrp().and_then(|pgrp| pgrp.session().tty());
    let (tty_nr, tpgid) =
        tty.map_or((0, -1), |tty| (old_dev(tty.device()), i64::from(subject.number(tty.foreground_pgid()))));
    let [ppid, pgid, sid] = [group.ppid(), group.pgid(), group.sid()].map(|id| subject.number(id));
    put!(out, ") {} {ppid} {pgid} {sid} {tty_nr} {tpgid}", state(task).0);
    let (own, children) = usage(subject);
    put!(out, " {} {} {} {} {}", flags(task), own.min_flt, children.min_flt, own.maj_flt, children.maj_flt);
    put!(out, " {} {}", ticks(own.utime_ns), ticks(own.stime_ns));
    put!(out, " {} {}", ticks(children.utime_ns), ticks(children.stime_ns));
    let scheduling = Scheduling::of(task);
    let threads = group.nr_threads().max(u32::from(!group.is_zombie()));
    put!(out, " {} {} {threads} 0 {}", scheduling.priority, scheduling.nice, ticks(start_ns(subject)));
    show_memory(subject, out);
    put!(out, " {} {}", group.exit_signal(), scheduling.cpu);
    put!(out, " {} {} 0 0 0", scheduling.rt_priority, scheduling.policy);
    let layout = visible_layout(subject, task.mm().map(|mm| mm.layout()));
    put!(out, " {} {} {}", layout.start_data, layout.end_data, layout.start_brk);
    put!(out, " {} {} {} {}", layout.arg_start, layout.arg_end, layout.env_start, layout.env_end);
    let exit_code = if subject.may_observe() { task.exit_code() } else { 0 };
    put!(out, " {exit_code}\n");
    Ok(())
}

/// When the process, or the thread alone, began.
fn start_ns(subject: &Subject) -> u64 {
    match subject.task.thread() {
        Some(thread) if !subject.is_whole => thread.start_ns(),
        _ => subject.task.group().start_ns(),
    }
}

/// Fields 23 to 37: sizes, addresses, signals.
fn show_memory(subject: &Subject, out: &mut Text) {
    let task = &*subject.task;
    let group = task.group();
    let mm = task.mm();
    let counters = mm.as_ref().map_or(Counters::default(), |mm| mm.counters());
    let page = hal::PAGE_SIZE as u64;
    put!(out, " {} {} {}", counters.total_vm * page, counters.rss(), group.rlimits().cur(Resource::Rss));
    let layout = visible_layout(subject, mm.map(|mm| mm.layout()));
    put!(out, " {} {} {}", layout.start_code, layout.end_code, layout.start_stack);
    // Where it is can be told only while it is being dumped, to those who may look into it.
    let place = subject.may_observe().then(|| process::coredump::place_of(task)).flatten();
    put!(out, " {} {}", place.map_or(0, |place| place.sp), place.map_or(0, |place| place.ip));
    let (ignored, caught) = group.with_hand(process::signal::SigHand::ignored_and_caught);
    // The signals above 31 do not fit these old fields.
    let low = |set: abi::signal::SigSet| set.0 & 0x7fff_ffff;
    put!(out, " {} {} {} {}", low(task.pending_set()), low(task.blocked()), low(ignored), low(caught));
    let sleeps = matches!(state(task).0, 'S' | 'D');
    put!(out, " {} 0 0", u32::from(sleeps));
}

/// A device number in the form that field 7 has: 12 bits of major and 20 of minor, split (kdev_t.h, `new_encode_dev`).
fn old_dev(dev: u64) -> u32 {
    let (major, minor) = (abi::fs::major(dev), abi::fs::minor(dev));
    (minor & 0xff) | (major & 0xfff) << 8 | (minor & 0xf_ff00) << 12
}

/// /proc/PID/statm.
pub(super) fn statm(subject: &Subject, out: &mut Text) -> Result<()> {
    let counters = subject.task.mm().map_or(Counters::default(), |mm| mm.counters());
    let shared = counters.rss_file + counters.rss_shmem;
    let text = code_pages(subject);
    put!(out, "{} {} {shared} {text} 0 ", counters.total_vm, counters.rss());
    put!(out, "{} 0\n", counters.data + counters.stack);
    Ok(())
}

/// Pages of the program's own code.
pub(super) fn code_pages(subject: &Subject) -> u64 {
    let Some(mm) = subject.task.mm() else { return 0 };
    let layout = mm.layout();
    let page = hal::PAGE_SIZE as u64;
    layout.end_code.div_ceil(page).saturating_sub(layout.start_code / page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_have_the_numbers_that_ps_knows() {
        assert_eq!(old_dev(abi::fs::makedev(136, 3)), 34819);
        assert_eq!(old_dev(abi::fs::makedev(4, 64)), 1088);
        assert_eq!(old_dev(abi::fs::makedev(136, 256)), 0x10_8800);
    }
}
