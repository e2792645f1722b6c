//! ptrace(2): stops, events, registers and memory of a traced task.

use crate::prelude::*;

tests!(
    "ptrace":
    errors, traceme_and_exec, syscall_stops_and_info, a_call_can_be_skipped_or_changed, memory_words,
    attach_stops_and_detach_goes_on, attach_to_a_stopped_process, signals_are_shown_changed_and_dropped,
    fork_event_traces_the_child, vfork_events, thread_event, exit_event, exec_event, single_steps,
    single_step_over_a_call_and_into_a_handler, breakpoint_instruction, hardware_watchpoint,
    hardware_breakpoint, debug_register_rules, register_sets, floating_point_state, seize_and_interrupt,
    listen_reports_sigcont, group_stop_of_an_attached_tracee, death_of_the_tracer, exitkill,
    sysemu_makes_no_call, masks_and_pending_signals, tracer_pid_in_status, wait_shows_threads_by_tid,
    parent_waits_after_the_tracer, numbers_are_those_of_the_tracers_namespace,
);

const SYSGOOD: i32 = SIGTRAP | 0x80;
const RIP: usize = 16 * 8;
const RAX: usize = 10 * 8;
const RDI: usize = 14 * 8;
const RBX: usize = 5 * 8;
const ORIG_RAX: usize = 15 * 8;
const DEBUG: usize = 848;

fn ptrace(request: u32, pid: i32, addr: usize, data: usize) -> Result<usize, Errno> {
    sys!(SYS_ptrace, request, pid, addr, data)
}

#[track_caller]
fn peek_user(pid: i32, at: usize) -> u64 {
    let mut word = 0u64;
    sys!(SYS_ptrace, PTRACE_PEEKUSER, pid, at, &mut word).unwrap();
    word
}

#[track_caller]
fn poke_user(pid: i32, at: usize, value: u64) {
    ptrace(PTRACE_POKEUSER, pid, at, value as usize).unwrap();
}

/// Waits for `pid` whatever it is; the raw status.
#[track_caller]
fn status_of(pid: i32) -> i32 {
    let mut status = 0;
    assert_eq!(sys!(SYS_wait4, pid, &mut status, __WALL, 0), Ok(pid as usize));
    status
}

/// Waits for a stop of `pid`; the signal with the event above it.
#[track_caller]
fn stop_of(pid: i32) -> i32 {
    let status = status_of(pid);
    assert_eq!(status & 0xff, 0x7f, "status {status:#x} is no stop");
    status >> 8
}

#[track_caller]
fn cont(pid: i32, sig: i32) {
    ptrace(PTRACE_CONT, pid, 0, sig as usize).unwrap();
}

#[track_caller]
fn run_to_end(pid: i32) {
    cont(pid, 0);
    assert_eq!(status_of(pid), 0);
}

/// A child that asks to be traced, stops itself and then runs `f`.
#[track_caller]
fn traced(f: impl FnOnce()) -> i32 {
    let c = child(|| {
        ptrace(PTRACE_TRACEME, 0, 0, 0).unwrap();
        sys!(SYS_kill, getpid(), SIGSTOP).unwrap();
        f();
    });
    assert_eq!(stop_of(c.0), SIGSTOP);
    c.0
}

fn options(pid: i32, options: i32) {
    ptrace(PTRACE_SETOPTIONS, pid, 0, options as usize).unwrap();
}

fn message(pid: i32) -> u64 {
    let mut word = 0u64;
    sys!(SYS_ptrace, PTRACE_GETEVENTMSG, pid, 0, &mut word).unwrap();
    word
}

fn siginfo(pid: i32) -> Result<SigInfo, Errno> {
    let mut info: SigInfo = zero();
    sys!(SYS_ptrace, PTRACE_GETSIGINFO, pid, 0, &mut info).map(|_| info)
}

fn event(event: i32) -> i32 {
    SIGTRAP | event << 8
}

