//! Formats that a program registered (binfmt_misc): how files are told by their bytes or their names, and which program
//! is executed for them. The file system that registers them is crate `binfmt-misc`.
//!
//! ```text
//! :name:type:offset:magic:mask:interpreter:flags
//! ^ any character separates     type M: bytes at `offset`, E: `magic` is what follows the last dot of the name
//! ```
//!
//! Newer formats are asked first, and all of them before scripts and ELF. A user namespace for which binfmt_misc was mounted
//! has formats of its own, [`Registry`], instead of those of the namespaces above. One atomic says that there is no format
//! anywhere, so that an exec that needs none takes no lock.
//!
//! # Locks
//!
//! The list of a registry nests in nothing and holds nothing else; it is held for writing while files are opened for nobody.
//!
//! Source: Documentation/admin-guide/binfmt-misc.rst.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use abi::{Errno, Result};
use bitflags::bitflags;
use hal::sync::LazyLock;
use sched::{Mutex, RwSem};
use security::UserNs;
use vfs::File;
use vfs::inode::DenyWrite;

use super::script::PROBE_LEN;

/// The longest and the shortest text that registers a format.
const TEXT_LEN: core::ops::RangeInclusive<usize> = 11..=1920;

bitflags! {
    /// How the interpreter is executed.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct FormatFlags: u8 {
        /// `P`: it is given the original `argv[0]`, too.
        const PRESERVE_ARGV0 = 1;
        /// `O`: it is given a descriptor of the file.
        const OPEN_BINARY = 2;
        /// `C`: the file's credentials count, not the interpreter's.
        const CREDENTIALS = 4;
        /// `F`: it was opened when the format was registered.
        const OPEN_FILE = 8;
    }
}

/// How files of a format are told.
#[derive(Debug, PartialEq, Eq)]
pub enum Pattern {
    /// By bytes at an offset, of which those count that are set in the mask.
    #[expect(missing_docs, reason = "named above")]
    Magic { offset: usize, magic: Vec<u8>, mask: Option<Vec<u8>> },
    /// By what follows the last dot of their names.
    Extension(Vec<u8>),
}

impl Pattern {
    /// Whether a file that begins with `probe` and is executed as `name` is meant.
    fn matches(&self, probe: &[u8], name: &[u8]) -> bool {
        match self {
            Self::Magic { offset, magic, mask } => magic.iter().enumerate().all(|(at, byte)| {
                let mask = mask.as_ref().and_then(|mask| mask.get(at)).unwrap_or(&0xff);
                // What a short file does not have is zero.
                (probe.get(offset + at).unwrap_or(&0) ^ byte) & mask == 0
            }),
            Self::Extension(extension) => {
                let dot = name.iter().rposition(|byte| *byte == b'.');
                dot.and_then(|dot| name.get(dot + 1..)).is_some_and(|found| found == extension)
            }
        }
    }
}

/// What a text that registers a format says.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// The name of its file.
    pub name: Vec<u8>,
    /// Which files it is about.
    pub pattern: Pattern,
    /// The program to execute for them.
    pub interpreter: Vec<u8>,
    /// How.
    pub flags: FormatFlags,
}

/// Splits off what is before the next `del`. `EINVAL`: there is none.
fn field<'a>(text: &mut &'a [u8], del: u8) -> Result<&'a [u8]> {
    let end = text.iter().position(|byte| *byte == del).ok_or(Errno::EINVAL)?;
    let (found, rest) = text.split_at(end);
    *text = rest.get(1..).unwrap_or_default();
    Ok(found)
}

/// As [`field`] for bytes of which some are written as `\xHH`. `EINVAL`.
fn byte_field(text: &mut &[u8], del: u8) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        let (&first, rest) = text.split_first().ok_or(Errno::EINVAL)?;
        *text = rest;
        if first == del {
            return Ok(bytes);
        }
        if first != b'\\' || rest.first() != Some(&b'x') {
            bytes.push(first);
            continue;
        }
        let digits = rest.get(1..3).and_then(|digits| core::str::from_utf8(digits).ok());
        let digits = digits.filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).ok_or(Errno::EINVAL)?;
        bytes.push(byte);
        *text = rest.get(3..).unwrap_or_default();
    }
}

impl Rule {
    /// Reads a text that registers a format. `EINVAL`: it is none.
    pub fn parse(text: &[u8]) -> Result<Self> {
        if !TEXT_LEN.contains(&text.len()) {
            return Err(Errno::EINVAL);
        }
        let (&del, mut rest) = text.split_first().ok_or(Errno::EINVAL)?;
        let name = field(&mut rest, del)?;
        if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') {
            return Err(Errno::EINVAL);
        }
        let pattern = match field(&mut rest, del)? {
            b"M" => magic(&mut rest, del)?,
            b"E" => extension(&mut rest, del)?,
            _ => return Err(Errno::EINVAL),
        };
        let interpreter = field(&mut rest, del)?;
        // A NUL would end an argument of its program early.
        if interpreter.is_empty() || interpreter.contains(&0) || name.contains(&0) {
            return Err(Errno::EINVAL);
        }
        let flags = flags(rest)?;
        Ok(Self { name: name.to_vec(), pattern, interpreter: interpreter.to_vec(), flags })
    }
}

