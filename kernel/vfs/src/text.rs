//! Files whose content is text that is made when it is read: what /proc and /sys consist of (Linux: `seq_file`).
//!
//! The text is made at a read at position 0 and kept with the open description, so that a program that reads in
//! small pieces sees one consistent text, and one that goes back to the start sees a fresh one.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::{self, Write as _};

use abi::{Errno, Result};
use hal::PAGE_SIZE;
use hal::cpu::CpuMask;
use hal::uio::{Dest, Src};
use sched::Mutex;

use crate::file::{File, FileOps, Whence};
use crate::rw;

/// The most bytes that one write passes to [`Content::store`].
pub const STORE_MAX: usize = 4096;

/// Text in the making. It grows fallibly: once memory ran out it stays cut, and [`Text::finish`] tells.
#[derive(Default)]
pub struct Text {
    bytes: Vec<u8>,
    ran_out: bool,
}

impl Text {
    /// An empty text.
    #[inline]
    pub const fn new() -> Self {
        Self { bytes: Vec::new(), ran_out: false }
    }

    /// Appends bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.ran_out || self.bytes.try_reserve(bytes.len()).is_err() {
            self.ran_out = true;
            return;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Appends formatted text; see [`put!`](crate::put).
    pub fn put(&mut self, args: fmt::Arguments<'_>) {
        // `write_str` below never fails.
        let _ = self.write_fmt(args);
    }

    /// Appends `bytes` with those in `special`, and the backslash, as octal numbers.
    pub fn push_escaped(&mut self, bytes: &[u8], special: &[u8]) {
        for &byte in bytes {
            if byte == b'\\' || special.contains(&byte) {
                self.put(format_args!("\\{byte:03o}"));
            } else {
                self.push(&[byte]);
            }
        }
    }

    /// Bytes so far.
    #[inline]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is nothing yet.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Fills with spaces up to `column` bytes after `start`, at least one.
    pub fn pad_to(&mut self, start: usize, column: usize) {
        let used = self.len().saturating_sub(start);
        for _ in 0..column.saturating_sub(used).max(1) {
            self.push(b" ");
        }
    }

    /// The whole text. `ENOMEM`: memory ran out.
    pub fn finish(self) -> Result<Vec<u8>> {
        if self.ran_out { Err(Errno::ENOMEM) } else { Ok(self.bytes) }
    }
}

impl fmt::Write for Text {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        self.push(s.as_bytes());
        Ok(())
    }
}

/// Appends formatted text to a [`Text`]: `put!(out, "{}\n", n)`.
#[macro_export]
macro_rules! put {
    ($out:expr, $($arg:tt)*) => { $out.put(::core::format_args!($($arg)*)) };
}

/// What is in such a file.
pub trait Content: Send + Sync + 'static {
    /// Makes the text.
    fn show(&self, out: &mut Text) -> Result<()>;

    /// Takes what was written, all at once. The default is what Linux answers for files that only show.
    fn store(&self, bytes: &[u8]) -> Result<()> {
        let _ = bytes;
        Err(Errno::EIO)
    }
}

impl<F: Fn(&mut Text) -> Result<()> + Send + Sync + 'static> Content for F {
    fn show(&self, out: &mut Text) -> Result<()> {
        self(out)
    }
}

/// An open file of generated text.
pub struct TextFile<C> {
    content: C,
    made: Mutex<Option<Vec<u8>>>,
    /// A read of a page or more that does not get everything ends after a line.
    whole_lines: bool,
}

impl<C: Content> TextFile<C> {
    /// The operations of a freshly opened file with this content.
    #[inline]
    pub fn open(content: C) -> Arc<dyn FileOps> {
        Arc::new(Self { content, made: Mutex::new("vfs.text", None), whole_lines: false })
    }

    /// As [`TextFile::open`], for content of which programs that read a page or more expect whole lines.
    #[inline]
    pub fn of_lines(content: C) -> Arc<dyn FileOps> {
        Arc::new(Self { content, made: Mutex::new("vfs.text", None), whole_lines: true })
    }
}

