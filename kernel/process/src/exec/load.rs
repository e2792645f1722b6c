//! ELF images into a new address space.
//!
//! All is mapped into an [`Mm`] that no thread runs on yet, so nothing races and every failure just drops it.
//!
//! ```text
//! fixed program              at its own addresses
//! relocatable, interpreter   at PIE_BASE + random         (a normal PIE program)
//! relocatable, alone         where mmap would put it      (the loader run by hand, static PIE)
//! interpreter                where mmap would put it
//! ```
//!
//! Sources: elf(5), System V ABI chapter 5; placement as on Linux 7.2 (fs/binfmt_elf.c).

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::ControlFlow;

use abi::mman::{MapFlags, Prot};
use abi::{Errno, Result};
use elf_image::{Header, Image, Kind, Segment, pieces};
use hal::frame::Frame;
use hal::sync::Once;
use hal::uio::Dest;
use hal::{PAGE_SIZE, USER_END, vdso};
use mm::{Backing, FaultError, MapRequest, Mappable, Mapping, Mm, Rights, VmFlags, layout};
use vfs::File;

/// Zeroes for the end of a segment's last file page.
static ZEROES: [u8; PAGE_SIZE] = [0; PAGE_SIZE];

/// An opened and checked image.
pub(super) struct Program {
    pub(super) file: Arc<File>,
    pub(super) image: Image,
}

/// Where an image was put.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placed {
    /// What was added to each address.
    pub(super) bias: u64,
    /// The entry point.
    pub(super) entry: u64,
    /// Where the program headers are.
    pub(super) phdr: u64,
    /// The end of the last segment.
    pub(super) end: u64,
}

/// Reads up to `buf.len()` bytes of `file` at `pos`; fewer at its end.
pub(super) fn read_at(file: &File, pos: u64, buf: &mut [u8]) -> Result<usize> {
    let mut done = 0;
    while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
        let at = i64::try_from(pos.saturating_add(done as u64)).map_err(|_| Errno::ENOEXEC)?;
        let got = vfs::rw::pread(file, &mut Dest::kernel(rest), at)?;
        if got == 0 {
            break;
        }
        done += got;
    }
    Ok(done)
}

/// Reads exactly `len` bytes of `file` at `pos`. `ENOEXEC`: it is shorter.
fn read_exact(file: &File, pos: u64, len: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
    bytes.resize(len, 0);
    if read_at(file, pos, &mut bytes)? < len { Err(Errno::ENOEXEC) } else { Ok(bytes) }
}

impl Program {
    /// Checks the image in `file`, whose first bytes are `probe`.
    pub(super) fn parse(file: Arc<File>, probe: &[u8]) -> Result<Self> {
        let header = Header::parse(probe)?;
        let len = usize::try_from(header.phdrs.end - header.phdrs.start).map_err(|_| Errno::ENOEXEC)?;
        let inline =
            usize::try_from(header.phdrs.start).ok().and_then(|start| probe.get(start..)?.get(..len));
        let image = match inline {
            Some(phdrs) => Image::parse(&header, phdrs, USER_END)?,
            None => Image::parse(&header, &read_exact(&file, header.phdrs.start, len)?, USER_END)?,
        };
        Ok(Self { file, image })
    }

    /// The path of the interpreter that the image asks for. `ENOEXEC`: it does not end with a NUL.
    pub(super) fn interpreter(&self) -> Result<Option<Vec<u8>>> {
        let Some(range) = &self.image.interp else { return Ok(None) };
        let len = usize::try_from(range.end - range.start).map_err(|_| Errno::ENOEXEC)?;
        let mut path = read_exact(&self.file, range.start, len)?;
        if path.pop() != Some(0) {
            return Err(Errno::ENOEXEC);
        }
        let len = path.iter().position(|byte| *byte == 0).unwrap_or(path.len());
        path.truncate(len);
        Ok(Some(path))
    }

