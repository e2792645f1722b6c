//! Performance events: perf_event_open(2).
//!
//! Source: perf_event_open(2), linux/perf_event.h of Linux 7.2.

use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `struct perf_event_attr`: what to measure. Fields that Linux has in a union bear the name of the use that is here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PerfEventAttr {
    /// `PERF_TYPE_*`, or the number of a source of events in /sys.
    pub kind: u32,
    /// Bytes of this structure that the program knows.
    pub size: u32,
    /// Which event of the type.
    pub config: u64,
    /// Events from one sample to the next, or samples a second with [`AttrFlags::FREQ`].
    pub sample_period: u64,
    /// [`SampleType`].
    pub sample_type: u64,
    /// [`ReadFormat`].
    pub read_format: u64,
    /// [`AttrFlags`].
    pub flags: u64,
    /// Samples or bytes from one wake-up to the next.
    pub wakeup: u32,
    /// Condition of a breakpoint.
    pub bp_type: u32,
    /// Address of a breakpoint, or of the path of the file of a probe.
    pub config1: u64,
    /// Length of a breakpoint, or offset of a probe.
    pub config2: u64,
    pub branch_sample_type: u64,
    pub sample_regs_user: u64,
    pub sample_stack_user: u32,
    pub clockid: i32,
    pub sample_regs_intr: u64,
    pub aux_watermark: u32,
    pub sample_max_stack: u16,
    pub reserved_2: u16,
    pub aux_sample_size: u32,
    pub aux_action: u32,
    /// What a handler finds in `si_perf_data`.
    pub sig_data: u64,
    pub config3: u64,
    pub config4: u64,
}

/// Size of the first published [`PerfEventAttr`].
pub const ATTR_SIZE_VER0: u32 = 64;
const _: () = assert!(size_of::<PerfEventAttr>() == 144);

/// `PERF_TYPE_*`.
pub mod kind {
    pub const HARDWARE: u32 = 0;
    pub const SOFTWARE: u32 = 1;
    pub const TRACEPOINT: u32 = 2;
    pub const HW_CACHE: u32 = 3;
    pub const RAW: u32 = 4;
    pub const BREAKPOINT: u32 = 5;
}

/// `PERF_COUNT_SW_*`.
pub mod software {
    pub const CPU_CLOCK: u64 = 0;
    pub const TASK_CLOCK: u64 = 1;
    pub const PAGE_FAULTS: u64 = 2;
    pub const CONTEXT_SWITCHES: u64 = 3;
    pub const CPU_MIGRATIONS: u64 = 4;
    pub const PAGE_FAULTS_MIN: u64 = 5;
    pub const PAGE_FAULTS_MAJ: u64 = 6;
    pub const ALIGNMENT_FAULTS: u64 = 7;
    pub const EMULATION_FAULTS: u64 = 8;
    pub const DUMMY: u64 = 9;
    pub const BPF_OUTPUT: u64 = 10;
    pub const CGROUP_SWITCHES: u64 = 11;
}

