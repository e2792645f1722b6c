//! clone(2) and clone3(2): flags, what they share, what they refuse.

use crate::prelude::*;
use crate::sys::clone_with;

tests!(
    "clone":
    clone3_like_fork, clone3_refusals, clone3_bigger_structure, clone3_pidfd, clone3_set_tid_wants_free_pids,
    vm_is_shared, files_are_shared, fs_is_shared, parent_settid_and_child_cleartid,
    child_without_exit_signal_needs_wclone, exit_signal_is_delivered,
    an_orphan_tells_its_reaper_by_sigchld, a_program_gets_no_other_exit_signal_than_sigchld, clone_parent_makes_a_sibling,
    bad_flags_for_clone, clear_sighand, unshare_files,
);

fn clone3(flags: i32, exit_signal: i32) -> Result<usize, Errno> {
    let mut args: clone_args = zero();
    args.flags = flags as u64;
    args.exit_signal = exit_signal as u64;
    let r = sys!(SYS_clone3, &args, size_of::<clone_args>());
    if r == Ok(0) {
        exit(0);
    }
    r
}

fn clone3_like_fork() {
    let pid = clone3(0, SIGCHLD).unwrap();
    Child(pid as i32).ok();
}

fn clone3_refusals() {
    let args: clone_args = zero();
    assert_eq!(sys!(SYS_clone3, &args, 8), Err(EINVAL));
    assert_eq!(sys!(SYS_clone3, &args, PAGE + 1), Err(E2BIG));
    assert_eq!(sys!(SYS_clone3, 0, 64), Err(EFAULT));
    assert_eq!(clone3(CLONE_THREAD, 0), Err(EINVAL));
    assert_eq!(clone3(CLONE_SIGHAND, SIGCHLD), Err(EINVAL));
    assert_eq!(clone3(CLONE_THREAD | CLONE_SIGHAND, 0), Err(EINVAL));
    assert_eq!(clone3(CLONE_FS | CLONE_NEWNS, SIGCHLD), Err(EINVAL));
    assert_eq!(clone3(0x40, SIGCHLD), Err(EINVAL));
    assert_eq!(clone3(0, 65), Err(EINVAL));
    assert_eq!(clone3(CLONE_PARENT, SIGCHLD), Err(EINVAL));
}

fn clone3_bigger_structure() {
    let mut big = [0u64; 32];
    big[4] = SIGCHLD as u64;
    match sys!(SYS_clone3, &big, 256).unwrap() {
        0 => exit(0),
        pid => Child(pid as i32).ok(),
    }
    big[20] = 1;
    assert_eq!(sys!(SYS_clone3, &big, 256), Err(E2BIG));
}

fn clone3_pidfd() {
    let mut fd = -1i32;
    let mut args: clone_args = zero();
    args.flags = CLONE_PIDFD as u64;
    args.exit_signal = SIGCHLD as u64;
    args.pidfd = std::ptr::from_mut(&mut fd) as u64;
    let pid = sys!(SYS_clone3, &args, size_of::<clone_args>()).unwrap();
    if pid == 0 {
        exit(6);
    }
    assert_eq!(poll1(fd, POLLIN, 5000), POLLIN);
    assert_eq!(sys!(SYS_fcntl, fd, F_GETFD), Ok(FD_CLOEXEC as usize));
    assert_eq!(Child(pid as i32).wait(), Status::Exit(6));
}

fn clone3_set_tid_wants_free_pids() {
    let c = child(|| nap(20_000));
    let mut tid = c.0;
    let mut args: clone_args = zero();
    args.exit_signal = SIGCHLD as u64;
    args.set_tid = std::ptr::from_mut(&mut tid) as u64;
    args.set_tid_size = 1;
    assert_eq!(sys!(SYS_clone3, &args, size_of::<clone_args>()), Err(EEXIST));
    args.set_tid_size = 99;
    assert_eq!(sys!(SYS_clone3, &args, size_of::<clone_args>()), Err(EINVAL));
    c.kill(SIGKILL);
    c.wait();
}

extern "C" fn set_word(arg: *mut c_void) -> c_int {
    atomic(arg as usize).fetch_add(5, SeqCst);
    3
}

