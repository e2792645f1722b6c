//! What PID 1 is to do: the file `/.keel/job`, written by `xtask`.
//!
//! ```text
//! exec\0COMMAND                          run COMMAND by `sh -c` and report its status
//! shell\0TTY\0ROWS\0COLUMNS\0TERM        a login shell on /dev/TTY
//! ```
//! Fields are separated by NUL, so that a command may hold any other byte.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;

/// Where the job lies.
pub const PATH: &str = "/.keel/job";

/// One interactive session's terminal.
pub struct Terminal {
    /// Device name below /dev.
    pub tty: String,
    /// Height and width in characters; 0 when the host did not know.
    pub rows: u16,
    /// See `rows`.
    pub columns: u16,
    /// The value of TERM.
    pub term: String,
}

/// What to do.
pub enum Job {
    /// Run one command through `sh -c`.
    Exec(OsString),
    /// Run an interactive shell.
    Shell(Terminal),
}

impl Job {
    /// Reads and parses the job file.
    pub fn read() -> io::Result<Job> {
        let bytes = std::fs::read(PATH)?;
        Self::parse(&bytes).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "malformed job"))
    }

    fn parse(bytes: &[u8]) -> Option<Job> {
        let (kind, rest) = bytes.split_at(bytes.iter().position(|&b| b == 0)?);
        let rest = rest.get(1..)?;
        if kind == b"exec" {
            return Some(Job::Exec(OsString::from_vec(rest.to_vec())));
        }
        let text = str::from_utf8(rest).ok()?;
        let mut fields = text.split('\0');
        let terminal = Terminal {
            tty: fields.next()?.to_owned(),
            rows: fields.next()?.parse().ok()?,
            columns: fields.next()?.parse().ok()?,
            term: fields.next()?.to_owned(),
        };
        (kind == b"shell").then_some(Job::Shell(terminal))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_keeps_every_byte_after_the_first_nul() {
        let job = Job::parse(b"exec\0printf 'a\\0b'\n\xff");
        assert!(matches!(job, Some(Job::Exec(c)) if c.as_encoded_bytes() == b"printf 'a\\0b'\n\xff"));
    }

    #[test]
    fn a_shell_needs_all_four_fields() {
        assert!(
            matches!(Job::parse(b"shell\0ttyS0\x0024\x0080\0xterm"), Some(Job::Shell(t)) if t.rows == 24 && t.term == "xterm")
        );
        assert!(Job::parse(b"shell\0ttyS0\x0024").is_none());
        assert!(Job::parse(b"").is_none());
    }
}
