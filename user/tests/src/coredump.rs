//! core(5): what a process leaves behind.

use crate::prelude::*;

tests!(
    "coredump":
    a_file_with_registers_and_memory, limits_and_dumpable, threads_are_all_there, file_rules, names,
    a_program_gets_the_dump, filter_chooses_mappings, socket_patterns, a_server_gets_the_dump,
    a_server_is_asked, no_dump_without_a_server,
);

const PATTERN: &str = "/proc/sys/kernel/core_pattern";
const USES_PID: &str = "/proc/sys/kernel/core_uses_pid";

#[track_caller]
fn set(file: &str, text: &str) {
    let fd = open(&cstr(file), O_WRONLY).unwrap();
    write(fd, text.as_bytes()).unwrap();
    close(fd);
}

/// Sets the pattern for the test, and puts the usual one back when dropped.
struct Pattern;

impl Pattern {
    fn new(text: &str) -> Self {
        set(PATTERN, text);
        Self
    }
}

impl Drop for Pattern {
    fn drop(&mut self) {
        set(PATTERN, "core");
        set(USES_PID, "0");
    }
}

fn limit(bytes: u64) {
    let limit = rlimit64 { rlim_cur: bytes, rlim_max: RLIM64_INFINITY };
    sys!(SYS_prlimit64, 0, RLIMIT_CORE, &limit, 0).unwrap();
}

/// Runs `f` in a child without a limit on dumps; its pid and wait status.
fn end_of(f: impl FnOnce()) -> (i32, i32) {
    let c = child(|| {
        limit(RLIM64_INFINITY);
        f();
    });
    let mut status = 0;
    sys!(SYS_wait4, c.0, &mut status, __WALL, 0).unwrap();
    (c.0, status)
}

const DUMPED: i32 = 0x80;