fn errors() {
    assert_eq!(ptrace(PTRACE_CONT, 0x3fff_ffff, 0, 0), Err(ESRCH));
    assert_eq!(ptrace(PTRACE_ATTACH, getpid(), 0, 0), Err(EPERM));
    let c = child(|| nap(20_000));
    assert_eq!(ptrace(PTRACE_CONT, c.0, 0, 0), Err(ESRCH), "not traced");
    assert_eq!(ptrace(PTRACE_SEIZE, c.0, 1, 0), Err(EIO));
    assert_eq!(ptrace(PTRACE_SEIZE, c.0, 0, 0x100), Err(EIO));
    ptrace(PTRACE_SEIZE, c.0, 0, 0).unwrap();
    assert_eq!(ptrace(PTRACE_ATTACH, c.0, 0, 0), Err(EPERM), "traced already");
    assert_eq!(ptrace(PTRACE_PEEKUSER, c.0, 0, 0), Err(ESRCH), "running");
    ptrace(PTRACE_INTERRUPT, c.0, 0, 0).unwrap();
    assert_eq!(stop_of(c.0), event(PTRACE_EVENT_STOP));
    let mut word = 0u64;
    for at in [3usize, 928, 1 << 40] {
        assert_eq!(sys!(SYS_ptrace, PTRACE_PEEKUSER, c.0, at, &mut word), Err(EIO), "{at}");
    }
    assert_eq!(sys!(SYS_ptrace, PTRACE_PEEKTEXT, c.0, 8, &mut word), Err(EIO));
    assert_eq!(ptrace(PTRACE_POKETEXT, c.0, 8, 0), Err(EIO));
    assert_eq!(ptrace(PTRACE_CONT, c.0, 0, 65), Err(EIO));
    assert_eq!(ptrace(PTRACE_SETOPTIONS, c.0, 0, 0x100), Err(EINVAL));
    assert_eq!(ptrace(PTRACE_GETSIGMASK, c.0, 4, 0), Err(EINVAL));
    assert_eq!(ptrace(0x5555, c.0, 0, 0), Err(EIO));
    aside(|| {
        drop_root();
        assert_eq!(ptrace(PTRACE_SEIZE, 1, 0, 0), Err(EPERM));
    });
    c.kill(SIGKILL);
    assert_eq!(c.wait(), Status::Signal(SIGKILL));
}

fn traceme_and_exec() {
    let c = child(|| {
        ptrace(PTRACE_TRACEME, 0, 0, 0).unwrap();
        assert_eq!(ptrace(PTRACE_TRACEME, 0, 0, 0), Err(EPERM));
        let (program, mark, word) = (me(), cstr(MARK), cstr("true"));
        let argv = [program.as_ptr() as usize, mark.as_ptr() as usize, word.as_ptr() as usize, 0];
        ignore(sys!(SYS_execve, &program, &argv[..], 0));
    });
    assert_eq!(stop_of(c.0), SIGTRAP, "execve stops a tracee by a signal");
    assert_eq!(siginfo(c.0).unwrap().code, SI_USER);
    sys!(SYS_kill, c.0, SIGKILL).unwrap();
    assert_eq!(status_of(c.0), SIGKILL);
}

fn syscall_stops_and_info() {
    let pid = traced(|| {
        sys!(SYS_getppid).unwrap();
    });
    options(pid, PTRACE_O_TRACESYSGOOD);
    loop {
        ptrace(PTRACE_SYSCALL, pid, 0, 0).unwrap();
        assert_eq!(stop_of(pid), SYSGOOD);
        if peek_user(pid, ORIG_RAX) == SYS_getppid as u64 {
            break;
        }
    }
    assert_eq!(message(pid), 1);
    let mut info = [0u64; 11];
    assert_eq!(sys!(SYS_ptrace, PTRACE_GET_SYSCALL_INFO, pid, 88, &mut info), Ok(80));
    assert_eq!((info[0] as u8, (info[0] >> 32) as u32), (1, 0xc000_003e));
    assert_eq!((info[1], info[3]), (peek_user(pid, RIP), SYS_getppid as u64));
    assert_eq!(peek_user(pid, RAX) as i64, -i64::from(ENOSYS as i32), "no result yet");
    ptrace(PTRACE_SYSCALL, pid, 0, 0).unwrap();
    assert_eq!(stop_of(pid), SYSGOOD);
    assert_eq!(message(pid), 2);
    assert_eq!(sys!(SYS_ptrace, PTRACE_GET_SYSCALL_INFO, pid, 88, &mut info), Ok(33));
    assert_eq!((info[0] as u8, info[3]), (2, getpid() as u64));
    assert_eq!(peek_user(pid, RAX), getpid() as u64);
    run_to_end(pid);
}

