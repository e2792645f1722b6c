//! execve(2): what is kept, what is reset, scripts, and files that are no programs.

use std::ffi::CString;

use crate::prelude::*;

tests!(
    "exec":
    static_program_runs, arguments_and_environment_arrive, long_arguments, too_big_is_e2big,
    empty_argv_gets_one_empty_argument, missing_and_forbidden_programs, garbage_is_enoexec,
    damaged_elf_is_refused, elf_beyond_the_file_is_refused, minimal_elf_runs, jump_into_nothing_is_sigsegv,
    missing_interpreter_of_an_elf, script_gets_its_arguments, script_without_interpreter, script_loop_is_eloop,
    descriptors_and_cloexec, failed_exec_keeps_cloexec_descriptors, signal_actions, pid_group_and_session_stay,
    auxiliary_vector, set_user_id_program, execveat_by_descriptor, comm_is_the_files_name, bad_pointers,
    exec_from_a_thread_replaces_the_process,
    record_locks_outlive_exec_from_a_thread, what_cannot_be_read_stays_secret, text_file_busy, noexec_by_user, memory_file_held_open_for_writing,
);

fn execve(program: &CString, argv: &[&str], envp: &[&str]) -> Errno {
    let argv: Vec<CString> = argv.iter().map(|a| cstr(*a)).collect();
    let envp: Vec<CString> = envp.iter().map(|a| cstr(*a)).collect();
    let words = |v: &[CString]| -> Vec<usize> { v.iter().map(|s| s.as_ptr() as usize).chain([0]).collect() };
    sys!(SYS_execve, program, &words(&argv)[..], &words(&envp)[..]).unwrap_err()
}

/// Executes this program's helper `job`; the child's fate.
fn helper(before: impl FnOnce(), job: &[&str]) -> Status {
    child(|| {
        before();
        let mut argv = vec!["user-tests", MARK];
        argv.extend(job);
        panic!("{:?}", execve(&me(), &argv, &[]));
    })
    .wait()
}

/// What the program prints that `f` executes, with its fate.
fn output(f: impl FnOnce() -> Errno) -> (String, Status) {
    let (r, w) = pipe();
    let c = child(|| {
        sys!(SYS_dup2, w, 1).unwrap();
        close(r);
        close(w);
        let e = f();
        write(1, format!("{e:?}").as_bytes()).unwrap();
        exit(98);
    });
    close(w);
    let mut text = Vec::new();
    loop {
        match read_vec(r, 65536).unwrap() {
            part if part.is_empty() => break,
            part => text.extend(part),
        }
    }
    (String::from_utf8_lossy(&text).into_owned(), c.wait())
}

fn program(name: &str, content: &[u8], mode: u32) -> CString {
    let p = file(name, content);
    sys!(SYS_chmod, &p, mode).unwrap();
    p
}

fn static_program_runs() {
    assert_eq!(helper(|| {}, &["exit", "17"]), Status::Exit(17));
}

fn arguments_and_environment_arrive() {
    let (text, status) = output(|| execve(&me(), &["x", MARK, "args", "a", "", "b c", "ü"], &[]));
    assert_eq!((text.as_str(), status), ("[a][][b c][ü]", Status::Exit(0)));
    let (text, _) = output(|| execve(&me(), &["x", MARK, "env"], &["A=1", "B="]));
    assert_eq!(text, "[A=1][B=]");
}

fn long_arguments() {
    let long = "y".repeat(100_000);
    let (text, status) = output(|| execve(&me(), &["x", MARK, "args", &long, &long], &[]));
    assert_eq!(status, Status::Exit(0));
    assert_eq!(text.len(), 2 * 100_002);
    let many = vec!["z"; 5000];
    let mut argv = vec!["x", MARK, "argc"];
    argv.extend(&many);
    let (_, status) = output(|| execve(&me(), &argv, &[]));
    assert_eq!(status, Status::Exit(5000 & 255));
}

