//! The `queue` directory of a disk (Documentation/ABI/stable/sysfs-block).

use alloc::borrow::Cow;
use alloc::format;
use alloc::sync::Arc;

use block::BlockDevice;
use vfs::put;

use crate::place::{Item, Items, setting, value};
use crate::thp::number;

/// What is the same for all disks.
const FIXED: [(&str, &str); 13] = [
    ("add_random", "0"),
    ("chunk_sectors", "0"),
    ("dax", "0"),
    ("discard_zeroes_data", "0"),
    ("io_poll", "0"),
    ("iostats", "1"),
    ("max_segment_size", "4294967295"),
    ("nomerges", "0"),
    ("nr_requests", "256"),
    ("nr_zones", "0"),
    ("rq_affinity", "1"),
    ("scheduler", "[mq-deadline]"),
    ("stable_writes", "0"),
];

/// The attributes, which describe what the hardware can take.
pub(crate) fn attributes(device: &Arc<BlockDevice>) -> Items {
    let limits = device.limits();
    let bytes = |sectors: u32| u64::from(sectors) * 512;
    let is_cached = device.disk().has_volatile_cache();
    let numbers = [
        ("discard_granularity", u64::from(limits.discard_granularity)),
        ("discard_max_bytes", bytes(limits.max_discard_sectors)),
        ("discard_max_hw_bytes", bytes(limits.max_discard_sectors)),
        ("dma_alignment", u64::from(limits.dma_alignment.wrapping_sub(1))),
        ("fua", u64::from(limits.has_fua)),
        ("hw_sector_size", u64::from(limits.logical_block_size)),
        ("logical_block_size", u64::from(limits.logical_block_size)),
        ("max_hw_sectors_kb", u64::from(limits.max_sectors / 2)),
        ("max_sectors_kb", u64::from(limits.max_sectors / 2)),
        ("max_segments", u64::from(limits.max_segments)),
        ("minimum_io_size", u64::from(limits.io_min)),
        ("optimal_io_size", u64::from(limits.io_opt)),
        ("physical_block_size", u64::from(limits.physical_block_size)),
        ("rotational", u64::from(limits.is_rotational)),
        ("write_zeroes_max_bytes", bytes(limits.max_write_zeroes_sectors)),
    ];
    let mut items: Items = FIXED.iter().map(|(name, text)| value(name, *text)).collect();
    items.extend(numbers.iter().map(|(name, number)| value(name, format!("{number}"))));
    items.push(read_ahead(device));
    items.push(value("write_cache", if is_cached { "write back" } else { "write through" }));
    items.push(value("zoned", "none"));
    items
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
