//! Guests that a person works with: a shell on this terminal, and a kernel under gdb.

use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result};

use crate::guest::{Guest, GuestArgs, Job};
use crate::{paths, qemu, ui};

/// Boots to a shell on this terminal and waits for its end.
pub fn run(args: &GuestArgs, verbose: bool) -> Result<ExitCode> {
    let guest = prepare(args, if verbose { Messages::All } else { Messages::Quiet })?;
    ui::say("booting; leave with `exit`, or end QEMU at once with Ctrl-A X");
    let status = guest.machine.command().args(console()).status().context("cannot start QEMU")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Boots stopped at the first instruction, and attaches gdb, which ends the guest when it quits.
pub fn gdb(args: &GuestArgs) -> Result<ExitCode> {
    let guest = prepare(args, Messages::All)?;
    let socket = paths::logs()?.join(format!("gdb-{}.sock", std::process::id()));
    let log = paths::logs()?.join("gdb-console.log");
    let mut qemu = guest.machine.command();
    qemu.args([
        "-S",
        "-chardev",
        &format!("socket,id=gdb,path={},server=on,wait=off", qemu::escape(&socket)),
        "-gdb",
        "chardev:gdb",
    ]);
    qemu.args(["-serial", &format!("file:{}", log.display())]).stdin(Stdio::null());
    let mut child = qemu.spawn().context("cannot start QEMU")?;
    ui::say(&format!("the guest's console is written to {}", log.display()));
    for _ in 0..100 {
        if socket.exists() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let target = format!("target remote {}", socket.display());
    let status = Command::new("gdb").arg("-q").arg(&guest.machine.kernel).args(["-ex", &target]).status();
    let _ = child.kill();
    let _ = child.wait();
    let _ = std::fs::remove_file(&socket);
    status.context("cannot start gdb: `cargo xtask setup` installs it")?;
    Ok(ExitCode::SUCCESS)
}

/// QEMU's arguments that put the guest's first serial port on this terminal.
pub fn console() -> [&'static str; 6] {
    [
        "-chardev",
        "stdio,id=console,mux=on,signal=off",
        "-serial",
        "chardev:console",
        "-mon",
        "chardev=console",
    ]
}

/// Whether the kernel's messages appear on the terminal.
#[derive(PartialEq)]
pub enum Messages {
    /// Those that matter.
    Quiet,
    /// Every one.
    All,
}

/// Makes a guest ready that runs a shell on its first serial port.
pub fn prepare(args: &GuestArgs, messages: Messages) -> Result<Guest> {
    qemu::check_installed()?;
    let mut args = args.clone();
    if messages == Messages::Quiet {
        args.append = format!("quiet {}", args.append);
    }
    let size = rustix::termios::tcgetwinsize(rustix::stdio::stdin()).ok();
    args.prepare(&Job::Shell {
        rows: size.map_or(0, |s| s.ws_row),
        columns: size.map_or(0, |s| s.ws_col),
        term: std::env::var("TERM").unwrap_or_else(|_| "vt100".to_owned()),
    })
}
