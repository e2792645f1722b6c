//! What the kernel of the guest does not have built in: Debian's Linux needs modules for disks and overlays.

use std::fs::{self, File};

use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};

use crate::complain;

/// Where xtask puts them; the folder is absent when none are needed.
const DIR: &str = "/.keel/modules";

/// Loads each of them; one that cannot be loaded is named on the console.
pub fn load_all() {
    let mut files: Vec<_> = fs::read_dir(DIR).into_iter().flatten().flatten().map(|e| e.path()).collect();
    files.sort();
    for path in files {
        let loaded = File::open(&path)
            .map_err(|_| Errno::ENOENT)
            .and_then(|file| finit_module(&file, c"", ModuleInitFlags::empty()));
        if let Err(error) = loaded {
            complain(format_args!("{}: {error}", path.display()));
        }
    }
}
