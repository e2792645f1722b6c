//! What a guest is made of: the options that choose it, and the steps from them to a [`Machine`].

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::cpio::Writer;
use crate::kernel::{self, Flavour};
use crate::qemu::{Accel, Faulty, Keep, Machine, Recorded};
use crate::{image, linux, paths, userland};

/// The choice of a guest, the same for every verb that boots one.
#[derive(Args, Clone, Debug)]
pub struct GuestArgs {
    /// The kernel: `keel`, `linux` (Debian's Linux 7.2), or a kernel file
    #[arg(long, default_value = "keel", value_name = "keel|linux|PATH")]
    pub kernel: String,
    /// The root: `tiny` (busybox), `debian`, `disk` (Debian on a disk), or a file ending in .cpio or .ext4
    #[arg(long, default_value = "debian", value_name = "tiny|debian|disk|FILE")]
    pub root: String,
    /// Number of CPUs
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub smp: u32,
    /// Memory in MiB [default: 512, with the root debian 2048, on a disk 1024]
    #[arg(long, value_name = "MiB", value_parser = clap::value_parser!(u32).range(1..))]
    pub mem: Option<u32>,
    /// Let guest time count instructions: exactly repeatable, one CPU only
    #[arg(long)]
    pub icount: bool,
    /// QEMU's CPU model, with features, e.g. `max,-erms`
    #[arg(long, value_name = "MODEL")]
    pub cpu: Option<String>,
    /// Keep what the guest writes to a root on a disk; `run` always keeps it for the root `disk`
    #[arg(long)]
    pub keep: bool,
    /// A raw disk image; may be given several times
    #[arg(long = "disk", value_name = "FILE")]
    pub disks: Vec<PathBuf>,
    /// A raw disk image on an NVMe controller of its own: /dev/nvme0n1 and on
    #[arg(long = "nvme", value_name = "FILE")]
    pub nvme_disks: Vec<PathBuf>,
    /// Further kernel parameters
    #[arg(long, default_value = "", value_name = "PARAMETERS", allow_hyphen_values = true)]
    pub append: String,
    /// Connect the guest to QEMU's user network
    #[arg(long)]
    pub net: bool,
    /// Share a folder of this machine at /share: what the guest writes is there, too. A copy on Linux and with --icount
    #[arg(long, value_name = "DIR")]
    pub share: Option<PathBuf>,
    /// Run Keel built with debug assertions and the lock-order checker
    #[arg(long)]
    pub debug: bool,
    /// How guest code runs: /dev/kvm is touched only when asked for here
    #[arg(long, value_enum, default_value = "tcg")]
    pub accel: Accel,
    /// A folder that is copied to /share of the initramfs, on every kernel
    #[arg(skip)]
    pub programs: Option<PathBuf>,
    /// A disk whose writes are recorded; it comes after the others
    #[arg(skip)]
    pub recorded: Option<Recorded>,
    /// A disk that fails; it comes after the others
    #[arg(skip)]
    pub faulty: Option<Faulty>,
    /// Further arguments for QEMU
    #[arg(skip)]
    pub extra: Vec<String>,
}

impl Default for GuestArgs {
    /// Keel on the tiny root with one CPU.
    fn default() -> GuestArgs {
        GuestArgs {
            kernel: "keel".to_owned(),
            root: "tiny".to_owned(),
            smp: 1,
            mem: None,
            icount: false,
            cpu: None,
            keep: false,
            disks: Vec::new(),
            nvme_disks: Vec::new(),
            append: String::new(),
            net: false,
            share: None,
            programs: None,
            debug: false,
            accel: Accel::Tcg,
            recorded: None,
            faulty: None,
            extra: Vec::new(),
        }
    }
}

/// What PID 1 is asked to do; see `user/init/src/job.rs`.
pub enum Job {
    /// Run a command by `sh -c`.
    Exec(String),
    /// A login shell on the console of `rows` × `columns` characters.
    Shell {
        /// Height of the host's terminal.
        rows: u16,
        /// Its width.
        columns: u16,
        /// Its type, the value of TERM.
        term: String,
    },
}

