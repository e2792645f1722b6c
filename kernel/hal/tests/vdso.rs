//! Maps the vDSO image into this process, as the kernel does for programs, and uses it like the C library.

#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

#[path = "../src/arch/x86_64/vdso/image.rs"]
mod image;

use std::mem::transmute;
use std::sync::atomic::Ordering::Relaxed;

const PAGE: usize = 4096;

/// The data page and, above it, the image.
struct Mapped {
    base: *mut u8,
}

impl Mapped {
    fn new() -> Mapped {
        let bytes = image::bytes();
        assert_eq!(bytes.len(), PAGE);
        // SAFETY: a fresh anonymous mapping of two pages, filled while it is writable, then executable.
        unsafe {
            let base = libc::mmap(
                std::ptr::null_mut(),
                2 * PAGE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
            .cast::<u8>();
            assert_ne!(base.cast(), libc::MAP_FAILED);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), base.add(PAGE), bytes.len());
            let code = base.add(PAGE).cast();
            assert_eq!(libc::mprotect(code, PAGE, libc::PROT_READ | libc::PROT_EXEC), 0);
            Mapped { base }
        }
    }

    fn data(&self) -> &image::Data {
        // SAFETY: the first page, all atomics, zeroed by mmap.
        unsafe { &*self.base.cast::<image::Data>() }
    }

    fn word<T: Copy>(&self, offset: u64) -> T {
        assert!(offset as usize + size_of::<T>() <= PAGE);
        // SAFETY: inside the image.
        unsafe { self.base.add(PAGE + offset as usize).cast::<T>().read_unaligned() }
    }

    fn text(&self, mut offset: u64) -> String {
        let mut text = String::new();
        while self.word::<u8>(offset) != 0 {
            text.push(self.word::<u8>(offset) as char);
            offset += 1;
        }
        text
    }

    /// The value of `tag` in the dynamic section, which is found through the program headers.
    fn dynamic(&self, tag: u64) -> u64 {
        let headers = self.word::<u64>(32);
        let count = self.word::<u16>(56);
        let dynamic = (0..u64::from(count))
            .map(|i| headers + i * 56)
            .find(|header| self.word::<u32>(*header) == 2)
            .expect("PT_DYNAMIC");
        let start = self.word::<u64>(dynamic + 16);
        let mut entries =
            (0..).map(|i| (self.word::<u64>(start + i * 16), self.word::<u64>(start + i * 16 + 8)));
        entries.find(|entry| entry.0 == tag || entry.0 == 0).filter(|entry| entry.0 == tag).expect("tag").1
    }

    /// The address of `name` with version LINUX_2.6, found by the hash table.
    fn find(&self, name: &str) -> usize {
        let (hash, symbols, strings) = (self.dynamic(4), self.dynamic(6), self.dynamic(5));
        let (buckets, versions) = (self.word::<u32>(hash), self.dynamic(0x6fff_fff0));
        let mut index = self.word::<u32>(hash + 8 + u64::from(elf_hash(name) % buckets) * 4);
        while index != 0 {
            let symbol = symbols + u64::from(index) * 24;
            if self.text(strings + u64::from(self.word::<u32>(symbol))) == name {
                let version = self.word::<u16>(versions + u64::from(index) * 2);
                assert_eq!(self.version_name(version), "LINUX_2.6");
                return self.base as usize + PAGE + self.word::<u64>(symbol + 8) as usize;
            }
            index = self.word::<u32>(hash + 8 + u64::from(buckets + index) * 4);
        }
        panic!("no {name}")
    }

    fn version_name(&self, index: u16) -> String {
        let (mut at, count) = (self.dynamic(0x6fff_fffc), self.dynamic(0x6fff_fffd));
        for _ in 0..count {
            if self.word::<u16>(at + 4) == index {
                let aux = at + u64::from(self.word::<u32>(at + 12));
                let name = self.text(self.dynamic(5) + u64::from(self.word::<u32>(aux)));
                assert_eq!(self.word::<u32>(at + 8), elf_hash(&name));
                return name;
            }
            at += u64::from(self.word::<u32>(at + 16));
        }
        panic!("no version {index}")
    }

    fn clock_gettime(&self, clock: u32) -> (i64, i64, i64) {
        let mut time = [-1i64; 2];
        // SAFETY: the address of the function of this type in the image.
        let call: extern "C" fn(u32, *mut i64) -> i64 =
            unsafe { std::mem::transmute(self.find("__vdso_clock_gettime")) };
        let result = call(clock, time.as_mut_ptr());
        (result, time[0], time[1])
    }

    /// Makes the counter a clock of 2^-10 ns with a base that puts it at about `seconds`.
    fn set_clock(&self, seconds: u64) {
        // SAFETY: every x86-64 CPU has RDTSC.
        let now = unsafe { core::arch::x86_64::_rdtsc() };
        let data = self.data();
        data.multiplier.store(1, Relaxed);
        data.shift.store(10, Relaxed);
        data.tsc_base.store(now.wrapping_sub((seconds * 1_000_000_000) << 10), Relaxed);
        data.offsets_ns[0].store(1_700_000_000_123_456_789, Relaxed);
        data.offsets_ns[7].store(5_000_000_000, Relaxed);
        data.readable.store(image::READABLE, Relaxed);
        data.mode.store(1, Relaxed);
    }
}

