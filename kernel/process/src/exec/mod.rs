//! execve(2) and execveat(2).
//!
//! ```text
//! collect arguments ─▶ open, #! scripts ─▶ credentials ─▶ new Mm: program, interpreter, vDSO, stack
//!        (every error up to here returns to the old program)
//! other threads end ─▶ point of no return ─▶ new Mm, credentials, signals, files ─▶ registers
//! ```
//!
//! LINUX: Linux maps the program after it gave up the old address space and kills the process when that fails. Here all of
//! it is done before, so such a failure is an errno. No program can tell but by being still alive.
//!
//! | module | what |
//! |---|---|
//! | `args` | argument and environment strings |
//! | `script` | the `#!` line |
//! | `misc` | formats that a program registered |
//! | `load` | ELF images, vDSO and stack into an address space |
//! | `stack` | the bytes of the first stack |
//!
//! Sources: execve(2), execveat(2), getauxval(3).

mod args;
mod load;
pub mod misc;
mod script;
mod stack;
mod thread;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;

use abi::fs::AtFlags;
use abi::mman::Prot;
use abi::{Errno, Result};
use elf_image::{Header, Kind, StackFlags};
use hal::trap::UserRegs;
use hal::{PAGE_SIZE, UserAddr};
use limits::Resource;
use mm::{Limits, Mm, Randomness, Rights, layout};
use security::{Access, Cap, Cred, ExecFile, ExecOutcome, ExecUnsafe, FileCaps, IdKind};
use vfs::inode::DenyWrite;
use vfs::open::open_exec;
use vfs::{At, FdTable, File, MountFlags, WalkContext, WalkFlags, perm};

use crate::clone::name_of;
use crate::signal::{self, AltStack, SigHand};
use crate::task::{self, CurrentTask, DEFAULT_TIMER_SLACK_NS, TaskFlags};
use crate::trace::{DebugRegs, dispatch};
use crate::{exit, hooks, nsproxy, timer, trace};
use args::Strings;
pub(crate) use load::hide_clock;
pub use load::show_clock_of;
use load::{Placed, Program};
use misc::{Format, FormatFlags};
use stack::at;

/// Interpreters of interpreters that are followed.
const MAX_DEPTH: usize = 5;
/// Stack mapped beyond what the arguments need (Linux: 128 KiB).
const STACK_ROOM: u64 = 128 << 10;
/// The stack limit of a program with new rights is at most this.
const SECURE_STACK: u64 = 8 << 20;
/// `ADDR_NO_RANDOMIZE` of personality(2).
const ADDR_NO_RANDOMIZE: u32 = 0x004_0000;
/// Personality bits that a program with new rights does not inherit (Linux: `PER_CLEAR_ON_SETID`).
const CLEARED_WHEN_SECURE: u32 = 0x040_0000 | ADDR_NO_RANDOMIZE | 0x010_0000 | 0x020_0000;
/// Bytes of a program header (`AT_PHENT`).
const PHENT: u64 = 56;
/// `AT_FLAGS_PRESERVE_ARGV0`.
const PRESERVED_ARGV0: u64 = 1;
/// Clock ticks per second for user space (`AT_CLKTCK`).
const USER_HZ: u64 = 100;

/// A file that is being executed; nobody may write to it.
pub struct Executable {
    file: Arc<File>,
    _deny: DenyWrite,
}

impl Executable {
    /// The file.
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }
}

/// What execveat(2) is asked for.
pub struct ExecRequest<'a> {
    /// Where a relative path starts.
    pub at: At<'a>,
    /// The path.
    pub path: &'a [u8],
    /// `char *argv[]`.
    pub argv: UserAddr,
    /// `char *envp[]`.
    pub envp: UserAddr,
    /// `AT_*`.
    pub flags: AtFlags,
}

