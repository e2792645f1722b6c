//! Handlers, masks, delivery, restart, alternate stacks, faults.

use std::sync::atomic::{AtomicU64, AtomicUsize};

use crate::prelude::*;
use crate::sys::{
    breakpoint, divide_by_zero, peek64, privileged_instruction, undefined_instruction, xmm_across_tgkill,
};

tests!(
    "signal":
    handler_sees_sender, kill_errors, kill_needs_permission, kill_a_group, sigaction_errors,
    sigaction_returns_the_old_one, sigprocmask_rules, blocked_signal_waits, realtime_signals_queue_in_order,
    sigqueue_carries_a_value, handler_blocks_itself_and_its_mask, nodefer_nests, resethand_is_once,
    ignoring_discards_pending, default_actions, orphaned_group_does_not_stop, cont_discards_stops_and_back,
    kill_wakes_a_stopped_process, restart, no_restart_is_eintr, some_calls_never_restart,
    ignored_signals_do_not_interrupt, stop_and_continue_do_not_interrupt_sleep, segv_maperr_and_accerr,
    kernel_addresses_fault, executing_data_is_refused, ill_fpe_trap_gp,
    fault_with_signal_blocked_or_ignored_kills, bus_error_beyond_the_file, handler_can_repair_and_return,
    alternate_stack, stack_overflow_on_the_alternate_stack, mask_comes_back_after_handler,
    handler_with_floats_keeps_the_interrupted_state, frames_hold_vector_registers, bad_return_frame_kills, sigpipe_from_a_broken_pipe,
);

fn raise(sig: i32) {
    sys!(SYS_tgkill, getpid(), gettid(), sig).unwrap();
}

fn handler_sees_sender() {
    on_signal(SIGUSR1, 0, count);
    sys!(SYS_kill, getpid(), SIGUSR1).unwrap();
    assert_eq!((seen(), LAST.load(SeqCst)), (1, SIGUSR1));
    assert_eq!((LAST_CODE.load(SeqCst), LAST_PID.load(SeqCst)), (SI_USER, getpid()));
    raise(SIGUSR1);
    assert_eq!((seen(), LAST_CODE.load(SeqCst)), (2, SI_TKILL));
}

fn kill_errors() {
    assert_eq!(sys!(SYS_kill, getpid(), 65), Err(EINVAL));
    assert_eq!(sys!(SYS_kill, getpid(), -1), Err(EINVAL));
    assert_eq!(sys!(SYS_kill, 0x3fff_fff0, 0), Err(ESRCH));
    assert_eq!(sys!(SYS_kill, i32::MIN, 0), Err(ESRCH));
    assert_eq!(sys!(SYS_tgkill, getpid(), 0, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_tgkill, -1, gettid(), 0), Err(EINVAL));
    assert_eq!(sys!(SYS_tgkill, getpid(), 0x3fff_fff0, 0), Err(ESRCH));
    assert_eq!(sys!(SYS_tgkill, 1, gettid(), 0), Err(ESRCH));
    assert_eq!(sys!(SYS_tkill, 0, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_kill, getpid(), 0), Ok(0));
}

fn kill_needs_permission() {
    let root = child(|| nap(20_000));
    aside(|| {
        drop_root();
        assert_eq!(sys!(SYS_kill, root.0, SIGTERM), Err(EPERM));
        assert_eq!(sys!(SYS_kill, root.0, 0), Err(EPERM));
        assert_eq!(sys!(SYS_kill, root.0, 99), Err(EINVAL));
    });
    root.kill(SIGKILL);
    root.wait();
}

fn kill_a_group() {
    let a = child(|| {
        sys!(SYS_setpgid, 0, 0).unwrap();
        nap(20_000);
    });
    let _ = sys!(SYS_setpgid, a.0, a.0);
    let b = child(|| nap(20_000));
    sys!(SYS_setpgid, b.0, a.0).unwrap();
    sys!(SYS_kill, -a.0, SIGTERM).unwrap();
    assert_eq!((a.wait(), b.wait()), (Status::Signal(SIGTERM), Status::Signal(SIGTERM)));
    assert_eq!(sys!(SYS_kill, -a.0, 0), Err(ESRCH));
}

