//! seccomp(2) and syscall user dispatch.

use std::sync::atomic::AtomicBool;

use crate::prelude::*;

tests!(
    "seccomp":
    arguments, bad_programs, errno_is_returned_and_inherited, status_shows_the_mode, trap_raises_sigsys,
    kill_process, kill_thread, most_severe_filter_counts, strict_mode, filters_see_arguments,
    trace_without_a_tracer, trace_stops, exec_keeps_filters, notification_answers_a_call,
    notification_continues_a_call, notification_adds_a_descriptor, notification_errors, closed_listener_is_enosys,
    tsync_reaches_other_threads, user_dispatch, a_tracer_does_not_see_a_deadly_answer,
    a_tracer_reads_flags_of_filters, a_tracer_can_suspend_filters,
);

const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x5_0000;
const TRAP: u32 = 0x3_0000;
const KILL_PROCESS: u32 = 0x8000_0000;
const KILL_THREAD: u32 = 0;
const NOTIFY: u32 = 0x7fc0_0000;
const TRACE: u32 = 0x7ff0_0000;
const FILTER: u32 = 1;
const NEW_LISTENER: u32 = 8;
const TSYNC: u32 = 1;

/// One instruction as a word.
const fn op(code: u64, k: u32, jt: u64, jf: u64) -> u64 {
    code | jt << 16 | jf << 24 | (k as u64) << 32
}

const fn ret(k: u32) -> u64 {
    op(0x06, k, 0, 0)
}

/// Answers `answer` to call `nr`, and allows all others.
fn filter(nr: i64, answer: u32) -> [u64; 4] {
    [op(0x20, 0, 0, 0), op(0x15, nr as u32, 0, 1), ret(answer), ret(ALLOW)]
}

fn install(flags: u32, program: &[u64]) -> Result<usize, Errno> {
    let prog = [program.len() as u64, program.as_ptr() as u64];
    sys!(SYS_seccomp, FILTER, flags, &prog[..])
}

fn no_new_privs() {
    sys!(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).unwrap();
}

fn arguments() {
    assert_eq!(sys!(SYS_seccomp, 77, 0, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_seccomp, 0, 1, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_seccomp, FILTER, 0x80, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_seccomp, FILTER, 0, 0), Err(EFAULT));
    assert_eq!(install(NEW_LISTENER | TSYNC, &filter(0, ALLOW)), Err(EINVAL));
    for action in [KILL_PROCESS, KILL_THREAD, TRAP, ERRNO, NOTIFY, TRACE, 0x7ffc_0000, ALLOW] {
        assert_eq!(sys!(SYS_seccomp, 2, 0, &action), Ok(0), "{action:#x}");
    }
    assert_eq!(sys!(SYS_seccomp, 2, 0, &1u32), Err(EOPNOTSUPP));
    let mut sizes = [0u16; 3];
    sys!(SYS_seccomp, 3, 0, &mut sizes).unwrap();
    assert_eq!(sizes, [80, 24, 64]);
    aside(|| {
        drop_root();
        assert_eq!(install(0, &filter(0, ALLOW)), Err(EACCES));
        no_new_privs();
        install(0, &filter(0, ALLOW)).unwrap();
    });
}

fn bad_programs() {
    no_new_privs();
    let long = [ret(ALLOW); 4097];
    for program in [
        &[][..],
        &long[..],
        &[op(0x20, 0, 0, 0)],              // does not return
        &[op(0x20, 64, 0, 0), ret(ALLOW)], // beyond the data
        &[op(0x20, 2, 0, 0), ret(ALLOW)],  // not aligned
        &[op(0x05, 1, 0, 0), ret(ALLOW)],  // jumps out
        &[op(0x34, 0, 0, 0), ret(ALLOW)],  // divides by 0
        &[op(0x60, 0, 0, 0), ret(ALLOW)],  // reads what was never written
        &[op(0x30, 0, 0, 0), ret(ALLOW)],  // byte load
    ] {
        assert_eq!(install(0, program), Err(EINVAL), "{program:x?}");
    }
}