impl Job {
    fn encode(&self) -> Vec<u8> {
        match self {
            Job::Exec(command) => format!("exec\0{command}").into_bytes(),
            Job::Shell { rows, columns, term } => {
                format!("shell\0ttyS0\0{rows}\0{columns}\0{term}").into_bytes()
            }
        }
    }
}

/// A guest ready to start. The initramfs is deleted on drop.
pub struct Guest {
    /// The machine to run.
    pub machine: Machine,
    initrd: PathBuf,
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.initrd);
    }
}

impl GuestArgs {
    /// Builds, fetches and packs what the guest needs.
    pub fn prepare(&self, job: &Job) -> Result<Guest> {
        if self.icount && self.smp != 1 {
            bail!("--icount counts the instructions of one CPU: leave --smp at 1");
        }
        for disk in self.disks.iter().chain(&self.nvme_disks) {
            fs::metadata(disk).with_context(|| format!("the disk {} cannot be read", disk.display()))?;
        }
        let kernel = self.kernel_file()?;
        if let Some(share) = &self.share
            && !share.is_dir()
        {
            bail!("--share {}: there is no such folder", share.display());
        }
        // A root on a disk needs an initramfs with the overlay only.
        let root_disk = self.root_disk(job)?;
        let has_disks =
            root_disk.is_some() || !self.disks.is_empty() || self.recorded.is_some() || self.faulty.is_some();
        let root = if root_disk.is_some() { None } else { Some(self.root_file()?) };
        let init = userland::init()?;
        let initrd = scratch_file(root.as_deref())?;
        // From here on the file is removed whatever happens.
        let guest = Guest { machine: self.machine(kernel, initrd.clone(), root_disk), initrd };
        let mut out = File::create(&guest.initrd)
            .with_context(|| format!("cannot write {}", guest.initrd.display()))?;
        if let Some(root) = &root {
            io::copy(&mut File::open(root)?, &mut out)
                .context("the initramfs could not be put together: is the disk full?")?;
            pad_to_page(&mut out)?;
        }
        let mut writer = Writer::new(io::BufWriter::new(out));
        if self.kernel == "linux" && has_disks {
            add_modules(&mut writer)?;
        }
        let copied = if guest.machine.share.is_some() { None } else { self.share.as_deref() };
        add_overlay(&mut writer, &init, job, copied.or(self.programs.as_deref()))?;
        writer.finish()?.flush()?;
        Ok(guest)
    }

    /// The disk with the root, if it is on one, and whether it keeps what the guest writes.
    fn root_disk(&self, job: &Job) -> Result<Option<(PathBuf, Keep)>> {
        if self.root.ends_with(".ext4") {
            let keep = if self.keep { Keep::Writes } else { Keep::Nothing };
            return Ok(Some((existing(&self.root, "root")?, keep)));
        }
        if !image::is_disk(&self.root) {
            return Ok(None);
        }
        // What one types at a prompt is meant to stay.
        let keep = self.keep || matches!(job, Job::Shell { .. });
        Ok(Some(match keep {
            true => (image::kept_disk(&self.root)?, Keep::Writes),
            false => (image::ensure(&self.root)?, Keep::Nothing),
        }))
    }

