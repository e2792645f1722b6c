//! io_uring: setup, the rings themselves, and requests for files, names and sockets.
//!
//! io_uring_setup(2), io_uring_enter(2).

use crate::prelude::*;
use crate::sys::poke32;
use crate::uringkit::{
    ACCEPT, CANCEL, CANCELED, CLOSE, CONNECT, ENOBUFS_NR, ENTER, FIXED_FILE, FSYNC, GETEVENTS, MKDIRAT, MORE,
    MSG_RING, NOP, OPENAT, POLL_ADD, Params, READ, READ_FIXED, READV, RECV, REGISTER, RENAMEAT, SELECT, SEND,
    SETUP, SETUP_CLAMP, SETUP_CQE32, SETUP_CQSIZE, SETUP_DEFER_TASKRUN, SETUP_NO_SQARRAY, SETUP_SQE128,
    SKIP_SUCCESS, SOCKET, STATX, Sqe, TIMEOUT, UNLINKAT, WRITE, WRITEV, addr, cqe, err, map_ring, nop, ring,
    ring_with, rw, setup,
};

tests!(
    "uring":
    errors_of_setup, sizes_of_setup, nothing_is_done, refused_requests, nonsense_in_the_ring, large_entries,
    success_can_be_silent, completions_without_a_place_wait, a_probe_tells_what_there_is,
    files_are_read_and_written, vectors_and_own_positions, files_are_opened_and_closed, no_descriptor_is_left,
    names_are_changed, sockets, accepts_go_on, a_full_listener_is_waited_for,
);

fn errors_of_setup() {
    drop(ring(1));
    let try_with = |entries: u32, change: &dyn Fn(&mut Params)| {
        let mut params = Params::default();
        change(&mut params);
        setup(entries, &mut params).map(close)
    };
    assert_eq!(sys!(SETUP, 1, BAD), Err(EFAULT));
    assert_eq!(try_with(0, &|_| {}), Err(EINVAL));
    assert_eq!(try_with(32769, &|_| {}), Err(EINVAL));
    assert_eq!(try_with(32769, &|p| p[2] = SETUP_CLAMP), Ok(()));
    assert_eq!(try_with(1, &|p| p[2] = 1 << 31), Err(EINVAL));
    assert_eq!(try_with(1, &|p| p[7] = 1), Err(EINVAL));
    assert_eq!(try_with(1, &|p| p[2] = SETUP_CQSIZE), Err(EINVAL));
    assert_eq!(try_with(8, &|p| (p[1], p[2]) = (4, SETUP_CQSIZE)), Err(EINVAL));
    assert_eq!(try_with(1, &|p| p[2] = SETUP_DEFER_TASKRUN), Err(EINVAL));
    let page = map(PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1).unwrap();
    assert_eq!(sys!(SETUP, 1, page), Err(EFAULT));
    let (r, _w) = pipe();
    assert_eq!(sys!(ENTER, r, 0, 0, 0, 0, 0), Err(EOPNOTSUPP));
    assert_eq!(sys!(ENTER, -1, 0, 0, 0, 0, 0), Err(EBADF));
    assert_eq!(sys!(ENTER, r, 0, 0, 1 << 30, 0, 0), Err(EINVAL));
    assert_eq!(sys!(REGISTER, r, 0, 0, 0), Err(EOPNOTSUPP));
    let ring = ring(1);
    assert_eq!(sys!(REGISTER, ring.fd, 200, 0, 0), Err(EINVAL));
    assert_eq!(map(PAGE, PROT_READ, MAP_SHARED, -1), Err(EBADF));
    assert_eq!(sys!(SYS_mmap, 0, PAGE, PROT_READ, MAP_SHARED, ring.fd, 0x1800_0000u64), Err(EINVAL));
    // What lies beyond the end is mapped, and is not there.
    let long = sys!(SYS_mmap, 0, 64 * PAGE, PROT_READ, MAP_SHARED, ring.fd, 0).unwrap();
    assert_eq!(fate(|| ignore(peek(long + 32 * PAGE))), Status::Signal(SIGBUS));
    assert_eq!(read_vec(ring.fd, 8), Err(EINVAL));
}