/// execve(2) and execveat(2): on success `regs` are those of the new program, whose first instruction comes next.
pub fn execve(request: &ExecRequest<'_>, regs: &mut UserRegs) -> Result<()> {
    let known = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW | AtFlags::EXECVE_CHECK;
    if !known.contains(request.flags) {
        return Err(Errno::EINVAL);
    }
    let me = task::current();
    let mut room = args::room(me.group().rlimits().cur(Resource::Stack));
    let mut args = Strings::read(request.argv, &mut room)?;
    let env = Strings::read(request.envp, &mut room)?;
    if args.count == 0 {
        // A program may rely on having a name.
        args.push(b"")?;
    }
    if request.flags.contains(AtFlags::EXECVE_CHECK) {
        // Whether it may be executed is all that is asked; what it holds does not matter.
        return open(&me, request.at, request.path, walk_flags(request.flags)).map(drop);
    }
    let old_tid = trace::tid_for_tracer(&me);
    run(&me, request.at, request.path, request.flags, args, env, regs)?;
    if me.has(TaskFlags::TRACED) {
        trace::exec_event(&me, regs, old_tid);
    }
    Ok(())
}

fn walk_flags(flags: AtFlags) -> WalkFlags {
    let mut walk = WalkFlags::FOLLOW;
    walk.set(WalkFlags::FOLLOW, !flags.contains(AtFlags::SYMLINK_NOFOLLOW));
    walk.set(WalkFlags::EMPTY_PATH, flags.contains(AtFlags::EMPTY_PATH));
    walk
}

/// Executes the first program: paths and strings come from the kernel. Gives its registers.
pub fn exec_first(path: &[u8], argv: &[&[u8]], envp: &[&[u8]]) -> Result<UserRegs> {
    let (mut args, mut env) = (Strings::default(), Strings::default());
    argv.iter().try_for_each(|string| args.push(string))?;
    envp.iter().try_for_each(|string| env.push(string))?;
    let mut regs = UserRegs::default();
    run(&task::current(), At::Cwd, path, AtFlags::empty(), args, env, &mut regs)?;
    Ok(regs)
}

/// A program found, with what its stack will say.
struct Found {
    program: Program,
    exe: Arc<Executable>,
    args: Strings,
    /// `AT_EXECFN`: the path as it was given.
    file_name: Vec<u8>,
    /// The path whose last part becomes the comm.
    name: Vec<u8>,
    wishes: Wishes,
}

/// What a registered format wants for its interpreter.
#[derive(Default)]
struct Wishes {
    /// The file that is interpreted, to be given as a descriptor.
    binary: Option<Arc<File>>,
    /// Its credentials count.
    uses_binary_cred: bool,
    /// The original name was kept among the arguments.
    keeps_argv0: bool,
}

/// Does it all.
fn run(
    me: &CurrentTask,
    at: At<'_>,
    path: &[u8],
    flags: AtFlags,
    args: Strings,
    env: Strings,
    regs: &mut UserRegs,
) -> Result<()> {
    let found = find(me, at, path, flags, args)?;
    let interpreter = open_interpreter(me, &found.program)?;
    let wishes = &found.wishes;
    let judged = wishes.binary.as_ref().filter(|_| wishes.uses_binary_cred).unwrap_or(&found.exe.file);
    let outcome = new_credentials(me, judged)?;
    let is_readable = is_readable(me, &found);
    let new = build(me, &found, interpreter.as_ref(), &env, &outcome)?;
    thread::become_only_thread(me)?;
    let private = private(me).inspect_err(|_| exit::request_group_end(abi::signal::SIGSEGV))?;
    commit(me, found, new, outcome, is_readable, private, regs);
    Ok(())
}

