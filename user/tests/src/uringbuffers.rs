//! io_uring: registered buffers and files, and buffers that a request selects.
//!
//! io_uring_register(2).

use crate::prelude::*;
use crate::sys::poke32;
use crate::uringkit::{
    nop,
    CLOSE, Cqe, ENOBUFS_NR, FIXED_FILE, MORE, OPENAT, PROVIDE, READ, READ_FIXED, RECV, Ring, SELECT, Sqe,
    WRITE, WRITE_FIXED, addr, cqe, err, ring, rw,
};

tests!(
    "uringbuffers":
    buffers_stay_what_they_were, fixed_buffers_have_bounds, buffers_count_as_locked, a_child_has_its_own_copy,
    fixed_files, buffers_are_selected, rings_of_buffers,
);

/// Registers one buffer.
fn register_buffer(ring: &Ring, at: usize, len: usize) -> Result<usize, Errno> {
    ring.register(0, &[at, len], 1)
}

fn fixed(op: u8, fd: i32, at: usize, len: usize, off: u64) -> Sqe {
    rw(op, fd, at, len, off)
}

fn buffers_stay_what_they_were() {
    let (ring, fd) = (ring(4), new_file("f"));
    let at = anon(2 * PAGE);
    register_buffer(&ring, at + 100, PAGE).unwrap();
    assert_eq!(register_buffer(&ring, at, 1), Err(EBUSY));
    poke(at + 150, 7);
    assert_eq!(ring.result(fixed(WRITE_FIXED, fd, at + 150, 4000, 0)), 4000);
    assert_eq!(pread(fd, 1, 0), Ok(vec![7]));
    // A read goes into the pages that were registered, whatever is mapped there now.
    pwrite(fd, b"fixed", 0).unwrap();
    assert_eq!(ring.result(fixed(READ_FIXED, fd, at + PAGE, 5, 0)), 5);
    assert_eq!(bytes_at(at + PAGE, 5), b"fixed");
    sys!(SYS_mprotect, at, 2 * PAGE, PROT_READ).unwrap();
    sys!(SYS_mprotect, at, 2 * PAGE, PROT_READ | PROT_WRITE).unwrap();
    poke(at + 150, 8);
    assert_eq!(ring.result(fixed(WRITE_FIXED, fd, at + 150, 1, 0)), 1);
    assert_eq!(pread(fd, 1, 0), Ok(vec![8]));
    sys!(SYS_munmap, at, 2 * PAGE).unwrap();
    assert_eq!(ring.result(fixed(WRITE_FIXED, fd, at + 150, 1, 1)), 1);
    assert_eq!(pread(fd, 1, 1), Ok(vec![8]));
    assert_eq!(ring.register(1, 0, 0), Ok(0));
    assert_eq!(ring.register(1, 0, 0), Err(ENXIO));
    assert_eq!(ring.result(fixed(WRITE_FIXED, fd, at + 150, 1, 1)), err(EFAULT));
}

fn fixed_buffers_have_bounds() {
    let (ring, fd) = (ring(4), new_file("f"));
    let at = anon(PAGE);
    assert_eq!(ring.register(0, 0, 1), Err(EFAULT));
    assert_eq!(ring.register(0, BAD, 1), Err(EFAULT));
    assert_eq!(register_buffer(&ring, BAD, PAGE), Err(EFAULT));
    assert_eq!(register_buffer(&ring, at, 0), Err(EFAULT));
    let page = map(PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1).unwrap();
    assert_eq!(register_buffer(&ring, page, PAGE), Err(EFAULT));
    register_buffer(&ring, at, PAGE).unwrap();
    assert_eq!(ring.result(fixed(WRITE_FIXED, fd, at, PAGE, 0)), PAGE as i32);
    assert_eq!(ring.result(fixed(WRITE_FIXED, fd, at, PAGE + 1, 0)), err(EFAULT));
    assert_eq!(ring.result(fixed(WRITE_FIXED, fd, at - 1, 1, 0)), err(EFAULT));
    assert_eq!(ring.result(Sqe { buf: 1, ..fixed(WRITE_FIXED, fd, at, 1, 0) }), err(EFAULT));
}

