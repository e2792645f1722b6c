//! The devices through which terminals are opened: ttyS*, hvc*, console, tty, ptmx and the slaves.
//!
//! Numbers as Linux's (Documentation/admin-guide/devices.txt): 4:64 on serial ports, 229:N hvcN, 5:0 the controlling
//! terminal, 5:1 the console, 5:2 ptmx, 136:N slave N.

use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::fs::{OpenFlags, major, makedev, minor};
use abi::{Errno, Result};
use hal::sync::SpinLock;
use security::Cap;
use vfs::dev::{DeviceDriver, DeviceKind, add_node, register_chrdev, remove_node};
use vfs::{FileOps, Inode, OpenRequest};

use crate::file::TtyFile;
use crate::flags::Kind;
use crate::line::Line;
use crate::pty;
use crate::tty::{Tty, TtyFlags};

/// Major number of serial ports, and the minor of the first.
const SERIAL: (u32, u32) = (4, 64);
/// Major number of the terminals of hypervisors, and how many there can be.
const HVC: (u32, u32) = (229, 16);
/// Major number of /dev/tty, /dev/console and /dev/ptmx.
const AUX_MAJOR: u32 = 5;

/// The terminals with hardware in the order in which they came, and which of them is the console.
struct Terminals {
    all: Vec<Arc<Tty>>,
    console: Option<Arc<Tty>>,
}

impl Terminals {
    /// Adds one. It is the console if there is none, or if it is a serial port and that is none.
    fn add(&mut self, tty: &Arc<Tty>) {
        self.all.push(tty.clone());
        let is_serial = |tty: &Tty| major(tty.device_number()) == SERIAL.0;
        let keeps = |console: &Arc<Tty>| is_serial(console) || !is_serial(tty);
        if !self.console.as_ref().is_some_and(keeps) {
            self.console = Some(tty.clone());
        }
    }
}

static TERMINALS: SpinLock<Terminals> =
    SpinLock::new("tty.terminals", Terminals { all: Vec::new(), console: None });

/// Makes the terminal of serial port `index` and announces it. The first one becomes the console until
/// [`set_console`] says otherwise.
pub fn add_serial(index: u32, line: Arc<dyn Line>) -> Result<Arc<Tty>> {
    let number = (SERIAL.0, SERIAL.1 + index);
    let tty = Tty::new(format!("ttyS{index}"), makedev(number.0, number.1), Kind::Serial, line);
    TERMINALS.lock().add(&tty);
    add_node(tty.name(), DeviceKind::Char, number, 0o660)?;
    Ok(tty)
}

/// Makes the next terminal hvcN on top of `line` and announces it; else as [`add_serial`]. `ENOSPC`: there are too many.
pub fn add_hvc(line: Arc<dyn Line>) -> Result<Arc<Tty>> {
    let (tty, number) = {
        let mut terminals = TERMINALS.lock();
        let is_free = |index: &u32| {
            let rdev = makedev(HVC.0, *index);
            terminals.all.iter().all(|tty| tty.device_number() != rdev)
        };
        let index = (0..HVC.1).find(is_free).ok_or(Errno::ENOSPC)?;
        let number = (HVC.0, index);
        let tty = Tty::new(format!("hvc{index}"), makedev(number.0, number.1), Kind::Serial, line);
        terminals.add(&tty);
        (tty, number)
    };
    add_node(tty.name(), DeviceKind::Char, number, 0o600)?;
    Ok(tty)
}

/// Forgets a terminal of [`add_hvc`], whose device is gone: it is hung up, and nobody opens it again.
pub fn remove_hvc(tty: &Arc<Tty>) {
    tty.set_flags(TtyFlags::GONE);
    tty.hang_up();
    remove_node(tty.name());
    let mut terminals = TERMINALS.lock();
    terminals.all.retain(|known| !Arc::ptr_eq(known, tty));
    if terminals.console.as_ref().is_some_and(|console| Arc::ptr_eq(console, tty)) {
        terminals.console = terminals.all.first().cloned();
    }
}

/// Makes the terminal called `name` the one behind /dev/console. `ENODEV`: there is none.
pub fn set_console(name: &str) -> Result<()> {
    let mut terminals = TERMINALS.lock();
    let found = terminals.all.iter().find(|tty| tty.name() == name).cloned();
    terminals.console = Some(found.ok_or(Errno::ENODEV)?);
    Ok(())
}

/// The terminal behind /dev/console.
pub fn console() -> Option<Arc<Tty>> {
    TERMINALS.lock().console.clone()
}

/// Registers the drivers and announces /dev/tty, /dev/console and /dev/ptmx. Once, at boot.
pub fn init() -> Result<()> {
    let driver = Arc::new(TtyDriver);
    register_chrdev(SERIAL.0, SERIAL.1..SERIAL.1 + 32, "ttyS", driver.clone())?;
    register_chrdev(HVC.0, 0..HVC.1, "hvc", driver.clone())?;
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
            (number, _) => {
                let terminals = TERMINALS.lock();
                let found = terminals.all.iter().find(|tty| tty.device_number() == rdev).cloned();
                drop(terminals);
                let missing = if number == HVC.0 { Errno::ENODEV } else { Errno::EIO };
                open_terminal(found.ok_or(missing)?, request.flags)
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
    // Who takes the device away marks it first, and hangs it up then.
    if tty.flags().contains(TtyFlags::GONE) {
        tty.hang_up();
        return Err(Errno::ENODEV);
    }
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
