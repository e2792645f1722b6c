//! Physical memory: a zeroed allocation of the host, whose pages the host provides at their first use.

use core::alloc::Layout;
use std::sync::OnceLock;

use crate::addr::PAGE_SIZE;
use crate::frame::FrameMeta;

/// 256 MiB.
pub(super) const NR_FRAMES: usize = 64 * 1024;

struct Arena {
    pages: *mut u8,
    metas: *const FrameMeta,
}

// SAFETY: plain memory; accesses are the frame module's business.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

fn arena() -> &'static Arena {
    static ARENA: OnceLock<Arena> = OnceLock::new();
    ARENA.get_or_init(|| {
        let layout = |size| Layout::from_size_align(size, PAGE_SIZE).expect("constant layout");
        // SAFETY: neither size is 0.
        let pages = unsafe { std::alloc::alloc_zeroed(layout(NR_FRAMES * PAGE_SIZE)) };
        // SAFETY: as above.
        let metas = unsafe { std::alloc::alloc_zeroed(layout(NR_FRAMES * size_of::<FrameMeta>())) };
        assert!(!pages.is_null() && !metas.is_null(), "no memory for the hosted machine");
        Arena { pages, metas: metas.cast() }
    })
}

pub fn frame_ptr(pfn: u64) -> *mut u8 {
    assert!(pfn < NR_FRAMES as u64);
    arena().pages.wrapping_add(pfn as usize * PAGE_SIZE)
}

pub fn meta(pfn: u64) -> &'static FrameMeta {
    assert!(pfn < NR_FRAMES as u64);
    // SAFETY: inside the array, which is never freed; all-zero bytes are a valid `FrameMeta`.
    unsafe { &*arena().metas.add(pfn as usize) }
}

/// The number after the last frame's.
pub fn end_pfn() -> u64 {
    NR_FRAMES as u64
}

/// Whether there is frame `pfn`.
pub fn has_meta(pfn: u64) -> bool {
    pfn < NR_FRAMES as u64
}

/// The number of the frame that holds `ptr`, which came from [`frame_ptr`].
pub fn pfn_of(ptr: *const u8) -> u64 {
    ((ptr.addr() - arena().pages.addr()) / PAGE_SIZE) as u64
}

/// Gives the arena to the frame allocator at the first call.
pub fn ensure_ready() {
    static READY: std::sync::Once = std::sync::Once::new();
    // SAFETY: the arena is used for frames only, its metadata is zeroed, and it is given away once.
    READY.call_once(|| unsafe { crate::frame::add_range(1, NR_FRAMES as u64) });
}

/// All memory is frames here.
pub fn is_frame(_ptr: *const u8) -> bool {
    true
}

/// Areas of single frames need a machine that maps them.
pub fn alloc_pages(_pages: usize) -> Option<core::ptr::NonNull<u8>> {
    None
}

/// Never called: [`alloc_pages`] gives nothing.
///
/// # Safety
///
/// 1. None.
pub unsafe fn free_pages(_area: *mut u8, _pages: usize) {}

/// There are no areas to take apart.
pub fn trim_pages() -> usize {
    0
}
