//! The devices through which terminals are opened: ttyS*, console, tty, ptmx and the slaves.
//!
//! Numbers as Linux's (Documentation/admin-guide/devices.txt): 4:64 on serial ports, 5:0 the controlling
//! terminal, 5:1 the console, 5:2 ptmx, 136:N slave N.

use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::fs::{OpenFlags, major, makedev, minor};
use abi::{Errno, Result};
use hal::sync::SpinLock;
use security::Cap;
use vfs::dev::{DeviceDriver, DeviceKind, add_node, register_chrdev};
use vfs::{FileOps, Inode, OpenRequest};

use crate::file::TtyFile;
use crate::flags::Kind;
use crate::line::Line;
use crate::pty;
use crate::tty::{Tty, TtyFlags};

/// Major number of serial ports, and the minor of the first.
const SERIAL: (u32, u32) = (4, 64);
/// Major number of /dev/tty, /dev/console and /dev/ptmx.
const AUX_MAJOR: u32 = 5;

/// The serial terminals in the order of their ports, and which terminal is the console.
struct Terminals {
    serial: Vec<(u32, Arc<Tty>)>,
    console: Option<Arc<Tty>>,
}

static TERMINALS: SpinLock<Terminals> =
    SpinLock::new("tty.terminals", Terminals { serial: Vec::new(), console: None });

/// Makes the terminal of serial port `index` and announces it. The first one becomes the console until
/// [`set_console`] says otherwise.
pub fn add_serial(index: u32, line: Arc<dyn Line>) -> Result<Arc<Tty>> {
    let number = (SERIAL.0, SERIAL.1 + index);
    let tty = Tty::new(format!("ttyS{index}"), makedev(number.0, number.1), Kind::Serial, line);
    {
        let mut terminals = TERMINALS.lock();
        terminals.serial.push((index, tty.clone()));
        terminals.console.get_or_insert_with(|| tty.clone());
    }
    add_node(tty.name(), DeviceKind::Char, number, 0o660)?;
    Ok(tty)
}

/// Makes the terminal called `name` the one behind /dev/console. `ENODEV`: there is none.
pub fn set_console(name: &str) -> Result<()> {
    let mut terminals = TERMINALS.lock();
    let found = terminals.serial.iter().find(|(_, tty)| tty.name() == name).map(|(_, tty)| tty.clone());
    terminals.console = Some(found.ok_or(Errno::ENODEV)?);
    Ok(())
}

/// Registers the drivers and announces /dev/tty, /dev/console and /dev/ptmx. Once, at boot.
pub fn init() -> Result<()> {
    let driver = Arc::new(TtyDriver);
    register_chrdev(SERIAL.0, SERIAL.1..SERIAL.1 + 32, "ttyS", driver.clone())?;
    register_chrdev(AUX_MAJOR, 0..3, "tty", driver.clone())?;
    register_chrdev(pty::SLAVE_MAJOR, 0..pty::MAX_PTYS as u32, "pts", driver.clone())?;
    add_node("tty", DeviceKind::Char, (AUX_MAJOR, 0), 0o666)?;
    add_node("console", DeviceKind::Char, (AUX_MAJOR, 1), 0o600)?;
    add_node("ptmx", DeviceKind::Char, (AUX_MAJOR, 2), 0o666)
}

struct TtyDriver;

impl DeviceDriver for TtyDriver {
    fn open(&self, rdev: u64, _inode: &Arc<Inode>, request: &OpenRequest<'_>) -> Result<Arc<dyn FileOps>> {
        match (major(rdev), minor(rdev)) {
            (AUX_MAJOR, 0) => open_controlling(),
            (AUX_MAJOR, 1) => {
                let tty = TERMINALS.lock().console.clone().ok_or(Errno::ENODEV)?;
                // The console never becomes a controlling terminal by being opened.
                open_terminal(tty, request.flags | OpenFlags::NOCTTY)
            }
            (AUX_MAJOR, 2) => pty::open_master(request.cred.fsuid, request.cred.fsgid),
            (pty::SLAVE_MAJOR, index) => pty::open_slave(index, request.flags),
            (_, low) => {
                let index = low.checked_sub(SERIAL.1).ok_or(Errno::ENXIO)?;
                let terminals = TERMINALS.lock();
                let found = terminals.serial.iter().find(|(i, _)| *i == index).map(|(_, tty)| tty.clone());
                drop(terminals);
                open_terminal(found.ok_or(Errno::EIO)?, request.flags)
            }
        }
    }
}

/// Opens a terminal. `EBUSY`: somebody has it for himself (TIOCEXCL).
fn open_terminal(tty: Arc<Tty>, flags: OpenFlags) -> Result<Arc<dyn FileOps>> {
    let is_exclusive = tty.flags().contains(TtyFlags::EXCLUSIVE);
    if is_exclusive && !process::current().with_cred(|cred| security::capable(cred, Cap::SYS_ADMIN)) {
        return Err(Errno::EBUSY);
    }
    // A serial terminal that was hung up works again for those who open it now.
    tty.clear_flags(TtyFlags::HUNG_UP);
    if !flags.contains(OpenFlags::NOCTTY) {
        tty.adopt_session();
    }
    Ok(Arc::new(TtyFile { tty }))
}

/// Opens the caller's controlling terminal. `ENXIO`: it has none.
fn open_controlling() -> Result<Arc<dyn FileOps>> {
    let pgrp = process::current().group().pgrp().ok_or(Errno::ENXIO)?;
    let tty = pgrp.session().tty().ok_or(Errno::ENXIO)?;
    let any: Arc<dyn core::any::Any + Send + Sync> = tty;
    let tty = any.downcast::<Tty>().map_err(|_| Errno::ENXIO)?;
    Ok(Arc::new(TtyFile { tty }))
}
