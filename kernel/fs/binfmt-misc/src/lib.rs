#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use abi::fs::{S_IFDIR, S_IFMT, S_IFREG};
use abi::{Errno, Result};
use process::exec::misc::{Format, FormatFlags, Pattern, Registry, Rule};
use sched::Mutex;
use security::{Cred, IdKind, UserNs};
use vfs::dentry::Dentry;
use vfs::inode::DenyWrite;
use vfs::listing::{DirFile, Each, Listing, ino_of};
use vfs::open::open_exec;
use vfs::text::{Content, Text, TextFile};
use vfs::{
    At, File, FileOps, FileSystemType, Inode, InodeFlags, InodeInit, InodeOps, MountRequest, NewInode,
    OpenRequest, SuperBlock, SuperInit, SuperOps, WalkContext, WalkFlags, put,
};

/// `BINFMTFS_MAGIC` (statfs(2)).
const MAGIC: u64 = 0x4249_4e4d;
const ROOT_INO: u64 = 1;

struct Type;

static TYPE: Type = Type;

/// The roots that are mounted somewhere, one for a user namespace.
static ROOTS: Mutex<Vec<(UserNs, Weak<Dentry>)>> = Mutex::new("binfmt_misc.roots", Vec::new());

/// Forgets the roots that are gone.
fn prune(roots: &mut Vec<(UserNs, Weak<Dentry>)>) {
    roots.retain(|(_, root)| root.strong_count() > 0);
}

impl FileSystemType for Type {
    fn name(&self) -> &'static str {
        "binfmt_misc"
    }

    fn is_for_user_ns(&self) -> bool {
        true
    }

    /// `EINVAL`: a context that was begun in another user namespace is completed. `ENOMEM`.
    fn mount(&self, request: &MountRequest<'_>) -> Result<Arc<Dentry>> {
        let ns = request.user_ns;
        if *ns != request.ctx.cred.user_ns {
            return Err(Errno::EINVAL);
        }
        let mut roots = ROOTS.lock();
        let mounted = roots.iter().find(|(of, _)| of == ns).and_then(|(_, root)| root.upgrade());
        if let Some(root) = mounted {
            return Ok(root);
        }
        prune(&mut roots);
        roots.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        let registry = Registry::made_for(ns);
        let generation = registry.begin();
        let init = SuperInit::in_memory(&TYPE, MAGIC);
        let sb = SuperBlock::new(init, Box::new(Super { registry: registry.clone(), generation }));
        let mut root = InodeInit::new(ROOT_INO, S_IFDIR | 0o755);
        root.flags = InodeFlags::VOLATILE;
        // A user or group 0 that is not mapped is nobody's.
        root.uid = ns.to_global(IdKind::User, 0).unwrap_or(u32::MAX);
        root.gid = ns.to_global(IdKind::Group, 0).unwrap_or(u32::MAX);
        let root = Dentry::new_root(Inode::new(&sb, root, Box::new(Root(registry)), None));
        roots.push((ns.clone(), Arc::downgrade(&root)));
        Ok(root)
    }
}

struct Super {
    registry: Arc<Registry>,
    generation: usize,
}

impl SuperOps for Super {}

impl Drop for Super {
    fn drop(&mut self) {
        self.registry.end(self.generation);
        prune(&mut ROOTS.lock());
    }
}

/// What there is besides formats.
const FIXED: [(&[u8], u32); 2] = [(b"register", S_IFREG | 0o200), (b"status", S_IFREG | 0o644)];

const FORMAT_MODE: u32 = S_IFREG | 0o644;

fn format_of(registry: &Registry, name: &[u8]) -> Option<Arc<Format>> {
    registry.all().into_iter().find(|format| format.rule().name == name)
}

/// The root directory.
struct Root(Arc<Registry>);

impl InodeOps for Root {
    fn lookup(&self, dir: &Arc<Inode>, name: &[u8]) -> Result<Option<Arc<Inode>>> {
        let (kind, mode) = match name {
            b"register" => (Kind::Register, FIXED[0].1),
            b"status" => (Kind::Status, FIXED[1].1),
            _ => match format_of(&self.0, name) {
                Some(format) => (Kind::Format(format), FORMAT_MODE),
                None => return Ok(None),
            },
        };
        let mut init = InodeInit::new(ino_of(dir.ino(), name), mode);
        (init.uid, init.gid) = (dir.uid(), dir.gid());
        let node = Node { registry: self.0.clone(), kind };
        Ok(Some(Inode::new(dir.sb(), init, Box::new(node), None)))
    }

