//! What Linux does, pinned: one static program whose tests pass on Linux and must pass on Keel.
//!
//! ```text
//! user-tests                      run all, libtest's output
//! user-tests pipe:: fork::        only tests whose name contains the first filter (libtest's rule)
//! user-tests list [PREFIX...]     names, one a line
//! user-tests --ktap [PREFIX...]   KTAP output, tests chosen by prefix
//! user-tests --seconds N ...      limit for each test (20)
//! ```
//!
//! Tests run as root in a minimal root: /proc, /sys, /dev with devpts, and /tmp (another folder: `KEEL_TEST_DIR`). Each one
//! pins errno values and their precedence as Linux has them. `sys` has all `unsafe` (raw calls come from `user-sys`); `kit`,
//! `inetkit`, `mountkit`, `netlinkkit`, `packetkit` and `uringkit` have the shared words, `harness` the runner; every other file is an area.

mod harness;
mod helper;
mod inetkit;
mod kit;
mod mountkit;
mod netlinkkit;
mod packetkit;
mod prelude;
mod sys;
mod uringkit;

pub use user_sys::sys;

include!("areas.rs");

fn main() {
    let mut args: Vec<String> = std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect();
    if args.get(1).is_some_and(|a| a.split('.').next() == Some(helper::MARK)) {
        helper::main(&args[2..]);
    }
    if args.len() == 1 && args[0].is_empty() {
        sys::exit(88); // exec::empty_argv_gets_one_empty_argument
    }
    if let Some(i) = args.iter().position(|a| a == "--seconds") {
        let seconds = args.get(i + 1).and_then(|s| s.parse().ok()).unwrap_or(20);
        harness::set_limit(seconds);
        args.drain(i..(i + 2).min(args.len()));
    }
    harness::reset_signals();
    let tests: Vec<harness::Test> = AREAS.iter().flat_map(|a| a.iter().copied()).collect();
    match args.get(1).map(String::as_str) {
        Some("list") => {
            for t in &tests {
                let name = format!("{}::{}", t.area, t.name);
                if args.len() == 2 || args[2..].iter().any(|p| name.starts_with(p.as_str())) {
                    println!("{name}");
                }
            }
        }
        Some("--ktap") => std::process::exit(harness::ktap(&tests, &args[2..])),
        _ => harness::mimic(&tests, args.into_iter().map(Into::into)),
    }
}
