//! System V semaphores, messages, shared memory (sysvipc(7)), and POSIX message queues (mq_overview(7)).

use crate::prelude::*;

tests!(
    "ipc":
    sem_basics, sem_waits_and_wakes, sem_errors, sem_undo_at_exit, sem_timeout_and_removal, sem_zero_and_order,
    msg_types_and_flags, msg_full_queue_waits, msg_errors_and_removal, shm_shares_and_counts,
    shm_removed_while_attached, shm_attach_rules, shm_lock_has_a_limit, keys_and_modes, namespaces_have_their_own, info_commands,
    proc_lists_objects, mq_send_and_receive, mq_priorities_and_attributes, mq_limits_and_names, mq_notify_signal,
    mq_poll_and_timeout, mq_file_system, identifiers_by_demand,
);

const RMID: i32 = 0;
const STAT: i32 = 2;
const KEY: i32 = 0x4b45_454c;

fn semget(key: i32, n: i32, flags: i32) -> Result<i32, Errno> {
    sys!(SYS_semget, key, n, flags).map(|id| id as i32)
}

/// A private set with these values.
fn sems(values: &[u16]) -> i32 {
    let id = semget(0, values.len() as i32, 0o600).unwrap();
    sys!(SYS_semctl, id, 0, SETALL, values).unwrap();
    id
}

/// Operations of (semaphore, amount, flags).
fn semop(id: i32, ops: &[(u16, i16, i32)]) -> Result<usize, Errno> {
    let words: Vec<u16> = ops.iter().flat_map(|(num, op, flags)| [*num, *op as u16, *flags as u16]).collect();
    sys!(SYS_semop, id, &words[..], ops.len())
}

fn value(id: i32, num: i32) -> usize {
    sys!(SYS_semctl, id, num, GETVAL, 0).unwrap()
}

fn sem_basics() {
    let id = sems(&[1, 2, 3]);
    semop(id, &[(0, -1, 0), (1, 5, 0)]).unwrap();
    let mut all = [9u16; 3];
    sys!(SYS_semctl, id, 0, GETALL, &mut all).unwrap();
    assert_eq!(all, [0, 7, 3]);
    assert_eq!(sys!(SYS_semctl, id, 0, GETPID, 0), Ok(getpid() as usize));
    assert_eq!(semop(id, &[(2, -3, 0), (0, -1, IPC_NOWAIT)]), Err(EAGAIN));
    assert_eq!(value(id, 2), 3, "all or nothing");
    sys!(SYS_semctl, id, 2, SETVAL, 11).unwrap();
    assert_eq!(value(id, 2), 11);
    let mut ds = [0u64; 13];
    sys!(SYS_semctl, id, 0, STAT, &mut ds).unwrap();
    assert_eq!(ds[10], 3, "sem_nsems");
    assert!(ds[6] > 0 && ds[8] > 0, "times");
    sys!(SYS_semctl, id, 0, RMID, 0).unwrap();
    assert_eq!(semop(id, &[(0, 1, 0)]), Err(EINVAL));
}

fn sem_waits_and_wakes() {
    let id = sems(&[0, 0]);
    let c = child(|| {
        semop(id, &[(0, -2, 0), (1, 1, 0)]).unwrap();
    });
    while sys!(SYS_semctl, id, 0, GETNCNT, 0) != Ok(1) {
        nap(1);
    }
    semop(id, &[(0, 1, 0)]).unwrap();
    nap(10);
    assert_eq!(c.wait_for(WNOHANG), None);
    semop(id, &[(0, 1, 0)]).unwrap();
    c.ok();
    assert_eq!((value(id, 0), value(id, 1)), (0, 1));
    sys!(SYS_semctl, id, 0, RMID, 0).unwrap();
}

