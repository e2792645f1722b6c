//! The files of a group: names, modes and text.
//!
//! Source: Documentation/admin-guide/cgroup-v2.rst; order and modes as observed on Linux 7.2.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use abi::fs::S_IFREG;
use abi::{Errno, Result};
use cgroup::{Cgroup, Controllers, Times, pids};
use process::membership;
use vfs::put;
use vfs::text::Text;

use crate::file::{Show, Write};
use crate::{procs, write};

/// Properties of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flags(u8);

impl Flags {
    const NONE: Self = Self(0);
    /// The root has none.
    const NOT_ON_ROOT: Self = Self(1);
    /// Writable from inside a namespace whose root the group is.
    pub(crate) const DELEGATABLE: Self = Self(2);

    pub(crate) fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// A file.
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    pub(crate) flags: Flags,
    /// The controller that has to be on.
    controller: Option<Controllers>,
    pub(crate) show: Option<Show>,
    pub(crate) store: Option<Write>,
}

const fn core_file(name: &'static str, flags: Flags, show: Show, store: Option<Write>) -> Entry {
    Entry { name, flags, controller: None, show: Some(show), store }
}

const fn pids_file(name: &'static str, show: Show, store: Option<Write>) -> Entry {
    Entry { name, flags: Flags::NOT_ON_ROOT, controller: Some(Controllers::PIDS), show: Some(show), store }
}

/// The place of cgroup.procs.
const PROCS: usize = 1;

static ENTRIES: [Entry; 18] = [
    core_file("cgroup.type", Flags::NOT_ON_ROOT, kind, Some(write::kind)),
    core_file("cgroup.procs", Flags::DELEGATABLE, procs::show_processes, Some(procs::move_process)),
    core_file("cgroup.threads", Flags::DELEGATABLE, procs::show_threads, Some(procs::move_thread)),
    core_file("cgroup.controllers", Flags::NONE, controllers, None),
    core_file("cgroup.subtree_control", Flags::DELEGATABLE, subtree_control, Some(write::subtree_control)),
    core_file("cgroup.events", Flags::NOT_ON_ROOT, events, None),
    core_file("cgroup.max.descendants", Flags::NONE, max_descendants, Some(write::max_descendants)),
    core_file("cgroup.max.depth", Flags::NONE, max_depth, Some(write::max_depth)),
    core_file("cgroup.stat", Flags::NONE, stat, None),
    core_file("cgroup.stat.local", Flags::NOT_ON_ROOT, stat_local, None),
    core_file("cgroup.freeze", Flags::NOT_ON_ROOT, freeze, Some(write::freeze)),
    Entry {
        name: "cgroup.kill",
        flags: Flags::NOT_ON_ROOT,
        controller: None,
        show: None,
        store: Some(write::kill),
    },
    core_file("cpu.stat", Flags::NONE, cpu_stat, None),
    pids_file("pids.max", pids_max, Some(write::pids_max)),
    pids_file("pids.current", |group, out| number(group.nr_pids(), out), None),
    pids_file("pids.peak", |group, out| number(group.peak_pids(), out), None),
    pids_file("pids.events", |group, out| pids_events(group, pids::Scope::Subtree, out), None),
    pids_file("pids.events.local", |group, out| pids_events(group, pids::Scope::Local, out), None),
];

impl Entry {
    /// Whether `group` has it now.
    pub(crate) fn is_in(&self, group: &Cgroup) -> bool {
        (!group.is_root() || !self.flags.contains(Flags::NOT_ON_ROOT))
            && self.controller.is_none_or(|controller| group.controllers().contains(controller))
    }

    /// Whether it comes and goes with a controller.
    pub(crate) fn is_of_controller(&self) -> bool {
        self.controller.is_some()
    }

    /// Its place in the table.
    pub(crate) fn index(&self) -> u64 {
        ENTRIES.iter().position(|entry| entry.name == self.name).unwrap_or(0) as u64
    }

    /// Type and permissions.
    pub(crate) fn mode(&self) -> u32 {
        let (reads, writes) = (self.show.is_some(), self.store.is_some());
        S_IFREG | if reads { 0o444 } else { 0 } | if writes { 0o200 } else { 0 }
    }
}

/// The files of `controllers`.
pub(crate) fn of_controllers(controllers: Controllers) -> impl Iterator<Item = &'static Entry> {
    ENTRIES.iter().filter(move |entry| entry.controller.is_some_and(|one| controllers.contains(one)))
}

/// The file called `name`.
pub(crate) fn named(name: &[u8]) -> Option<&'static Entry> {
    ENTRIES.iter().find(|entry| entry.name.as_bytes() == name)
}

/// How many files there can be.
pub(crate) fn nr() -> u64 {
    ENTRIES.len() as u64
}

/// The file at place `index`.
pub(crate) fn at(index: u64) -> Option<&'static Entry> {
    ENTRIES.get(usize::try_from(index).ok()?)
}

/// The name of the file at place `index`.
pub(crate) fn name_of(index: u64) -> Option<&'static str> {
    at(index).map(|entry| entry.name)
}

/// cgroup.procs.
pub(crate) fn procs() -> &'static Entry {
    &ENTRIES[PROCS]
}

fn number(value: u64, out: &mut Text) -> Result<()> {
    put!(out, "{value}\n");
    Ok(())
}

fn number_or_max(value: u64, max: u64, out: &mut Text) -> Result<()> {
    if value == max {
        out.push(b"max\n");
        return Ok(());
    }
    number(value, out)
}

fn kind(group: &Arc<Cgroup>, out: &mut Text) -> Result<()> {
    put!(out, "{}\n", group.kind().name());
    Ok(())
}