/// Opens the program, following `#!` lines and registered formats.
#[inline(never)]
fn find(me: &CurrentTask, at: At<'_>, path: &[u8], flags: AtFlags, mut args: Strings) -> Result<Found> {
    let file_name = shown_name(at, path)?;
    let mut name = copy(path)?;
    let mut opened = open(me, at, path, walk_flags(flags))?;
    let mut shown = copy(&file_name)?;
    let mut wishes = Wishes::default();
    for depth in 0..=MAX_DEPTH {
        let (file, deny) = opened;
        let mut probe = load::probe_buffer(script::PROBE_LEN);
        let len = load::read_at(&file, 0, &mut probe)?;
        probe.truncate(len);
        let next = match misc::find(&me.cred().user_ns, &probe, &shown) {
            Some(format) => Some(Next::Format(format)),
            None => script::parse(&probe)?.map(Next::Script),
        };
        let Some(next) = next else {
            let program = Program::parse(file.clone(), &probe)?;
            if path.is_empty() {
                // A descriptor has no name; the file has.
                name = copy(&file.path().dentry.name())?;
            }
            let exe = Arc::new(Executable { file, _deny: deny });
            return Ok(Found { program, exe, args, file_name, name, wishes });
        };
        if depth == MAX_DEPTH {
            break;
        }
        if depth == 0 && is_lost_at_exec(me, at, path) {
            return Err(Errno::ENOENT);
        }
        // Who is given a descriptor must understand the file itself.
        if wishes.binary.is_some() {
            return Err(Errno::ENOEXEC);
        }
        opened = next.open(me, &mut args, &mut shown, &mut wishes, file)?;
    }
    Err(Errno::ELOOP)
}

/// What is executed instead of a file.
enum Next {
    Script(script::Interpreter),
    Format(Arc<Format>),
}

impl Next {
    /// Opens the interpreter of `file`, which was called `shown`, and makes the call one of it.
    fn open(
        self,
        me: &CurrentTask,
        args: &mut Strings,
        shown: &mut Vec<u8>,
        wishes: &mut Wishes,
        file: Arc<File>,
    ) -> Result<(Arc<File>, DenyWrite)> {
        let script = match self {
            Self::Script(script) => script,
            Self::Format(format) => return open_format(me, &format, args, shown, wishes, file),
        };
        match &script.argument {
            Some(argument) => args.replace_first(&[&script.path, argument, shown])?,
            None => args.replace_first(&[&script.path, shown])?,
        }
        let opened = open(me, At::Cwd, &script.path, WalkFlags::FOLLOW)?;
        *shown = script.path;
        Ok(opened)
    }
}

/// As [`Next::open`] for a registered format.
fn open_format(
    me: &CurrentTask,
    format: &Format,
    args: &mut Strings,
    shown: &mut Vec<u8>,
    wishes: &mut Wishes,
    file: Arc<File>,
) -> Result<(Arc<File>, DenyWrite)> {
    let rule = format.rule();
    if rule.flags.contains(FormatFlags::PRESERVE_ARGV0) {
        wishes.keeps_argv0 = true;
        args.push_front(&[&rule.interpreter, shown])?;
    } else {
        args.replace_first(&[&rule.interpreter, shown])?;
    }
    if rule.flags.contains(FormatFlags::OPEN_BINARY) {
        wishes.binary = Some(file);
    }
    wishes.uses_binary_cred |= rule.flags.contains(FormatFlags::CREDENTIALS);
    let opened = match format.open_early() {
        Some(opened) => opened,
        None => open(me, At::Cwd, &rule.interpreter, WalkFlags::FOLLOW)?,
    };
    *shown = copy(&rule.interpreter)?;
    Ok(opened)
}

/// Opens a file to execute as the caller.
fn open(me: &CurrentTask, at: At<'_>, path: &[u8], walk: WalkFlags) -> Result<(Arc<File>, DenyWrite)> {
    let fs = me.fs().ok_or(Errno::ENOENT)?;
    let files = me.files().ok_or(Errno::ENOENT)?;
    let cred = me.cred();
    open_exec(&WalkContext { fs: &fs, files: &files, cred: &cred }, at, path, walk)
}

/// The path as the program sees it: relative to a descriptor it goes through /dev/fd (execveat(2)).
fn shown_name(at: At<'_>, path: &[u8]) -> Result<Vec<u8>> {
    let At::Fd(fd) = at else { return copy(path) };
    if path.first() == Some(&b'/') {
        return copy(path);
    }
    let mut name = alloc::format!("/dev/fd/{fd}").into_bytes();
    if !path.is_empty() {
        name.push(b'/');
        name.extend_from_slice(&copy(path)?);
    }
    Ok(name)
}