fn sigaction_errors() {
    for sig in [SIGKILL, SIGSTOP] {
        let act = [SIG_IGN, 0, 0, 0];
        assert_eq!(sys!(SYS_rt_sigaction, sig, &act, 0, 8), Err(EINVAL));
        let mut old = [0usize; 4];
        assert_eq!(sys!(SYS_rt_sigaction, sig, 0, &mut old, 8), Ok(0));
    }
    assert_eq!(sys!(SYS_rt_sigaction, 0, 0, 0, 8), Err(EINVAL));
    assert_eq!(sys!(SYS_rt_sigaction, 65, 0, 0, 8), Err(EINVAL));
    assert_eq!(sys!(SYS_rt_sigaction, SIGUSR1, 0, 0, 4), Err(EINVAL));
    assert_eq!(sys!(SYS_rt_sigaction, SIGUSR1, BAD, 0, 8), Err(EFAULT));
}

fn sigaction_returns_the_old_one() {
    let new = [SIG_IGN, SA_RESTART as usize, 0, 0x1234];
    let mut old = [9usize; 4];
    sys!(SYS_rt_sigaction, SIGUSR1, &new, &mut old, 8).unwrap();
    assert_eq!(old[0], SIG_DFL);
    sys!(SYS_rt_sigaction, SIGUSR1, 0, &mut old, 8).unwrap();
    assert_eq!((old[0], old[1], old[3]), (SIG_IGN, SA_RESTART as usize, 0x1234));
}

fn sigprocmask_rules() {
    assert_eq!(sys!(SYS_rt_sigprocmask, 9, &[1u64], 0, 8), Err(EINVAL));
    assert_eq!(sys!(SYS_rt_sigprocmask, 9, 0, 0, 8), Ok(0));
    assert_eq!(sys!(SYS_rt_sigprocmask, SIG_BLOCK, &[1u64], 0, 4), Err(EINVAL));
    sigmask(SIG_SETMASK, &[SIGKILL, SIGSTOP, SIGUSR1]);
    assert_eq!(sigmask(SIG_UNBLOCK, &[SIGUSR1]), mask_of(&[SIGUSR1]));
    assert_eq!(sigmask(SIG_SETMASK, &[]), 0);
}

fn blocked_signal_waits() {
    on_signal(SIGUSR1, 0, count);
    sigmask(SIG_BLOCK, &[SIGUSR1]);
    raise(SIGUSR1);
    raise(SIGUSR1);
    assert_eq!((seen(), pending()), (0, mask_of(&[SIGUSR1])));
    sigmask(SIG_UNBLOCK, &[SIGUSR1]);
    assert_eq!((seen(), pending()), (1, 0));
}

fn realtime_signals_queue_in_order() {
    static ORDER: AtomicU64 = AtomicU64::new(0);
    extern "C" fn note(_: i32, info: &SigInfo, _: usize) {
        let v = ORDER.load(SeqCst);
        ORDER.store(v * 16 + u64::from(info.fields[2]), SeqCst);
    }
    let (low, high) = (34 + 2, 34 + 5);
    on_signal(low, 0, note);
    on_signal(high, 0, note);
    sigmask(SIG_BLOCK, &[low, high]);
    for (sig, value) in [(high, 3u32), (low, 1), (low, 2), (high, 4)] {
        queue(getpid(), sig, value).unwrap();
    }
    // The lowest number comes first, so its handlers run... last pushed, first run: masks nest.
    sigmask(SIG_UNBLOCK, &[low]);
    assert_eq!(ORDER.load(SeqCst), 0x12);
    sigmask(SIG_UNBLOCK, &[high]);
    assert_eq!(ORDER.load(SeqCst), 0x1234);
}

fn queue(pid: i32, sig: i32, value: u32) -> Result<usize, Errno> {
    let mut info: SigInfo = zero();
    info.signo = sig;
    info.code = SI_QUEUE;
    info.fields[0] = getpid() as u32;
    info.fields[2] = value;
    sys!(SYS_rt_sigqueueinfo, pid, sig, &info)
}

fn sigqueue_carries_a_value() {
    on_signal(SIGUSR1, 0, count);
    queue(getpid(), SIGUSR1, 4242).unwrap();
    assert_eq!((LAST_CODE.load(SeqCst), LAST_VALUE.load(SeqCst)), (SI_QUEUE, 4242));
    let mut forged: SigInfo = zero();
    forged.code = SI_USER;
    let other = child(|| nap(20_000));
    assert_eq!(sys!(SYS_rt_sigqueueinfo, other.0, SIGUSR1, &forged), Err(EPERM));
    other.kill(SIGKILL);
    other.wait();
}