extern "C" fn close_fd(arg: *mut c_void) -> c_int {
    let fd = atomic(arg as usize).load(SeqCst);
    i32::from(sys!(SYS_close, fd).is_err())
}

extern "C" fn go_to_root(_: *mut c_void) -> c_int {
    i32::from(sys!(SYS_chdir, c"/").is_err())
}

extern "C" fn quick(_: *mut c_void) -> c_int {
    nap(30);
    0
}

fn run(flags: i32, f: extern "C" fn(*mut c_void) -> c_int, arg: usize) -> (i32, Status) {
    let stack = anon(16 * PAGE);
    let mut tid = 0;
    let pid = clone_with(flags | SIGCHLD, stack + 16 * PAGE, f, arg, &mut tid).unwrap();
    (tid, Child(pid).wait())
}

fn vm_is_shared() {
    let word = anon(PAGE);
    assert_eq!(run(CLONE_VM, set_word, word).1, Status::Exit(3));
    assert_eq!(atomic(word).load(SeqCst), 5);
    assert_eq!(run(0, set_word, word).1, Status::Exit(3));
    assert_eq!(atomic(word).load(SeqCst), 5);
}

fn files_are_shared() {
    let (r, _w) = pipe();
    let word = shared(PAGE);
    atomic(word).store(r as u32, SeqCst);
    assert_eq!(run(0, close_fd, word).1, Status::Exit(0));
    assert!(sys!(SYS_fcntl, r, F_GETFD).is_ok());
    assert_eq!(run(CLONE_FILES, close_fd, word).1, Status::Exit(0));
    assert_eq!(sys!(SYS_fcntl, r, F_GETFD), Err(EBADF));
}

fn fs_is_shared() {
    sys!(SYS_chdir, &mkdir("d")).unwrap();
    let mut buf = [0u8; 100];
    run(0, go_to_root, 0);
    assert_ne!(sys!(SYS_getcwd, &mut buf, 100), Ok(2));
    run(CLONE_FS, go_to_root, 0);
    assert_eq!(sys!(SYS_getcwd, &mut buf, 100), Ok(2));
}

fn parent_settid_and_child_cleartid() {
    let stack = anon(16 * PAGE);
    let mut tid = 0;
    let flags = CLONE_VM | CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID | SIGCHLD;
    let pid = clone_with(flags, stack + 16 * PAGE, quick, 0, &mut tid).unwrap();
    let word = atomic(std::ptr::from_mut(&mut tid) as usize);
    assert!(word.load(SeqCst) as i32 == pid || word.load(SeqCst) == 0);
    Child(pid).ok();
    assert_eq!(word.load(SeqCst), 0);
}

fn child_without_exit_signal_needs_wclone() {
    let stack = anon(16 * PAGE);
    let mut tid = 0;
    let pid = clone_with(CLONE_VM, stack + 16 * PAGE, quick, 0, &mut tid).unwrap();
    assert_eq!(sys!(SYS_wait4, pid, 0, WNOHANG, 0), Err(ECHILD));
    assert_eq!(sys!(SYS_wait4, pid, 0, __WALL, 0), Ok(pid as usize));
    let pid = clone_with(CLONE_VM, stack + 16 * PAGE, quick, 0, &mut tid).unwrap();
    assert_eq!(sys!(SYS_wait4, pid, 0, __WCLONE, 0), Ok(pid as usize));
}

fn exit_signal_is_delivered() {
    on_signal(SIGUSR1, 0, count);
    let stack = anon(16 * PAGE);
    let mut tid = 0;
    let pid = clone_with(CLONE_VM | SIGUSR1, stack + 16 * PAGE, quick, 0, &mut tid).unwrap();
    while sys!(SYS_wait4, pid, 0, __WALL, 0) == Err(EINTR) {}
    assert_eq!((seen(), LAST.load(SeqCst), LAST_PID.load(SeqCst)), (1, SIGUSR1, pid));
}