fn sizes_of_setup() {
    let ring = ring_with(5, SETUP_CQSIZE, 100);
    assert_eq!((ring.params[0], ring.params[1]), (8, 128));
    assert_eq!(ring.word(12).load(SeqCst), 7);
    assert_eq!(ring.word(13).load(SeqCst), 8);
    assert_eq!(ring.word(22).load(SeqCst), 127);
    assert_eq!(ring.word(23).load(SeqCst), 128);
    // One mapping for both, no completion is lost, waits have a structure of arguments.
    assert_eq!(ring.params[5] & 0x103, 0x103);
    // The other offset shows the same.
    let again = map_ring(ring.fd, PAGE, 0x800_0000);
    assert_eq!(atomic(again + ring.params[23] as usize).load(SeqCst), 128);
    // The memory outlives the descriptor.
    close(ring.fd);
    assert_eq!(ring.word(13).load(SeqCst), 8);
}

fn nothing_is_done() {
    let ring = ring(4);
    assert_eq!(ring.enter(4, 0, 0), Ok(0));
    assert_eq!(ring.run(&[nop(7), nop(8)]), [cqe(7, 0), cqe(8, 0)]);
    for n in 0..100 {
        assert_eq!(ring.run(&[nop(n)]), [cqe(n, 0)]);
    }
    // No more are taken than asked for.
    ring.push(&[nop(1), nop(2), nop(3)]);
    assert_eq!(ring.enter(2, 0, 0), Ok(2));
    assert_eq!(ring.enter(9, 0, 0), Ok(1));
    assert_eq!(ring.take().len(), 3);
    // The result may be given, whatever it is.
    for res in [7, -1, -4096, i32::MIN, i32::MAX] {
        assert_eq!(ring.result(Sqe { len: res as u32, op_flags: 1, ..nop(1) }), res);
    }
}

fn refused_requests() {
    let (ring, fd) = (ring(8), new_file("f"));
    let buf = [0u8; 8];
    let read = rw(READ, fd, addr(&buf), 8, 0);
    assert_eq!(ring.result(Sqe { op: 200, ..read }), err(EINVAL));
    assert_eq!(ring.result(Sqe { flags: 0x80, ..read }), err(EINVAL));
    assert_eq!(ring.result(Sqe { fd: -1, ..read }), err(EBADF));
    assert_eq!(ring.result(Sqe { fd: 0, flags: FIXED_FILE, ..read }), err(EBADF));
    assert_eq!(ring.result(Sqe { personality: 9, ..read }), err(EINVAL));
    assert_eq!(ring.result(Sqe { op_flags: 1 << 30, ..read }), err(EOPNOTSUPP));
    assert_eq!(ring.result(Sqe { op: READ_FIXED, buf: 3, ..read }), err(EFAULT));
    assert_eq!(ring.result(Sqe { op: WRITE, flags: SELECT, ..read }), err(EOPNOTSUPP));
    assert_eq!(ring.result(Sqe { flags: SELECT, buf: 9, ..read }), -ENOBUFS_NR);
    // What is refused ends the batch.
    ring.push(&[nop(1), Sqe { op: 200, ..nop(2) }, nop(3)]);
    assert_eq!(ring.enter(3, 0, 0), Ok(2));
    assert_eq!(ring.enter(1, 0, 0), Ok(1));
    assert_eq!(ring.take(), [cqe(1, 0), cqe(2, err(EINVAL)), cqe(3, 0)]);
}

fn nonsense_in_the_ring() {
    let ring = ring(4);
    // A tail far ahead gives no more than there are places; numbers of places that there are not are counted.
    ring.push(&[nop(1)]);
    let array = ring.rings + ring.params[16] as usize;
    let tail = ring.word(11).load(SeqCst);
    poke32(array, 99);
    assert_eq!(ring.enter(1, 0, 0), Ok(0));
    assert_eq!(ring.word(15).load(SeqCst), 1);
    poke32(array, 0);
    ring.word(11).store(tail.wrapping_add(1000), SeqCst);
    assert!(ring.enter(1000, 0, 0).unwrap() <= 4);
    // A head that is nonsense only hides the completions.
    ring.word(20).store(0x8000_0000, SeqCst);
    ring.word(11).store(ring.word(10).load(SeqCst), SeqCst);
    ring.push(&[nop(2)]);
    assert_eq!(ring.enter(1, 0, 0), Ok(1));
    ring.word(20).store(ring.word(21).load(SeqCst), SeqCst);
    assert_eq!(ring.enter(0, 0, GETEVENTS), Ok(0));
}

