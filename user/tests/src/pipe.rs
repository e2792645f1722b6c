//! Pipes and FIFOs.

use crate::prelude::*;

tests!(
    "pipe":
    bytes_arrive_in_order, eof_after_the_last_writer, epipe_without_readers, wrong_directions, flags,
    capacity_and_full, atomic_up_to_pipe_buf, resize, blocking_reader_and_writer, partial_write_then_signal,
    zero_length, efault_keeps_what_was_there, fionread, packet_mode, fstat_says_fifo, many_writers_one_reader,
    fifo_open_blocks_for_the_other_end, fifo_nonblocking_opens, tee_and_splice, vmsplice_both_ways, opened_again_by_proc,
);

fn bytes_arrive_in_order() {
    let (r, w) = pipe();
    write(w, b"abc").unwrap();
    write(w, b"def").unwrap();
    assert_eq!(read_vec(r, 4).unwrap(), b"abcd");
    assert_eq!(read_vec(r, 4).unwrap(), b"ef");
}

fn eof_after_the_last_writer() {
    let (r, w) = pipe();
    let w2 = sys!(SYS_dup, w).unwrap() as i32;
    write(w, b"x").unwrap();
    close(w);
    assert_eq!(read_vec(r, 4).unwrap(), b"x");
    assert_eq!(poll1(r, POLLIN, 0), 0);
    close(w2);
    assert_eq!(read_vec(r, 4).unwrap(), b"");
    assert_eq!(poll1(r, POLLIN, 0), POLLHUP);
}

fn epipe_without_readers() {
    let (r, w) = pipe();
    set_action(SIGPIPE, SIG_IGN).unwrap();
    close(r);
    assert_eq!(write(w, b"x"), Err(EPIPE));
    assert_eq!(poll1(w, POLLOUT, 0), POLLOUT | POLLERR);
    on_signal(SIGPIPE, 0, count);
    assert_eq!(write(w, b"x"), Err(EPIPE));
    assert_eq!(seen(), 1);
}

fn wrong_directions() {
    let (r, w) = pipe();
    assert_eq!(read_vec(w, 1), Err(EBADF));
    assert_eq!(write(r, b"x"), Err(EBADF));
    assert_eq!(seek(r, 0, SEEK_CUR), Err(ESPIPE));
    assert_eq!(pread(r, 1, 0), Err(ESPIPE));
    assert_eq!(sys!(SYS_ftruncate, w, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_fsync, w), Err(EINVAL));
    assert_eq!(map(PAGE, PROT_READ, MAP_SHARED, r), Err(ENODEV));
}

fn flags() {
    let (r, w) = pipe_with(O_NONBLOCK | O_CLOEXEC);
    assert_eq!(read_vec(r, 1), Err(EAGAIN));
    assert_eq!(sys!(SYS_fcntl, w, F_GETFD), Ok(1));
    assert_eq!(sys!(SYS_fcntl, w, F_GETFL), Ok((O_WRONLY | O_NONBLOCK) as usize));
    assert_eq!(sys!(SYS_fcntl, r, F_GETFL), Ok(O_NONBLOCK as usize));
    let mut fds = [7i32; 2];
    assert_eq!(sys!(SYS_pipe2, &mut fds, O_CREAT), Err(EINVAL));
    assert_eq!(fds, [7, 7]);
    assert_eq!(sys!(SYS_pipe2, 0, 0), Err(EFAULT));
    assert_eq!(sys!(SYS_fcntl, w + 1, F_GETFD), Err(EBADF), "no descriptor is left behind");
}

fn capacity_and_full() {
    let (r, w) = pipe_with(O_NONBLOCK);
    assert_eq!(sys!(SYS_fcntl, w, F_GETPIPE_SZ), Ok(65536));
    let chunk = vec![1u8; 4096];
    let mut total = 0;
    while let Ok(n) = write(w, &chunk) {
        total += n;
    }
    assert_eq!(total, 65536);
    assert_eq!(write(w, b"x"), Err(EAGAIN));
    assert_eq!(poll1(w, POLLOUT, 0), 0);
    read_vec(r, 100).unwrap();
    assert_eq!(write(w, b"x"), Err(EAGAIN), "a page must be free");
    read_vec(r, 3996).unwrap();
    assert_eq!(poll1(w, POLLOUT, 0), POLLOUT);
    assert_eq!(write(w, b"x"), Ok(1));
}