fn errno_is_returned_and_inherited() {
    no_new_privs();
    install(0, &filter(SYS_getppid, ERRNO | 44)).unwrap();
    assert_eq!(sys!(SYS_getppid), Err(Errno::from_raw(44)));
    aside(|| assert_eq!(sys!(SYS_getppid), Err(Errno::from_raw(44))));
    std::thread::spawn(|| assert_eq!(sys!(SYS_getppid), Err(Errno::from_raw(44)))).join().unwrap();
    sys!(SYS_getuid).unwrap();
    install(0, &filter(SYS_getuid, ERRNO | 0xffff)).unwrap();
    // Cut to the highest error number.
    assert_eq!(sys!(SYS_getuid), Err(Errno::from_raw(4095)));
}

fn status_shows_the_mode() {
    let field = |key: &str| proc_status(getpid(), key);
    assert_eq!((field("Seccomp"), field("NoNewPrivs")), ("0".into(), "0".into()));
    assert_eq!(sys!(SYS_prctl, PR_GET_SECCOMP), Ok(0));
    no_new_privs();
    let program = filter(SYS_getppid, ALLOW);
    let prog = [program.len() as u64, program.as_ptr() as u64];
    sys!(SYS_prctl, PR_SET_SECCOMP, 2, &prog[..]).unwrap();
    install(0, &program).unwrap();
    assert_eq!((field("Seccomp"), field("NoNewPrivs")), ("2".into(), "1".into()));
    assert_eq!(field("Seccomp_filters"), "2");
    assert_eq!(sys!(SYS_prctl, PR_GET_SECCOMP), Ok(2));
    assert_eq!(sys!(SYS_seccomp, 0, 0, 0), Err(EINVAL), "no strict mode afterwards");
}

extern "C" fn on_sys(_: i32, info: &SigInfo, _: usize) {
    LAST_CODE.store(info.code, SeqCst);
    LAST_VALUE.store(info.errno, SeqCst);
    LAST.store(info.fields[2] as i32, SeqCst);
    LAST_PID.store(info.fields[3] as i32, SeqCst);
    SEEN.fetch_add(1, SeqCst);
}

fn trap_raises_sigsys() {
    no_new_privs();
    on_signal(SIGSYS, 0, on_sys);
    install(0, &filter(SYS_getppid, TRAP | 7)).unwrap();
    assert_eq!(sys!(SYS_getppid), Ok(SYS_getppid as usize), "the register holds the number again");
    assert_eq!((seen(), LAST_CODE.load(SeqCst), LAST_VALUE.load(SeqCst)), (1, 1, 7));
    assert_eq!((LAST.load(SeqCst), LAST_PID.load(SeqCst) as u32), (SYS_getppid as i32, 0xc000_003e));
}

fn kill_process() {
    let status = fate(|| {
        no_new_privs();
        on_signal(SIGSYS, 0, count);
        install(0, &filter(SYS_getppid, KILL_PROCESS)).unwrap();
        std::thread::spawn(|| ignore(sys!(SYS_getppid))).join().unwrap();
    });
    assert_eq!(status, Status::Signal(SIGSYS));
}

fn kill_thread() {
    let status = fate(|| {
        no_new_privs();
        install(0, &filter(SYS_getppid, KILL_THREAD)).unwrap();
        std::thread::spawn(|| ignore(sys!(SYS_getppid)));
        while proc_status(getpid(), "Threads") != "1" {
            nap(5);
        }
        sys::exit(5);
    });
    assert_eq!(status, Status::Exit(5), "only the thread ends");
    let status = fate(|| {
        no_new_privs();
        install(0, &filter(SYS_getppid, KILL_THREAD)).unwrap();
        ignore(sys!(SYS_getppid));
    });
    assert_eq!(status, Status::Signal(SIGSYS), "the last thread");
}

