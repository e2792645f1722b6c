//! The `queue` directory of a disk (Documentation/ABI/stable/sysfs-block).

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use block::BlockDevice;
use vfs::put;

use crate::place::{Item, Items, setting, value};
use crate::thp::number;

/// The attributes, which describe what the hardware can take.
pub(crate) fn attributes(device: &Arc<BlockDevice>) -> Items {
    let limits = device.limits();
    let bytes = |sectors: u32| format!("{}", u64::from(sectors) * 512);
    let number = |number: u32| format!("{number}");
    let flag = |on: bool| String::from(if on { "1" } else { "0" });
    let is_cached = device.disk().has_volatile_cache();
    Vec::from([
        value("add_random", "0"),
        value("chunk_sectors", "0"),
        value("dax", "0"),
        value("discard_granularity", number(limits.discard_granularity)),
        value("discard_max_bytes", bytes(limits.max_discard_sectors)),
        value("discard_max_hw_bytes", bytes(limits.max_discard_sectors)),
        value("discard_zeroes_data", "0"),
        value("dma_alignment", number(limits.dma_alignment.wrapping_sub(1))),
        value("fua", flag(limits.has_fua)),
        value("hw_sector_size", number(limits.logical_block_size)),
        value("io_poll", "0"),
        value("iostats", "1"),
        value("logical_block_size", number(limits.logical_block_size)),
        value("max_hw_sectors_kb", number(limits.max_sectors / 2)),
        value("max_sectors_kb", number(limits.max_sectors / 2)),
        value("max_segment_size", "4294967295"),
        value("max_segments", format!("{}", limits.max_segments)),
        value("minimum_io_size", number(limits.io_min)),
        value("nomerges", "0"),
        value("nr_requests", "256"),
        value("nr_zones", "0"),
        value("optimal_io_size", number(limits.io_opt)),
        value("physical_block_size", number(limits.physical_block_size)),
        read_ahead(device),
        value("rotational", flag(limits.is_rotational)),
        value("rq_affinity", "1"),
        value("scheduler", "[mq-deadline]"),
        value("stable_writes", "0"),
        value("write_cache", if is_cached { "write back" } else { "write through" }),
        value("write_zeroes_max_bytes", bytes(limits.max_write_zeroes_sectors)),
        value("zoned", "none"),
    ])
}

/// `EINVAL`: no number.
fn read_ahead(device: &Arc<BlockDevice>) -> (Cow<'static, str>, Item) {
    let (shown, set) = (device.disk().clone(), device.disk().clone());
    setting(
        "read_ahead_kb",
        move |out| {
            put!(out, "{}\n", shown.read_ahead_kb());
            Ok(())
        },
        move |text| {
            set.set_read_ahead_kb(number(text, 0..=u32::MAX.into())? as u32);
            Ok(())
        },
    )
}