fn magic(rest: &mut &[u8], del: u8) -> Result<Pattern> {
    let offset = match field(rest, del)? {
        b"" => 0,
        digits => {
            let text = core::str::from_utf8(digits).map_err(|_| Errno::EINVAL)?;
            text.parse::<u32>().map_err(|_| Errno::EINVAL)? as usize
        }
    };
    let magic = byte_field(rest, del)?;
    let mask = Some(byte_field(rest, del)?).filter(|mask| !mask.is_empty());
    let fits = magic.len() <= PROBE_LEN && offset <= PROBE_LEN - magic.len();
    if magic.is_empty() || !fits || mask.as_ref().is_some_and(|mask| mask.len() != magic.len()) {
        return Err(Errno::EINVAL);
    }
    Ok(Pattern::Magic { offset, magic, mask })
}

fn extension(rest: &mut &[u8], del: u8) -> Result<Pattern> {
    field(rest, del)?;
    let extension = field(rest, del)?;
    field(rest, del)?;
    if extension.is_empty() || extension.contains(&b'/') {
        return Err(Errno::EINVAL);
    }
    Ok(Pattern::Extension(extension.to_vec()))
}

fn flags(text: &[u8]) -> Result<FormatFlags> {
    let mut flags = FormatFlags::empty();
    for letter in text.strip_suffix(b"\n").unwrap_or(text) {
        flags |= match letter {
            b'P' => FormatFlags::PRESERVE_ARGV0,
            b'O' => FormatFlags::OPEN_BINARY,
            // It needs the file to be open.
            b'C' => FormatFlags::CREDENTIALS | FormatFlags::OPEN_BINARY,
            b'F' => FormatFlags::OPEN_FILE,
            _ => return Err(Errno::EINVAL),
        };
    }
    Ok(flags)
}

/// A registered format.
pub struct Format {
    rule: Rule,
    /// With `F`, the interpreter, which cannot be written while the format is registered.
    file: Mutex<Option<(Arc<File>, DenyWrite)>>,
    is_enabled: AtomicBool,
}

impl Format {
    /// What registered it.
    pub fn rule(&self) -> &Rule {
        &self.rule
    }

    /// Whether it counts.
    pub fn is_enabled(&self) -> bool {
        self.is_enabled.load(Relaxed)
    }

    /// Lets it count or not.
    pub fn enable(&self, on: bool) {
        self.is_enabled.store(on, Relaxed);
    }

    /// The interpreter that was opened early, to be executed again.
    pub(super) fn open_early(&self) -> Option<(Arc<File>, DenyWrite)> {
        self.file.lock().clone()
    }
}

/// The formats of one user namespace.
pub struct Registry {
    /// Newest last.
    list: RwSem<Vec<Arc<Format>>>,
    is_enabled: AtomicBool,
    /// How often the file system was made for it.
    generation: AtomicUsize,
}

/// The formats of the first user namespace.
static INITIAL: LazyLock<Arc<Registry>> = LazyLock::new(|| Arc::new(Registry::new()));
/// Registered formats of all namespaces.
static NR: AtomicUsize = AtomicUsize::new(0);

impl Registry {
    const fn new() -> Self {
        Self {
            list: RwSem::new("process.exec.misc", Vec::new()),
            is_enabled: AtomicBool::new(true),
            generation: AtomicUsize::new(0),
        }
    }

    /// That of `ns`, which has one from now on.
    pub fn made_for(ns: &UserNs) -> Arc<Self> {
        let Some(slot) = ns.formats() else { return INITIAL.clone() };
        let own = slot.call_once(|| Arc::new(Self::new())).clone();
        own.downcast().unwrap_or_else(|_| INITIAL.clone())
    }

    /// That of `ns` or of the next namespace above that has one: which counts for programs in `ns`.
    fn nearest(ns: &UserNs) -> Arc<Self> {
        let mut at = ns;
        loop {
            let own = at.formats().and_then(|slot| slot.get()).and_then(|own| own.clone().downcast().ok());
            match (own, at.parent()) {
                (Some(own), _) => return own,
                (None, Some(parent)) => at = parent,
                (None, None) => return INITIAL.clone(),
            }
        }
    }

    /// The file system is made once more: begins without formats, and enabled. Gives the number for [`Self::end`].
    pub fn begin(&self) -> usize {
        let generation = self.generation.fetch_add(1, Relaxed) + 1;
        self.clear();
        self.enable(true);
        generation
    }

    /// The file system of `generation` has ended, and with it its formats.
    pub fn end(&self, generation: usize) {
        if self.generation.load(Relaxed) == generation {
            self.clear();
        }
    }

    /// Registers a format; `file` is its interpreter if it was opened. `EEXIST`: one with this name is there. `ENOMEM`.
    pub fn add(&self, rule: Rule, file: Option<(Arc<File>, DenyWrite)>) -> Result<Arc<Format>> {
        let mut list = self.list.write();
        if list.iter().any(|format| format.rule.name == rule.name) {
            return Err(Errno::EEXIST);
        }
        list.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        let file = Mutex::new("process.exec.misc.file", file);
        let format = Arc::new(Format { rule, file, is_enabled: AtomicBool::new(true) });
        list.push(format.clone());
        NR.fetch_add(1, Relaxed);
        Ok(format)
    }

