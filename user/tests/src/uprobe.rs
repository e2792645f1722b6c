//! Probes in programs by perf_event_open(2): what they count, and that the program does not notice.

use crate::perf::{Attr, DISABLED, IOC_DISABLE, IOC_ENABLE, attr, ioctl, open_at, value};
use crate::prelude::*;
use crate::uffd::{WP, protect, register, uffd};

tests!(
    "uprobe":
    every_kind_of_instruction_works, returns_are_counted, a_return_through_two_functions, the_byte_comes_and_goes,
    two_in_one_place, later_mappings_have_it, children_run_through_it,
    moved_code_keeps_it, a_disabled_probe_counts_nothing, faults_are_the_program_s, signals_do_not_disturb,
    threads_race_with_changes, writable_code_loses_it, forks_race_with_changes, watched_code_stops_nobody,
    refused_places, refused_instructions, only_for_privileged,
    calls_of_the_kernel_s_own_code,
);

const BREAKPOINT: u8 = 0xcc;

/// lea rax, [rdi + rsi]; ret
const ADD: &[u8] = &[0x48, 0x8d, 0x04, 0x37, 0xc3];
/// `mov rax, [rdi]; ret`
const LOAD: &[u8] = &[0x48, 0x8b, 0x07, 0xc3];

/// A file of machine code.
struct Code {
    path: CString,
    /// Where it is mapped.
    addr: usize,
}

use std::ffi::CString;

/// Puts `bytes` into the file `name` and maps it as code.
fn code(name: &str, bytes: &[u8]) -> Code {
    let path = file(name, bytes);
    let addr = map_code(&path);
    Code { path, addr }
}

fn map_code(path: &CString) -> usize {
    let fd = open(path, O_RDONLY).unwrap();
    let addr = map(PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd).unwrap();
    close(fd);
    addr
}

fn call(at: usize, a: usize, b: usize) -> i64 {
    sys::call_function(at, a, b)
}

/// A probe at `offset` of the file `path`, of a function's return if `config` is 1.
fn probe_attr(path: &CString, offset: usize, config: u64, flags: u64) -> Attr {
    let kind = slurp("/sys/bus/event_source/devices/uprobe/type").trim().parse().unwrap();
    let mut attr = attr(kind, config, flags, 0);
    (attr[7], attr[8]) = (path.as_ptr() as u64, offset as u64);
    attr
}

fn probe(path: &CString, offset: usize) -> i32 {
    open_at(&probe_attr(path, offset, 0, 0), 0, -1, -1).unwrap()
}

fn return_probe(path: &CString, offset: usize) -> i32 {
    assert_eq!(slurp("/sys/bus/event_source/devices/uprobe/format/retprobe"), "config:0\n");
    open_at(&probe_attr(path, offset, 1, 0), 0, -1, -1).unwrap()
}

