//! Leases (fcntl(2) `F_SETLEASE`) and directory notification (`F_NOTIFY`).

use crate::prelude::*;

tests!(
    "lease":
    who_may_have_one, kinds_and_openers, an_open_breaks_it, an_open_waits_for_the_holder, truncation_breaks_it,
    the_last_close_ends_it, directories_tell_by_signal, notification_of_another_kind_of_file,
    owners_of_signals_exist,
);

const F_SETSIG: i32 = 10;
const F_GETSIG: i32 = 11;
const DN_CREATE: u32 = 4;
const DN_DELETE: u32 = 8;
const DN_MULTISHOT: u32 = 0x8000_0000;

fn set(fd: i32, kind: i32) -> Result<usize, Errno> {
    sys!(SYS_fcntl, fd, F_SETLEASE, kind)
}

fn get(fd: i32) -> Result<usize, Errno> {
    sys!(SYS_fcntl, fd, F_GETLEASE)
}

const READ: i32 = F_RDLCK;
const WRITE: i32 = F_WRLCK;
const NONE: i32 = F_UNLCK;

fn who_may_have_one() {
    let f = file("f", b"x");
    let fd = open(&f, O_RDONLY).unwrap();
    assert_eq!(get(fd), Ok(NONE as usize));
    assert_eq!(set(fd, NONE), Err(EAGAIN));
    assert_eq!(set(fd, 7), Err(EINVAL));
    let (r, _w) = pipe();
    assert_eq!(set(r, READ), Err(EINVAL));
    assert_eq!(set(open(&cstr(dir()), O_RDONLY).unwrap(), READ), Err(EINVAL));
    assert_eq!(set(open(&f, O_PATH).unwrap(), READ), Err(EBADF));
    assert_eq!(set(99, READ), Err(EBADF));
    aside(|| {
        drop_root();
        assert_eq!(set(fd, READ), Err(EACCES));
    });
    assert_eq!(set(fd, READ), Ok(0));
}

fn kinds_and_openers() {
    let f = file("f", b"x");
    let (a, w) = (open(&f, O_RDONLY).unwrap(), open(&f, O_RDWR).unwrap());
    assert_eq!(set(a, READ), Err(EAGAIN), "somebody can write");
    assert_eq!(set(w, WRITE), Err(EAGAIN), "somebody else can read");
    close(a);
    assert_eq!(set(w, WRITE), Ok(0));
    assert_eq!(get(w), Ok(WRITE as usize));
    assert_eq!(set(w, READ), Err(EAGAIN), "it can write itself");
    assert_eq!(set(w, NONE), Ok(0));
    close(w);
    let (a, b) = (open(&f, O_RDONLY).unwrap(), open(&f, O_RDONLY).unwrap());
    assert_eq!((set(a, READ), set(b, READ)), (Ok(0), Ok(0)));
    assert_eq!(set(a, WRITE), Err(EAGAIN));
    close(b);
    assert_eq!(set(a, WRITE), Ok(0));
    assert_eq!(set(a, READ), Ok(0));
}

fn an_open_breaks_it() {
    on_signal(SIGIO, 0, count);
    on_signal(SIGUSR1, 0, count);
    let f = file("f", b"x");
    let fd = open(&f, O_RDONLY).unwrap();
    assert_eq!(set(fd, READ), Ok(0));
    close(open(&f, O_RDONLY).unwrap());
    assert_eq!(seen(), 0);
    assert_eq!(open(&f, O_WRONLY | O_NONBLOCK), Err(EAGAIN));
    assert_eq!((seen(), LAST.load(SeqCst), LAST_CODE.load(SeqCst)), (1, SIGIO, 0x80));
    assert_eq!(get(fd), Ok(NONE as usize), "what it is to become");
    assert_eq!(open(&f, O_WRONLY | O_NONBLOCK), Err(EAGAIN));
    assert_eq!(seen(), 1, "it is told once");
    assert_eq!(set(fd, NONE), Ok(0));
    close(open(&f, O_WRONLY | O_NONBLOCK).unwrap());
    // For reading a write lease has to become a read lease only; the signal can be another.
    assert_eq!(set(fd, WRITE), Ok(0));
    assert_eq!(sys!(SYS_fcntl, fd, F_SETSIG, SIGUSR1), Ok(0));
    assert_eq!(sys!(SYS_fcntl, fd, F_GETSIG), Ok(SIGUSR1 as usize));
    assert_eq!(open(&f, O_RDONLY | O_NONBLOCK), Err(EAGAIN));
    assert_eq!((seen(), LAST.load(SeqCst), LAST_CODE.load(SeqCst)), (2, SIGUSR1, 3));
    assert_eq!(get(fd), Ok(READ as usize));
    assert_eq!(set(fd, READ), Ok(0));
    close(open(&f, O_RDONLY | O_NONBLOCK).unwrap());
    assert_eq!(get(fd), Ok(READ as usize));
}

