//! /proc/sys/kernel (proc_sys_kernel(5), random(4)).

use alloc::sync::Arc;
use core::sync::atomic::Ordering::Relaxed;

use abi::{Errno, Result};
use hal::sync::Once;
use ns::uts::{self, Name, UtsNs};
use process::PidNs;
use vfs::put;
use vfs::text::Text;

use super::ipc;
use crate::extra::{self, Extra};
use crate::node::{Entry, Kind, Show, Store, dir, fixed, line, parse, push_c_string};

const fn shown(name: &'static str, show: Show) -> Entry {
    Entry { name, kind: Kind::Shown(show) }
}

const fn tunable(name: &'static str, show: Show, store: Store) -> Entry {
    Entry { name, kind: Kind::Tunable(show, store) }
}

/// `EINVAL`: not an `int`.
fn int(bytes: &[u8]) -> Result<i32> {
    i32::try_from(parse(bytes)?).map_err(|_| Errno::EINVAL)
}

/// The caller's names.
fn uts_ns() -> Arc<UtsNs> {
    process::try_current().map_or_else(|| UtsNs::initial().clone(), |me| me.uts())
}

fn show_name(which: Name, out: &mut Text) -> Result<()> {
    push_c_string(out, &uts_ns().name(which));
    out.push(b"\n");
    Ok(())
}

/// Changes a name to the first line of what was written, cut to what fits.
fn set_name(which: Name, bytes: &[u8]) -> Result<()> {
    let name = line(bytes);
    uts_ns().set_name(which, name.get(..uts::NAME_LEN).unwrap_or(name))
}

/// The caller's pid namespace.
fn pid_ns() -> PidNs {
    process::try_current().map_or(PidNs::INITIAL, |me| me.group().pid_ns().clone())
}

fn set_pid_max(bytes: &[u8]) -> Result<()> {
    pid_ns().set_pid_max(u32::try_from(parse(bytes)?).map_err(|_| Errno::EINVAL)?)
}

/// A random UUID (RFC 9562, version 4).
fn new_uuid() -> [u8; 16] {
    let mut uuid = [0; 16];
    random::fill(&mut uuid);
    uuid[6] = uuid[6] & 0x0f | 0x40;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}

fn put_uuid(out: &mut Text, uuid: &[u8; 16]) {
    for (at, byte) in uuid.iter().enumerate() {
        let dash = if [4, 6, 8, 10].contains(&at) { "-" } else { "" };
        put!(out, "{dash}{byte:02x}");
    }
    out.push(b"\n");
}

static BOOT_ID: Once<[u8; 16]> = Once::new();

/// Console level, and the three other levels of printk.
fn printk(out: &mut Text) -> Result<()> {
    put!(out, "{}", hal::klog::console_level());
    for level in &syslog::LEVELS {
        put!(out, "\t{}", level.load(Relaxed));
    }
    out.push(b"\n");
    Ok(())
}

fn set_printk(bytes: &[u8]) -> Result<()> {
    let words = line(bytes).split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let mut values = [0; 4];
    let mut nr = 0;
    // Checked first: a bad number changes nothing.
    for (value, word) in values.iter_mut().zip(words) {
        *value = u32::try_from(parse(word)?).map_err(|_| Errno::EINVAL)?;
        nr += 1;
    }
    let [console, others @ ..] = values;
    if nr == 0 {
        return Err(Errno::EINVAL);
    }
    hal::klog::set_console_level(u8::try_from(console).unwrap_or(u8::MAX));
    for (level, value) in syslog::LEVELS.iter().zip(others).take(nr - 1) {
        level.store(value, Relaxed);
    }
    Ok(())
}

static RANDOM: &[Entry] = &[
    shown("boot_id", |out| {
        put_uuid(out, BOOT_ID.call_once(new_uuid));
        Ok(())
    }),
    shown("entropy_avail", |out| {
        put!(out, "{}\n", if random::is_seeded() { 256 } else { 0 });
        Ok(())
    }),
    fixed("poolsize", "256"),
    fixed("urandom_min_reseed_secs", "60"),
    shown("uuid", |out| {
        put_uuid(out, &new_uuid());
        Ok(())
    }),
    fixed("write_wakeup_threshold", "256"),
];

static PTY: &[Entry] =
    &[fixed("max", "4096"), shown("nr", |out| extra::show(Extra::PtyCount, out)), fixed("reserve", "1024")];