/// Runs `pid` to the entry of call `nr`.
fn to_call(pid: i32, nr: i64) {
    options(pid, PTRACE_O_TRACESYSGOOD);
    loop {
        ptrace(PTRACE_SYSCALL, pid, 0, 0).unwrap();
        assert_eq!(stop_of(pid), SYSGOOD);
        if message(pid) == 1 && peek_user(pid, ORIG_RAX) == nr as u64 {
            return;
        }
    }
}

fn a_call_can_be_skipped_or_changed() {
    let pid = traced(|| {
        assert_eq!(sys!(SYS_kill, 1, SIGKILL), Err(ENOSYS));
        assert_eq!(sys!(SYS_getppid), Ok(4711));
        assert_eq!(sys!(SYS_getuid), Ok(getpid() as usize));
    });
    to_call(pid, SYS_kill);
    poke_user(pid, ORIG_RAX, u64::MAX);
    to_call(pid, SYS_getppid);
    ptrace(PTRACE_SYSCALL, pid, 0, 0).unwrap();
    assert_eq!(stop_of(pid), SYSGOOD);
    poke_user(pid, RAX, 4711);
    to_call(pid, SYS_getuid);
    poke_user(pid, ORIG_RAX, SYS_getpid as u64);
    run_to_end(pid);
}

static WORD: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0x0123_4567_89ab_cdef);
static CONSTANT: u64 = 0x1111_2222_3333_4444;

fn memory_words() {
    let at = WORD.as_ptr() as usize;
    let fixed = std::ptr::from_ref(&CONSTANT) as usize;
    let pid = traced(|| {
        assert_eq!(WORD.load(SeqCst), 99);
        assert_eq!(sys::peek64(std::ptr::from_ref(&CONSTANT) as usize), 77);
    });
    let mut word = 0u64;
    sys!(SYS_ptrace, PTRACE_PEEKDATA, pid, at, &mut word).unwrap();
    assert_eq!(word, 0x0123_4567_89ab_cdef);
    ptrace(PTRACE_POKEDATA, pid, at, 99).unwrap();
    ptrace(PTRACE_POKETEXT, pid, fixed, 77).unwrap();
    assert_eq!((WORD.load(SeqCst), sys::peek64(fixed)), (0x0123_4567_89ab_cdef, CONSTANT));
    let fd = open(&cstr(format!("/proc/{pid}/mem")), O_RDWR).unwrap();
    assert_eq!(pread(fd, 8, at as i64).unwrap(), 99u64.to_le_bytes());
    assert_eq!(pwrite(fd, &99u64.to_le_bytes(), at as i64), Ok(8));
    run_to_end(pid);
}

fn attach_stops_and_detach_goes_on() {
    let (r, w) = pipe();
    let c = child(|| assert_eq!(read_vec(r, 1).unwrap(), b"x"));
    settle();
    ptrace(PTRACE_ATTACH, c.0, 0, 0).unwrap();
    assert_eq!(stop_of(c.0), SIGSTOP);
    assert_eq!(ptrace(PTRACE_DETACH, c.0, 0, 99), Err(EIO));
    ptrace(PTRACE_DETACH, c.0, 0, 0).unwrap();
    assert_eq!(ptrace(PTRACE_CONT, c.0, 0, 0), Err(ESRCH));
    write(w, b"x").unwrap();
    c.ok();
}

fn attach_to_a_stopped_process() {
    let c = child(|| nap(20_000));
    c.kill(SIGSTOP);
    assert_eq!(c.wait_for(WUNTRACED), Some(Status::Stopped(SIGSTOP)));
    ptrace(PTRACE_ATTACH, c.0, 0, 0).unwrap();
    assert_eq!(stop_of(c.0), SIGSTOP);
    wait_state(c.0, "t");
    ptrace(PTRACE_DETACH, c.0, 0, 0).unwrap();
    wait_state(c.0, "T");
    c.kill(SIGCONT);
    c.kill(SIGTERM);
    assert_eq!(c.wait(), Status::Signal(SIGTERM));
}

