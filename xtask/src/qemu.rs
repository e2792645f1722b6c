//! The virtual machine: QEMU's command line, and whether hardware virtualisation works here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::ValueEnum;

use crate::paths;

/// The program that is run.
pub const PROGRAM: &str = "qemu-system-x86_64";

/// The CPU without hardware virtualisation: all that QEMU emulates but five-level page tables, which cost
/// each page walk a step and change the limits of user addresses; few real machines have them on.
const EMULATED_CPU: &str = "max,la57=off";

/// How guest code is executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Accel {
    /// By translation, on any host.
    Tcg,
    /// By the host's CPU, through /dev/kvm.
    Kvm,
    /// By /dev/kvm if a probe shows that a guest starts there, else by translation.
    Auto,
}

/// What becomes of a guest's writes to its root disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// The image stays as it was.
    Nothing,
    /// They are in the image afterwards.
    Writes,
}

/// A disk whose writes and flushes are recorded in the order in which the device completed them.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The raw image.
    pub image: PathBuf,
    /// Where the record goes, in the format of dm-log-writes; an empty file before.
    pub log: PathBuf,
}

/// A disk on which one sector cannot be read or written.
#[derive(Clone, Debug)]
pub struct Faulty {
    /// The raw image.
    pub image: PathBuf,
    /// The sector, of 512 bytes.
    pub sector: u64,
    /// "read" or "write".
    pub kind: &'static str,
}

/// The machine, without its serial ports.
pub struct Machine {
    /// The kernel file.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initrd: PathBuf,
    /// Kernel parameters.
    pub cmdline: String,
    /// Number of CPUs.
    pub smp: u32,
    /// Memory in MiB.
    pub mem: u32,
    /// CPU model; the best that the accelerator has when not given.
    pub cpu: Option<String>,
    /// Guest time counts instructions.
    pub icount: bool,
    /// The disk with the root file system, which becomes /dev/vda, and whether it keeps what the guest writes.
    pub root_disk: Option<(PathBuf, Keep)>,
    /// Raw disk images.
    pub disks: Vec<PathBuf>,
    /// Raw disk images, each on an NVMe controller.
    pub nvme_disks: Vec<PathBuf>,
    /// A folder of this machine, which the guest can mount by 9P with the tag `share`.
    pub share: Option<PathBuf>,
    /// QEMU's user network.
    pub net: bool,
    /// See [`Accel`].
    pub accel: Accel,
    /// The last disk, if it is a recorded one.
    pub recorded: Option<Recorded>,
    /// A disk that fails.
    pub faulty: Option<Faulty>,
    /// Further QEMU arguments.
    pub extra: Vec<String>,
}

