//! Sessions, process groups and the controlling terminal.

use crate::prelude::*;
use crate::tty::{change, openpty, slave_path};

tests!(
    "jobs":
    setsid_rules, setpgid_rules, setpgid_after_exec_is_eacces, controlling_terminal,
    open_takes_a_controlling_terminal, another_session_cannot_take_it,
    interrupt_keys_reach_the_foreground_group, suspend_key_stops_and_shell_continues,
    interrupt_flushes_typed_text, interrupt_key_is_echoed_whole, noflsh_and_no_isig, background_read_stops,
    background_write_stops_only_with_tostop, background_tcsetpgrp_stops, leader_exit_hangs_up_the_foreground,
    master_close_hangs_up_the_session, window_change_signals_the_foreground, notty_gives_the_terminal_up,
    newly_orphaned_stopped_group_gets_hup,
);

/// Runs `f(slave)` as leader of a new session that has the slave as its terminal; the parent gets
/// (child, master).
fn session(f: impl FnOnce(i32)) -> (Child, i32) {
    let (m, s) = openpty();
    let c = child(|| {
        sys!(SYS_setsid).unwrap();
        sys!(SYS_ioctl, s, TIOCSCTTY, 0).unwrap();
        close(m);
        f(s);
    });
    close(s);
    (c, m)
}

fn pgrp_of(fd: i32) -> Result<i32, Errno> {
    let mut p = 0i32;
    sys!(SYS_ioctl, fd, TIOCGPGRP, &mut p).map(|_| p)
}

fn wait_for_text(m: i32, want: &str) {
    let mut all = Vec::new();
    while !String::from_utf8_lossy(&all).contains(want) {
        all.extend(read_vec(m, 500).unwrap());
    }
}

fn setsid_rules() {
    aside(|| {
        let sid = sys!(SYS_setsid).unwrap() as i32;
        assert_eq!(
            (sid, sys!(SYS_getsid, 0), sys!(SYS_getpgid, 0)),
            (getpid(), Ok(sid as usize), Ok(sid as usize))
        );
        assert_eq!(sys!(SYS_setsid), Err(EPERM), "a group leader cannot");
        assert_eq!(sys!(SYS_setpgid, 0, 0), Err(EPERM), "nor can a session leader change groups");
        assert_eq!(sys!(SYS_getsid, 0x3fff_fff0), Err(ESRCH));
    });
}

fn setpgid_rules() {
    assert_eq!(sys!(SYS_setpgid, 0, -1), Err(EINVAL));
    assert_eq!(sys!(SYS_setpgid, 1, 0), Err(ESRCH), "not our child");
    assert_eq!(sys!(SYS_setpgid, 0, 0x3fff_fff0), Err(EPERM), "no such group");
    let c = child(|| nap(20_000));
    assert_eq!(sys!(SYS_setpgid, c.0, c.0), Ok(0));
    assert_eq!(sys!(SYS_getpgid, c.0), Ok(c.0 as usize));
    assert_eq!(sys!(SYS_setpgid, c.0, getpid()), Ok(0));
    c.kill(SIGKILL);
    c.wait();
    let other = child(|| {
        sys!(SYS_setsid).unwrap();
        nap(20_000);
    });
    while sys!(SYS_getsid, other.0) != Ok(other.0 as usize) {
        nap(2);
    }
    assert_eq!(sys!(SYS_setpgid, other.0, 0), Err(EPERM), "another session");
    other.kill(SIGKILL);
    other.wait();
}

fn setpgid_after_exec_is_eacces() {
    let (r, w) = pipe_with(O_CLOEXEC);
    let c = child(|| {
        let words = [c"sh".as_ptr() as usize, c"__helper".as_ptr() as usize, c"pause".as_ptr() as usize, 0];
        let _ = sys!(SYS_execve, c"/proc/self/exe", &words, &[0usize]);
    });
    close(w);
    assert_eq!(read_vec(r, 1).unwrap(), b"", "closed by the exec");
    assert_eq!(sys!(SYS_setpgid, c.0, c.0), Err(EACCES));
    c.kill(SIGKILL);
    c.wait();
}

fn controlling_terminal() {
    let (c, _m) = session(|s| {
        assert_eq!(pgrp_of(s), Ok(getpid()));
        let mut sid = 0i32;
        sys!(SYS_ioctl, s, TIOCGSID, &mut sid).unwrap();
        assert_eq!(sid, getpid());
        let tty = open(&cstr("/dev/tty"), O_RDWR).unwrap();
        assert_eq!(write(tty, b"x"), Ok(1));
        let stat = slurp("/proc/self/stat");
        let tty_nr: u64 = stat.rsplit_once(") ").unwrap().1.split(' ').nth(4).unwrap().parse().unwrap();
        assert_eq!(tty_nr, fstat(s).st_rdev);
    });
    c.ok();
}

