//! The verb `profile`: which functions of the kernel a command's instructions go to.
//!
//! A plugin in QEMU counts the instructions of each block of guest code ([`plugin.c`], built when needed). Two guests
//! run under `-icount`, where every run is the same: one with the command and one that only starts and ends. The
//! difference is the command's. `nokaslr` makes addresses those of the kernel file.
//!
//! Names: Keel's from its ELF file, Linux's from its own /proc/kallsyms, read in a third guest and kept in the cache.
//! Code that was inlined counts for the function that it was inlined into.
//!
//! [`plugin.c`]: https://www.qemu.org/docs/master/devel/tcg-plugins.html
//!
//! Sources: QEMU Documentation/devel/tcg-plugins.rst.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::exec::{self, Outcome, Port};
use crate::guest::GuestArgs;
use crate::{bench, ksyms, linux, paths, ui, userland};

const PLUGIN: &str = include_str!("plugin.c");
/// User space ends below.
const KERNEL_START: u64 = 0xffff_8000_0000_0000;
/// What the guest that only starts and ends runs.
const NOTHING: &str = ":";

/// Options of `profile`.
#[derive(Args)]
pub struct ProfileArgs {
    /// The kernel: `keel`, `linux` or a kernel file
    #[arg(long, default_value = "keel", value_name = "keel|linux|PATH")]
    kernel: String,
    /// The root, as for `exec`
    #[arg(long, default_value = "tiny", value_name = "tiny|debian|bench|FILE")]
    root: String,
    /// A raw disk image as /dev/vda
    #[arg(long, value_name = "FILE")]
    disk: Option<PathBuf>,
    /// How many functions are shown
    #[arg(long, default_value_t = 40, value_name = "N")]
    top: usize,
    /// Show the start of the system instead of a command
    #[arg(long, conflicts_with = "command")]
    boot: bool,
    /// The command, run as root through `sh -c`; /share/user-bench is there
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND",
        required_unless_present = "boot"
    )]
    command: Vec<String>,
}

/// Instructions by address.
type Counts = BTreeMap<u64, u64>;

/// Runs the guests and prints the table.
pub fn run(args: &ProfileArgs) -> Result<()> {
    let dir = paths::make_dir(&paths::logs()?.join(format!("profile-{}", std::process::id())))?;
    let result = profile(args, &dir);
    let _ = fs::remove_dir_all(&dir);
    result
}

fn profile(args: &ProfileArgs, dir: &Path) -> Result<()> {
    let plugin = build_plugin(dir)?;
    let share = paths::make_dir(&dir.join("share"))?;
    fs::copy(userland::program("user-bench")?, share.join("user-bench"))?;
    let guest = GuestArgs {
        kernel: args.kernel.clone(),
        root: args.root.clone(),
        // While a guest waits for its disk, its counted clock runs on.
        icount: args.disk.is_none(),
        mem: Some(if args.root == "tiny" { 1024 } else { 2048 }),
        programs: Some(share),
        disks: args.disk.iter().cloned().collect(),
        ..bench::guest_choices()
    };
    let base = count(&guest, NOTHING, &plugin, dir)?;
    let counts =
        if args.boot { base } else { less(count(&guest, &args.command.join(" "), &plugin, dir)?, &base) };
    let symbols = symbols(&guest)?;
    print!("{}", table(&counts, &symbols, args.top));
    Ok(())
}

fn build_plugin(dir: &Path) -> Result<PathBuf> {
    let (source, library) = (dir.join("plugin.c"), dir.join("plugin.so"));
    fs::write(&source, PLUGIN).with_context(|| format!("cannot write {}", source.display()))?;
    let step = ui::Step::new("building the profiler's plugin");
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-shared", "-fPIC", "-o"]).arg(&library).arg(&source);
    ui::run(&step, &mut cc)?;
    step.clear();
    Ok(library)
}

/// Runs `command` in a guest and returns what it counted, boot included.
fn count(guest: &GuestArgs, command: &str, plugin: &Path, dir: &Path) -> Result<Counts> {
    let out = dir.join("counts");
    let _ = fs::remove_file(&out);
    let mut guest = guest.clone();
    guest.append = format!("{} nokaslr", guest.append);
    let plugin = format!("{},out={}", crate::qemu::escape(plugin), crate::qemu::escape(&out));
    guest.extra = vec!["-plugin".to_owned(), plugin];
    let step = ui::Step::new(format!("running `{command}`"));
    let mut sink = |port: Port, bytes: &[u8]| {
        if matches!(port, Port::Stdout | Port::Stderr) {
            step.news(String::from_utf8_lossy(bytes).trim());
        }
    };
    let report = exec::run(&guest, command, Duration::from_secs(1800), &mut sink)?;
    match report.outcome {
        Outcome::Exited(0) => {}
        Outcome::Exited(status) => ui::say(&format!("`{command}` ended with status {status}")),
        Outcome::Failed(reason) => bail!("`{command}`: {reason}"),
    }
    step.clear();
    let text = fs::read_to_string(&out).with_context(|| {
        format!("QEMU wrote no counts: does it support plugins of version 1? See {}", report.log.display())
    })?;
    Ok(text.lines().filter_map(parse).collect())
}