fn too_big_is_e2big() {
    let big = "y".repeat(128 << 10);
    assert_eq!(execve(&me(), &["x", &big], &[]), E2BIG);
    let part = "y".repeat(120 << 10);
    assert_eq!(execve(&me(), &vec![part.as_str(); 60], &[]), E2BIG);
}

fn empty_argv_gets_one_empty_argument() {
    // `main` of this program ends with 88 when that is all it gets.
    let run = |argv: usize| fate(|| ignore(sys!(SYS_execve, &me(), argv, 0)));
    assert_eq!(run([0usize].as_ptr() as usize), Status::Exit(88));
    assert_eq!(run(0), Status::Exit(88));
}

fn missing_and_forbidden_programs() {
    assert_eq!(execve(&path("none"), &["x"], &[]), ENOENT);
    assert_eq!(execve(&cstr(""), &["x"], &[]), ENOENT);
    assert_eq!(execve(&cstr(dir()), &["x"], &[]), EACCES);
    assert_eq!(execve(&program("plain", b"\x7fELF", 0o644), &["x"], &[]), EACCES);
    let f = file("file", b"");
    assert_eq!(execve(&cstr(format!("{}/x", f.to_str().unwrap())), &["x"], &[]), ENOTDIR);
    assert_eq!(execve(&cstr("a".repeat(5000)), &["x"], &[]), ENAMETOOLONG);
    assert_eq!(execve(&cstr(format!("/{}", "a".repeat(256))), &["x"], &[]), ENAMETOOLONG);
}

fn garbage_is_enoexec() {
    let cases: [&[u8]; 7] =
        [b"", b"\x7f", b"hello\n", b"\x7fELF", b"\x7fELF\x02\x01\x01", &[0; 4096], b"#!\n"];
    for (i, content) in cases.iter().enumerate() {
        let p = program(&format!("g{i}"), content, 0o755);
        assert_eq!(execve(&p, &["x"], &[]), ENOEXEC, "case {i}");
    }
}

