//! Random operations on several address spaces and files, against one byte per page.
//!
//! Runs in unit tests on the hosted machine, and in the kernel that tests hal (its feature `selftest`) on the real one.
//! Being a test, it panics when something is wrong.

use abi::Errno;
use abi::mman::{MapFlags, MremapFlags, Prot};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use crate::vma::{Backing, Mappable};
use crate::{MapRequest, Mapping, Mm, RemapRequest, Rights, Shmem, VmFlags};

pub(crate) const PAGE: u64 = hal::PAGE_SIZE as u64;

/// A file in memory.
pub(crate) struct TestFile(pub Arc<Mapping>);

impl TestFile {
    pub fn new(size: u64) -> Arc<Self> {
        let mapping = Mapping::with_shmem(Arc::new(Shmem::new(u64::MAX)));
        mapping.set_size(size);
        Arc::new(Self(mapping))
    }
}

impl Mappable for TestFile {
    fn mapping(&self) -> Option<&Arc<Mapping>> {
        Some(&self.0)
    }
    fn name(&self) -> Vec<u8> {
        b"/test".to_vec()
    }
}

pub(crate) fn rw() -> Prot {
    Prot::READ | Prot::WRITE
}

/// A request for `nr` pages at page `at`, replacing what is there.
pub(crate) fn fixed(
    at: u64,
    nr: u64,
    prot: Prot,
    kind: MapFlags,
    backing: Backing,
    offset: u64,
) -> MapRequest {
    MapRequest {
        addr: at * PAGE,
        len: nr * PAGE,
        prot,
        flags: kind | MapFlags::FIXED,
        backing,
        offset: offset * PAGE,
        may: VmFlags::MAYREAD | VmFlags::MAYWRITE | VmFlags::MAYEXEC,
        extra: VmFlags::empty(),
        shown_as: None,
    }
}

/// First page of the arena: above `mmap_min_addr`.
const BASE: u64 = 0x100;
const PAGES: usize = 48;

#[derive(Clone, Debug, PartialEq)]
enum Content {
    /// Bytes of the address space's own.
    Own(u8),
    /// Page of an object, seen by all.
    Shared(usize, usize),
    /// Page of an object as long as it was not written.
    Lazy(usize, usize),
}

#[derive(Clone, Debug)]
struct Page {
    prot: Prot,
    content: Content,
    /// Where in an object a private page belongs: truncation takes its copy, `MADV_DONTNEED` restores it.
    home: Option<(usize, usize)>,
}

/// An object: its bytes (one per page) and, for files that tests can truncate, the file.
struct Object {
    bytes: Vec<u8>,
    size: usize,
    file: Option<Arc<TestFile>>,
}

#[derive(Clone)]
struct Space {
    mm: Arc<Mm>,
    pages: Vec<Option<Page>>,
}

struct World {
    objects: Vec<Object>,
    spaces: Vec<Space>,
    seed: u64,
}

impl World {
    fn below(&mut self, n: usize) -> usize {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        (self.seed >> 11) as usize % n
    }

    fn prot(&mut self) -> Prot {
        [rw(), rw(), rw(), Prot::READ, Prot::empty(), Prot::READ | Prot::EXEC][self.below(6)]
    }

    fn range(&mut self) -> (usize, usize) {
        let a = self.below(PAGES);
        let len = 1 + self.below(8);
        (a, (a + len).min(PAGES))
    }

    /// What a read of page `i` should see; `None` for a fault.
    fn expect(&self, s: usize, i: usize) -> Option<u8> {
        let page = self.spaces[s].pages[i].as_ref()?;
        if page.prot.is_empty() {
            return None;
        }
        match page.content {
            Content::Own(b) => Some(b),
            Content::Shared(o, p) | Content::Lazy(o, p) => {
                let object = &self.objects[o];
                (p < object.size).then(|| object.bytes[p])
            }
        }
    }

    fn check_page(&self, s: usize, i: usize) {
        let addr = (BASE + i as u64) * PAGE;
        let mut got = [0xee; 2];
        let n = self.spaces[s].mm.read_remote(addr + 17, &mut got[..1], Rights::Obey);
        let m = self.spaces[s].mm.read_remote(addr + 4095, &mut got[1..], Rights::Obey);
        match self.expect(s, i) {
            None => assert_eq!((n, m), (0, 0), "space {s} page {i} should fault"),
            Some(b) => assert_eq!((n, m, got), (1, 1, [b, b]), "space {s} page {i}"),
        }
    }

    fn write(&mut self, s: usize, i: usize, b: u8) {
        let addr = (BASE + i as u64) * PAGE;
        let n = self.spaces[s].mm.write_remote(addr, &[b; PAGE as usize], Rights::Obey);
        let sizes: Vec<usize> = self.objects.iter().map(|o| o.size).collect();
        let Some(page) = self.spaces[s].pages[i].as_mut() else { return assert_eq!(n, 0) };
        let inside = match page.content {
            Content::Own(_) => true,
            Content::Shared(o, p) | Content::Lazy(o, p) => p < sizes[o],
        };
        if !page.prot.contains(Prot::WRITE) || !inside {
            return assert_eq!(n, 0, "write to {page:?} should fault");
        }
        assert_eq!(n, PAGE as usize, "write to {page:?}");
        match page.content {
            Content::Shared(o, p) => self.objects[o].bytes[p] = b,
            Content::Own(_) | Content::Lazy(..) => page.content = Content::Own(b),
        }
    }

