//! Pipes and FIFOs with threads at both ends.

use std::sync::Arc;

use abi::Errno;
use abi::fs::{OpenFlags, S_IFIFO};
use abi::poll::PollEvents;
use sched::PollTable;
use vfs::pipe::{PIPE_BUF, create};
use vfs::{At, File};

use crate::env::{Env, read, spawn, write};

fn poll(file: &File) -> PollEvents {
    file.poll(&mut PollTable::query())
}

#[test]
fn bytes_go_through_and_ends_are_seen() {
    let env = Env::new();
    let (r, w) = create(OpenFlags::empty(), &env.cred).unwrap();
    assert_eq!(write(&w, b"abc").unwrap(), 3);
    assert!(poll(&r).contains(PollEvents::IN));
    assert_eq!(read(&r, 2).unwrap(), b"ab");
    assert_eq!(read(&w, 2), Err(Errno::EBADF));
    drop(w);
    assert_eq!(read(&r, 2).unwrap(), b"c");
    assert!(poll(&r).contains(PollEvents::HUP));
    assert_eq!(read(&r, 2).unwrap(), b"");
    assert_eq!(vfs::rw::lseek(&r, 0, vfs::Whence::Set), Err(Errno::ESPIPE));
    let (r, w) = create(OpenFlags::empty(), &env.cred).unwrap();
    drop(r);
    let result = write(&w, b"x");
    assert_eq!(result, Err(Errno::EPIPE));
    assert!(vfs::rw::sigpipe_due(&w, &result));
}

#[test]
fn a_full_pipe_holds_sixty_four_kilobytes() {
    let env = Env::new();
    let (r, w) = create(OpenFlags::NONBLOCK, &env.cred).unwrap();
    assert_eq!(read(&r, 1), Err(Errno::EAGAIN));
    assert_eq!(write(&w, &[1; 100_000]).unwrap(), 65536);
    assert_eq!(write(&w, b"x"), Err(Errno::EAGAIN));
    assert!(!poll(&w).contains(PollEvents::OUT));
    read(&r, 100).unwrap();
    assert_eq!(write(&w, &[2; PIPE_BUF]), Err(Errno::EAGAIN), "small writes are whole or not at all");
    // Sixteen pages are taken, each with some bytes in it: only a whole page read makes room.
    assert_eq!(write(&w, &[2; 100]), Err(Errno::EAGAIN));
    read(&r, 4096).unwrap();
    assert_eq!(write(&w, &[2; 100]).unwrap(), 100);
    assert_eq!(vfs::fcntl::set_pipe_size(&w, 4096, &env.cred), Err(Errno::EBUSY));
    assert_eq!(vfs::fcntl::set_pipe_size(&w, 100_000, &env.cred), Ok(131_072));
    assert_eq!(vfs::fcntl::pipe_size(&r), Ok(131_072));
}

#[test]
fn threads_pass_a_megabyte_in_order() {
    let env = Env::new();
    let (r, w) = create(OpenFlags::empty(), &env.cred).unwrap();
    let writer = spawn(move || {
        let mut next = 0u32;
        for len in (1..3000).cycle().take(700) {
            let bytes: Vec<u8> = (0..len).map(|i| (next + i) as u8).collect();
            assert_eq!(write(&w, &bytes).unwrap(), len as usize);
            next += len;
        }
        next
    });
    let mut got = 0u32;
    loop {
        let bytes = read(&r, 1777).unwrap();
        if bytes.is_empty() {
            break;
        }
        for byte in bytes {
            assert_eq!(byte, got as u8);
            got += 1;
        }
    }
    assert_eq!(writer.join(), got);
}

#[test]
fn small_writes_of_many_threads_do_not_mix() {
    let env = Env::new();
    let (r, w) = create(OpenFlags::empty(), &env.cred).unwrap();
    let writers: Vec<_> = (0..4u8)
        .map(|id| {
            let w: Arc<File> = w.clone();
            spawn(move || (0..200).for_each(|_| assert_eq!(write(&w, &[id; 1000]).unwrap(), 1000)))
        })
        .collect();
    drop(w);
    let mut seen = [0; 4];
    loop {
        let mut block = Vec::new();
        while block.len() < 1000 {
            let part = read(&r, 1000 - block.len()).unwrap();
            if part.is_empty() {
                break;
            }
            block.extend(part);
        }
        if block.is_empty() {
            break;
        }
        assert!(block.iter().all(|&byte| byte == block[0]));
        seen[block[0] as usize] += 1;
    }
    assert_eq!(seen, [200; 4]);
    writers.into_iter().for_each(|writer| writer.join());
}

#[test]
fn fifos_wait_for_the_other_side() {
    let env = Env::new();
    vfs::namespace::mknodat(&env.ctx(), At::Cwd, b"/fifo", S_IFIFO | 0o666, 0).unwrap();
    let nonblocking = OpenFlags::WRONLY | OpenFlags::NONBLOCK;
    assert_eq!(env.open("/fifo", nonblocking, 0).unwrap_err(), Errno::ENXIO);
    let early = env.open("/fifo", OpenFlags::NONBLOCK, 0).unwrap();
    assert_eq!(read(&early, 1).unwrap(), b"", "no writer yet is the end");
    assert!(!poll(&early).contains(PollEvents::HUP));
    drop(early);
    let fs = env.fs.clone();
    let writer = spawn(move || {
        let mut env = Env::new();
        env.fs = fs;
        let w = env.open("/fifo", OpenFlags::WRONLY, 0).unwrap();
        write(&w, b"through").unwrap();
    });
    let r = env.open("/fifo", OpenFlags::empty(), 0).unwrap();
    assert_eq!(read(&r, 100).unwrap(), b"through");
    writer.join();
    assert_eq!(read(&r, 100).unwrap(), b"");
}

#[test]
fn splice_tee_and_sendfile_move_bytes() {
    use vfs::splice::{End, copy_file_range, sendfile, splice, tee};
    let env = Env::new();
    let file = env.create("/f").unwrap();
    write(&file, &[5; 10_000]).unwrap();
    let (r, w) = create(OpenFlags::empty(), &env.cred).unwrap();
    let (r2, w2) = create(OpenFlags::empty(), &env.cred).unwrap();
    let mut at = 100;
    let done = sendfile(&w, &mut End { file: &file, offset: Some(&mut at) }, 5000, u64::MAX);
    assert_eq!((done, at), (Ok(5000), 5100));
    assert_eq!(tee(&r, &w2, 3000, 0), Ok(3000));
    assert_eq!(read(&r2, 9999).unwrap().len(), 3000);
    let copy = env.create("/copy").unwrap();
    let ends = (&mut End { file: &r, offset: None }, &mut End { file: &copy, offset: None });
    assert_eq!(splice(ends.0, ends.1, 9000, 0, u64::MAX), Ok(5000));
    assert_eq!(copy.inode().size(), 5000);
    let (mut from, mut to) = (0, 5000);
    let ends =
        (&mut End { file: &file, offset: Some(&mut from) }, &mut End { file: &copy, offset: Some(&mut to) });
    assert_eq!(copy_file_range(ends.0, ends.1, 20_000, 0, u64::MAX), Ok(10_000));
    assert_eq!(copy.inode().size(), 15_000);
}
