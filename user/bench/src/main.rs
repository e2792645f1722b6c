//! What an operation costs: one static program that measures Linux and Keel alike.
//!
//! ```text
//! user-bench [--exact] [NAME...] [--rounds N]    NAME: a prefix of group/operation
//! user-bench --list                              names with units and marks
//! user-bench --programs DIR NAME...              scripts, see `program.rs`
//! ```
//!
//! Each operation is one function of the table in its area's file. It runs in a process of its own,
//! so that one that crashes or hangs costs only its line, is warmed up, and is then timed with
//! CLOCK_MONOTONIC over enough rounds; the lowest of five such runs counts, since whatever else the
//! machine does only adds. Under QEMU's `-icount
//! shift=0` a nanosecond is an instruction. Output, one line each:
//!
//! ```text
//! kernel Linux 7.2.0 #1 SMP
//! begin syscall/getppid
//! bench syscall/getppid 123.4 ns
//! bench file/create unsupported ENOSYS
//! ```
//!
//! `--list` marks as `bulk` what mostly clears or copies memory: QEMU counts each repetition of a string
//! instruction as an instruction, which no CPU does, so such rows are judged by time.
//!
//! `sys` has all `unsafe` (raw calls come from `user-sys`); every other file is an area.

mod file;
mod local;
mod memory;
mod net;
mod process;
mod program;
mod rings;
mod scale;
mod start;
mod sys;
mod syscall;

use libc::*;
use sys::{Res, now};
pub use user_sys::sys;

/// Times `rounds` repetitions and returns the nanoseconds that they took; what has to be prepared
/// is outside the measured part.
type Run = fn(rounds: u64) -> Res<u64>;

/// A row of the result.
#[derive(Clone, Copy)]
struct Op {
    group: &'static str,
    name: &'static str,
    /// Unit of the value.
    unit: Unit,
    /// Repetitions in one measurement.
    rounds: u64,
    run: Run,
}

/// How the measured time is shown.
#[derive(Clone, Copy)]
enum Unit {
    /// Nanoseconds for one repetition.
    Ns,
    /// Nanoseconds for each KiB moved, of so many bytes a repetition.
    NsPerKib(u64),
    /// No time: memory.
    Kib,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Unit::Ns => "ns",
            Unit::NsPerKib(_) => "ns/KiB",
            Unit::Kib => "KiB",
        }
    }
}

/// Operations that mostly clear or copy memory.
const BULK: [&str; 8] = [
    "memory/fault-anonymous-huge",
    "local/pipe-64k",
    "local/unix-stream-64k",
    "local/sendfile-64k",
    "local/splice-64k",
    "local/copy_file_range-1m",
    "net/tcp-64k",
    "net/udp-32k",
];

/// Repeats `f` and returns the time; the words `rounds` and `f` read like the operation itself.
fn repeat(rounds: u64, mut f: impl FnMut() -> Res) -> Res<u64> {
    for _ in 0..(rounds / 10).clamp(1, 100) {
        f()?;
    }
    let start = now();
    for _ in 0..rounds {
        f()?;
    }
    Ok(now() - start)
}

fn value(op: &Op, rounds: u64, ns: u64) -> f64 {
    let each = ns as f64 / rounds as f64;
    match op.unit {
        Unit::Ns | Unit::Kib => each,
        Unit::NsPerKib(bytes) => each * 1024.0 / bytes as f64,
    }
}

/// Measures in this process and prints the line.
fn measure(op: &Op, rounds: u64) {
    println!("begin {}/{}", op.group, op.name);
    let mut values = Vec::new();
    let line = loop {
        match (op.run)(rounds) {
            Ok(ns) => values.push(value(op, rounds, ns)),
            Err(e) => break format!("unsupported {e:?}"),
        }
        if values.len() == 5 {
            let best = values.iter().copied().fold(f64::INFINITY, f64::min);
            break format!("{best:.1} {}", op.unit.name());
        }
    };
    println!("bench {}/{} {line}", op.group, op.name);
}

/// Runs the operation in a child with a time limit, and cleans up behind it.
fn run(op: &Op, rounds: Option<u64>) {
    let rounds = rounds.unwrap_or(op.rounds).max(1);
    let full = format!("{}/{}", op.group, op.name);
    let pid = match sys::fork() {
        Err(e) => return println!("bench {full} unsupported {e:?}"),
        Ok(0) => {
            let _ = sys!(SYS_setpgid, 0, 0);
            let _ = sys!(SYS_alarm, 120);
            std::panic::set_hook(Box::new(|info| {
                eprintln!("# {info}");
                sys::exit(101);
            }));
            measure(op, rounds);
            sys::exit(0);
        }
        Ok(pid) => pid,
    };
    let mut status = 0;
    while sys!(SYS_wait4, pid, &mut status, 0, 0) == Err(nix::errno::Errno::EINTR) {}
    let _ = sys!(SYS_kill, -pid, SIGKILL);
    let _ = std::fs::remove_dir_all(file::folder(pid));
    if status != 0 {
        println!("bench {full} failed status {status:#x}");
    }
}

/// Says which kernel this is.
fn announce() {
    if let Ok(name) = nix::sys::utsname::uname() {
        let part = std::ffi::OsStr::to_string_lossy;
        println!("kernel {} {} {}", part(name.sysname()), part(name.release()), part(name.version()));
    }
}

fn main() {
    start::begin();
    if std::env::args().nth(1).as_deref() == Some(process::EXEC_MARK) {
        sys::exit(0);
    }
    let (mut names, mut rounds, mut list, mut exact) = (Vec::new(), None, false, false);
    let mut args = std::env::args().skip(1);
    let mut programs = None;
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--list" => list = true,
            "--programs" => programs = args.next(),
            "--exact" => exact = true,
            "--rounds" => rounds = args.next().and_then(|n| n.parse().ok()),
            _ if arg.starts_with('-') => {
                eprintln!("usage: user-bench [--exact] [NAME...] [--list] [--rounds N]");
                sys::exit(2);
            }
            _ => names.push(arg),
        }
    }
    if !list {
        announce();
        // What a kernel does in the background after boot would be measured with the first rows.
        let _ = sys!(SYS_nanosleep, &timespec { tv_sec: 3, tv_nsec: 0 }, 0);
    }
    if let Some(scripts) = programs {
        return names.iter().for_each(|name| program::run(&scripts, name));
    }
    for op in all() {
        let full = format!("{}/{}", op.group, op.name);
        let is_named = |n: &String| full == *n || (!exact && full.starts_with(n.as_str()));
        if !names.is_empty() && !names.iter().any(is_named) {
            continue;
        }
        if list {
            println!("{full} {}{}", op.unit.name(), if BULK.contains(&full.as_str()) { " bulk" } else { "" });
        } else if op.group == file::EXT4
            && let Err(e) = file::use_disk()
        {
            println!("bench {full} unsupported {e:?}");
        } else {
            run(&op, rounds);
        }
        file::use_memory();
    }
}

/// Every operation, in the order of measurement.
fn all() -> Vec<Op> {
    let groups = [
        start::OPS,
        syscall::OPS,
        process::OPS,
        memory::OPS,
        file::OPS,
        local::OPS,
        rings::OPS,
        net::OPS,
        scale::OPS,
    ];
    let on_disk = file::OPS.iter().map(|op| Op { group: file::EXT4, ..*op });
    groups.into_iter().flatten().copied().chain(on_disk).collect()
}