fn atomic_up_to_pipe_buf() {
    let (r, w) = pipe_with(O_NONBLOCK);
    write(w, &vec![1; 65536 - 4096]).unwrap();
    write(w, &[2; 2000]).unwrap();
    assert_eq!(write(w, &vec![3; 4096]), Err(EAGAIN));
    assert_eq!(write(w, &vec![3; 2096]), Ok(2096));
    assert_eq!(write(w, &vec![4; 4097]), Err(EAGAIN));
    read_vec(r, 8192).unwrap();
    let n = write(w, &vec![4; 20_000]).unwrap();
    assert!((1..20_000).contains(&n), "a part of it: {n}");
}

fn resize() {
    let (_r, w) = pipe_with(O_NONBLOCK);
    assert_eq!(sys!(SYS_fcntl, w, F_SETPIPE_SZ, 1), Ok(4096));
    assert_eq!(sys!(SYS_fcntl, w, F_SETPIPE_SZ, 5000), Ok(8192));
    assert_eq!(write(w, &vec![0; 10_000]), Ok(8192));
    assert_eq!(sys!(SYS_fcntl, w, F_SETPIPE_SZ, 4096), Err(EBUSY));
    assert_eq!(sys!(SYS_fcntl, w, F_SETPIPE_SZ, 65536), Ok(65536));
    assert_eq!(write(w, &vec![0; 10_000]), Ok(10_000));
    assert_eq!(sys!(SYS_fcntl, new_file("f"), F_GETPIPE_SZ), Err(EBADF));
}

fn blocking_reader_and_writer() {
    let (r, w) = pipe();
    let c = child(|| {
        for i in 0..50u8 {
            write(w, &[i; 7000]).unwrap();
        }
    });
    close(w);
    let mut got = Vec::new();
    loop {
        match read_vec(r, 30_000).unwrap() {
            part if part.is_empty() => break,
            part => got.extend(part),
        }
    }
    assert_eq!(got.len(), 350_000);
    assert!(got.chunks(7000).enumerate().all(|(i, c)| c.iter().all(|b| *b == i as u8)));
    c.ok();
}

fn partial_write_then_signal() {
    let (_r, w) = pipe();
    on_signal(SIGUSR1, 0, count);
    let me = getpid();
    let c = child(|| {
        settle();
        settle();
        sys!(SYS_kill, me, SIGUSR1).unwrap();
    });
    assert_eq!(write(w, &vec![0; 100_000]), Ok(65536));
    c.ok();
}

fn zero_length() {
    let (r, w) = pipe();
    assert_eq!(write(w, b""), Ok(0));
    assert_eq!(read_vec(r, 0).unwrap(), b"");
    assert_eq!(sys!(SYS_read, r, 0, 0), Ok(0));
}

fn efault_keeps_what_was_there() {
    let (r, w) = pipe();
    write(w, b"abc").unwrap();
    assert_eq!(sys!(SYS_read, r, BAD, 3), Err(EFAULT));
    assert_eq!(read_vec(r, 3).unwrap(), b"abc");
    assert_eq!(sys!(SYS_write, w, BAD, 3), Err(EFAULT));
    assert_eq!(poll1(r, POLLIN, 0), 0);
}

fn fionread() {
    let (r, w) = pipe();
    write(w, &[0; 123]).unwrap();
    let mut n = 0i32;
    sys!(SYS_ioctl, r, FIONREAD, &mut n).unwrap();
    assert_eq!(n, 123);
    assert_eq!(sys!(SYS_ioctl, r, TCGETS, &mut [0u8; 64]), Err(ENOTTY));
}

fn packet_mode() {
    let (r, w) = pipe_with(O_DIRECT);
    write(w, b"one").unwrap();
    write(w, b"three").unwrap();
    assert_eq!(read_vec(r, 100).unwrap(), b"one");
    assert_eq!(read_vec(r, 2).unwrap(), b"th", "the rest of a packet is dropped");
    write(w, b"x").unwrap();
    assert_eq!(read_vec(r, 100).unwrap(), b"x");
}

fn fstat_says_fifo() {
    let (r, w) = pipe();
    let (a, b) = (fstat(r), fstat(w));
    assert_eq!(a.st_mode & S_IFMT, S_IFIFO);
    assert_eq!((a.st_ino, a.st_dev, a.st_nlink), (b.st_ino, b.st_dev, 1));
    let link = std::fs::read_link(format!("/proc/self/fd/{r}")).unwrap();
    assert_eq!(link.to_str().unwrap(), format!("pipe:[{}]", a.st_ino));
}