fn sem_errors() {
    let id = sems(&[0, 0]);
    assert_eq!(semop(id, &[]), Err(EINVAL));
    assert_eq!(semop(id, &[(2, 1, 0)]), Err(EFBIG));
    assert_eq!(semop(id, &[(0, 32767, 0), (0, 1, 0)]), Err(ERANGE));
    assert_eq!(sys!(SYS_semctl, id, 0, SETVAL, 32768), Err(ERANGE));
    assert_eq!(sys!(SYS_semctl, id, 2, SETVAL, 1), Err(EINVAL));
    assert_eq!(sys!(SYS_semop, id, BAD, 1), Err(EFAULT));
    assert_eq!(sys!(SYS_semop, id, BAD, 100_000), Err(E2BIG));
    assert_eq!(sys!(SYS_semctl, id, 0, 999, 0), Err(EINVAL));
    assert_eq!(semget(0, 0, 0o600), Err(EINVAL));
    assert_eq!(semget(0, -1, 0o600), Err(EINVAL));
    assert_eq!(semop(-1, &[(0, 1, 0)]), Err(EINVAL));
    sys!(SYS_semctl, id, 0, RMID, 0).unwrap();
}

fn sem_undo_at_exit() {
    let id = sems(&[5, 0]);
    aside(|| {
        semop(id, &[(0, -3, SEM_UNDO), (1, 4, SEM_UNDO)]).unwrap();
        semop(id, &[(0, 1, SEM_UNDO)]).unwrap();
        assert_eq!((value(id, 0), value(id, 1)), (3, 4));
    });
    assert_eq!((value(id, 0), value(id, 1)), (5, 0));
    // The end of a process wakes those who wait for what it held.
    semop(id, &[(0, -5, 0)]).unwrap();
    let holder = child(|| {
        semop(id, &[(1, 1, 0), (0, 1, SEM_UNDO)]).unwrap();
        nap(20_000);
    });
    semop(id, &[(1, -1, 0)]).unwrap();
    let waiter = child(|| {
        semop(id, &[(0, 0, 0)]).unwrap();
    });
    nap(10);
    holder.kill(SIGKILL);
    holder.wait();
    waiter.ok();
    sys!(SYS_semctl, id, 0, RMID, 0).unwrap();
}

fn sem_timeout_and_removal() {
    let id = sems(&[0]);
    let words = [0u16, 0xffff, 0];
    let mut ts: timespec = zero();
    ts.tv_nsec = 20_000_000;
    assert_eq!(sys!(SYS_semtimedop, id, &words, 1, &ts), Err(EAGAIN));
    ts.tv_nsec = -1;
    assert_eq!(sys!(SYS_semtimedop, id, &words, 1, &ts), Err(EINVAL));
    let c = child(|| assert_eq!(semop(id, &[(0, -1, 0)]), Err(Errno::EIDRM)));
    let d = child(|| {
        on_signal(SIGUSR1, 0, count);
        assert_eq!(semop(id, &[(0, -1, 0)]), Err(EINTR));
    });
    while sys!(SYS_semctl, id, 0, GETNCNT, 0) != Ok(2) {
        nap(1);
    }
    d.kill(SIGUSR1);
    d.ok();
    sys!(SYS_semctl, id, 0, RMID, 0).unwrap();
    c.ok();
}

fn sem_zero_and_order() {
    let id = sems(&[2]);
    let c = child(|| {
        semop(id, &[(0, 0, 0), (0, 7, 0)]).unwrap();
    });
    while sys!(SYS_semctl, id, 0, GETZCNT, 0) != Ok(1) {
        nap(1);
    }
    semop(id, &[(0, -2, 0)]).unwrap();
    c.ok();
    assert_eq!(value(id, 0), 7);
    sys!(SYS_semctl, id, 0, RMID, 0).unwrap();
}

fn msgget() -> i32 {
    sys!(SYS_msgget, 0, 0o600).unwrap() as i32
}

fn send(id: i32, kind: i64, text: &[u8], flags: i32) -> Result<usize, Errno> {
    let mut buf = kind.to_ne_bytes().to_vec();
    buf.extend(text);
    sys!(SYS_msgsnd, id, &buf[..], text.len(), flags)
}

