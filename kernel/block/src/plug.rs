//! Plugs: bios collected so that neighbours merge and the device is told once.

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::bio::Bio;
use crate::device::BlockDevice;
use crate::request::Request;

/// Bios that a plug holds at most.
const MAX_PLUGGED: usize = 64;

/// Collects bios; they start when it is full or dropped. Hold none while waiting for a bio in it.
#[derive(Default)]
pub struct Plug {
    bios: Vec<(Arc<BlockDevice>, Bio)>,
}

impl Plug {
    /// An empty plug.
    pub const fn new() -> Plug {
        Plug { bios: Vec::new() }
    }

    /// As [`BlockDevice::submit`], later.
    pub fn submit(&mut self, device: &Arc<BlockDevice>, bio: Bio) {
        let Some(bio) = device.prepare(bio) else { return };
        if !bio.fits(device.disk().max_of(&bio)) || self.bios.try_reserve(1).is_err() {
            return device.start_bio(bio);
        }
        // In their order from the start, each behind its equals: a sort at the end would need memory.
        let key = |device: &Arc<BlockDevice>, bio: &Bio| (Arc::as_ptr(device.disk()) as usize, bio.sector);
        let own = key(device, &bio);
        let at = self.bios.partition_point(|(device, bio)| key(device, bio) <= own);
        self.bios.insert(at, (device.clone(), bio));
        if self.bios.len() >= MAX_PLUGGED {
            self.flush();
        }
    }

    /// Starts what was collected.
    pub fn flush(&mut self) {
        let bios = core::mem::take(&mut self.bios);
        let mut requests: Vec<Request> = Vec::new();
        let mut current: Option<Arc<BlockDevice>> = None;
        for (device, bio) in bios {
            if let Some(last) = current.as_ref().filter(|last| !Arc::ptr_eq(last.disk(), device.disk())) {
                last.disk().issue_all(requests.drain(..));
            }
            let limits = *device.limits();
            let rest = match requests.last_mut() {
                Some(request) => request.try_merge(&device, bio, &limits).err(),
                None => Some(bio),
            };
            if let Some(bio) = rest.and_then(|bio| device.disk().merge(&device, bio).err()) {
                let request = Request::new(&device, bio);
                match requests.try_reserve(1) {
                    Ok(()) => requests.push(request),
                    Err(_) => device.disk().issue(request),
                }
            }
            current = Some(device);
        }
        if let Some(last) = current {
            last.disk().issue_all(requests.drain(..));
        }
    }
}

impl Drop for Plug {
    fn drop(&mut self) {
        self.flush();
    }
}