/// Whether a script's own name goes through a descriptor that execve(2) closes, so that its interpreter could not open it.
fn is_lost_at_exec(me: &CurrentTask, at: At<'_>, path: &[u8]) -> bool {
    let At::Fd(fd) = at else { return false };
    let is_cloexec =
        |files: Arc<FdTable>| files.fd_flags(fd).is_ok_and(|flags| flags.contains(vfs::FdFlags::CLOEXEC));
    path.first() != Some(&b'/') && me.files().is_some_and(is_cloexec)
}

/// A copy of `bytes`. `ENOMEM`.
fn copy(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut copy = Vec::new();
    copy.try_reserve_exact(bytes.len()).map_err(|_| Errno::ENOMEM)?;
    copy.extend_from_slice(bytes);
    Ok(copy)
}

/// Opens and checks the ELF interpreter that `program` wants. `ELIBBAD`: it is none.
fn open_interpreter(me: &CurrentTask, program: &Program) -> Result<Option<(Program, DenyWrite)>> {
    let Some(path) = program.interpreter()? else { return Ok(None) };
    let (file, deny) = open(me, At::Cwd, &path, WalkFlags::FOLLOW)?;
    let mut probe = load::probe_buffer(script::PROBE_LEN);
    let len = load::read_at(&file, 0, &mut probe)?;
    probe.truncate(len);
    Header::parse(&probe).map_err(|_| Errno::ELIBBAD)?;
    let interpreter = Program::parse(file, &probe).map_err(|error| match error {
        Errno::ENOEXEC => Errno::ELIBBAD,
        other => other,
    })?;
    Ok(Some((interpreter, deny)))
}

/// The credentials under the new program.
#[inline(never)]
fn new_credentials(me: &CurrentTask, file: &File) -> Result<ExecOutcome> {
    let inode = file.inode();
    let view = file.path().mount.id_view();
    let about = ExecFile {
        uid: view.uid(inode),
        gid: view.gid(inode),
        mode: inode.mode(),
        // A namespace below gives no rights above by a file system of its own.
        is_nosuid: file.path().mount.flags().contains(MountFlags::NOSUID)
            || !inode.sb().owner().contains(&me.cred().user_ns),
        // A file system without attributes has none.
        caps: inode
            .ops()
            .get_xattr(inode, b"security.capability")
            .ok()
            .and_then(|value| FileCaps::parse(&value, inode.sb().owner()))
            .map(|caps| FileCaps { root: view.shown(IdKind::User, caps.root), ..caps }),
    };
    // One reference of each thread that shares it, and the one just taken.
    let is_shared = me.fs().is_some_and(|fs| Arc::strong_count(&fs) > me.group().nr_threads() as usize + 1);
    let mut risk = if is_shared { ExecUnsafe::SHARED_FS } else { ExecUnsafe::empty() };
    risk.set(ExecUnsafe::TRACED, me.tracee().is_some_and(|tie| !tie.is_privileged(me)));
    let mut cred = Cred::clone(&me.cred());
    cred.no_new_privs |= me.has(TaskFlags::NO_NEW_PRIVS);
    cred.exec(&about, risk)
}

/// Whether the caller may read all that it executes; if not, the memory of the new program is no way to do so.
fn is_readable(me: &CurrentTask, found: &Found) -> bool {
    let cred = me.cred();
    let may_read = |file: &File| {
        perm::permission(&file.path().mount.id_view(), file.inode(), &cred, Access::READ).is_ok()
    };
    may_read(&found.exe.file) && found.wishes.binary.as_deref().is_none_or(may_read)
}

/// What the new program has for itself; `None`: nobody else has the old one.
struct Private {
    files: Option<Arc<FdTable>>,
    hand: Option<Arc<SigHand>>,
}