fn most_severe_filter_counts() {
    no_new_privs();
    install(0, &filter(SYS_getppid, ERRNO | 1)).unwrap();
    install(0, &filter(SYS_getppid, ALLOW)).unwrap();
    assert_eq!(sys!(SYS_getppid), Err(EPERM));
    install(0, &filter(SYS_getppid, ERRNO | 2)).unwrap();
    assert_eq!(sys!(SYS_getppid), Err(ENOENT), "the newest of equals");
}

fn strict_mode() {
    let (r, w) = pipe();
    let status = fate(|| {
        sys!(SYS_prctl, PR_SET_SECCOMP, 1).unwrap();
        write(w, b"x").unwrap();
        ignore(read_vec(r, 1));
        ignore(sys!(SYS_exit, 6));
    });
    assert_eq!(status, Status::Exit(6));
    let status = fate(|| {
        sys!(SYS_seccomp, 0, 0, 0).unwrap();
        ignore(sys!(SYS_getpid));
    });
    assert_eq!(status, Status::Signal(SIGKILL));
}

fn filters_see_arguments() {
    no_new_privs();
    // kill(pid, 0x1_0000_0005) in the upper half of the second argument
    let by_high_half = [
        op(0x20, 0, 0, 0),
        op(0x15, SYS_kill as u32, 0, 3),
        op(0x20, 16 + 8 + 4, 0, 0),
        op(0x15, 1, 0, 1),
        ret(ERRNO | 99),
        ret(ALLOW),
    ];
    install(0, &by_high_half).unwrap();
    assert_eq!(sys!(SYS_kill, getpid(), 0), Ok(0));
    assert_eq!(sys!(SYS_kill, getpid(), 1usize << 32), Err(Errno::from_raw(99)));
}

fn trace_without_a_tracer() {
    no_new_privs();
    install(0, &filter(SYS_getppid, TRACE | 3)).unwrap();
    assert_eq!(sys!(SYS_getppid), Err(ENOSYS));
}

fn trace_stops() {
    let c = child(|| {
        no_new_privs();
        sys!(SYS_ptrace, PTRACE_TRACEME, 0, 0, 0).unwrap();
        sys!(SYS_kill, getpid(), SIGSTOP).unwrap();
        install(0, &filter(SYS_getppid, TRACE | 3)).unwrap();
        assert_eq!(sys!(SYS_getppid), Ok(1234));
    });
    assert_eq!(c.wait_for(0), Some(Status::Stopped(SIGSTOP)));
    sys!(SYS_ptrace, PTRACE_SETOPTIONS, c.0, 0, PTRACE_O_TRACESECCOMP).unwrap();
    sys!(SYS_ptrace, PTRACE_CONT, c.0, 0, 0).unwrap();
    let mut status = 0;
    sys!(SYS_wait4, c.0, &mut status, 0, 0).unwrap();
    assert_eq!(status >> 8, SIGTRAP | PTRACE_EVENT_SECCOMP << 8);
    let mut word = 0u64;
    sys!(SYS_ptrace, PTRACE_GETEVENTMSG, c.0, 0, &mut word).unwrap();
    assert_eq!(word, 3);
    let mut info = [0u64; 11];
    assert_eq!(sys!(SYS_ptrace, PTRACE_GET_SYSCALL_INFO, c.0, 88, &mut info), Ok(84));
    assert_eq!((info[0] as u8, info[3], info[10] as u32), (3, SYS_getppid as u64, 3));
    // Its first filter, as it was given.
    assert_eq!(sys!(SYS_ptrace, 0x420c, c.0, 0, 0), Ok(4));
    let mut program = [0u64; 4];
    assert_eq!(sys!(SYS_ptrace, 0x420c, c.0, 0, &mut program), Ok(4));
    assert_eq!(program, filter(SYS_getppid, TRACE | 3));
    assert_eq!(sys!(SYS_ptrace, 0x420c, c.0, 1, 0), Err(ENOENT));
    // No call, and a result.
    sys!(SYS_ptrace, PTRACE_POKEUSER, c.0, 15 * 8, u64::MAX).unwrap();
    sys!(SYS_ptrace, PTRACE_POKEUSER, c.0, 10 * 8, 1234).unwrap();
    sys!(SYS_ptrace, PTRACE_CONT, c.0, 0, 0).unwrap();
    c.ok();
}