fn signals_are_shown_changed_and_dropped() {
    let pid = traced(|| {
        on_signal(SIGUSR2, 0, count);
        sys!(SYS_kill, getpid(), SIGUSR1).unwrap(); // would end it
        assert_eq!(seen(), 0);
        sys!(SYS_kill, getpid(), SIGUSR1).unwrap(); // becomes SIGUSR2
        assert_eq!((seen(), LAST.load(SeqCst)), (1, SIGUSR2));
        sys!(SYS_kill, getpid(), SIGUSR2).unwrap();
        assert_eq!((seen(), LAST_CODE.load(SeqCst), LAST_PID.load(SeqCst)), (2, -1, 4712));
        set_action(SIGWINCH, SIG_IGN).unwrap();
        sys!(SYS_kill, getpid(), SIGWINCH).unwrap();
    });
    cont(pid, 0);
    assert_eq!(stop_of(pid), SIGUSR1);
    let info = siginfo(pid).unwrap();
    assert_eq!((info.signo, info.code, info.pid()), (SIGUSR1, SI_USER, pid));
    cont(pid, 0);
    assert_eq!(stop_of(pid), SIGUSR1);
    cont(pid, SIGUSR2);
    assert_eq!(stop_of(pid), SIGUSR2);
    let mut info = siginfo(pid).unwrap();
    (info.code, info.fields[0]) = (-1, 4712);
    sys!(SYS_ptrace, PTRACE_SETSIGINFO, pid, 0, &info).unwrap();
    cont(pid, SIGUSR2);
    assert_eq!(stop_of(pid), SIGWINCH, "ignored signals are shown too");
    run_to_end(pid);
}

fn fork_event_traces_the_child() {
    let pid = traced(|| child(|| ()).ok());
    options(pid, PTRACE_O_TRACEFORK);
    cont(pid, 0);
    assert_eq!(stop_of(pid), event(PTRACE_EVENT_FORK));
    let born = message(pid) as i32;
    assert_eq!(stop_of(born), SIGSTOP);
    assert_eq!(proc_status(born, "PPid"), pid.to_string());
    run_to_end(born);
    cont(pid, 0);
    assert_eq!(stop_of(pid), SIGCHLD);
    run_to_end(pid);
}

fn vfork_events() {
    let pid = traced(|| {
        let born = sys::vfork_with(|| 0).unwrap();
        assert_eq!(Child(born).wait(), Status::Exit(0));
    });
    options(pid, PTRACE_O_TRACEVFORK | PTRACE_O_TRACEVFORKDONE);
    cont(pid, 0);
    assert_eq!(stop_of(pid), event(PTRACE_EVENT_VFORK));
    let born = message(pid) as i32;
    assert_eq!(stop_of(born), SIGSTOP);
    cont(pid, 0);
    run_to_end(born);
    assert_eq!(stop_of(pid), event(PTRACE_EVENT_VFORK_DONE));
    assert_eq!(message(pid), born as u64);
    cont(pid, 0);
    assert_eq!(stop_of(pid), SIGCHLD);
    run_to_end(pid);
}

fn thread_event() {
    let pid = traced(|| std::thread::spawn(|| ()).join().unwrap());
    options(pid, PTRACE_O_TRACECLONE);
    cont(pid, 0);
    assert_eq!(stop_of(pid), event(PTRACE_EVENT_CLONE));
    let born = message(pid) as i32;
    assert_eq!(stop_of(born), SIGSTOP);
    assert_eq!(proc_status(born, "Tgid"), pid.to_string());
    cont(pid, 0);
    cont(born, 0);
    assert_eq!(status_of(born), 0, "the end of a traced thread is reported");
    assert_eq!(status_of(pid), 0);
}

fn wait_shows_threads_by_tid() {
    let pid = traced(|| std::thread::spawn(|| ()).join().unwrap());
    options(pid, PTRACE_O_TRACECLONE);
    cont(pid, 0);
    assert_eq!(stop_of(pid), event(PTRACE_EVENT_CLONE));
    let born = message(pid) as i32;
    let mut info: SigInfo = zero();
    sys!(SYS_waitid, P_PID, born, &mut info, WSTOPPED | WNOWAIT | __WALL, 0).unwrap();
    assert_eq!((info.pid(), info.code, info.status()), (born, 4, SIGSTOP), "CLD_TRAPPED");
    assert_eq!(stop_of(born), SIGSTOP);
    assert_eq!(sys!(SYS_wait4, born, 0, __WALL | WNOHANG, 0), Ok(0), "reported once");
    ptrace(PTRACE_DETACH, born, 0, 0).unwrap();
    run_to_end(pid);
}

