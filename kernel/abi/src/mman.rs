//! Memory mappings: protection, mapping flags, advice (mmap(2), mremap(2), madvise(2), mlock(2)).

use bitflags::bitflags;

bitflags! {
    /// Protection of a mapping, `PROT_*` of mmap(2).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
    pub struct Prot: u32 {
        const READ = 1;
        const WRITE = 2;
        const EXEC = 4;
        const SEM = 8;
        const GROWSDOWN = 0x0100_0000;
        const GROWSUP = 0x0200_0000;
    }

    /// `MAP_*` flags of mmap(2). The type (shared, private, ...) is in the low four bits: [`MapFlags::TYPE`].
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct MapFlags: u32 {
        const SHARED = 0x01;
        const PRIVATE = 0x02;
        const SHARED_VALIDATE = 0x03;
        const DROPPABLE = 0x08;
        const TYPE = 0x0f;
        const FIXED = 0x10;
        const ANONYMOUS = 0x20;
        const MAP_32BIT = 0x40;
        const GROWSDOWN = 0x0100;
        const DENYWRITE = 0x0800;
        const EXECUTABLE = 0x1000;
        const LOCKED = 0x2000;
        const NORESERVE = 0x4000;
        const POPULATE = 0x8000;
        const NONBLOCK = 0x1_0000;
        const STACK = 0x2_0000;
        const HUGETLB = 0x4_0000;
        const SYNC = 0x8_0000;
        const FIXED_NOREPLACE = 0x10_0000;
        const UNINITIALIZED = 0x400_0000;
    }

    /// `MREMAP_*` flags of mremap(2).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct MremapFlags: u32 {
        const MAYMOVE = 1;
        const FIXED = 2;
        const DONTUNMAP = 4;
    }

    /// `MS_*` flags of msync(2).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct MsyncFlags: u32 {
        const ASYNC = 1;
        const INVALIDATE = 2;
        const SYNC = 4;
    }

    /// `MCL_*` flags of mlockall(2).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct MlockallFlags: u32 {
        const CURRENT = 1;
        const FUTURE = 2;
        const ONFAULT = 4;
    }
}

/// What madvise(2) is asked to do, by number. See [`crate::raw::general`] for the `MADV_*` constants.
pub type Advice = u32;