fn exec_keeps_filters() {
    let status = fate(|| {
        no_new_privs();
        install(0, &filter(SYS_exit_group, ERRNO | 1)).unwrap();
        install(0, &filter(SYS_write, KILL_PROCESS)).unwrap();
        let (program, mark, word) = (me(), cstr(MARK), cstr("args"));
        let argv = [
            program.as_ptr() as usize,
            mark.as_ptr() as usize,
            word.as_ptr() as usize,
            word.as_ptr() as usize,
            0,
        ];
        ignore(sys!(SYS_execve, &program, &argv[..], 0));
    });
    assert_eq!(status, Status::Signal(SIGSYS));
}

const RECV: u32 = 0xc050_2100;
const SEND: u32 = 0xc018_2101;
const ID_VALID: u32 = 0x4008_2102;
const ADDFD: u32 = 0x4018_2103;

/// A filter whose listener is this process: for its children's getppid(2).
#[track_caller]
fn listener() -> i32 {
    no_new_privs();
    install(NEW_LISTENER, &filter(SYS_getppid, NOTIFY)).unwrap() as i32
}

#[track_caller]
fn receive(fd: i32) -> [u64; 10] {
    let mut notif = [0u64; 10];
    assert_eq!(poll1(fd, POLLIN, 5000), POLLIN);
    sys!(SYS_ioctl, fd, RECV, &mut notif).unwrap();
    notif
}

fn notification_answers_a_call() {
    let fd = listener();
    let c = child(|| {
        assert_eq!(sys!(SYS_getppid, 11, 12, 13, 14, 15, 16), Ok(4242));
        assert_eq!(sys!(SYS_getppid), Err(EBUSY));
    });
    let notif = receive(fd);
    assert_eq!(notif[1], c.0 as u64, "tid and no flags");
    assert_eq!(notif[2], SYS_getppid as u64 | 0xc000_003e << 32);
    assert_eq!(notif[4..10], [11, 12, 13, 14, 15, 16]);
    assert_eq!(sys!(SYS_ioctl, fd, ID_VALID, &notif[0]), Ok(0));
    let mut response = [notif[0], 4242, 0];
    sys!(SYS_ioctl, fd, SEND, &mut response).unwrap();
    let notif = receive(fd);
    response = [notif[0], 0, u64::from((-(EBUSY as i32)) as u32)];
    sys!(SYS_ioctl, fd, SEND, &mut response).unwrap();
    c.ok();
    assert_eq!(sys!(SYS_ioctl, fd, SEND, &mut response), Err(ENOENT));
    assert_eq!(sys!(SYS_ioctl, fd, ID_VALID, &notif[0]), Err(ENOENT));
}

fn notification_continues_a_call() {
    let fd = listener();
    let parent = getpid();
    let c = child(|| assert_eq!(sys!(SYS_getppid), Ok(parent as usize)));
    let notif = receive(fd);
    let mut response = [notif[0], 1, 1 << 32];
    assert_eq!(sys!(SYS_ioctl, fd, SEND, &mut response), Err(EINVAL), "it cannot have a result too");
    response[1] = 0;
    sys!(SYS_ioctl, fd, SEND, &mut response).unwrap();
    c.ok();
}