fn exit_event() {
    let pid = traced(|| sys::exit(7));
    options(pid, PTRACE_O_TRACEEXIT);
    cont(pid, 0);
    assert_eq!(stop_of(pid), event(PTRACE_EVENT_EXIT));
    assert_eq!(message(pid), 7 << 8);
    assert!(peek_user(pid, RIP) != 0);
    cont(pid, 0);
    assert_eq!(status_of(pid), 7 << 8);
}

fn exec_event() {
    let pid = traced(|| {
        let (program, mark, word) = (me(), cstr(MARK), cstr("true"));
        let argv = [program.as_ptr() as usize, mark.as_ptr() as usize, word.as_ptr() as usize, 0];
        ignore(sys!(SYS_execve, &program, &argv[..], 0));
    });
    options(pid, PTRACE_O_TRACEEXEC);
    cont(pid, 0);
    assert_eq!(stop_of(pid), event(PTRACE_EVENT_EXEC));
    assert_eq!(message(pid), pid as u64);
    assert_eq!(peek_user(pid, ORIG_RAX), SYS_execve as u64);
    ptrace(PTRACE_KILL, pid, 0, 0).unwrap();
    assert_eq!(status_of(pid), SIGKILL);
}

fn single_steps() {
    let pid = traced(|| (0..100).for_each(|n| ignore(std::hint::black_box(n))));
    let mut places = Vec::new();
    for _ in 0..20 {
        ptrace(PTRACE_SINGLESTEP, pid, 0, 0).unwrap();
        assert_eq!(stop_of(pid), SIGTRAP);
        places.push(peek_user(pid, RIP));
        assert_eq!(peek_user(pid, 18 * 8) & 0x100, 0, "the trap flag is the tracer's affair");
    }
    assert!(places.windows(2).all(|p| p[0] != p[1]), "{places:x?}");
    run_to_end(pid);
}

fn single_step_over_a_call_and_into_a_handler() {
    let pid = traced(|| {
        on_signal(SIGUSR1, 0, count);
        sys!(SYS_getppid).unwrap();
        assert_eq!(seen(), 1);
    });
    to_call(pid, SYS_getppid);
    let before = peek_user(pid, RIP);
    ptrace(PTRACE_SINGLESTEP, pid, 0, 0).unwrap();
    assert_eq!(stop_of(pid), SIGTRAP);
    assert_eq!(peek_user(pid, RIP), before, "after the call, before the next instruction");
    assert_eq!(peek_user(pid, RAX), getpid() as u64);
    ptrace(PTRACE_SINGLESTEP, pid, 0, SIGUSR1 as usize).unwrap();
    assert_eq!(stop_of(pid), SIGTRAP);
    assert_eq!(peek_user(pid, RIP), count as *const () as u64);
    assert_eq!(peek_user(pid, RDI), SIGUSR1 as u64);
    run_to_end(pid);
}

fn breakpoint_instruction() {
    let pid = traced(sys::breakpoint);
    cont(pid, 0);
    assert_eq!(stop_of(pid), SIGTRAP);
    let info = siginfo(pid).unwrap();
    assert_eq!((info.signo, info.code), (SIGTRAP, 0x80));
    let mut code = 0u64;
    sys!(SYS_ptrace, PTRACE_PEEKTEXT, pid, peek_user(pid, RIP) - 1, &mut code).unwrap();
    assert_eq!(code & 0xff, 0xcc);
    run_to_end(pid);
}

