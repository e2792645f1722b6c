//! File systems configured step by step: fsopen(2), fspick(2), fsconfig(2), fsmount(2).

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::fs::OpenFlags;
use abi::{Errno, Result};
use hal::uio::Dest;
use sched::Mutex;
use security::UserNs;

use super::{AttrFlags, require_own_admin, tree_file};
use crate::At;
use crate::anon;
use crate::dentry::Dentry;
use crate::file::{File, FileOps};
use crate::fs_context::WalkContext;
use crate::mount::{Mount, MountNs};
use crate::mount_ops;
use crate::open::{self, How};
use crate::params;
use crate::path::Path;
use crate::superblock::{self, FileSystemType, MountRequest, SbFlags};

/// The longest list of options, in bytes, as mount(2) has it.
const OPTIONS_MAX: usize = 4096;
/// Messages that wait to be read; older ones are forgotten.
const LOG_MAX: usize = 8;

/// What a context is for, and how far it is.
enum Phase {
    /// fsopen(2): parameters are collected.
    Create,
    /// The superblock is there: fsmount(2) may take it.
    Ready(Arc<Dentry>),
    /// Mounted; or fspick(2): options of an existing superblock are collected.
    Reconfigure(Arc<Dentry>),
    /// A command failed half-way: nothing more can be done.
    Failed,
}

struct State {
    phase: Phase,
    source: Option<Vec<u8>>,
    options: Vec<u8>,
    files: Vec<(Vec<u8>, Arc<File>)>,
    flags: SbFlags,
    log: VecDeque<Vec<u8>>,
}

/// The descriptor of fsopen(2) and fspick(2).
struct Context {
    fs_type: &'static dyn FileSystemType,
    /// Who began it belongs to this.
    user_ns: UserNs,
    state: Mutex<State>,
}

impl FileOps for Context {
    /// The log: one message a read. `ENODATA`: there is none. `EMSGSIZE`: the buffer is too small for it.
    fn read(&self, _file: &File, dst: &mut Dest<'_>, _pos: u64) -> Result<usize> {
        let mut state = self.state.lock();
        let message = state.log.front().ok_or(Errno::ENODATA)?;
        if message.len() > dst.remaining() {
            return Err(Errno::EMSGSIZE);
        }
        let message = state.log.pop_front().unwrap_or_default();
        drop(state);
        let done = dst.put_bytes(&message)?;
        if done < message.len() { Err(Errno::EFAULT) } else { Ok(done) }
    }
}

impl State {
    /// Logs an error and gives `EINVAL`.
    fn refuse(&mut self, why: &[u8]) -> Result<()> {
        if self.log.len() == LOG_MAX {
            self.log.pop_front();
        }
        self.log.push_back([b"e ", why, b"\n"].concat());
        Err(Errno::EINVAL)
    }

