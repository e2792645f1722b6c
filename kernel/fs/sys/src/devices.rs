//! Devices: a directory for each, and the links that lead there by class and by number.
//!
//! ```text
//! devices/virtual/CLASS/NAME/{dev,uevent,subsystem}
//!    ▲ class/CLASS/NAME   ▲ dev/char/MAJOR:MINOR   ▲ block/NAME
//! ```

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use abi::fs::{major, minor};
use vfs::dev::{DeviceKind, Node};
use vfs::put;

use crate::place::{Items, Place, attribute, link, subdir, value};
use crate::{hardware, uevent};

/// Which directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// `devices/virtual`.
    Virtual,
    /// `devices/virtual/CLASS`.
    VirtualClass(&'static str),
    /// `devices/virtual/CLASS/NAME`.
    Device(&'static str, String),
    /// `class`.
    Classes,
    /// `class/CLASS`.
    Class(&'static str),
    /// `dev`.
    Numbers,
    /// `dev/char`.
    Chars,
    /// `dev/block`.
    Blocks,
    /// `block`.
    Block,
}

/// The classes, whether they have devices or not.
const CLASSES: [&str; 6] = ["block", "mem", "misc", "net", "tty", "virtio-ports"];

/// The class of a device (Documentation/admin-guide/devices.txt).
fn class_of(node: &Node) -> &'static str {
    const MEM: u32 = 1;
    const TTY: core::ops::RangeInclusive<u32> = 4..=5;
    const HVC: u32 = 229;
    const VIRTIO_PORTS: u32 = 248;
    match (node.kind, major(node.rdev)) {
        (DeviceKind::Block, _) => "block",
        (_, MEM) => "mem",
        (_, HVC) => "tty",
        (_, VIRTIO_PORTS) => "virtio-ports",
        (_, number) if TTY.contains(&number) => "tty",
        _ => "misc",
    }
}

/// The name of a device's directory: what is below /dev, with '!' for '/'.
fn name_of(node: &Node) -> String {
    String::from_utf8_lossy(&node.name).replace('/', "!")
}

fn of_class(class: &'static str) -> impl Iterator<Item = Node> {
    // Block devices have directories of their own: see `hardware`.
    let is_char = |node: &Node| node.kind == DeviceKind::Char;
    vfs::dev::nodes().into_iter().filter(move |node| is_char(node) && class_of(node) == class)
}

/// Links named by `name`, leading up to the root by `up` and then to each device that `wanted` takes.
fn links(up: &str, wanted: impl Fn(&Node) -> bool, name: impl Fn(&Node) -> String) -> Items {
    let nodes = vfs::dev::nodes().into_iter().filter(|node| wanted(node));
    nodes
        .map(|node| link(name(&node), format!("{up}devices/virtual/{}/{}", class_of(&node), name_of(&node))))
        .collect()
}

fn number(node: &Node) -> String {
    format!("{}:{}", major(node.rdev), minor(node.rdev))
}

pub(crate) fn items(part: &Part) -> Items {
    match part {
        Part::Virtual => {
            let mut items = classes(|class| of_class(class).next().is_some(), Part::VirtualClass);
            if hardware::has_virtual_blocks() {
                items.insert(0, subdir("block", Place::Hardware(String::from("virtual/block"))));
            }
            items
        }
        Part::VirtualClass(class) => of_class(class)
            .map(|node| subdir(name_of(&node), Place::Device(Part::Device(class, name_of(&node)))))
            .collect(),
        Part::Device(class, name) => device(class, name),
        Part::Classes => classes(|_| true, Part::Class),
        Part::Class("block") => hardware::block_links("../../", false, |device| String::from(device.name())),
        Part::Class(class) => links("../../", |node| class_of(node) == *class, name_of),
        Part::Numbers => Vec::from([
            subdir("block", Place::Device(Part::Blocks)),
            subdir("char", Place::Device(Part::Chars)),
        ]),
        Part::Chars => links("../../", |node| node.kind == DeviceKind::Char, number),
        Part::Blocks => hardware::block_links("../../", false, |device| {
            let (major, minor) = device.number();
            format!("{major}:{minor}")
        }),
        Part::Block => hardware::block_links("../", true, |device| String::from(device.name())),
    }
}

fn classes(wanted: impl Fn(&'static str) -> bool, part: impl Fn(&'static str) -> Part) -> Items {
    CLASSES
        .into_iter()
        .filter(|class| wanted(class))
        .map(|class| subdir(class, Place::Device(part(class))))
        .collect()
}

fn device(class: &'static str, name: &str) -> Items {
    let Some(node) = of_class(class).find(|node| name_of(node) == name) else { return Vec::new() };
    let (major, minor) = (major(node.rdev), minor(node.rdev));
    let dev_name = String::from_utf8_lossy(&node.name).into_owned();
    let mode = node.mode;
    let mut items = Vec::from([
        attribute("dev", move |out| {
            put!(out, "{major}:{minor}\n");
            Ok(())
        }),
        link("subsystem", format!("../../../../class/{class}")),
        uevent::file(format!("virtual/{class}/{name}"), class, move |out| {
            put!(out, "MAJOR={major}\nMINOR={minor}\nDEVNAME={dev_name}\n");
            // Without a mode the rules of udev choose one, which is 0600.
            if mode != 0o600 {
                put!(out, "DEVMODE=0{mode:o}\n");
            }
            Ok(())
        }),
    ]);
    items.extend(vfs::dev::attributes(&node.name).into_iter().map(|(name, text)| value(name, text)));
    items
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::Item;

    #[test]
    fn devices_are_found_by_class_and_by_number() {
        vfs::dev::add_node("sub/zero", DeviceKind::Char, (1, 5), 0o666).unwrap();
        let target = |part: Part, name: &str| {
            items(&part).into_iter().find(|(n, _)| n == name).map(|(_, item)| match item {
                Item::Link(target) => target,
                _ => panic!("{name} is no link"),
            })
        };
        let there = Some(String::from("../../devices/virtual/mem/sub!zero"));
        assert_eq!(target(Part::Class("mem"), "sub!zero"), there);
        assert_eq!(target(Part::Chars, "1:5"), there);
        assert_eq!(target(Part::Blocks, "1:5"), None);
        assert_eq!(items(&Part::Device("mem", String::from("sub!zero"))).len(), 3);
        assert!(items(&Part::Device("mem", String::from("none"))).is_empty());
    }
}