    fn map(&mut self, s: usize) {
        let (a, b) = self.range();
        let prot = self.prot();
        let kind = self.below(4);
        let at = BASE + a as u64;
        let nr = b - a;
        let (flags, backing, object, offset) = match kind {
            0 => (MapFlags::PRIVATE, Backing::Anonymous, None, 0),
            1 => {
                let o = self.objects.len();
                self.objects.push(Object { bytes: vec![0; nr], size: nr, file: None });
                (MapFlags::SHARED, Backing::Anonymous, Some(o), 0)
            }
            _ => {
                let o = self.below(3);
                let file = self.objects[o].file.clone().unwrap();
                let offset = self.below(20);
                let flags = if kind == 2 { MapFlags::SHARED } else { MapFlags::PRIVATE };
                (flags, Backing::file(file), Some(o), offset)
            }
        };
        let request = fixed(at, nr as u64, prot, flags, backing, offset as u64);
        assert_eq!(self.spaces[s].mm.map(request), Ok(at * PAGE));
        for i in a..b {
            let home = object.map(|o| (o, offset + i - a));
            let content = match (home, flags == MapFlags::SHARED) {
                (None, _) => Content::Own(0),
                (Some((o, p)), true) => Content::Shared(o, p),
                (Some((o, p)), false) => Content::Lazy(o, p),
            };
            let home = home.filter(|_| flags == MapFlags::PRIVATE);
            self.spaces[s].pages[i] = Some(Page { prot, content, home });
        }
    }

    fn protect(&mut self, s: usize) {
        let (a, b) = self.range();
        let prot = self.prot();
        let result = self.spaces[s].mm.protect((BASE + a as u64) * PAGE, (b - a) as u64 * PAGE, prot, None);
        let pages = &mut self.spaces[s].pages[a..b];
        let hole = pages.iter().any(Option::is_none);
        assert_eq!(result.is_err(), hole);
        pages.iter_mut().map_while(Option::as_mut).for_each(|p| p.prot = prot);
    }

    /// Moves pages `a..b` to another place; a hole moves nothing and leaves what is at its target.
    fn remap(&mut self, s: usize) {
        let (a, b) = self.range();
        let to = self.below(PAGES - (b - a));
        let (addr, new_addr) = ((BASE + a as u64) * PAGE, (BASE + to as u64) * PAGE);
        let len = (b - a) as u64 * PAGE;
        let request = RemapRequest {
            addr,
            old_len: len,
            new_len: len,
            flags: MremapFlags::MAYMOVE | MremapFlags::FIXED,
            new_addr,
        };
        let overlaps = to < b && a < to + (b - a);
        let expect = match (overlaps, self.spaces[s].pages[a].is_some()) {
            (true, _) => Err(Errno::EINVAL),
            (_, false) => Err(Errno::EFAULT),
            _ => Ok(new_addr),
        };
        assert_eq!(self.spaces[s].mm.remap(request), expect);
        if expect.is_ok() {
            for i in 0..b - a {
                if let Some(page) = self.spaces[s].pages[a + i].take() {
                    self.spaces[s].pages[to + i] = Some(page);
                }
            }
        }
    }

    fn dont_need(&mut self, s: usize) {
        let (a, b) = self.range();
        let advice = abi::raw::general::MADV_DONTNEED;
        let _ = self.spaces[s].mm.advise((BASE + a as u64) * PAGE, (b - a) as u64 * PAGE, advice);
        for page in self.spaces[s].pages[a..b].iter_mut().flatten() {
            page.content = match (&page.content, page.home) {
                (Content::Own(_), Some((o, p))) => Content::Lazy(o, p),
                (Content::Own(_), None) => Content::Own(0),
                (other, _) => other.clone(),
            };
        }
    }

    /// Pages go to swap, if there is any; nothing else changes.
    fn page_out(&mut self, s: usize) {
        let (a, b) = self.range();
        let advice = abi::raw::general::MADV_PAGEOUT;
        let _ = self.spaces[s].mm.advise((BASE + a as u64) * PAGE, (b - a) as u64 * PAGE, advice);
    }

    fn truncate(&mut self) {
        let o = self.below(3);
        let size = self.below(24);
        let object = &mut self.objects[o];
        object.file.as_ref().unwrap().0.truncate(size as u64 * PAGE);
        if size < object.size {
            object.bytes[size..].fill(0);
            // Private copies of pages beyond the end go, too.
            for page in self.spaces.iter_mut().flat_map(|s| s.pages.iter_mut().flatten()) {
                if let (Content::Own(_), Some((h, p))) = (&page.content, page.home)
                    && h == o
                    && p >= size
                {
                    page.content = Content::Lazy(o, p);
                }
            }
        }
        object.size = size;
    }

