//! A folder of this machine in a guest, by 9P: what one writes the other reads, byte for byte.
//!
//! ```text
//!   host      fills the folder with user/disk's tree, describes it
//!   guest     describes the same; changes it, describes that
//!   host      describes the same
//! ```
//! The same the other way round, for each way to cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

use super::Platform;
use super::disk::boot;
use super::exchange::difference;
use super::tally::{Tally, Verdict};
use crate::guest::GuestArgs;
use crate::{paths, ui, userland};

/// Ways to cache, as the option `cache` calls them.
const CACHES: [&str; 4] = ["none", "readahead", "mmap", "loose"];

/// Runs the cases.
pub fn run(tally: &Tally, platform: &Platform) -> Result<()> {
    for cache in CACHES {
        let cases: [(String, Case); 3] = [
            (format!("a shared folder with cache={cache}, written first by the host"), host_first),
            (format!("a shared folder with cache={cache}, written first by the guest"), guest_first),
            (format!("a shared folder with cache={cache}, files with several names"), several_names),
        ];
        for (what, case) in cases {
            let name = format!("disk/{platform}/{what}");
            if !tally.wants(&name) {
                continue;
            }
            let scratch = Scratch::new()?;
            let verdict = Verdict::of(case(platform, cache, &scratch.0));
            tally.note(&name, verdict);
        }
    }
    Ok(())
}

type Case = fn(&Platform, &str, &Path) -> Result<()>;

/// A folder of its own, removed on drop.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Scratch> {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let dir = paths::make_dir(&paths::logs()?.join(format!("shared-{}-{number}", std::process::id())))?;
        paths::make_dir(&dir.join("tree"))?;
        fs::copy(userland::program("user-disk")?, dir.join("user-disk"))?;
        Ok(Scratch(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs user-disk on this machine.
fn here(dir: &Path, arguments: &str) -> Result<String> {
    ui::capture(Command::new(dir.join("user-disk")).args(arguments.split(' ')).current_dir(dir))
}

/// Runs `command` in a guest, in the folder with this cache.
fn there(platform: &Platform, cache: &str, dir: &Path, command: &str) -> Result<String> {
    let guest = GuestArgs { share: Some(dir.to_owned()), ..platform.guest("tiny", None) };
    let options = format!("trans=virtio,version=9p2000.L,msize=131072,cache={cache}");
    boot(&guest, &format!("umount /share && mount -t 9p -o {options} share /mnt && cd /mnt && {command}"))
}

fn host_first(platform: &Platform, cache: &str, dir: &Path) -> Result<()> {
    here(dir, "fill tree 1 plain")?;
    let written = here(dir, "describe tree")?;
    let command = "./user-disk describe tree && echo ---- && ./user-disk change tree 2 plain && ./user-disk describe tree";
    let said = there(platform, cache, dir, command)?;
    let (seen, changed) = said.split_once("----\n").unwrap_or((&said, ""));
    same("the guest", &written, seen)?;
    same("the host", changed, &here(dir, "describe tree")?)?;
    ensure!(written != changed && written.lines().count() > 1000, "the tree is no tree:\n{written}");
    Ok(())
}

fn guest_first(platform: &Platform, cache: &str, dir: &Path) -> Result<()> {
    let fill = "./user-disk fill tree 1 plain && ./user-disk describe tree && cd / && umount /mnt";
    let written = there(platform, cache, dir, fill)?;
    same("the host", &written, &here(dir, "describe tree")?)?;
    here(dir, "change tree 2 plain")?;
    let changed = here(dir, "describe tree")?;
    same("the guest", &changed, &there(platform, cache, dir, "./user-disk describe tree")?)
}

/// A server whose fids are names: a file that loses the one it was found by is still there by the others.
fn several_names(platform: &Platform, cache: &str, dir: &Path) -> Result<()> {
    let command = "echo one > a && ln a b && ln b c && exec 3< c && stat -c %h a && rm a && cat b && \
         stat -L -c %h /proc/self/fd/3 && chmod 640 c && stat -c %a b && mv b d && rm c && cat d && \
         stat -L -c '%h %a' /proc/self/fd/3 && cat <&3 && \
         exec 5>> log && exec 6>> log && echo x >&5 && echo y >&6 && echo z >&5 && cat log && ls";
    let said = there(platform, cache, &dir.join("tree"), command)?;
    same("the guest", "3\none\n2\n640\none\n1 640\none\nx\ny\nz\nd\nlog", &said)?;
    ensure!(fs::read(dir.join("tree/d"))? == b"one\n" && fs::read(dir.join("tree/log"))? == b"x\ny\nz\n");
    Ok(())
}

fn same(who: &str, written: &str, seen: &str) -> Result<()> {
    let (written, seen) = (written.trim_end(), seen.trim_end());
    ensure!(written == seen, "{who} reads other than was written:\n{}", difference(written, seen));
    Ok(())
}