fn receive(id: i32, max: usize, kind: i64, flags: i32) -> Result<(i64, Vec<u8>), Errno> {
    let mut buf = vec![0u8; 8 + max];
    let len = sys!(SYS_msgrcv, id, &mut buf[..], max, kind, flags)?;
    Ok((i64::from_ne_bytes(buf[..8].try_into().unwrap()), buf[8..8 + len].to_vec()))
}

fn msg_types_and_flags() {
    let id = msgget();
    for (kind, text) in [(5, "five"), (3, "three"), (9, "nine"), (3, "again")] {
        send(id, kind, text.as_bytes(), 0).unwrap();
    }
    let get = |kind, flags| receive(id, 100, kind, flags).map(|(_, text)| String::from_utf8(text).unwrap());
    assert_eq!(get(1, MSG_COPY | IPC_NOWAIT), Ok("three".into()));
    assert_eq!(get(0, MSG_COPY), Err(EINVAL));
    assert_eq!(get(-4, 0), Ok("three".into()));
    assert_eq!(get(5, MSG_EXCEPT), Ok("nine".into()));
    assert_eq!(get(7, IPC_NOWAIT), Err(Errno::ENOMSG));
    assert_eq!(receive(id, 2, 0, 0), Err(E2BIG));
    assert_eq!(receive(id, 2, 0, MSG_NOERROR), Ok((5, b"fi".to_vec())));
    let mut ds = [0u64; 15];
    sys!(SYS_msgctl, id, STAT, &mut ds).unwrap();
    assert_eq!((ds[9], ds[10]), (5, 1), "bytes and messages");
    assert_eq!(ds[12], getpid() as u64 | (getpid() as u64) << 32, "last sender and receiver");
    sys!(SYS_msgctl, id, RMID, 0).unwrap();
}

fn msg_full_queue_waits() {
    let id = msgget();
    let text = [7u8; 8192];
    send(id, 1, &text, 0).unwrap();
    send(id, 1, &text, 0).unwrap();
    assert_eq!(send(id, 1, b"x", IPC_NOWAIT), Err(EAGAIN));
    let c = child(|| {
        send(id, 2, b"late", 0).unwrap();
    });
    nap(10);
    assert_eq!(receive(id, 8192, 0, 0).unwrap().1.len(), 8192);
    c.ok();
    assert_eq!(receive(id, 100, 2, 0), Ok((2, b"late".to_vec())));
    let r = child(|| assert_eq!(receive(id, 100, 4, 0), Ok((4, vec![]))));
    nap(10);
    send(id, 4, b"", 0).unwrap();
    r.ok();
    sys!(SYS_msgctl, id, RMID, 0).unwrap();
}

fn msg_errors_and_removal() {
    let id = msgget();
    assert_eq!(send(id, 0, b"x", 0), Err(EINVAL));
    assert_eq!(send(id, -1, b"x", 0), Err(EINVAL));
    assert_eq!(sys!(SYS_msgsnd, id, BAD, 1, 0), Err(EFAULT));
    let big = vec![0u8; 9000];
    assert_eq!(send(id, 1, &big, 0), Err(EINVAL));
    let waiting = child(|| assert_eq!(receive(id, 1, 0, 0), Err(Errno::EIDRM)));
    let signalled = child(|| {
        on_signal(SIGUSR1, SA_RESTART, count);
        assert_eq!(receive(id, 1, 0, 0), Err(EINTR), "never restarted");
    });
    nap(30);
    signalled.kill(SIGUSR1);
    signalled.ok();
    sys!(SYS_msgctl, id, RMID, 0).unwrap();
    waiting.ok();
    assert_eq!(sys!(SYS_msgctl, id, RMID, 0), Err(EINVAL));
}

fn shmget(size: usize) -> i32 {
    sys!(SYS_shmget, 0, size, 0o600).unwrap() as i32
}

fn attached(id: i32) -> u64 {
    let mut ds = [0u64; 14];
    sys!(SYS_shmctl, id, STAT, &mut ds).unwrap();
    ds[11]
}

