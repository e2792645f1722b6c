//! The pseudo file systems and the console: what a program expects of a booted system.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::unistd;

use crate::complain;

/// Type, mount point and options, in mounting order (each mount point is made first).
const MOUNTS: [(&str, &str, &str); 7] = [
    ("proc", "/proc", ""),
    ("sysfs", "/sys", ""),
    ("devtmpfs", "/dev", "mode=0755"),
    ("devpts", "/dev/pts", "gid=5,mode=620,ptmxmode=666"),
    ("tmpfs", "/dev/shm", "mode=1777"),
    ("tmpfs", "/tmp", "mode=1777"),
    ("tmpfs", "/run", "mode=0755"),
];

/// Where a folder of the host is.
const SHARE: &str = "/share";

/// Mounts [`MOUNTS`]; one that fails is named on the console and left out.
pub fn mount_all() {
    for (kind, target, options) in MOUNTS {
        let _ = fs::create_dir(target);
        // Programs with a set-user-id bit may be made in /tmp; the others hold none.
        let flags = if target == "/tmp" { MsFlags::empty() } else { MsFlags::MS_NOSUID };
        match mount(Some(kind), target, Some(kind), flags, Some(options)) {
            Ok(()) | Err(Errno::EBUSY) => {}
            Err(error) => complain(format_args!("mount {kind} on {target}: {error}")),
        }
    }
    for (link, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "fd/0"),
        ("/dev/stdout", "fd/1"),
        ("/dev/stderr", "fd/2"),
    ] {
        let _ = std::os::unix::fs::symlink(target, link);
    }
}

/// Mounts the folder of the host that QEMU shares, if there is one and /share was not in the initramfs.
pub fn mount_share() {
    const OPTIONS: &str = "trans=virtio,version=9p2000.L,cache=mmap,msize=262144";
    if fs::exists(SHARE).unwrap_or(false) && fs::read_dir(SHARE).is_ok_and(|mut dir| dir.next().is_some()) {
        return;
    }
    let made = fs::create_dir(SHARE);
    match mount(Some("share"), SHARE, Some("9p"), MsFlags::empty(), Some(OPTIONS)) {
        Ok(()) => {}
        // There is no such device, or the kernel knows no 9P.
        Err(Errno::ENOENT | Errno::ENODEV) => {
            if made.is_ok() {
                let _ = fs::remove_dir(SHARE);
            }
        }
        Err(error) => complain(format_args!("mount of {SHARE}: {error}")),
    }
}

/// Makes /dev/console the standard input, output and error of PID 1.
///
/// The kernel did so already when the root held the device node; a root without one is helped here.
pub fn open_console() {
    match open_tty("console") {
        Ok(tty) => {
            let _ = unistd::dup2_stdin(&tty);
            let _ = unistd::dup2_stdout(&tty);
            let _ = unistd::dup2_stderr(&tty);
        }
        Err(error) => complain(format_args!("/dev/console: {error}")),
    }
}

/// Opens /dev/`name` for reading and writing, without making it the controlling terminal.
pub fn open_tty(name: &str) -> std::io::Result<File> {
    let flags = (OFlag::O_NOCTTY | OFlag::O_CLOEXEC).bits();
    OpenOptions::new().read(true).write(true).custom_flags(flags).open(format!("/dev/{name}"))
}

/// The name in /etc/hostname, or `keel`.
pub fn host_name() -> String {
    let name = fs::read_to_string("/etc/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "keel".to_owned() } else { name.to_owned() }
}
