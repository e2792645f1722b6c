//! What can be counted.

use abi::perf::{PerfEventAttr, kind, software};
use abi::{Errno, Result};

/// One kind of event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nanoseconds on a CPU (`PERF_COUNT_SW_CPU_CLOCK`, `PERF_COUNT_SW_TASK_CLOCK`).
    Clock,
    /// Page faults of all kinds.
    Faults,
    /// Those that needed no device.
    MinorFaults,
    /// Those that waited for a device.
    MajorFaults,
    /// Times that a task left the CPU.
    Switches,
    /// Times that a task came to another CPU than before.
    Migrations,
    /// Executions of the probe of this number, or returns of its function.
    Probe(u64, bool),
    /// What this machine never has, or what never happens (`PERF_COUNT_SW_DUMMY`).
    Nothing,
}

impl Source {
    /// What `attr` asks for. `ENOENT`: there is no such event.
    pub(crate) fn of(attr: &PerfEventAttr) -> Result<Self> {
        if attr.kind != kind::SOFTWARE {
            return Err(Errno::ENOENT);
        }
        Ok(match attr.config {
            software::CPU_CLOCK | software::TASK_CLOCK => Self::Clock,
            software::PAGE_FAULTS => Self::Faults,
            software::PAGE_FAULTS_MIN => Self::MinorFaults,
            software::PAGE_FAULTS_MAJ => Self::MajorFaults,
            software::CONTEXT_SWITCHES => Self::Switches,
            software::CPU_MIGRATIONS => Self::Migrations,
            software::ALIGNMENT_FAULTS
            | software::EMULATION_FAULTS
            | software::DUMMY
            | software::BPF_OUTPUT
            | software::CGROUP_SWITCHES => Self::Nothing,
            _ => return Err(Errno::ENOENT),
        })
    }

    /// Whether page faults must be told for it.
    pub(crate) fn wants_faults(self) -> bool {
        matches!(self, Self::Faults | Self::MinorFaults | Self::MajorFaults)
    }
}

/// A source of events as /sys/bus/event_source shows it: its name, its `type`, and the files of its `format`.
pub struct Pmu {
    /// The name of its directory.
    pub name: &'static str,
    /// What `PerfEventAttr::kind` says for it.
    pub kind: u32,
    /// Name and text of each parameter.
    pub format: &'static [(&'static str, &'static str)],
}

/// The sources of this kernel.
pub static PMUS: &[Pmu] = &[
    Pmu { name: "software", kind: kind::SOFTWARE, format: &[] },
    Pmu { name: "uprobe", kind: crate::uprobe::KIND, format: &[("retprobe", "config:0")] },
];
