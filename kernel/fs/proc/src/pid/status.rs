//! /proc/PID/status (proc_pid_status(5)).

use abi::Result;
use limits::Resource;
use mm::Counters;
use process::pid::numbers_from;
use process::{Task, TaskFlags};
use security::IdKind;
use vfs::put;
use vfs::text::{Text, put_cpu_list, put_cpu_mask};

use super::Subject;
use super::stat::{code_pages, state};

/// Kilobytes in a page.
const KB: u64 = hal::PAGE_SIZE as u64 / 1024;

/// /proc/PID/status.
pub(super) fn show(subject: &Subject, out: &mut Text) -> Result<()> {
    show_identity(subject, out);
    show_ids(subject, out);
    show_memory(subject, out);
    show_signals(subject, out);
    show_rights(&subject.task, out);
    show_scheduling(&subject.task, out);
    Ok(())
}

fn show_identity(subject: &Subject, out: &mut Text) {
    let task = &*subject.task;
    let group = task.group();
    out.push(b"Name:\t");
    let name = task.comm();
    let name = name.split(|&byte| byte == 0).next().unwrap_or(&[]);
    out.push_escaped(name, b"\n");
    out.push(b"\n");
    if let Some(fs) = task.fs() {
        put!(out, "Umask:\t{:04o}\n", fs.umask());
    }
    let (letter, word) = state(task);
    put!(out, "State:\t{letter} ({word})\n");
    put!(out, "Tgid:\t{}\nNgid:\t0\nPid:\t{}\n", subject.number(group.pid()), subject.number(task.tid()));
    put!(out, "PPid:\t{}\n", subject.number(group.ppid()));
    put!(out, "TracerPid:\t{}\n", subject.number(task.tracer_tid()));
}

fn show_ids(subject: &Subject, out: &mut Text) {
    let task = &*subject.task;
    let group = task.group();
    let cred = task.cred();
    let reader = subject.reader_ns();
    for (name, kind, ids) in [
        ("Uid", IdKind::User, [cred.uid, cred.euid, cred.suid, cred.fsuid]),
        ("Gid", IdKind::Group, [cred.gid, cred.egid, cred.sgid, cred.fsgid]),
    ] {
        let [real, effective, saved, files] = ids.map(|id| reader.show(kind, id));
        put!(out, "{name}:\t{real}\t{effective}\t{saved}\t{files}\n");
    }
    put!(out, "FDSize:\t{}\nGroups:\t", task.files().map_or(0, |files| files.capacity()));
    for gid in cred.groups() {
        put!(out, "{} ", reader.show(IdKind::Group, *gid));
    }
    if cred.groups().is_empty() {
        out.push(b" ");
    }
    let numbers =
        [("NStgid", group.pid()), ("NSpid", task.tid()), ("NSpgid", group.pgid()), ("NSsid", group.sid())];
    for (name, global) in numbers {
        put!(out, "\n{name}:");
        numbers_from(global, &subject.ns).into_iter().for_each(|number| put!(out, "\t{number}"));
    }
    put!(out, "\nKthread:\t{}\n", u32::from(task.has(TaskFlags::KERNEL)));
}

fn show_memory(subject: &Subject, out: &mut Text) {
    let Some(mm) = subject.task.mm() else { return };
    let c: Counters = mm.counters();
    let code = code_pages(subject);
    for (name, pages) in [
        ("VmPeak", c.hiwater_vm),
        ("VmSize", c.total_vm),
        ("VmLck", c.locked),
        ("VmPin", 0),
        ("VmHWM", c.hiwater_rss),
        ("VmRSS", c.rss()),
        ("RssAnon", c.rss_anon),
        ("RssFile", c.rss_file),
        ("RssShmem", c.rss_shmem),
        ("VmData", c.data),
        ("VmStk", c.stack),
        ("VmExe", code),
        ("VmLib", c.exec.saturating_sub(code)),
        ("VmPTE", page_table_pages(&c)),
        ("VmSwap", c.swap),
        ("HugetlbPages", c.hugetlb),
    ] {
        put!(out, "{name}:\t{:8} kB\n", pages * KB);
    }
    out.push(b"CoreDumping:\t0\nTHP_enabled:\t0\nuntag_mask:\t0xffffffffffffffff\n");
}

/// Page-table pages at least needed for what is resident: one for each 512 pages, and one of each upper level.
fn page_table_pages(counters: &Counters) -> u64 {
    counters.rss().div_ceil(512) + 3
}

fn show_signals(subject: &Subject, out: &mut Text) {
    let task = &*subject.task;
    let group = task.group();
    let limit = group.rlimits().cur(Resource::Sigpending);
    put!(out, "Threads:\t{}\nSigQ:\t{}/{limit}\n", group.nr_threads(), task.queued_signals());
    let (ignored, caught) = group.with_hand(process::signal::SigHand::ignored_and_caught);
    put!(out, "SigPnd:\t{:016x}\nShdPnd:\t{:016x}\n", task.pending_set().0, group.shared_set().0);
    put!(out, "SigBlk:\t{:016x}\nSigIgn:\t{:016x}\n", task.blocked().0, ignored.0);
    put!(out, "SigCgt:\t{:016x}\n", caught.0);
}

fn show_rights(task: &Task, out: &mut Text) {
    let cred = task.cred();
    for (name, set) in [
        ("CapInh", cred.inheritable),
        ("CapPrm", cred.permitted),
        ("CapEff", cred.effective),
        ("CapBnd", cred.bounding),
        ("CapAmb", cred.ambient),
    ] {
        put!(out, "{name}:\t{:016x}\n", set.bits());
    }
    let (mode, filters) = task.seccomp().map_or((0, 0), |state| (state.mode as u8, state.nr_filters));
    put!(out, "NoNewPrivs:\t{}\n", u32::from(task.no_new_privs()));
    put!(out, "Seccomp:\t{mode}\nSeccomp_filters:\t{filters}\n");
    out.push(b"Speculation_Store_Bypass:\tunknown\nSpeculationIndirectBranch:\tunknown\n");
}

fn show_scheduling(task: &Task, out: &mut Text) {
    let online = hal::cpu::online();
    let thread = task.thread();
    let allowed = thread.as_ref().map_or(online, |thread| thread.affinity().and(online));
    out.push(b"Cpus_allowed:\t");
    put_cpu_mask(out, allowed, hal::cpu::nr_cpus());
    out.push(b"\nCpus_allowed_list:\t");
    put_cpu_list(out, allowed);
    out.push(b"\nMems_allowed:\t1\nMems_allowed_list:\t0\n");
    let (voluntary, forced) = thread.map_or((0, 0), |thread| thread.switches());
    put!(out, "voluntary_ctxt_switches:\t{voluntary}\nnonvoluntary_ctxt_switches:\t{forced}\n");
    out.push(b"x86_Thread_features:\t\nx86_Thread_features_locked:\t\n");
}
