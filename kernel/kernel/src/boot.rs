//! The boot order, from hal's hand-over to the first process.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::fs::{OpenFlags, S_IFCHR, makedev};
use abi::{Errno, Result};
use hal::trap::UserRegs;
use hal::vdso::{self, ClockData};
use security::Cred;
use vfs::{At, FdFlags, FdTable, FsContext, Mount, MountFlags, MountNs, Path, WalkContext, WalkFlags};

use crate::params::Params;
use crate::{devices, root, upcalls};

/// How long a terminal of the hypervisor that is to be the console may take to come.
const CONSOLE_NS: u64 = 2_000_000_000;
/// Most descriptors of the first process while it is set up.
const NOFILE: usize = 1024;

/// Brings the system up. hal calls it on the boot CPU, whose idle thread it becomes.
pub(crate) fn main() -> ! {
    upcalls::register();
    log::info!("Linux version {} (Keel) {}", ns::uts::RELEASE, ns::uts::VERSION);
    let line = String::from_utf8_lossy(hal::boot::cmdline());
    log::info!("Command line: {line}");
    let params = Params::parse(&line);
    random::init();
    let clock = ClockData { realtime_offset_ns: hal::time::wall_base_ns(), ..Default::default() };
    vdso::update_clock(&clock);
    let nr_cpus = hal::smp::start_all(params.max_cpus, secondary);
    let frames = hal::frame::stats();
    log::info!("{nr_cpus} CPUs, {} KiB of memory, {} KiB free", frames.total * 4, frames.free * 4);
    if sched::spawn("kinit", move || init_thread(params)).is_err() {
        hal::power::stop("no memory for the first kernel thread");
    }
    sched::run_idle()
}

/// Where the other CPUs come in.
fn secondary() -> ! {
    sched::run_idle()
}

/// What may sleep: devices, file systems, the initramfs, and then the first process.
fn init_thread(params: Params) {
    if let Err(errno) = set_up(params) {
        // A panic would end this thread only.
        hal::power::stop(&alloc::format!("cannot start the first process (init): {errno}"));
    }
}

fn set_up(params: Params) -> Result<()> {
    mm::oom::register_killer(&process::oom::OOM_KILLER);
    mm::register_current(|| process::try_current()?.mm());
    register_hooks();
    events::init();
    syscall::init();
    perf::register();
    tmpfs::register()?;
    hugetlbfs::register()?;
    devtmpfs::init()?;
    devpts::register()?;
    procfs::register()?;
    procfs::provide(procfs::Extra::PtyCount, |out| {
        vfs::put!(out, "{}\n", tty::pty::count());
        Ok(())
    });
    sysfs::register()?;
    ipc::register()?;
    nsfs::register();
    ns::net::register_current(|| {
        process::try_current().map_or_else(|| ns::NetNs::initial().clone(), |me| me.net())
    });
    net_control::register();
    procfs::provide(procfs::Extra::NetNetlink, net_netlink::show::rows);
    procfs::provide(procfs::Extra::NetPacket, net_packet::show::rows);
    procfs::provide(procfs::Extra::NetUnix, net_unix::all::rows);
    procfs::provide(procfs::Extra::SysvSem, ipc::show::sem);
    procfs::provide(procfs::Extra::SysvMsg, ipc::show::msg);
    procfs::provide(procfs::Extra::SysvShm, ipc::show::shm);
    ext4::register()?;
    fat::register()?;
    p9fs::register()?;
    overlay::register()?;
    binfmt_misc::register()?;
    cgroup2::register()?;
    mm::mapping::writeback::start()?;
    mm::oom::register_reclaim(|_| {
        // Without pressure, names stay whatever happens.
        let keeps = mm::reclaim::CACHE_PRESSURE.load(core::sync::atomic::Ordering::Relaxed) == 0;
        if keeps { 0 } else { vfs::shrink_dentries() }
    });
    mm::reclaim::start()?;
    mm::thp::khugepaged::start()?;
    mm::compact::daemon::start()?;
    mm::ksm::start()?;
    if params.huge_pages > 0 {
        mm::hugetlb::set_nr(params.huge_pages);
    }
    devices::find(&params)?;
    let fs = make_root()?;
    let files = FdTable::new()?;
    let cred = Arc::new(Cred::root());
    let cx = WalkContext { fs: &fs, files: &files, cred: &cred };
    make_default_nodes(&cx)?;
    unpack(&cx);
    start_terminals(params.console.as_deref());
    let program = first_program(&cx, &params)?;
    let start = {
        let (fs, files) = (fs.clone(), files.clone());
        move || start_first(&fs, &files, &program, &params)
    };
    process::spawn_init(fs, files, start).map(drop)
}

/// Ties crates together that must not know each other.
fn register_hooks() {
    struct Futexes;
    impl process::hooks::FutexHooks for Futexes {
        fn exit_robust_list(&self, task: &process::Task, head: hal::UserAddr) {
            if let Some(mm) = task.mm() {
                futex::exit_robust_list(&mm, head, task.own_tid());
            }
        }

        fn exit_pi(&self, task: &process::Task) {
            futex::exit_pi(task.tid());
        }

        fn new_thread(&self, mm: &mm::Mm, nr_threads: usize) -> Result<()> {
            futex::grow_for_thread(mm, nr_threads)
        }

        fn wake(&self, addr: hal::UserAddr) {
            if let Some(mm) = process::current().mm() {
                // A word that cannot be reached has no waiters.
                let _ = futex::wake(&mm, addr, futex::Scope::Shared, 1, futex::MATCH_ANY);
            }
        }
    }
    static FUTEXES: Futexes = Futexes;
    process::hooks::register_futex(&FUTEXES);
    seccomp::init();
    coredump::init();
}

