//! The file `uevent` of a device: its properties, and the place to make its event happen again (udevadm trigger).

use alloc::borrow::Cow;
use alloc::string::String;
use alloc::sync::Arc;

use abi::Result;
use vfs::text::Text;

use crate::place::{Item, setting};

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