fn shm_shares_and_counts() {
    let id = shmget(2 * PAGE);
    let one = sys!(SYS_shmat, id, 0, 0).unwrap();
    let two = sys!(SYS_shmat, id, 0, SHM_RDONLY).unwrap();
    assert!(one != two && attached(id) == 2);
    poke(one + PAGE, 42);
    assert_eq!(peek(two + PAGE), 42);
    let c = child(|| {
        assert_eq!(attached(id), 4, "a fork attaches");
        poke(one, 7);
        assert_eq!(sys!(SYS_shmdt, two), Ok(0));
        assert_eq!(attached(id), 3);
        exit(0);
    });
    c.ok();
    assert_eq!((attached(id), peek(two)), (2, 7));
    assert_eq!(fate(|| poke(two, 1)), Status::Signal(SIGSEGV));
    let maps = slurp("/proc/self/maps");
    assert!(maps.contains("/SYSV00000000 (deleted)"), "{maps}");
    sys!(SYS_shmdt, one).unwrap();
    assert_eq!(sys!(SYS_shmdt, one), Err(EINVAL));
    sys!(SYS_shmdt, two).unwrap();
    assert_eq!(attached(id), 0);
    let again = sys!(SYS_shmat, id, 0, 0).unwrap();
    assert_eq!(peek(again + PAGE), 42, "the memory stays without attachments");
    sys!(SYS_shmctl, id, RMID, 0).unwrap();
}

fn shm_removed_while_attached() {
    let id = sys!(SYS_shmget, KEY, PAGE, IPC_CREAT | 0o600).unwrap() as i32;
    let at = sys!(SYS_shmat, id, 0, 0).unwrap();
    sys!(SYS_shmctl, id, RMID, 0).unwrap();
    assert_eq!(sys!(SYS_shmget, KEY, PAGE, 0), Err(ENOENT), "the key is free");
    let mut ds = [0u32; 28];
    sys!(SYS_shmctl, id, STAT, &mut ds).unwrap();
    assert_eq!((ds[0], ds[5]), (0, 0o1600), "SHM_DEST");
    poke(at, 5);
    let again = sys!(SYS_shmat, id, 0, 0).unwrap();
    assert_eq!(peek(again), 5);
    sys!(SYS_shmdt, at).unwrap();
    sys!(SYS_shmdt, again).unwrap();
    assert_eq!(sys!(SYS_shmat, id, 0, 0), Err(EINVAL));
}

fn shm_attach_rules() {
    let id = shmget(PAGE);
    let place = anon(2 * PAGE);
    assert_eq!(sys!(SYS_shmat, id, place, 0), Err(EINVAL), "something is there");
    assert_eq!(sys!(SYS_shmat, id, place + 1, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_shmat, id, place + 1, SHM_RND | SHM_REMAP), Ok(place));
    assert_eq!(sys!(SYS_shmat, id, 0, SHM_REMAP), Err(EINVAL));
    // Unmapping the middle of nothing else: shmdt(2) takes what is left of the attachment.
    let big = shmget(4 * PAGE);
    let at = sys!(SYS_shmat, big, 0, 0).unwrap();
    sys!(SYS_munmap, at + PAGE, PAGE).unwrap();
    assert_eq!(attached(big), 2);
    sys!(SYS_shmdt, at).unwrap();
    assert_eq!(attached(big), 0);
    assert_eq!(sys!(SYS_shmget, 0, 0, 0o600), Err(EINVAL));
    assert_eq!(sys!(SYS_shmctl, big, SHM_LOCK, 0), Ok(0));
    assert_eq!(sys!(SYS_shmctl, big, SHM_UNLOCK, 0), Ok(0));
    for id in [id, big] {
        sys!(SYS_shmctl, id, RMID, 0).unwrap();
    }
}