fn put_names(set: Controllers, out: &mut Text) {
    let mut separator = "";
    for (_, name) in set.each() {
        put!(out, "{separator}{name}");
        separator = " ";
    }
    if !set.is_empty() {
        out.push(b"\n");
    }
}

fn controllers(group: &Arc<Cgroup>, out: &mut Text) -> Result<()> {
    put_names(group.controllers(), out);
    Ok(())
}

fn subtree_control(group: &Arc<Cgroup>, out: &mut Text) -> Result<()> {
    put_names(group.subtree_control(), out);
    Ok(())
}

fn events(group: &Arc<Cgroup>, out: &mut Text) -> Result<()> {
    let (populated, frozen) = (u8::from(group.is_populated()), u8::from(group.is_frozen()));
    put!(out, "populated {populated}\nfrozen {frozen}\n");
    Ok(())
}

fn limit(value: &AtomicU32, out: &mut Text) -> Result<()> {
    number_or_max(u64::from(value.load(Relaxed)), u64::from(cgroup::NO_LIMIT), out)
}

fn max_descendants(group: &Arc<Cgroup>, out: &mut Text) -> Result<()> {
    limit(group.max_descendants(), out)
}

fn max_depth(group: &Arc<Cgroup>, out: &mut Text) -> Result<()> {
    limit(group.max_depth(), out)
}

fn stat(group: &Arc<Cgroup>, out: &mut Text) -> Result<()> {
    let held = cgroup::lock();
    let (living, dying) = group.nr_descendants();
    put!(out, "nr_descendants {living}\n");
    for (controller, name) in Controllers::all().each() {
        put!(out, "nr_subsys_{name} {}\n", group.nr_with(controller, &held)?);
    }
    put!(out, "nr_dying_descendants {dying}\n");
    for (_, name) in Controllers::all().each() {
        // A controller's part of a removed group is gone with the group's directory.
        put!(out, "nr_dying_subsys_{name} 0\n");
    }
    Ok(())
}

fn stat_local(group: &Arc<Cgroup>, out: &mut Text) -> Result<()> {
    put!(out, "frozen_usec {}\n", group.frozen_ns() / 1000);
    Ok(())
}

fn freeze(group: &Arc<Cgroup>, out: &mut Text) -> Result<()> {
    number(u64::from(group.own_freeze()), out)
}

/// How often [`times`] looks again because tasks ended or moved.
const LOOKS: u32 = 3;

/// What tasks used that are not in `group` or below any more. `ENOMEM`.
fn past_times(group: &Arc<Cgroup>) -> Result<Times> {
    let held = cgroup::lock();
    let groups = group.subtree(&held)?;
    Ok(groups.iter().fold(Times::default(), |sum, below| sum.plus(below.past_times())))
}

/// What all tasks used in `group` and below it; in the machine, for the root.
///
/// The walk over all tasks of the machine, which anybody may ask for, holds up no change of the hierarchy. Who leaves meanwhile
/// is missed, so it looks again then.
fn times(group: &Arc<Cgroup>) -> Result<Times> {
    let mut all = Times::default();
    if group.is_root() {
        let online = hal::cpu::online();
        for cpu in online.iter().map(sched::stats::cpu_stat) {
            all = all.plus(Times {
                user_ns: cpu.user_ns + cpu.nice_ns,
                system_ns: cpu.system_ns,
                nice_ns: cpu.nice_ns,
            });
        }
        return Ok(all);
    }
    let mut past = past_times(group)?;
    for _ in 0..LOOKS {
        all = past;
        membership::each_thread_within(group, |task| all = all.plus(task.cgroup_times()));
        let now = past_times(group)?;
        if now == past {
            break;
        }
        past = now;
    }
    Ok(all)
}

fn cpu_stat(group: &Arc<Cgroup>, out: &mut Text) -> Result<()> {
    let times = times(group)?;
    let usec = |ns: u64| ns / 1000;
    put!(out, "usage_usec {}\n", usec(times.user_ns.saturating_add(times.system_ns)));
    put!(out, "user_usec {}\nsystem_usec {}\n", usec(times.user_ns), usec(times.system_ns));
    put!(out, "nice_usec {}\n", usec(times.nice_ns));
    Ok(())
}

fn pids_max(group: &Arc<Cgroup>, out: &mut Text) -> Result<()> {
    number_or_max(group.max_pids(), pids::NO_LIMIT, out)
}

fn pids_events(group: &Arc<Cgroup>, scope: pids::Scope, out: &mut Text) -> Result<()> {
    put!(out, "max {}\n", group.refused_pids(scope));
    Ok(())
}

/// `EINVAL`: a name that is no controller's.
pub(crate) fn controller(name: &[u8]) -> Result<Controllers> {
    Controllers::named(name).ok_or(Errno::EINVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_have_the_modes_of_linux() {
        let mode = |name: &str| named(name.as_bytes()).map(|entry| entry.mode() & 0o777);
        assert_eq!(mode("cgroup.procs"), Some(0o644));
        assert_eq!(mode("cgroup.events"), Some(0o444));
        assert_eq!(mode("cgroup.kill"), Some(0o200));
        assert_eq!(mode("cgroup.pressure"), None);
        assert_eq!(procs().name, "cgroup.procs");
        assert!(nr() + 1 < cgroup::ID_STEP);
    }

    #[test]
    fn the_root_has_fewer_files() {
        let root = Cgroup::root();
        let is_in = |name: &str| named(name.as_bytes()).is_some_and(|entry| entry.is_in(root));
        assert!(is_in("cgroup.procs") && is_in("cpu.stat") && is_in("cgroup.subtree_control"));
        assert!(!is_in("cgroup.events") && !is_in("cgroup.kill") && !is_in("pids.max"));
    }
}
