//! Terminals: `struct termios` and window size as the ioctls pass them (ioctl_tty(2), termios(3)).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Number of control characters in the kernel's `struct termios`.
pub const NCCS: usize = 19;

/// The kernel's `struct termios` (`TCGETS`), 36 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Termios {
    pub c_iflag: u32,
    pub c_oflag: u32,
    pub c_cflag: u32,
    pub c_lflag: u32,
    pub c_line: u8,
    pub c_cc: [u8; NCCS],
}

/// The kernel's `struct termios2` (`TCGETS2`), 44 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Termios2 {
    pub termios: Termios,
    pub c_ispeed: u32,
    pub c_ospeed: u32,
}

/// Number of control characters in `struct termio`.
pub const NCC: usize = 8;

/// The older `struct termio` (`TCGETA`): the lower halves of the flags and the first control characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Termio {
    pub c_iflag: u16,
    pub c_oflag: u16,
    pub c_cflag: u16,
    pub c_lflag: u16,
    pub c_line: u8,
    pub c_cc: [u8; NCC],
    pub unused: u8,
}

impl From<Termios> for Termio {
    fn from(all: Termios) -> Self {
        let mut c_cc = [0; NCC];
        c_cc.copy_from_slice(&all.c_cc[..NCC]);
        Self {
            c_iflag: all.c_iflag as u16,
            c_oflag: all.c_oflag as u16,
            c_cflag: all.c_cflag as u16,
            c_lflag: all.c_lflag as u16,
            c_line: all.c_line,
            c_cc,
            unused: 0,
        }
    }
}

impl Termio {
    /// `all` with what is in `self`.
    pub fn applied_to(&self, mut all: Termios) -> Termios {
        let low = |old: u32, new: u16| old & 0xffff_0000 | u32::from(new);
        all.c_iflag = low(all.c_iflag, self.c_iflag);
        all.c_oflag = low(all.c_oflag, self.c_oflag);
        all.c_cflag = low(all.c_cflag, self.c_cflag);
        all.c_lflag = low(all.c_lflag, self.c_lflag);
        all.c_line = self.c_line;
        all.c_cc[..NCC].copy_from_slice(&self.c_cc);
        all
    }
}

impl Termios {
    /// `new` instead of `self`, but for what is set in `locked`: those flags and characters stay.
    pub fn changed_to(&self, new: Termios, locked: &Termios) -> Termios {
        let flags = |old: u32, new: u32, locked: u32| old & locked | new & !locked;
        let byte = |old: u8, new: u8, locked: u8| if locked != 0 { old } else { new };
        let mut c_cc = new.c_cc;
        for (at, value) in c_cc.iter_mut().enumerate() {
            *value = byte(self.c_cc[at], *value, locked.c_cc[at]);
        }
        Self {
            c_iflag: flags(self.c_iflag, new.c_iflag, locked.c_iflag),
            c_oflag: flags(self.c_oflag, new.c_oflag, locked.c_oflag),
            c_cflag: flags(self.c_cflag, new.c_cflag, locked.c_cflag),
            c_lflag: flags(self.c_lflag, new.c_lflag, locked.c_lflag),
            c_line: byte(self.c_line, new.c_line, locked.c_line),
            c_cc,
        }
    }
}

/// `struct winsize` (`TIOCGWINSZ`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Winsize {
    pub ws_row: u16,
    pub ws_col: u16,
    pub ws_xpixel: u16,
    pub ws_ypixel: u16,
}

const _: () = assert!(size_of::<Termios>() == 36 && size_of::<Termio>() == 18 && size_of::<Termios2>() == 44);
