//! Protection keys: pkeys(7). Skipped on CPUs without them.

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use crate::prelude::*;
use crate::sys::{SigInfo, on_signal, peek64, pkru_offset, poke32, rdpkru, wrpkru};

tests!(
    "pkeys":
    keys_are_numbers, rights_refuse_accesses, the_kernel_obeys_the_rights, a_refusal_names_its_key,
    only_executable_memory, children_and_programs, rights_belong_to_threads,
);

const RW: i32 = PROT_READ | PROT_WRITE;
const NO_ACCESS: u32 = 1;
const NO_WRITE: u32 = 2;
/// Every key but the first is closed.
const INITIAL: u32 = 0x5555_5554;

fn alloc(rights: u32) -> Result<usize, Errno> {
    sys!(SYS_pkey_alloc, 0, rights)
}

fn need_keys() {
    if !slurp("/proc/cpuinfo").split_ascii_whitespace().any(|flag| flag == "ospke") {
        skip("no protection keys");
    }
}

/// A page with a new key.
fn keyed_page(rights: u32) -> (usize, usize) {
    need_keys();
    let a = anon(PAGE);
    let key = alloc(rights).unwrap();
    sys!(SYS_pkey_mprotect, a, PAGE, RW, key).unwrap();
    (a, key)
}

fn keys_are_numbers() {
    need_keys();
    let a = anon(PAGE);
    assert_eq!(rdpkru(), INITIAL);
    assert_eq!(sys!(SYS_pkey_alloc, 1, 0), Err(EINVAL));
    assert_eq!(alloc(4), Err(EINVAL));
    assert_eq!(sys!(SYS_pkey_mprotect, a, PAGE, RW, 1), Err(EINVAL), "not allocated");
    assert_eq!(sys!(SYS_pkey_mprotect, a, PAGE, RW, 16), Err(EINVAL));
    assert_eq!(sys!(SYS_pkey_mprotect, a, PAGE, RW, -2), Err(EINVAL));
    assert_eq!(sys!(SYS_pkey_mprotect, a, PAGE, RW, 0), Ok(0));
    assert_eq!(sys!(SYS_pkey_mprotect, a, PAGE, RW, -1), Ok(0));
    assert_eq!((alloc(0), alloc(NO_WRITE)), (Ok(1), Ok(2)));
    assert_eq!(rdpkru(), INITIAL & !0x3c | NO_WRITE << 4);
    assert_eq!(sys!(SYS_pkey_free, 1), Ok(0));
    assert_eq!(sys!(SYS_pkey_free, 1), Err(EINVAL));
    assert_eq!(sys!(SYS_pkey_free, 3), Err(EINVAL));
    assert_eq!(alloc(NO_ACCESS), Ok(1));
    assert_eq!((3..16).filter(|_| alloc(0).is_ok()).count(), 13);
    assert_eq!(alloc(0), Err(ENOSPC));
    assert_eq!(sys!(SYS_pkey_mprotect, a, PAGE, RW, 15), Ok(0));
    assert!(smaps_of(a).contains("ProtectionKey:        15"));
}

/// What smaps says about the mapping at `addr`.
fn smaps_of(addr: usize) -> String {
    let text = slurp("/proc/self/smaps");
    let from = text.find(&format!("{addr:x}-")).expect("the mapping");
    let rest = &text[from..];
    rest[..rest.find("VmFlags").unwrap()].into()
}

fn rights_refuse_accesses() {
    let (a, key) = keyed_page(0);
    poke(a, 7);
    let bits = |rights: u32| wrpkru(INITIAL & !(3 << (2 * key)) | rights << (2 * key));
    bits(NO_WRITE);
    assert_eq!(peek(a), 7);
    assert_eq!(fate(|| poke(a, 8)), Status::Signal(SIGSEGV));
    bits(NO_ACCESS);
    assert_eq!(fate(|| ignore(peek(a))), Status::Signal(SIGSEGV));
    bits(0);
    assert_eq!(peek(a), 7);
    // A key stays with the pages when only the access changes, and a page that is not there yet has it, too.
    sys!(SYS_mprotect, a, PAGE, PROT_READ).unwrap();
    sys!(SYS_mprotect, a, PAGE, RW).unwrap();
    sys!(SYS_madvise, a, PAGE, MADV_DONTNEED).unwrap();
    bits(NO_ACCESS);
    assert_eq!(fate(|| poke(a, 8)), Status::Signal(SIGSEGV));
    sys!(SYS_pkey_mprotect, a, PAGE, RW, 0).unwrap();
    poke(a, 9);
}