/// The entries.
pub(super) static ENTRIES: &[Entry] = &[
    fixed("arch", "x86_64"),
    fixed("bootloader_type", "0"),
    fixed("bootloader_version", "0"),
    fixed("cap_last_cap", "40"),
    Entry {
        name: "core_pattern",
        kind: Kind::Tunable(
            |out| {
                push_c_string(out, &coredump::core_pattern());
                out.push(b"\n");
                Ok(())
            },
            |bytes| coredump::set_core_pattern(line(bytes)),
        ),
    },
    fixed("core_pipe_limit", "0"),
    Entry { name: "core_uses_pid", kind: Kind::Number32(&coredump::USES_PID, 0..=u32::MAX) },
    fixed("ctrl-alt-del", "0"),
    Entry { name: "dmesg_restrict", kind: Kind::Number32(&syslog::DMESG_RESTRICT, 0..=1) },
    Entry {
        name: "domainname",
        kind: Kind::Tunable(|out| show_name(Name::Domain, out), |bytes| set_name(Name::Domain, bytes)),
    },
    Entry {
        name: "hostname",
        kind: Kind::Tunable(|out| show_name(Name::Host, out), |bytes| set_name(Name::Host, bytes)),
    },
    Entry { name: "io_uring_disabled", kind: Kind::Number32(&limits::events::IO_URING_DISABLED, 0..=2) },
    tunable(
        "io_uring_group",
        |out| {
            put!(out, "{}\n", limits::events::IO_URING_GROUP.load(Relaxed));
            Ok(())
        },
        |bytes| {
            limits::events::IO_URING_GROUP.store(int(bytes)?, Relaxed);
            Ok(())
        },
    ),
    fixed("kptr_restrict", "0"),
    fixed("modules_disabled", "1"),
    ipc::MSG_NEXT_ID,
    ipc::MSGMAX,
    ipc::MSGMNB,
    ipc::MSGMNI,
    fixed("ngroups_max", "65536"),
    fixed("nmi_watchdog", "0"),
    shown("ns_last_pid", |out| {
        let ns = process::try_current().map(|me| me.group().pid_ns().clone()).unwrap_or_default();
        put!(out, "{}\n", ns.last());
        Ok(())
    }),
    shown("osrelease", |out| {
        put!(out, "{}\n", uts::RELEASE);
        Ok(())
    }),
    fixed("ostype", "Linux"),
    fixed("overflowgid", "65534"),
    fixed("overflowuid", "65534"),
    tunable(
        "panic",
        |out| {
            put!(out, "{}\n", hal::power::panic_seconds());
            Ok(())
        },
        |bytes| {
            hal::power::set_panic_seconds(int(bytes)?);
            Ok(())
        },
    ),
    tunable(
        "panic_on_oops",
        |out| {
            put!(out, "{}\n", u8::from(hal::power::oops_stops()));
            Ok(())
        },
        |bytes| {
            hal::power::set_oops_stops(int(bytes)? != 0);
            Ok(())
        },
    ),
    fixed("panic_on_warn", "0"),
    fixed("perf_cpu_time_max_percent", "25"),
    fixed("perf_event_max_contexts_per_stack", "8"),
    Entry {
        name: "perf_event_max_sample_rate",
        kind: Kind::Number32(&perf::settings::MAX_SAMPLE_RATE, 1..=u32::MAX),
    },
    fixed("perf_event_max_stack", "127"),
    fixed("perf_event_mlock_kb", "516"),
    tunable(
        "perf_event_paranoid",
        |out| {
            put!(out, "{}\n", perf::settings::paranoid());
            Ok(())
        },
        |bytes| {
            perf::settings::set_paranoid(int(bytes)?);
            Ok(())
        },
    ),
    Entry {
        name: "pid_max",
        kind: Kind::Tunable(
            |out| {
                put!(out, "{}\n", pid_ns().pid_max());
                Ok(())
            },
            set_pid_max,
        ),
    },
    fixed("print-fatal-signals", "0"),
    Entry { name: "printk", kind: Kind::Tunable(printk, set_printk) },
    fixed("printk_delay", "0"),
    fixed("printk_devkmsg", "on"),
    dir("pty", PTY),
    dir("random", RANDOM),
    Entry { name: "randomize_va_space", kind: Kind::Number32(&mm::sysctl::RANDOMIZE_VA_SPACE, 0..=2) },
    fixed("sched_autogroup_enabled", "0"),
    tunable(
        "sched_rr_timeslice_ms",
        |out| {
            put!(out, "{}\n", sched::policy::turn_ns() / 1_000_000);
            Ok(())
        },
        |bytes| {
            sched::policy::set_turn_ms(int(bytes)?);
            Ok(())
        },
    ),
    fixed("sched_rt_period_us", "1000000"),
    fixed("sched_rt_runtime_us", "1000000"),
    ipc::SEM,
    ipc::SEM_NEXT_ID,
    ipc::SHM_NEXT_ID,
    ipc::SHM_RMID_FORCED,
    ipc::SHMALL,
    ipc::SHMMAX,
    ipc::SHMMNI,
    fixed("sysctl_writes_strict", "1"),
    fixed("sysrq", "0"),
    fixed("tainted", "0"),
    tunable(
        "threads-max",
        |out| {
            put!(out, "{}\n", process::max_threads());
            Ok(())
        },
        |bytes| process::set_max_threads(u32::try_from(parse(bytes)?).map_err(|_| Errno::EINVAL)?),
    ),
    fixed("timer_migration", "1"),
    fixed("unprivileged_bpf_disabled", "2"),
    shown("version", |out| {
        put!(out, "{}\n", uts::VERSION);
        Ok(())
    }),
    fixed("watchdog", "0"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_are_of_version_4() {
        let mut out = Text::new();
        put_uuid(&mut out, &new_uuid());
        let text = String::from_utf8(out.finish().unwrap()).unwrap();
        assert_eq!(text.len(), 37);
        assert_eq!(text.as_bytes()[14], b'4');
        assert_eq!(text.matches('-').count(), 4);
    }

    #[test]
    fn the_host_name_is_the_first_line() {
        set_name(Name::Host, b"keel\nrest").unwrap();
        let mut out = Text::new();
        show_name(Name::Host, &mut out).unwrap();
        assert_eq!(out.finish().unwrap(), b"keel\n");
    }
}
