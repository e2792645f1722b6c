//! The verb `crash`: does ext4 keep what it promised when the power goes, whenever that is?
//!
//! ```text
//!   guest   user/disk writes, syncs, renames, unlinks, and marks what it was promised     log.rs   the record
//!   host    at random points of the record: the disk as a lost write cache leaves it       points.rs
//!           e2fsck replays the journal, then `e2fsck -f -n` finds nothing
//!           what was promised is there, as debugfs reads it
//!   guests  Keel and Linux mount a sample, find what was promised, and leave it clean
//! ```

mod log;
mod points;

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Args;
use user_disk::{Promises, Random};

use self::log::Event;
use self::points::{Places, Point, Replay};
use crate::exec::{self, Outcome, Port};
use crate::guest::GuestArgs;
use crate::qemu::Recorded;
use crate::{paths, ui, userland};

const MIB: u64 = 1 << 20;
/// The disk: a partition table, the file system, the marks.
const PLACES: Places = Places { fs: (MIB, 49 * MIB), marks: (49 * MIB, 50 * MIB) };
/// Time for the guest that writes.
const WRITING: Duration = Duration::from_secs(900);
/// Time for a guest that mounts samples.
const MOUNTING: Duration = Duration::from_secs(300);

/// Options of `crash`.
#[derive(Args, Clone, Debug)]
pub struct CrashArgs {
    /// The kernel that writes: `keel`, `linux`, or a kernel file
    #[arg(long, default_value = "keel", value_name = "keel|linux|PATH")]
    pub kernel: String,
    /// Number of its CPUs
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub smp: u32,
    /// Keel built with debug assertions and the lock-order checker
    #[arg(long)]
    pub debug: bool,
    /// Points at which the power goes
    #[arg(long, default_value_t = 1000, value_name = "N")]
    pub points: usize,
    /// Disks of these that Keel and Linux each mount
    #[arg(long, default_value_t = 20, value_name = "N")]
    pub sample: usize,
    /// Threads that write
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub workers: u32,
    /// Changes that each makes
    #[arg(long, default_value_t = 400, value_name = "N")]
    pub steps: u32,
    /// What random choices begin with
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    /// Size of the file system's blocks
    #[arg(long, default_value_t = 4096, value_name = "BYTES")]
    pub block_size: u32,
}

/// What became of the points.
pub struct Summary {
    /// Writes and flushes that were recorded.
    pub nr_events: usize,
    /// Of these, flushes.
    pub nr_flushes: usize,
    /// Points that were looked at.
    pub nr_points: usize,
    /// Paths that were compared with what had been promised.
    pub nr_promises: usize,
    /// Disks that a kernel mounted.
    pub nr_mounted: usize,
    /// What was wrong.
    pub failures: Vec<String>,
}

