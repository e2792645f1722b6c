//! The short form in `cargo xtask test`: quick self-tests on Keel, held against Linux and the list.

use anyhow::Result;

use super::known::{self, Known};
use super::results::Results;
use super::session::Session;
use super::{ConformArgs, Kernels, collect};
use crate::test::tally::{Tally, Verdict};

/// The group's name before that of each program.
const GROUP: &str = "conform";

/// Directories and programs that take a second or two.
const QUICK: [&str; 13] = [
    "kselftest/capabilities",
    "kselftest/clone3",
    "kselftest/fchmodat2",
    "kselftest/filelock",
    "kselftest/kcmp",
    "kselftest/membarrier/membarrier_test_single_thread",
    "kselftest/pidfd/pidfd_open_test",
    "kselftest/pidfd/pidfd_getfd_test",
    "kselftest/pidfd/pidfd_fdinfo_test",
    "kselftest/signal",
    "kselftest/splice",
    "kselftest/timens",
    "kselftest/vDSO/vdso_test_gettimeofday",
];

/// Runs the quick programs that the tally selects.
pub fn run(tally: &Tally) -> Result<()> {
    let mut args = ConformArgs {
        tests: QUICK.map(str::to_owned).to_vec(),
        kernel: Kernels::Both,
        smp: 1,
        json: None,
        update: false,
        fresh: false,
        debug: false,
        image: None,
        from: None,
        resume: false,
        jobs: None,
        list: false,
    };
    let mut results = Results { smp: 1, ..Results::default() };
    let groups = match collect(&args, &mut results) {
        Ok(groups) => groups,
        Err(error) => {
            tally.skip_group(GROUP, format!("{error:#}").lines().next().unwrap_or_default());
            return Ok(());
        }
    };
    args.tests = groups.iter().flat_map(|g| &g.cases).map(|case| case.name.clone()).collect();
    args.tests.retain(|name| tally.wants(&format!("{GROUP}/{name}")));
    if args.tests.is_empty() {
        return Ok(());
    }
    let known = Known::read()?;
    let groups = collect(&args, &mut results)?;
    let (results, problems) = Session::new(&args, &known, groups, results).run();
    if let Some(problem) = problems.first() {
        tally.skip_group(GROUP, problem.lines().next().unwrap_or_default());
        return Ok(());
    }
    let verdict = known.judge(&results);
    for name in &args.tests {
        let new = verdict.new.get(name).map(|lines| Verdict::Failed(lines.join("\n")));
        tally.note(&format!("{GROUP}/{name}"), new.unwrap_or(Verdict::Passed));
    }
    for entry in &verdict.stale {
        let why = format!("{} lists a difference that is gone: {entry}", known::PATH);
        tally.note(&format!("{GROUP}/{}", known::PATH), Verdict::Failed(why));
    }
    Ok(())
}