fn elf_hash(name: &str) -> u32 {
    name.bytes().fold(0u32, |hash, byte| {
        let hash = (hash << 4).wrapping_add(u32::from(byte));
        (hash ^ (hash & 0xf000_0000) >> 24) & 0x0fff_ffff
    })
}

#[test]
fn clocks_follow_the_counter_and_their_offsets() {
    let vdso = Mapped::new();
    vdso.set_clock(1000);
    let (result, seconds, nanoseconds) = vdso.clock_gettime(1);
    assert_eq!((result, seconds), (0, 1000));
    assert!((0..1_000_000_000).contains(&nanoseconds));
    assert_eq!(vdso.clock_gettime(0).1, 1_700_001_000);
    assert_eq!(vdso.clock_gettime(7).1, 1005);
}

#[test]
fn a_clock_that_is_not_readable_is_the_systems() {
    let vdso = Mapped::new();
    vdso.set_clock(1000);
    vdso.data().offsets_ns[4].store(4_000_000_000_000_000_000, Relaxed);
    assert_eq!(vdso.clock_gettime(4).1, 4_000_001_000);
    vdso.data().readable.store(image::READABLE & !image::RAW, Relaxed);
    let (result, seconds, _) = vdso.clock_gettime(4);
    assert!(result == 0 && seconds < 4_000_000_000, "the uptime of this machine");
    assert_eq!(vdso.clock_gettime(1).1, 1000);
}

#[test]
fn a_product_beyond_64_bits_does_not_wrap() {
    let vdso = Mapped::new();
    vdso.set_clock(0);
    // SAFETY: every x86-64 CPU has RDTSC.
    let now = unsafe { core::arch::x86_64::_rdtsc() };
    vdso.data().tsc_base.store(now.wrapping_sub(1 << 60), Relaxed);
    vdso.data().multiplier.store(1 << 32, Relaxed);
    vdso.data().shift.store(32, Relaxed);
    assert_eq!(vdso.clock_gettime(1).1, (1i64 << 60) / 1_000_000_000);
}

#[test]
fn clocks_that_the_page_does_not_hold_are_asked_of_the_kernel() {
    let vdso = Mapped::new();
    // Mode 0: even the monotonic clock.
    let (result, seconds, _) = vdso.clock_gettime(1);
    assert_eq!(result, 0);
    assert!(seconds >= 0);
    vdso.set_clock(1000);
    assert_eq!(vdso.clock_gettime(2).0, 0);
    assert_eq!(vdso.clock_gettime(10).0, -i64::from(libc::EINVAL));
    assert_eq!(vdso.clock_gettime(12345).0, -i64::from(libc::EINVAL));
}

#[test]
fn gettimeofday_and_time_agree() {
    let vdso = Mapped::new();
    vdso.set_clock(0);
    // SAFETY: the addresses of functions of these types in the image.
    let (gettimeofday, time) = unsafe {
        (
            transmute::<usize, extern "C" fn(*mut i64, *mut i32) -> i64>(vdso.find("__vdso_gettimeofday")),
            transmute::<usize, extern "C" fn(*mut i64) -> i64>(vdso.find("time")),
        )
    };
    let (mut now, mut zone, mut stored) = ([0i64; 2], [-1i32; 2], 0i64);
    assert_eq!(gettimeofday(now.as_mut_ptr(), zone.as_mut_ptr()), 0);
    assert!((now[0], zone) == (1_700_000_000, [0, 0]) && (0..1_000_000).contains(&now[1]));
    assert_eq!(gettimeofday(std::ptr::null_mut(), std::ptr::null_mut()), 0);
    assert_eq!((time(&mut stored), stored), (1_700_000_000, 1_700_000_000));
    assert_eq!(time(std::ptr::null_mut()), 1_700_000_000);
}

#[test]
fn getcpu_and_getres_answer_like_the_kernel() {
    let vdso = Mapped::new();
    // SAFETY: the addresses of functions of these types in the image.
    let (getcpu, getres) = unsafe {
        (
            transmute::<usize, extern "C" fn(*mut u32, *mut u32, usize) -> i64>(vdso.find("__vdso_getcpu")),
            transmute::<usize, extern "C" fn(u32, *mut i64) -> i64>(vdso.find("__vdso_clock_getres")),
        )
    };
    let (mut cpu, mut node, mut resolution) = (u32::MAX, u32::MAX, [-1i64; 2]);
    assert_eq!(getcpu(&mut cpu, &mut node, 0), 0);
    assert!(cpu < 4096 && node < 4096);
    assert_eq!((getres(1, resolution.as_mut_ptr()), resolution), (0, [0, 1]));
    assert_eq!(getres(99, resolution.as_mut_ptr()), -i64::from(libc::EINVAL));
}