bitflags! {
    /// The bits of `struct perf_event_attr` that have no field of their own.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct AttrFlags: u64 {
        const DISABLED = 1;
        const INHERIT = 1 << 1;
        const PINNED = 1 << 2;
        const EXCLUSIVE = 1 << 3;
        const EXCLUDE_USER = 1 << 4;
        const EXCLUDE_KERNEL = 1 << 5;
        const EXCLUDE_HV = 1 << 6;
        const EXCLUDE_IDLE = 1 << 7;
        const MMAP = 1 << 8;
        const COMM = 1 << 9;
        const FREQ = 1 << 10;
        const INHERIT_STAT = 1 << 11;
        const ENABLE_ON_EXEC = 1 << 12;
        const TASK = 1 << 13;
        const WATERMARK = 1 << 14;
        /// `precise_ip`, a number of two bits.
        const PRECISE_IP = 3 << 15;
        const MMAP_DATA = 1 << 17;
        const SAMPLE_ID_ALL = 1 << 18;
        const EXCLUDE_HOST = 1 << 19;
        const EXCLUDE_GUEST = 1 << 20;
        const EXCLUDE_CALLCHAIN_KERNEL = 1 << 21;
        const EXCLUDE_CALLCHAIN_USER = 1 << 22;
        const MMAP2 = 1 << 23;
        const COMM_EXEC = 1 << 24;
        const USE_CLOCKID = 1 << 25;
        const CONTEXT_SWITCH = 1 << 26;
        const WRITE_BACKWARD = 1 << 27;
        const NAMESPACES = 1 << 28;
        const KSYMBOL = 1 << 29;
        const BPF_EVENT = 1 << 30;
        const AUX_OUTPUT = 1 << 31;
        const CGROUP = 1 << 32;
        const TEXT_POKE = 1 << 33;
        const BUILD_ID = 1 << 34;
        const INHERIT_THREAD = 1 << 35;
        const REMOVE_ON_EXEC = 1 << 36;
        const SIGTRAP = 1 << 37;
        const DEFER_CALLCHAIN = 1 << 38;
        const DEFER_OUTPUT = 1 << 39;
    }
}

bitflags! {
    /// `PERF_SAMPLE_*`: what a sample tells.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct SampleType: u64 {
        const IP = 1;
        const TID = 1 << 1;
        const TIME = 1 << 2;
        const ADDR = 1 << 3;
        const READ = 1 << 4;
        const CALLCHAIN = 1 << 5;
        const ID = 1 << 6;
        const CPU = 1 << 7;
        const PERIOD = 1 << 8;
        const STREAM_ID = 1 << 9;
        const RAW = 1 << 10;
        const BRANCH_STACK = 1 << 11;
        const REGS_USER = 1 << 12;
        const STACK_USER = 1 << 13;
        const WEIGHT = 1 << 14;
        const DATA_SRC = 1 << 15;
        const IDENTIFIER = 1 << 16;
        const TRANSACTION = 1 << 17;
        const REGS_INTR = 1 << 18;
        const PHYS_ADDR = 1 << 19;
        const AUX = 1 << 20;
        const CGROUP = 1 << 21;
        const DATA_PAGE_SIZE = 1 << 22;
        const CODE_PAGE_SIZE = 1 << 23;
        const WEIGHT_STRUCT = 1 << 24;
    }
}

bitflags! {
    /// `PERF_FORMAT_*`: what read(2) gives.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct ReadFormat: u64 {
        const TOTAL_TIME_ENABLED = 1;
        const TOTAL_TIME_RUNNING = 2;
        const ID = 4;
        const GROUP = 8;
        const LOST = 16;
    }
}

bitflags! {
    /// `PERF_FLAG_*`: the flags of perf_event_open(2).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct OpenFlags: u64 {
        const FD_NO_GROUP = 1;
        const FD_OUTPUT = 2;
        const PID_CGROUP = 4;
        const FD_CLOEXEC = 8;
    }
}

/// `PERF_EVENT_IOC_*`.
pub mod ioc {
    pub const ENABLE: u32 = 0x2400;
    pub const DISABLE: u32 = 0x2401;
    pub const REFRESH: u32 = 0x2402;
    pub const RESET: u32 = 0x2403;
    pub const PERIOD: u32 = 0x4008_2404;
    pub const SET_OUTPUT: u32 = 0x2405;
    pub const SET_FILTER: u32 = 0x4008_2406;
    pub const ID: u32 = 0x8008_2407;
    pub const SET_BPF: u32 = 0x4004_2408;
    pub const PAUSE_OUTPUT: u32 = 0x4004_2409;
    pub const QUERY_BPF: u32 = 0xc008_240a;
    pub const MODIFY_ATTRIBUTES: u32 = 0x4008_240b;
    /// The argument that lets a request count for the whole group.
    pub const FLAG_GROUP: usize = 1;
}