    fn revalidate(&self, _dir: &Arc<Inode>, name: &[u8], inode: Option<&Arc<Inode>>) -> bool {
        let Some(inode) = inode else {
            return FIXED.iter().all(|(fixed, _)| *fixed != name) && format_of(&self.0, name).is_none();
        };
        // One of the same name may have come in the place of another.
        match inode.ops_as::<Node>().map(|node| &node.kind) {
            Some(Kind::Format(then)) => format_of(&self.0, name).is_some_and(|now| Arc::ptr_eq(&now, then)),
            _ => true,
        }
    }

    fn create(&self, _dir: &Arc<Inode>, _name: &[u8], new: &NewInode<'_>) -> Result<Arc<Inode>> {
        Err(if new.mode & S_IFMT == S_IFREG { Errno::EACCES } else { Errno::EPERM })
    }

    fn open(&self, _inode: &Arc<Inode>, _request: &OpenRequest<'_>) -> Result<Arc<dyn FileOps>> {
        Ok(Arc::new(DirFile(Names(self.0.clone()))))
    }
}

struct Names(Arc<Registry>);

impl Listing for Names {
    fn list(&self, from: u64, each: &mut Each<'_>) -> Result<()> {
        let formats = self.0.all();
        let fixed = FIXED.iter().map(|(name, mode)| (*name, *mode));
        let all = fixed.chain(formats.iter().map(|format| (format.rule().name.as_slice(), FORMAT_MODE)));
        for (at, (name, mode)) in all.enumerate().skip(usize::try_from(from).unwrap_or(usize::MAX)) {
            if !each(name, mode, at as u64 + 1) {
                break;
            }
        }
        Ok(())
    }
}

/// A file.
#[derive(Clone)]
struct Node {
    registry: Arc<Registry>,
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    Register,
    Status,
    Format(Arc<Format>),
}

impl InodeOps for Node {
    fn open(&self, _inode: &Arc<Inode>, request: &OpenRequest<'_>) -> Result<Arc<dyn FileOps>> {
        Ok(TextFile::open(Opened { node: self.clone(), cred: request.cred.clone() }))
    }
}

/// An open file.
struct Opened {
    node: Node,
    /// Who opened it.
    cred: Arc<Cred>,
}

/// What a text written to `status` or to a format asks for.
#[derive(Debug, PartialEq, Eq)]
enum Command {
    Nothing,
    Disable,
    Enable,
    Remove,
}

impl Command {
    /// `EINVAL`: it is none.
    fn parse(text: &[u8]) -> Result<Self> {
        // LINUX: a line of its own length is measured with its end.
        if text.len() > 3 {
            return Err(Errno::EINVAL);
        }
        match text.strip_suffix(b"\n").unwrap_or(text) {
            b"" if text.is_empty() => Ok(Self::Nothing),
            b"0" => Ok(Self::Disable),
            b"1" => Ok(Self::Enable),
            b"-1" => Ok(Self::Remove),
            _ => Err(Errno::EINVAL),
        }
    }
}

fn status(is_enabled: bool) -> &'static str {
    if is_enabled { "enabled" } else { "disabled" }
}

fn put_hex(out: &mut Text, bytes: &[u8]) {
    for byte in bytes {
        put!(out, "{byte:02x}");
    }
}

fn show_format(format: &Format, out: &mut Text) {
    let rule = format.rule();
    put!(out, "{}\ninterpreter ", status(format.is_enabled()));
    out.push(&rule.interpreter);
    out.push(b"\nflags: ");
    let letters = [
        (FormatFlags::PRESERVE_ARGV0, b"P"),
        (FormatFlags::OPEN_BINARY, b"O"),
        (FormatFlags::CREDENTIALS, b"C"),
        (FormatFlags::OPEN_FILE, b"F"),
    ];
    for (flag, letter) in letters {
        if rule.flags.contains(flag) {
            out.push(letter);
        }
    }
    match &rule.pattern {
        Pattern::Extension(extension) => {
            out.push(b"\nextension .");
            out.push(extension);
        }
        Pattern::Magic { offset, magic, mask } => {
            put!(out, "\noffset {offset}\nmagic ");
            put_hex(out, magic);
            if let Some(mask) = mask {
                out.push(b"\nmask ");
                put_hex(out, mask);
            }
        }
    }
    out.push(b"\n");
}