/// Copies of what other processes share with the caller, who has no other thread any more: a table of descriptors that
/// only threads shared stays, and with it its record locks. `ENOMEM`.
fn private(me: &CurrentTask) -> Result<Private> {
    let files = me.files().ok_or(Errno::ENOENT)?;
    let files = if files.is_shared() { Some(files.fork()?) } else { None };
    let hand = me.group().hand();
    // One in the cell, one here: more means that another process shares the actions, which keeps its handlers.
    let is_shared = Arc::strong_count(&hand) > 2;
    let hand = if is_shared { Some(Arc::new(hand.fork(signal::Clear::Handlers)?)) } else { None };
    Ok(Private { files, hand })
}

/// The new address space and where to begin in it.
struct Built {
    mm: Arc<Mm>,
    entry: u64,
    sp: u64,
    /// Where the auxiliary vector has the number of a descriptor of the file.
    execfd_at: Option<u64>,
}

/// The limits that the new address space obeys.
pub(crate) fn mm_limits(group: &crate::ThreadGroup, may_lock: bool) -> Limits {
    let limits = group.rlimits();
    Limits {
        address_space: limits.cur(Resource::As),
        data: limits.cur(Resource::Data),
        stack: limits.cur(Resource::Stack),
        memlock: if may_lock { u64::MAX } else { limits.cur(Resource::Memlock) },
    }
}

/// Makes the address space with everything in it.
fn build(
    me: &CurrentTask,
    found: &Found,
    interpreter: Option<&(Program, DenyWrite)>,
    env: &Strings,
    outcome: &ExecOutcome,
) -> Result<Built> {
    let mut limits = mm_limits(me.group(), outcome.cred.capable(Cap::IPC_LOCK));
    if outcome.is_secure {
        limits.stack = limits.stack.min(SECURE_STACK);
    }
    let personality = me.personality.load(Relaxed);
    let randomizes = personality & ADDR_NO_RANDOMIZE == 0 || outcome.is_secure;
    let randomness = Randomness::new([(); 4].map(|()| random::next_u64()), randomizes);
    let mm = Mm::new()?;
    if let Some(old) = me.mm() {
        mm.inherit_prefs(&old);
    }
    mm.set_limits(limits);
    let mut places = randomness.layout(limits.stack);
    mm.update_layout(|layout| *layout = places);

    let program = found.program.map(&mm, interpreter.is_some().then_some(randomness.pie))?;
    let loader = interpreter.map(|(loader, _)| loader.map(&mm, None)).transpose()?;
    let has_offsets = me.nsproxy().is_some_and(|proxy| !proxy.time_for_children.is_initial());
    let vdso = load::map_vdso(&mm, has_offsets)?;
    let mut auxv = auxiliary_vector(&found.program, &program, loader.as_ref(), vdso, outcome);
    if found.wishes.keeps_argv0 {
        auxv.iter_mut().filter(|(key, _)| *key == at::FLAGS).for_each(|(_, value)| *value = PRESERVED_ARGV0);
    }
    if found.wishes.binary.is_some() {
        auxv.push((at::EXECFD, 0)); // its number is known once the old program's files are closed
    }
    let mut seed = [0; 16];
    random::fill(&mut seed);
    let contents = stack::Contents {
        args: &found.args,
        env,
        file_name: &found.file_name,
        auxv: &auxv,
        random: seed,
        gap: if randomizes { random::next_u64() % (2 * PAGE_SIZE as u64) } else { 0 },
    };
    let stack = stack::build(places.stack_top, &contents)?;
    let mut prot = Prot::READ | Prot::WRITE;
    prot.set(Prot::EXEC, found.program.image.stack == StackFlags::Exec);
    let room = STACK_ROOM.min(limits.stack);
    load::map_stack(&mm, stack.sp, places.stack_top, room, prot)?;
    if mm.write_remote(stack.sp, &stack.bytes, Rights::Obey) < stack.bytes.len() {
        return Err(Errno::ENOMEM);
    }

    note_segments(&mut places, &found.program, &program);
    let is_alone = interpreter.is_none() && found.program.image.kind == Kind::Relocatable;
    let heap = if is_alone { layout::PIE_BASE } else { program.end };
    let heap = heap.saturating_add(PAGE_SIZE as u64 - 1) & !(PAGE_SIZE as u64 - 1);
    places.start_brk = heap.saturating_add(randomness.brk);
    places.brk = places.start_brk;
    places.start_stack = stack.sp;
    (places.arg_start, places.arg_end) = (stack.arg_start, stack.arg_end);
    (places.env_start, places.env_end) = (stack.arg_end, stack.env_end);
    mm.update_layout(|layout| *layout = places);
    let execfd_at = stack.value_at(at::EXECFD);
    mm.set_auxv(stack.auxv);
    let entry = loader.map_or(program.entry, |loader| loader.entry);
    Ok(Built { mm, entry, sp: stack.sp, execfd_at })
}