fn notification_adds_a_descriptor() {
    let fd = listener();
    let c = child(|| {
        let new = sys!(SYS_getppid).unwrap() as i32;
        assert_eq!(read_vec(new, 2).unwrap(), b"hi");
        assert_eq!(sys!(SYS_fcntl, new, F_GETFD), Ok(FD_CLOEXEC as usize));
        assert_eq!(sys!(SYS_fcntl, 200, F_GETFD), Ok(0));
    });
    let (r, w) = pipe(); // which the child does not have
    write(w, b"hi").unwrap();
    let notif = receive(fd);
    let mut add = [notif[0], 1 | (r as u64) << 32, 200];
    assert_eq!(sys!(SYS_ioctl, fd, ADDFD, &mut add), Ok(200));
    add = [notif[0], 2 | (r as u64) << 32, (O_CLOEXEC as u64) << 32];
    let number = sys!(SYS_ioctl, fd, ADDFD, &mut add).unwrap();
    assert!(number > 2 && number < 200, "{number}");
    // A longer structure, of a later kernel, is one with zeros at its end; the direction in the number does not count.
    let longer = (ADDFD + (8 << 16)) | (1 << 31);
    let mut add = [77, (r as u64) << 32, 0, 1];
    assert_eq!(sys!(SYS_ioctl, fd, longer, &mut add), Err(E2BIG));
    add[3] = 0;
    assert_eq!(sys!(SYS_ioctl, fd, longer, &mut add), Err(ENOENT));
    c.ok();
}

fn notification_errors() {
    let fd = listener();
    assert_eq!(install(NEW_LISTENER, &filter(SYS_getuid, NOTIFY)), Err(EBUSY));
    assert_eq!(poll1(fd, POLLIN, 0), 0);
    let mut dirty = [1u64; 10];
    assert_eq!(sys!(SYS_ioctl, fd, RECV, &mut dirty), Err(EINVAL));
    let mut response = [77u64, 0, 0];
    assert_eq!(sys!(SYS_ioctl, fd, SEND, &mut response), Err(ENOENT));
    assert_eq!(sys!(SYS_ioctl, fd, 0x1234, 0), Err(EINVAL));
    let c = child(|| {
        on_signal(SIGUSR1, 0, count);
        assert_eq!(sys!(SYS_getppid), Err(EINTR));
    });
    let notif = receive(fd);
    c.kill(SIGUSR1);
    c.ok();
    assert_eq!(sys!(SYS_ioctl, fd, ID_VALID, &notif[0]), Err(ENOENT), "a signal takes it away");
}

fn closed_listener_is_enosys() {
    let fd = listener();
    close(fd);
    assert_eq!(sys!(SYS_getppid), Err(ENOSYS));
}

static GO: AtomicBool = AtomicBool::new(false);

fn tsync_reaches_other_threads() {
    no_new_privs();
    let other = std::thread::spawn(|| {
        let tid = gettid();
        while !GO.load(SeqCst) {
            nap(1);
        }
        let mine = sys!(SYS_getppid);
        (tid, mine, proc_status(tid, "Seccomp_filters"))
    });
    install(TSYNC, &filter(SYS_getppid, ERRNO | 33)).unwrap();
    GO.store(true, SeqCst);
    let (_, result, filters) = other.join().unwrap();
    assert_eq!((result, filters.as_str()), (Err(Errno::from_raw(33)), "1"));
}

extern "C" fn on_dispatch(_: i32, info: &SigInfo, _: usize) {
    SELECTOR.store(0, SeqCst);
    on_sys(0, info, 0);
}

static SELECTOR: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

fn user_dispatch() {
    const SET: i32 = 59;
    let selector = SELECTOR.as_ptr() as usize;
    assert_eq!(sys!(SYS_prctl, SET, 9, 0, 0, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_prctl, SET, 0, 1, 0, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_prctl, SET, 1, 8, 0, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_prctl, SET, 1, 0, 0, 1usize << 63), Err(EFAULT));
    on_signal(SIGSYS, 0, on_dispatch);
    sys!(SYS_prctl, SET, 1, 0, 0, selector).unwrap();
    sys!(SYS_getppid).unwrap();
    SELECTOR.store(1, SeqCst);
    assert_eq!(sys!(SYS_getppid), Ok(SYS_getppid as usize));
    assert_eq!((seen(), LAST_CODE.load(SeqCst), LAST.load(SeqCst)), (1, 2, SYS_getppid as i32));
    aside(|| {
        SELECTOR.store(1, SeqCst);
        sys!(SYS_getppid).unwrap(); // children are not affected
        SELECTOR.store(0, SeqCst);
    });
    sys!(SYS_prctl, SET, 0, 0, 0, 0).unwrap();
    let status = fate(|| {
        sys!(SYS_prctl, SET, 1, 0, 0, selector).unwrap();
        SELECTOR.store(5, SeqCst);
        ignore(sys!(SYS_getppid));
    });
    assert_eq!(status, Status::Signal(SIGSYS), "a selector that is neither");
}

