//! The table of sockets for /proc/net/netlink.

use core::sync::atomic::Ordering::Relaxed;

use abi::Result;
use ns::NetNs;
use vfs::put;
use vfs::text::Text;

use crate::{kernel, table};

/// The rows: the kernel's ends first, with port 0.
pub fn rows(out: &mut Text) -> Result<()> {
    for number in kernel::numbers() {
        put!(
            out,
            "0000000000000000 {number:<3} {:<10} {:08x} {:<8} {:<8} {:<5} {:<8} {:<8} {:<8}\n",
            0,
            0,
            0,
            0,
            0,
            2,
            0,
            0
        );
    }
    for socket in table::all(&NetNs::current()) {
        let (port, groups, charged) = {
            let inner = socket.inner().lock();
            (inner.port, inner.groups as u32, inner.queue.charged())
        };
        put!(
            out,
            "0000000000000000 {:<3} {port:<10} {groups:08x} {charged:<8} {:<8} {:<5} {:<8} {:<8} {:<8}\n",
            socket.protocol(),
            0,
            u8::from(socket.is_dumping()),
            2,
            socket.drops.load(Relaxed),
            socket.ino.load(Relaxed)
        );
    }
    Ok(())
}
