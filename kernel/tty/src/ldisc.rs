//! The line discipline N_TTY: editing of lines, echo, signal characters and output processing.
//!
//! [`Ldisc`] is a pure state machine: bytes from the line go in by [`Ldisc::receive`], which tells what
//! to echo and which signal to send; a reader takes bytes out by [`Ldisc::read`]. It knows no lock,
//! task or device, so it is tested on the host. [`crate::Tty`] owns one behind a lock.
//!
//! ```text
//! line --receive--> [ taken lines | line being edited ] --read--> program
//!                     ^ head         ^ line_start      ^ tail
//! ```
//!
//! In canonical mode only taken lines can be read. In raw mode everything can.
//!
//! # Invariants
//!
//! - L1: `line_start <= buffer.len() <= CAPACITY`.
//! - L2: in canonical mode every line before `line_start` ends with an entry whose `is_end` is set.
//!
//! Sources: termios(3), ioctl_tty(2); behaviour as observed on Linux 7.2.

use alloc::collections::VecDeque;

use abi::signal::{SIGINT, SIGQUIT, SIGTSTP};
use abi::termios::Termios;

use crate::flags::{DISABLED, Iflag, Lflag, Oflag, cc};

/// Bytes that the input buffer holds (Linux: `N_TTY_BUF_SIZE`).
pub const CAPACITY: usize = 4096;

/// The characters that send signals.
const SIGNALS: [(usize, u32); 3] = [(cc::VINTR, SIGINT), (cc::VQUIT, SIGQUIT), (cc::VSUSP, SIGTSTP)];

/// One byte of input.
#[derive(Clone, Copy)]
struct Entry {
    byte: u8,
    /// The byte ends a line: newline, EOL or end of file.
    is_end: bool,
    /// The byte is an end-of-file mark: it ends the line but is not delivered.
    is_eof: bool,
}

/// What the terminal must do after a byte was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    None,
    /// Send this signal to the foreground process group, and echo it ([`Ldisc::echo_signal`]).
    Signal(u32),
    /// Stop output (Ctrl-S).
    StopOutput,
    /// Restart output (Ctrl-Q).
    StartOutput,
}

/// How a read ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// So many bytes were taken, and more may follow at once.
    Taken(usize),
    /// So many bytes were taken up to the end of a line (0 for a lone end-of-file mark).
    Line(usize),
    /// Nothing can be read yet.
    Empty,
}

/// The line discipline of one terminal.
pub struct Ldisc {
    termios: Termios,
    buffer: VecDeque<Entry>,
    /// Where the line being edited starts.
    line_start: usize,
    /// The next byte is taken literally.
    literal_next: bool,
    /// Output column, for tabs and erasing.
    column: usize,
    /// Column at which the line being edited began on the screen.
    line_column: usize,
    /// Inside an ECHOPRT erase sequence.
    is_erasing: bool,
}

impl Ldisc {
    /// Makes a line discipline with the given settings and no input. Allocates the whole buffer now, so that
    /// [`Ldisc::receive`] never does.
    pub fn new(termios: Termios) -> Self {
        Self {
            termios,
            buffer: VecDeque::with_capacity(CAPACITY),
            line_start: 0,
            literal_next: false,
            column: 0,
            line_column: 0,
            is_erasing: false,
        }
    }

    /// The current settings.
    pub fn termios(&self) -> &Termios {
        &self.termios
    }

    /// Changes the settings. When canonical mode goes off or on, what is buffered becomes readable.
    pub fn set_termios(&mut self, termios: Termios) {
        let was = self.lflag().contains(Lflag::ICANON);
        self.termios = termios;
        if was != self.lflag().contains(Lflag::ICANON) {
            self.line_start = self.buffer.len();
            if let Some(last) = self.buffer.back_mut() {
                last.is_end = true;
            }
            self.literal_next = false;
        }
    }

    fn iflag(&self) -> Iflag {
        Iflag::from_bits_truncate(self.termios.c_iflag)
    }