fn open_takes_a_controlling_terminal() {
    let (m, s) = openpty();
    let name = slave_path(m);
    let c = child(|| {
        close(s);
        sys!(SYS_setsid).unwrap();
        open(&name, O_RDWR).unwrap();
        assert!(open(&cstr("/dev/tty"), O_RDWR).is_ok());
    });
    c.ok();
}

fn another_session_cannot_take_it() {
    let (c, _m) = session(|s| {
        aside(|| {
            sys!(SYS_setsid).unwrap();
            assert_eq!(pgrp_of(s), Err(ENOTTY));
            drop_root();
            assert_eq!(sys!(SYS_ioctl, s, TIOCSCTTY, 0), Err(EPERM));
        });
        aside(|| assert_eq!(sys!(SYS_ioctl, s, TIOCSCTTY, 0), Err(EPERM), "only session leaders"));
    });
    c.ok();
}

fn interrupt_keys_reach_the_foreground_group() {
    for (key, sig) in [(3u8, SIGINT), (28, SIGQUIT)] {
        let (c, m) = session(|s| {
            write(s, b"ready").unwrap();
            nap(20_000);
        });
        wait_for_text(m, "ready");
        write(m, &[key]).unwrap();
        assert_eq!(c.wait(), Status::Signal(sig));
    }
}

fn suspend_key_stops_and_shell_continues() {
    // The session leader plays the shell: a job in its own group, stopped by Ctrl-Z, continued.
    let (c, m) = session(|s| {
        set_action(SIGTTOU, SIG_IGN).unwrap();
        let job = child(|| {
            sys!(SYS_setpgid, 0, 0).unwrap();
            sys!(SYS_ioctl, s, TIOCSPGRP, &getpid()).unwrap();
            write(s, b"ready").unwrap();
            nap(200);
        });
        assert_eq!(job.wait_for(WUNTRACED), Some(Status::Stopped(SIGTSTP)));
        sys!(SYS_ioctl, s, TIOCSPGRP, &getpid()).unwrap();
        assert_eq!(pgrp_of(s), Ok(getpid()));
        sys!(SYS_kill, -job.0, SIGCONT).unwrap();
        assert_eq!(job.wait_for(WCONTINUED), Some(Status::Continued));
        job.ok();
    });
    wait_for_text(m, "ready");
    write(m, &[26]).unwrap();
    c.ok();
}

fn interrupt_flushes_typed_text() {
    let (c, m) = session(|s| {
        on_signal(SIGINT, 0, count);
        change(s, |t| t.lflag &= !ECHO);
        write(s, b"ready").unwrap();
        assert_eq!(read_vec(s, 100), Err(EINTR));
        assert_eq!(seen(), 1);
        write(s, b"again").unwrap();
        assert_eq!(read_vec(s, 100).unwrap(), b"new\n");
    });
    wait_for_text(m, "ready");
    wait_state(c.0, "S"); // in its read, or the signal would come too early to interrupt it
    settle();
    write(m, b"old text\x03").unwrap();
    wait_for_text(m, "again");
    write(m, b"new\n").unwrap();
    c.ok();
}

fn interrupt_key_is_echoed_whole() {
    // Before the key there is as much echo as makes its own go out in two pieces where a piece has a power of two.
    let (m, _s) = openpty();
    write(m, &[[b'a'; 255].as_slice(), b"\x03"].concat()).unwrap();
    wait_for_text(m, "^C");
}

fn noflsh_and_no_isig() {
    let (c, m) = session(|s| {
        on_signal(SIGINT, SA_RESTART, count);
        change(s, |t| t.lflag = t.lflag & !ECHO | NOFLSH);
        write(s, b"ready").unwrap();
        assert_eq!(read_vec(s, 100).unwrap(), b"kept\n");
        assert_eq!(seen(), 1);
        change(s, |t| t.lflag &= !ISIG);
        write(s, b"again").unwrap();
        assert_eq!(read_vec(s, 100).unwrap(), b"\x03\n");
    });
    wait_for_text(m, "ready");
    write(m, b"kept\x03\n").unwrap();
    wait_for_text(m, "again");
    write(m, b"\x03\n").unwrap();
    c.ok();
}

fn background_read_stops() {
    let (c, m) = session(|s| {
        let job = child(|| {
            sys!(SYS_setpgid, 0, 0).unwrap();
            ignore(read_vec(s, 1));
        });
        assert_eq!(job.wait_for(WUNTRACED), Some(Status::Stopped(SIGTTIN)));
        job.kill(SIGKILL);
        job.wait();
        aside(|| {
            sys!(SYS_setpgid, 0, 0).unwrap();
            set_action(SIGTTIN, SIG_IGN).unwrap();
            assert_eq!(read_vec(s, 1), Err(EIO));
        });
    });
    c.ok();
    let _ = m;
}