fn handler_blocks_itself_and_its_mask() {
    static DEPTH: AtomicUsize = AtomicUsize::new(0);
    extern "C" fn nested(_: i32, _: &SigInfo, _: usize) {
        assert_eq!(DEPTH.fetch_add(1, SeqCst), 0);
        raise(SIGUSR1);
        raise(SIGUSR2);
        assert_eq!(pending(), mask_of(&[SIGUSR1, SIGUSR2]));
        DEPTH.store(0, SeqCst);
        if SEEN.fetch_add(1, SeqCst) > 0 {
            set_action(SIGUSR1, SIG_IGN).unwrap();
        }
    }
    on_signal_masking(SIGUSR1, 0, &[SIGUSR2], nested);
    set_action(SIGUSR2, SIG_IGN).unwrap();
    on_signal(SIGUSR2, 0, count);
    raise(SIGUSR1);
    assert_eq!(sigmask(SIG_BLOCK, &[]), 0);
    assert!(seen() >= 2);
}

fn nodefer_nests() {
    extern "C" fn nested(_: i32, _: &SigInfo, _: usize) {
        if SEEN.fetch_add(1, SeqCst) < 5 {
            raise(SIGUSR1);
        }
    }
    on_signal(SIGUSR1, SA_NODEFER, nested);
    raise(SIGUSR1);
    assert_eq!(seen(), 6);
}

fn resethand_is_once() {
    on_signal(SIGUSR1, SA_RESETHAND, count);
    raise(SIGUSR1);
    assert_eq!(crate::sys::current_action(SIGUSR1), SIG_DFL);
    assert_eq!(fate(|| raise(SIGUSR1)), Status::Signal(SIGUSR1));
}

fn ignoring_discards_pending() {
    sigmask(SIG_BLOCK, &[SIGUSR1, SIGCHLD]);
    raise(SIGUSR1);
    raise(SIGCHLD);
    set_action(SIGUSR1, SIG_IGN).unwrap();
    assert_eq!(pending(), mask_of(&[SIGCHLD]));
    set_action(SIGCHLD, SIG_DFL).unwrap();
    assert_eq!(pending(), 0);
}

fn default_actions() {
    for sig in [
        SIGHUP, SIGINT, SIGQUIT, SIGABRT, SIGPIPE, SIGALRM, SIGUSR2, SIGXCPU, SIGSYS, SIGVTALRM, SIGPROF,
        SIGIO, SIGPWR, SIGSTKFLT, 34, 64,
    ] {
        assert_eq!(fate(move || raise(sig)), Status::Signal(sig));
    }
    for sig in [SIGCHLD, SIGCONT, SIGURG, SIGWINCH] {
        assert_eq!(fate(move || raise(sig)), Status::Exit(0));
    }
    for sig in [SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU] {
        let c = child(move || {
            sys!(SYS_setpgid, 0, 0).unwrap();
            raise(sig);
        });
        // Its group is not orphaned as its parent is in another group of the session.
        assert_eq!(c.wait_for(WUNTRACED), Some(Status::Stopped(sig)));
        c.kill(SIGCONT);
        c.ok();
    }
}

fn orphaned_group_does_not_stop() {
    aside(|| {
        sys!(SYS_setsid).unwrap();
        aside(|| raise(SIGTSTP));
    });
}

fn cont_discards_stops_and_back() {
    sigmask(SIG_BLOCK, &[SIGTSTP, SIGCONT]);
    raise(SIGTSTP);
    assert_eq!(pending(), mask_of(&[SIGTSTP]));
    raise(SIGCONT);
    assert_eq!(pending(), mask_of(&[SIGCONT]));
    raise(SIGTSTP);
    assert_eq!(pending(), mask_of(&[SIGTSTP]));
}

fn kill_wakes_a_stopped_process() {
    let c = child(|| nap(20_000));
    c.kill(SIGSTOP);
    c.wait_for(WUNTRACED);
    c.kill(SIGTERM);
    settle();
    assert_eq!(c.wait_for(WNOHANG), None);
    c.kill(SIGCONT);
    assert_eq!(c.wait(), Status::Signal(SIGTERM));
}

/// Has `sig` sent to this process while `f` blocks.
fn interrupted<T>(sig: i32, flags: i32, f: impl FnOnce() -> T) -> T {
    on_signal(sig, flags, count);
    let me = getpid();
    let c = child(|| {
        settle();
        settle();
        sys!(SYS_kill, me, sig).unwrap();
    });
    let result = f();
    set_action(sig, SIG_IGN).unwrap();
    c.wait();
    result
}

