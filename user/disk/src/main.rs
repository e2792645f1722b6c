//! Writers and readers of file systems on disks, run in guests by `cargo xtask crash` and the tests `disk/`.
//!
//! ```text
//! user-disk write ROOT DEVICE WORKERS STEPS SEED   works below ROOT, marks on DEVICE; prints "written"
//! user-disk check ROOT MARKS                       holds ROOT against the marks in the file MARKS
//! user-disk fill ROOT SEED KIND, change ...        makes a tree with some of everything that a file system of KIND (full,
//!                                                  plain) can hold; changes it
//! user-disk describe ROOT                          prints a line for each name
//! ```

#![forbid(unsafe_code)]

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::ExitCode;

use user_disk::tree::{self, Kind};
use user_disk::{MARK_LEN, Promises, Worker};

/// A mark at an address that `O_DIRECT` takes.
#[repr(align(4096))]
struct Page([u8; MARK_LEN]);

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match words[..] {
        ["write", root, device, workers, steps, seed] => write(root, device, [workers, steps, seed]),
        ["check", root, marks] => check(root, marks),
        ["fill", root, seed, of] => {
            kind(of).and_then(|of| told(tree::fill(Path::new(root), number(seed)?, of)))
        }
        ["change", root, seed, of] => {
            kind(of).and_then(|of| told(tree::change(Path::new(root), number(seed)?, of)))
        }
        ["describe", root] => describe(root),
        _ => Err("usage: user-disk write|check|fill|change|describe; see the head of main.rs".to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{text} is no number"))
}

fn kind(text: &str) -> Result<Kind, String> {
    match text {
        "full" => Ok(Kind::Full),
        "plain" => Ok(Kind::Plain),
        _ => Err(format!("{text} is no kind of tree")),
    }
}

fn told(result: io::Result<()>) -> Result<(), String> {
    result.map_err(|error| error.to_string())
}

fn describe(root: &str) -> Result<(), String> {
    let mut text = String::new();
    told(tree::describe(Path::new(root), &mut text))?;
    print!("{text}");
    Ok(())
}

fn write(root: &str, device: &str, numbers: [&str; 3]) -> Result<(), String> {
    let mut parsed = [0u64; 3];
    for (number, text) in parsed.iter_mut().zip(numbers) {
        *number = self::number(text)?;
    }
    let [workers, steps, seed] = parsed;
    // Straight to the device, but without a flush, which would help the file system.
    let direct = rustix::fs::OFlags::DIRECT.bits().cast_signed();
    let device = OpenOptions::new().write(true).custom_flags(direct).open(device);
    let device = device.map_err(|error| format!("the device for marks: {error}"))?;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers as u32)
            .map(|nr| {
                let device = &device;
                scope.spawn(move || work(Path::new(root), device, nr, steps, seed))
            })
            .collect();
        threads.into_iter().try_for_each(|thread| {
            thread.join().map_err(|_| "a worker panicked".to_owned())?.map_err(|e| format!("a worker: {e}"))
        })
    })?;
    println!("written");
    Ok(())
}

fn work(root: &Path, device: &File, nr: u32, steps: u64, seed: u64) -> io::Result<()> {
    let place = u64::from(nr) * MARK_LEN as u64;
    let mut page = Box::new(Page([0; MARK_LEN]));
    let mut note = |promises: &Promises| {
        page.0.copy_from_slice(&promises.encode());
        device.write_all_at(&page.0, place)
    };
    Worker::new(root, nr, seed, &mut note)?.run(steps)
}

fn check(root: &str, marks: &str) -> Result<(), String> {
    let bytes = fs::read(marks).map_err(|e| format!("{marks}: {e}"))?;
    for mark in bytes.chunks(MARK_LEN) {
        Promises::decode(mark)?.check(Path::new(root))?;
    }
    println!("kept");
    Ok(())
}
