//! wait4(2), waitid(2), zombies and stopped children.

use crate::prelude::*;

tests!(
    "wait":
    no_children_is_echild, bad_arguments, wnohang_finds_nothing_then_something, killed_by_signal,
    stop_and_continue_are_reported, stopped_child_is_invisible_without_wuntraced, by_process_group,
    waitid_fills_siginfo, waitid_wnowait_leaves_the_zombie, waitid_wnohang_clears_siginfo,
    waitid_stop_and_continue, waitid_by_pidfd, pidfd_becomes_readable_and_sends_signals,
    sigchld_tells_who_and_how, nocldstop_hides_stops, stops_send_sigchld, ignored_sigchld_reaps_by_itself,
    nocldwait_reaps_by_itself, zombie_exists_until_reaped, rusage_of_children_accumulates,
    wall_of_signals_while_waiting, thread_may_wait_for_a_sibling_threads_child,
);

fn no_children_is_echild() {
    assert_eq!(sys!(SYS_wait4, -1, 0, 0, 0), Err(ECHILD));
    assert_eq!(sys!(SYS_wait4, -1, 0, WNOHANG, 0), Err(ECHILD));
    assert_eq!(sys!(SYS_wait4, 1, 0, 0, 0), Err(ECHILD));
    assert_eq!(sys!(SYS_waitid, P_ALL, 0, 0, WEXITED, 0), Err(ECHILD));
}

fn bad_arguments() {
    assert_eq!(sys!(SYS_wait4, -1, 0, 0x1000_0000, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_waitid, P_ALL, 0, 0, 0, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_waitid, 99, 0, 0, WEXITED, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_waitid, P_PID, 0, 0, WEXITED, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_wait4, i32::MIN, 0, 0, 0), Err(ESRCH));
}

fn wnohang_finds_nothing_then_something() {
    let (r, w) = pipe();
    let c = child(|| ignore(read_vec(r, 1)));
    assert_eq!(c.wait_for(WNOHANG), None);
    write(w, b"x").unwrap();
    let status = loop {
        if let Some(s) = c.wait_for(WNOHANG) {
            break s;
        }
        nap(2);
    };
    assert_eq!(status, Status::Exit(0));
}

fn killed_by_signal() {
    for sig in [SIGTERM, SIGKILL, SIGUSR1, SIGHUP, SIGALRM] {
        let c = child(|| nap(10_000));
        c.kill(sig);
        assert_eq!(c.wait(), Status::Signal(sig));
    }
}

fn stop_and_continue_are_reported() {
    let c = child(|| nap(20_000));
    c.kill(SIGSTOP);
    assert_eq!(c.wait_for(WUNTRACED), Some(Status::Stopped(SIGSTOP)));
    assert_eq!(c.wait_for(WUNTRACED | WNOHANG), None);
    c.kill(SIGCONT);
    assert_eq!(c.wait_for(WCONTINUED), Some(Status::Continued));
    c.kill(SIGTERM);
    assert_eq!(c.wait(), Status::Signal(SIGTERM));
}

fn stopped_child_is_invisible_without_wuntraced() {
    let c = child(|| nap(20_000));
    c.kill(SIGSTOP);
    settle();
    assert_eq!(c.wait_for(WNOHANG), None);
    c.kill(SIGKILL);
    assert_eq!(c.wait(), Status::Signal(SIGKILL));
}

fn by_process_group() {
    let a = child_code(|| {
        sys!(SYS_setpgid, 0, 0).unwrap();
        5
    });
    let _ = sys!(SYS_setpgid, a.0, a.0);
    let b = child_code(|| 6);
    assert_eq!(Child(-a.0).wait(), Status::Exit(5));
    assert_eq!(sys!(SYS_wait4, -a.0, 0, 0, 0), Err(ECHILD));
    assert_eq!(Child(0).wait(), Status::Exit(6));
    let _ = b;
}

