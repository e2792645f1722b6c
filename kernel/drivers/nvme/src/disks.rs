//! The disks of a controller.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use block::Disk;
use hal::sync::IrqLock;

/// See the module's front page.
pub(crate) struct Disks(IrqLock<Vec<Weak<Disk>>>);

impl Disks {
    pub(crate) fn new() -> Self {
        Self(IrqLock::new("nvme.disks", Vec::new()))
    }

    pub(crate) fn add(&self, disk: &Arc<Disk>) {
        self.0.lock().push(Arc::downgrade(disk));
    }

    /// Lets the block layer send what found no room in queue `hw`.
    pub(crate) fn run(&self, hw: usize) {
        for at in 0.. {
            let Some(disk) = self.0.lock().get(at).cloned() else { return };
            if let Some(disk) = disk.upgrade() {
                disk.run(hw);
            }
        }
    }

    /// Forgets them, after what is dirty was written. Sleeps.
    ///
    /// They are here until the last of it is written: what waits for room then is sent by [`Disks::run`], as ever.
    pub(crate) fn remove_all(&self) {
        let disks = self.0.lock().clone();
        for disk in disks.iter().filter_map(Weak::upgrade) {
            block::remove_disk(&disk);
        }
        let gone = core::mem::take(&mut *self.0.lock());
        drop(gone);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use abi::Result;
    use block::{Bio, Change, DiskInfo, Driver, Limits, Request};

    use super::*;

    /// A driver with room for one request.
    #[derive(Default)]
    struct Narrow(Mutex<Option<Request>>);

    impl Driver for Narrow {
        fn queue(&self, _hw: usize, request: Request) -> Result<(), Request> {
            let mut place = self.0.lock().unwrap();
            match *place {
                Some(_) => Err(request),
                None => {
                    *place = Some(request);
                    Ok(())
                }
            }
        }
    }

    #[test]
    fn what_waits_while_a_disk_leaves_is_sent() {
        let driver = Arc::new(Narrow::default());
        let info = DiskInfo {
            name: String::from("narrow"),
            major: 241,
            first_minor: 0,
            minors: 16,
            parent: String::from("virtual"),
            capacity: 4096,
            is_read_only: false,
            nr_queues: 1,
            limits: Limits::default(),
        };
        let disks = Arc::new(Disks::new());
        let disk = Disk::new(info, driver.clone());
        disks.add(&disk);
        let device = block::add_disk(&disk).unwrap();
        let written = Arc::new(AtomicUsize::new(0));
        let (runner, count) = (disks.clone(), written.clone());
        block::on_change(move |device, change| {
            if device.name() != "narrow" || change != Change::Leaving {
                return;
            }
            for sector in [0, 100, 200] {
                let count = count.clone();
                let mut bio = Bio::write(sector);
                bio.add(hal::frame::Frame::alloc_zeroed().unwrap(), 0, hal::PAGE_SIZE).unwrap();
                device.submit(bio.on_done(move |result, _| {
                    count.fetch_add(usize::from(result.is_ok()), SeqCst);
                }));
            }
            // What an interrupt of the device does.
            loop {
                let Some(request) = driver.0.lock().unwrap().take() else { return };
                request.complete(Ok(()));
                runner.run(0);
            }
        });
        disks.remove_all();
        assert_eq!(written.load(SeqCst), 3);
        assert!(!device.is_alive() && disks.0.lock().is_empty());
    }
}
