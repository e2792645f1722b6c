//! Whole programs: shell scripts of a folder, `NAME.setup`, `NAME.run` and `NAME.after`, of which `run` is measured.
//!
//! What leaves a number in the file `value` has measured itself: nanoseconds for a KiB. Each gets a fresh folder below /tmp; what it leaves running is its own to end in `after`. What fails has no value; the last
//! line that it wrote says why.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use libc::*;

use crate::sys;
use crate::sys::now;

/// No script takes longer, in seconds of the guest.
const LIMIT_S: u64 = 120;

/// Measures `GROUP/NAME` from the folder `scripts` and prints the line.
pub fn run(scripts: &str, full: &str) {
    println!("begin {full}");
    let name = full.split_once('/').map_or(full, |(_, name)| name);
    let folder = format!("/tmp/program.{name}");
    let _ = fs::remove_dir_all(&folder);
    let result = fs::create_dir_all(&folder).map_err(|e| e.to_string()).and_then(|()| {
        let scripts = Path::new(scripts);
        step(scripts, &folder, &format!("{name}.setup"))?;
        let took = step(scripts, &folder, &format!("{name}.run"));
        let own = fs::read_to_string(Path::new(&folder).join("value")).ok();
        let after = step(scripts, &folder, &format!("{name}.after"));
        let value = own.map(|own| format!("{} ns/KiB", own.trim()));
        took.and_then(|took| after.map(|_| value.unwrap_or(format!("{took} ns"))))
    });
    let _ = fs::remove_dir_all(&folder);
    match result {
        Ok(value) => println!("bench {full} {value}"),
        Err(why) => println!("bench {full} unsupported {why}"),
    }
}

/// Runs one script in `folder`; the time it took, or the last line it wrote.
fn step(scripts: &Path, folder: &str, script: &str) -> Result<u64, String> {
    let log = format!("{folder}/.log");
    let out = File::create(&log).map_err(|e| e.to_string())?;
    let err = out.try_clone().map_err(|e| e.to_string())?;
    let mut sh = Command::new("/bin/sh");
    sh.arg(scripts.join(script)).current_dir(folder).stdin(Stdio::null()).stdout(out).stderr(err);
    sh.process_group(0);
    let start = now();
    let mut child = sh.spawn().map_err(|e| e.to_string())?;
    let pid = child.id() as i32;
    let watch = watchdog(pid);
    let status = child.wait();
    let took = now() - start;
    let _ = sys!(SYS_kill, watch, SIGKILL);
    let _ = sys!(SYS_wait4, watch, 0, 0, 0);
    match status {
        Ok(status) if status.success() => Ok(took),
        Ok(status) => {
            let text = fs::read(&log).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default();
            let line = text.lines().rfind(|l| !l.trim().is_empty()).unwrap_or_default().trim();
            Err(format!("{}: {line} ({status})", script.rsplit('.').next().unwrap_or_default()))
        }
        Err(e) => Err(e.to_string()),
    }
}

/// A process that ends the process group `pid` after [`LIMIT_S`].
fn watchdog(pid: i32) -> i32 {
    match sys::fork() {
        Ok(0) => {
            let _ = sys!(SYS_nanosleep, &timespec { tv_sec: LIMIT_S as i64, tv_nsec: 0 }, 0);
            let _ = sys!(SYS_kill, -pid, SIGKILL);
            sys::exit(0)
        }
        Ok(watch) => watch,
        // No process can have this number: signals to it go nowhere.
        Err(_) => i32::MAX,
    }
}