fn shm_lock_has_a_limit() {
    aside(|| {
        let r = rlimit { rlim_cur: 2 * PAGE as u64, rlim_max: 2 * PAGE as u64 };
        sys!(SYS_setrlimit, RLIMIT_MEMLOCK, &r).unwrap();
        drop_root();
        let (small, big) = (shmget(2 * PAGE), shmget(2 * PAGE + 1));
        assert_eq!(sys!(SYS_shmctl, big, SHM_LOCK, 0), Err(ENOMEM));
        assert_eq!(sys!(SYS_shmctl, small, SHM_LOCK, 0), Ok(0));
        for id in [small, big] {
            sys!(SYS_shmctl, id, RMID, 0).unwrap();
        }
    });
}

fn keys_and_modes() {
    let id = semget(KEY, 2, IPC_CREAT | IPC_EXCL | 0o600).unwrap();
    assert_eq!(semget(KEY, 2, IPC_CREAT | IPC_EXCL | 0o600), Err(EEXIST));
    assert_eq!(semget(KEY, 1, 0), Ok(id));
    assert_eq!(semget(KEY, 3, 0), Err(EINVAL));
    assert_eq!(semget(KEY + 1, 1, 0), Err(ENOENT));
    aside(|| {
        drop_root();
        assert_eq!(semget(KEY, 1, 0o400), Err(EACCES));
        assert_eq!(semget(KEY, 1, 0), Ok(id), "no right asked for");
        assert_eq!(semop(id, &[(0, 1, 0)]), Err(EACCES));
        assert_eq!(sys!(SYS_semctl, id, 0, RMID, 0), Err(EPERM));
        assert_eq!(sys!(SYS_semctl, id, 0, GETVAL, 0), Err(EACCES));
    });
    // The owner gives it to everyone.
    let mut ds = [0u32; 26];
    sys!(SYS_semctl, id, 0, STAT, &mut ds).unwrap();
    assert_eq!((ds[0] as i32, ds[5]), (KEY, 0o600));
    ds[5] = 0o666;
    sys!(SYS_semctl, id, 0, 1, &mut ds).unwrap();
    aside(|| {
        drop_root();
        semop(id, &[(0, 1, 0)]).unwrap();
    });
    sys!(SYS_semctl, id, 0, RMID, 0).unwrap();
    let new = semget(KEY, 2, IPC_CREAT | 0o600).unwrap();
    assert_ne!(new, id, "an identifier is not used again at once");
    sys!(SYS_semctl, new, 0, RMID, 0).unwrap();
}

fn namespaces_have_their_own() {
    let id = sys!(SYS_shmget, KEY, PAGE, IPC_CREAT | 0o600).unwrap() as i32;
    aside(|| {
        sys!(SYS_unshare, CLONE_NEWIPC).unwrap();
        assert_eq!(sys!(SYS_shmget, KEY, PAGE, 0), Err(ENOENT));
        assert_eq!(sys!(SYS_shmat, id, 0, 0), Err(EINVAL));
        assert_eq!(slurp("/proc/sysvipc/shm").lines().count(), 1);
        sys!(SYS_shmget, KEY, PAGE, IPC_CREAT | 0o600).unwrap();
    });
    assert_eq!(sys!(SYS_shmget, KEY, PAGE, 0), Ok(id as usize));
    sys!(SYS_shmctl, id, RMID, 0).unwrap();
}

fn info_commands() {
    let id = sems(&[1, 2]);
    let mut info = [0i32; 10];
    let highest = sys!(SYS_semctl, 0, 0, 3, &mut info).unwrap();
    assert_eq!((info[1], info[4], info[5], info[8]), (32000, 32000, 500, 32767));
    let mut ds = [0u64; 13];
    let found = (0..=highest).any(|index| sys!(SYS_semctl, index, 0, SEM_STAT, &mut ds) == Ok(id as usize));
    assert!(found);
    sys!(SYS_semctl, 0, 0, SEM_INFO, &mut info).unwrap();
    assert!(info[7] >= 1 && info[9] >= 2);
    let mut limits = [0u64; 9];
    sys!(SYS_shmctl, 0, 3, &mut limits).unwrap();
    assert_eq!((limits[1], limits[2]), (1, 4096));
    let mut msg = [0i32; 8];
    sys!(SYS_msgctl, 0, 3, &mut msg).unwrap();
    assert_eq!((msg[2], msg[3], msg[4]), (8192, 16384, 32000));
    assert_eq!(slurp("/proc/sys/kernel/sem"), "32000\t1024000000\t500\t32000\n");
    assert_eq!(slurp("/proc/sys/kernel/shmmax"), "18446744073692774399\n");
    sys!(SYS_semctl, id, 0, RMID, 0).unwrap();
}