    fn oflag(&self) -> Oflag {
        Oflag::from_bits_truncate(self.termios.c_oflag)
    }

    fn lflag(&self) -> Lflag {
        Lflag::from_bits_truncate(self.termios.c_lflag)
    }

    fn is_cc(&self, index: usize, byte: u8) -> bool {
        self.termios.c_cc.get(index).is_some_and(|&c| c != DISABLED && c == byte)
    }

    /// Whether lines are edited here (canonical mode).
    pub fn is_canonical(&self) -> bool {
        self.lflag().contains(Lflag::ICANON)
    }

    /// Bytes that a read could take now.
    pub fn readable(&self) -> usize {
        if self.is_canonical() {
            self.buffer.iter().take(self.line_start).filter(|e| !e.is_eof).count()
        } else {
            self.buffer.len()
        }
    }

    /// Whether a read would return at once: a taken line in canonical mode, else `min` bytes.
    pub fn is_ready(&self, min: usize) -> bool {
        if self.is_canonical() { self.line_start > 0 } else { self.buffer.len() >= min.max(1) }
    }

    /// Free room for input. In canonical mode one place is kept for the end of the line.
    pub fn room(&self) -> usize {
        CAPACITY.saturating_sub(self.buffer.len() + 1)
    }

    /// Whether signal characters discard input and output.
    pub fn flushes_on_signal(&self) -> bool {
        !self.lflag().contains(Lflag::NOFLSH)
    }

    /// Whether a background process may not write (TOSTOP).
    pub fn stops_background_writers(&self) -> bool {
        self.lflag().contains(Lflag::TOSTOP)
    }

    /// `VMIN` and `VTIME`: fewest bytes, and tenths of a second, of a raw read.
    pub fn min_and_time(&self) -> (u8, u8) {
        (self.termios.c_cc[cc::VMIN], self.termios.c_cc[cc::VTIME])
    }

    /// Drops all input.
    pub fn flush_input(&mut self) {
        self.buffer.clear();
        self.line_start = 0;
        self.literal_next = false;
    }

    /// Takes one byte from the line. Echo goes to `echo`, already processed for output.
    pub fn receive(&mut self, byte: u8, echo: &mut dyn FnMut(u8)) -> Action {
        let iflag = self.iflag();
        let lflag = self.lflag();
        let mut byte = if iflag.contains(Iflag::ISTRIP) { byte & 0x7f } else { byte };
        if iflag.contains(Iflag::IUCLC) && lflag.contains(Lflag::IEXTEN) {
            byte = byte.to_ascii_lowercase();
        }
        if self.literal_next {
            self.literal_next = false;
            return self.store_and_echo(byte, echo);
        }
        if let Some(action) = self.receive_control(byte, iflag, lflag) {
            return action;
        }
        match byte {
            b'\r' if iflag.contains(Iflag::IGNCR) => return Action::None,
            b'\r' if iflag.contains(Iflag::ICRNL) => byte = b'\n',
            b'\n' if iflag.contains(Iflag::INLCR) => byte = b'\r',
            _ => {}
        }
        if lflag.contains(Lflag::ICANON) {
            self.receive_canonical(byte, lflag, echo)
        } else {
            self.store_and_echo(byte, echo)
        }
    }

    /// Flow control and signals, which come before everything else.
    fn receive_control(&mut self, byte: u8, iflag: Iflag, lflag: Lflag) -> Option<Action> {
        if iflag.contains(Iflag::IXON) {
            if self.is_cc(cc::VSTART, byte) {
                return Some(Action::StartOutput);
            }
            if self.is_cc(cc::VSTOP, byte) {
                return Some(Action::StopOutput);
            }
        }
        if !lflag.contains(Lflag::ISIG) {
            return None;
        }
        let signal = SIGNALS.into_iter().find(|(index, _)| self.is_cc(*index, byte))?.1;
        if !lflag.contains(Lflag::NOFLSH) {
            self.flush_input();
        }
        Some(Action::Signal(signal))
    }