fn hardware_watchpoint() {
    let pid = traced(|| {
        WORD.load(SeqCst);
        WORD.store(5, SeqCst);
        let (r, w) = pipe();
        write(w, &[9; 8]).unwrap();
        // The kernel's own writes are not reported, and do no harm.
        sys!(SYS_read, r, WORD.as_ptr() as usize, 8).unwrap();
        WORD.store(6, SeqCst);
    });
    poke_user(pid, DEBUG, WORD.as_ptr() as u64);
    poke_user(pid, DEBUG + 7 * 8, 1 | 0b1001 << 16); // eight bytes, write
    for wanted in [5, 6] {
        cont(pid, 0);
        assert_eq!(stop_of(pid), SIGTRAP);
        assert_eq!(siginfo(pid).unwrap().code, 4, "TRAP_HWBKPT");
        assert_eq!(peek_user(pid, DEBUG + 6 * 8) & 0xf, 1);
        let mut word = 0u64;
        sys!(SYS_ptrace, PTRACE_PEEKDATA, pid, WORD.as_ptr() as usize, &mut word).unwrap();
        assert_eq!(word, wanted);
        poke_user(pid, DEBUG + 6 * 8, 0xffff_0ff0);
    }
    run_to_end(pid);
}

#[inline(never)]
extern "C" fn landmark(x: u64) -> u64 {
    std::hint::black_box(x) + 1
}

fn hardware_breakpoint() {
    let pid = traced(|| assert_eq!(landmark(std::hint::black_box(4)), 5));
    let at = landmark as *const () as u64;
    poke_user(pid, DEBUG + 8, at);
    poke_user(pid, DEBUG + 7 * 8, 1 << 2);
    assert_eq!(peek_user(pid, DEBUG + 7 * 8), 1 << 2);
    cont(pid, 0);
    assert_eq!(stop_of(pid), SIGTRAP);
    assert_eq!((peek_user(pid, RIP), peek_user(pid, RDI)), (at, 4), "before the instruction");
    assert_eq!(peek_user(pid, DEBUG + 6 * 8) & 0xf, 2);
    // Going on does not stop at the same place again.
    run_to_end(pid);
}

fn debug_register_rules() {
    let pid = traced(|| ());
    let poke = |n: usize, value: u64| ptrace(PTRACE_POKEUSER, pid, DEBUG + n * 8, value as usize);
    assert_eq!(poke(0, 1 << 63), Err(EINVAL), "kernel memory");
    poke(0, WORD.as_ptr() as u64 + 1).unwrap();
    assert_eq!(poke(7, 1 | 0b1001 << 16), Err(EINVAL), "not aligned");
    assert_eq!(poke(7, 1 | 0b0010 << 16), Err(EINVAL), "input and output");
    assert_eq!(poke(4, 0), Err(EIO));
    assert_eq!(peek_user(pid, DEBUG + 6 * 8), 0xffff_0ff0);
    run_to_end(pid);
}

fn register_sets() {
    let pid = traced(|| ());
    let mut old = [0u64; 27];
    sys!(SYS_ptrace, PTRACE_GETREGS, pid, 0, &mut old).unwrap();
    assert_eq!(old[16], peek_user(pid, RIP));
    assert_eq!((old[17], old[20]), (0x33, 0x2b));
    let mut set = [0u64; 30];
    let mut iov = iovec { iov_base: set.as_mut_ptr().cast(), iov_len: 240 };
    sys!(SYS_ptrace, PTRACE_GETREGSET, pid, 1, &mut iov).unwrap();
    assert_eq!(iov.iov_len, 216);
    assert_eq!(set[..27], old);
    iov.iov_len = 9;
    assert_eq!(sys!(SYS_ptrace, PTRACE_GETREGSET, pid, 1, &mut iov), Err(EINVAL));
    assert_eq!(sys!(SYS_ptrace, PTRACE_GETREGSET, pid, 0x777, &mut iov), Err(EINVAL));
    let mut new = old;
    new[5] = 0x1234_5678_9abc;
    new[21] = 1 << 50; // FS base outside user memory
    assert_eq!(sys!(SYS_ptrace, PTRACE_SETREGS, pid, 0, &new), Err(EIO));
    assert_eq!(peek_user(pid, RBX), 0x1234_5678_9abc, "what came before the refused one counts");
    sys!(SYS_ptrace, PTRACE_SETREGS, pid, 0, &old).unwrap();
    assert_eq!(ptrace(PTRACE_POKEUSER, pid, 17 * 8, 0), Err(EIO), "no code segment");
    run_to_end(pid);
}