fn background_write_stops_only_with_tostop() {
    let (c, _m) = session(|s| {
        let run = || {
            let job = child(|| {
                sys!(SYS_setpgid, 0, 0).unwrap();
                write(s, b"x").unwrap();
            });
            let end = job.wait_for(WUNTRACED).unwrap();
            if end != Status::Exit(0) {
                job.kill(SIGKILL);
                job.wait();
            }
            end
        };
        assert_eq!(run(), Status::Exit(0));
        change(s, |t| t.lflag |= TOSTOP);
        assert_eq!(run(), Status::Stopped(SIGTTOU));
    });
    c.ok();
}

fn background_tcsetpgrp_stops() {
    let (c, _m) = session(|s| {
        let job = child(|| {
            sys!(SYS_setpgid, 0, 0).unwrap();
            let _ = sys!(SYS_ioctl, s, TIOCSPGRP, &getpid());
        });
        assert_eq!(job.wait_for(WUNTRACED), Some(Status::Stopped(SIGTTOU)));
        job.kill(SIGKILL);
        job.wait();
        assert_eq!(sys!(SYS_ioctl, s, TIOCSPGRP, &-5i32), Err(EINVAL));
        assert_eq!(sys!(SYS_ioctl, s, TIOCSPGRP, &0x3fff_fff0i32), Err(ESRCH));
        assert_eq!(sys!(SYS_ioctl, s, TIOCSPGRP, &1i32), Err(EPERM), "a group of another session");
    });
    c.ok();
}

fn leader_exit_hangs_up_the_foreground() {
    let (r, w) = pipe();
    let (c, _m) = session(|s| {
        let job = child(|| {
            on_signal(SIGHUP, 0, count);
            on_signal(SIGCONT, 0, count);
            // Open only while it waits: none comes between the look and the wait.
            sigmask(SIG_BLOCK, &[SIGHUP, SIGCONT]);
            write(w, b"ready").unwrap();
            while seen() == 0 {
                assert_eq!(sys!(SYS_rt_sigsuspend, &[0u64], 8), Err(EINTR));
            }
            // A pseudo-terminal itself lives on; it is just nobody's terminal any more.
            while open(&cstr("/dev/tty"), O_RDWR) != Err(ENXIO) {
                nap(2);
            }
            assert_eq!(write(s, b"x"), Ok(1));
            write(w, b"hung up").unwrap();
        });
        read_vec(r, 5).unwrap();
        let _ = job;
    });
    c.ok();
    assert_eq!(read_vec(r, 10).unwrap(), b"hung up");
}

fn master_close_hangs_up_the_session() {
    let (c, m) = session(|s| {
        write(s, b"ready").unwrap();
        nap(20_000);
    });
    wait_for_text(m, "ready");
    close(m);
    assert_eq!(c.wait(), Status::Signal(SIGHUP));
}

fn window_change_signals_the_foreground() {
    let (c, m) = session(|s| {
        on_signal(SIGWINCH, 0, count);
        write(s, b"ready").unwrap();
        while seen() == 0 {
            let _ = sys!(SYS_nanosleep, &ms(1000), 0);
        }
        let mut w: winsize = zero();
        sys!(SYS_ioctl, s, TIOCGWINSZ, &mut w).unwrap();
        assert_eq!(w.ws_col, 132);
    });
    wait_for_text(m, "ready");
    let w = winsize { ws_row: 40, ws_col: 132, ws_xpixel: 0, ws_ypixel: 0 };
    sys!(SYS_ioctl, m, TIOCSWINSZ, &w).unwrap();
    c.ok();
}

fn notty_gives_the_terminal_up() {
    let (c, _m) = session(|s| {
        set_action(SIGHUP, SIG_IGN).unwrap();
        sys!(SYS_ioctl, s, TIOCNOTTY, 0).unwrap();
        assert_eq!(open(&cstr("/dev/tty"), O_RDWR), Err(ENXIO));
        assert_eq!(pgrp_of(s), Err(ENOTTY));
    });
    c.ok();
}

fn newly_orphaned_stopped_group_gets_hup() {
    let (r, w) = pipe();
    let parent = child(|| {
        sys!(SYS_setpgid, 0, 0).unwrap();
        let job = child(|| {
            sys!(SYS_setpgid, 0, 0).unwrap();
            on_signal(SIGHUP, 0, count);
            let pid = getpid();
            write(w, b"r").unwrap();
            sys!(SYS_kill, pid, SIGSTOP).unwrap();
            assert_eq!(seen(), 1);
            write(w, b"hup").unwrap();
        });
        read_vec(r, 1).unwrap();
        assert_eq!(job.wait_for(WUNTRACED), Some(Status::Stopped(SIGSTOP)));
    });
    parent.ok();
    close(w);
    assert_eq!(read_vec(r, 10).unwrap(), b"hup");
}