    /// Echoes the character of `signal`, which [`Self::receive`] told: not before output was flushed.
    pub fn echo_signal(&mut self, signal: u32, echo: &mut dyn FnMut(u8)) {
        let index = SIGNALS.into_iter().find(|(_, number)| *number == signal).map(|(index, _)| index);
        let byte = index.and_then(|index| self.termios.c_cc.get(index).copied());
        if let Some(byte) = byte
            && self.lflag().contains(Lflag::ECHO)
        {
            self.echo_byte(byte, echo);
        }
    }

    /// Editing characters and ends of line.
    fn receive_canonical(&mut self, byte: u8, lflag: Lflag, echo: &mut dyn FnMut(u8)) -> Action {
        let extended = lflag.contains(Lflag::IEXTEN);
        if self.is_cc(cc::VERASE, byte) {
            self.finish_or_erase(Erase::Char, lflag, echo);
        } else if self.is_cc(cc::VKILL, byte) {
            self.erase_line(byte, lflag, echo);
        } else if extended && self.is_cc(cc::VWERASE, byte) {
            self.finish_or_erase(Erase::Word, lflag, echo);
        } else if extended && self.is_cc(cc::VLNEXT, byte) {
            self.literal_next = true;
            if lflag.contains(Lflag::ECHO) && lflag.contains(Lflag::ECHOCTL) {
                self.output_raw(b'^', echo);
                self.output_raw(8, echo);
            }
        } else if extended && lflag.contains(Lflag::ECHO) && self.is_cc(cc::VREPRINT, byte) {
            self.reprint(byte, echo);
        } else if byte == b'\n' {
            if lflag.intersects(Lflag::ECHO | Lflag::ECHONL) {
                self.echo_byte(b'\n', echo);
            }
            self.end_line(byte, false);
        } else if self.is_cc(cc::VEOF, byte) {
            self.end_line(0, true);
        } else if self.is_cc(cc::VEOL, byte) || (extended && self.is_cc(cc::VEOL2, byte)) {
            if lflag.contains(Lflag::ECHO) {
                self.echo_byte(byte, echo);
            }
            self.end_line(byte, false);
        } else {
            return self.store_and_echo(byte, echo);
        }
        Action::None
    }

    fn end_line(&mut self, byte: u8, is_eof: bool) {
        if self.buffer.len() < CAPACITY {
            self.buffer.push_back(Entry { byte, is_end: true, is_eof });
        } else if let Some(last) = self.buffer.back_mut() {
            *last = Entry { byte, is_end: true, is_eof };
        }
        self.line_start = self.buffer.len();
    }

    /// Stores an ordinary byte. A full buffer drops it and rings the bell (IMAXBEL).
    fn store_and_echo(&mut self, byte: u8, echo: &mut dyn FnMut(u8)) -> Action {
        if self.room() == 0 {
            if self.iflag().contains(Iflag::IMAXBEL) {
                echo(7);
            }
            return Action::None;
        }
        if self.lflag().contains(Lflag::ECHO) {
            if self.buffer.len() == self.line_start {
                self.line_column = self.column;
            }
            self.echo_byte(byte, echo);
        }
        let doubled = byte == 0xff && self.iflag().contains(Iflag::PARMRK);
        for _ in 0..(1 + usize::from(doubled)).min(self.room()) {
            self.buffer.push_back(Entry { byte, is_end: false, is_eof: false });
        }
        Action::None
    }

    /// Echoes a byte, control characters as `^X` when ECHOCTL says so.
    fn echo_byte(&mut self, byte: u8, echo: &mut dyn FnMut(u8)) {
        self.finish_erasing(echo);
        if self.lflag().contains(Lflag::ECHOCTL) && is_control(byte) && byte != b'\n' && byte != b'\t' {
            self.output_raw(b'^', echo);
            self.output_raw(byte ^ 0x40, echo);
        } else {
            self.output(byte, echo);
        }
    }

