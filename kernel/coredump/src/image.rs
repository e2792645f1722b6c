//! The ELF file: headers, notes and memory.

use alloc::vec::Vec;
use core::ops::ControlFlow;

use abi::{Errno, Result};
use hal::PAGE_SIZE;
use mm::{Mm, Rights, VmFlags};
use process::coredump::{CoreDump, CoreThread};
use process::pid::visible;
use security::IdKind;

use crate::notes::{MappedFile, Notes, PsInfo, Regs, Status};
use crate::sink::Sink;

/// Bits of /proc/PID/coredump_filter (core(5)).
mod filter {
    pub const ANON_PRIVATE: u32 = 1;
    pub const ANON_SHARED: u32 = 2;
    pub const FILE_PRIVATE: u32 = 4;
    pub const FILE_SHARED: u32 = 8;
    pub const ELF_HEADERS: u32 = 16;
    pub const HUGE_PRIVATE: u32 = 32;
    pub const HUGE_SHARED: u32 = 64;
}

const EHDR_LEN: u64 = 64;
const PHDR_LEN: u64 = 56;
/// More program headers than this need another place for their number.
const MAX_HEADERS: usize = 0xfffe;
const PAGE: u64 = PAGE_SIZE as u64;

/// A mapping in the file.
struct Segment {
    start: u64,
    end: u64,
    flags: VmFlags,
    /// Bytes that are written, from the start on.
    written: u64,
    /// Whether pages that are not mapped have no contents of their own.
    is_anonymous: bool,
}

/// Writes the whole file.
pub(crate) fn write(dump: &CoreDump<'_>, sink: &mut Sink) -> Result<()> {
    // Before anything is written: a file that ends behind its headers is no use to anyone.
    let mut page = Vec::new();
    page.try_reserve_exact(PAGE_SIZE).map_err(|_| Errno::ENOMEM)?;
    page.resize(PAGE_SIZE, 0);
    let (segments, files) = collect(dump)?;
    let notes = make_notes(dump, &files);
    let headers_end = EHDR_LEN + PHDR_LEN * (segments.len() as u64 + 1);
    let data_start = (headers_end + notes.len() as u64).next_multiple_of(PAGE);
    sink.put(&headers(&segments, headers_end, notes.len() as u64, data_start))?;
    sink.put(&notes)?;
    sink.skip(data_start - headers_end - notes.len() as u64)?;
    for segment in &segments {
        write_segment(dump, segment, &mut page, sink)?;
    }
    sink.finish()
}

/// The mappings and the mapped files.
fn collect(dump: &CoreDump<'_>) -> Result<(Vec<Segment>, Vec<MappedFile>)> {
    let filter = dump.task.group().coredump_filter();
    let (mut segments, mut files) = (Vec::new(), Vec::new());
    let mut is_short = false;
    dump.mm.for_each_vma(0, |vma| {
        if segments.try_reserve(1).is_err()
            || files.try_reserve(1).is_err()
            || segments.len() >= MAX_HEADERS - 1
        {
            is_short = true;
            return ControlFlow::Break(());
        }
        // Shared memory is a file without a name; what was removed counts as such, too.
        let is_file = vma.name.first() == Some(&b'/') && !vma.name.ends_with(b" (deleted)");
        segments.push(Segment {
            start: vma.range.start,
            end: vma.range.end,
            flags: vma.flags,
            written: wanted_bytes(filter, vma.flags, is_file, vma.range.end - vma.range.start, vma.offset),
            is_anonymous: !is_file && !vma.flags.contains(VmFlags::SHARED),
        });
        if is_file {
            files.push(MappedFile {
                start: vma.range.start,
                end: vma.range.end,
                offset: vma.offset,
                name: vma.name.clone(),
            });
        }
        ControlFlow::Continue(())
    });
    if is_short {
        return Err(Errno::ENOMEM);
    }
    // Whether a file begins with an ELF header can be seen only without the lock of the address space.
    for segment in segments.iter_mut().filter(|segment| segment.written == PAGE && !segment.is_anonymous) {
        let mut magic = [0; 4];
        let is_whole = segment.end - segment.start == PAGE;
        if !is_whole
            && (dump.mm.read_remote(segment.start, &mut magic, Rights::Force) < 4 || magic != *b"\x7fELF")
        {
            segment.written = 0;
        }
    }
    Ok((segments, files))
}