/// Opens what `rule` executes, as `cred`. The errors are those of execve(2).
fn open_interpreter(rule: &Rule, cred: &Arc<Cred>) -> Result<(Arc<File>, DenyWrite)> {
    let me = process::current();
    let fs = me.fs().ok_or(Errno::ENOENT)?;
    let files = me.files().ok_or(Errno::ENOENT)?;
    let ctx = WalkContext { fs: &fs, files: &files, cred };
    open_exec(&ctx, At::Cwd, &rule.interpreter, WalkFlags::FOLLOW)
}

impl Content for Opened {
    fn show(&self, out: &mut Text) -> Result<()> {
        match &self.node.kind {
            Kind::Register => return Err(Errno::EINVAL),
            Kind::Status => put!(out, "{}\n", status(self.node.registry.is_enabled())),
            Kind::Format(format) => show_format(format, out),
        }
        Ok(())
    }

    fn store(&self, bytes: &[u8]) -> Result<()> {
        let registry = &self.node.registry;
        match &self.node.kind {
            Kind::Register => {
                let rule = Rule::parse(bytes)?;
                if FIXED.iter().any(|(name, _)| *name == rule.name) {
                    return Err(Errno::EEXIST);
                }
                let is_open = rule.flags.contains(FormatFlags::OPEN_FILE);
                let file = is_open.then(|| open_interpreter(&rule, &self.cred)).transpose()?;
                return registry.add(rule, file).map(drop);
            }
            Kind::Status => match Command::parse(bytes)? {
                Command::Nothing => {}
                Command::Disable => registry.enable(false),
                Command::Enable => registry.enable(true),
                Command::Remove => registry.clear(),
            },
            Kind::Format(format) => match Command::parse(bytes)? {
                Command::Nothing => {}
                Command::Disable => format.enable(false),
                Command::Enable => format.enable(true),
                Command::Remove => registry.remove(format),
            },
        }
        Ok(())
    }
}

/// Makes "binfmt_misc" known to mount(2).
pub fn register() -> Result<()> {
    vfs::register_fs(&TYPE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &[u8]) -> String {
        let registry = Registry::made_for(&UserNs::INITIAL);
        let format = registry.add(Rule::parse(text).unwrap(), None).unwrap();
        let mut out = Text::new();
        show_format(&format, &mut out);
        registry.remove(&format);
        String::from_utf8(out.finish().unwrap()).unwrap()
    }

    #[test]
    fn formats_show_as_on_linux() {
        assert_eq!(
            shown(br":m1:M:4:\x7fEL:\xff\xff\xf0:/bin/run:OC"),
            "enabled\ninterpreter /bin/run\nflags: OC\noffset 4\nmagic 7f454c\nmask fffff0\n"
        );
        assert_eq!(
            shown(b":e1:E::exe::/bin/wine:P"),
            "enabled\ninterpreter /bin/wine\nflags: P\nextension .exe\n"
        );
    }

    #[test]
    fn commands_are_short() {
        assert_eq!(Command::parse(b""), Ok(Command::Nothing));
        assert_eq!(Command::parse(b"0\n"), Ok(Command::Disable));
        assert_eq!(Command::parse(b"1"), Ok(Command::Enable));
        assert_eq!(Command::parse(b"-1\n"), Ok(Command::Remove));
        for bad in [&b"\n"[..], b"2", b"-1\n\n", b"00"] {
            assert_eq!(Command::parse(bad), Err(Errno::EINVAL));
        }
    }

    #[test]
    fn formats_are_found_by_name() {
        let registry = Registry::made_for(&UserNs::INITIAL);
        let name = b"found".as_slice();
        assert!(format_of(&registry, name).is_none());
        let format = registry.add(Rule::parse(b":found:E::fnd::/bin/true:").unwrap(), None).unwrap();
        assert!(Arc::ptr_eq(&format_of(&registry, name).unwrap(), &format));
        registry.remove(&format);
        assert!(format_of(&registry, name).is_none());
    }
}