    fn step(&mut self) {
        let s = self.below(self.spaces.len());
        let i = self.below(PAGES);
        let byte = 1 + self.below(255) as u8;
        match self.below(24) {
            0..3 => self.map(s),
            3 => {
                let (a, b) = self.range();
                self.spaces[s].mm.unmap((BASE + a as u64) * PAGE, (b - a) as u64 * PAGE).unwrap();
                self.spaces[s].pages[a..b].fill(None);
            }
            4..6 => self.protect(s),
            6 => self.remap(s),
            7 => self.dont_need(s),
            8 if self.below(3) == 0 => self.truncate(),
            9 if self.spaces.len() < 5 => {
                let copy = Space { mm: self.spaces[s].mm.fork().unwrap(), ..self.spaces[s].clone() };
                if self.seed & 3 != 0 {
                    copy.mm.expect_threads();
                }
                self.spaces.push(copy);
            }
            10 if self.spaces.len() > 1 => drop(self.spaces.swap_remove(s)),
            11..17 => self.write(s, i, byte),
            17 => self.page_out(s),
            _ => self.check_page(s, i),
        }
    }
}

/// Runs `steps` random operations and checks all contents at the end.
///
/// # Panics
///
/// When a page holds or allows something else than the model says, or a counter is wrong.
pub fn random_operations(seed: u64, steps: usize) {
    let files = (0..3).map(|_| {
        let file = TestFile::new(16 * PAGE);
        Object { bytes: vec![0; 64], size: 16, file: Some(file) }
    });
    let first = Space { mm: Mm::new().expect("memory"), pages: vec![None; PAGES] };
    // Faults take the way of processes of several threads, too.
    if seed & 1 != 0 {
        first.mm.expect_threads();
    }
    let mut world = Box::new(World { objects: files.collect(), spaces: vec![first], seed });
    for n in 0..steps {
        world.step();
        if n % 16 == 0 {
            world.spaces.iter().for_each(|s| s.mm.check_invariants());
        }
    }
    for s in 0..world.spaces.len() {
        world.spaces[s].mm.check_invariants();
        (0..PAGES).for_each(|i| world.check_page(s, i));
    }
}

/// Repetitions of each measured operation.
const ROUNDS: u64 = 200;

/// Measures what common operations cost with the clock `now` and reports nanoseconds for each.
///
/// # Panics
///
/// When an operation fails.
pub fn measure(now: fn() -> u64, mut report: impl FnMut(&str, u64)) {
    let mm = Mm::new().expect("memory");
    let timed = |f: &mut dyn FnMut()| {
        let start = now();
        f();
        (now() - start) / ROUNDS
    };
    let write = hal::trap::Access { write: true, exec: false, user_mode: true, by_key: false };
    let read = hal::trap::Access { write: false, ..write };
    let at = mm.map(MapRequest::anonymous(ROUNDS * PAGE, rw())).expect("room");
    let touch = |mm: &Mm, access| {
        for i in 0..ROUNDS {
            mm.handle_fault(hal::UserAddr(at + i * PAGE), access).expect("a page");
        }
    };
    report("anonymous write fault", timed(&mut || touch(&mm, write)));
    let mut child = None;
    report("fork of one page", timed(&mut || child = mm.fork().ok()));
    let copy = child.take().expect("a child");
    report("copying write fault", timed(&mut || touch(&copy, write)));
    report("reusing write fault", timed(&mut || touch(&mm, write)));
    report("teardown of one page", timed(&mut || copy.unmap(at, ROUNDS * PAGE).expect("unmap")));
    report(
        "fork of an empty space",
        timed(&mut || {
            let empty = Mm::new().expect("memory");
            (0..ROUNDS).for_each(|_| drop(empty.fork()));
        }),
    );
    report("munmap of one page", timed(&mut || mm.unmap(at, ROUNDS * PAGE).expect("unmap")));
    report(
        "mmap and munmap",
        timed(&mut || {
            for _ in 0..ROUNDS {
                let at = mm.map(MapRequest::anonymous(PAGE, rw())).expect("room");
                mm.unmap(at, PAGE).expect("unmap");
            }
        }),
    );
    let file = TestFile::new(0);
    file.0.write(0, &mut hal::uio::Src::kernel(&vec![1; (ROUNDS * PAGE) as usize])).expect("pages");
    let flags = MapFlags::PRIVATE | MapFlags::FIXED;
    mm.map(fixed(at / PAGE, ROUNDS, Prot::READ, flags, Backing::file(file.clone()), 0)).expect("room");
    report("file read fault (16 pages around, per page)", timed(&mut || touch(&mm, read)));
    let mut page = [0; PAGE as usize];
    report(
        "read of a cached page",
        timed(&mut || {
            for i in 0..ROUNDS {
                file.0.read(i * PAGE, &mut hal::uio::Dest::kernel(&mut page)).expect("a page");
            }
        }),
    );
    report(
        "mprotect of half and back",
        timed(&mut || {
            for _ in 0..ROUNDS {
                mm.protect(at, 8 * PAGE, Prot::empty(), None).expect("mprotect");
                mm.protect(at, 8 * PAGE, Prot::READ, None).expect("mprotect");
            }
        }),
    );
}