/// Notes where code and data lie, for /proc/PID/stat.
fn note_segments(places: &mut mm::Layout, program: &Program, placed: &Placed) {
    (places.start_code, places.start_data) = (u64::MAX, 0);
    for segment in &program.image.segments {
        let start = segment.vaddr.wrapping_add(placed.bias);
        let file_end = start.wrapping_add(segment.file_len);
        places.start_code = places.start_code.min(start);
        places.start_data = places.start_data.max(start);
        if segment.exec {
            places.end_code = places.end_code.max(file_end);
        }
        places.end_data = places.end_data.max(file_end);
    }
}

/// The entries of the auxiliary vector that do not depend on the stack.
fn auxiliary_vector(
    program: &Program,
    placed: &Placed,
    loader: Option<&Placed>,
    vdso: u64,
    outcome: &ExecOutcome,
) -> Vec<(u64, u64)> {
    let cred = &outcome.cred;
    let shown = |kind, id| u64::from(cred.user_ns.show(kind, id));
    let (hwcap, hwcap2) = load::hardware_capabilities();
    let mut auxv = Vec::with_capacity(24);
    if vdso != 0 {
        auxv.push((at::SYSINFO_EHDR, vdso));
    }
    auxv.extend([
        (at::MINSIGSTKSZ, signal::min_stack_size()),
        (at::HWCAP, hwcap),
        (at::PAGESZ, PAGE_SIZE as u64),
        (at::CLKTCK, USER_HZ),
        (at::PHDR, placed.phdr),
        (at::PHENT, PHENT),
        (at::PHNUM, u64::from(program.image.phnum)),
        (at::BASE, loader.map_or(0, |loader| loader.bias)),
        (at::FLAGS, 0),
        (at::ENTRY, placed.entry),
        (at::UID, shown(IdKind::User, cred.uid)),
        (at::EUID, shown(IdKind::User, cred.euid)),
        (at::GID, shown(IdKind::Group, cred.gid)),
        (at::EGID, shown(IdKind::Group, cred.egid)),
        (at::SECURE, u64::from(outcome.is_secure)),
        (at::HWCAP2, hwcap2),
        (at::RSEQ_FEATURE_SIZE, crate::rseq::FEATURE_SIZE),
        (at::RSEQ_ALIGN, crate::rseq::ALIGN),
    ]);
    auxv
}

