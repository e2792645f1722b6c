//! /proc/PID/maps with its ioctl, and /proc/PID/numa_maps (proc_pid_maps(5), proc_pid_numa_maps(5)).

use alloc::sync::{Arc, Weak};
use core::ops::ControlFlow;

use abi::{Errno, Result};
use hal::uio::Dest;
use hal::{PAGE_SIZE, UserAddr, user};
use mm::{Mm, Policy, VmFlags, VmaInfo};
use vfs::put;
use vfs::text::{Text, TextFile};
use vfs::{File, FileOps, Whence};

use super::Subject;
use super::mem::observed_mm;

/// Where the name begins.
const NAME_COLUMN: usize = 73;

/// Opens /proc/PID/maps.
pub(super) fn open(subject: &Subject) -> Result<Arc<dyn FileOps>> {
    let mm = observed_mm(subject)?;
    let shown = mm.clone();
    let text = TextFile::of_lines(move |out: &mut Text| {
        if let Some(mm) = shown.upgrade() {
            mm.for_each_vma(0, |vma| {
                put_line(out, vma);
                ControlFlow::Continue(())
            });
        }
        Ok(())
    });
    Ok(Arc::new(Maps { text, mm }))
}

/// The text, and `PROCMAP_QUERY` beside it.
struct Maps {
    text: Arc<dyn FileOps>,
    mm: Weak<Mm>,
}

impl FileOps for Maps {
    fn read(&self, file: &File, dst: &mut Dest<'_>, pos: u64) -> Result<usize> {
        self.text.read(file, dst, pos)
    }

    fn ioctl(&self, _file: &Arc<File>, cmd: u32, arg: usize) -> Result<usize> {
        if cmd == PROCMAP_QUERY { query(&self.mm, UserAddr(arg as u64)) } else { Err(Errno::ENOTTY) }
    }

    fn seek(&self, file: &File, offset: i64, whence: Whence) -> Result<u64> {
        self.text.seek(file, offset, whence)
    }
}

/// `_IOWR('f', 17, struct procmap_query)`.
const PROCMAP_QUERY: u32 = 0xc068_6611;
/// Words of `struct procmap_query`; the ninth to twelfth hold two numbers each.
const QUERY_WORDS: usize = 13;
/// `PROCMAP_QUERY_*`: rights, shared, the next mapping if none covers the address, only files.
const SHARED: u64 = 8;
const OR_NEXT: u64 = 16;
const OF_FILE: u64 = 32;

/// The rights and the sharing of a mapping as the query's flags.
fn query_flags(vma: &VmaInfo) -> u64 {
    let rights = u64::from((vma.flags & VmFlags::ACCESS).bits());
    rights | if vma.flags.contains(VmFlags::MAYSHARE) { SHARED } else { 0 }
}

/// `PROCMAP_QUERY`. `ENOENT`: no mapping matches. `ENAMETOOLONG`: no room for its name. `ESRCH`, `EINVAL`, `E2BIG`.
fn query(mm: &Weak<Mm>, at: UserAddr) -> Result<usize> {
    let size: u64 = user::read(at)?;
    if size > PAGE_SIZE as u64 {
        return Err(Errno::E2BIG);
    }
    if size < 24 {
        return Err(Errno::EINVAL);
    }
    let mut bytes = [0_u8; PAGE_SIZE / 8];
    let mut words = [0_u64; QUERY_WORDS];
    let known = size_of_val(&words);
    let head = (size as usize).min(known);
    let Some(part) = bytes.get_mut(..head) else { return Err(Errno::EINVAL) };
    user::read_bytes(at, part)?;
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    for extra in known as u64..size {
        if user::read::<u8>(UserAddr(at.0.wrapping_add(extra)))? != 0 {
            return Err(Errno::E2BIG);
        }
    }
    let [_, flags, addr, ..] = words;
    let (name_room, id_room) = (words[10] as u32, (words[10] >> 32) as u32);
    let (name_addr, id_addr) = (words[11], words[12]);
    let half = (name_room == 0) != (name_addr == 0) || (id_room == 0) != (id_addr == 0);
    if flags & !63 != 0 || half {
        return Err(Errno::EINVAL);
    }
    let mm = mm.upgrade().ok_or(Errno::ESRCH)?;
    let vma = find(&mm, addr, flags).ok_or(Errno::ENOENT)?;
    words[3..10].copy_from_slice(&[
        vma.range.start,
        vma.range.end,
        query_flags(&vma),
        PAGE_SIZE as u64,
        vma.offset,
        vma.id.ino,
        u64::from(vma.id.major) | u64::from(vma.id.minor) << 32,
    ]);
    let mut name_len = 0;
    if name_room != 0 && !vma.name.is_empty() {
        let mut name = vma.name;
        name.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        name.push(0);
        if name.len() > (name_room as usize).min(PAGE_SIZE) {
            return Err(Errno::ENAMETOOLONG);
        }
        user::write_bytes(UserAddr(name_addr), &name)?;
        name_len = name.len() as u64;
    }
    // Build ids are not read: a size of 0 says that there is none.
    words[10] = name_len;
    for (word, value) in (0..head / 8).zip(words) {
        user::write(UserAddr(at.0.wrapping_add(word as u64 * 8)), &value)?;
    }
    Ok(0)
}

