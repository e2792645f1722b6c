//! Nothing booted.

use alloc::vec::Vec;
use std::eprintln;

use crate::addr::{PAGE_SIZE, PhysAddr};
use crate::boot::{MemoryKind, MemoryRange};
use crate::frame::Frame;

pub fn cmdline() -> &'static [u8] {
    b""
}

pub fn memory_map() -> Vec<MemoryRange> {
    let len = (super::mem::NR_FRAMES * PAGE_SIZE) as u64;
    alloc::vec![MemoryRange { start: PhysAddr(0), len, kind: MemoryKind::Ram }]
}

pub fn read_firmware(_paddr: PhysAddr, _buf: &mut [u8]) -> Option<()> {
    None
}

pub fn initrd_len() -> usize {
    0
}

pub fn initrd_read(_pos: usize, _buf: &mut [u8]) -> usize {
    0
}

pub fn initrd_release(_end: usize) {}

pub fn initrd_take(_pos: usize) -> Option<Frame> {
    None
}

pub fn symbolize(_addr: usize) -> Option<(&'static str, usize)> {
    None
}

pub fn symbol(_idx: usize) -> Option<(usize, &'static str)> {
    None
}

pub fn early_console(time_ns: u64, text: &[u8]) {
    eprintln!("[{:5}.{:06}] {}", time_ns / 1_000_000_000, time_ns / 1000 % 1_000_000, text.escape_ascii());
}
