//! The root on a disk: with `root=/dev/NAME` on the kernel's command line, PID 1 goes there from the initramfs.
//!
//! ```text
//!   initramfs: /init /.keel/job /share      disk: mounted on /newroot
//!   bind /share to /newroot/share, move /newroot to /, chroot
//! ```

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{chdir, chroot};

const NEW_ROOT: &str = "/newroot";
/// How long a disk may take to appear.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the kernel's command line says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Root {
    device: String,
    kind: String,
    is_read_only: bool,
}

impl Root {
    /// `None`: the root is the initramfs.
    fn parse(command_line: &str) -> Option<Root> {
        let mut root = Root { kind: "ext4".to_owned(), ..Root::default() };
        for word in command_line.split_whitespace() {
            match word.split_once('=') {
                Some(("root", device)) => root.device = device.to_owned(),
                Some(("rootfstype", kind)) => root.kind = kind.to_owned(),
                None if word == "ro" || word == "rw" => root.is_read_only = word == "ro",
                _ => {}
            }
        }
        root.device.starts_with("/dev/").then_some(root)
    }
}

/// Makes the disk's file system the root, if there is to be one.
pub fn switch() -> io::Result<()> {
    for (kind, target) in [("proc", "/proc"), ("devtmpfs", "/dev")] {
        let _ = fs::create_dir(target);
        // What is missing shows below.
        let _ = mount(Some(kind), target, Some(kind), MsFlags::MS_NOSUID, None::<&str>);
    }
    let result = match Root::parse(&fs::read_to_string("/proc/cmdline").unwrap_or_default()) {
        Some(root) => enter(&root),
        None => Ok(()),
    };
    for target in ["/proc", "/dev"] {
        let _ = umount2(target, MntFlags::MNT_DETACH);
    }
    result
}

fn enter(root: &Root) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !Path::new(&root.device).exists() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = fs::create_dir(NEW_ROOT);
    let flags = if root.is_read_only { MsFlags::MS_RDONLY } else { MsFlags::empty() };
    mount(Some(root.device.as_str()), NEW_ROOT, Some(root.kind.as_str()), flags, None::<&str>)?;
    let shared = format!("{NEW_ROOT}/share");
    if Path::new("/share").exists() {
        let _ = fs::create_dir(&shared);
        mount(Some("/share"), shared.as_str(), None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    }
    for target in ["/proc", "/dev"] {
        let _ = umount2(target, MntFlags::MNT_DETACH);
    }
    chdir(NEW_ROOT)?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)?;
    chroot(".")?;
    chdir("/")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_on_a_disk_when_the_command_line_says_so() {
        assert_eq!(Root::parse("console=ttyS0 panic=-1"), None);
        let root = Root::parse("console=ttyS0 root=/dev/vda ro rootfstype=ext2").unwrap();
        assert_eq!((root.device.as_str(), root.kind.as_str(), root.is_read_only), ("/dev/vda", "ext2", true));
    }
}