fn load(path: &str) -> Option<Vec<u8>> {
    std::fs::read(path).ok()
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn half(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}

fn int(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// (type, offset, address, size in the file, size in memory) of each program header.
fn headers(core: &[u8]) -> Vec<(u32, usize, u64, usize, u64)> {
    assert_eq!((&core[..4], half(core, 16), half(core, 18)), (&b"\x7fELF"[..], 4, 62));
    let start = word(core, 32) as usize;
    (0..half(core, 56))
        .map(|n| start + 56 * n)
        .map(|h| {
            (
                int(core, h),
                word(core, h + 8) as usize,
                word(core, h + 16),
                word(core, h + 32) as usize,
                word(core, h + 40),
            )
        })
        .collect()
}

/// Kind and contents of each note.
fn notes(core: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let (_, offset, _, len, _) = headers(core).into_iter().find(|h| h.0 == 4).expect("notes");
    let mut notes = Vec::new();
    let mut at = offset;
    while at < offset + len {
        let (name_len, contents_len, kind) =
            (int(core, at) as usize, int(core, at + 4) as usize, int(core, at + 8));
        let contents = at + 12 + name_len.next_multiple_of(4);
        notes.push((kind, core[contents..contents + contents_len].to_vec()));
        at = contents + contents_len.next_multiple_of(4);
    }
    notes
}

/// The byte of the dumped process's memory at `addr`.
fn memory(core: &[u8], addr: usize) -> Option<u8> {
    let addr = addr as u64;
    let (_, offset, start, len, _) =
        headers(core).into_iter().find(|h| h.0 == 1 && (h.2..h.2 + h.4).contains(&addr))?;
    let within = (addr - start) as usize;
    (within < len).then(|| core[offset + within])
}

fn a_file_with_registers_and_memory() {
    let name = format!("{}/core", dir());
    let _pattern = Pattern::new(&name);
    let place = anon(3 * PAGE);
    let (pid, status) = end_of(|| {
        sys::poke(place + PAGE, 0x5a);
        sys::poke(8, 1);
    });
    assert_eq!(status, SIGSEGV | DUMPED);
    let core = load(&name).expect("a dump");
    let notes = notes(&core);
    let kinds: Vec<u32> = notes.iter().map(|note| note.0).collect();
    assert_eq!(kinds[..7], [1, 3, 0x5349_4749, 6, 0x4649_4c45, 2, 0x202]);
    let status = &notes[0].1;
    assert_eq!((status.len(), int(status, 0), int(status, 32)), (336, SIGSEGV as u32, pid as u32));
    let rip = word(status, 112 + 16 * 8) as usize;
    assert_eq!(half(status, 112 + 17 * 8), 0x33);
    assert_eq!((notes[1].1.len(), int(&notes[1].1, 24)), (136, pid as u32));
    assert_eq!((int(&notes[2].1, 0), int(&notes[2].1, 8), word(&notes[2].1, 16)), (SIGSEGV as u32, 1, 8));
    let program = me();
    assert!(
        notes[4].1.windows(program.as_bytes().len()).any(|part| part == program.as_bytes()),
        "mapped files"
    );
    assert_eq!(memory(&core, place + PAGE), Some(0x5a));
    assert_eq!(memory(&core, place), Some(0), "never touched");
    assert_eq!(memory(&core, rip), None, "code is in the program's own file");
}

fn limits_and_dumpable() {
    let name = format!("{}/core", dir());
    let _pattern = Pattern::new(&name);
    let status = |f: fn()| {
        let (_, status) = end_of(move || {
            f();
            sys!(SYS_kill, getpid(), SIGQUIT).unwrap();
        });
        (status, load(&name).map(|core| core.len()))
    };
    assert_eq!(status(|| limit(0)), (SIGQUIT, None));
    assert_eq!(status(|| ignore(sys!(SYS_prctl, PR_SET_DUMPABLE, 0).unwrap())), (SIGQUIT, None));
    let (end, len) = status(|| ());
    assert_eq!(end, SIGQUIT | DUMPED);
    assert!(len.is_some_and(|len| len > 8 * PAGE));
    let (_, end) = end_of(|| sys::exit(3));
    assert_eq!(end, 3 << 8);
    let (_, end) = end_of(|| ignore(sys!(SYS_kill, getpid(), SIGTERM).unwrap()));
    assert_eq!(end, SIGTERM);
}

fn threads_are_all_there() {
    let name = format!("{}/core", dir());
    let _pattern = Pattern::new(&name);
    let (pid, status) = end_of(|| {
        for _ in 0..3 {
            std::thread::spawn(|| nap(20_000));
        }
        settle();
        sys!(SYS_tkill, gettid(), SIGABRT).unwrap();
    });
    assert_eq!(status, SIGABRT | DUMPED);
    let core = load(&name).expect("a dump");
    let tids: Vec<u32> =
        notes(&core).iter().filter(|note| note.0 == 1).map(|note| int(&note.1, 32)).collect();
    assert_eq!(tids.len(), 4);
    assert_eq!(tids[0], pid as u32, "the one that got the signal comes first");
}

fn file_rules() {
    let name = format!("{}/core", dir());
    let _pattern = Pattern::new(&name);
    let crash = || end_of(|| ignore(sys!(SYS_kill, getpid(), SIGQUIT).unwrap())).1;
    assert_eq!(crash(), SIGQUIT | DUMPED);
    let made = stat_path(&cstr(name.as_str())).unwrap();
    assert_eq!(made.st_mode & 0o7777, 0o600);
    assert_eq!(crash(), SIGQUIT | DUMPED, "an old dump is replaced");
    sys!(SYS_link, &cstr(name.as_str()), &path("other")).unwrap();
    assert_eq!(crash(), SIGQUIT | DUMPED);
    assert_eq!(stat_path(&cstr(name.as_str())).unwrap().st_nlink, 1, "a new file takes the name");
    sys!(SYS_unlink, &cstr(name.as_str())).unwrap();
    sys!(SYS_symlink, &path("other"), &cstr(name.as_str())).unwrap();
    let before = stat_path(&path("other")).unwrap();
    assert_eq!(crash(), SIGQUIT | DUMPED);
    let after = stat_path(&path("other")).unwrap();
    assert_eq!((after.st_mtime_nsec, after.st_nlink), (before.st_mtime_nsec, 1), "not through a link");
    sys!(SYS_unlink, &cstr(name.as_str())).unwrap();
    mkdir("core");
    assert_eq!(crash(), SIGQUIT, "not over a folder");
}

fn names() {
    let place = dir();
    let _pattern = Pattern::new(&format!("{place}/c.%s.%p.%%"));
    let crash = || end_of(|| ignore(sys!(SYS_kill, getpid(), SIGQUIT).unwrap())).0;
    let pid = crash();
    assert!(load(&format!("{place}/c.3.{pid}.%")).is_some());
    set(PATTERN, &format!("{place}/plain"));
    set(USES_PID, "1");
    let pid = crash();
    assert!(load(&format!("{place}/plain.{pid}")).is_some());
    assert_eq!(slurp(PATTERN), format!("{place}/plain\n"));
}

fn a_program_gets_the_dump() {
    let result = format!("{}/result", dir());
    let _pattern = Pattern::new(&format!("|{} {MARK} count {result} %s", me().to_str().unwrap()));
    let (_, status) = end_of(|| {
        limit(0); // which does not count for programs
        sys!(SYS_kill, getpid(), SIGQUIT).unwrap();
    });
    assert_eq!(status, SIGQUIT | DUMPED);
    for _ in 0..500 {
        if load(&result).is_some_and(|text| text.ends_with(b"\n")) {
            break;
        }
        nap(10);
    }
    let text = String::from_utf8(load(&result).expect("the program ran")).unwrap();
    let (bytes, signal) = text.trim().split_once(' ').unwrap();
    assert!(bytes.parse::<usize>().unwrap() > 8 * PAGE);
    assert_eq!(signal, "3");
}

fn filter_chooses_mappings() {
    let name = format!("{}/core", dir());
    let _pattern = Pattern::new(&name);
    assert_eq!(slurp("/proc/self/coredump_filter"), "00000033\n");
    let (private, both) = (anon(PAGE), shared(PAGE));
    let dump = |filter: &str| {
        let (_, status) = end_of(|| {
            sys::poke(private, 1);
            sys::poke(both, 2);
            set("/proc/self/coredump_filter", filter);
            sys!(SYS_kill, getpid(), SIGQUIT).unwrap();
        });
        assert_eq!(status, SIGQUIT | DUMPED);
        let core = load(&name).unwrap();
        (memory(&core, private), memory(&core, both))
    };
    assert_eq!(dump("0x33"), (Some(1), Some(2)));
    assert_eq!(dump("2"), (None, Some(2)));
    assert_eq!(dump("0x1"), (Some(1), None));
    sys!(SYS_madvise, private, PAGE, MADV_DONTDUMP).unwrap();
    assert_eq!(dump("0x33"), (None, Some(2)));
}

fn socket_patterns() {
    let _pattern = Pattern::new("core");
    let fd = open(&cstr(PATTERN), O_WRONLY).unwrap();
    for bad in ["@", "@@", "@sock", "@ /run/sock", "@/run/../sock", "@/run/..", "@@sock", "@@/../run"] {
        assert_eq!(write(fd, bad.as_bytes()), Err(EINVAL), "{bad}");
    }
    assert_eq!(slurp(PATTERN), "core\n");
    for good in ["@/run/sock", "@@/run/sock"] {
        set(PATTERN, good);
        assert_eq!(slurp(PATTERN), format!("{good}\n"));
    }
}

/// A socket with the name `sock` in the test's folder, and its pattern after `mark`.
fn bound(mark: &str) -> (i32, Pattern) {
    let name = format!("{}/sock", dir());
    let fd = sys!(SYS_socket, AF_UNIX, SOCK_STREAM, 0).unwrap() as i32;
    let mut address: sockaddr_un = zero();
    address.sun_family = AF_UNIX as u16;
    for (to, from) in address.sun_path.iter_mut().zip(name.bytes()) {
        *to = from as c_char;
    }
    sys!(SYS_bind, fd, &address, size_of::<sockaddr_un>()).unwrap();
    (fd, Pattern::new(&format!("{mark}{name}")))
}

/// Reads to the end of `fd`; the number of bytes.
fn drain(fd: i32) -> usize {
    let mut sum = 0;
    loop {
        match read_vec(fd, 1 << 16).unwrap().len() {
            0 => return sum,
            len => sum += len,
        }
    }
}

fn a_server_gets_the_dump() {
    const SO_PEERPIDFD: i32 = 77;
    const GET_INFO: u32 = 0xc058_ff0b;
    let (listener, _pattern) = bound("@");
    sys!(SYS_listen, listener, 1).unwrap();
    let server = child(|| {
        let fd = sys!(SYS_accept4, listener, 0, 0, 0).unwrap() as i32;
        let (mut pidfd, mut len) = (0i32, 4u32);
        sys!(SYS_getsockopt, fd, SOL_SOCKET, SO_PEERPIDFD, &mut pidfd, &mut len).unwrap();
        let mut info = [0u32; 22];
        info[0] = 16 | 32 | 64 | 128;
        sys!(SYS_ioctl, pidfd, GET_INFO, &mut info).unwrap();
        assert_eq!(info[0] & (16 | 32 | 64 | 128), 16 | 32 | 64 | 128);
        assert_eq!(info[16..19], [1 | 4, SIGSEGV as u32, 1], "dumped as the user, SEGV_MAPERR");
        assert_eq!(info[20] & (16 | 64 | 128), 16 | 64 | 128, "what is supported");
        let stat = slurp(&format!("/proc/{}/stat", info[4]));
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        // Fields 29 and 30; the first one here is field 3.
        assert!(fields[26] != "0" && fields[27] != "0", "stack and instruction pointer");
        assert!(drain(fd) > 8 * PAGE);
    });
    let (_, status) = end_of(|| {
        limit(0); // which does not count for servers
        sys::poke(8, 1);
    });
    assert_eq!(status, SIGSEGV | DUMPED);
    server.ok();
}

fn a_server_is_asked() {
    const KERNEL: u64 = 1;
    const USERSPACE: u64 = 2;
    const REJECT: u64 = 4;
    const WAIT: u64 = 8;
    let (listener, _pattern) = bound("@@");
    sys!(SYS_listen, listener, 1).unwrap();
    // Size and mask of the answer, what the kernel thinks of it, whether a dump comes, how the process ends.
    let cases = [
        (16, KERNEL | WAIT, 0, true, DUMPED),
        (16, USERSPACE | WAIT, 0, false, DUMPED),
        (16, REJECT, 0, false, 0),
        (16, REJECT | WAIT, 0, false, 0),
        (8, KERNEL, 1, false, 0),
        (17, KERNEL, 2, false, 0),
        (16, KERNEL | 1 << 40, 3, false, 0),
        (16, KERNEL | USERSPACE, 4, false, 0),
        (16, WAIT, 4, false, 0),
    ];
    for (size, mask, mark, has_dump, dumped) in cases {
        let server = child(|| {
            let fd = sys!(SYS_accept4, listener, 0, 0, 0).unwrap() as i32;
            let request = read_vec(fd, 16).unwrap();
            assert_eq!((int(&request, 0), int(&request, 4), word(&request, 8)), (16, 16, 15));
            let mut answer = Vec::from(u32::to_le_bytes(size));
            answer.extend([0; 4]);
            answer.extend(u64::to_le_bytes(mask));
            write(fd, &answer).unwrap();
            assert_eq!(int(&read_vec(fd, 4).unwrap(), 0), mark);
            // A connection that ends before all was read is reset.
            let rest = if mark == 0 { drain(fd) } else { 0 };
            assert_eq!(rest > 0, has_dump);
        });
        let (_, status) = end_of(|| ignore(sys!(SYS_kill, getpid(), SIGQUIT).unwrap()));
        assert_eq!(status, SIGQUIT | dumped, "size {size}, mask {mask:#x}");
        server.ok();
    }
}

fn no_dump_without_a_server() {
    let crash = || end_of(|| ignore(sys!(SYS_kill, getpid(), SIGQUIT).unwrap())).1;
    let (_bound, pattern) = bound("@");
    assert_eq!(crash(), SIGQUIT, "nobody listens");
    drop(pattern);
    let _pattern = Pattern::new(&format!("@{}/nothing", dir()));
    assert_eq!(crash(), SIGQUIT);
}
