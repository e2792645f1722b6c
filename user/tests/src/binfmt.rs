//! Executable formats that programs register (binfmt_misc). Linux has them as a module, so they may be missing there.

use std::ffi::CString;

use crate::prelude::*;

tests!(
    "binfmt": texts_that_are_no_formats, formats_are_executed, the_end_of_a_mount,
    user_namespaces_have_formats_of_their_own
);

/// Runs `f` with the file system mounted at `m` in the test's folder, of which the rest of the machine sees nothing.
fn mounted(f: impl FnOnce()) {
    if !slurp("/proc/filesystems").lines().any(|line| line.trim() == "nodev\tbinfmt_misc") {
        skip("no binfmt_misc");
    }
    mkdir("m");
    aside(|| {
        sys!(SYS_unshare, CLONE_NEWNS).unwrap();
        sys!(SYS_mount, 0, &cstr("/"), 0, MS_REC | MS_PRIVATE, 0).unwrap();
        mount();
        f();
        sys!(SYS_umount2, &path("m"), 0).unwrap();
    });
}

fn mount() {
    let name = cstr("binfmt_misc");
    sys!(SYS_mount, &name, &path("m"), &name, 0, 0).unwrap();
}

/// Writes `text` to the file `name` of the mount.
fn put(name: &str, text: impl AsRef<[u8]>) -> Result<usize, Errno> {
    let fd = open(&path(&format!("m/{name}")), O_WRONLY)?;
    let result = write(fd, text.as_ref());
    close(fd);
    result
}

fn get(name: &str) -> String {
    slurp(path(&format!("m/{name}")).to_str().unwrap())
}

fn text(s: &CString) -> &str {
    s.to_str().unwrap()
}

/// Registers the format `name` with this program as its interpreter. `rest` is type, offset, magic and mask.
#[track_caller]
fn register(name: &str, rest: &str, flags: &str) {
    let line = format!(":{name}:{rest}:{}:{flags}\n", text(&me()));
    assert_eq!(put("register", &line), Ok(line.len()));
}

fn is_there(name: &str) -> bool {
    stat_path(&path(&format!("m/{name}"))).is_ok()
}

fn texts_that_are_no_formats() {
    mounted(|| {
        let program = me();
        let program = text(&program);
        for bad in [
            ":a:M::x::/".to_string(),
            format!("::M::keel::{program}:"),
            format!(":..:M::keel::{program}:"),
            format!(":a/b:M::keel::{program}:"),
            format!(":keel-bad:X::keel::{program}:"),
            format!(":keel-bad:M::::{program}:"),
            format!(":keel-bad:M:-1:keel::{program}:"),
            format!(":keel-bad:M:253:keel::{program}:"),
            format!(":keel-bad:M::keel:xx:{program}:"),
            format!(r":keel-bad:M::\xzz::{program}:"),
            ":keel-bad:M::keel:::".to_string(),
            format!(":keel-bad:M::keel::{program}"),
            format!(":keel-bad:M::keel::{program}:Z"),
            format!(":keel-bad:E::::{program}:"),
            format!(":keel-bad:E::a/b::{program}:"),
            format!(":keel-bad:M::keel::/{}:", "x".repeat(1920)),
        ] {
            assert_eq!(put("register", &bad), Err(EINVAL), "{bad}");
        }
        assert_eq!(put("register", format!(":status:M::keel::{program}:")), Err(EEXIST));
        assert_eq!(put("register", ":keel-bad:M::keel::/does/not/exist:F"), Err(ENOENT));
        assert!(!is_there("keel-bad"));
        for bad in ["2", "\n", "-1\n\n", "enabled"] {
            assert_eq!(put("status", bad), Err(EINVAL), "{bad:?}");
        }
        let fd = open(&path("m/register"), O_RDONLY).unwrap();
        assert_eq!(read_vec(fd, 1), Err(EINVAL));
        close(fd);
        let mode = |name: &str| stat_path(&path(name)).unwrap().st_mode;
        assert_eq!([mode("m"), mode("m/register"), mode("m/status")], [0o40755, 0o100200, 0o100644]);
        assert_eq!(open(&path("m/new"), O_CREAT | O_WRONLY), Err(EACCES));
        assert_eq!(sys!(SYS_unlink, &path("m/status")), Err(EPERM));
    });
}

