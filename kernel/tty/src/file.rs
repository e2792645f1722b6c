//! Open terminals: the file operations of a terminal device, and its ioctls (ioctl_tty(2)).

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use abi::poll::PollEvents;
use abi::raw::ioctl as cmd;
use abi::termios::{Termio, Termios, Termios2, Winsize};
use abi::{Errno, Result};
use hal::UserAddr;
use hal::uio::{Dest, Src};
use hal::user;
use sched::PollTable;
use vfs::{File, FileMode, FileOps};

use crate::tty::{Tty, TtyFlags, Wait};

/// Queue selectors of TCFLSH.
const TCIFLUSH: usize = 0;
const TCOFLUSH: usize = 1;
const TCIOFLUSH: usize = 2;
/// Actions of TCXONC.
const TCOOFF: usize = 0;
const TCOON: usize = 1;
const TCIOFF: usize = 2;
const TCION: usize = 3;
/// The only line discipline.
const N_TTY: i32 = 0;

/// An open terminal.
pub struct TtyFile {
    /// The terminal.
    pub tty: Arc<Tty>,
}

pub(crate) fn wait_of(file: &File) -> Wait {
    if file.is_nonblocking() { Wait::No } else { Wait::Yes }
}

impl FileOps for TtyFile {
    fn mode(&self) -> FileMode {
        FileMode::STREAM
    }

    fn read(&self, file: &File, dst: &mut Dest<'_>, _pos: u64) -> Result<usize> {
        self.tty.check_read()?;
        self.tty.read(dst, wait_of(file))
    }

    fn write(&self, file: &File, src: &mut Src<'_>, _pos: u64) -> Result<usize> {
        self.tty.check_write()?;
        self.tty.write(src, wait_of(file))
    }

    fn poll(&self, _file: &File, table: &mut PollTable) -> PollEvents {
        self.tty.poll(table)
    }

    fn readable_bytes(&self, _file: &File) -> Result<usize> {
        Ok(self.tty.readable())
    }

    fn ioctl(&self, _file: &Arc<File>, request: u32, arg: usize) -> Result<usize> {
        if self.tty.flags().contains(TtyFlags::HUNG_UP) {
            return Err(if request == cmd::TIOCSPGRP { Errno::ENOTTY } else { Errno::EIO });
        }
        job_ioctl(&self.tty, request, arg).or_else(|errno| match errno {
            Errno::ENOIOCTLCMD => settings_ioctl(&self.tty, request, arg),
            other => Err(other),
        })
    }
}

/// Requests about sessions and process groups.
fn job_ioctl(tty: &Arc<Tty>, request: u32, arg: usize) -> Result<usize> {
    let addr = UserAddr(arg as u64);
    match request {
        cmd::TIOCSCTTY => tty.set_controlling(arg)?,
        cmd::TIOCNOTTY => tty.give_up()?,
        cmd::TIOCGPGRP => {
            if !tty.is_controlling() {
                return Err(Errno::ENOTTY);
            }
            user::write(addr, &process::pid::visible(tty.foreground_id()))?;
        }
        cmd::TIOCSPGRP => tty.set_foreground(user::read(addr)?)?,
        cmd::TIOCGSID => {
            if !tty.is_controlling() {
                return Err(Errno::ENOTTY);
            }
            user::write(addr, &process::pid::visible(tty.session_id().ok_or(Errno::ENOTTY)?))?;
        }
        _ => return Err(Errno::ENOIOCTLCMD),
    }
    Ok(0)
}