/// How much of a mapping of `len` bytes is written.
fn wanted_bytes(filter: u32, flags: VmFlags, is_file: bool, len: u64, offset: u64) -> u64 {
    let has = |bit: u32| filter & bit != 0;
    let is_shared = flags.contains(VmFlags::SHARED);
    if flags.contains(VmFlags::DONTDUMP) || flags.intersects(VmFlags::IO) {
        return 0;
    }
    let is_whole = match (is_file, is_shared) {
        // The vDSO is a mapping of the kernel's pages.
        _ if flags.contains(VmFlags::PFNMAP) => false,
        _ if flags.contains(VmFlags::HUGETLB) => {
            return if has(if is_shared { filter::HUGE_SHARED } else { filter::HUGE_PRIVATE }) {
                len
            } else {
                0
            };
        }
        (false, false) => has(filter::ANON_PRIVATE),
        (false, true) => has(filter::ANON_SHARED),
        // A private mapping of a file that was written to holds anonymous pages.
        (true, false) => {
            has(filter::FILE_PRIVATE) || (has(filter::ANON_PRIVATE) && flags.contains(VmFlags::COWED))
        }
        (true, true) => has(filter::FILE_SHARED),
    };
    if is_whole {
        len
    } else if is_file && has(filter::ELF_HEADERS) && offset == 0 && flags.contains(VmFlags::READ) {
        len.min(PAGE)
    } else {
        0
    }
}

/// ELF header and program headers.
fn headers(segments: &[Segment], notes_at: u64, notes_len: u64, data_start: u64) -> Vec<u8> {
    const ET_CORE: u16 = 4;
    const EM_X86_64: u16 = 62;
    const PT_LOAD: u32 = 1;
    const PT_NOTE: u32 = 4;
    let mut out = Vec::new();
    out.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    out.extend_from_slice(&ET_CORE.to_le_bytes());
    out.extend_from_slice(&EM_X86_64.to_le_bytes());
    out.extend_from_slice(&1u32.to_le_bytes());
    for word in [0, EHDR_LEN, 0] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.extend_from_slice(&0u32.to_le_bytes());
    for half in [EHDR_LEN as u16, PHDR_LEN as u16, segments.len() as u16 + 1, 0, 0, 0] {
        out.extend_from_slice(&half.to_le_bytes());
    }
    let mut header = |kind: u32, flags: u32, words: [u64; 6]| {
        out.extend_from_slice(&kind.to_le_bytes());
        out.extend_from_slice(&flags.to_le_bytes());
        words.iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
    };
    // Offset, virtual and physical address, size in the file and in memory, alignment.
    header(PT_NOTE, 0, [notes_at, 0, 0, notes_len, 0, 4]);
    let mut at = data_start;
    for segment in segments {
        let flag = |which: VmFlags, bit: u32| if segment.flags.contains(which) { bit } else { 0 };
        let flags = flag(VmFlags::READ, 4) | flag(VmFlags::WRITE, 2) | flag(VmFlags::EXEC, 1);
        let len = segment.end - segment.start;
        header(PT_LOAD, flags, [at, segment.start, 0, segment.written, len, PAGE]);
        at += segment.written;
    }
    out
}

/// Writes the memory of `segment`. `EINTR`: the process was killed meanwhile.
fn write_segment(dump: &CoreDump<'_>, segment: &Segment, page: &mut [u8], sink: &mut Sink) -> Result<()> {
    let mut at = segment.start;
    let end = segment.start + segment.written;
    while at < end {
        if dump.is_killed() {
            return Err(Errno::EINTR);
        }
        // An anonymous page that was never touched is zero: it needs no frame to be written.
        let is_untouched = segment.is_anonymous && !is_present(&dump.mm, at);
        if !is_untouched && dump.mm.read_remote(at, page, Rights::Force) == PAGE_SIZE {
            sink.put(page)?;
        } else {
            sink.skip(PAGE)?;
        }
        at += PAGE;
    }
    Ok(())
}

fn is_present(mm: &Mm, addr: u64) -> bool {
    // A page that left memory reads as not present too; faulting it in brings it back.
    mm.query_page(addr).is_some()
}

