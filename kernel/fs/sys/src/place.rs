//! The directories and what is in each.

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use vfs::text::Text;

use crate::{cpu, devices, events, hardware, hugepages, kernel, ksm, thp};

/// Makes the text of an attribute.
pub(crate) type Show = Box<dyn Fn(&mut Text) -> Result<()> + Send + Sync>;

/// Takes what was written to an attribute.
pub(crate) type Store = Arc<dyn Fn(&[u8]) -> Result<()> + Send + Sync>;

/// What is behind a name.
pub(crate) enum Item {
    /// A directory.
    Dir(Place),
    /// An attribute that all may read.
    File(Show),
    /// One that root may also write.
    Setting(Show, Store),
    /// One that root may only write.
    Trigger(Store),
    /// Likewise, and root's group.
    GroupTrigger(Store),
    /// A symbolic link.
    Link(String),
}

/// The content of a directory.
pub(crate) type Items = Vec<(Cow<'static, str>, Item)>;

/// A directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The root.
    Root,
    /// A directory without content: a mount point, or a list of things of which there are none.
    Empty,
    /// `kernel` and its parts.
    Kernel(kernel::Part),
    /// `kernel/mm/transparent_hugepage` and its parts.
    Thp(thp::Part),
    /// `kernel/mm/ksm`.
    Ksm,
    /// The pool of huge pages.
    HugePages(hugepages::Part),
    /// `power`.
    Power,
    /// `devices`.
    Devices,
    /// `devices/system` and what is below.
    System(cpu::Part),
    /// `devices/virtual`, `class`, `dev`, `block` and what is below.
    Device(devices::Part),
    /// What is below `devices` at this path: buses and block devices.
    Hardware(String),
    /// `bus/pci`.
    PciBus,
    /// `bus/pci/devices`.
    PciDevices,
    /// Sources of performance events.
    Events(events::Part),
}

impl Place {
    /// What is in it.
    pub(crate) fn items(&self) -> Items {
        match self {
            Self::Root => root(),
            Self::Empty => Vec::new(),
            Self::Kernel(part) => kernel::items(*part),
            Self::Thp(part) => thp::items(*part),
            Self::Ksm => ksm::items(),
            Self::HugePages(part) => hugepages::items(*part),
            Self::Power => Vec::from([value("state", "")]),
            Self::Devices => {
                let mut items = hardware::items("");
                items.push(subdir("system", Self::System(cpu::Part::System)));
                items.push(subdir("virtual", Self::Device(devices::Part::Virtual)));
                items.extend(events::directories());
                items
            }
            Self::Hardware(path) => hardware::items(path),
            Self::PciBus => Vec::from([subdir("devices", Self::PciDevices), hardware::rescan()]),
            Self::PciDevices => hardware::pci_links(),
            Self::Events(part) => events::items(*part),
            Self::System(part) => cpu::items(*part),
            Self::Device(part) => devices::items(part),
        }
    }

    /// Whether names in it come and go.
    pub(crate) fn is_volatile(&self) -> bool {
        matches!(self, Self::Device(_) | Self::Devices | Self::Hardware(_) | Self::PciDevices)
    }
}

fn root() -> Items {
    Vec::from([
        subdir("block", Place::Device(devices::Part::Block)),
        subdir("bus", Place::System(cpu::Part::Bus)),
        subdir("class", Place::Device(devices::Part::Classes)),
        subdir("dev", Place::Device(devices::Part::Numbers)),
        subdir("devices", Place::Devices),
        subdir("firmware", Place::Empty),
        subdir("fs", Place::Kernel(kernel::Part::Fs)),
        subdir("kernel", Place::Kernel(kernel::Part::Top)),
        subdir("module", Place::Empty),
        subdir("power", Place::Power),
    ])
}

/// A directory's entry.
pub(crate) fn subdir(name: impl Into<Cow<'static, str>>, place: Place) -> (Cow<'static, str>, Item) {
    (name.into(), Item::Dir(place))
}

/// A link's entry.
pub(crate) fn link(name: impl Into<Cow<'static, str>>, target: String) -> (Cow<'static, str>, Item) {
    (name.into(), Item::Link(target))
}

/// An attribute whose text is made by `show`.
pub(crate) fn attribute(
    name: &'static str,
    show: impl Fn(&mut Text) -> Result<()> + Send + Sync + 'static,
) -> (Cow<'static, str>, Item) {
    (name.into(), Item::File(Box::new(show)))
}

/// An attribute whose text is made by `show`, and that `store` changes.
pub(crate) fn setting(
    name: &'static str,
    show: impl Fn(&mut Text) -> Result<()> + Send + Sync + 'static,
    store: impl Fn(&[u8]) -> Result<()> + Send + Sync + 'static,
) -> (Cow<'static, str>, Item) {
    (name.into(), Item::Setting(Box::new(show), Arc::new(store)))
}

/// An attribute where root writes a number, which does something unless it is 0. `EINVAL`: no number.
pub(crate) fn trigger(
    name: &'static str,
    act: impl Fn() -> Result<()> + Send + Sync + 'static,
) -> (Cow<'static, str>, Item) {
    (name.into(), Item::Trigger(unless_zero(act)))
}

/// As [`trigger`], also for root's group.
pub(crate) fn group_trigger(
    name: &'static str,
    act: impl Fn() -> Result<()> + Send + Sync + 'static,
) -> (Cow<'static, str>, Item) {
    (name.into(), Item::GroupTrigger(unless_zero(act)))
}

fn unless_zero(act: impl Fn() -> Result<()> + Send + Sync + 'static) -> Store {
    let store = move |bytes: &[u8]| {
        let text = core::str::from_utf8(bytes).map_err(|_| Errno::EINVAL)?.trim_end_matches('\n');
        let number = match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16),
            None => text.parse(),
        };
        if number.map_err(|_| Errno::EINVAL)? == 0 { Ok(()) } else { act() }
    };
    Arc::new(store)
}

/// An attribute with a fixed value.
pub(crate) fn value(
    name: &'static str,
    value: impl Into<Cow<'static, str>> + Send + Sync + 'static,
) -> (Cow<'static, str>, Item) {
    let value: Cow<'static, str> = value.into();
    attribute(name, move |out| {
        out.push(value.as_bytes());
        out.push(b"\n");
        Ok(())
    })
}