/// Requests that a pseudo-terminal's master passes on to its slave, too.
pub(crate) fn settings_ioctl(tty: &Arc<Tty>, request: u32, arg: usize) -> Result<usize> {
    let addr = UserAddr(arg as u64);
    match request {
        cmd::TCGETS => user::write(addr, &tty.termios().termios)?,
        cmd::TCGETS2 => user::write(addr, &tty.termios())?,
        cmd::TCGETA => user::write(addr, &Termio::from(tty.termios().termios))?,
        cmd::TCSETS | cmd::TCSETSW | cmd::TCSETSF | cmd::TCSETS2 | cmd::TCSETSW2 | cmd::TCSETSF2 => {
            set_termios(tty, request, addr)?;
        }
        cmd::TCSETA | cmd::TCSETAW | cmd::TCSETAF => set_termios(tty, request, addr)?,
        cmd::TIOCGLCKTRMIOS => user::write(addr, &tty.locked())?,
        cmd::TIOCSLCKTRMIOS => {
            if !process::current().with_cred(|cred| security::capable(cred, security::Cap::SYS_ADMIN)) {
                return Err(Errno::EPERM);
            }
            tty.set_locked(user::read(addr)?);
        }
        cmd::TIOCGWINSZ => user::write(addr, &tty.winsize())?,
        cmd::TIOCSWINSZ => tty.set_winsize(user::read::<Winsize>(addr)?),
        cmd::TIOCOUTQ => user::write(addr, &(tty.pending_output() as i32))?,
        cmd::TCSBRK | cmd::TCSBRKP => {
            tty.check_change()?;
            tty.drain()?;
        }
        cmd::TIOCSBRK | cmd::TIOCCBRK => {}
        cmd::TCFLSH => flush(tty, arg)?,
        cmd::TCXONC => flow(tty, arg)?,
        cmd::TIOCSTI => insert_input(tty, addr)?,
        cmd::TIOCGETD => user::write(addr, &N_TTY)?,
        cmd::TIOCSETD => {
            if user::read::<i32>(addr)? != N_TTY {
                return Err(Errno::EINVAL);
            }
        }
        cmd::TIOCEXCL => tty.set_flags(TtyFlags::EXCLUSIVE),
        cmd::TIOCNXCL => tty.clear_flags(TtyFlags::EXCLUSIVE),
        cmd::TIOCGEXCL => {
            user::write(addr, &i32::from(tty.flags().contains(TtyFlags::EXCLUSIVE)))?;
        }
        cmd::TIOCGDEV => user::write(addr, &(tty.device_number() as u32))?,
        cmd::TIOCVHANGUP => hang_up(tty)?,
        _ => return Err(Errno::ENOTTY),
    }
    Ok(0)
}

fn set_termios(tty: &Arc<Tty>, request: u32, addr: UserAddr) -> Result<()> {
    let (termios, speeds) = match request {
        cmd::TCSETS | cmd::TCSETSW | cmd::TCSETSF => (user::read::<Termios>(addr)?, None),
        cmd::TCSETA | cmd::TCSETAW | cmd::TCSETAF => {
            (user::read::<Termio>(addr)?.applied_to(tty.termios().termios), None)
        }
        _ => {
            let new = user::read::<Termios2>(addr)?;
            (new.termios, Some((new.c_ispeed, new.c_ospeed)))
        }
    };
    tty.check_change()?;
    if !matches!(request, cmd::TCSETS | cmd::TCSETS2 | cmd::TCSETA) {
        tty.drain()?;
    }
    if matches!(request, cmd::TCSETSF | cmd::TCSETSF2 | cmd::TCSETAF) {
        tty.flush_input();
    }
    tty.set_termios(termios, speeds);
    Ok(())
}

fn flush(tty: &Tty, queue: usize) -> Result<()> {
    tty.check_change()?;
    match queue {
        TCIFLUSH => tty.flush_input(),
        TCOFLUSH => tty.flush_output(),
        TCIOFLUSH => {
            tty.flush_input();
            tty.flush_output();
        }
        _ => return Err(Errno::EINVAL),
    }
    Ok(())
}

fn flow(tty: &Tty, action: usize) -> Result<()> {
    tty.check_change()?;
    match action {
        TCOOFF => tty.stop_output(),
        TCOON => tty.start_output(),
        // The other side's output is its own: a virtual line has no XOFF to send.
        TCIOFF | TCION => {}
        _ => return Err(Errno::EINVAL),
    }
    Ok(())
}

/// Whether programs without `CAP_SYS_ADMIN` may use `TIOCSTI` on their own terminal (/proc/sys/dev/tty/legacy_tiocsti).
pub static LEGACY_TIOCSTI: AtomicU32 = AtomicU32::new(0);

/// `TIOCSTI`: types a byte.
///
/// Without `CAP_SYS_ADMIN`: `EIO` unless [`LEGACY_TIOCSTI`] is set, `EPERM` when it is not the caller's terminal.
fn insert_input(tty: &Tty, addr: UserAddr) -> Result<()> {
    use crate::line::Receiver;
    let is_admin = process::current().with_cred(|cred| security::capable(cred, security::Cap::SYS_ADMIN));
    if !is_admin && LEGACY_TIOCSTI.load(Relaxed) == 0 {
        return Err(Errno::EIO);
    }
    if !is_admin && !tty.is_controlling() {
        return Err(Errno::EPERM);
    }
    let byte: u8 = user::read(addr)?;
    tty.receive(&[byte]);
    Ok(())
}

fn hang_up(tty: &Tty) -> Result<()> {
    if !process::current().with_cred(|cred| security::capable(cred, security::Cap::SYS_ADMIN)) {
        return Err(Errno::EPERM);
    }
    tty.hang_up_session();
    Ok(())
}