/// The part of `text` that a read of `room` bytes gets: up to the end of the last line that fits, if one does.
fn lines_that_fit(text: &[u8], room: usize) -> &[u8] {
    match text.get(..room) {
        Some(part) => part.iter().rposition(|&byte| byte == b'\n').map_or(part, |end| &part[..=end]),
        None => text,
    }
}

impl<C: Content> FileOps for TextFile<C> {
    fn read(&self, _file: &File, dst: &mut Dest<'_>, pos: u64) -> Result<usize> {
        if dst.remaining() == 0 {
            return Ok(0);
        }
        let mut made = self.made.lock();
        if pos == 0 || made.is_none() {
            let mut text = Text::new();
            self.content.show(&mut text)?;
            *made = Some(text.finish()?);
        }
        let text = made.as_deref().unwrap_or(&[]);
        let rest = usize::try_from(pos).ok().and_then(|pos| text.get(pos..)).unwrap_or(&[]);
        let is_cut = !self.whole_lines || dst.remaining() < PAGE_SIZE;
        let rest = if is_cut { rest } else { lines_that_fit(rest, dst.remaining()) };
        Ok(dst.put_bytes(rest)?)
    }

    fn write(&self, _file: &File, src: &mut Src<'_>, _pos: u64) -> Result<usize> {
        let len = src.remaining().min(STORE_MAX);
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
        bytes.resize(len, 0);
        if src.take_bytes(&mut bytes)? < len {
            return Err(Errno::EFAULT);
        }
        self.content.store(&bytes)?;
        Ok(len)
    }

    fn seek(&self, file: &File, offset: i64, whence: Whence) -> Result<u64> {
        rw::seek_unsized(file, offset, whence)
    }
}

/// A mask in hexadecimal, 32 bits between commas, as wide as `nr` CPUs need.
pub fn put_cpu_mask(out: &mut Text, mask: CpuMask, nr: usize) {
    if nr > 32 {
        let width = nr.saturating_sub(32).div_ceil(4);
        put!(out, "{:0width$x},{:08x}", mask.0 >> 32, mask.0 & 0xffff_ffff);
    } else {
        let width = nr.div_ceil(4);
        put!(out, "{:0width$x}", mask.0 & 0xffff_ffff);
    }
}

/// A mask as ranges: "0-2,5".
pub fn put_cpu_list(out: &mut Text, mask: CpuMask) {
    let mut cpus = mask.iter().map(|cpu| cpu.0).peekable();
    let mut separator = "";
    while let Some(first) = cpus.next() {
        let mut last = first;
        while let Some(next) = cpus.next_if(|&next| next == last + 1) {
            last = next;
        }
        put!(out, "{separator}{first}");
        if last > first {
            put!(out, "-{last}");
        }
        separator = ",";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_escapes_and_pads() {
        let mut text = Text::new();
        text.push_escaped(b"a b\\c", b" ");
        text.pad_to(0, 14);
        put!(text, "{}", 7);
        assert_eq!(text.finish().unwrap(), b"a\\040b\\134c   7");
    }

    #[test]
    fn a_read_of_lines_ends_after_one() {
        assert_eq!(lines_that_fit(b"one\ntwo\nthree", 9), b"one\ntwo\n");
        assert_eq!(lines_that_fit(b"one\ntwo\n", 8), b"one\ntwo\n");
        assert_eq!(lines_that_fit(b"one\ntwo\n", 20), b"one\ntwo\n");
        assert_eq!(lines_that_fit(b"longer than that\n", 6), b"longer");
    }

    fn text(f: impl Fn(&mut Text)) -> String {
        let mut out = Text::new();
        f(&mut out);
        String::from_utf8(out.finish().unwrap()).unwrap()
    }

    #[test]
    fn cpu_sets_show_as_masks_and_as_ranges() {
        assert_eq!(text(|out| put_cpu_list(out, CpuMask(0b10_0111))), "0-2,5");
        assert_eq!(text(|out| put_cpu_list(out, CpuMask(0))), "");
        assert_eq!(text(|out| put_cpu_mask(out, CpuMask(0b11), 2)), "3");
        assert_eq!(text(|out| put_cpu_mask(out, CpuMask(1), 8)), "01");
        assert_eq!(text(|out| put_cpu_mask(out, CpuMask(u64::MAX), 64)), "ffffffff,ffffffff");
    }
}