/// Nobody can choose a signal for the process that inherits his children.
fn an_orphan_tells_its_reaper_by_sigchld() {
    let c = child(|| {
        sys!(SYS_prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0).unwrap();
        sigmask(SIG_BLOCK, &[SIGUSR1, SIGCHLD]);
        let (r, w) = pipe();
        let parent = child(|| {
            if sys!(SYS_clone, SIGUSR1, 0, 0, 0, 0) == Ok(0) {
                close(w);
                let _ = read_vec(r, 1);
                exit(7);
            }
        });
        parent.ok();
        close(w);
        assert_eq!(Child(-1).wait_for(0), Some(Status::Exit(7)), "without __WCLONE");
        assert_eq!(pending() & mask_of(&[SIGUSR1, SIGCHLD]), mask_of(&[SIGCHLD]));
    });
    c.ok();
}

/// A signal that was asked for before execve(2) does not reach the new program.
fn a_program_gets_no_other_exit_signal_than_sigchld() {
    let me = crate::helper::me();
    let c = child(|| {
        sigmask(SIG_BLOCK, &[SIGUSR1, SIGCHLD]);
        let (r, w) = pipe_with(O_CLOEXEC);
        let (told, tell) = pipe();
        if sys!(SYS_clone, SIGUSR1, 0, 0, 0, 0) == Ok(0) {
            close(w);
            close(told);
            let _ = read_vec(r, 1);
            exit(0);
        }
        close(tell);
        // The pause ends when the child has closed its end of the second pipe, which is after execve(2).
        let (fd, sig) = (cstr(told.to_string()), cstr(SIGUSR1.to_string()));
        let words = [c"sh", c"__helper", c"ended", &fd, &sig];
        let words: Vec<usize> = words.iter().map(|w| w.as_ptr() as usize).chain([0]).collect();
        let _ = sys!(SYS_execve, me.as_ptr() as usize, words.as_ptr() as usize, &[0usize]);
    });
    c.ok();
}

fn clone_parent_makes_a_sibling() {
    let (r, w) = pipe();
    let c = child(|| {
        let pid = sys!(SYS_clone, CLONE_PARENT, 0, 0, 0, 0).unwrap() as i32;
        if pid == 0 {
            exit(44);
        }
        write(w, &pid.to_ne_bytes()).unwrap();
        assert_eq!(sys!(SYS_wait4, pid, 0, WNOHANG | __WALL, 0), Err(ECHILD));
    });
    c.ok();
    let pid = i32::from_ne_bytes(read_vec(r, 4).unwrap().try_into().unwrap());
    assert_eq!(Child(pid).wait_for(__WALL), Some(Status::Exit(44)));
}

fn bad_flags_for_clone() {
    assert_eq!(sys!(SYS_clone, CLONE_THREAD, 0, 0, 0, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_clone, CLONE_SIGHAND, 0, 0, 0, 0), Err(EINVAL));
    assert!(sys!(SYS_clone, CLONE_SIGHAND | CLONE_VM | THREAD_IN_A_NEW_USER_NS, 0, 0, 0, 0).is_err());
}

/// A thread cannot have a user namespace of its own.
const THREAD_IN_A_NEW_USER_NS: i32 = CLONE_THREAD | CLONE_NEWUSER;

fn clear_sighand() {
    on_signal(SIGUSR1, 0, count);
    set_action(SIGUSR2, SIG_IGN).unwrap();
    let mut args: clone_args = zero();
    args.flags = 0x1_0000_0000;
    args.exit_signal = SIGCHLD as u64;
    let pid = sys!(SYS_clone3, &args, size_of::<clone_args>()).unwrap();
    if pid == 0 {
        assert_eq!(crate::sys::current_action(SIGUSR1), SIG_DFL);
        assert_eq!(crate::sys::current_action(SIGUSR2), SIG_IGN);
        exit(0);
    }
    Child(pid as i32).ok();
}

fn unshare_files() {
    assert_eq!(sys!(SYS_unshare, 0x40), Err(EINVAL));
    assert_eq!(sys!(SYS_unshare, CLONE_FILES | CLONE_FS), Ok(0));
    assert_eq!(sys!(SYS_unshare, 0), Ok(0));
}
