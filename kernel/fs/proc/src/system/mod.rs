//! The static entries of the root directory: the system as a whole (proc(5)).

mod cpu;
mod kmsg;
mod machine;
mod memory;
mod net;
mod pages;

use crate::node::{Entry, Kind, dir, text};
use crate::sysctl;

/// Files that are there for programs that look for them, and have nothing to tell.
const fn empty(name: &'static str) -> Entry {
    text(name, |_| Ok(()))
}

const fn link(name: &'static str, target: &'static str) -> Entry {
    Entry { name, kind: Kind::Link(target) }
}

const fn private(name: &'static str, mode: u32, show: crate::node::Show) -> Entry {
    Entry { name, kind: Kind::Mode(mode, show) }
}

/// The network's directory, which is in each process's.
pub(crate) static NET: Entry = dir("net", net::ENTRIES);

/// The entries, in the order of a listing.
pub(crate) static ENTRIES: &[Entry] = &[
    text("buddyinfo", memory::buddyinfo),
    text("cgroups", |out| {
        out.push(b"#subsys_name\thierarchy\tnum_cgroups\tenabled\n");
        Ok(())
    }),
    text("cmdline", machine::cmdline),
    text("consoles", machine::consoles),
    text("cpuinfo", cpu::cpuinfo),
    text("devices", machine::devices),
    text("diskstats", |out| crate::extra::show(crate::Extra::DiskStats, out)),
    text("execdomains", machine::execdomains),
    empty("fb"),
    text("filesystems", machine::filesystems),
    text("interrupts", cpu::interrupts),
    text("iomem", machine::iomem),
    empty("ioports"),
    text("kallsyms", machine::kallsyms),
    Entry { name: "kmsg", kind: Kind::Private(kmsg::open) },
    Entry { name: "kpagecount", kind: Kind::Private(pages::open_count) },
    Entry { name: "kpageflags", kind: Kind::Private(pages::open_flags) },
    text("loadavg", cpu::loadavg),
    text("locks", machine::locks),
    text("meminfo", memory::meminfo),
    empty("misc"),
    empty("modules"),
    link("mounts", "self/mounts"),
    link("net", "self/net"),
    private("pagetypeinfo", 0o400, memory::pagetypeinfo),
    text("partitions", |out| crate::extra::show(crate::Extra::Partitions, out)),
    text("softirqs", cpu::softirqs),
    text("stat", cpu::stat),
    text("swaps", memory::swaps),
    dir("sys", sysctl::ENTRIES),
    dir("sysvipc", SYSVIPC),
    dir("tty", TTY),
    text("uptime", cpu::uptime),
    text("version", machine::version),
    text("vmstat", memory::vmstat),
    private("slabinfo", 0o400, memory::slabinfo),
    text("zoneinfo", memory::zoneinfo),
];

static TTY: &[Entry] = &[private("drivers", 0o444, machine::tty_drivers)];

static SYSVIPC: &[Entry] = &[
    text("msg", |out| crate::extra::show(crate::Extra::SysvMsg, out)),
    text("sem", |out| crate::extra::show(crate::Extra::SysvSem, out)),
    text("shm", |out| crate::extra::show(crate::Extra::SysvShm, out)),
];