fn the_kernel_obeys_the_rights() {
    let (a, key) = keyed_page(0);
    poke(a, 7);
    let (r, w) = pipe();
    wrpkru(INITIAL | NO_WRITE << (2 * key));
    assert_eq!(sys!(SYS_write, w, a, 1), Err(EFAULT));
    wrpkru(INITIAL & !(3 << (2 * key)) | NO_WRITE << (2 * key));
    assert_eq!(sys!(SYS_write, w, a, 1), Ok(1));
    assert_eq!(sys!(SYS_read, r, a, 1), Err(EFAULT));
}

static CODE: AtomicU32 = AtomicU32::new(0);
static KEY: AtomicU32 = AtomicU32::new(0);
static IN_HANDLER: AtomicU32 = AtomicU32::new(0);
static IN_FRAME: AtomicU32 = AtomicU32::new(0);

/// Notes what it is told, and opens all keys in the frame.
extern "C" fn open_keys(_: i32, info: &SigInfo, context: usize) {
    IN_HANDLER.store(rdpkru(), SeqCst);
    CODE.store(info.code as u32, SeqCst);
    // `si_pkey`, behind the address and a pointer's worth of padding.
    KEY.store(info.fields[4], SeqCst);
    // `uc_mcontext.fpstate`.
    let at = peek64(context + 224) as usize + pkru_offset();
    IN_FRAME.store(peek64(at) as u32, SeqCst);
    poke32(at, 0);
}

fn a_refusal_names_its_key() {
    let (a, key) = keyed_page(NO_ACCESS);
    let before = rdpkru();
    on_signal(SIGSEGV, 0, open_keys);
    poke(a, 1);
    assert_eq!((CODE.load(SeqCst), KEY.load(SeqCst)), (4, key as u32), "SEGV_PKUERR");
    assert_eq!((IN_HANDLER.load(SeqCst), IN_FRAME.load(SeqCst)), (INITIAL, before));
    assert_eq!(rdpkru(), 0, "the handler's return took the rights from the frame");
    assert_eq!(peek(a), 1);
}

fn only_executable_memory() {
    need_keys();
    let a = anon(PAGE);
    // mov eax, edi; add eax, esi; ret
    [0x89u8, 0xf8, 0x01, 0xf0, 0xc3].iter().enumerate().for_each(|(i, b)| poke(a + i, *b));
    sys!(SYS_mprotect, a, PAGE, PROT_EXEC).unwrap();
    assert_eq!(crate::sys::call_function(a, 2, 3), 5);
    assert_eq!(fate(|| ignore(peek(a))), Status::Signal(SIGSEGV));
    assert!(smaps_of(a).contains("ProtectionKey:         1"));
    assert_eq!(sys!(SYS_pkey_free, 1), Err(EINVAL), "it is the kernel's");
    assert_eq!(alloc(0), Ok(2));
    sys!(SYS_mprotect, a, PAGE, PROT_READ | PROT_EXEC).unwrap();
    assert_eq!(peek(a), 0x89);
    let b = map(PAGE, PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1).unwrap();
    assert_eq!(fate(|| ignore(peek(b))), Status::Signal(SIGSEGV));
}

fn children_and_programs() {
    let (a, key) = keyed_page(0);
    let rights = rdpkru();
    aside(|| {
        assert_eq!(rdpkru(), rights);
        poke(a, 1);
        assert_eq!(sys!(SYS_pkey_free, key), Ok(0));
    });
    assert_eq!(sys!(SYS_pkey_free, key), Ok(0), "the child's keys are its own");
}

fn rights_belong_to_threads() {
    need_keys();
    let rounds = 200;
    let ((r1, w1), (r2, w2)) = (pipe(), pipe());
    let other = child(|| {
        wrpkru(0x10);
        for _ in 0..rounds {
            read_vec(r1, 1).unwrap();
            assert_eq!(rdpkru(), 0x10);
            write(w2, b"x").unwrap();
        }
    });
    wrpkru(0x4000_0000);
    for _ in 0..rounds {
        write(w1, b"x").unwrap();
        read_vec(r2, 1).unwrap();
        assert_eq!(rdpkru(), 0x4000_0000);
    }
    other.ok();
}