/// The mapping that a query means.
fn find(mm: &Mm, addr: u64, flags: u64) -> Option<VmaInfo> {
    let wanted = flags & 15;
    let mut found = None;
    mm.for_each_vma(addr, |vma| {
        let covers = vma.range.start <= addr;
        let is_file = vma.id != mm::FileId::default();
        let fits = query_flags(vma) & wanted == wanted && (flags & OF_FILE == 0 || is_file);
        if fits && (covers || flags & OR_NEXT != 0) {
            found = Some(vma.clone());
        }
        if found.is_some() || flags & OR_NEXT == 0 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    found
}

const KB_OF_PAGE: u64 = hal::PAGE_SIZE as u64 / 1024;
const KB_OF_HUGE: u64 = mm::hugetlb::SIZE / 1024;

/// /proc/PID/numa_maps.
pub(super) fn numa_maps(mm: &Mm, out: &mut Text) -> Result<()> {
    for vma in super::smaps::mappings(mm) {
        let policy = if vma.policy == Policy::default() { "default" } else { vma.policy.name() };
        put!(out, "{:08x} {policy}", vma.range.start);
        if vma.id != mm::FileId::default() {
            out.push(b" file=");
            push_name(out, &vma.name);
        } else if vma.name == b"[heap]" || vma.name == b"[stack]" {
            put!(out, " {}", if vma.name == b"[heap]" { "heap" } else { "stack" });
        }
        let stats = mm.collect_page_stats(vma.range.clone());
        let file_pages = stats.rss - stats.anonymous;
        let dirty = stats.shared_dirty + stats.private_dirty;
        let huge = (stats.shared_hugetlb + stats.private_hugetlb) * KB_OF_PAGE / KB_OF_HUGE;
        if vma.flags.contains(VmFlags::HUGETLB) {
            out.push(b" huge");
        }
        if huge > 0 {
            for (name, n) in [("anon", stats.hugetlb_anon), ("dirty", stats.hugetlb_dirty)] {
                if n > 0 {
                    put!(out, " {name}={n}");
                }
            }
            if stats.hugetlb_anon < huge {
                put!(out, " mapped={}", huge - stats.hugetlb_anon);
            }
            put!(out, " N0={huge} kernelpagesize_kB={KB_OF_HUGE}");
        }
        if stats.rss > 0 {
            for (name, n) in [("anon", stats.anonymous), ("dirty", dirty)] {
                if n > 0 {
                    put!(out, " {name}={n}");
                }
            }
            if file_pages > 0 {
                put!(out, " mapped={file_pages}");
            }
            put!(out, " N0={} kernelpagesize_kB=4", stats.rss);
        }
        out.push(b"\n");
    }
    Ok(())
}

/// The line of one mapping.
pub(super) fn put_line(out: &mut Text, vma: &VmaInfo) {
    let start = out.len();
    let letter = |flag, letter| if vma.flags.contains(flag) { letter } else { '-' };
    put!(
        out,
        "{:08x}-{:08x} {}{}{}{} {:08x} {:02x}:{:02x} {}",
        vma.range.start,
        vma.range.end,
        letter(VmFlags::READ, 'r'),
        letter(VmFlags::WRITE, 'w'),
        letter(VmFlags::EXEC, 'x'),
        if vma.flags.contains(VmFlags::MAYSHARE) { 's' } else { 'p' },
        vma.offset,
        vma.id.major,
        vma.id.minor,
        vma.id.ino
    );
    if vma.name.is_empty() {
        out.push(b" ");
    } else {
        out.pad_to(start, NAME_COLUMN);
        push_name(out, &vma.name);
    }
    out.push(b"\n");
}

/// Appends a path; of the bytes that would confuse a reader only the newline is escaped.
fn push_name(out: &mut Text, name: &[u8]) {
    for &byte in name {
        match byte {
            b'\n' => out.push(b"\\012"),
            _ => out.push(&[byte]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_begin_in_their_column() {
        let mut out = Text::new();
        let vma = VmaInfo {
            range: 0x40_0000..0x40_1000,
            flags: VmFlags::READ | VmFlags::EXEC,
            offset: 0x1000,
            id: mm::FileId { major: 0, minor: 3, ino: 77 },
            name: b"/bin/a\nb".to_vec(),
            pkey: 0,
            huge_eligible: false,
            watched: mm::watch::WatchModes::empty(),
            policy: Policy::default(),
        };
        put_line(&mut out, &vma);
        let text = String::from_utf8(out.finish().unwrap()).unwrap();
        assert_eq!(text.find("/bin"), Some(NAME_COLUMN));
        assert!(text.starts_with("00400000-00401000 r-xp 00001000 00:03 77 "), "{text}");
        assert!(text.ends_with("/bin/a\\012b\n"));
    }
}