fn an_open_waits_for_the_holder() {
    let f = file("f", b"x");
    let fd = open(&f, O_RDONLY).unwrap();
    sigmask(SIG_BLOCK, &[SIGIO]);
    assert_eq!(set(fd, READ), Ok(0));
    let opener = child_code(|| i32::from(open(&f, O_WRONLY).is_err()));
    // The child's break sends the signal, and then it waits for the answer.
    let mask = mask_of(&[SIGIO]);
    assert_eq!(sys!(SYS_rt_sigtimedwait, &mask, 0, 0, 8), Ok(SIGIO as usize));
    assert_eq!(set(fd, NONE), Ok(0));
    opener.ok();
}

fn truncation_breaks_it() {
    on_signal(SIGIO, 0, count);
    let f = file("f", b"data");
    let fd = open(&f, O_RDONLY).unwrap();
    assert_eq!(set(fd, READ), Ok(0));
    let cutter = child_code(|| i32::from(sys!(SYS_truncate, &f, 1).is_err()));
    while seen() == 0 {
        nap(1);
    }
    assert_eq!(fstat(fd).st_size, 4);
    assert_eq!(set(fd, NONE), Ok(0));
    cutter.ok();
    assert_eq!(fstat(fd).st_size, 1);
}

fn the_last_close_ends_it() {
    let f = file("f", b"x");
    let fd = open(&f, O_RDONLY).unwrap();
    let copy = sys!(SYS_dup, fd).unwrap() as i32;
    assert_eq!(set(fd, READ), Ok(0));
    close(fd);
    assert_eq!(get(copy), Ok(READ as usize));
    // The signal goes to the process that took it, which does not care.
    sigmask(SIG_BLOCK, &[SIGIO]);
    assert_eq!(open(&f, O_WRONLY | O_NONBLOCK), Err(EAGAIN));
    close(copy);
    close(open(&f, O_WRONLY | O_NONBLOCK).unwrap());
}

fn notify(fd: i32, kinds: u32) -> Result<usize, Errno> {
    sys!(SYS_fcntl, fd, F_NOTIFY, kinds)
}

fn directories_tell_by_signal() {
    on_signal(SIGIO, 0, count);
    on_signal(SIGUSR1, 0, count);
    let d = mkdir("d");
    let fd = open(&d, O_RDONLY).unwrap();
    assert_eq!(notify(fd, 0), Ok(0));
    assert_eq!(notify(fd, DN_CREATE), Ok(0));
    file("d/a", b"");
    assert_eq!((seen(), LAST.load(SeqCst)), (1, SIGIO));
    file("d/b", b"");
    assert_eq!(seen(), 1, "once, unless it is asked for more");
    assert_eq!(notify(fd, DN_DELETE | DN_MULTISHOT), Ok(0));
    assert_eq!(sys!(SYS_fcntl, fd, F_SETSIG, SIGUSR1), Ok(0));
    for (nr, name) in ["d/a", "d/b"].into_iter().enumerate() {
        sys!(SYS_unlink, &path(name)).unwrap();
        assert_eq!((seen(), LAST.load(SeqCst), LAST_CODE.load(SeqCst)), (nr + 2, SIGUSR1, 3));
    }
    assert_eq!(notify(fd, 0), Ok(0));
    file("d/c", b"");
    assert_eq!(notify(fd, DN_CREATE | DN_MULTISHOT), Ok(0));
    close(fd);
    file("d/e", b"");
    assert_eq!(seen(), 3);
}

fn notification_of_another_kind_of_file() {
    let fd = open(&file("f", b""), O_RDONLY).unwrap();
    assert_eq!(notify(fd, DN_CREATE), Err(ENOTDIR));
    assert_eq!(notify(fd, 0), Ok(0));
    assert_eq!(notify(open(&cstr(dir()), O_PATH).unwrap(), DN_CREATE), Err(EBADF));
}

fn owners_of_signals_exist() {
    let fd = new_file("f");
    assert_eq!(sys!(SYS_fcntl, fd, F_SETOWN, 0x3fff_fff0), Err(ESRCH));
    assert_eq!(sys!(SYS_fcntl, fd, F_SETOWN, getpid()), Ok(0));
    assert_eq!(sys!(SYS_fcntl, fd, F_GETOWN), Ok(getpid() as usize));
    assert_eq!(sys!(SYS_fcntl, fd, F_SETOWN, 0), Ok(0));
    assert_eq!(sys!(SYS_fcntl, fd, F_GETOWN), Ok(0));
}