fn proc_lists_objects() {
    let (sem, msg, shm) = (sems(&[1]), msgget(), shmget(PAGE));
    for (name, id) in [("sem", sem), ("msg", msg), ("shm", shm)] {
        let text = slurp(&format!("/proc/sysvipc/{name}"));
        let line = text.lines().find(|line| line.split_whitespace().nth(1) == Some(&id.to_string()));
        let words: Vec<&str> = line.unwrap_or_else(|| panic!("{text}")).split_whitespace().collect();
        assert_eq!((words[0], words[2]), ("0", "600"), "{text}");
    }
    sys!(SYS_semctl, sem, 0, RMID, 0).unwrap();
    sys!(SYS_msgctl, msg, RMID, 0).unwrap();
    sys!(SYS_shmctl, shm, RMID, 0).unwrap();
}

/// Opens queue `name` with `messages` of `bytes`.
fn mq_open(name: &std::ffi::CStr, flags: i32, messages: i64, bytes: i64) -> Result<i32, Errno> {
    let attr = [0i64, messages, bytes, 0, 0, 0, 0, 0];
    sys!(SYS_mq_open, name, flags, 0o600, &attr).map(|fd| fd as i32)
}

fn mq_new(name: &std::ffi::CStr, messages: i64, bytes: i64) -> i32 {
    mq_open(name, O_CREAT | O_EXCL | O_RDWR, messages, bytes).unwrap()
}

fn mq_send(fd: i32, text: &[u8], priority: u32) -> Result<usize, Errno> {
    sys!(SYS_mq_timedsend, fd, text, text.len(), priority, 0)
}

fn mq_receive(fd: i32, len: usize) -> Result<(Vec<u8>, u32), Errno> {
    let (mut buf, mut priority) = (vec![0u8; len], 0u32);
    let got = sys!(SYS_mq_timedreceive, fd, &mut buf[..], len, &mut priority, 0)?;
    buf.truncate(got);
    Ok((buf, priority))
}

fn mq_send_and_receive() {
    let fd = mq_new(c"keel-a", 2, 16);
    assert_eq!(sys!(SYS_fcntl, fd, F_GETFD), Ok(FD_CLOEXEC as usize));
    mq_send(fd, b"one", 0).unwrap();
    mq_send(fd, b"two", 0).unwrap();
    let c = child(|| {
        mq_send(fd, b"three", 0).unwrap();
    });
    nap(10);
    for text in [&b"one"[..], b"two", b"three"] {
        assert_eq!(mq_receive(fd, 16), Ok((text.to_vec(), 0)));
    }
    c.ok();
    assert_eq!(mq_send(fd, &[0; 17], 0), Err(EMSGSIZE));
    assert_eq!(mq_receive(fd, 15), Err(EMSGSIZE));
    assert_eq!(mq_send(fd, b"x", 32768), Err(EINVAL));
    assert_eq!(mq_send(pipe().1, b"x", 0), Err(EBADF));
    let reader = sys!(SYS_mq_open, c"keel-a", O_RDONLY | O_NONBLOCK, 0, 0).unwrap() as i32;
    assert_eq!(mq_send(reader, b"x", 0), Err(EBADF));
    assert_eq!(mq_receive(reader, 16), Err(EAGAIN));
    sys!(SYS_mq_unlink, c"keel-a").unwrap();
    mq_send(fd, b"still", 1).unwrap();
    assert_eq!(mq_receive(reader, 16), Ok((b"still".to_vec(), 1)));
    assert_eq!(sys!(SYS_mq_unlink, c"keel-a"), Err(ENOENT));
}