    /// Takes `format` out of the list.
    pub fn remove(&self, format: &Arc<Format>) {
        let gone = {
            let mut list = self.list.write();
            let at = list.iter().position(|known| Arc::ptr_eq(known, format));
            at.map(|at| list.remove(at))
        };
        let Some(gone) = gone else { return };
        NR.fetch_sub(1, Relaxed);
        // Others may know the format still, but its interpreter is free.
        let file = gone.file.lock().take();
        drop(file);
    }

    /// Takes all formats out.
    pub fn clear(&self) {
        self.all().iter().for_each(|format| self.remove(format));
    }

    /// All formats, oldest first.
    pub fn all(&self) -> Vec<Arc<Format>> {
        self.list.read().clone()
    }

    /// Whether formats count at all.
    pub fn is_enabled(&self) -> bool {
        self.is_enabled.load(Relaxed)
    }

    /// Lets formats count or not.
    pub fn enable(&self, on: bool) {
        self.is_enabled.store(on, Relaxed);
    }

    /// The format of a file that begins with `probe` and is executed as `name`.
    fn find(&self, probe: &[u8], name: &[u8]) -> Option<Arc<Format>> {
        if !self.is_enabled() {
            return None;
        }
        let is_meant =
            |format: &&Arc<Format>| format.is_enabled() && format.rule.pattern.matches(probe, name);
        self.list.read().iter().rev().find(is_meant).cloned()
    }
}

/// The format of a file that begins with `probe` and is executed as `name` by a program in `ns`.
pub(super) fn find(ns: &UserNs, probe: &[u8], name: &[u8]) -> Option<Arc<Format>> {
    if NR.load(Relaxed) == 0 {
        return None;
    }
    Registry::nearest(ns).find(probe, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bad(text: &str) {
        assert_eq!(Rule::parse(text.as_bytes()), Err(Errno::EINVAL), "{text}");
    }

    #[test]
    fn a_text_is_a_rule() {
        let rule = Rule::parse(br":java:M:2:\xca\xfeBA:\xff\xff\xff\x0f:/usr/bin/jwrap:PC").unwrap();
        let pattern = Pattern::Magic {
            offset: 2,
            magic: b"\xca\xfeBA".to_vec(),
            mask: Some(b"\xff\xff\xff\x0f".to_vec()),
        };
        let flags = FormatFlags::PRESERVE_ARGV0 | FormatFlags::CREDENTIALS | FormatFlags::OPEN_BINARY;
        let (name, interpreter) = (b"java".to_vec(), b"/usr/bin/jwrap".to_vec());
        assert_eq!(rule, Rule { name, pattern, interpreter, flags });
        let rule = Rule::parse(b"+e+E+ignored+exe++/bin/wine+F\n").unwrap();
        assert_eq!(rule.pattern, Pattern::Extension(b"exe".to_vec()));
        assert_eq!((rule.interpreter, rule.flags), (b"/bin/wine".to_vec(), FormatFlags::OPEN_FILE));
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        bad(":a:M::x::/");
        bad("::M::xyz::/bin/sh:");
        bad(":..:M::xyz::/bin/sh:");
        bad(":a/b:M::xyz::/bin/sh:");
        bad(":ab:X::xyz::/bin/sh:");
        bad(":ab:MM::xyz::/bin/sh:");
        bad(":ab:M::::/bin/sh:");
        bad(":ab:M:-1:xyz::/bin/sh:");
        bad(":ab:M:254:xyz::/bin/sh:");
        bad(":ab:M::xyz:x:/bin/sh:");
        bad(r":ab:M::\xg0::/bin/sh:");
        bad(":ab:M::xyz:::");
        bad(":ab:M::xyz::/bin/sh");
        bad(":ab:M::xyz::/bin/sh:Q");
        bad(":ab:E::::/bin/sh:");
        bad(":ab:E::a/b::/bin/sh:");
        bad(&format!(":ab:E::{}::/bin/sh:", "x".repeat(1920)));
    }

    #[test]
    fn bytes_and_names_are_compared() {
        let magic = |offset, magic: &[u8], mask: Option<&[u8]>| Pattern::Magic {
            offset,
            magic: magic.to_vec(),
            mask: mask.map(<[u8]>::to_vec),
        };
        assert!(magic(1, b"EL", None).matches(b"\x7fELF", b""));
        assert!(!magic(0, b"EL", None).matches(b"\x7fELF", b""));
        assert!(magic(0, b"ab", Some(b"\xdf\xdf")).matches(b"AB", b""));
        assert!(!magic(0, b"abc", None).matches(b"ab", b""));
        let exe = Pattern::Extension(b"exe".to_vec());
        assert!(exe.matches(b"", b"/bin/a.b.exe"));
        assert!(!exe.matches(b"", b"/bin/exe"));
        assert!(!exe.matches(b"", b"a.exe.b"));
    }
}