    /// Adds an option to the text that file systems parse. `EINVAL`: too long, or not to be written as text.
    fn add_option(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<()> {
        let len = self.options.len() + key.len() + value.map_or(0, |value| value.len() + 1) + 1;
        if len > OPTIONS_MAX || value.is_some_and(|value| value.contains(&b',')) {
            return Err(Errno::EINVAL);
        }
        if !self.options.is_empty() {
            self.options.push(b',');
        }
        self.options.extend_from_slice(key);
        if let Some(value) = value {
            self.options.push(b'=');
            self.options.extend_from_slice(value);
        }
        Ok(())
    }
}

fn new_context(
    ctx: &WalkContext<'_>,
    fs_type: &'static dyn FileSystemType,
    phase: Phase,
    flags: SbFlags,
) -> Result<Arc<File>> {
    let (options, files) = (Vec::new(), Vec::new());
    let state = State { phase, source: None, options, files, flags, log: VecDeque::new() };
    let user_ns = ctx.cred.user_ns.clone();
    let context = Context { fs_type, user_ns, state: Mutex::new("vfs.fscontext", state) };
    anon::file("[fscontext]", Arc::new(context), OpenFlags::RDWR, ctx.cred)
}

/// fsopen(2). `EPERM` without `CAP_SYS_ADMIN`. `ENODEV`: no such file system.
pub fn fsopen(ctx: &WalkContext<'_>, fs_type: &[u8]) -> Result<Arc<File>> {
    mount_ops::require_admin(ctx)?;
    new_context(ctx, superblock::fs_type(fs_type)?, Phase::Create, SbFlags::empty())
}

/// fspick(2): a context to change the file system at `path`. `EINVAL`: not the root of a mount.
pub fn fspick(ctx: &WalkContext<'_>, path: &Path) -> Result<Arc<File>> {
    mount_ops::require_admin(ctx)?;
    if !path.is_mount_root() {
        return Err(Errno::EINVAL);
    }
    let sb = path.mount.sb();
    new_context(ctx, sb.fs_type(), Phase::Reconfigure(path.mount.root().clone()), sb.flags())
}

/// The value of a parameter.
pub enum ConfigValue {
    /// `FSCONFIG_SET_FLAG`.
    Flag,
    /// `FSCONFIG_SET_STRING`, and the text of `FSCONFIG_SET_PATH`.
    Text(Vec<u8>),
    /// `FSCONFIG_SET_FD`.
    File(Arc<File>),
}

/// A command of fsconfig(2).
pub enum ConfigCommand {
    /// Sets a parameter.
    Set(Vec<u8>, ConfigValue),
    /// Makes or finds the superblock.
    Create,
    /// Makes the superblock; `EBUSY` if it exists already.
    CreateExclusive,
    /// Applies the parameters to the superblock that is there.
    Reconfigure,
}

/// fsconfig(2).
///
/// `EINVAL`: not such a descriptor, or a parameter that is not known. `EBUSY`: not in this phase. `EPERM`. Others as
/// mount(2).
pub fn fsconfig(ctx: &WalkContext<'_>, file: &File, command: ConfigCommand) -> Result<()> {
    let context = file.ops_as::<Context>().ok_or(Errno::EINVAL)?;
    let mut state = context.state.lock();
    match command {
        ConfigCommand::Set(key, value) => set_parameter(ctx, context, &mut state, &key, value),
        ConfigCommand::Create => create(ctx, context, &mut state),
        ConfigCommand::CreateExclusive => create_exclusive(ctx, context, &mut state),
        ConfigCommand::Reconfigure => reconfigure(ctx, &mut state),
    }
}

/// Flags of the superblock that are parameters by name: what each sets and clears.
const SB_PARAMETERS: [(&[u8], SbFlags, bool); 6] = [
    (b"ro", SbFlags::RDONLY, true),
    (b"rw", SbFlags::RDONLY, false),
    (b"sync", SbFlags::SYNCHRONOUS, true),
    (b"async", SbFlags::SYNCHRONOUS, false),
    (b"lazytime", SbFlags::LAZYTIME, true),
    (b"nolazytime", SbFlags::LAZYTIME, false),
];

/// Sets an option that is a file. `EBUSY`: the superblock is there already.
fn set_file(
    ctx: &WalkContext<'_>,
    context: &Context,
    state: &mut State,
    key: &[u8],
    value: ConfigValue,
) -> Result<()> {
    if matches!(state.phase, Phase::Reconfigure(_)) {
        return Err(Errno::EBUSY);
    }
    let file = match value {
        ConfigValue::File(file) => file,
        ConfigValue::Text(path) => open::open(ctx, At::Cwd, &path, &How::new(0, 0)?)?,
        ConfigValue::Flag => return Err(Errno::EINVAL),
    };
    context.fs_type.check_file(key, &file, ctx)?;
    state.files.retain(|(name, _)| name != key);
    state.files.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
    state.files.push((key.to_vec(), file));
    Ok(())
}

fn set_parameter(
    ctx: &WalkContext<'_>,
    context: &Context,
    state: &mut State,
    key: &[u8],
    value: ConfigValue,
) -> Result<()> {
    if !matches!(state.phase, Phase::Create | Phase::Reconfigure(_)) {
        return Err(Errno::EBUSY);
    }
    if context.fs_type.takes_file(key) {
        return set_file(ctx, context, state, key, value);
    }
    if let Some((_, flag, on)) = SB_PARAMETERS.iter().find(|(name, ..)| *name == key) {
        state.flags.set(*flag, *on);
        return Ok(());
    }
    match value {
        ConfigValue::Flag if key == b"source" => state.refuse(b"Non-string source"),
        ConfigValue::Text(_) if key == b"source" && state.source.is_some() => {
            state.refuse(b"Multiple sources")
        }
        ConfigValue::Text(source) if key == b"source" => {
            state.source = Some(source);
            Ok(())
        }
        ConfigValue::File(_) => Err(Errno::EINVAL),
        ConfigValue::Flag => set_option(context, state, key, None),
        ConfigValue::Text(text) => set_option(context, state, key, Some(&text)),
    }
}

/// Sets a parameter of the file system itself, if it takes it.
fn set_option(context: &Context, state: &mut State, key: &[u8], value: Option<&[u8]>) -> Result<()> {
    match params::read(context.fs_type.params(), key, value) {
        Ok(_) => state.add_option(key, value),
        Err(problem) => state.refuse(&problem.message(context.fs_type.name(), key)),
    }
}

fn create(ctx: &WalkContext<'_>, context: &Context, state: &mut State) -> Result<()> {
    if !matches!(state.phase, Phase::Create) {
        return Err(Errno::EBUSY);
    }
    mount_ops::check_mount_right(ctx, context.fs_type, &context.user_ns)?;
    let source = state.source.clone().unwrap_or_default();
    let files = core::mem::take(&mut state.files);
    let (data, user_ns) = (&state.options[..], &context.user_ns);
    let request = MountRequest { source: &source, data, files: &files, flags: state.flags, user_ns, ctx };
    match context.fs_type.mount(&request) {
        Ok(root) => {
            root.sb().set_owner(user_ns);
            state.phase = Phase::Ready(root);
            state.options.clear();
            Ok(())
        }
        Err(errno) => {
            state.phase = Phase::Failed;
            Err(errno)
        }
    }
}

/// As [`create`]. A superblock that is mounted already was not made by this call.
fn create_exclusive(ctx: &WalkContext<'_>, context: &Context, state: &mut State) -> Result<()> {
    create(ctx, context, state)?;
    let is_shared = matches!(&state.phase, Phase::Ready(root) if root.sb().is_mounted());
    if is_shared {
        state.phase = Phase::Failed;
        return Err(Errno::EBUSY);
    }
    Ok(())
}

fn reconfigure(ctx: &WalkContext<'_>, state: &mut State) -> Result<()> {
    mount_ops::require_admin(ctx)?;
    let Phase::Reconfigure(root) = &state.phase else { return Err(Errno::EBUSY) };
    let sb = root.sb().clone();
    sb.check_admin(ctx.cred)?;
    let is_readonly = state.flags.contains(SbFlags::RDONLY);
    if is_readonly && !sb.is_readonly() && crate::mount::sb_has_writers(ctx, &sb) {
        return Err(Errno::EBUSY);
    }
    let mut result = sb.ops().remount(&sb, &state.options);
    if result.is_ok() && is_readonly != sb.is_readonly() {
        result = sb.ops().set_readonly(&sb, is_readonly);
    }
    if let Err(errno) = result {
        state.phase = Phase::Failed;
        return Err(errno);
    }
    sb.set_flags(state.flags);
    state.options.clear();
    Ok(())
}

/// fsmount(2): a detached mount of the superblock that fsconfig(2) made.
///
/// `EINVAL`: not such a descriptor, no superblock yet, or bad attributes. `EBUSY`: mounted already. `EPERM`.
pub fn fsmount(ctx: &WalkContext<'_>, file: &File, attributes: u64) -> Result<Arc<File>> {
    mount_ops::require_admin(ctx)?;
    take_mount(file, attributes, |mount| tree_file(ctx, mount, 0))
}

/// fsmount(2) with `FSMOUNT_NAMESPACE`: a namespace of the caller's user namespace, with a mount of the superblock as its
/// root. Errors as [`fsmount`], but `EPERM` without `CAP_SYS_ADMIN` in that user namespace; `ENOSPC`: too many.
pub fn fsmount_namespace(ctx: &WalkContext<'_>, file: &File, attributes: u64) -> Result<Arc<MountNs>> {
    require_own_admin(ctx)?;
    let own = mount_ops::ns_of(ctx)?;
    take_mount(file, attributes, |mount| own.with_tree(&ctx.cred.user_ns, |_| Ok(mount.clone())))
}

/// Makes the one mount of the superblock that is ready, and lets `make` use it.
fn take_mount<T>(file: &File, attributes: u64, make: impl FnOnce(&Arc<Mount>) -> Result<T>) -> Result<T> {
    let flags = AttrFlags::decode(attributes)?;
    let context = file.ops_as::<Context>().ok_or(Errno::EINVAL)?;
    let mut state = context.state.lock();
    let root = match &state.phase {
        Phase::Ready(root) => root.clone(),
        Phase::Create => return Err(Errno::EINVAL),
        _ => return Err(Errno::EBUSY),
    };
    let source = state.source.take().filter(|source| !source.is_empty());
    let mount = Mount::new(&root, source.as_deref().unwrap_or(b"none"), flags);
    let made = make(&mount)?;
    state.phase = Phase::Reconfigure(root);
    Ok(made)
}