fn mq_priorities_and_attributes() {
    let fd = mq_new(c"keel-b", 4, 8);
    for (text, priority) in [(b"a", 1), (b"b", 7), (b"c", 7), (b"d", 0)] {
        mq_send(fd, text, priority).unwrap();
    }
    let mut attr = [9i64; 8];
    sys!(SYS_mq_getsetattr, fd, 0, &mut attr).unwrap();
    assert_eq!(attr[..4], [0, 4, 8, 4]);
    let new = [O_NONBLOCK as i64, 0, 0, 0, 0, 0, 0, 0];
    sys!(SYS_mq_getsetattr, fd, &new, 0).unwrap();
    assert_eq!(mq_send(fd, b"e", 9), Err(EAGAIN));
    let mut order = String::new();
    while let Ok((text, _)) = mq_receive(fd, 8) {
        order.push(text[0] as char);
    }
    assert_eq!(order, "bcad");
    assert_eq!(sys!(SYS_mq_getsetattr, fd, &[1i64, 0, 0, 0, 0, 0, 0, 0], 0), Err(EINVAL));
    sys!(SYS_mq_unlink, c"keel-b").unwrap();
}

fn mq_limits_and_names() {
    assert_eq!(mq_open(c"a/b", O_CREAT | O_RDWR, 1, 1), Err(EACCES));
    assert_eq!(mq_open(c"", O_CREAT | O_RDWR, 1, 1), Err(ENOENT));
    assert_eq!(mq_open(c"keel-none", O_RDWR, 1, 1), Err(ENOENT));
    assert_eq!(mq_open(c"keel-c", O_CREAT | O_RDWR, 0, 1), Err(EINVAL));
    assert_eq!(mq_open(c"keel-c", O_CREAT | O_RDWR, -1, 1), Err(EINVAL));
    assert_eq!(mq_open(c"keel-c", O_CREAT | O_RDWR, 65537, 1), Err(EINVAL));
    assert_eq!(slurp("/proc/sys/fs/mqueue/msg_max"), "10\n");
    aside(|| {
        drop_root();
        assert_eq!(mq_open(c"keel-c", O_CREAT | O_RDWR, 11, 1), Err(EINVAL));
        assert_eq!(mq_open(c"keel-c", O_CREAT | O_RDWR, 10, 8193), Err(EINVAL));
        let none = [0u64, 0];
        sys!(SYS_prlimit64, 0, RLIMIT_MSGQUEUE, &none, 0).unwrap();
        assert_eq!(mq_open(c"keel-c", O_CREAT | O_RDWR, 1, 1), Err(EMFILE));
    });
    let fd = mq_new(c"keel-c", 1, 1);
    assert_eq!(mq_open(c"keel-c", O_CREAT | O_EXCL | O_RDWR, 1, 1), Err(EEXIST));
    aside(|| {
        drop_root();
        assert_eq!(mq_open(c"keel-c", O_RDWR, 1, 1), Err(EACCES));
        assert_eq!(sys!(SYS_mq_unlink, c"keel-c"), Err(EPERM));
    });
    close(fd);
    sys!(SYS_mq_unlink, c"keel-c").unwrap();
}

fn mq_notify_signal() {
    let fd = mq_new(c"keel-d", 4, 8);
    on_signal(SIGUSR1, 0, count);
    let mut event: sigevent = zero();
    event.sigev_notify = SIGEV_SIGNAL;
    event.sigev_signo = SIGUSR1;
    sys!(SYS_mq_notify, fd, &event).unwrap();
    aside(|| {
        assert_eq!(sys!(SYS_mq_notify, fd, &event), Err(EBUSY));
        mq_send(fd, b"x", 0).unwrap();
    });
    settle();
    assert_eq!(seen(), 1);
    assert_eq!(LAST_CODE.load(SeqCst), SI_MESGQ);
    // Only once, and only for a message that comes to an empty queue.
    sys!(SYS_mq_notify, fd, &event).unwrap();
    mq_send(fd, b"y", 0).unwrap();
    assert_eq!(seen(), 1);
    sys!(SYS_mq_notify, fd, 0).unwrap();
    event.sigev_signo = 65;
    assert_eq!(sys!(SYS_mq_notify, fd, &event), Err(EINVAL));
    sys!(SYS_mq_unlink, c"keel-d").unwrap();
}

