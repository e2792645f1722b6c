//! /proc/partitions, /proc/diskstats and the `stat` files of /sys.

use abi::Result;
use block::{BlockDevice, Direction};
use vfs::put;
use vfs::text::Text;

/// Appends the rows of /proc/partitions. Disks of size 0 are left out, as on Linux.
pub fn show_partitions(out: &mut Text) -> Result<()> {
    for device in block::all().iter().filter(|device| device.nr_sectors() > 0) {
        let (major, minor) = device.number();
        put!(out, "{major:4}  {minor:7} {:10} {}\n", device.nr_sectors() / 2, device.name());
    }
    Ok(())
}

/// Appends /proc/diskstats (Documentation/admin-guide/iostats.rst).
pub fn show_diskstats(out: &mut Text) -> Result<()> {
    for device in block::all().iter().filter(|device| device.nr_sectors() > 0) {
        let (major, minor) = device.number();
        put!(out, "{major:4} {minor:7} {} ", device.name());
        let [n0, rest @ ..] = numbers(device);
        put!(out, "{n0}");
        for n in rest {
            put!(out, " {n}");
        }
        put!(out, "\n");
    }
    Ok(())
}

/// The 17 numbers of a line of /proc/diskstats.
fn numbers(device: &BlockDevice) -> [u64; 17] {
    let stats = device.stats();
    let [read, write, discard, flush] =
        [Direction::Read, Direction::Write, Direction::Discard, Direction::Flush]
            .map(|direction| stats.groups[direction as usize]);
    let in_flight = stats.in_flight.iter().sum();
    let weighted = read.ms + write.ms + discard.ms + flush.ms;
    [
        read.ios,
        read.merges,
        read.sectors,
        read.ms,
        write.ios,
        write.merges,
        write.sectors,
        write.ms,
        in_flight,
        stats.busy_ms,
        weighted,
        discard.ios,
        discard.merges,
        discard.sectors,
        discard.ms,
        flush.ios,
        flush.ms,
    ]
}

/// Appends the `stat` file of a device in /sys.
pub fn show_stat(device: &BlockDevice, out: &mut Text) -> Result<()> {
    let [n0, rest @ ..] = numbers(device);
    put!(out, "{n0:8}");
    for n in rest {
        put!(out, " {n:8}");
    }
    put!(out, "\n");
    Ok(())
}
