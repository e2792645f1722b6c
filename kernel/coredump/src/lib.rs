#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod image;
mod notes;
mod pattern;
mod sink;
mod socket;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use abi::{Errno, Result};
use hal::sync::SpinLock;
use limits::Resource;
use process::coredump::CoreDump;

use crate::pattern::Place;

/// Longest kernel.core_pattern.
const PATTERN_MAX: usize = 127;

/// kernel.core_pattern, up to the first NUL.
static PATTERN: SpinLock<[u8; PATTERN_MAX + 1]> = SpinLock::new("coredump.pattern", initial_pattern());
/// kernel.core_uses_pid.
pub static USES_PID: AtomicU32 = AtomicU32::new(0);

const fn initial_pattern() -> [u8; PATTERN_MAX + 1] {
    let mut pattern = [0; PATTERN_MAX + 1];
    let name = b"core";
    let mut at = 0;
    while at < name.len() {
        pattern[at] = name[at];
        at += 1;
    }
    pattern
}

/// kernel.core_pattern.
pub fn core_pattern() -> Vec<u8> {
    let pattern = *PATTERN.lock();
    pattern.iter().copied().take_while(|&byte| byte != 0).collect()
}

/// Sets kernel.core_pattern, cut to what fits. `EINVAL`: a program that is no absolute path, or a socket that is none or
/// that the caller sees in another mount namespace than the first process.
pub fn set_core_pattern(text: &[u8]) -> Result<()> {
    let text = text.get(..PATTERN_MAX).unwrap_or(text);
    let is_valid = match text.first() {
        Some(b'|') => text.get(1) == Some(&b'/'),
        Some(b'@') => {
            pattern::socket(text).is_some_and(|(path, _)| socket::is_valid(path)) && sees_first_mounts()
        }
        _ => true,
    };
    if !is_valid {
        return Err(Errno::EINVAL);
    }
    let mut pattern = [0; PATTERN_MAX + 1];
    for (to, &from) in pattern.iter_mut().zip(text) {
        *to = from;
    }
    *PATTERN.lock() = pattern;
    Ok(())
}

/// Whether the caller is in the mount namespace of the first process.
fn sees_first_mounts() -> bool {
    let of = |task: &process::Task| task.fs().and_then(|fs| fs.ns());
    let first = process::pid::find_task_global(1).and_then(|init| of(&init));
    let own = process::try_current().and_then(|task| of(&task));
    first.zip(own).is_some_and(|(first, own)| Arc::ptr_eq(&first, &own))
}

/// What `process` calls.
struct Dumper;

impl process::coredump::Hooks for Dumper {
    fn is_wanted(&self, task: &process::Task) -> bool {
        let limit = task.group().rlimits().cur(Resource::Core);
        let first = PATTERN.lock().first().copied();
        match first {
            // A program that handles dumps runs with a limit of 1, so that its own end starts no other.
            Some(b'|') => limit != 1,
            Some(b'@') => true,
            _ => limit >= hal::PAGE_SIZE as u64,
        }
    }

    fn dump(&self, dump: &CoreDump<'_>) -> bool {
        let opened = match sink::place(dump) {
            Ok(Place::Socket { path, asks }) => {
                let done = socket::dump(dump, &path, asks);
                report(dump, done.as_ref().err());
                // A server that closed the connection early had its dump.
                return done.unwrap_or_else(|errno| errno == Errno::EPIPE);
            }
            Ok(Place::File(name)) => sink::open(dump, &name),
            Ok(Place::Program(args)) => sink::start(args),
            Err(errno) => Err(errno),
        };
        let is_open = opened.is_ok();
        let written = opened.and_then(|mut sink| image::write(dump, &mut sink));
        report(dump, written.as_ref().err());
        // As on Linux, also of a part: the program that a pipe leads to need not read it all.
        is_open
    }
}

/// Tells the log why the dump is not complete.
fn report(dump: &CoreDump<'_>, errno: Option<&Errno>) {
    let Some(errno) = errno else { return };
    let name = dump.task.comm();
    let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
    let name = alloc::string::String::from_utf8_lossy(name).into_owned();
    log::info!("{name}[{}]: the core is not complete: {errno:?}", dump.task.pid());
}

/// Registers the dumper. Call it once at boot.
pub fn init() {
    process::coredump::register(&Dumper);
}

/// Whether core_uses_pid is on.
pub(crate) fn uses_pid() -> bool {
    USES_PID.load(Relaxed) != 0
}
