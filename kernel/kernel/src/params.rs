//! The parameters on the kernel command line that the boot order itself obeys.
//!
//! hal reads `mem=`, `nokaslr`, `panic=` and what is about clocks for itself, before this code runs.

use alloc::string::String;
use alloc::vec::Vec;

use hal::klog;

/// What the command line asks for.
pub(crate) struct Params {
    /// `rdinit=`, the first program of the initramfs.
    pub rdinit: String,
    /// `init=`, the first program of the root file system.
    pub init: Option<String>,
    /// `maxcpus=` and `nosmp`.
    pub max_cpus: usize,
    /// The last `console=`, without its options.
    pub console: Option<String>,
    /// `root=`, the device of the root file system.
    pub root: Option<String>,
    /// `rootfstype=`, the types to try, separated by commas.
    pub root_types: Option<String>,
    /// `rootflags=`, options of the root file system.
    pub root_flags: String,
    /// `rootwait`: the root's device may come late.
    pub root_wait: bool,
    /// `rw`, against `ro`.
    pub root_writable: bool,
    /// `virtio_mmio.device=`, each a device as `<size>@<base>:<irq>[:<id>]`.
    pub virtio_mmio: Vec<String>,
    /// `hugepages=`, after `hugepagesz=` or `default_hugepagesz=`: huge pages in the pool from the start.
    pub huge_pages: u64,
    /// Whether `hugepages=` is about pages of a size that there is.
    has_huge_size: bool,
    /// Words for the first program: those after `--` and those that the kernel does not know.
    pub init_args: Vec<String>,
    /// `name=value` words that the kernel does not know: the first program's environment.
    pub init_env: Vec<String>,
}

/// Parameters that are known and either obeyed elsewhere or without effect here.
const KNOWN: &[&str] = &[
    "mem",
    "nokaslr",
    "kaslr",
    "panic",
    "oops",
    "mitigations",
    "earlyprintk",
    "earlycon",
    "nr_cpus",
    "reboot",
    "acpi",
    "noapic",
    "nolapic",
    "tsc",
    "clocksource",
    "hpet",
    "nohpet",
    "no-kvmclock",
    "random.trust_cpu",
    "init_on_alloc",
    "init_on_free",
    "8250.nr_uarts",
    "no_timer_check",
    "debug",
    "quiet",
    "loglevel",
    "ignore_loglevel",
    "printk.time",
    "nosmp",
    "maxcpus",
    "console",
    "init",
    "rdinit",
    "BOOT_IMAGE",
    "initrd",
    "no5lvl",
    "selinux",
    "apparmor",
    "audit",
    "net.ifnames",
    "kernel.panic",
];

impl Params {
    /// Reads the command line; what decides about the log takes effect at once.
    pub fn parse(line: &str) -> Self {
        let mut params = Self {
            rdinit: String::from("/init"),
            init: None,
            max_cpus: hal::cpu::MAX_CPUS,
            console: None,
            root: None,
            root_types: None,
            root_flags: String::new(),
            root_wait: false,
            root_writable: false,
            virtio_mmio: Vec::new(),
            huge_pages: 0,
            has_huge_size: true,
            init_args: cmdline::init_args(line).map(String::from).collect(),
            init_env: Vec::new(),
        };
        for param in cmdline::params(line) {
            params.take(&param);
        }
        params
    }

    fn take(&mut self, param: &cmdline::Param<'_>) {
        let value = param.value.unwrap_or_default();
        if param.is("rdinit") {
            self.rdinit = String::from(value);
        } else if param.is("init") {
            self.init = Some(String::from(value));
        } else if param.is("nosmp") {
            self.max_cpus = 1;
        } else if param.is("maxcpus") || param.is("nr_cpus") {
            self.max_cpus = value.parse::<usize>().unwrap_or(self.max_cpus).clamp(1, hal::cpu::MAX_CPUS);
        } else if param.is("console") {
            self.console = value.split(',').next().map(String::from);
        } else if param.is("root") {
            self.root = Some(String::from(value));
        } else if param.is("rootfstype") {
            self.root_types = Some(String::from(value));
        } else if param.is("rootflags") {
            self.root_flags = String::from(value);
        } else if param.is("rootwait") {
            self.root_wait = true;
        } else if param.is("ro") || param.is("rw") {
            self.root_writable = param.is("rw");
        } else if param.is("virtio_mmio.device") {
            self.virtio_mmio.push(String::from(value));
        } else if param.is("fail_page_alloc") {
            if !process::failing::set_from_boot(value) {
                log::warn!("fail_page_alloc={value}: not four numbers");
            }
        } else if param.is("transparent_hugepage") {
            if mm::thp::settings::enabled().set(value).is_err() {
                log::warn!("transparent_hugepage={value}: always, madvise or never");
            }
        } else if param.is("hugepages") {
            // A count, or counts by node: `0:count`.
            let count = value.split(',').find_map(|part| part.strip_prefix("0:")).unwrap_or(value);
            if self.has_huge_size {
                self.huge_pages = count.parse().unwrap_or(self.huge_pages);
            }
        } else if param.is("hugepagesz") || param.is("default_hugepagesz") {
            let is_known = ["2M", "2m", "2048K", "2048k", "2097152"].contains(&value);
            self.has_huge_size = is_known || (self.has_huge_size && param.is("default_hugepagesz"));
        } else if param.is("quiet") {
            klog::set_console_level(4);
        } else if param.is("debug") {
            klog::set_console_level(8);
        } else if param.is("loglevel") {
            klog::set_console_level(value.parse().unwrap_or(7));
        } else if KNOWN.iter().all(|known| !param.is(known)) && !param.name.contains('.') {
            let words = if param.value.is_some() { &mut self.init_env } else { &mut self.init_args };
            words.push(String::from(param.word));
        }
    }
}