/// The point of no return: nothing here can fail.
#[inline(never)]
fn commit(
    me: &CurrentTask,
    found: Found,
    new: Built,
    outcome: ExecOutcome,
    is_readable: bool,
    private: Private,
    regs: &mut UserRegs,
) {
    let group = me.group();
    hooks::leave_work(me);
    // User space is told about the end of the old program while its memory is still there.
    exit::leave_mm(me);
    me.hal().set_page_table(Some(new.mm.page_table().clone()));
    drop(me.replace_mm(Some(new.mm.clone())));
    me.hal().reset_user_state();
    reset_signals(me, private.hand);
    timer::exec(group);
    // Before descriptors close: whoever sees that end must find an executed process.
    me.clear_flags(TaskFlags::FORKNOEXEC);
    group.did_exec.store(true, Relaxed);
    let old = group.exe.lock().replace(found.exe);
    drop(old);
    if let Some(files) = private.files {
        me.replace_files(Some(files));
    }
    if let Some(files) = me.files() {
        files.close_on_exec();
        if let (Some(file), Some(place)) = (found.wishes.binary, new.execfd_at) {
            give_binary(me, &files, file, &new.mm, place);
        }
    }
    me.set_comm(found.name.rsplit(|byte| *byte == b'/').next().unwrap_or_default());
    if let Some(thread) = me.thread() {
        thread.set_name(&name_of(me));
    }
    me.timer_slack.store(DEFAULT_TIMER_SLACK_NS.max(me.timer_slack.load(Relaxed)), Relaxed);
    nsproxy::enter_time_ns(me);
    take_credentials(me, outcome, is_readable);
    if let Some(watcher) = me.watcher() {
        watcher.executed(me);
    }
    let (rflags, orig_rax) = (regs.rflags, regs.orig_rax);
    *regs = UserRegs { rip: new.entry, rsp: new.sp, orig_rax, ..UserRegs::default() };
    // Interrupts on, everything else as after reset (AMD64 supplement 3.4.1).
    (regs.cs, regs.ss, regs.rflags) = (0x33, 0x2b, rflags & !0xc_0dd5 | 0x202);
}

/// Gives the new program a descriptor of the file that it interprets, and tells its number at `place`.
///
/// Where none is free the process ends by SIGSEGV, as on Linux.
fn give_binary(me: &CurrentTask, files: &FdTable, file: Arc<File>, mm: &Mm, place: u64) {
    let limit = usize::try_from(me.group().rlimits().cur(Resource::Nofile)).unwrap_or(usize::MAX);
    let Ok(fd) = files.insert(file, 0, limit, vfs::FdFlags::empty()) else {
        exit::request_group_end(abi::signal::SIGSEGV);
        return;
    };
    let mut auxv = mm.auxv();
    for pair in auxv.chunks_exact_mut(2) {
        if let [at::EXECFD, value] = pair {
            *value = fd as u64;
        }
    }
    mm.set_auxv(auxv);
    // The stack was written a moment ago; without memory to read it back the program dies of it anyhow.
    let _ = mm.write_remote(place, &(fd as u64).to_le_bytes(), Rights::Obey);
}

/// Handlers of the old program are gone, and so are its alternate stack and its signal to the parent. `own` are actions
/// without handlers, where another process has those of the caller.
fn reset_signals(me: &CurrentTask, own: Option<Arc<SigHand>>) {
    let group = me.group();
    match own {
        Some(own) => group.replace_hand(own),
        None => group.with_hand(SigHand::clear_handlers),
    }
    *me.alt_stack.lock() = AltStack::NONE;
    drop(me.restart.lock().take());
    dispatch::reset(me);
    *me.debug.lock() = DebugRegs::default();
    crate::rseq::forget(me);
    group.exit_signal.store(abi::signal::SIGCHLD, Relaxed);
    group.exec_id.fetch_add(1, Relaxed);
}

/// Publishes the new credentials and what follows from them.
fn take_credentials(me: &CurrentTask, outcome: ExecOutcome, is_readable: bool) {
    let group = me.group();
    let is_plain = (outcome.cred.euid, outcome.cred.egid) == (outcome.cred.uid, outcome.cred.gid);
    group.dumpable.store(u8::from(is_plain && is_readable && !outcome.is_secure), Relaxed);
    if outcome.is_secure {
        me.pdeath_signal.store(0, Relaxed);
        group.rlimits().clamp(Resource::Stack, SECURE_STACK);
        me.personality.fetch_and(!CLEARED_WHEN_SECURE, Relaxed);
    }
    me.replace_cred(Arc::new(outcome.cred));
}