/// What running `__helper`, a file in the current folder with `bytes`, prints, with its end. `argv` are all arguments.
fn run(name: &str, bytes: &[u8], argv: &[&str]) -> (String, Status) {
    let file = file(name, bytes);
    sys!(SYS_chmod, &file, 0o4755).unwrap();
    let argv: Vec<CString> = argv.iter().map(|a| cstr(*a)).collect();
    let words: Vec<usize> = argv.iter().map(|s| s.as_ptr() as usize).chain([0]).collect();
    let (r, w) = pipe_with(O_CLOEXEC);
    let c = child(|| {
        sys!(SYS_chdir, &cstr(dir())).unwrap();
        sys!(SYS_dup2, w, 1).unwrap();
        let e = sys!(SYS_execve, &cstr(name), &words[..], &[0usize]).unwrap_err();
        write(1, format!("{e:?}").as_bytes()).unwrap();
        exit(98);
    });
    close(w);
    let mut printed = Vec::new();
    while let Ok(part) = read_vec(r, 4096)
        && !part.is_empty()
    {
        printed.extend(part);
    }
    close(r);
    (String::from_utf8_lossy(&printed).into_owned(), c.wait())
}

fn done(text: &str) -> (String, Status) {
    (text.to_string(), Status::Exit(0))
}

fn refused(errno: Errno) -> (String, Status) {
    (format!("{errno:?}"), Status::Exit(98))
}

fn formats_are_executed() {
    mounted(|| {
        by_magic();
        by_extension();
        flags();
        switches();
    });
}

fn by_magic() {
    register("keel-a", r"M:4:\x01KEEL:\xfe\xff\xff\xff\xff", "");
    let shown = format!(
        "enabled\ninterpreter {}\nflags: \noffset 4\nmagic 014b45454c\nmask feffffffff\n",
        text(&me())
    );
    assert_eq!(get("keel-a"), shown);
    assert_eq!(put("register", format!(":keel-a:M::keel::{}:", text(&me()))), Err(EEXIST));
    // The path takes the place of the name.
    assert_eq!(run("__helper", b"....\x01KEEL", &["x", "args", "a", ""]), done("[a][]"));
    assert_eq!(run("__helper", b"....\x00KEEL", &["x", "args"]), done(""));
    assert_eq!(run("__helper", b"....\x02KEEL", &["x", "args"]), refused(ENOEXEC));
    assert_eq!(run("__helper", b"....\x01KEE", &["x", "args"]), refused(ENOEXEC));
    assert_eq!(run("__helper", b"....\x01KEEL", &["x", "comm"]), done("__helper"));
    // The newest of two that fit.
    register("keel-b", r"M:5:KEEL:", "P");
    assert_eq!(run("__helper", b"....\x01KEEL", &["args", "a"]), done("[a]"));
    assert_eq!(run("__helper", b"....\x01KEEL", &["flags"]).1, Status::Exit(1));
    put("keel-b", "-1").unwrap();
    assert!(!is_there("keel-b"));
    assert_eq!(run("__helper", b"....\x01KEEL", &["x", "flags"]).1, Status::Exit(0));
}

fn by_extension() {
    register("keel-e", "E::keel1:", "");
    assert_eq!(get("keel-e"), format!("enabled\ninterpreter {}\nflags: \nextension .keel1\n", text(&me())));
    assert_eq!(run("__helper.x.keel1", b"", &["x", "args", "b"]), done("[b]"));
    assert_eq!(run("__helper.keel1.x", b"", &["x", "args", "b"]), refused(ENOEXEC));
    // Before the formats of the kernel.
    assert_eq!(run("__helper.keel1", b"#!/does/not/exist\n", &["x", "args", "c"]), done("[c]"));
}

fn flags() {
    register("keel-o", "M::KEELO:", "O");
    assert_eq!(run("__helper", b"KEELO and more", &["x", "execfd"]), done("KEELO and more"));
    assert!(get("keel-o").contains("\nflags: O\n"));
    register("keel-c", "M::KEELC:", "C");
    assert!(get("keel-c").contains("\nflags: OC\n"));
    for (name, bytes) in [("c", b"KEELC"), ("o", b"KEELO")] {
        mkdir(name);
        let file = file(&format!("{name}/__helper"), bytes);
        sys!(SYS_chmod, &file, 0o4755).unwrap();
    }
    let user = |bytes: &[u8]| {
        let (r, w) = pipe();
        aside(|| {
            sys!(SYS_setresuid, 1000, 1000, 1000).unwrap();
            write(w, &[u8::from(run_as_is(bytes) == Status::Exit(0))]).unwrap();
        });
        read_vec(r, 1).unwrap()[0]
    };
    // The set-user-ID bit of the file counts with `C` only.
    assert_eq!((user(b"KEELC"), user(b"KEELO")), (1, 0));
    // Opened when it was registered.
    let (program, gone) = (me(), path("gone"));
    std::fs::copy(text(&program), text(&gone)).unwrap();
    let line = format!(":keel-f:M::KEELF::{}:F", text(&gone));
    assert_eq!(put("register", &line), Ok(line.len()));
    assert_eq!(open(&gone, O_WRONLY), Err(ETXTBSY), "it is as good as running");
    sys!(SYS_unlink, &gone).unwrap();
    assert_eq!(run("__helper", b"KEELF", &["x", "args", "d"]), done("[d]"));
    assert!(get("keel-f").contains("\nflags: F\n"));
    let line = format!(":keel-g:M::KEELG::{}:", text(&gone));
    put("register", &line).unwrap();
    assert_eq!(run("__helper", b"KEELG", &["x", "args"]), refused(ENOENT));
    // An interpreter that is given a descriptor cannot be a script.
    let script = file("script", format!("#!{}\n", text(&program)).as_bytes());
    sys!(SYS_chmod, &script, 0o755).unwrap();
    put("register", format!(":keel-s:M::KEELS::{}:O", text(&script))).unwrap();
    assert_eq!(run("__helper", b"KEELS", &["x", "args"]), refused(ENOEXEC));
}

