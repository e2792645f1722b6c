//! Dialogues with a shell in the guest, as a person at a terminal has them: `user/sessions/*.toml`.
//!
//! ```toml
//! root = "debian"
//! prompt = '# $'                                # awaited once after each boot
//!
//! [[session]]
//! name = "Ctrl-C ends a program"
//! steps = [
//!     { expect = '# $' },                       # a regular expression, sought in what came since the last match
//!     { send = "sleep 100\n" },
//!     { send = "\u0003", after_ms = 500 },      # a pause first, for a program to start
//!     { expect = '# $', seconds = 10 },
//! ]
//! ```
//! Escape sequences of the guest are left out of what is matched. QEMU's standard input and output are a pseudo-terminal, whose other end is held here. All sessions of a
//! file are one boot, in order. A failed step fails its session, and the rest of the file gets a new boot.

use std::fs::{self, File as OsFile};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use regex::Regex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Platform;
use super::tally::{TRIES, Tally, Verdict};
use crate::guest::Guest;
use crate::{interactive, paths};

/// Time for a step unless it says otherwise.
const STEP_LIMIT: Duration = Duration::from_secs(30);
/// Time from the start of QEMU to the prompt.
const BOOT_LIMIT: Duration = Duration::from_secs(120);

/// One file of dialogues.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    root: String,
    prompt: String,
    session: Vec<Session>,
}

/// One dialogue.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Session {
    name: String,
    steps: Vec<Step>,
}

/// Something to wait for, or something to type.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    expect: Option<String>,
    send: Option<String>,
    after_ms: Option<u64>,
    seconds: Option<u64>,
}

/// Every `*.toml` of a folder of the repository, with its name; none when the folder is missing.
pub fn read_folder<T: DeserializeOwned>(folder: &str) -> Result<Vec<(String, T)>> {
    let mut files = Vec::new();
    let Ok(entries) = fs::read_dir(paths::repo().join(folder)) else { return Ok(files) };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(stem) = name.strip_suffix(".toml") else { continue };
        let text = fs::read_to_string(entry.path())?;
        files.push((
            stem.to_owned(),
            toml::from_str(&text).with_context(|| format!("{folder}/{name} is not valid"))?,
        ));
    }
    files.sort_by(|a: &(String, T), b| a.0.cmp(&b.0));
    Ok(files)
}

/// Runs every file's dialogues on `platform`.
pub fn run(tally: &Tally, platform: &Platform) -> Result<()> {
    for (stem, file) in read_folder::<File>("user/sessions")? {
        let mut terminal = None;
        for session in &file.session {
            let name = format!("session/{platform}/{stem}/{}", session.name);
            if !tally.wants(&name) {
                continue;
            }
            if tally.is_out_of_time() {
                tally.note(&name, Verdict::Skipped);
                continue;
            }
            let mut first = None;
            for left in (0..TRIES).rev() {
                let verdict = Verdict::of(play_once(&mut terminal, platform, &file, session));
                let expected = tally.expects(&name, &verdict);
                if !expected && left > 0 {
                    first.get_or_insert(verdict);
                    continue;
                }
                if let Some(first) = first.as_ref().filter(|_| expected) {
                    tally.note_flaky(&name, first);
                }
                tally.note(&name, verdict);
                break;
            }
        }
    }
    Ok(())
}

/// Plays `session` on the terminal that is there, or on a new one; one on which it failed is given up.
fn play_once(
    terminal: &mut Option<Terminal>,
    platform: &Platform,
    file: &File,
    session: &Session,
) -> Result<()> {
    let mut ready = match terminal.take() {
        Some(ready) => ready,
        None => {
            let mut fresh = Terminal::boot(platform, &file.root)?;
            fresh.expect(&file.prompt, BOOT_LIMIT)?;
            fresh
        }
    };
    ready.play(session)?;
    *terminal = Some(ready);
    Ok(())
}

/// A booted guest and our end of its terminal.
struct Terminal {
    child: Child,
    master: OsFile,
    /// What the guest wrote since the last match.
    pending: String,
    /// What terminals act on instead of showing it.
    escapes: Regex,
    _guest: Guest,
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Terminal {
    fn boot(platform: &Platform, root: &str) -> Result<Terminal> {
        let guest = interactive::prepare(&platform.guest(root, None), interactive::Messages::Quiet)?;
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
            .context("cannot make a pseudo-terminal")?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = ptsname(&master, Vec::new())?;
        let slave = OsFile::from(rustix::fs::open(
            name.as_c_str(),
            OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC,
            Mode::empty(),
        )?);
        // QEMU makes it raw but for this: newlines of the guest would get a second carriage return.
        let mut settings = rustix::termios::tcgetattr(&slave)?;
        settings.output_modes.remove(rustix::termios::OutputModes::ONLCR);
        rustix::termios::tcsetattr(&slave, rustix::termios::OptionalActions::Now, &settings)?;
        let mut qemu = guest.machine.command();
        qemu.args(interactive::console());
        qemu.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(Stdio::from(slave));
        let child = qemu.spawn().context("cannot start QEMU")?;
        Ok(Terminal {
            child,
            master: OsFile::from(master),
            pending: String::new(),
            escapes: Regex::new(r"\x1b\[[0-9;?]*[A-Za-z]\r?")?,
            _guest: guest,
        })
    }

    fn play(&mut self, session: &Session) -> Result<()> {
        for (idx, step) in session.steps.iter().enumerate() {
            std::thread::sleep(Duration::from_millis(step.after_ms.unwrap_or(0)));
            if let Some(text) = &step.send {
                self.master.write_all(text.as_bytes())?;
            }
            if let Some(pattern) = &step.expect {
                let limit = step.seconds.map_or(STEP_LIMIT, Duration::from_secs);
                self.expect(pattern, limit).with_context(|| format!("step {}", idx + 1))?;
            }
        }
        Ok(())
    }

    fn expect(&mut self, pattern: &str, limit: Duration) -> Result<()> {
        let regex = Regex::new(&format!("(?m){pattern}"))?;
        let deadline = Instant::now() + limit;
        loop {
            if let Some(found) = regex.find(&self.pending) {
                self.pending.drain(..found.end());
                return Ok(());
            }
            let ended = self.child.try_wait()?.is_some();
            let got = self.read(Duration::from_millis(100))?;
            if got == 0 && (ended || Instant::now() >= deadline) {
                let what = if ended { "the guest ended" } else { "nothing came" };
                anyhow::bail!("{what} that matches {pattern}; the terminal showed:\n{:?}", self.pending);
            }
        }
    }

    /// Takes what the guest wrote, waiting at most `nap` for it; the number of bytes.
    fn read(&mut self, nap: Duration) -> Result<usize> {
        let mut fds = [PollFd::from_borrowed_fd(self.master.as_fd(), PollFlags::IN)];
        let nap = Timespec { tv_sec: 0, tv_nsec: nap.subsec_nanos().into() };
        if poll(&mut fds, Some(&nap)).unwrap_or(0) == 0 {
            return Ok(0);
        }
        let mut buffer = [0; 4096];
        // EIO: QEMU has closed its end.
        let len = self.master.read(&mut buffer).unwrap_or(0);
        self.pending.push_str(&String::from_utf8_lossy(&buffer[..len]));
        // The return after an escape sequence may come with a later read than the sequence.
        self.pending = self.escapes.replace_all(&self.pending, "").replace("\n\r", "\n");
        Ok(len)
    }
}