/// An ELF header for x86-64 with one program header; `edit` damages it.
fn elf(edit: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut e = vec![0u8; 256];
    e[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\x00");
    e[16] = 2; // ET_EXEC
    e[18] = 62; // EM_X86_64
    e[20] = 1;
    e[24..32].copy_from_slice(&0x40_0000u64.to_le_bytes()); // entry
    e[32] = 64; // e_phoff
    e[52] = 64;
    e[54] = 56; // e_phentsize
    e[56] = 1; // e_phnum
    e[64] = 1; // PT_LOAD
    e[68] = 5; // R X
    e[64 + 16..64 + 24].copy_from_slice(&0x40_0000u64.to_le_bytes());
    e[64 + 32..64 + 40].copy_from_slice(&256u64.to_le_bytes());
    e[64 + 40..64 + 48].copy_from_slice(&256u64.to_le_bytes());
    e[64 + 48..64 + 56].copy_from_slice(&4096u64.to_le_bytes());
    edit(&mut e);
    e
}

fn damaged_elf_is_refused() {
    let mut n = 0;
    let mut check = |e: Vec<u8>, want: Errno| {
        n += 1;
        let p = program(&format!("e{n}"), &e, 0o755);
        assert_eq!(execve(&p, &["x"], &[]), want, "case {n}");
    };
    check(elf(|e| e[18] = 40), ENOEXEC); // another machine
    check(elf(|e| e[16] = 1), ENOEXEC); // ET_REL
    check(elf(|e| e[16] = 4), ENOEXEC); // ET_CORE
    check(elf(|e| e[54] = 32), ENOEXEC); // size of a program header
    check(elf(|e| e[56] = 0), ENOEXEC); // no program headers
    check(elf(|e| e[57] = 0xff), ENOEXEC); // too many program headers
}

fn elf_beyond_the_file_is_refused() {
    let p = program("short", &elf(|e| e[32..40].copy_from_slice(&0x7fff_ffff_0000u64.to_le_bytes())), 0o755);
    assert!(matches!(execve(&p, &["x"], &[]), ENOEXEC | EIO | EINVAL));
}

fn minimal_elf_runs() {
    // mov edi, 42; mov eax, 231; syscall
    let code = [0xbf, 42, 0, 0, 0, 0xb8, 231, 0, 0, 0, 0x0f, 0x05];
    let p = program(
        "tiny",
        &elf(|e| {
            e[24..32].copy_from_slice(&0x40_0080u64.to_le_bytes());
            e[128..140].copy_from_slice(&code);
        }),
        0o755,
    );
    assert_eq!(fate(|| ignore(execve(&p, &["x"], &[]))), Status::Exit(42));
}

fn jump_into_nothing_is_sigsegv() {
    let p = program("wild", &elf(|e| e[24..32].copy_from_slice(&0x1234u64.to_le_bytes())), 0o755);
    assert_eq!(fate(|| ignore(execve(&p, &["x"], &[]))), Status::Signal(SIGSEGV));
}

fn missing_interpreter_of_an_elf() {
    let p = program(
        "interp",
        &elf(|e| {
            e[64] = 3; // PT_INTERP
            e[68] = 4;
            e[72] = 128; // offset
            e[64 + 32..64 + 40].copy_from_slice(&9u64.to_le_bytes());
            e[128..137].copy_from_slice(b"/no/such\0");
        }),
        0o755,
    );
    assert_eq!(execve(&p, &["x"], &[]), ENOENT);
}

fn script_gets_its_arguments() {
    let exe = me().into_string().unwrap();
    let short = path("i");
    sys!(SYS_symlink, &me(), &short).unwrap();
    let line = format!("#! {} {MARK}  \n", short.to_str().unwrap());
    let p = program("script", line.as_bytes(), 0o755);
    // The interpreter gets: path, optional argument, script; the rest follows.
    let (text, status) = output(|| execve(&p, &["zero", "args", "a"], &[]));
    // The first word after the mark is the script's own path, which is no job of the helper.
    assert_eq!((text.as_str(), status), ("", Status::Exit(99)), "{exe}");
}

fn script_without_interpreter() {
    let p = program("s", b"#!/no/such/thing\n", 0o755);
    assert_eq!(execve(&p, &["x"], &[]), ENOENT);
    let p = program("t", format!("#!{}\n", dir()).as_bytes(), 0o755);
    assert_eq!(execve(&p, &["x"], &[]), EACCES);
    let p = program("u", b"#!    \n", 0o755);
    assert_eq!(execve(&p, &["x"], &[]), ENOEXEC);
}

fn script_loop_is_eloop() {
    let p = path("loop");
    program("loop", format!("#!{}\n", p.to_str().unwrap()).as_bytes(), 0o755);
    assert_eq!(execve(&p, &["x"], &[]), ELOOP);
}

fn descriptors_and_cloexec() {
    let fd = new_file("f");
    assert_eq!(helper(|| {}, &["fd", &fd.to_string()]), Status::Exit(0));
    sys!(SYS_fcntl, fd, F_SETFD, FD_CLOEXEC).unwrap();
    assert_eq!(helper(|| {}, &["fd", &fd.to_string()]), Status::Exit(1));
    assert!(sys!(SYS_fcntl, fd, F_GETFD).is_ok());
}

fn failed_exec_keeps_cloexec_descriptors() {
    let fd = open(&path("f"), O_CREAT | O_RDWR | O_CLOEXEC).unwrap();
    assert_eq!(execve(&path("none"), &["x"], &[]), ENOENT);
    assert_eq!(write(fd, b"x"), Ok(1));
}

fn signal_actions() {
    let job = |sig: i32| sig.to_string();
    let before = || {
        on_signal(SIGUSR1, 0, count);
        set_action(SIGUSR2, SIG_IGN).unwrap();
        sigmask(SIG_BLOCK, &[SIGTERM]);
        sys!(SYS_kill, getpid(), SIGTERM).unwrap();
    };
    assert_eq!(helper(before, &["action", &job(SIGUSR1)]), Status::Exit(0));
    assert_eq!(helper(before, &["action", &job(SIGUSR2)]), Status::Exit(1));
    assert_eq!(helper(before, &["blocked", &job(SIGTERM)]), Status::Exit(1));
    assert_eq!(helper(before, &["pending", &job(SIGTERM)]), Status::Exit(1));
}

fn pid_group_and_session_stay() {
    let c = child(|| {
        sys!(SYS_setpgid, 0, 0).unwrap();
        let pid = getpid().to_string();
        execve(&me(), &["x", MARK, "pgid", &pid], &[]);
    });
    assert_eq!(c.wait(), Status::Exit(0));
}

fn auxiliary_vector() {
    assert_eq!(helper(|| {}, &["auxv"]), Status::Exit(0));
}

fn set_user_id_program() {
    let mut fs = [0u64; 15]; // struct statfs; its f_flags is private in libc
    sys!(SYS_statfs, &cstr(dir()), &mut fs).unwrap();
    if fs[10] & ST_NOSUID != 0 {
        skip("the folder is mounted nosuid");
    }
    let p = path("suid");
    // A copy, since the program itself must stay as it is.
    let data = std::fs::read(me().to_str().unwrap()).unwrap();
    program("suid", &data, 0o4755);
    sys!(SYS_chown, &p, 2000, -1).unwrap();
    sys!(SYS_chmod, &p, 0o4755).unwrap();
    sys!(SYS_chmod, &cstr(dir()), 0o755).unwrap();
    let run = || {
        let c = child(|| {
            drop_root();
            execve(&p, &["x", MARK, "euid"], &[]);
        });
        c.wait()
    };
    assert_eq!(run(), Status::Exit(2000 & 255));
    sys!(SYS_chmod, &p, 0o755).unwrap();
    assert_eq!(run(), Status::Exit(1000 & 255));
}

fn execveat_by_descriptor() {
    let fd = open(&me(), O_PATH | O_CLOEXEC).unwrap();
    let argv = ["x", MARK, "exit", "9"].map(cstr);
    let words: Vec<usize> = argv.iter().map(|s| s.as_ptr() as usize).chain([0]).collect();
    let run = |fd: i32, p: &CString, flags: i32| {
        fate(|| ignore(sys!(SYS_execveat, fd, p, &words[..], &[0usize], flags)))
    };
    assert_eq!(run(fd, &cstr(""), AT_EMPTY_PATH), Status::Exit(9));
    assert_eq!(run(AT_FDCWD, &me(), 0), Status::Exit(9));
    assert_eq!(sys!(SYS_execveat, fd, c"", &words[..], &[0usize], 0), Err(ENOENT));
    assert_eq!(sys!(SYS_execveat, 999, c"x", &words[..], &[0usize], 0), Err(EBADF));
    assert_eq!(sys!(SYS_execveat, fd, c"x", &words[..], &[0usize], 0x40), Err(EINVAL));
    let check = |fd: i32| sys!(SYS_execveat, fd, c"", &words[..], &[0usize], AT_EMPTY_PATH | 0x1_0000);
    assert_eq!(check(fd), Ok(0), "it may be executed, and is not");
    let text = file("text", b"no program");
    assert_eq!(check(open(&text, O_RDONLY).unwrap()), Err(EACCES));
    let link = path("l");
    sys!(SYS_symlink, &me(), &link).unwrap();
    assert_eq!(sys!(SYS_execveat, AT_FDCWD, &link, &words[..], &[0usize], AT_SYMLINK_NOFOLLOW), Err(ELOOP));
}

fn comm_is_the_files_name() {
    let p = path("a-rather-long-program-name");
    sys!(SYS_symlink, &me(), &p).unwrap();
    let (text, _) = output(|| execve(&p, &["other", MARK, "comm"], &[]));
    assert_eq!(text, "a-rather-long-p");
}

fn bad_pointers() {
    let exe = me();
    assert_eq!(sys!(SYS_execve, 0, 0, 0), Err(EFAULT));
    assert_eq!(sys!(SYS_execve, &exe, 8, 0), Err(EFAULT));
    assert_eq!(sys!(SYS_execve, &exe, &[8usize, 0], 0), Err(EFAULT));
    assert_eq!(sys!(SYS_execve, &exe, &[0usize], BAD), Err(EFAULT));
}

fn exec_from_a_thread_replaces_the_process() {
    let c = child(|| {
        let pid = getpid();
        std::thread::spawn(move || {
            assert_ne!(gettid(), pid);
            execve(&me(), &["x", MARK, "exit", "23"], &[]);
        });
        nap(20_000);
        exit(1);
    });
    assert_eq!(c.wait(), Status::Exit(23));
}

/// The threads share their table of descriptors, but nobody else does: it stays, and with it its locks.
fn record_locks_outlive_exec_from_a_thread() {
    let file = new_file("locked");
    let lock = || {
        let mut whole: flock = zero();
        whole.l_type = F_WRLCK as i16;
        sys!(SYS_fcntl, file, F_SETLK, &whole)
    };
    let (end, hold) = pipe();
    let (ran, run) = pipe_with(O_CLOEXEC);
    let c = child(|| {
        close(hold);
        lock().unwrap();
        // Neither of these makes a new table for who is alone in the old one.
        sys!(SYS_unshare, CLONE_FILES).unwrap();
        sys!(SYS_close_range, 1000, 1001, 2).unwrap();
        std::thread::spawn(move || execve(&me(), &["x", MARK, "hold", &end.to_string()], &[]));
        nap(20_000);
    });
    close(run);
    assert_eq!(read_vec(ran, 1), Ok(Vec::new()), "closed by the exec");
    assert_eq!(lock(), Err(EAGAIN));
    close(hold);
    c.ok();
    assert_eq!(lock(), Ok(0));
}

fn what_cannot_be_read_stays_secret() {
    let data = std::fs::read(me().to_str().unwrap()).unwrap();
    for (mode, dumpable) in [(0o755, 1), (0o711, 0)] {
        let p = program("copy", &data, mode);
        let end = fate(|| {
            drop_root();
            execve(&p, &["x", MARK, "dumpable"], &[]);
        });
        assert_eq!(end, Status::Exit(dumpable), "{mode:o}");
    }
}

fn text_file_busy() {
    let data = std::fs::read(me().to_str().unwrap()).unwrap();
    let p = program("copy", &data, 0o755);
    let fd = open(&p, O_WRONLY).unwrap();
    assert_eq!(execve(&p, &["x", MARK, "exit", "1"], &[]), ETXTBSY);
    close(fd);
    for _ in 0..20 {
        assert_eq!(fate(|| ignore(execve(&p, &["x", MARK, "exit", "2"], &[]))), Status::Exit(2));
        assert_eq!(open(&p, O_WRONLY).map(close), Ok(()), "it has ended");
    }
}

fn noexec_by_user() {
    let p = program("root-only", b"#!/proc/self/exe\n", 0o700);
    sys!(SYS_chmod, &cstr(dir()), 0o755).unwrap();
    aside(|| {
        drop_root();
        assert_eq!(execve(&p, &["x"], &[]), EACCES);
    });
}

fn memory_file_held_open_for_writing() {
    let program = std::fs::read(me().to_str().unwrap()).unwrap();
    let fd = sys!(SYS_memfd_create, c"program", 0).unwrap() as i32;
    let mut at = 0;
    while at < program.len() {
        at += write(fd, &program[at..]).unwrap();
    }
    let c = child_code(|| {
        let argv = [cstr("x"), cstr(MARK), cstr("exit"), cstr("7")];
        let mut pointers: Vec<usize> = argv.iter().map(|a| a.as_ptr() as usize).collect();
        pointers.push(0);
        ignore(sys!(SYS_execveat, fd, c"", pointers.as_ptr() as usize, 0, AT_EMPTY_PATH));
        99
    });
    assert_eq!(c.wait(), Status::Exit(7));
    let writer = open(&cstr(format!("/proc/self/fd/{fd}")), O_RDWR).unwrap();
    let link = cstr(format!("/proc/self/fd/{writer}"));
    assert_eq!(sys!(SYS_execve, &link, 0, 0), Err(ETXTBSY), "opened by a name, it counts");
}
