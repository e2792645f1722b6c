//! /proc/PID/maps (proc_pid_maps(5)).

use core::ops::ControlFlow;

use abi::Result;
use mm::{Mm, VmFlags, VmaInfo};
use vfs::put;
use vfs::text::Text;

/// Where the name begins.
const NAME_COLUMN: usize = 73;

/// /proc/PID/maps.
pub(super) fn show(mm: &Mm, out: &mut Text) -> Result<()> {
    mm.for_each_vma(0, |vma| {
        put_line(out, vma);
        ControlFlow::Continue(())
    });
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
        };
        put_line(&mut out, &vma);
        let text = String::from_utf8(out.finish().unwrap()).unwrap();
        assert_eq!(text.find("/bin"), Some(NAME_COLUMN));
        assert!(text.starts_with("00400000-00401000 r-xp 00001000 00:03 77 "), "{text}");
        assert!(text.ends_with("/bin/a\\012b\n"));
    }
}