fn mq_poll_and_timeout() {
    let fd = mq_new(c"keel-e", 1, 8);
    assert_eq!(poll1(fd, POLLIN | POLLOUT, 0), POLLOUT);
    mq_send(fd, b"x", 0).unwrap();
    assert_eq!(poll1(fd, POLLIN | POLLOUT, 0), POLLIN);
    let past: timespec = zero();
    assert_eq!(sys!(SYS_mq_timedsend, fd, b"y", 1, 0, &past), Err(ETIMEDOUT));
    let mut soon: timespec = zero();
    sys!(SYS_clock_gettime, CLOCK_REALTIME, &mut soon).unwrap();
    soon.tv_sec += 1;
    mq_receive(fd, 8).unwrap();
    let mut buf = [0u8; 8];
    let (took, result) = timed(|| sys!(SYS_mq_timedreceive, fd, &mut buf, 8, 0, &soon));
    assert_eq!(result, Err(ETIMEDOUT));
    assert!(took < 5000);
    let bad = [0i64, 1_000_000_000];
    assert_eq!(sys!(SYS_mq_timedsend, fd, b"y", 1, 0, &bad), Err(EINVAL));
    sys!(SYS_mq_unlink, c"keel-e").unwrap();
}

fn mq_file_system() {
    sys!(SYS_unshare, CLONE_NEWNS | CLONE_NEWIPC).unwrap();
    sys!(SYS_mount, c"none", c"/", 0, MS_REC | MS_PRIVATE, 0).unwrap();
    let place = mkdir("mq");
    sys!(SYS_mount, c"mqueue", &place, c"mqueue", 0, 0).unwrap();
    let fd = mq_new(c"shown", 4, 8);
    mq_send(fd, b"12345", 0).unwrap();
    let root = place.to_str().unwrap();
    let text = slurp(&format!("{root}/shown"));
    assert!(text.starts_with("QSIZE:5          NOTIFY:0     SIGNO:0     NOTIFY_PID:0     \n"), "{text:?}");
    assert_eq!(std::fs::read_dir(root).unwrap().count(), 1);
    std::fs::remove_file(format!("{root}/shown")).unwrap();
    assert_eq!(mq_open(c"shown", O_RDWR, 1, 1), Err(ENOENT));
    sys!(SYS_umount2, &place, MNT_DETACH).unwrap();
}

fn identifiers_by_demand() {
    sys!(SYS_unshare, CLONE_NEWIPC).unwrap();
    let demand = |name: &str, id: &str| {
        let fd = open(&cstr(format!("/proc/sys/kernel/{name}_next_id")), O_RDWR).unwrap();
        let result = write(fd, id.as_bytes());
        close(fd);
        result
    };
    let current = |name: &str| slurp(&format!("/proc/sys/kernel/{name}_next_id"));
    let wanted = 5 << 15 | 9;
    for (name, call, size) in [("msg", SYS_msgget, 0o600), ("sem", SYS_semget, 1), ("shm", SYS_shmget, PAGE)] {
        let get = || sys!(call, 0, size, 0o600);
        assert_eq!(current(name), "-1\n");
        assert_eq!(demand(name, "-5"), Err(EINVAL));
        demand(name, &wanted.to_string()).unwrap();
        assert_eq!(current(name), format!("{wanted}\n"));
        assert_eq!(get(), Ok(wanted), "{name}");
        assert_eq!(current(name), "-1\n");
        assert_eq!(get(), Ok(0), "{name}: then as ever");
    }
}
