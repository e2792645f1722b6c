//! The flag words and control characters of `struct termios` (termios(3), ioctl_tty(2)).

use abi::termios::{NCCS, Termios, Termios2};
use bitflags::bitflags;

bitflags! {
    /// Input modes, `c_iflag`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Iflag: u32 {
        /// Ignore a break.
        const IGNBRK = 0o1;
        /// A break sends SIGINT.
        const BRKINT = 0o2;
        /// Ignore bytes with parity errors.
        const IGNPAR = 0o4;
        /// Mark parity errors and double 0xff.
        const PARMRK = 0o10;
        /// Check parity.
        const INPCK = 0o20;
        /// Clear the eighth bit.
        const ISTRIP = 0o40;
        /// Newline becomes carriage return.
        const INLCR = 0o100;
        /// Drop carriage returns.
        const IGNCR = 0o200;
        /// Carriage return becomes newline.
        const ICRNL = 0o400;
        /// Upper case becomes lower case.
        const IUCLC = 0o1000;
        /// STOP and START control output.
        const IXON = 0o2000;
        /// Any byte restarts output.
        const IXANY = 0o4000;
        /// Send STOP and START when the input fills.
        const IXOFF = 0o10000;
        /// Ring the bell when the input is full.
        const IMAXBEL = 0o20000;
        /// Input is UTF-8: erase whole characters.
        const IUTF8 = 0o40000;
    }

    /// Output modes, `c_oflag`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Oflag: u32 {
        /// Process output at all.
        const OPOST = 0o1;
        /// Lower case becomes upper case.
        const OLCUC = 0o2;
        /// Newline becomes carriage return and newline.
        const ONLCR = 0o4;
        /// Carriage return becomes newline.
        const OCRNL = 0o10;
        /// No carriage return at column 0.
        const ONOCR = 0o20;
        /// Newline also returns the carriage.
        const ONLRET = 0o40;
        /// Tabs become spaces (the value `TAB3` of the field `TABDLY`).
        const XTABS = 0o14000;
    }

    /// Local modes, `c_lflag`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Lflag: u32 {
        /// INTR, QUIT and SUSP send signals.
        const ISIG = 0o1;
        /// Input comes in edited lines.
        const ICANON = 0o2;
        /// Upper-case terminal.
        const XCASE = 0o4;
        /// Echo input.
        const ECHO = 0o10;
        /// ERASE wipes the character from the screen.
        const ECHOE = 0o20;
        /// KILL echoes a newline.
        const ECHOK = 0o40;
        /// Echo newline even without ECHO.
        const ECHONL = 0o100;
        /// Signals do not flush.
        const NOFLSH = 0o200;
        /// Background writes send SIGTTOU.
        const TOSTOP = 0o400;
        /// Control characters echo as ^X.
        const ECHOCTL = 0o1000;
        /// Erased characters are printed between \ and /.
        const ECHOPRT = 0o2000;
        /// KILL wipes each character.
        const ECHOKE = 0o4000;
        /// Output is being flushed.
        const FLUSHO = 0o10000;
        /// Reprint pending input at the next byte.
        const PENDIN = 0o40000;
        /// LNEXT, REPRINT and WERASE work.
        const IEXTEN = 0o100000;
        /// The line is edited elsewhere.
        const EXTPROC = 0o200000;
    }
}

/// Indices into `c_cc`.
pub mod cc {
    /// Interrupt, Ctrl-C.
    pub const VINTR: usize = 0;
    /// Quit, Ctrl-\.
    pub const VQUIT: usize = 1;
    /// Erase a character, DEL.
    pub const VERASE: usize = 2;
    /// Erase the line, Ctrl-U.
    pub const VKILL: usize = 3;
    /// End of file, Ctrl-D.
    pub const VEOF: usize = 4;
    /// Timeout of a raw read, in tenths of a second.
    pub const VTIME: usize = 5;
    /// Fewest bytes of a raw read.
    pub const VMIN: usize = 6;
    /// Restart output, Ctrl-Q.
    pub const VSTART: usize = 8;
    /// Stop output, Ctrl-S.
    pub const VSTOP: usize = 9;
    /// Suspend, Ctrl-Z.
    pub const VSUSP: usize = 10;
    /// A further end of line.
    pub const VEOL: usize = 11;
    /// Reprint the line, Ctrl-R.
    pub const VREPRINT: usize = 12;
    /// Erase a word, Ctrl-W.
    pub const VWERASE: usize = 14;
    /// Take the next byte literally, Ctrl-V.
    pub const VLNEXT: usize = 15;
    /// Yet another end of line.
    pub const VEOL2: usize = 16;
}

/// A control character with this value is switched off (`_POSIX_VDISABLE`).
pub const DISABLED: u8 = 0;

/// Speed code of 38,400 bit/s.
const B38400: u32 = 0o17;
/// Speed code of 115,200 bit/s.
const B115200: u32 = 0o10002;
/// Eight data bits.
const CS8: u32 = 0o60;
/// Receiver on.
const CREAD: u32 = 0o200;
/// Hang up on last close.
const HUPCL: u32 = 0o2000;
/// Ignore modem lines.
const CLOCAL: u32 = 0o4000;

/// The settings a new terminal starts with, as Linux's `tty_std_termios`.
pub fn standard(kind: Kind) -> Termios2 {
    let mut c_cc = [0; NCCS];
    let defaults = [
        (cc::VINTR, 3),
        (cc::VQUIT, 28),
        (cc::VERASE, 127),
        (cc::VKILL, 21),
        (cc::VEOF, 4),
        (cc::VMIN, 1),
        (cc::VSTART, 17),
        (cc::VSTOP, 19),
        (cc::VSUSP, 26),
        (cc::VREPRINT, 18),
        (cc::VWERASE, 23),
        (cc::VLNEXT, 22),
    ];
    for (index, value) in defaults {
        c_cc[index] = value;
    }
    let (c_cflag, speed) = match kind {
        Kind::Serial => (B115200 | CS8 | CREAD | HUPCL | CLOCAL, 115_200),
        Kind::Pty => (B38400 | CS8 | CREAD, 38_400),
    };
    let mut termios = Termios {
        c_iflag: (Iflag::ICRNL | Iflag::IXON).bits(),
        c_oflag: (Oflag::OPOST | Oflag::ONLCR).bits(),
        c_cflag,
        c_lflag: (Lflag::ISIG
            | Lflag::ICANON
            | Lflag::ECHO
            | Lflag::ECHOE
            | Lflag::ECHOK
            | Lflag::ECHOCTL
            | Lflag::ECHOKE
            | Lflag::IEXTEN)
            .bits(),
        c_line: 0,
        c_cc,
    };
    termios.c_line = 0;
    Termios2 { termios, c_ispeed: speed, c_ospeed: speed }
}

/// What kind of line a terminal is, for its first settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A serial port.
    Serial,
    /// The slave side of a pseudo-terminal.
    Pty,
}