fn large_entries() {
    let ring = ring_with(4, SETUP_SQE128 | SETUP_CQE32 | SETUP_NO_SQARRAY, 0);
    for n in 0..20 {
        assert_eq!(ring.run(&[nop(2 * n), nop(2 * n + 1)]), [cqe(2 * n, 0), cqe(2 * n + 1, 0)]);
    }
}

fn success_can_be_silent() {
    let ring = ring(8);
    let bad = rw(READ, -1, 0, 8, 0).tag(3).with(SKIP_SUCCESS);
    ring.submit(&[nop(1).with(SKIP_SUCCESS), nop(2), bad]);
    assert_eq!(ring.wait(2), [cqe(2, 0), cqe(3, err(EBADF))]);
}

fn completions_without_a_place_wait() {
    let ring = ring_with(4, SETUP_CQSIZE, 4);
    for n in 0..3 {
        ring.submit(&[nop(4 * n), nop(4 * n + 1), nop(4 * n + 2), nop(4 * n + 3)]);
    }
    // The submission ring's flags tell.
    assert_eq!(ring.word(14).load(SeqCst) & 2, 2);
    let tags: Vec<u64> = ring.wait(12).iter().map(|cqe| cqe.data).collect();
    assert_eq!(tags, (0..12).collect::<Vec<_>>());
    assert_eq!(ring.word(14).load(SeqCst) & 2, 0);
}

fn a_probe_tells_what_there_is() {
    let ring = ring(1);
    let mut probe = [0u64; 2 + 256];
    assert_eq!(ring.register(8, &mut probe, 256), Ok(0));
    let probe = std::hint::black_box(probe);
    let supported = |op: u8| probe[2 + usize::from(op)] >> 16 & 1 == 1;
    for op in
        [NOP, READV, READ_FIXED, POLL_ADD, TIMEOUT, ACCEPT, CANCEL, OPENAT, READ, SEND, MSG_RING, SOCKET]
    {
        assert!(supported(op), "{op}");
    }
    assert!(probe[0] & 0xff >= u64::from(SOCKET));
    let mut dirty = [1u64; 3];
    assert_eq!(ring.register(8, &mut dirty, 1), Err(EINVAL));
}

fn files_are_read_and_written() {
    let (ring, fd) = (ring(4), new_file("f"));
    let (out, back) = (b"rings of requests".to_vec(), [0u8; 32]);
    assert_eq!(ring.result(rw(WRITE, fd, addr(&out), 17, 4096)), 17);
    assert_eq!(ring.result(rw(READ, fd, addr(&back), 32, 4096)), 17);
    assert_eq!(std::hint::black_box(&back)[..17], out[..]);
    assert_eq!(ring.result(rw(READ, fd, addr(&back), 32, 1 << 20)), 0);
    assert_eq!(seek(fd, 0, SEEK_CUR), Ok(0));
    assert_eq!(ring.result(Sqe { op: FSYNC, fd, ..Sqe::default() }), 0);
    let hole = anon(PAGE);
    sys!(SYS_munmap, hole, PAGE).unwrap();
    assert_eq!(ring.result(rw(READ, fd, hole, 8, 4096)), err(EFAULT));
    let folder = open(&cstr(dir()), O_RDONLY).unwrap();
    assert_eq!(ring.result(rw(READ, folder, addr(&back), 8, 0)), err(EISDIR));
    let read_only = open(&path("f"), O_RDONLY).unwrap();
    assert_eq!(ring.result(rw(WRITE, read_only, addr(&out), 8, 0)), err(EBADF));
}

fn vectors_and_own_positions() {
    let (ring, fd) = (ring(4), new_file("f"));
    let (one, two, back) = (b"first".to_vec(), b"second".to_vec(), [0u8; 11]);
    let parts = [addr(&one), 5, addr(&two), 6];
    assert_eq!(ring.result(rw(WRITEV, fd, parts.as_ptr() as usize, 2, u64::MAX)), 11);
    assert_eq!(seek(fd, 0, SEEK_CUR), Ok(11));
    let parts = [addr(&back), 1, addr(&back) + 1, 10];
    assert_eq!(ring.result(rw(READV, fd, parts.as_ptr() as usize, 2, 0)), 11);
    assert_eq!(std::hint::black_box(&back), b"firstsecond");
    assert_eq!(ring.result(rw(READV, fd, BAD, 1, 0)), err(EFAULT));
    assert_eq!(ring.result(rw(READV, fd, parts.as_ptr() as usize, 1025, 0)), err(EINVAL));
}