    /// Maps all segments into `mm`. `pie_offset` is the random part of the address of a program with an interpreter.
    pub(super) fn map(&self, mm: &Mm, pie_offset: Option<u64>) -> Result<Placed> {
        let span = self.image.span();
        if self.image.segments.is_empty() {
            return Err(Errno::EINVAL);
        }
        let bias = match (self.image.kind, pie_offset) {
            (Kind::Fixed, _) => 0,
            (Kind::Relocatable, Some(offset)) => {
                let base = (layout::PIE_BASE + offset) & !(self.image.align - 1);
                base.wrapping_sub(span.start)
            }
            (Kind::Relocatable, None) => {
                let slack = self.image.align - PAGE_SIZE as u64;
                let room = (span.end - span.start).checked_add(slack).ok_or(Errno::ENOMEM)?;
                let base = mm.find_free(room)?;
                (base.saturating_add(slack) & !(self.image.align - 1)).wrapping_sub(span.start)
            }
        };
        if span.end.wrapping_add(bias) > USER_END {
            return Err(Errno::ENOMEM);
        }
        for segment in &self.image.segments {
            self.map_segment(mm, segment, bias)?;
        }
        Ok(Placed {
            bias,
            entry: self.image.entry.wrapping_add(bias),
            phdr: self.image.phdr_vaddr.wrapping_add(bias),
            end: self.image.segments.last().map_or(0, |last| last.vaddr + last.mem_len).wrapping_add(bias),
        })
    }

    /// Maps one segment: its pages of the file, then what lies beyond them.
    fn map_segment(&self, mm: &Mm, segment: &Segment, bias: u64) -> Result<()> {
        let mut prot = Prot::empty();
        prot.set(Prot::READ, segment.read);
        prot.set(Prot::WRITE, segment.write);
        prot.set(Prot::EXEC, segment.exec);
        let piece = pieces(segment);
        if !piece.file.is_empty() {
            mm.map(MapRequest {
                addr: piece.file.start.wrapping_add(bias),
                flags: MapFlags::PRIVATE | MapFlags::FIXED_NOREPLACE,
                backing: self.file.ops().mmap(&self.file)?,
                offset: piece.file_offset,
                ..MapRequest::anonymous(piece.file.end - piece.file.start, prot)
            })?;
        }
        let zero_len = usize::try_from(piece.zero.end.saturating_sub(piece.zero.start)).unwrap_or(0);
        if segment.write && zero_len > 0 {
            let zeroes = ZEROES.get(..zero_len).ok_or(Errno::ENOEXEC)?;
            if mm.write_remote(piece.zero.start.wrapping_add(bias), zeroes, Rights::Obey) < zero_len {
                return Err(Errno::EFAULT);
            }
        }
        if !piece.anonymous.is_empty() {
            mm.map(MapRequest {
                addr: piece.anonymous.start.wrapping_add(bias),
                flags: MapFlags::PRIVATE | MapFlags::ANONYMOUS | MapFlags::FIXED_NOREPLACE,
                ..MapRequest::anonymous(piece.anonymous.end - piece.anonymous.start, prot)
            })?;
        }
        Ok(())
    }
}

/// Frames of the kernel shown to user space.
struct KernelPages {
    name: &'static [u8],
    frames: Vec<Frame>,
}

impl Mappable for KernelPages {
    fn mapping(&self) -> Option<&Arc<Mapping>> {
        None
    }

    fn name(&self) -> Vec<u8> {
        self.name.to_vec()
    }

    fn fault(&self, offset: u64, _write: bool) -> Result<Frame, FaultError> {
        let idx = usize::try_from(offset / PAGE_SIZE as u64).map_err(|_| FaultError::Bus)?;
        self.frames.get(idx).cloned().ok_or(FaultError::Bus)
    }
}

/// The vDSO: clock data, then code.
static VDSO: Once<[Arc<KernelPages>; 2]> = Once::new();

/// Clock data that says nothing: the vDSO makes system calls, which know the offsets of a time namespace.
static NO_CLOCK: Once<Arc<KernelPages>> = Once::new();

fn no_clock() -> &'static Arc<KernelPages> {
    NO_CLOCK.call_once(|| Arc::new(KernelPages { name: VVAR, frames: vdso::clockless_frames() }))
}

/// The name of the clock data in /proc/PID/maps.
const VVAR: &[u8] = b"[vvar]";

