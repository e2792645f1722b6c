//! The ends of a machine.

use core::sync::atomic::{AtomicI64, AtomicU8, AtomicU32, Ordering};

use crate::{arch, boot};

/// Seconds until a restart after a panic; what the command line says until somebody sets it.
static PANIC_SECONDS: AtomicI64 = AtomicI64::new(i64::MIN);
/// Whether an oops stops the machine, likewise.
static OOPS_STOPS: AtomicU8 = AtomicU8::new(u8::MAX);

/// Seconds until a restart after a panic: 0 waits for ever, negative restarts at once (`panic=`, `kernel.panic`).
pub fn panic_seconds() -> i64 {
    match PANIC_SECONDS.load(Ordering::Relaxed) {
        i64::MIN => {
            let words = boot::cmdline().split(|byte| *byte == b' ');
            let given = words.filter_map(|word| word.strip_prefix(b"panic=")).next_back();
            given.and_then(|digits| core::str::from_utf8(digits).ok()?.parse().ok()).unwrap_or(0)
        }
        set => set,
    }
}

/// Sets [`panic_seconds`].
pub fn set_panic_seconds(seconds: i32) {
    PANIC_SECONDS.store(i64::from(seconds), Ordering::Relaxed);
}

/// Whether a kernel bug in one thread stops the machine (`oops=panic`, `kernel.panic_on_oops`).
pub fn oops_stops() -> bool {
    match OOPS_STOPS.load(Ordering::Relaxed) {
        u8::MAX => boot::cmdline().split(|byte| *byte == b' ').any(|word| word == b"oops=panic"),
        set => set != 0,
    }
}

/// Sets [`oops_stops`].
pub fn set_oops_stops(stops: bool) {
    OOPS_STOPS.store(u8::from(stops), Ordering::Relaxed);
}

/// Kernel bugs that cost a thread and not the machine.
static NR_OOPSES: AtomicU32 = AtomicU32::new(0);

/// How many kernel bugs there were so far that ended a thread (/sys/kernel/oops_count).
pub fn nr_oopses() -> u32 {
    NR_OOPSES.load(Ordering::Relaxed)
}

/// Counts one.
#[cfg(target_os = "none")]
pub(crate) fn count_oops() {
    NR_OOPSES.fetch_add(1, Ordering::Relaxed);
}

/// Switches the machine off; halts when it cannot.
pub fn power_off() -> ! {
    arch::power::power_off()
}

/// Restarts the machine; halts when it cannot.
pub fn reboot() -> ! {
    arch::power::reboot()
}

/// Stops this and all other CPUs for ever.
pub fn halt() -> ! {
    arch::power::halt()
}

/// Stops the machine with a last message, as a panic that no thread can survive: the end of the first process.
/// `panic=` on the command line restarts it after a while.
pub fn stop(message: &str) -> ! {
    arch::power::stop(message)
}