fn waitid_fills_siginfo() {
    let c = child_code(|| 7);
    let mut info: SigInfo = zeroed_info();
    sys!(SYS_waitid, P_PID, c.0, &mut info, WEXITED, 0).unwrap();
    assert_eq!((info.signo, info.code, info.pid(), info.status()), (SIGCHLD, CLD_EXITED, c.0, 7));
    assert_eq!(info.uid(), 0);
    let c = child(|| nap(10_000));
    c.kill(SIGKILL);
    sys!(SYS_waitid, P_ALL, 0, &mut info, WEXITED, 0).unwrap();
    assert_eq!((info.code, info.pid(), info.status()), (CLD_KILLED, c.0, SIGKILL));
}

fn zeroed_info() -> SigInfo {
    zero()
}

fn waitid_wnowait_leaves_the_zombie() {
    let c = child_code(|| 3);
    let mut info = zeroed_info();
    for _ in 0..3 {
        sys!(SYS_waitid, P_PID, c.0, &mut info, WEXITED | WNOWAIT, 0).unwrap();
        assert_eq!(info.status(), 3);
    }
    assert_eq!(c.wait(), Status::Exit(3));
    assert_eq!(sys!(SYS_waitid, P_PID, c.0, &mut info, WEXITED, 0), Err(ECHILD));
}

fn waitid_wnohang_clears_siginfo() {
    let c = child(|| nap(20_000));
    let mut info = zeroed_info();
    info.signo = 55;
    info.fields[0] = 55;
    assert_eq!(sys!(SYS_waitid, P_PID, c.0, &mut info, WEXITED | WNOHANG, 0), Ok(0));
    assert_eq!((info.signo, info.pid()), (0, 0));
    c.kill(SIGKILL);
    c.wait();
}

fn waitid_stop_and_continue() {
    let c = child(|| nap(20_000));
    let mut info = zeroed_info();
    c.kill(SIGSTOP);
    sys!(SYS_waitid, P_PID, c.0, &mut info, WSTOPPED, 0).unwrap();
    assert_eq!((info.code, info.status()), (CLD_STOPPED, SIGSTOP));
    c.kill(SIGCONT);
    sys!(SYS_waitid, P_PID, c.0, &mut info, WCONTINUED, 0).unwrap();
    assert_eq!((info.code, info.status()), (CLD_CONTINUED, SIGCONT));
    c.kill(SIGKILL);
    c.wait();
}

fn waitid_by_pidfd() {
    let c = child_code(|| 8);
    let fd = sys!(SYS_pidfd_open, c.0, 0).unwrap();
    let mut info = zeroed_info();
    sys!(SYS_waitid, P_PIDFD, fd, &mut info, WEXITED, 0).unwrap();
    assert_eq!(info.status(), 8);
    assert_eq!(sys!(SYS_waitid, P_PIDFD, 999, &mut info, WEXITED, 0), Err(EBADF));
}

fn pidfd_becomes_readable_and_sends_signals() {
    let c = child(|| nap(20_000));
    let fd = sys!(SYS_pidfd_open, c.0, 0).unwrap() as i32;
    assert_eq!(poll1(fd, POLLIN, 0), 0);
    sys!(SYS_pidfd_send_signal, fd, SIGTERM, 0, 0).unwrap();
    assert_eq!(poll1(fd, POLLIN, 5000), POLLIN);
    assert_eq!(c.wait(), Status::Signal(SIGTERM));
    assert_eq!(sys!(SYS_pidfd_send_signal, fd, 0, 0, 0), Err(ESRCH));
    assert_eq!(sys!(SYS_pidfd_open, c.0, 0), Err(ESRCH));
    assert_eq!(sys!(SYS_pidfd_open, -1, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_pidfd_open, getpid(), 0x40), Err(EINVAL));
}

fn sigchld_tells_who_and_how() {
    on_signal(SIGCHLD, 0, count);
    let c = child_code(|| 21);
    c.wait();
    assert_eq!((seen(), LAST_PID.load(SeqCst)), (1, c.0));
    assert_eq!((LAST_CODE.load(SeqCst), LAST_VALUE.load(SeqCst)), (CLD_EXITED, 21));
}

fn nocldstop_hides_stops() {
    on_signal(SIGCHLD, SA_NOCLDSTOP, count);
    let c = child(|| nap(20_000));
    c.kill(SIGSTOP);
    c.wait_for(WUNTRACED);
    assert_eq!(seen(), 0);
    c.kill(SIGKILL);
    c.wait();
    assert_eq!(seen(), 1);
}