impl Machine {
    /// The command that runs this machine; it dies with the thread that spawns it.
    pub fn command(&self) -> Command {
        // setpriv: a QEMU whose parent was killed must not go on.
        let mut qemu = Command::new("setpriv");
        qemu.args(["--pdeathsig", "KILL", PROGRAM]);
        qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        let kvm = !self.icount && resolve(self.accel) == Accel::Kvm;
        let cpu = self.cpu.as_deref().unwrap_or(if kvm { "host" } else { EMULATED_CPU });
        qemu.args(["-machine", "q35", "-cpu", cpu]);
        let threads = if self.smp > 1 { "multi" } else { "single" };
        let accel = if kvm { "kvm".to_owned() } else { format!("tcg,thread={threads}") };
        qemu.args(["-accel", &accel]);
        qemu.args(["-smp", &self.smp.to_string(), "-m", &format!("{}M", self.mem)]);
        if self.icount {
            qemu.args(["-icount", "shift=0,align=off,sleep=off", "-seed", "1"]);
            qemu.args(["-rtc", "base=2025-01-01T00:00:00,clock=vm"]);
        }
        qemu.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]);
        if let Some((disk, keep)) = &self.root_disk {
            let snapshot = if *keep == Keep::Nothing { "on" } else { "off" };
            let drive = format!("file={},format=raw,if=virtio,snapshot={snapshot}", escape(disk));
            qemu.args(["-drive", &drive]);
        }
        for disk in &self.disks {
            qemu.args(["-drive", &format!("file={},format=raw,if=virtio", escape(disk))]);
        }
        if let Some(recorded) = &self.recorded {
            let file = |node, path| format!("driver=file,node-name={node},filename={}", escape(path));
            qemu.args(["-blockdev", &file("image", &recorded.image)]);
            qemu.args(["-blockdev", &file("record", &recorded.log)]);
            qemu.args(["-blockdev", "driver=blklogwrites,node-name=recorded,file=image,log=record"]);
            qemu.args(["-device", "virtio-blk-pci,drive=recorded"]);
        }
        if let Some(Faulty { image, sector, kind }) = &self.faulty {
            qemu.args(["-blockdev", &format!("driver=file,node-name=sound,filename={}", escape(image))]);
            let fault = format!(
                "inject-error.0.event=none,inject-error.0.iotype={kind},inject-error.0.sector={sector},\
                 inject-error.0.errno=5,inject-error.0.once=off,inject-error.0.immediately=on"
            );
            qemu.args(["-blockdev", &format!("driver=blkdebug,node-name=faulty,image=sound,{fault}")]);
            qemu.args(["-device", "virtio-blk-pci,drive=faulty,werror=report,rerror=report"]);
        }
        for (n, disk) in self.nvme_disks.iter().enumerate() {
            qemu.args(["-drive", &format!("file={},format=raw,if=none,id=nvme{n}", escape(disk))]);
            qemu.args(["-device", &format!("nvme,drive=nvme{n},serial=keel-nvme{n}")]);
        }
        if let Some(share) = &self.share {
            let model = "security_model=none,multidevs=remap";
            qemu.args(["-fsdev", &format!("local,id=share,path={},{model}", escape(share))]);
            qemu.args(["-device", "virtio-9p-pci,fsdev=share,mount_tag=share"]);
        }
        if self.net {
            qemu.args(["-nic", "user,model=virtio-net-pci"]);
        }
        qemu.arg("-kernel").arg(&self.kernel).arg("-initrd").arg(&self.initrd);
        qemu.args(["-append", &self.cmdline]).args(&self.extra);
        qemu
    }
}

/// A path as a value in QEMU's `key=value,...` lists, where a comma is written twice.
pub fn escape(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// Turns [`Accel::Auto`] into what this machine can do.
fn resolve(accel: Accel) -> Accel {
    match accel {
        Accel::Auto if kvm_works() => Accel::Kvm,
        Accel::Auto => Accel::Tcg,
        chosen => chosen,
    }
}

/// Whether a guest really starts under /dev/kvm: a firmware of three instructions must end QEMU with 33.
fn kvm_works() -> bool {
    if fs::File::options().read(true).write(true).open("/dev/kvm").is_err() {
        return false;
    }
    let Ok(logs) = paths::logs() else { return false };
    let firmware = logs.join(format!("probe-{}.bin", std::process::id()));
    let mut rom = vec![0xf4_u8; 65536]; // hlt
    let reset = [0xb0, 0x10, 0xe6, 0xf4, 0xf4]; // mov al, 0x10; out 0xf4, al; hlt
    rom[65536 - 16..65536 - 16 + reset.len()].copy_from_slice(&reset);
    if fs::write(&firmware, rom).is_err() {
        return false;
    }
    let mut qemu = Command::new("setpriv");
    qemu.args([
        "--pdeathsig",
        "KILL",
        PROGRAM,
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-accel",
        "kvm",
    ]);
    qemu.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04", "-m", "16M", "-bios"]).arg(&firmware);
    let works = ends_with(qemu, 33, Duration::from_secs(3));
    let _ = fs::remove_file(firmware);
    works
}

fn ends_with(mut command: Command, status: i32, limit: Duration) -> bool {
    let Ok(mut child) = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
    else {
        return false;
    };
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        if let Ok(Some(ended)) = child.try_wait() {
            return ended.code() == Some(status);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = child.kill();
    let _ = child.wait();
    false
}

/// Says in time what is missing: QEMU itself.
pub fn check_installed() -> Result<()> {
    let found = Command::new(PROGRAM).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    anyhow::ensure!(found.is_ok_and(|s| s.success()), "{PROGRAM} is not installed: run `cargo xtask setup`");
    Ok(())
}
