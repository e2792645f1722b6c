//! Mappings of frames that the kernel owns: vDSO, vvar, ring buffers.

use alloc::vec::Vec;

use hal::PAGE_SHIFT;
use hal::frame::Frame;

use crate::Mapping;
use crate::fault::FaultError;
use crate::vma::Mappable;
use alloc::sync::Arc;

/// Kernel frames under a name, mapped as they are and shared by all who map them.
///
/// Map it with `VmFlags::PFNMAP | DONTEXPAND | DONTDUMP` as extra flags unless a private copy may be made
/// (breakpoints in the vDSO).
#[derive(Debug)]
pub struct SpecialMapping {
    name: &'static str,
    frames: Vec<Frame>,
}

impl SpecialMapping {
    /// An object of these frames, shown as `name` in /proc/PID/maps (`[vdso]`).
    pub fn new(name: &'static str, frames: Vec<Frame>) -> Self {
        Self { name, frames }
    }

    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        (self.frames.len() as u64) << PAGE_SHIFT
    }

    /// Whether it has no page.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }
}

impl Mappable for SpecialMapping {
    fn mapping(&self) -> Option<&Arc<Mapping>> {
        None
    }

    fn name(&self) -> Vec<u8> {
        self.name.as_bytes().to_vec()
    }

    fn fault(&self, offset: u64, _write: bool) -> Result<Frame, FaultError> {
        let idx = usize::try_from(offset >> PAGE_SHIFT).map_err(|_| FaultError::Bus)?;
        self.frames.get(idx).cloned().ok_or(FaultError::Bus)
    }
}