    fn machine(&self, kernel: PathBuf, initrd: PathBuf, root_disk: Option<(PathBuf, Keep)>) -> Machine {
        // Debian's Linux has no 9P, and with --icount a guest would wait for the host.
        let is_keel = self.kernel == "keel" || self.kernel != "linux" && is_elf(&kernel);
        let root = if root_disk.is_some() { "root=/dev/vda rootfstype=ext4 rw " } else { "" };
        let default_mem = match self.root.as_str() {
            "debian" => 2048,
            _ if root_disk.is_some() => 1024,
            _ => 512,
        };
        // panic=-1 restarts at once, which ends QEMU; without it a panic would look like a hang.
        // On a busy host Linux may find that the timer does not tick, and give up.
        let linux = if self.kernel == "linux" { "no_timer_check " } else { "" };
        let cmdline = format!("console=ttyS0 8250.nr_uarts=4 panic=-1 {linux}{root}{}", self.append);
        Machine {
            kernel,
            initrd,
            cmdline: cmdline.trim_end().to_owned(),
            smp: self.smp,
            mem: self.mem.unwrap_or(default_mem),
            cpu: self.cpu.clone(),
            icount: self.icount,
            root_disk,
            disks: self.disks.clone(),
            nvme_disks: self.nvme_disks.clone(),
            share: self.share.clone().filter(|_| !self.icount && is_keel),
            net: self.net,
            accel: self.accel,
            recorded: self.recorded.clone(),
            faulty: self.faulty.clone(),
            extra: self.extra.clone(),
        }
    }

    /// The kernel's file, built or fetched when there is none.
    pub fn kernel_file(&self) -> Result<PathBuf> {
        match self.kernel.as_str() {
            "keel" => Ok(kernel::build(if self.debug { Flavour::Debug } else { Flavour::Release })?.elf),
            "linux" => linux::image(),
            path => existing(path, "kernel"),
        }
    }

    fn root_file(&self) -> Result<PathBuf> {
        let name = self.root.as_str();
        if name.ends_with(".cpio") || name.contains('/') {
            existing(name, "root")
        } else {
            image::ensure(name)
        }
    }
}

/// Is the kernel `file` an ELF file, as Keel's is and Linux's is not?
fn is_elf(file: &Path) -> bool {
    let mut magic = [0; 4];
    File::open(file).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && magic == *b"\x7fELF"
}

fn existing(path: &str, what: &str) -> Result<PathBuf> {
    let file = PathBuf::from(path);
    if !file.is_file() {
        bail!("there is no {what} file {path}");
    }
    Ok(file)
}

/// Drivers of Debian's Linux, which PID 1 loads.
fn add_modules(writer: &mut Writer<impl Write>) -> Result<()> {
    writer.add_dir(".keel", 0o700)?;
    writer.add_dir(".keel/modules", 0o700)?;
    for module in linux::modules()? {
        let name = module.file_name().unwrap_or_default().to_string_lossy().into_owned();
        writer.add_tree(&format!(".keel/modules/{name}"), &module)?;
    }
    Ok(())
}

/// The entries that every boot adds to its root.
fn add_overlay(writer: &mut Writer<impl Write>, init: &Path, job: &Job, share: Option<&Path>) -> Result<()> {
    writer.add_dir("dev", 0o755)?;
    writer.add_char_device("dev/console", 0o600, (5, 1))?;
    writer.add_char_device("dev/null", 0o666, (1, 3))?;
    writer.add_tree("init", init)?;
    writer.add_dir(".keel", 0o700)?;
    writer.add_bytes(".keel/job", 0o600, &job.encode())?;
    if let Some(share) = share {
        writer.add_tree("share", share)?;
    }
    Ok(())
}

/// The second archive begins on a page, as its own alignment assumes.
fn pad_to_page(out: &mut File) -> Result<()> {
    let len = out.metadata()?.len();
    let pad = len.next_multiple_of(4096) - len;
    out.write_all(&vec![0; usize::try_from(pad)?])?;
    Ok(())
}

/// A place for an initramfs a little larger than `root`: in memory when it has plenty of room.
fn scratch_file(root: Option<&Path>) -> Result<PathBuf> {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let name = format!("keel-initrd-{}-{number}", std::process::id());
    let need = root.map_or(Ok(0), |root| root.metadata().map(|meta| meta.len()))?;
    let shm = Path::new("/dev/shm");
    let room = rustix::fs::statvfs(shm).map(|s| s.f_bavail * s.f_frsize).unwrap_or(0);
    let dir = if room > 4 * need + (64 << 20) { shm.to_owned() } else { paths::logs()? };
    Ok(dir.join(name))
}