/// Replaces the vDSO's clock data in `mm`, a fork's, by data that says nothing.
pub(crate) fn hide_clock(mm: &Mm) -> Result<()> {
    let pages = no_clock();
    let mut place = None;
    mm.for_each_vma(0, |vma| {
        if vma.name == VVAR {
            place = Some(vma.range.clone());
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    });
    let Some(range) = place else { return Ok(()) };
    let len = range.end - range.start;
    mm.unmap(range.start, len)?;
    map_clock(mm, range.start, len, pages)
}

/// Gives the caller's address space the clock data for the time namespace of `proxy` (setns(2)).
pub fn show_clock_of(me: &crate::CurrentTask, proxy: &crate::NsProxy) -> Result<()> {
    let mm = me.mm().ok_or(Errno::ESRCH)?;
    // The data of the first namespace stays hidden: system calls tell the same time.
    if proxy.time.is_initial() { Ok(()) } else { hide_clock(&mm) }
}

/// Maps clock data.
fn map_clock(mm: &Mm, addr: u64, len: u64, pages: &Arc<KernelPages>) -> Result<()> {
    let request = MapRequest {
        addr,
        flags: MapFlags::PRIVATE | MapFlags::FIXED_NOREPLACE,
        backing: Backing::file(pages.clone()),
        may: VmFlags::MAYREAD,
        extra: VmFlags::PFNMAP | VmFlags::IO | VmFlags::DONTEXPAND | VmFlags::DONTDUMP,
        ..MapRequest::anonymous(len, Prot::READ)
    };
    mm.map(request).map(drop)
}

/// Maps the vDSO, with clock data unless the program is in a time namespace; gives the address of its ELF header, 0
/// when the machine has none.
pub(super) fn map_vdso(mm: &Mm, has_offsets: bool) -> Result<u64> {
    let [data, code] = VDSO.call_once(|| {
        let pages = |name, frames| Arc::new(KernelPages { name, frames });
        [pages(VVAR, vdso::data_frames()), pages(b"[vdso]", vdso::code_frames())]
    });
    if code.frames.is_empty() {
        return Ok(0);
    }
    let len = |pages: &KernelPages| (pages.frames.len() * PAGE_SIZE) as u64;
    let (data_len, code_len) = (len(data), len(code));
    let base = mm.find_free(data_len + code_len)?;
    let request = |addr, pages: &Arc<KernelPages>, len, prot| MapRequest {
        addr,
        flags: MapFlags::PRIVATE | MapFlags::FIXED_NOREPLACE,
        backing: Backing::file(pages.clone()),
        ..MapRequest::anonymous(len, prot)
    };
    if data_len > 0 {
        let shown = if has_offsets { no_clock() } else { data };
        map_clock(mm, base, data_len, shown)?;
    }
    let mut text = request(base + data_len, code, code_len, Prot::READ | Prot::EXEC);
    text.extra = VmFlags::DONTEXPAND;
    mm.map(text)?;
    Ok(base + data_len)
}

/// Maps the stack: from `sp` up to `top`, with room to grow at once by `room` bytes.
pub(super) fn map_stack(mm: &Mm, sp: u64, top: u64, room: u64, prot: Prot) -> Result<()> {
    let page = PAGE_SIZE as u64;
    let start = sp.saturating_sub(room) & !(page - 1);
    mm.map(MapRequest {
        addr: start,
        flags: MapFlags::PRIVATE | MapFlags::ANONYMOUS | MapFlags::FIXED_NOREPLACE | MapFlags::GROWSDOWN,
        ..MapRequest::anonymous(top - start, prot)
    })?;
    Ok(())
}

/// What the CPU offers, as `AT_HWCAP` (CPUID 1, EDX) and `AT_HWCAP2` name it.
pub(super) fn hardware_capabilities() -> (u64, u64) {
    static CAPABILITIES: Once<(u64, u64)> = Once::new();
    *CAPABILITIES.call_once(|| {
        /// Names of the bits of CPUID leaf 1, EDX (Intel SDM vol. 2, CPUID); empty ones are reserved.
        const LEAF_1_EDX: [&str; 32] = [
            "fpu", "vme", "de", "pse", "tsc", "msr", "pae", "mce", "cx8", "apic", "", "sep", "mtrr", "pge",
            "mca", "cmov", "pat", "pse36", "pn", "clflush", "", "dts", "acpi", "mmx", "fxsr", "sse", "sse2",
            "ss", "ht", "tm", "ia64", "pbe",
        ];
        /// `HWCAP2_FSGSBASE`.
        const FSGSBASE: u64 = 2;
        let flags = hal::cpu::info(hal::cpu::raw_current_id()).flags;
        let bit = |(at, name): (usize, &&str)| {
            if !name.is_empty() && flags.contains(name) { 1_u64 << at } else { 0 }
        };
        let hwcap = LEAF_1_EDX.iter().enumerate().map(bit).sum();
        (hwcap, if flags.contains(&"fsgsbase") { FSGSBASE } else { 0 })
    })
}

/// An empty list of bytes for probes of `len`.
pub(super) fn probe_buffer(len: usize) -> Vec<u8> {
    vec![0; len]
}