fn stops_send_sigchld() {
    on_signal(SIGCHLD, 0, count);
    let c = child(|| nap(20_000));
    c.kill(SIGSTOP);
    c.wait_for(WUNTRACED);
    assert_eq!((seen(), LAST_CODE.load(SeqCst)), (1, CLD_STOPPED));
    c.kill(SIGCONT);
    c.wait_for(WCONTINUED);
    // wait4 may report it before the child itself has run on and sent the signal.
    while seen() < 2 {
        nap(2);
    }
    assert_eq!(LAST_CODE.load(SeqCst), CLD_CONTINUED);
    c.kill(SIGKILL);
    c.wait();
}

fn ignored_sigchld_reaps_by_itself() {
    set_action(SIGCHLD, SIG_IGN).unwrap();
    let c = child(|| nap(30));
    assert_eq!(sys!(SYS_wait4, c.0, 0, 0, 0), Err(ECHILD));
    // The dying process may still be on its way out on another CPU.
    while sys!(SYS_kill, c.0, 0) != Err(ESRCH) {
        nap(1);
    }
}

fn nocldwait_reaps_by_itself() {
    on_signal(SIGCHLD, SA_NOCLDWAIT, count);
    let c = child(|| nap(30));
    let end = loop {
        match sys!(SYS_wait4, c.0, 0, 0, 0) {
            Err(EINTR) => {}
            other => break other,
        }
    };
    assert_eq!(end, Err(ECHILD));
    assert_eq!(seen(), 1);
}

fn zombie_exists_until_reaped() {
    let c = child(|| {});
    wait_state(c.0, "Z");
    assert_eq!(sys!(SYS_kill, c.0, 0), Ok(0));
    assert_eq!(sys!(SYS_kill, c.0, SIGKILL), Ok(0));
    c.ok();
    assert_eq!(sys!(SYS_kill, c.0, 0), Err(ESRCH));
}

fn rusage_of_children_accumulates() {
    let c = child(|| {
        let start = now_ms();
        while now_ms() - start < 150 {}
    });
    let mut ru: rusage = zero();
    let mut status = 0;
    sys!(SYS_wait4, c.0, &mut status, 0, &mut ru).unwrap();
    let used = |t: timeval| t.tv_sec * 1000 + t.tv_usec / 1000;
    assert!(used(ru.ru_utime) + used(ru.ru_stime) >= 20);
    let mut all: rusage = zero();
    sys!(SYS_getrusage, RUSAGE_CHILDREN, &mut all).unwrap();
    assert!(used(all.ru_utime) + used(all.ru_stime) >= 20);
    assert!(all.ru_maxrss > 0 && all.ru_minflt > 0);
}

fn wall_of_signals_while_waiting() {
    on_signal(SIGUSR1, 0, count);
    let me = getpid();
    let c = child(|| {
        settle();
        sys!(SYS_kill, me, SIGUSR1).unwrap();
        nap(60);
    });
    assert_eq!(sys!(SYS_wait4, c.0, 0, 0, 0), Err(EINTR));
    c.ok();
    on_signal(SIGUSR1, SA_RESTART, count);
    let c = child(|| {
        settle();
        sys!(SYS_kill, me, SIGUSR1).unwrap();
        nap(60);
    });
    assert_eq!(sys!(SYS_wait4, c.0, 0, 0, 0), Ok(c.0 as usize));
    assert_eq!(seen(), 2);
}

fn thread_may_wait_for_a_sibling_threads_child() {
    let c = std::thread::spawn(|| child_code(|| 4).0).join().unwrap();
    assert_eq!(Child(c).wait(), Status::Exit(4));
    let c = std::thread::spawn(|| {
        let c = child_code(|| {
            nap(50);
            4
        });
        assert_eq!(sys!(SYS_wait4, c.0, 0, WNOHANG | __WNOTHREAD, 0), Ok(0));
        c.0
    })
    .join()
    .unwrap();
    assert_eq!(Child(c).wait(), Status::Exit(4));
}
