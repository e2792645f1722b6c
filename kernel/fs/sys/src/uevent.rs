//! The file `uevent` of a device: its properties, and the place to make its event happen again (udevadm trigger).

use alloc::borrow::Cow;
use alloc::string::String;
use alloc::sync::Arc;

use abi::Result;
use vfs::text::Text;

use crate::hardware;
use crate::place::{Item, setting};

/// Lets udev hear of disks, partitions and PCI functions that come and go. Call once at boot, after the nodes in /dev are
/// seen to and before the first device.
pub fn start_events() {
    block::on_change(|device, change| {
        let action = match change {
            block::Change::Added => "add",
            block::Change::Removed => "remove",
            block::Change::Leaving => return,
        };
        let path = hardware::block_path(device);
        tell(action, &path, "block", |out| hardware::block_properties(device, out));
    });
    pci::on_change(|device, change| {
        let action = match change {
            pci::Change::Added => "add",
            pci::Change::Removed => "remove",
        };
        tell(action, &hardware::pci_path(device), "pci", |out| hardware::pci_properties(device, out));
    });
}

fn tell(action: &str, path: &str, subsystem: &str, show: impl Fn(&mut Text) -> Result<()>) {
    let mut text = Text::new();
    // Without memory nobody hears of it; the tree of /sys tells it all the same.
    let _ = show(&mut text).and_then(|()| {
        net_control::uevent::announce(action, &alloc::format!("/devices/{path}"), subsystem, &text.finish()?)
    });
}

/// That of the device at `path` below /sys/devices, of `subsystem`, whose properties `show` writes.
pub(crate) fn file(
    path: String,
    subsystem: &'static str,
    show: impl Fn(&mut Text) -> Result<()> + Send + Sync + 'static,
) -> (Cow<'static, str>, Item) {
    let show = Arc::new(show);
    let properties = show.clone();
    let store = move |wish: &[u8]| {
        let mut text = Text::new();
        properties(&mut text)?;
        let path = alloc::format!("/devices/{path}");
        net_control::uevent::synthesize(wish, &path, subsystem, &text.finish()?)
    };
    setting("uevent", move |out| show(out), store)
}