fn buffers_count_as_locked() {
    drop(ring(1));
    let code = child_code(|| {
        let limit = rlimit { rlim_cur: 4 * PAGE as u64, rlim_max: 4 * PAGE as u64 };
        sys!(SYS_setrlimit, RLIMIT_MEMLOCK, &limit).unwrap();
        sys!(SYS_setuid, 31_337).unwrap();
        let ring = ring(1);
        let at = anon(5 * PAGE);
        assert_eq!(register_buffer(&ring, at, 5 * PAGE), Err(ENOMEM));
        assert_eq!(register_buffer(&ring, at, 2 * PAGE), Ok(0));
        0
    });
    assert_eq!(code.wait(), Status::Exit(0));
}

fn a_child_has_its_own_copy() {
    let (ring, fd) = (ring(4), new_file("f"));
    let at = anon(PAGE);
    poke(at, 1);
    register_buffer(&ring, at, PAGE).unwrap();
    let (r, w) = pipe();
    let child = child_code(|| {
        read_vec(r, 1).unwrap();
        i32::from(peek(at))
    });
    // What the parent writes is what the ring sees, and nothing that the child does.
    poke(at, 2);
    assert_eq!(ring.result(fixed(WRITE_FIXED, fd, at, 1, 0)), 1);
    assert_eq!(pread(fd, 1, 0), Ok(vec![2]));
    write(w, b"x").unwrap();
    assert_eq!(child.wait(), Status::Exit(1));
}

fn fixed_files() {
    let (ring, fd) = (ring(4), new_file("f"));
    let out = b"fixed".to_vec();
    assert_eq!(ring.register(3, 0, 0), Err(ENXIO));
    assert_eq!(ring.register(2, &[fd, ring.fd], 2), Err(EBADF));
    assert_eq!(ring.register(2, &[fd, -1], 2), Ok(0));
    assert_eq!(ring.register(2, &[fd, -1], 2), Err(EBUSY));
    let on = |place: i32| rw(WRITE, place, addr(&out), 5, 0).with(FIXED_FILE);
    assert_eq!(ring.result(on(0)), 5);
    assert_eq!(ring.result(on(1)), err(EBADF));
    assert_eq!(ring.result(on(2)), err(EBADF));
    // Another file for the second place.
    let other = new_file("g");
    let (fds, update) = ([other], |fds: &[i32; 1]| [1u64, fds.as_ptr() as u64]);
    assert_eq!(ring.register(6, &update(&fds), 1), Ok(1));
    close(other);
    assert_eq!(ring.result(on(1)), 5);
    // A file is opened into a place, and closed there.
    let name = path("h");
    let into = Sqe {
        op: OPENAT,
        fd: AT_FDCWD,
        addr: name.as_ptr() as u64,
        len: 0o600,
        op_flags: (O_CREAT | O_RDWR) as u32,
        index: 2,
        ..Sqe::default()
    };
    assert_eq!(ring.result(into), 0);
    assert_eq!(ring.result(on(1)), 5);
    assert_eq!(stat_path(&name).unwrap().st_size, 5);
    assert_eq!(ring.result(Sqe { op: CLOSE, index: 2, ..Sqe::default() }), 0);
    assert_eq!(ring.result(on(1)), err(EBADF));
    // Where there is room, but no file that is only a name.
    let put = |fds: &[i32; 1]| Sqe {
        op: 20,
        addr: fds.as_ptr() as u64,
        len: 1,
        off: u64::from(u32::MAX),
        ..nop(1)
    };
    let fds = [open(&name, O_PATH).unwrap()];
    assert_eq!(ring.result(put(&fds)), err(EBADF));
    let fds = [open(&name, O_RDWR).unwrap()];
    assert_eq!(ring.result(put(&fds)), 1);
    assert_eq!(std::hint::black_box(&fds), &[1]);
    assert_eq!(ring.result(on(1)), 5);
    assert_eq!(ring.register(3, 0, 0), Ok(0));
    assert_eq!(ring.result(on(0)), err(EBADF));
}