/// How the helper `euid` ends that is run by a file with `bytes` which root made.
fn run_as_is(bytes: &[u8]) -> Status {
    let name = if bytes == b"KEELC" { "c/__helper" } else { "o/__helper" };
    child(|| {
        sys!(SYS_chdir, &path(&name[..1])).unwrap();
        let argv = [c"x".as_ptr() as usize, c"euid".as_ptr() as usize, 0];
        ignore(sys!(SYS_execve, &cstr("__helper"), &argv, &[0usize]));
        exit(98);
    })
    .wait()
}

fn switches() {
    assert_eq!(get("status"), "enabled\n");
    put("keel-a", "0").unwrap();
    assert!(get("keel-a").starts_with("disabled\n"));
    assert_eq!(run("__helper", b"....\x01KEEL", &["x", "args"]), refused(ENOEXEC));
    put("keel-a", "1\n").unwrap();
    put("status", "0\n").unwrap();
    assert_eq!(get("status"), "disabled\n");
    assert_eq!(run("__helper", b"....\x01KEEL", &["x", "args"]), refused(ENOEXEC));
    put("status", "1").unwrap();
    assert_eq!(run("__helper", b"....\x01KEEL", &["x", "args"]), done(""));
    assert_eq!(put("keel-a", "7"), Err(EINVAL));
    put("status", "-1").unwrap();
    assert!(!is_there("keel-a") && !is_there("keel-f") && is_there("status"));
    assert_eq!(run("__helper", b"....\x01KEEL", &["x", "args"]), refused(ENOEXEC));
}

fn the_end_of_a_mount() {
    mounted(|| {
        register("keel-m", "M::KEELM:", "");
        assert!(is_there("keel-m"));
        // Another mount shows the same.
        mkdir("n");
        let name = cstr("binfmt_misc");
        sys!(SYS_mount, &name, &path("n"), &name, 0, 0).unwrap();
        assert!(stat_path(&path("n/keel-m")).is_ok());
        sys!(SYS_umount2, &path("n"), 0).unwrap();
        assert!(is_there("keel-m"));
        put("keel-m", "-1").unwrap();
        assert!(!is_there("keel-m"));
    });
}

/// Root of a new user namespace registers formats that count there, instead of those above, and nowhere else.
fn user_namespaces_have_formats_of_their_own() {
    mounted(|| {
        register("keel-a", "M:4:\\x01KEEL:", "");
        let theirs = b"....\x02KEEL";
        let inner = child(|| {
            sys!(SYS_unshare, CLONE_NEWUSER | CLONE_NEWNS).unwrap();
            write_file("/proc/self/uid_map", "0 0 1").unwrap();
            write_file("/proc/self/setgroups", "deny").unwrap();
            write_file("/proc/self/gid_map", "0 0 1").unwrap();
            // Until it has its own, those above count.
            assert_eq!(run("__helper", b"....\x01KEEL", &["x", "args"]), done(""));
            mount();
            assert!(!is_there("keel-a"));
            assert_eq!(run("__helper", b"....\x01KEEL", &["x", "args"]), refused(ENOEXEC));
            register("keel-b", "M:4:\\x02KEEL:", "");
            assert_eq!(run("__helper", theirs, &["x", "args"]), done(""));
            put("status", "0").unwrap();
            assert_eq!(run("__helper", theirs, &["x", "args"]), refused(ENOEXEC));
            exit(0);
        });
        assert_eq!(inner.wait(), Status::Exit(0));
        assert!(is_there("keel-a") && !is_there("keel-b"));
        assert_eq!(get("status"), "enabled\n");
        assert_eq!(run("__helper", theirs, &["x", "args"]), refused(ENOEXEC));
        put("status", "-1").unwrap();
    });
}