fn floating_point_state() {
    // XMM7 keeps its value over a call; the tracer changes it there.
    let pid = traced(|| assert_eq!(sys::xmm_across_syscall(0x55, SYS_getppid), 0x66));
    to_call(pid, SYS_getppid);
    let mut legacy = [0u8; 512];
    sys!(SYS_ptrace, PTRACE_GETFPREGS, pid, 0, &mut legacy).unwrap();
    let at = 160 + 7 * 16;
    assert_eq!(legacy[at..at + 8], 0x55u64.to_le_bytes());
    let mut whole = [0u8; 8192];
    let mut iov = iovec { iov_base: whole.as_mut_ptr().cast(), iov_len: whole.len() };
    sys!(SYS_ptrace, PTRACE_GETREGSET, pid, 0x202, &mut iov).unwrap();
    assert!(iov.iov_len >= 576);
    assert_eq!(whole[at..at + 8], legacy[at..at + 8]);
    whole[at] = 0x77;
    std::hint::black_box(&whole);
    sys!(SYS_ptrace, PTRACE_SETREGSET, pid, 0x202, &mut iov).unwrap();
    sys!(SYS_ptrace, PTRACE_GETFPREGS, pid, 0, &mut legacy).unwrap();
    assert_eq!(legacy[at], 0x77);
    legacy[at] = 0x66;
    sys!(SYS_ptrace, PTRACE_SETFPREGS, pid, 0, &legacy).unwrap();
    run_to_end(pid);
}

fn seize_and_interrupt() {
    let (r, w) = pipe();
    let c = child(|| assert_eq!(read_vec(r, 1).unwrap(), b"x"));
    settle();
    ptrace(PTRACE_SEIZE, c.0, 0, PTRACE_O_TRACESYSGOOD as usize).unwrap();
    assert_eq!(c.wait_for(WNOHANG), None, "it goes on");
    ptrace(PTRACE_INTERRUPT, c.0, 0, 0).unwrap();
    assert_eq!(stop_of(c.0), event(PTRACE_EVENT_STOP));
    assert_eq!(siginfo(c.0).unwrap().code >> 8, PTRACE_EVENT_STOP);
    assert_eq!(ptrace(PTRACE_LISTEN, c.0, 0, 0), Ok(0), "as in a group stop");
    assert_eq!(ptrace(PTRACE_CONT, c.0, 0, 0), Err(ESRCH));
    ptrace(PTRACE_INTERRUPT, c.0, 0, 0).unwrap();
    assert_eq!(stop_of(c.0), event(PTRACE_EVENT_STOP));
    cont(c.0, 0);
    write(w, b"x").unwrap();
    c.ok();
}

fn listen_reports_sigcont() {
    let c = child(|| nap(200));
    ptrace(PTRACE_SEIZE, c.0, 0, 0).unwrap();
    c.kill(SIGSTOP);
    assert_eq!(stop_of(c.0), SIGSTOP, "signal-delivery-stop");
    cont(c.0, SIGSTOP);
    assert_eq!(stop_of(c.0), SIGSTOP | PTRACE_EVENT_STOP << 8, "group stop");
    ptrace(PTRACE_LISTEN, c.0, 0, 0).unwrap();
    assert_eq!(sys!(SYS_wait4, c.0, 0, __WALL | WNOHANG, 0), Ok(0));
    c.kill(SIGCONT);
    assert_eq!(stop_of(c.0), event(PTRACE_EVENT_STOP), "the end of the group stop");
    cont(c.0, 0);
    assert_eq!(stop_of(c.0), SIGCONT);
    run_to_end(c.0);
}

fn group_stop_of_an_attached_tracee() {
    let pid = traced(|| ());
    assert!(siginfo(pid).is_ok());
    cont(pid, SIGSTOP);
    assert_eq!(stop_of(pid), SIGSTOP, "the group stop is reported too");
    assert_eq!(siginfo(pid).map(|_| ()), Err(EINVAL), "which has no details");
    assert_eq!(ptrace(PTRACE_LISTEN, pid, 0, 0), Err(EIO));
    run_to_end(pid);
}

fn death_of_the_tracer() {
    let (r, w) = pipe();
    let c = child(|| assert_eq!(read_vec(r, 1).unwrap(), b"x"));
    aside(|| {
        ptrace(PTRACE_ATTACH, c.0, 0, 0).unwrap();
        assert_eq!(stop_of(c.0), SIGSTOP);
    });
    write(w, b"x").unwrap();
    c.ok();
}