/// Makes the rootfs and the view of it that the first process will have.
fn make_root() -> Result<Arc<FsContext>> {
    let root = tmpfs::new_instance(tmpfs::Instance::Rootfs)?;
    let mount = Mount::new(&root, b"rootfs", MountFlags::RELATIME);
    let ns = MountNs::new(&mount);
    Ok(FsContext::new(&ns, &Path::root_of(&mount)))
}

/// What Linux's built-in initramfs holds: a console for the first process, and root's home.
fn make_default_nodes(cx: &WalkContext<'_>) -> Result<()> {
    vfs::namespace::mkdirat(cx, At::Cwd, b"/dev", 0o755)?;
    vfs::namespace::mknodat(cx, At::Cwd, b"/dev/console", S_IFCHR | 0o600, makedev(5, 1))?;
    vfs::namespace::mkdirat(cx, At::Cwd, b"/root", 0o700)
}

/// Unpacks the initial RAM disk into the rootfs. A broken one is told and left as far as it came.
fn unpack(cx: &WalkContext<'_>) {
    if hal::boot::initrd_len() == 0 {
        return;
    }
    let begin = hal::time::now_ns();
    match vfs::initramfs::unpack_initrd(cx) {
        Ok(summary) => {
            let took_ms = (hal::time::now_ns() - begin) / 1_000_000;
            log::info!("initramfs: {} members unpacked in {took_ms} ms", summary.members);
        }
        Err(error) => log::error!("initramfs: {error:?}"),
    }
}

/// Finds the serial ports and makes terminals of them.
fn start_terminals(console: Option<&str>) {
    if let Err(errno) = tty::device::init() {
        log::error!("tty: {errno}");
    }
    for index in 0..serial::PORTS.len() {
        let Some(port) = serial::probe(index) else { continue };
        let started = tty::device::add_serial(index as u32, port.clone())
            .map(|tty| port.start(tty).is_ok_and(|()| true));
        match started {
            Ok(true) => log::info!("serial: ttyS{index} is a 16550"),
            Ok(false) => log::error!("serial: no interrupt for ttyS{index}"),
            Err(errno) => log::error!("serial: ttyS{index}: {errno}"),
        }
    }
    let Some(name) = console else { return };
    let deadline_ns = hal::time::now_ns() + CONSOLE_NS;
    // The device tells only after a while that a port is a terminal.
    while tty::device::set_console(name).is_err() {
        if !name.starts_with("hvc") || hal::time::now_ns() > deadline_ns {
            return log::warn!("console={name}: there is no such terminal");
        }
        let _ = sched::sleep_until(hal::time::now_ns() + 1_000_000, sched::Interruptible::No);
    }
    if name.starts_with("hvc") {
        crate::console::show_log();
    }
}

/// Chooses the first program, or stops the machine as Linux does when there is none.
fn first_program(cx: &WalkContext<'_>, params: &Params) -> Result<Vec<String>> {
    let exists = |path: &str| vfs::walk(cx, At::Cwd, path.as_bytes(), WalkFlags::FOLLOW).is_ok();
    if exists(&params.rdinit) {
        return Ok(Vec::from([params.rdinit.clone()]));
    }
    match &params.root {
        Some(name) => root::mount(cx, params, name)?,
        None => log::warn!("rdinit={}: not found in the initramfs", params.rdinit),
    }
    match &params.init {
        Some(init) => Ok(Vec::from([init.clone()])),
        None => {
            let usual = ["/sbin/init", "/etc/init", "/bin/init", "/bin/sh"];
            let found: Vec<String> =
                usual.into_iter().filter(|path| exists(path)).map(String::from).collect();
            if found.is_empty() {
                hal::power::stop("No working init found: no initramfs with /init, and no root=");
            }
            Ok(found)
        }
    }
}

/// Runs in the first process: opens its console and executes its program.
fn start_first(
    fs: &Arc<FsContext>,
    files: &Arc<FdTable>,
    programs: &[String],
    params: &Params,
) -> Result<UserRegs> {
    let cred = Arc::new(Cred::root());
    let cx = WalkContext { fs, files, cred: &cred };
    open_console(&cx).unwrap_or_else(|errno| log::warn!("unable to open an initial console: {errno}"));
    let mut env: Vec<&[u8]> = Vec::from([&b"HOME=/"[..], b"TERM=linux"]);
    env.extend(params.init_env.iter().map(|word| word.as_bytes()));
    let mut result = Err(Errno::ENOENT);
    for program in programs {
        let mut args: Vec<&[u8]> = Vec::from([program.as_bytes()]);
        args.extend(params.init_args.iter().map(|word| word.as_bytes()));
        log::info!("Run {program} as init process");
        result = process::exec::exec_first(program.as_bytes(), &args, &env);
        match &result {
            Ok(_) => break,
            Err(errno) => log::error!("{program}: {errno}"),
        }
    }
    result
}

/// Opens /dev/console three times: descriptors 0, 1 and 2.
fn open_console(cx: &WalkContext<'_>) -> Result<()> {
    let how = vfs::open::How::new(OpenFlags::RDWR.bits(), 0)?;
    let file = vfs::open::open(cx, At::Cwd, b"/dev/console", &how)?;
    for _ in 0..3 {
        cx.files.insert(file.clone(), 0, NOFILE, FdFlags::empty())?;
    }
    Ok(())
}