/// A child that asks to be traced, runs `prepare`, stops itself and then runs `f`.
#[track_caller]
fn traced(prepare: impl FnOnce(), f: impl FnOnce()) -> i32 {
    let c = child(|| {
        sys!(SYS_ptrace, PTRACE_TRACEME, 0, 0, 0).unwrap();
        prepare();
        sys!(SYS_kill, getpid(), SIGSTOP).unwrap();
        f();
    });
    assert_eq!(wait_status(c.0), SIGSTOP << 8 | 0x7f);
    c.0
}

#[track_caller]
fn wait_status(pid: i32) -> i32 {
    let mut status = 0;
    assert_eq!(sys!(SYS_wait4, pid, &mut status, __WALL, 0), Ok(pid as usize));
    status
}

fn a_tracer_does_not_see_a_deadly_answer() {
    for action in [KILL_PROCESS, KILL_THREAD] {
        let filter = move || {
            no_new_privs();
            install(0, &filter(SYS_getppid, action)).unwrap();
        };
        let pid = traced(filter, || ignore(sys!(SYS_getppid)));
        sys!(SYS_ptrace, PTRACE_CONT, pid, 0, 0).unwrap();
        assert_eq!(wait_status(pid) & !0x80, SIGSYS, "no stop, with or without a core dump");
    }
}

fn a_tracer_reads_flags_of_filters() {
    const LOG: u32 = 2;
    const GET_METADATA: u32 = 0x420d;
    let filters = || {
        no_new_privs();
        install(LOG, &filter(SYS_getppid, ALLOW)).unwrap();
        install(0, &filter(SYS_getppid, ALLOW)).unwrap();
    };
    let pid = traced(filters, || ());
    for (place, flags) in [(0, 2), (1, 0)] {
        let mut about = [place, 99u64];
        assert_eq!(sys!(SYS_ptrace, GET_METADATA, pid, 16, &mut about), Ok(16));
        assert_eq!(about, [place, flags]);
    }
    let mut about = [2, 99u64];
    assert_eq!(sys!(SYS_ptrace, GET_METADATA, pid, 16, &mut about), Err(ENOENT));
    assert_eq!(sys!(SYS_ptrace, GET_METADATA, pid, 7, &mut about), Err(EINVAL));
    sys!(SYS_ptrace, PTRACE_KILL, pid, 0, 0).unwrap();
    assert_eq!(wait_status(pid), SIGKILL);
}

fn a_tracer_can_suspend_filters() {
    let filter = || {
        no_new_privs();
        install(0, &filter(SYS_getuid, ERRNO | 44)).unwrap();
    };
    let pid = traced(filter, || assert_eq!(sys!(SYS_getuid), Ok(0)));
    sys!(SYS_ptrace, PTRACE_SETOPTIONS, pid, 0, PTRACE_O_SUSPEND_SECCOMP).unwrap();
    sys!(SYS_ptrace, PTRACE_CONT, pid, 0, 0).unwrap();
    assert_eq!(wait_status(pid), 0);
    let pid = traced(|| (), || ());
    no_new_privs();
    install(0, &[ret(ALLOW)]).unwrap();
    assert_eq!(sys!(SYS_ptrace, PTRACE_SETOPTIONS, pid, 0, PTRACE_O_SUSPEND_SECCOMP), Err(EPERM));
    sys!(SYS_ptrace, PTRACE_KILL, pid, 0, 0).unwrap();
    assert_eq!(wait_status(pid), SIGKILL);
}