fn exitkill() {
    let c = child(|| nap(20_000));
    aside(|| {
        ptrace(PTRACE_SEIZE, c.0, 0, PTRACE_O_EXITKILL as usize).unwrap();
    });
    assert_eq!(c.wait(), Status::Signal(SIGKILL));
}

fn sysemu_makes_no_call() {
    const SYSEMU: u32 = 31;
    let pid = traced(|| assert_eq!(sys!(SYS_kill, 1, SIGKILL), Ok(123)));
    ptrace(SYSEMU, pid, 0, 0).unwrap();
    assert_eq!(stop_of(pid), SIGTRAP);
    assert_eq!(peek_user(pid, ORIG_RAX), SYS_kill as u64);
    poke_user(pid, RAX, 123);
    run_to_end(pid);
}

fn masks_and_pending_signals() {
    let pid = traced(|| {
        sigmask(SIG_BLOCK, &[SIGUSR1]);
        sys!(SYS_kill, getpid(), SIGUSR1).unwrap();
        sys!(SYS_tkill, gettid(), SIGSTOP).unwrap();
        assert_eq!(sigmask(SIG_BLOCK, &[]), mask_of(&[SIGUSR1, SIGUSR2]));
    });
    cont(pid, 0);
    assert_eq!(stop_of(pid), SIGSTOP);
    let mut mask = 0u64;
    sys!(SYS_ptrace, PTRACE_GETSIGMASK, pid, 8, &mut mask).unwrap();
    assert_eq!(mask, mask_of(&[SIGUSR1]));
    mask |= mask_of(&[SIGUSR2, SIGKILL]);
    sys!(SYS_ptrace, PTRACE_SETSIGMASK, pid, 8, &mask).unwrap();
    let mut infos: [SigInfo; 2] = [zero(), zero()];
    let args = [0u64, 1 | 2 << 32]; // from the start of the shared queue, two
    assert_eq!(sys!(SYS_ptrace, PTRACE_PEEKSIGINFO, pid, &args[..], &mut infos), Ok(1));
    assert_eq!((infos[0].signo, infos[0].pid()), (SIGUSR1, pid));
    run_to_end(pid);
}

fn tracer_pid_in_status() {
    let pid =
        traced(|| assert_eq!(proc_status(getpid(), "TracerPid"), sys!(SYS_getppid).unwrap().to_string()));
    assert_eq!(proc_status(pid, "TracerPid"), gettid().to_string());
    assert!(proc_status(pid, "State").starts_with("t (tracing stop)"));
    run_to_end(pid);
}

fn parent_waits_after_the_tracer() {
    let (r, w) = pipe();
    let c = child(|| {
        ignore(read_vec(r, 1));
        sys::exit(3);
    });
    aside(|| {
        ptrace(PTRACE_SEIZE, c.0, 0, 0).unwrap();
        write(w, b"x").unwrap();
        assert_eq!(status_of(c.0), 3 << 8);
        assert_eq!(sys!(SYS_wait4, c.0, 0, __WALL, 0), Err(ECHILD));
    });
    assert_eq!(c.wait(), Status::Exit(3));
}

fn numbers_are_those_of_the_tracers_namespace() {
    let pid = traced(|| {
        sys!(SYS_unshare, CLONE_NEWPID).unwrap();
        let c = child(|| assert_eq!(getpid(), 1));
        c.ok();
    });
    options(pid, PTRACE_O_TRACEFORK | PTRACE_O_TRACEEXIT);
    cont(pid, 0);
    assert_eq!(stop_of(pid), event(PTRACE_EVENT_FORK));
    let grandchild = message(pid) as i32;
    assert!(grandchild > pid, "{grandchild} is a number of this namespace");
    assert_eq!(stop_of(grandchild), SIGSTOP);
    cont(pid, 0);
    cont(grandchild, 0);
    assert_eq!(stop_of(grandchild), event(PTRACE_EVENT_EXIT));
    assert_eq!(siginfo(grandchild).unwrap().pid(), 1, "its own number");
    run_to_end(grandchild);
    assert_eq!(stop_of(pid), SIGCHLD);
    assert_eq!(siginfo(pid).unwrap().pid(), grandchild);
    cont(pid, 0);
    assert_eq!(stop_of(pid), event(PTRACE_EVENT_EXIT));
    run_to_end(pid);
}