fn buffers_are_selected() {
    let ring = ring(8);
    let (r, w) = pipe();
    let at = anon(PAGE);
    let provide = Sqe { op: PROVIDE, fd: 2, addr: at as u64, len: 16, off: 10, buf: 4, ..nop(1) };
    assert_eq!(ring.result(provide), 0);
    let read = Sqe { flags: SELECT, buf: 4, ..rw(READ, r, 0, 16, 0) };
    write(w, b"one").unwrap();
    assert_eq!(ring.run(&[read.tag(2)]), [Cqe { flags: 1 | 10 << 16, ..cqe(2, 3) }]);
    assert_eq!(bytes_at(at, 3), b"one");
    // One that waits takes its buffer when there is something.
    ring.submit(&[read.tag(3)]);
    write(w, b"two").unwrap();
    assert_eq!(ring.wait(1), [Cqe { flags: 1 | 11 << 16, ..cqe(3, 3) }]);
    assert_eq!(bytes_at(at + 16, 3), b"two");
    write(w, b"more").unwrap();
    assert_eq!(ring.result(read), -ENOBUFS_NR);
    assert_eq!(ring.result(Sqe { fd: 0, ..provide }), err(E2BIG));
    assert_eq!(ring.result(Sqe { op: 32, fd: 5, buf: 4, ..nop(1) }), 0);
    assert_eq!(ring.result(Sqe { op: 32, fd: 5, buf: 44, ..nop(1) }), err(ENOENT));
}

fn rings_of_buffers() {
    let ring = ring(8);
    let (a, b) = socketpair(SOCK_STREAM);
    let (entries, at) = (anon(PAGE), anon(PAGE));
    let reg = [entries as u64, 4 | 7 << 32, 0, 0, 0];
    assert_eq!(ring.register(22, &[entries as u64 + 8, 4, 0, 0, 0], 1), Err(EINVAL));
    assert_eq!(ring.register(22, &[entries as u64, 3, 0, 0, 0], 1), Err(EINVAL));
    assert_eq!(ring.register(22, &reg, 1), Ok(0));
    assert_eq!(ring.register(22, &reg, 1), Err(EEXIST));
    let put = |n: usize, id: u32| {
        for (word, value) in [at + 64 * n, (at + 64 * n) >> 32, 64].into_iter().enumerate() {
            poke32(entries + 16 * n + 4 * word, value as u32);
        }
        let tail = atomic(entries + 12).load(SeqCst) >> 16;
        if n == 0 {
            poke32(entries + 12, id | tail << 16);
        } else {
            poke32(entries + 16 * n + 12, id);
        }
    };
    put(0, 20);
    put(1, 21);
    let first = atomic(entries + 12).load(SeqCst) & 0xffff;
    poke32(entries + 12, first | 2 << 16);
    let receive = Sqe { flags: SELECT, buf: 7, prio: 2, ..rw(RECV, a, 0, 0, 0) };
    ring.submit(&[receive.tag(5)]);
    write(b, b"hello").unwrap();
    assert_eq!(ring.wait(1), [Cqe { flags: MORE | 1 | 20 << 16, ..cqe(5, 5) }]);
    assert_eq!(bytes_at(at, 5), b"hello");
    write(b, b"again").unwrap();
    assert_eq!(ring.wait(1), [Cqe { flags: MORE | 1 | 21 << 16, ..cqe(5, 5) }]);
    write(b, b"too much").unwrap();
    assert_eq!(ring.wait(1), [cqe(5, -ENOBUFS_NR)]);
    assert_eq!(ring.register(23, &[0u64, 7 << 32, 0, 0, 0], 1), Ok(0));
    assert_eq!(ring.register(23, &[0u64, 7 << 32, 0, 0, 0], 1), Err(ENOENT));
}