/// What `getrandom` of the image does, with a state in a page of its own.
struct Random {
    vdso: Mapped,
    state: *mut u64,
    call: extern "C" fn(*mut u8, usize, u32, *mut u64, usize) -> isize,
}

impl Random {
    const STATE: usize = 1024;

    fn new() -> Random {
        let vdso = Mapped::new();
        // SAFETY: the address of the function of this type in the image; a fresh anonymous page.
        let (call, state) = unsafe {
            (
                transmute::<usize, extern "C" fn(*mut u8, usize, u32, *mut u64, usize) -> isize>(
                    vdso.find("__vdso_getrandom"),
                ),
                libc::mmap(
                    std::ptr::null_mut(),
                    PAGE,
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                    -1,
                    0,
                ),
            )
        };
        assert_ne!(state, libc::MAP_FAILED);
        Random { vdso, state: state.cast(), call }
    }

    fn fill(&self, buf: &mut [u8]) -> isize {
        (self.call)(buf.as_mut_ptr(), buf.len(), 0, self.state, Self::STATE)
    }

    /// Generation, position and whether it is in use.
    fn state(&self) -> (u64, u32, u32) {
        // SAFETY: the page that `new` mapped.
        let (generation, rest) = unsafe { (self.state.read(), self.state.add(1).read()) };
        (generation, rest as u32, (rest >> 32) as u32)
    }
}

#[test]
fn getrandom_tells_what_state_it_wants() {
    let random = Random::new();
    let mut wants = [u32::MAX; 16];
    let result = (random.call)(std::ptr::null_mut(), 0, 0, wants.as_mut_ptr().cast(), usize::MAX);
    assert_eq!(result, 0);
    assert_eq!((wants[0] as usize, wants[1], wants[2]), (Random::STATE, 3, 0x28));
    assert_eq!(wants[3..], [0; 13]);
}

#[test]
fn getrandom_hands_out_each_byte_of_a_batch_once() {
    let random = Random::new();
    random.vdso.data().generation.store(7, Relaxed);
    let mut all = Vec::new();
    for len in [1, 8, 15, 900, 100, 1263, 4096, 4] {
        let mut buf = vec![0; len];
        assert_eq!(random.fill(&mut buf), len as isize);
        assert!(len < 16 || buf.iter().filter(|byte| **byte == 0).count() < len / 16 + 4, "{len}: {buf:?}");
        all.extend(buf);
        let (generation, position, in_use) = random.state();
        assert_eq!((generation, in_use), (7, 0));
        assert!(position <= 1008);
    }
    // 6387 bytes: no eight of them twice.
    let mut words: Vec<&[u8]> = all.windows(8).collect();
    let count = words.len();
    words.sort_unstable();
    words.dedup();
    assert_eq!(words.len(), count);
}

#[test]
fn getrandom_throws_away_what_is_of_another_generation() {
    let random = Random::new();
    let mut buf = [0; 4];
    // Generation 0: the state is not touched.
    assert_eq!(random.fill(&mut buf), 4);
    assert_eq!(random.state(), (0, 0, 0));
    random.vdso.data().generation.store(1, Relaxed);
    assert_eq!(random.fill(&mut buf), 4);
    assert_eq!(random.state(), (1, 4, 0));
    assert_eq!(random.fill(&mut buf), 4);
    assert_eq!(random.state(), (1, 8, 0));
    random.vdso.data().generation.store(2, Relaxed);
    assert_eq!(random.fill(&mut buf), 4);
    assert_eq!(random.state(), (2, 4, 0));
}

#[test]
fn getrandom_asks_the_kernel_for_what_it_cannot_do() {
    let random = Random::new();
    random.vdso.data().generation.store(1, Relaxed);
    let mut buf = [0; 5000];
    assert_eq!(random.fill(&mut buf), 5000);
    assert_eq!((random.call)(buf.as_mut_ptr(), 4, 8, random.state, Random::STATE), -(libc::EINVAL as isize));
    assert_eq!((random.call)(buf.as_mut_ptr(), 4, 0, random.state, 99), 4);
    assert_eq!(random.state(), (0, 0, 0));
    // SAFETY: still inside the page.
    let across = unsafe { random.state.byte_add(PAGE - 512) };
    assert_eq!((random.call)(buf.as_mut_ptr(), 4, 0, across, Random::STATE), -(libc::EFAULT as isize));
    assert_eq!((random.call)(std::ptr::null_mut(), 0, 0, random.state, Random::STATE), 0);
}