    fn finish_erasing(&mut self, echo: &mut dyn FnMut(u8)) {
        if self.is_erasing {
            self.is_erasing = false;
            self.output_raw(b'/', echo);
        }
    }

    fn finish_or_erase(&mut self, what: Erase, lflag: Lflag, echo: &mut dyn FnMut(u8)) {
        let mut seen_word = false;
        while self.buffer.len() > self.line_start {
            let Some(byte) = self.last_char() else { break };
            if what == Erase::Word {
                let is_word = byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80;
                if seen_word && !is_word {
                    break;
                }
                seen_word |= is_word;
            }
            self.erase_char(lflag, echo);
            if what == Erase::Char {
                break;
            }
        }
        if self.buffer.len() == self.line_start && lflag.contains(Lflag::ECHO) {
            self.finish_erasing(echo);
        }
    }

    fn erase_line(&mut self, kill: u8, lflag: Lflag, echo: &mut dyn FnMut(u8)) {
        if self.buffer.len() == self.line_start {
            return;
        }
        if lflag.contains(Lflag::ECHO) && lflag.contains(Lflag::ECHOK | Lflag::ECHOKE | Lflag::ECHOE) {
            while self.buffer.len() > self.line_start {
                self.erase_char(lflag, echo);
            }
            self.finish_erasing(echo);
            return;
        }
        self.buffer.truncate(self.line_start);
        if lflag.contains(Lflag::ECHO) {
            self.echo_byte(kill, echo);
            if lflag.contains(Lflag::ECHOK) {
                self.output(b'\n', echo);
            }
        }
    }

    /// The first byte of the last character of the line being edited.
    fn last_char(&self) -> Option<u8> {
        let utf8 = self.iflag().contains(Iflag::IUTF8);
        self.buffer
            .iter()
            .skip(self.line_start)
            .rev()
            .map(|e| e.byte)
            .find(|&b| !(utf8 && is_continuation(b)))
            .or_else(|| self.buffer.back().map(|e| e.byte))
    }

    /// Removes the last character (all bytes of it in UTF-8) and wipes it from the screen.
    fn erase_char(&mut self, lflag: Lflag, echo: &mut dyn FnMut(u8)) {
        let utf8 = self.iflag().contains(Iflag::IUTF8);
        let mut byte = 0;
        while self.buffer.len() > self.line_start {
            let Some(entry) = self.buffer.pop_back() else { break };
            byte = entry.byte;
            if !(utf8 && is_continuation(byte)) {
                break;
            }
        }
        if !lflag.contains(Lflag::ECHO) {
            return;
        }
        if lflag.contains(Lflag::ECHOPRT) {
            if !self.is_erasing {
                self.output_raw(b'\\', echo);
                self.is_erasing = true;
            }
            self.output(byte, echo);
        } else if !lflag.contains(Lflag::ECHOE) {
            let erase = self.termios.c_cc[cc::VERASE];
            self.echo_byte(erase, echo);
        } else if byte == b'\t' {
            self.erase_tab(echo);
        } else {
            let width = if is_control(byte) && lflag.contains(Lflag::ECHOCTL) {
                2
            } else {
                usize::from(!is_control(byte))
            };
            for _ in 0..width {
                self.wipe_column(echo);
            }
        }
    }

    /// Moves back over a tab: to the column where the rest of the line ends.
    fn erase_tab(&mut self, echo: &mut dyn FnMut(u8)) {
        let mut column = self.line_column;
        for entry in self.buffer.iter().skip(self.line_start) {
            column = match entry.byte {
                b'\t' => (column | 7) + 1,
                b if is_control(b) => column + 2 * usize::from(self.lflag().contains(Lflag::ECHOCTL)),
                b if self.iflag().contains(Iflag::IUTF8) && is_continuation(b) => column,
                _ => column + 1,
            };
        }
        while self.column > column {
            self.output_raw(8, echo);
        }
    }