fn make_notes(dump: &CoreDump<'_>, files: &[MappedFile]) -> Vec<u8> {
    let mut notes = Notes::default();
    for (idx, thread) in dump.threads.iter().enumerate() {
        notes.status(&status_of(dump, thread));
        if idx == 0 {
            notes.ps_info(&ps_info(dump));
            notes.siginfo(&dump.info);
            notes.auxv(&dump.mm.auxv());
            notes.files(files);
        }
        notes.fpu(&thread.fpu);
    }
    notes.0
}

/// Seconds and microseconds.
fn time(ns: u64) -> [u64; 2] {
    [ns / 1_000_000_000, ns % 1_000_000_000 / 1000]
}

fn status_of(dump: &CoreDump<'_>, thread: &CoreThread) -> Status {
    let group = dump.task.group();
    let used = thread.task.thread().map(|thread| thread.cpu_times()).unwrap_or_default();
    let mut times = [0; 8];
    times[..2].copy_from_slice(&time(used.user_ns));
    times[2..4].copy_from_slice(&time(used.system_ns));
    Status {
        signo: dump.info.signo,
        code: dump.info.code,
        errno: dump.info.errno,
        cursig: dump.info.signo as i16,
        pending: thread.task.pending_set().0,
        held: thread.task.blocked().0,
        pid: visible(thread.task.tid()),
        ppid: group.own_ppid(),
        pgrp: visible(group.pgid()),
        sid: visible(group.sid()),
        times,
        regs: Regs {
            saved: thread.regs,
            fs_base: thread.bases.fs,
            gs_base: thread.bases.gs,
            selectors: thread.bases.selectors.map(u64::from),
        },
        has_fpu: u32::from(!thread.fpu.is_empty()),
        ..Status::default()
    }
}

fn ps_info(dump: &CoreDump<'_>) -> PsInfo {
    let group = dump.task.group();
    let layout = dump.mm.layout();
    let mut args = [0; 80];
    let len = (layout.arg_end.saturating_sub(layout.arg_start) as usize).min(args.len() - 1);
    let got = dump.mm.read_remote(layout.arg_start, &mut args[..len], Rights::Force);
    for byte in &mut args[..got] {
        if *byte == 0 {
            *byte = b' ';
        }
    }
    let (uid, gid) = dump.task.with_cred(|cred| {
        (cred.user_ns.show(IdKind::User, cred.uid), cred.user_ns.show(IdKind::Group, cred.gid))
    });
    PsInfo {
        state: 0,
        letter: b'R',
        is_zombie: 0,
        nice: dump.task.thread().map_or(0, |thread| thread.attributes().nice),
        pad: 0,
        flags: 0,
        uid,
        gid,
        pid: group.own_pid(),
        ppid: group.own_ppid(),
        pgrp: visible(group.pgid()),
        sid: visible(group.sid()),
        name: dump.task.comm(),
        args,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: u32 = 0x33;

    #[test]
    fn the_default_filter_leaves_files_out() {
        let rw = VmFlags::READ | VmFlags::WRITE;
        assert_eq!(wanted_bytes(DEFAULT, rw, false, 8192, 0), 8192, "heap and stack");
        assert_eq!(wanted_bytes(DEFAULT, rw | VmFlags::SHARED, false, 8192, 0), 8192);
        assert_eq!(wanted_bytes(DEFAULT, rw | VmFlags::SHARED, true, 8192, 4096), 0);
        assert_eq!(wanted_bytes(DEFAULT, VmFlags::READ, true, 8192, 4096), 0);
        assert_eq!(wanted_bytes(DEFAULT, VmFlags::READ, true, 8192, 0), 4096, "where an ELF header may be");
        assert_eq!(
            wanted_bytes(DEFAULT, rw | VmFlags::COWED, true, 8192, 4096),
            8192,
            "data that was changed"
        );
        assert_eq!(wanted_bytes(DEFAULT, rw | VmFlags::DONTDUMP, false, 8192, 0), 0);
        assert_eq!(wanted_bytes(0, rw, false, 8192, 0), 0);
    }

    #[test]
    fn headers_have_their_size_and_place() {
        let segment =
            Segment { start: 0x1000, end: 0x3000, flags: VmFlags::READ, written: PAGE, is_anonymous: true };
        let out = headers(&[segment], 176, 20, 4096);
        assert_eq!(out.len() as u64, EHDR_LEN + 2 * PHDR_LEN);
        assert_eq!(out[56], 2, "two program headers");
        assert_eq!(u64::from_le_bytes(out[128..136].try_into().unwrap()), 4096, "offset of the memory");
    }
}