fn restart() {
    let (r, w) = pipe();
    let me = getpid();
    on_signal(SIGUSR1, SA_RESTART, count);
    let c = child(|| {
        settle();
        sys!(SYS_kill, me, SIGUSR1).unwrap();
        settle();
        write(w, b"late").unwrap();
    });
    assert_eq!(read_vec(r, 10).unwrap(), b"late");
    assert_eq!(seen(), 1);
    c.ok();
}

fn no_restart_is_eintr() {
    let (r, _w) = pipe();
    assert_eq!(interrupted(SIGUSR1, 0, || read_vec(r, 10)), Err(EINTR));
    assert_eq!(seen(), 1);
}

fn some_calls_never_restart() {
    let (r, _w) = pipe();
    let mut p = pollfd { fd: r, events: POLLIN, revents: 0 };
    assert_eq!(interrupted(SIGUSR1, SA_RESTART, || sys!(SYS_poll, &mut p, 1, 5000)), Err(EINTR));
    assert_eq!(interrupted(SIGUSR1, SA_RESTART, || sys!(SYS_pause)), Err(EINTR));
    let ep = sys!(SYS_epoll_create1, 0).unwrap();
    let mut ev: epoll_event = zero();
    assert_eq!(interrupted(SIGUSR1, SA_RESTART, || sys!(SYS_epoll_wait, ep, &mut ev, 1, 5000)), Err(EINTR));
    let mut left = ms(0);
    assert_eq!(interrupted(SIGUSR1, SA_RESTART, || sys!(SYS_nanosleep, &ms(5000), &mut left)), Err(EINTR));
    assert!(left.tv_sec == 4, "{} s left", left.tv_sec);
}

fn ignored_signals_do_not_interrupt() {
    let me = getpid();
    set_action(SIGUSR1, SIG_IGN).unwrap();
    let c = child(|| {
        settle();
        sys!(SYS_kill, me, SIGUSR1).unwrap();
        sys!(SYS_kill, me, SIGWINCH).unwrap();
    });
    let (took, r) = timed(|| sys!(SYS_nanosleep, &ms(120), 0));
    assert_eq!(r, Ok(0));
    assert!(took >= 119);
    c.wait();
}

fn stop_and_continue_do_not_interrupt_sleep() {
    let c = child(|| {
        let (took, r) = timed(|| sys!(SYS_nanosleep, &ms(150), 0));
        assert_eq!(r, Ok(0));
        assert!(took >= 149);
    });
    settle();
    c.kill(SIGSTOP);
    c.wait_for(WUNTRACED);
    c.kill(SIGCONT);
    c.ok();
}

/// si_code and address that the fault of `f` brings.
fn fault(sig: i32, f: impl FnOnce()) -> (i32, usize) {
    extern "C" fn report(_: i32, info: &SigInfo, _: usize) {
        let page = PLACE.load(SeqCst);
        atomic(page).store(info.code as u32, SeqCst);
        atomic(page + 4).store(info.fields[0], SeqCst);
        atomic(page + 8).store(info.fields[1], SeqCst);
        exit(50);
    }
    static PLACE: AtomicUsize = AtomicUsize::new(0);
    let page = shared(PAGE);
    PLACE.store(page, SeqCst);
    let status = fate(|| {
        on_signal(sig, 0, report);
        f();
    });
    assert_eq!(status, Status::Exit(50));
    let word = |i: usize| atomic(page + i).load(SeqCst);
    (word(0) as i32, word(4) as usize | (word(8) as usize) << 32)
}

fn segv_maperr_and_accerr() {
    assert_eq!(fault(SIGSEGV, || poke(0x10, 1)), (SEGV_MAPERR, 0x10));
    let page = anon(PAGE);
    sys!(SYS_mprotect, page, PAGE, PROT_READ).unwrap();
    assert_eq!(fault(SIGSEGV, || poke(page + 7, 1)), (SEGV_ACCERR, page + 7));
    sys!(SYS_mprotect, page, PAGE, PROT_NONE).unwrap();
    assert_eq!(fault(SIGSEGV, || ignore(peek(page + 9))), (SEGV_ACCERR, page + 9));
}

const SEGV_MAPERR: i32 = 1;
const SEGV_ACCERR: i32 = 2;
const SI_KERNEL: i32 = 0x80;