    fn wipe_column(&mut self, echo: &mut dyn FnMut(u8)) {
        self.output_raw(8, echo);
        self.output_raw(b' ', echo);
        self.output_raw(8, echo);
    }

    fn reprint(&mut self, byte: u8, echo: &mut dyn FnMut(u8)) {
        self.finish_erasing(echo);
        self.echo_byte(byte, echo);
        self.output(b'\n', echo);
        self.line_column = self.column;
        for index in self.line_start..self.buffer.len() {
            if let Some(byte) = self.buffer.get(index).map(|e| e.byte) {
                self.echo_byte(byte, echo);
            }
        }
    }

    /// Takes bytes for a reader: at most one line in canonical mode, what there is otherwise.
    pub fn read(&mut self, to: &mut [u8]) -> Read {
        if self.is_canonical() {
            return self.read_line(to);
        }
        if self.buffer.is_empty() {
            return Read::Empty;
        }
        let count = to.len().min(self.buffer.len());
        for (slot, entry) in to.iter_mut().zip(self.buffer.drain(..count)) {
            *slot = entry.byte;
        }
        self.line_start = self.line_start.saturating_sub(count);
        Read::Taken(count)
    }

    fn read_line(&mut self, to: &mut [u8]) -> Read {
        if self.line_start == 0 {
            return Read::Empty;
        }
        let mut count = 0;
        while self.line_start > 0 {
            let Some(&entry) = self.buffer.front() else { break };
            if count == to.len() && !entry.is_eof {
                return Read::Taken(count);
            }
            self.buffer.pop_front();
            self.line_start -= 1;
            if entry.is_eof {
                break;
            }
            to[count] = entry.byte;
            count += 1;
            if entry.is_end {
                break;
            }
        }
        Read::Line(count)
    }

    /// Processes one byte of output (OPOST) into `to`.
    pub fn output(&mut self, byte: u8, to: &mut dyn FnMut(u8)) {
        let oflag = self.oflag();
        if !oflag.contains(Oflag::OPOST) {
            return self.output_raw(byte, to);
        }
        match byte {
            b'\n' => {
                if oflag.contains(Oflag::ONLCR) {
                    self.output_raw(b'\r', to);
                }
                if oflag.contains(Oflag::ONLRET) {
                    self.column = 0;
                }
                self.output_raw(b'\n', to);
            }
            b'\r' if oflag.contains(Oflag::ONOCR) && self.column == 0 => {}
            b'\r' if oflag.contains(Oflag::OCRNL) => {
                if oflag.contains(Oflag::ONLRET) {
                    self.column = 0;
                }
                self.output_raw(b'\n', to);
            }
            b'\t' if oflag.contains(Oflag::XTABS) => {
                for _ in 0..8 - self.column % 8 {
                    self.output_raw(b' ', to);
                }
            }
            _ if oflag.contains(Oflag::OLCUC) => self.output_raw(byte.to_ascii_uppercase(), to),
            _ => self.output_raw(byte, to),
        }
    }

