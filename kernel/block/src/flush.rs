//! Flushes of a disk, combined: while one runs, those that come wait for the next and share it.
//!
//! ```text
//!   flush A ──────── device flushes for A ────────┐
//!        flush B, C wait (A's began before them)  └── device flushes for B and C ──
//! ```

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::Result;
use hal::sync::IrqLock;

use crate::bio::Bio;
use crate::device::BlockDevice;
use crate::request::Request;

struct State {
    is_running: bool,
    waiting: Vec<Bio>,
}

/// The flushes of one disk.
pub(crate) struct FlushQueue {
    state: IrqLock<State>,
}

impl FlushQueue {
    pub const fn new() -> FlushQueue {
        FlushQueue { state: IrqLock::new("block.flush", State { is_running: false, waiting: Vec::new() }) }
    }
}

/// Starts `bio`, a flush, on the disk of `device`.
pub(crate) fn submit(device: &Arc<BlockDevice>, bio: Bio) {
    let disk = device.disk();
    {
        let mut state = disk.flush.state.lock();
        if state.is_running {
            // Without memory to wait in, it runs on its own: correct, only slower.
            if state.waiting.try_reserve(1).is_ok() {
                return state.waiting.push(bio);
            }
            drop(state);
            return disk.issue(Request::new(device, bio));
        }
        state.is_running = true;
    }
    issue(device, Vec::from([bio]));
}

/// Issues one flush for `bios`, and then one for those that came meanwhile.
fn issue(device: &Arc<BlockDevice>, bios: Vec<Bio>) {
    let again = device.clone();
    let flush = Bio::flush().on_done(move |result: Result<()>, _| {
        let next = {
            let mut state = again.disk().flush.state.lock();
            let next = core::mem::take(&mut state.waiting);
            state.is_running = !next.is_empty();
            next
        };
        if !next.is_empty() {
            issue(&again, next);
        }
        for bio in bios {
            bio.complete(result);
        }
    });
    device.disk().issue(Request::new(device, flush));
}