fn kernel_addresses_fault() {
    assert_eq!(fault(SIGSEGV, || ignore(peek(0xffff_ffff_8000_0000))), (SEGV_MAPERR, 0xffff_ffff_8000_0000));
    assert_eq!(fault(SIGSEGV, || ignore(peek(BAD))), (SI_KERNEL, 0));
    assert_eq!(fate(|| poke(0xffff_8880_0000_0000, 1)), Status::Signal(SIGSEGV));
}

fn executing_data_is_refused() {
    let page = anon(PAGE);
    poke(page, 0xc3);
    assert_eq!(fault(SIGSEGV, || ignore(crate::sys::call_function(page, 0, 0))), (SEGV_ACCERR, page));
    sys!(SYS_mprotect, page, PAGE, PROT_READ | PROT_EXEC).unwrap();
    crate::sys::call_function(page, 0, 0);
}

fn ill_fpe_trap_gp() {
    assert_eq!(fault(SIGILL, undefined_instruction).0, 2); // ILL_ILLOPN
    assert_eq!(fault(SIGFPE, divide_by_zero).0, 1); // FPE_INTDIV
    assert_eq!(fault(SIGTRAP, breakpoint).0, SI_KERNEL);
    assert_eq!(fault(SIGSEGV, privileged_instruction), (SI_KERNEL, 0));
}

fn fault_with_signal_blocked_or_ignored_kills() {
    assert_eq!(
        fate(|| {
            on_signal(SIGSEGV, 0, count);
            sigmask(SIG_BLOCK, &[SIGSEGV]);
            poke(8, 1);
        }),
        Status::Signal(SIGSEGV)
    );
    assert_eq!(
        fate(|| {
            set_action(SIGFPE, SIG_IGN).unwrap();
            divide_by_zero();
        }),
        Status::Signal(SIGFPE)
    );
}

fn bus_error_beyond_the_file() {
    let fd = new_file("f");
    sys!(SYS_ftruncate, fd, 100).unwrap();
    let a = map(2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd).unwrap();
    assert_eq!(peek(a + 200), 0);
    assert_eq!(fault(SIGBUS, || ignore(peek(a + PAGE + 5))), (2, a + PAGE + 5)); // BUS_ADRERR
}

fn handler_can_repair_and_return() {
    static PLACE: AtomicUsize = AtomicUsize::new(0);
    extern "C" fn repair(_: i32, info: &SigInfo, _: usize) {
        assert_eq!(info.addr(), PLACE.load(SeqCst));
        sys!(SYS_mprotect, info.addr() & !0xfff, PAGE, PROT_READ | PROT_WRITE).unwrap();
        SEEN.fetch_add(1, SeqCst);
    }
    let page = map(PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1).unwrap();
    PLACE.store(page + 3, SeqCst);
    on_signal(SIGSEGV, 0, repair);
    poke(page + 3, 8);
    assert_eq!((peek(page + 3), seen()), (8, 1));
}

fn alternate_stack() {
    static SP: AtomicUsize = AtomicUsize::new(0);
    extern "C" fn where_am_i(_: i32, _: &SigInfo, _: usize) {
        let here = 0u8;
        SP.store(std::ptr::from_ref(&here) as usize, SeqCst);
        let mut now: stack_t = zero();
        sys!(SYS_sigaltstack, 0, &mut now).unwrap();
        assert_eq!(now.ss_flags, SS_ONSTACK);
        assert_eq!(sys!(SYS_sigaltstack, &now, 0), Err(EPERM));
    }
    let stack = anon(16 * PAGE);
    let mut ss: stack_t = zero();
    assert_eq!(sys!(SYS_sigaltstack, 0, &mut ss), Ok(0));
    ss = stack_t { ss_sp: stack as *mut c_void, ss_flags: 0, ss_size: 100 };
    assert_eq!(sys!(SYS_sigaltstack, &ss, 0), Err(ENOMEM));
    ss.ss_size = 16 * PAGE;
    ss.ss_flags = 99;
    assert_eq!(sys!(SYS_sigaltstack, &ss, 0), Err(EINVAL));
    ss.ss_flags = 0;
    sys!(SYS_sigaltstack, &ss, 0).unwrap();
    on_signal(SIGUSR1, 0, where_am_i_not);
    raise(SIGUSR1);
    on_signal(SIGUSR1, SA_ONSTACK, where_am_i);
    raise(SIGUSR1);
    assert!((stack..stack + 16 * PAGE).contains(&SP.load(SeqCst)));
    extern "C" fn where_am_i_not(_: i32, _: &SigInfo, _: usize) {
        let mut now: stack_t = zero();
        sys!(SYS_sigaltstack, 0, &mut now).unwrap();
        assert_eq!(now.ss_flags, 0);
    }
}