    /// Sends a byte as it is and follows the column.
    fn output_raw(&mut self, byte: u8, to: &mut dyn FnMut(u8)) {
        match byte {
            b'\r' => self.column = 0,
            8 => self.column = self.column.saturating_sub(1),
            b'\t' => self.column = (self.column | 7) + 1,
            _ if is_control(byte) => {}
            _ if self.iflag().contains(Iflag::IUTF8) && is_continuation(byte) => {}
            _ => self.column += 1,
        }
        to(byte);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Erase {
    Char,
    Word,
}

fn is_control(byte: u8) -> bool {
    byte < 32 || byte == 127
}

fn is_continuation(byte: u8) -> bool {
    byte & 0xc0 == 0x80
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::{Kind, standard};

    /// Types `input` and returns what the screen got and the signals sent.
    fn type_in(ldisc: &mut Ldisc, input: &[u8]) -> (Vec<u8>, Vec<Action>) {
        let mut screen = Vec::new();
        let mut actions = Vec::new();
        for &byte in input {
            let action = ldisc.receive(byte, &mut |b| screen.push(b));
            if let Action::Signal(signal) = action {
                ldisc.echo_signal(signal, &mut |b| screen.push(b));
            }
            if action != Action::None {
                actions.push(action);
            }
        }
        (screen, actions)
    }

    fn take(ldisc: &mut Ldisc, max: usize) -> Option<Vec<u8>> {
        let mut to = vec![0; max];
        match ldisc.read(&mut to) {
            Read::Empty => None,
            Read::Taken(count) | Read::Line(count) => Some(to[..count].to_vec()),
        }
    }

    fn cooked() -> Ldisc {
        Ldisc::new(standard(Kind::Pty).termios)
    }

    fn with_lflag(change: impl FnOnce(&mut Lflag)) -> Ldisc {
        let mut termios = standard(Kind::Pty).termios;
        let mut lflag = Lflag::from_bits_truncate(termios.c_lflag);
        change(&mut lflag);
        termios.c_lflag = lflag.bits();
        Ldisc::new(termios)
    }

    #[test]
    fn a_line_is_readable_after_its_newline_only() {
        let mut ldisc = cooked();
        assert_eq!(type_in(&mut ldisc, b"ab").0, b"ab");
        assert_eq!(take(&mut ldisc, 10), None);
        assert_eq!(type_in(&mut ldisc, b"\r").0, b"\r\n");
        assert_eq!(take(&mut ldisc, 10).unwrap(), b"ab\n");
        assert_eq!(take(&mut ldisc, 10), None);
    }

    #[test]
    fn a_short_read_leaves_the_rest_of_the_line() {
        let mut ldisc = cooked();
        type_in(&mut ldisc, b"hello\nworld\n");
        assert_eq!(take(&mut ldisc, 3).unwrap(), b"hel");
        assert_eq!(take(&mut ldisc, 9).unwrap(), b"lo\n");
        assert_eq!(take(&mut ldisc, 9).unwrap(), b"world\n");
    }

    #[test]
    fn erase_kill_and_word_erase_edit_line_and_screen() {
        let mut ldisc = cooked();
        assert_eq!(type_in(&mut ldisc, b"ab\x7f").0, b"ab\x08 \x08");
        type_in(&mut ldisc, b" foo\x17bar\n");
        assert_eq!(take(&mut ldisc, 20).unwrap(), b"a bar\n");
        let (screen, _) = type_in(&mut ldisc, b"xy\x15z\n");
        assert_eq!(screen, b"xy\x08 \x08\x08 \x08z\r\n");
        assert_eq!(take(&mut ldisc, 20).unwrap(), b"z\n");
    }

    #[test]
    fn erase_takes_a_whole_utf8_character() {
        let mut ldisc = cooked();
        let mut termios = *ldisc.termios();
        termios.c_iflag |= Iflag::IUTF8.bits();
        ldisc.set_termios(termios);
        let (screen, _) = type_in(&mut ldisc, "é\x7fa\n".as_bytes());
        assert_eq!(screen, "é\x08 \x08a\r\n".as_bytes());
        assert_eq!(take(&mut ldisc, 20).unwrap(), b"a\n");
    }

    #[test]
    fn end_of_file_ends_a_line_or_reads_as_zero() {
        let mut ldisc = cooked();
        type_in(&mut ldisc, b"ab\x04\x04");
        assert_eq!(take(&mut ldisc, 10).unwrap(), b"ab");
        assert_eq!(take(&mut ldisc, 10).unwrap(), b"");
        assert_eq!(take(&mut ldisc, 10), None);
    }

    #[test]
    fn an_exact_read_does_not_leave_an_end_of_file_behind() {
        let mut ldisc = cooked();
        type_in(&mut ldisc, b"ab\x04");
        assert_eq!(take(&mut ldisc, 2).unwrap(), b"ab");
        assert_eq!(take(&mut ldisc, 2), None);
    }

    #[test]
    fn signal_characters_flush_echo_and_signal() {
        let mut ldisc = cooked();
        let (screen, actions) = type_in(&mut ldisc, b"abc\x03");
        assert_eq!(screen, b"abc^C");
        assert_eq!(actions, [Action::Signal(SIGINT)]);
        type_in(&mut ldisc, b"\n");
        assert_eq!(take(&mut ldisc, 10).unwrap(), b"\n");
        assert_eq!(type_in(&mut ldisc, b"\x1a\x1c").1, [Action::Signal(SIGTSTP), Action::Signal(SIGQUIT)]);
    }

    #[test]
    fn a_signal_is_told_before_it_is_echoed() {
        let mut ldisc = cooked();
        let mut screen = Vec::new();
        assert_eq!(ldisc.receive(3, &mut |b| screen.push(b)), Action::Signal(SIGINT));
        assert!(screen.is_empty(), "a flush of the output would take it");
        ldisc.echo_signal(SIGINT, &mut |b| screen.push(b));
        assert_eq!(screen, b"^C");
        let mut silent = with_lflag(|l| l.remove(Lflag::ECHO));
        silent.echo_signal(SIGINT, &mut |_| panic!("no echo is wanted"));
    }

    #[test]
    fn raw_mode_delivers_every_byte() {
        let mut ldisc = with_lflag(|l| l.remove(Lflag::ICANON | Lflag::ECHO | Lflag::ISIG));
        assert_eq!(type_in(&mut ldisc, b"a\x03\x7f").0, b"");
        assert!(ldisc.is_ready(3) && !ldisc.is_ready(4));
        assert_eq!(take(&mut ldisc, 10).unwrap(), b"a\x03\x7f");
    }

    #[test]
    fn leaving_canonical_mode_makes_the_edited_line_readable() {
        let mut ldisc = cooked();
        type_in(&mut ldisc, b"abc");
        let mut termios = *ldisc.termios();
        termios.c_lflag &= !Lflag::ICANON.bits();
        ldisc.set_termios(termios);
        assert_eq!(take(&mut ldisc, 10).unwrap(), b"abc");
    }

    #[test]
    fn literal_next_takes_a_signal_character_as_data() {
        let mut ldisc = cooked();
        let (screen, actions) = type_in(&mut ldisc, b"\x16\x03\n");
        assert_eq!((screen.as_slice(), actions.len()), (&b"^\x08^C\r\n"[..], 0));
        assert_eq!(take(&mut ldisc, 10).unwrap(), b"\x03\n");
    }

    #[test]
    fn a_full_buffer_still_takes_the_end_of_the_line() {
        let mut ldisc = cooked();
        type_in(&mut ldisc, &vec![b'x'; CAPACITY + 100]);
        type_in(&mut ldisc, b"\n");
        let line = take(&mut ldisc, 2 * CAPACITY).unwrap();
        assert_eq!(line.len(), CAPACITY);
        assert_eq!(line.last(), Some(&b'\n'));
    }

    #[test]
    fn output_processing_maps_newline_and_expands_tabs() {
        let mut ldisc = cooked();
        let mut out = Vec::new();
        let mut termios = *ldisc.termios();
        termios.c_oflag |= Oflag::XTABS.bits();
        ldisc.set_termios(termios);
        for &byte in b"ab\tc\n" {
            ldisc.output(byte, &mut |b| out.push(b));
        }
        assert_eq!(out, b"ab      c\r\n");
    }

    #[test]
    fn flow_control_characters_are_not_data() {
        let mut ldisc = cooked();
        let (_, actions) = type_in(&mut ldisc, b"\x13\x11");
        assert_eq!(actions, [Action::StopOutput, Action::StartOutput]);
        assert_eq!(ldisc.readable(), 0);
    }
}