fn files_are_opened_and_closed() {
    let ring = ring(8);
    let name = path("new");
    let open = Sqe {
        op: OPENAT,
        fd: AT_FDCWD,
        addr: name.as_ptr() as u64,
        len: 0o640,
        op_flags: (O_CREAT | O_RDWR | O_CLOEXEC) as u32,
        ..Sqe::default()
    };
    let fd = ring.result(open);
    assert!(fd >= 0, "{fd}");
    assert_eq!(sys!(SYS_fcntl, fd, F_GETFD), Ok(FD_CLOEXEC as usize));
    write(fd, b"12345").unwrap();
    let mut stat: statx = zero();
    let ask = Sqe {
        op: STATX,
        fd: AT_FDCWD,
        addr: name.as_ptr() as u64,
        len: STATX_SIZE,
        off: &raw mut stat as u64,
        ..Sqe::default()
    };
    assert_eq!(ring.result(ask), 0);
    assert_eq!(std::hint::black_box(&stat).stx_size, 5);
    assert_eq!(ring.result(Sqe { op: CLOSE, fd, ..nop(1) }), 0);
    let missing = path("missing");
    let bad = Sqe { addr: missing.as_ptr() as u64, op_flags: 0, ..open };
    assert_eq!(ring.result(bad), err(ENOENT));
    assert_eq!(ring.result(Sqe { addr: BAD as u64, ..open }), err(EFAULT));
    assert_eq!(ring.result(Sqe { op: CLOSE, fd: ring.fd, ..nop(1) }), err(EBADF));
}

fn no_descriptor_is_left() {
    let (ring, name) = (ring(4), file("kept", b"data"));
    let open = Sqe { op: OPENAT, fd: AT_FDCWD, addr: name.as_ptr() as u64, ..Sqe::default() };
    let cut = Sqe { op_flags: (O_WRONLY | O_TRUNC) as u32, ..open };
    let code = child_code(|| {
        let limit = rlimit { rlim_cur: 0, rlim_max: 0 };
        sys!(SYS_setrlimit, RLIMIT_NOFILE, &limit).unwrap();
        assert_eq!(ring.result(cut), err(EMFILE));
        0
    });
    assert_eq!(code.wait(), Status::Exit(0));
    // Nothing has happened to the file.
    let fd = ring.result(open);
    assert_eq!(pread(fd, 8, 0), Ok(b"data".to_vec()));
    let close_on_exec = ring.result(Sqe { op_flags: O_CLOEXEC as u32, ..open });
    for (fd, flags) in [(fd, 0), (close_on_exec, FD_CLOEXEC as usize)] {
        assert_eq!(sys!(SYS_fcntl, fd, F_GETFD), Ok(flags));
    }
}

fn names_are_changed() {
    let ring = ring(8);
    let (a, b) = (path("a"), path("b"));
    let at = |name: &std::ffi::CString| name.as_ptr() as u64;
    let one = |op, name| Sqe { op, fd: AT_FDCWD, addr: at(name), ..Sqe::default() };
    assert_eq!(ring.result(Sqe { len: 0o700, ..one(MKDIRAT, &a) }), 0);
    let rename = Sqe { len: AT_FDCWD as u32, off: at(&b), ..one(RENAMEAT, &a) };
    assert_eq!(ring.result(rename), 0);
    assert!(stat_path(&b).is_ok());
    assert_eq!(ring.result(one(UNLINKAT, &b)), err(EISDIR));
    assert_eq!(ring.result(Sqe { op_flags: AT_REMOVEDIR as u32, ..one(UNLINKAT, &b) }), 0);
    assert_eq!(ring.result(Sqe { op_flags: AT_REMOVEDIR as u32, ..one(UNLINKAT, &b) }), err(ENOENT));
}