fn stack_overflow_on_the_alternate_stack() {
    fn recurse(n: usize) -> usize {
        let pad = std::hint::black_box([n as u8; 4096]);
        if n == usize::MAX { 0 } else { recurse(n + 1) + pad[7] as usize }
    }
    extern "C" fn overflowed(_: i32, _: &SigInfo, _: usize) {
        exit(60);
    }
    let status = fate(|| {
        let stack = anon(16 * PAGE);
        let ss = stack_t { ss_sp: stack as *mut c_void, ss_flags: 0, ss_size: 16 * PAGE };
        sys!(SYS_sigaltstack, &ss, 0).unwrap();
        on_signal(SIGSEGV, SA_ONSTACK, overflowed);
        recurse(0);
    });
    assert_eq!(status, Status::Exit(60));
    let status = fate(|| {
        set_action(SIGSEGV, SIG_DFL).unwrap();
        recurse(0);
    });
    assert_eq!(status, Status::Signal(SIGSEGV));
}

fn mask_comes_back_after_handler() {
    sigmask(SIG_SETMASK, &[SIGUSR2, SIGHUP]);
    on_signal_masking(SIGUSR1, 0, &[SIGTERM, SIGINT], count);
    raise(SIGUSR1);
    assert_eq!(sigmask(SIG_BLOCK, &[]), mask_of(&[SIGUSR2, SIGHUP]));
}

fn handler_with_floats_keeps_the_interrupted_state() {
    extern "C" fn floats(_: i32, _: &SigInfo, _: usize) {
        let x = std::hint::black_box(3.25f64).sqrt() * std::hint::black_box(7.0);
        SEEN.fetch_add(usize::from(x > 0.0), SeqCst);
    }
    on_signal(SIGUSR1, 0, floats);
    let mut x = std::hint::black_box(1.25f64);
    for _ in 0..50 {
        x = std::hint::black_box(x * 2.0);
        raise(SIGUSR1);
        x = std::hint::black_box(x / 2.0);
    }
    assert_eq!((x, seen()), (1.25, 50));
}

/// The frame shows a vector register as it was, and what the handler writes there is what goes on; also when the frame's
/// memory was never touched before.
fn frames_hold_vector_registers() {
    const FPREGS: usize = 224; // in ucontext_t
    const XMM7: usize = 160 + 7 * 16;
    const SOFTWARE: usize = 464;
    const FP_XSTATE_MAGIC1: u64 = 0x4650_5853;
    extern "C" fn change(_: i32, _: &SigInfo, context: usize) {
        let regs = peek64(context + FPREGS) as usize;
        let seen = peek64(regs + XMM7);
        assert!(seen == 7 || seen == 8, "{seen}");
        if peek64(regs + SOFTWARE) & 0xffff_ffff == FP_XSTATE_MAGIC1 {
            // x87 and SSE always count.
            assert_eq!(peek64(regs + 512) & 3, 3);
        }
        poke(regs + XMM7, seen as u8 + 100);
        SEEN.fetch_add(1, SeqCst);
    }
    on_signal(SIGUSR1, SA_ONSTACK, change);
    for value in [7, 8] {
        let stack = anon(16 * PAGE);
        let ss = stack_t { ss_sp: stack as *mut c_void, ss_flags: 0, ss_size: 16 * PAGE };
        sys!(SYS_sigaltstack, &ss, 0).unwrap();
        for _ in 0..3 {
            assert_eq!(xmm_across_tgkill(value, getpid(), gettid(), SIGUSR1), value + 100);
        }
    }
    assert_eq!(seen(), 6);
}

fn bad_return_frame_kills() {
    // rt_sigreturn with a stack that is no frame.
    let status = fate(|| {
        let _ = sys!(SYS_rt_sigreturn);
    });
    assert_eq!(status, Status::Signal(SIGSEGV));
}

fn sigpipe_from_a_broken_pipe() {
    let (r, w) = pipe();
    close(r);
    assert_eq!(fate(|| ignore(write(w, b"x"))), Status::Signal(SIGPIPE));
}
