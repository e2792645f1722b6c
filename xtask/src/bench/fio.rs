//! fio on the guest's disk: in order and at random, reads and writes, one job and four, through the page cache and past it.
//!
//! ```text
//!   fio/read-1    fio/randwrite-4    fio/randread-4-direct        OPERATION-JOBS[-direct]
//! ```
//! The disk has a fresh ext4. Each job has a file of its own. In order means blocks of 128 KiB, at random blocks of 4 KiB.
//! Through the cache a job waits for each block, and a run of writes ends when all of it is on the disk; reads begin with
//! nothing cached. Past the cache 16 blocks of a job are under way at a time. The value is what fio says: how long a KiB took,
//! over all jobs.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::plan::{Operation, Source};

/// What all jobs together transfer in order, in MiB; it fits into the disk beside its journal.
const SEQUENTIAL_MIB: u32 = 128;
/// The same at random.
const RANDOM_MIB: u32 = 32;
/// Where the disk is mounted.
const MOUNT: &str = "/tmp/disk";

/// A row.
#[derive(Clone, Copy)]
struct Kind {
    /// As fio names it.
    operation: &'static str,
    jobs: u32,
    is_direct: bool,
}

/// All rows.
fn kinds() -> impl Iterator<Item = Kind> {
    let operations = ["read", "write", "randread", "randwrite"];
    let choices = [(1, false), (4, false), (1, true), (4, true)];
    choices.into_iter().flat_map(move |(jobs, is_direct)| {
        operations.into_iter().map(move |operation| Kind { operation, jobs, is_direct })
    })
}

impl Kind {
    fn name(self) -> String {
        let Kind { operation, jobs, is_direct } = self;
        format!("{operation}-{jobs}{}", if is_direct { "-direct" } else { "" })
    }

    /// fio's options that set-up and run have in common.
    fn files(self) -> String {
        let total = if self.operation.starts_with("rand") { RANDOM_MIB } else { SEQUENTIAL_MIB };
        let (size, jobs) = (total / self.jobs, self.jobs);
        format!("--name=f --directory={MOUNT} --filename_format='f.$jobnum' --size={size}m --numjobs={jobs}")
    }

    /// Files that are there, and none of them cached.
    fn setup(self) -> String {
        let files = self.files();
        format!(
            "mkdir -p {MOUNT}\nbusybox mount -t ext4 /dev/vda {MOUNT}\n\
             fio {files} --rw=write --bs=1m --end_fsync=1 --output=log\nsync\necho 3 > /proc/sys/vm/drop_caches\n"
        )
    }

    /// The run, and its value for `user-bench`: nanoseconds for each KiB, from columns 7 and 48 of fio's terse output (KiB/s).
    fn run(self) -> String {
        let size = if self.operation.starts_with("rand") { "4k" } else { "128k" };
        let how =
            if self.is_direct { "--direct=1 --ioengine=libaio --iodepth=16" } else { "--ioengine=psync" };
        let end = if self.operation.ends_with("write") { " --end_fsync=1" } else { "" };
        format!(
            "fio {} --rw={} --bs={size} {how}{end} --group_reporting --terse-version=3 --output-format=terse > out\n\
             mawk -F';' '/^3;/ && $5 == 0 {{ printf \"%.1f\\n\", 1e9 / ($7 + $48) }}' out > value\ntest -s value\n",
            self.files(),
            self.operation,
        )
    }
}

/// The rows of the group `fio`.
pub fn operations() -> Vec<Operation> {
    let row = |kind: Kind| Operation {
        name: format!("fio/{}", kind.name()),
        unit: "ns/KiB".to_owned(),
        bulk: false,
        source: Source::Fio,
    };
    kinds().map(row).collect()
}

/// Writes the scripts to the folder `to`, beside those of whole programs.
pub fn write_scripts(to: &Path) -> Result<()> {
    let after = format!("rm -f {MOUNT}/f.*\nbusybox umount {MOUNT}\n");
    for kind in kinds() {
        for (part, script) in [("setup", kind.setup()), ("run", kind.run()), ("after", after.clone())] {
            let path = to.join(format!("{}.{part}", kind.name()));
            fs::write(&path, script).with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_say_what_fio_does() {
        let names: Vec<String> = operations().into_iter().map(|row| row.name).collect();
        assert_eq!(names.len(), 16);
        assert_eq!(names[0], "fio/read-1");
        assert_eq!(names[15], "fio/randwrite-4-direct");
        let last = kinds().last().unwrap().run();
        assert!(last.contains("--numjobs=4 --rw=randwrite --bs=4k --direct=1"), "{last}");
    }
}