fn sockets() {
    let ring = ring(8);
    let (a, b) = socketpair(SOCK_STREAM);
    let (out, back) = (b"message".to_vec(), [0u8; 16]);
    assert_eq!(ring.result(rw(RECV, a, addr(&back), 16, 1)), err(EINVAL));
    ring.submit(&[rw(RECV, a, addr(&back), 16, 0).tag(1)]);
    assert!(!ring.has_completions());
    assert_eq!(ring.run(&[rw(SEND, b, addr(&out), 7, 0).tag(2)]), [cqe(2, 7)]);
    assert_eq!(ring.wait(1), [cqe(1, 7)]);
    assert_eq!(std::hint::black_box(&back)[..7], *b"message");
    // Without waiting it says so.
    let now = Sqe { op_flags: MSG_DONTWAIT as u32, ..rw(RECV, a, addr(&back), 16, 0) };
    assert_eq!(ring.result(now), err(EAGAIN));
    close(b);
    assert_eq!(ring.result(rw(RECV, a, addr(&back), 16, 0)), 0);
    // No signal comes with a broken connection.
    assert_eq!(ring.result(rw(SEND, a, addr(&out), 7, 0)), err(EPIPE));
    let (r, _w) = pipe();
    assert_eq!(ring.result(rw(SEND, r, addr(&out), 7, 0)), err(ENOTSOCK));
    let fd = ring.result(Sqe { op: SOCKET, fd: AF_UNIX, off: SOCK_STREAM as u64, ..nop(1) });
    assert!(fd >= 0);
    assert_eq!(ring.result(Sqe { op: CLOSE, fd, ..nop(1) }), 0);
    assert_eq!(ring.result(Sqe { op: CLOSE, fd, ..nop(1) }), err(EBADF));
}

fn accepts_go_on() {
    let ring = ring(8);
    let listener = sys!(SYS_socket, AF_UNIX, SOCK_STREAM, 0).unwrap() as i32;
    let name = path("s");
    let mut address = [0u8; 110];
    address[0] = AF_UNIX as u8;
    address[2..2 + name.as_bytes().len()].copy_from_slice(name.as_bytes());
    sys!(SYS_bind, listener, &address, 110).unwrap();
    sys!(SYS_listen, listener, 5).unwrap();
    ring.submit(&[Sqe { op: ACCEPT, fd: listener, prio: 1, ..nop(9) }]);
    for _ in 0..2 {
        let fd = sys!(SYS_socket, AF_UNIX, SOCK_STREAM, 0).unwrap() as i32;
        let connect = Sqe { op: CONNECT, fd, addr: address.as_ptr() as u64, off: 110, ..nop(1) };
        ring.submit(&[connect]);
        let mut found = ring.wait(2);
        found.sort_by_key(|cqe| cqe.data);
        assert_eq!(found[0], cqe(1, 0));
        assert_eq!((found[1].data, found[1].flags), (9, MORE));
        write(found[1].res, b"ok").unwrap();
        assert_eq!(read_vec(fd, 2), Ok(b"ok".to_vec()));
    }
    let mut found = ring.run(&[Sqe { op: CANCEL, addr: 9, ..nop(2) }]);
    found.extend(ring.wait(1));
    assert!(found.contains(&cqe(9, CANCELED)));
}

fn a_full_listener_is_waited_for() {
    let ring = ring(4);
    let socket = |flags: i32| sys!(SYS_socket, AF_UNIX, SOCK_STREAM | flags, 0).unwrap() as i32;
    let name = path("s");
    let mut address = [0u8; 110];
    address[0] = AF_UNIX as u8;
    address[2..2 + name.as_bytes().len()].copy_from_slice(name.as_bytes());
    let listener = socket(0);
    sys!(SYS_bind, listener, &address, 110).unwrap();
    sys!(SYS_listen, listener, 1).unwrap();
    while sys!(SYS_connect, socket(SOCK_NONBLOCK), &address, 110) != Err(EAGAIN) {}
    let fd = socket(0);
    ring.submit(&[Sqe { op: CONNECT, fd, addr: address.as_ptr() as u64, off: 110, ..nop(1) }]);
    assert!(!ring.has_completions());
    sys!(SYS_accept, listener, 0, 0).unwrap();
    assert_eq!(ring.wait(1), [cqe(1, 0)]);
}