/// Code, where its probes are, arguments, what it returns.
type Case = (&'static str, &'static [u8], &'static [usize], (usize, usize), i64);

const CASES: &[Case] = &[
    ("lea, ret", ADD, &[0, 4], (3, 4), 7),
    // mov rax, [rip + 1]; ret; .quad 0x123456789
    (
        "relative to rip",
        &[0x48, 0x8b, 0x05, 1, 0, 0, 0, 0xc3, 0x89, 0x67, 0x45, 0x23, 1, 0, 0, 0],
        &[0],
        (0, 0),
        0x1_2345_6789,
    ),
    // push rdi; pop rax; ret
    ("push, pop", &[0x57, 0x58, 0xc3], &[0, 1, 2], (77, 0), 77),
    // cmp rdi, rsi; je 1f; mov eax, 1; ret; 1: mov eax, 2; ret
    ("a jump that is made", &JUMP, &[0, 3, 11], (5, 5), 2),
    ("a jump that is not made", &JUMP, &[0, 3, 5], (5, 6), 1),
    // call 1f; ret; 1: mov rax, rdi; ret
    ("call", &[0xe8, 1, 0, 0, 0, 0xc3, 0x48, 0x89, 0xf8, 0xc3], &[0, 5, 6], (9, 0), 9),
    // lea rax, [rip + 3]; call rax; ret; mov rax, rsi; ret
    (
        "call by a register",
        &[0x48, 0x8d, 0x05, 3, 0, 0, 0, 0xff, 0xd0, 0xc3, 0x48, 0x89, 0xf0, 0xc3],
        &[0, 7, 9],
        (0, 8),
        8,
    ),
    // jmp 1f; ud2; 1: mov rax, rdi; ret
    ("jmp", &[0xeb, 2, 0x0f, 0x0b, 0x48, 0x89, 0xf8, 0xc3], &[0], (6, 0), 6),
    // endbr64; nop (8 bytes); lea rax, [rdi + rsi]; ret
    (
        "nop",
        &[0xf3, 0x0f, 0x1e, 0xfa, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0, 0x48, 0x8d, 0x04, 0x37, 0xc3],
        &[0, 4, 12],
        (1, 1),
        2,
    ),
    // mov rsi, rsp; and the like leave the stack alone: lea rax, [rsp]; sub rax, rsp; ret
    ("the stack pointer", &[0x48, 0x8d, 0x04, 0x24, 0x48, 0x29, 0xe0, 0xc3], &[0, 4], (0, 0), 0),
];

const JUMP: [u8; 17] = [0x48, 0x39, 0xf7, 0x74, 6, 0xb8, 1, 0, 0, 0, 0xc3, 0xb8, 2, 0, 0, 0, 0xc3];

fn every_kind_of_instruction_works() {
    for (name, bytes, places, (a, b), result) in CASES {
        let code = code("insn", bytes);
        let probes: Vec<i32> = places.iter().map(|at| probe(&code.path, *at)).collect();
        for _ in 0..3 {
            assert_eq!(call(code.addr, *a, *b), *result, "{name}");
        }
        for (fd, at) in probes.iter().zip(*places) {
            assert_eq!(value(*fd), 3, "{name} at {at}");
            close(*fd);
        }
        assert_eq!(call(code.addr, *a, *b), *result, "{name}");
        assert_eq!(bytes_at(code.addr, bytes.len()), *bytes, "{name}");
    }
    // mov rcx, rsi; mov al, 0x5a; rep stosb; mov rax, rdi; ret: how often the string counts is not said
    let string = code("string", &[0x48, 0x89, 0xf1, 0xb0, 0x5a, 0xf3, 0xaa, 0x48, 0x89, 0xf8, 0xc3]);
    let fd = probe(&string.path, 5);
    let to = anon(PAGE);
    assert_eq!(call(string.addr, to, 40), (to + 40) as i64);
    assert!(value(fd) >= 1);
    assert_eq!(bytes_at(to, 41), [vec![0x5a; 40], vec![0]].concat());
}

fn returns_are_counted() {
    let code = code("add", ADD);
    let (entry, exit) = (probe(&code.path, 0), return_probe(&code.path, 0));
    for n in 0..5 {
        assert_eq!(call(code.addr, n, 1), n as i64 + 1);
    }
    assert_eq!((value(entry), value(exit)), (5, 5));
    close(exit);
    assert_eq!(call(code.addr, 2, 2), 4);
    assert_eq!(value(entry), 6);
}

fn a_return_through_two_functions() {
    // call 2f; ret; 2: jmp 3f; 3: mov rax, rdi; ret: both return by the last ret
    let bytes = [0xe8, 1, 0, 0, 0, 0xc3, 0xeb, 0, 0x48, 0x89, 0xf8, 0xc3];
    let code = code("tail", &bytes);
    let probes = [0, 6, 8].map(|at| return_probe(&code.path, at));
    for _ in 0..4 {
        assert_eq!(call(code.addr, 13, 0), 13);
    }
    assert_eq!(probes.map(value), [4, 4, 4]);
}

fn the_byte_comes_and_goes() {
    let code = code("byte", ADD);
    assert_eq!(peek(code.addr), ADD[0]);
    let fd = probe(&code.path, 0);
    assert_eq!(peek(code.addr), BREAKPOINT);
    // The file is not changed.
    assert_eq!(std::fs::read(code.path.to_str().unwrap()).unwrap(), ADD);
    close(fd);
    assert_eq!(peek(code.addr), ADD[0]);
}

fn two_in_one_place() {
    let code = code("two", ADD);
    let (first, second) = (probe(&code.path, 0), probe(&code.path, 0));
    call(code.addr, 0, 0);
    close(first);
    call(code.addr, 0, 0);
    assert_eq!(value(second), 2);
    assert_eq!(peek(code.addr), BREAKPOINT);
}

fn later_mappings_have_it() {
    let path = file("later", ADD);
    let fd = probe(&path, 0);
    let addr = map_code(&path);
    assert_eq!(call(addr, 20, 2), 22);
    assert_eq!(value(fd), 1);
    let other = map_code(&path);
    assert_eq!(call(other, 1, 1), 2);
    assert_eq!(value(fd), 2);
}

fn children_run_through_it() {
    let code = code("child", ADD);
    let (entry, exit) = (probe(&code.path, 0), return_probe(&code.path, 0));
    child(|| assert_eq!(call(code.addr, 1, 2), 3)).ok();
    assert_eq!(call(code.addr, 1, 2), 3);
    assert_eq!((value(entry), value(exit)), (1, 1));
}

fn moved_code_keeps_it() {
    let code = code("moved", ADD);
    let fd = probe(&code.path, 0);
    let to = anon(PAGE);
    let moved = sys!(SYS_mremap, code.addr, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to).unwrap();
    assert_eq!(call(moved, 4, 4), 8);
    assert_eq!(value(fd), 1);
    close(fd);
    assert_eq!(peek(moved), ADD[0]);
}

fn a_disabled_probe_counts_nothing() {
    let code = code("off", ADD);
    let fd = open_at(&probe_attr(&code.path, 0, 0, DISABLED), 0, -1, -1).unwrap();
    call(code.addr, 1, 1);
    assert_eq!(value(fd), 0);
    ioctl(fd, IOC_ENABLE, 0).unwrap();
    call(code.addr, 1, 1);
    ioctl(fd, IOC_DISABLE, 0).unwrap();
    call(code.addr, 1, 1);
    assert_eq!(value(fd), 1);
}

fn faults_are_the_program_s() {
    let code = code("fault", LOAD);
    let _probe = probe(&code.path, 0);
    let word = 42u64;
    assert_eq!(call(code.addr, &raw const word as usize, 0), 42);
    assert_eq!(fate(|| ignore(call(code.addr, 8, 0))), Status::Signal(SIGSEGV));
    // A breakpoint of the program's own is still its own.
    assert_eq!(fate(sys::breakpoint), Status::Signal(SIGTRAP));
}

fn signals_do_not_disturb() {
    let code = code("signals", ADD);
    let (entry, exit) = (probe(&code.path, 0), return_probe(&code.path, 0));
    on_signal(SIGALRM, SA_RESTART, count);
    let tick = timeval { tv_sec: 0, tv_usec: 1000 };
    let timer = itimerval { it_interval: tick, it_value: tick };
    sys!(SYS_setitimer, ITIMER_REAL, &timer, 0).unwrap();
    for n in 0..3000 {
        assert_eq!(call(code.addr, n, 1), n as i64 + 1);
    }
    let none = itimerval { it_interval: ms_0(), it_value: ms_0() };
    sys!(SYS_setitimer, ITIMER_REAL, &none, 0).unwrap();
    assert_eq!((value(entry), value(exit)), (3000, 3000));
}

fn ms_0() -> timeval {
    timeval { tv_sec: 0, tv_usec: 0 }
}

fn threads_race_with_changes() {
    let code = code("race", ADD);
    let addr = code.addr;
    let callers: Vec<_> = (0..3)
        .map(|n| {
            std::thread::spawn(move || {
                for m in 0..400 {
                    assert_eq!(call(addr, m, n), (m + n) as i64);
                }
            })
        })
        .collect();
    for _ in 0..20 {
        let (entry, exit) = (probe(&code.path, 0), return_probe(&code.path, 4));
        close(entry);
        close(exit);
    }
    callers.into_iter().for_each(|caller| caller.join().unwrap());
    assert_eq!(bytes_at(addr, ADD.len()), ADD);
}

fn writable_code_loses_it() {
    let code = code("writable", ADD);
    let fd = probe(&code.path, 0);
    sys!(SYS_mprotect, code.addr, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC).unwrap();
    assert_eq!(call(code.addr, 1, 2), 3);
    assert_eq!(value(fd), 1);
    close(fd);
    assert_eq!(peek(code.addr), ADD[0]);
    assert_eq!(call(code.addr, 2, 2), 4);
}

fn forks_race_with_changes() {
    let code = code("forks", ADD);
    let (addr, path) = (code.addr, code.path.clone());
    // A page of the program's own, so that there is something to copy.
    sys!(SYS_mprotect, addr, PAGE, PROT_READ | PROT_WRITE).unwrap();
    poke(addr + 100, 1);
    sys!(SYS_mprotect, addr, PAGE, PROT_READ | PROT_EXEC).unwrap();
    let (go, gone) = pipe();
    let changer = std::thread::spawn(move || {
        for _ in 0..20 {
            close(probe(&path, 0));
        }
    });
    let children: Vec<_> = (0..10)
        .map(|_| {
            child_code(|| {
                // Without an allocation: the other thread may be within one.
                let early = call(addr, 1, 2);
                let read = sys!(SYS_read, go, &mut [0u8; 1], 1);
                let is_well = read == Ok(1) && early == 3 && call(addr, 3, 4) == 7 && peek(addr) == ADD[0];
                i32::from(!is_well)
            })
        })
        .collect();
    changer.join().unwrap();
    write(gone, &[0; 10]).unwrap();
    children.into_iter().for_each(|child| child.ok());
}

/// Nobody answers the watcher of this code; whether it can be probed is not said, but all others go on.
fn watched_code_stops_nobody() {
    let file = sys!(SYS_memfd_create, &cstr("code"), 0).unwrap() as i32;
    write(file, ADD).unwrap();
    let map_it = || map(PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE, file).unwrap();
    let addr = map_it();
    assert_eq!(peek(addr), ADD[0]);
    let watcher = uffd(0);
    register(watcher, addr, PAGE, WP).unwrap();
    protect(watcher, addr, PAGE, 1).unwrap();
    let path = cstr(format!("/proc/self/fd/{file}"));
    let fd = open_at(&probe_attr(&path, 0, 0, 0), 0, -1, -1);
    assert_eq!(call(map_it(), 5, 6), 11);
    if let Ok(fd) = fd {
        close(fd);
    }
    assert_eq!(call(addr, 6, 7), 13);
    assert_eq!(call(map_it(), 7, 8), 15);
}

fn refused_places() {
    let code = code("places", ADD);
    let open = |path: &CString, offset| open_at(&probe_attr(path, offset, 0, 0), 0, -1, -1);
    assert_eq!(open(&path("nowhere"), 0), Err(ENOENT));
    assert_eq!(open(&mkdir("folder"), 0), Err(EINVAL));
    assert_eq!(open(&code.path, 1 << 30), Err(EINVAL));
    let mut bad = probe_attr(&code.path, 0, 0, 0);
    bad[7] = BAD as u64;
    assert_eq!(open_at(&bad, 0, -1, -1), Err(EFAULT));
}

fn refused_instructions() {
    // int3: what is a breakpoint already
    let bytes = &[BREAKPOINT, 0xc3];
    let code = code("refused", bytes);
    assert!(open_at(&probe_attr(&code.path, 0, 0, 0), 0, -1, -1).is_err());
    assert_eq!(bytes_at(code.addr, bytes.len()), bytes);
}

fn only_for_privileged() {
    let path = file("private", ADD);
    child(|| {
        drop_root();
        let attr = probe_attr(&path, 0, 0, 1 << 5);
        assert_eq!(open_at(&attr, 0, -1, -1), Err(EACCES));
    })
    .ok();
}

fn calls_of_the_kernel_s_own_code() {
    const URETPROBE: i64 = 335;
    const UPROBE: i64 = 336;
    assert_eq!(fate(|| ignore(sys!(URETPROBE))), Status::Signal(SIGILL));
    assert_eq!(sys!(UPROBE), Err(Errno::EPROTO));
}