fn many_writers_one_reader() {
    let (r, w) = pipe();
    let kids: Vec<_> = (0..6u8)
        .map(|k| {
            child(move || {
                for _ in 0..200 {
                    write(w, &[k; 100]).unwrap();
                }
            })
        })
        .collect();
    close(w);
    let mut counts = [0; 6];
    let mut whole = Vec::new();
    loop {
        match read_vec(r, 65536).unwrap() {
            part if part.is_empty() => break,
            part => whole.extend(part),
        }
    }
    for record in whole.chunks(100) {
        assert!(record.iter().all(|b| *b == record[0]), "records are not torn");
        counts[record[0] as usize] += 1;
    }
    assert_eq!(counts, [200; 6]);
    kids.into_iter().for_each(Child::ok);
}

fn fifo_open_blocks_for_the_other_end() {
    let p = path("fifo");
    sys!(SYS_mknod, &p, S_IFIFO | 0o600, 0).unwrap();
    let c = child(|| {
        settle();
        let w = open(&p, O_WRONLY).unwrap();
        write(w, b"hi").unwrap();
    });
    let (took, r) = timed(|| open(&p, O_RDONLY).unwrap());
    assert!(took >= 25, "opened after {took} ms");
    assert_eq!(read_vec(r, 10).unwrap(), b"hi");
    c.ok();
    assert_eq!(read_vec(r, 10).unwrap(), b"");
}

fn fifo_nonblocking_opens() {
    let p = path("fifo");
    sys!(SYS_mknodat, AT_FDCWD, &p, S_IFIFO | 0o600, 0).unwrap();
    assert_eq!(open(&p, O_WRONLY | O_NONBLOCK), Err(ENXIO));
    let r = open(&p, O_RDONLY | O_NONBLOCK).unwrap();
    assert_eq!(read_vec(r, 1).unwrap(), b"", "no writer yet: end of file");
    assert_eq!(poll1(r, POLLIN, 0), 0, "no hang-up before the first writer");
    let w = open(&p, O_WRONLY | O_NONBLOCK).unwrap();
    assert_eq!(read_vec(r, 1), Err(EAGAIN));
    close(w);
    assert_eq!(poll1(r, POLLIN, 0), POLLHUP);
    let both = open(&p, O_RDWR).unwrap();
    write(both, b"self").unwrap();
    assert_eq!(read_vec(both, 4).unwrap(), b"self");
}

fn tee_and_splice() {
    let (r1, w1) = pipe();
    let (r2, w2) = pipe();
    write(w1, b"hello").unwrap();
    assert_eq!(sys!(SYS_tee, r1, w2, 3, 0), Ok(3));
    assert_eq!(read_vec(r2, 9).unwrap(), b"hel");
    assert_eq!(sys!(SYS_splice, r1, 0, w2, 0, 100, 0), Ok(5));
    assert_eq!(read_vec(r2, 9).unwrap(), b"hello");
    assert_eq!(sys!(SYS_splice, r1, 0, w2, 0, 1, SPLICE_F_NONBLOCK), Err(EAGAIN));
    assert_eq!(sys!(SYS_tee, r1, w1, 1, 0), Err(EINVAL));
    let f = new_file("f");
    write(f, b"from file").unwrap();
    let mut off = 5i64;
    assert_eq!(sys!(SYS_splice, f, &mut off, w2, 0, 100, 0), Ok(4));
    assert_eq!((off, read_vec(r2, 9).unwrap()), (9, b"file".to_vec()));
    assert_eq!(sys!(SYS_splice, f, 0, f, 0, 1, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_splice, r1, &mut off, w2, 0, 1, 0), Err(ESPIPE));
}

fn vmsplice_both_ways() {
    let (r, w) = pipe();
    let data = b"vector".to_vec();
    let iov = [data.as_ptr() as usize, 6];
    assert_eq!(sys!(SYS_vmsplice, w, &iov, 1, 0), Ok(6));
    assert_eq!(read_vec(r, 9).unwrap(), b"vector");
}

fn opened_again_by_proc() {
    let (r, w) = pipe();
    write(w, b"hi").unwrap();
    close(w);
    // No writer is left, and yet this does not wait for one as a FIFO would.
    let again = open(&cstr(format!("/proc/self/fd/{r}")), O_RDONLY).unwrap();
    assert_eq!(read_vec(again, 9), Ok(b"hi".to_vec()));
    assert_eq!(read_vec(again, 9), Ok(vec![]));
}