fn parse(line: &str) -> Option<(u64, u64)> {
    let (address, count) = line.split_once(' ')?;
    Some((u64::from_str_radix(address, 16).ok()?, u64::from_str_radix(count.trim(), 16).ok()?))
}

/// What `counts` has more than `base`.
fn less(counts: Counts, base: &Counts) -> Counts {
    counts
        .into_iter()
        .map(|(address, count)| (address, count.saturating_sub(base.get(&address).copied().unwrap_or(0))))
        .filter(|(_, count)| *count > 0)
        .collect()
}

/// The kernel's functions: address and name.
fn symbols(guest: &GuestArgs) -> Result<BTreeMap<u64, String>> {
    if guest.kernel != "linux" {
        let elf = guest.kernel_file()?;
        return ksyms::functions(&elf);
    }
    let cached = linux::image()?.with_file_name("kallsyms");
    if !cached.exists() {
        let step = ui::Step::new("asking Linux for its symbols");
        let mut text = Vec::new();
        let guest =
            GuestArgs { kernel: "linux".to_owned(), append: "nokaslr".to_owned(), ..GuestArgs::default() };
        exec::run(&guest, "cat /proc/kallsyms", Duration::from_secs(300), &mut |port, bytes| {
            if port == Port::Stdout {
                text.extend_from_slice(bytes);
            }
        })?;
        fs::write(&cached, &text).with_context(|| format!("cannot write {}", cached.display()))?;
        step.clear();
    }
    let text = fs::read_to_string(&cached)?;
    let symbols: BTreeMap<u64, String> = text.lines().filter_map(kallsym).collect();
    ensure!(symbols.len() > 1000, "{} is not complete: remove it", cached.display());
    Ok(symbols)
}

/// A line of /proc/kallsyms that names a function.
fn kallsym(line: &str) -> Option<(u64, String)> {
    let mut words = line.split_whitespace();
    let address = u64::from_str_radix(words.next()?, 16).ok()?;
    let kind = words.next()?;
    let name = words.next()?.to_owned();
    (address >= KERNEL_START && kind.eq_ignore_ascii_case("t")).then_some((address, name))
}

fn table(counts: &Counts, symbols: &BTreeMap<u64, String>, top: usize) -> String {
    let (mut user, mut kernel) = (0, 0);
    let mut functions: BTreeMap<&str, u64> = BTreeMap::new();
    for (&address, &count) in counts {
        if address < KERNEL_START {
            user += count;
            continue;
        }
        kernel += count;
        let name = symbols.range(..=address).next_back().map_or("(unknown)", |(_, name)| name.as_str());
        *functions.entry(name).or_default() += count;
    }
    let mut sorted: Vec<(&str, u64)> = functions.into_iter().collect();
    sorted.sort_by_key(|(name, count)| (std::cmp::Reverse(*count), *name));
    let mut text = format!("{:>15} instructions in user space\n{:>15} in the kernel\n\n", user, kernel);
    for (name, count) in sorted.into_iter().take(top) {
        text.push_str(&format!(
            "{count:>15} {:>5.1}%  {name}\n",
            count as f64 * 100.0 / kernel.max(1) as f64
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_count_for_the_function_before_them() {
        let start = KERNEL_START;
        let symbols = BTreeMap::from([(start + 16, "a".to_owned()), (start + 32, "b".to_owned())]);
        let counts =
            BTreeMap::from([(4096, 5), (start, 1), (start + 16, 10), (start + 24, 20), (start + 40, 69)]);
        let text = table(&counts, &symbols, 2);
        assert!(text.contains("5 instructions in user space\n            100 in the kernel"));
        assert!(text.ends_with("69  69.0%  b\n             30  30.0%  a\n"), "{text}");
    }

    #[test]
    fn the_base_is_taken_away() {
        let counts = BTreeMap::from([(1, 10), (2, 5), (3, 7)]);
        assert_eq!(less(counts, &BTreeMap::from([(1, 4), (2, 5)])), BTreeMap::from([(1, 6), (3, 7)]));
    }

    #[test]
    fn lines_are_hexadecimal() {
        assert_eq!(parse("ff 1a"), Some((255, 26)));
        assert_eq!(parse("no"), None);
        assert_eq!(kallsym("ffffffff81000000 T _text"), Some((0xffff_ffff_8100_0000, "_text".to_owned())));
        assert_eq!(kallsym("ffffffff81000000 D data"), None);
    }
}
