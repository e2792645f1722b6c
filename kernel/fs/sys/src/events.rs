//! `bus/event_source` and the directories of sources of performance events below `devices`.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use perf::sources::{PMUS, Pmu};

use crate::place::{Items, Place, link, subdir, value};

/// Which directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// `bus/event_source`.
    Bus,
    /// `bus/event_source/devices`.
    Links,
    /// `devices/NAME` of the source with this place in the list.
    Source(usize),
    /// Its `format`.
    Format(usize),
}

pub(crate) fn items(part: Part) -> Items {
    match part {
        Part::Bus => Vec::from([subdir("devices", Place::Events(Part::Links))]),
        Part::Links => {
            PMUS.iter().map(|pmu| link(pmu.name, format!("../../../devices/{}", pmu.name))).collect()
        }
        Part::Source(at) => PMUS.get(at).map(|pmu| source(pmu, at)).unwrap_or_default(),
        Part::Format(at) => PMUS
            .get(at)
            .map(|pmu| pmu.format.iter().map(|(name, text)| value(name, *text)).collect())
            .unwrap_or_default(),
    }
}

fn source(pmu: &Pmu, at: usize) -> Items {
    let mut items = Vec::from([
        link("subsystem", String::from("../../bus/event_source")),
        value("type", format!("{}", pmu.kind)),
        value("uevent", ""),
    ]);
    if !pmu.format.is_empty() {
        items.push(subdir("format", Place::Events(Part::Format(at))));
    }
    items
}

/// The directories of all sources, for `devices`.
pub(crate) fn directories() -> Items {
    PMUS.iter().enumerate().map(|(at, pmu)| subdir(pmu.name, Place::Events(Part::Source(at)))).collect()
}