/// Runs the test and tells what became of it.
pub fn run(args: &CrashArgs) -> Result<ExitCode> {
    let start = Instant::now();
    let keel = if args.kernel == "linux" { "keel" } else { &args.kernel };
    let summary = examine(args, &[keel, "linux"])?;
    println!(
        "{} writes and {} flushes recorded, {} crash points, {} promises checked, {} disks mounted, {} failures, {:.0} s",
        summary.nr_events - summary.nr_flushes,
        summary.nr_flushes,
        summary.nr_points,
        summary.nr_promises,
        summary.nr_mounted,
        summary.failures.len(),
        start.elapsed().as_secs_f64()
    );
    for failure in &summary.failures {
        println!("{failure}");
    }
    Ok(if summary.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Records a guest's writes, and looks at the disks that failures of power leave; the kernels `mounters` mount samples.
pub fn examine(args: &CrashArgs, mounters: &[&str]) -> Result<Summary> {
    let scratch = Scratch::new()?;
    let step = ui::Step::new("recording a disk's writes");
    let (base, events) = record(args, &scratch)?;
    step.news("letting the power go");
    let mut summary = Summary {
        nr_events: events.len(),
        nr_flushes: events.iter().filter(|event| **event == Event::Flush).count(),
        nr_points: 0,
        nr_promises: 0,
        nr_mounted: 0,
        failures: Vec::new(),
    };
    ensure!(summary.nr_flushes > 0, "the guest never flushed the disk");
    let mut random = Random::new(args.seed ^ 0xc0ffee);
    let mut ends: Vec<usize> =
        (0..args.points).map(|_| random.below(events.len() as u64) as usize + 1).collect();
    ends.sort_unstable();
    let mut replay = Replay::new(base, &events, PLACES, args.block_size as usize);
    let every = (args.points / args.sample.max(1)).max(1);
    let mut samples = Vec::new();
    for (nr, end) in ends.into_iter().enumerate() {
        let point = replay.fail(end, &mut random).map_err(|why| anyhow!(why))?;
        summary.nr_points += 1;
        summary.nr_promises += point.promises.iter().map(|promises| promises.paths.len()).sum::<usize>();
        if let Err(error) = look_at(&point, &scratch) {
            let kept = paths::logs()?.join(format!("crash-{}-{end}.ext4", args.seed));
            fs::write(&kept, &point.image)?;
            summary.failures.push(format!("event {end}, kept in {}: {error:#}", kept.display()));
        }
        if nr % every == every - 1 && samples.len() < args.sample {
            let image = scratch.0.join(format!("sample-{}", samples.len()));
            fs::write(&image, &point.image)?;
            samples.push((image, point));
        }
        step.news(&format!("{} of {} points", nr + 1, args.points));
    }
    for kernel in mounters {
        step.news(&format!("{kernel} mounts {} disks", samples.len()));
        for (image, point) in &samples {
            fs::write(image, &point.image)?;
        }
        summary.nr_mounted += samples.len();
        summary.failures.extend(mount(args, kernel, &samples, &scratch)?);
    }
    step.clear();
    Ok(summary)
}

/// A folder for images, in memory when it has room; removed on drop.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Scratch> {
        let shm = Path::new("/dev/shm");
        let room = rustix::fs::statvfs(shm).map(|s| s.f_bavail * s.f_frsize).unwrap_or(0);
        let dir = if room > 4 << 30 { shm.to_owned() } else { paths::logs()? };
        Ok(Scratch(paths::make_dir(&dir.join(format!("keel-crash-{}", std::process::id())))?))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs the writer in a guest; gives the file system as it was before, and what the disk completed.
fn record(args: &CrashArgs, scratch: &Scratch) -> Result<(Vec<u8>, Vec<Event>)> {
    let (image, log) = (scratch.0.join("disk"), scratch.0.join("record"));
    let fs_len = PLACES.fs.1 - PLACES.fs.0;
    let fresh = scratch.0.join("fresh");
    File::create(&fresh)?.set_len(fs_len)?;
    let mut mke2fs = Command::new("mke2fs");
    mke2fs.args(["-q", "-t", "ext4", "-J", "size=4", "-b", &args.block_size.to_string()]).arg(&fresh);
    ui::capture(&mut mke2fs)?;
    let base = fs::read(&fresh)?;
    let mut disk = File::create(&image)?;
    disk.write_all(&partition_table())?;
    disk.seek(SeekFrom::Start(PLACES.fs.0))?;
    disk.write_all(&base)?;
    disk.set_len(PLACES.marks.1)?;
    File::create(&log)?;
    let mut guest = guest(args, &args.kernel, scratch)?;
    guest.smp = args.smp;
    guest.recorded = Some(Recorded { image, log: log.clone() });
    let command = format!(
        "mount -t ext4 /dev/vda1 /mnt && /share/user-disk write /mnt /dev/vda2 {} {} {}",
        args.workers, args.steps, args.seed
    );
    let said = said(&guest, &command, WRITING)?;
    ensure!(said == "written\n", "the guest that writes said: {said}");
    Ok((base, log::read(&log)?))
}

/// A master boot record with two partitions of type 0x83.
fn partition_table() -> [u8; 512] {
    let mut table = [0; 512];
    for (nr, (start, end)) in [PLACES.fs, PLACES.marks].into_iter().enumerate() {
        let entry = &mut table[446 + 16 * nr..][..16];
        entry[4] = 0x83;
        entry[8..12].copy_from_slice(&((start / 512) as u32).to_le_bytes());
        entry[12..16].copy_from_slice(&(((end - start) / 512) as u32).to_le_bytes());
    }
    table[510..].copy_from_slice(&[0x55, 0xaa]);
    table
}

/// A guest with this test's programs at /share.
fn guest(args: &CrashArgs, kernel: &str, scratch: &Scratch) -> Result<GuestArgs> {
    let share = paths::make_dir(&scratch.0.join("share"))?;
    fs::copy(userland::program("user-disk")?, share.join("user-disk"))?;
    Ok(GuestArgs {
        kernel: kernel.to_owned(),
        debug: args.debug && kernel != "linux",
        programs: Some(share),
        ..GuestArgs::default()
    })
}

/// All that `command` writes in the guest.
fn said(guest: &GuestArgs, command: &str, limit: Duration) -> Result<String> {
    let mut said = Vec::new();
    let report = exec::run(guest, command, limit, &mut |port, bytes| {
        if matches!(port, Port::Stdout | Port::Stderr) {
            said.extend_from_slice(bytes);
        }
    })?;
    let said = String::from_utf8_lossy(&said).into_owned();
    match report.outcome {
        Outcome::Exited(0) => Ok(said),
        Outcome::Exited(status) => bail!("status {status}\n{said}"),
        Outcome::Failed(why) => bail!("{why}\n{said}"),
    }
}

/// e2fsck, and the promises.
fn look_at(point: &Point, scratch: &Scratch) -> Result<()> {
    let image = scratch.0.join("point");
    fs::write(&image, &point.image)?;
    let replay = Command::new("e2fsck").args(["-p", "-E", "journal_only"]).arg(&image).output()?;
    ensure!(
        replay.status.code().is_some_and(|code| code < 4),
        "e2fsck cannot replay the journal:\n{}",
        String::from_utf8_lossy(&replay.stdout)
    );
    check(&image)?;
    let tree = paths::make_dir(&scratch.0.join("tree"))?;
    let mut debugfs = Command::new("debugfs");
    debugfs.args(["-R", &format!("rdump / {}", tree.display())]).arg(&image);
    ui::capture(&mut debugfs)?;
    let kept = point.promises.iter().try_for_each(|promises| promises.check(&tree));
    fs::remove_dir_all(&tree)?;
    kept.map_err(|why| anyhow!(why))
}

/// `e2fsck -f -n` finds nothing.
///
/// Files that were being deleted when the power went are no damage: the next mount frees them.
fn check(image: &Path) -> Result<()> {
    let output = Command::new("e2fsck").args(["-f", "-n"]).arg(image).output().context("e2fsck")?;
    if output.status.success() {
        return Ok(());
    }
    let before = String::from_utf8_lossy(&output.stdout).into_owned();
    // With orphans on the list, the check counts what they hold as lost; -p frees them, and tells of anything else.
    let preen = Command::new("e2fsck").args(["-f", "-p"]).arg(image).output()?;
    let text = String::from_utf8_lossy(&preen.stdout).into_owned();
    let is_expected = |line: &str| {
        // The last: after a cut; no damage, and only said beside other things.
        ["orphaned", " files (", "Setting free", "Truncating", "could be shorter"]
            .iter()
            .any(|part| line.contains(part))
    };
    let is_sound = preen.status.code().is_some_and(|code| code < 4)
        && text.lines().all(|line| line.trim().is_empty() || is_expected(line));
    ensure!(is_sound, "e2fsck complains:\n{}", shortened(&format!("{before}{text}")));
    let again = Command::new("e2fsck").args(["-f", "-n"]).arg(image).output()?;
    ensure!(again.status.success(), "e2fsck complains:\n{}", String::from_utf8_lossy(&again.stdout));
    Ok(())
}

/// At most the first lines of a long text.
fn shortened(text: &str) -> String {
    text.lines().take(12).collect::<Vec<_>>().join("\n")
}

/// A guest of `kernel` mounts each disk, holds it against the promises and unmounts it; e2fsck is content.
fn mount(
    args: &CrashArgs,
    kernel: &str,
    samples: &[(PathBuf, Point)],
    scratch: &Scratch,
) -> Result<Vec<String>> {
    if samples.is_empty() {
        return Ok(Vec::new());
    }
    let mut guest = guest(args, kernel, scratch)?;
    let share = guest.programs.clone().unwrap_or_default();
    guest.disks = samples.iter().map(|(image, _)| image.clone()).collect();
    for (nr, (_, point)) in samples.iter().enumerate() {
        let marks: Vec<u8> = point.promises.iter().flat_map(Promises::encode).collect();
        fs::write(share.join(format!("marks-{}", letters(nr))), marks)?;
    }
    let names: Vec<String> = (0..samples.len()).map(letters).collect();
    let command = format!(
        "for n in {}; do echo $n $(mount -t ext4 /dev/vd$n /mnt 2>&1 && {{ /share/user-disk check /mnt /share/marks-$n; \
         echo more > /mnt/more; umount /mnt; }} 2>&1); done",
        names.join(" ")
    );
    let said = said(&guest, &command, MOUNTING)?;
    let mut failures = Vec::new();
    for (nr, (image, point)) in samples.iter().enumerate() {
        let expected = format!("{} kept", letters(nr));
        let name = letters(nr);
        let line = said.lines().find(|line| line.split(' ').next() == Some(&name)).unwrap_or("nothing");
        if line != expected {
            failures.push(format!("event {}, mounted by {kernel}: {line}", point.event));
        }
        if let Err(error) = check(image) {
            failures.push(format!("event {}, after {kernel} had mounted it: {error:#}", point.event));
        }
    }
    Ok(failures)
}

/// What the name of disk `nr` ends in: a, b, ... z, aa.
fn letters(nr: usize) -> String {
    let letter = |nr: usize| char::from(b'a' + (nr % 26) as u8);
    match nr / 26 {
        0 => letter(nr).to_string(),
        tens => format!("{}{}", letter(tens - 1), letter(nr)),
    }
}
