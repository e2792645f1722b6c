//! One writer: random changes of files below a folder of its own, some synced, each promised as far as it goes.
//!
//! ```text
//!   wN/dK/fM    rewritten, replaced by rename, renamed, truncated, unlinked
//!   wN/pKa, b   one file with two names
//!   wN/log      grows
//!   wN/noise    large, never synced, promises nothing
//! ```
//! Before a change what it may undo is taken back; after an fsync what must be there is promised. A change of names
//! that is not synced leaves the old state or the new one: both are promised.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::{Promises, Random, State, pattern};

const NR_DIRS: u64 = 3;
const NR_FILES: u64 = 6;
const NR_PAIRS: u64 = 3;
/// More possible states than that are not worth a promise.
const MAX_STATES: usize = 4;
const MAX_LEN: u64 = 40_000;
const MAX_NOISE: u64 = 300_000;

/// See the module's front page.
pub struct Worker<'a> {
    root: PathBuf,
    random: Random,
    promises: Promises,
    /// Length and seed of `log`.
    log: (u64, u64),
    /// Writes a mark; it is on its way to the disk when this returns.
    note: &'a mut dyn FnMut(&Promises) -> io::Result<()>,
}

impl<'a> Worker<'a> {
    /// Makes the folders of worker `nr` below `root` and syncs them.
    pub fn new(
        root: &Path,
        nr: u32,
        seed: u64,
        note: &'a mut dyn FnMut(&Promises) -> io::Result<()>,
    ) -> io::Result<Worker<'a>> {
        for dir in 0..NR_DIRS {
            fs::create_dir_all(root.join(format!("w{nr}/d{dir}")))?;
        }
        File::open(root)?.sync_all()?;
        File::open(root.join(format!("w{nr}")))?.sync_all()?;
        let promises = Promises { worker: nr, ..Promises::default() };
        let random = Random::new(seed.wrapping_add(u64::from(nr) << 32));
        Ok(Worker { root: root.to_owned(), random, promises, log: (0, u64::from(nr) + 1), note })
    }

    /// Makes `nr` changes.
    pub fn run(&mut self, nr: u64) -> io::Result<()> {
        for step in 1..=nr {
            self.promises.step = step;
            match self.random.below(16) {
                0..=2 => self.rewrite()?,
                3..=5 => self.replace()?,
                6 => self.unlink()?,
                7..=8 => self.rename()?,
                9 => self.truncate()?,
                10..=11 => self.append()?,
                12 => self.pair()?,
                13 => self.unlink_pair()?,
                14 => self.noise()?,
                _ => self.nest()?,
            }
            self.tell()?;
        }
        Ok(())
    }

    fn tell(&mut self) -> io::Result<()> {
        (self.note)(&self.promises)
    }

    /// `path` is in this state, whatever happens.
    fn promise(&mut self, path: &str, state: State) {
        self.promises.paths.insert(path.to_owned(), vec![state]);
    }

    /// `path` may be anything from now on.
    fn forget(&mut self, path: &str) {
        self.promises.paths.remove(path);
    }

    /// What is promised of `path` may become `state`, too.
    fn allow(&mut self, path: &str, state: State) {
        if let Some(states) = self.promises.paths.get_mut(path) {
            states.push(state);
            if states.len() > MAX_STATES {
                self.promises.paths.remove(path);
            }
        }
    }

    /// The file that is at `path` for certain.
    fn certain(&self, path: &str) -> Option<State> {
        match self.promises.paths.get(path).map(Vec::as_slice) {
            Some([state @ State::File { .. }]) => Some(*state),
            _ => None,
        }
    }

    fn coin(&mut self) -> bool {
        self.random.below(2) == 0
    }

    fn folder(&mut self) -> String {
        format!("w{}/d{}", self.promises.worker, self.random.below(NR_DIRS))
    }

    fn file(&mut self) -> String {
        format!("{}/f{}", self.folder(), self.random.below(NR_FILES))
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    fn sync_folder(&self, path: &str) -> io::Result<()> {
        let folder = Path::new(path).parent().unwrap_or(Path::new(""));
        File::open(self.root.join(folder))?.sync_all()
    }

    /// A length, often a small one.
    fn len(&mut self) -> u64 {
        let most = if self.coin() { 5000 } else { MAX_LEN };
        self.random.below(most)
    }

    /// Writes a file anew, in place or from length 0.
    fn rewrite(&mut self) -> io::Result<()> {
        let path = self.file();
        let (len, seed, is_emptied) = (self.len(), self.random.word(), self.coin());
        self.forget(&path);
        self.tell()?;
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(is_emptied).open(self.at(&path))?;
        file.write_all_at(&pattern(seed, 0, len as usize), 0)?;
        if self.random.below(3) > 0 {
            if self.coin() {
                // In place: what was behind the end goes, too.
                file.set_len(len)?;
                file.sync_all()?;
            } else {
                file.set_len(len)?;
                file.sync_data()?;
            }
            self.promise(&path, State::File { len, seed });
        }
        Ok(())
    }

    /// The way of careful programs: a new file, synced, takes the name of the old one.
    fn replace(&mut self) -> io::Result<()> {
        let path = self.file();
        let (len, seed) = (self.len(), self.random.word());
        let fresh = format!("{path}.new");
        let mut file = File::create(self.at(&fresh))?;
        file.write_all(&pattern(seed, 0, len as usize))?;
        file.sync_all()?;
        self.allow(&path, State::File { len, seed });
        self.tell()?;
        fs::rename(self.at(&fresh), self.at(&path))?;
        if self.coin() {
            self.sync_folder(&path)?;
            self.promise(&path, State::File { len, seed });
        }
        Ok(())
    }

    fn unlink(&mut self) -> io::Result<()> {
        let path = self.file();
        self.allow(&path, State::Absent);
        self.tell()?;
        let removed = fs::remove_file(self.at(&path));
        if removed.is_err() {
            return absent(removed);
        }
        if self.coin() {
            self.sync_folder(&path)?;
            self.promise(&path, State::Absent);
        }
        Ok(())
    }

    fn rename(&mut self) -> io::Result<()> {
        let (from, to) = (self.file(), self.file());
        if from == to || !self.at(&from).exists() {
            return Ok(());
        }
        let moved = self.certain(&from);
        self.allow(&from, State::Absent);
        match moved {
            Some(state) => self.allow(&to, state),
            None => self.forget(&to),
        }
        self.tell()?;
        fs::rename(self.at(&from), self.at(&to))?;
        if self.coin() {
            self.sync_folder(&to)?;
            self.sync_folder(&from)?;
            self.promise(&from, State::Absent);
            if let Some(state) = moved {
                self.promise(&to, state);
            }
        }
        Ok(())
    }

    /// Cuts a file of known contents.
    ///
    /// The cut page, with zeroes behind its new end, may reach the disk before the new length does: only what is in
    /// front of it is certain.
    fn truncate(&mut self) -> io::Result<()> {
        let path = self.file();
        let Some(State::File { len, seed }) = self.certain(&path) else { return Ok(()) };
        let len = self.random.below(len + 1);
        self.promise(&path, State::Prefix { len, seed });
        self.tell()?;
        let file = OpenOptions::new().write(true).open(self.at(&path))?;
        file.set_len(len)?;
        if self.coin() {
            file.sync_all()?;
            self.promise(&path, State::File { len, seed });
        }
        Ok(())
    }

    /// Adds to the log; what was synced of it stays whatever happens.
    fn append(&mut self) -> io::Result<()> {
        let path = format!("w{}/log", self.promises.worker);
        let (at, seed) = self.log;
        let len = self.random.below(3000) + 1;
        let mut file = OpenOptions::new().append(true).create(true).open(self.at(&path))?;
        file.write_all(&pattern(seed, at, len as usize))?;
        self.log.0 = at + len;
        if self.coin() {
            file.sync_data()?;
            self.promise(&path, State::Prefix { len: at + len, seed });
        }
        Ok(())
    }

    fn pair_names(&mut self) -> [String; 2] {
        let nr = self.random.below(NR_PAIRS);
        ["a", "b"].map(|name| format!("w{}/p{nr}{name}", self.promises.worker))
    }

    /// A fresh file with two names.
    fn pair(&mut self) -> io::Result<()> {
        let names = self.pair_names();
        let state = State::File { len: self.len(), seed: self.random.word() };
        let State::File { len, seed } = state else { return Ok(()) };
        names.iter().for_each(|name| self.forget(name));
        self.tell()?;
        for name in &names {
            absent(fs::remove_file(self.at(name)))?;
        }
        let mut file = File::create(self.at(&names[0]))?;
        file.write_all(&pattern(seed, 0, len as usize))?;
        fs::hard_link(self.at(&names[0]), self.at(&names[1]))?;
        file.sync_all()?;
        self.sync_folder(&names[0])?;
        names.iter().for_each(|name| self.promise(name, state));
        Ok(())
    }

    /// One name of a file with two goes.
    fn unlink_pair(&mut self) -> io::Result<()> {
        let names = self.pair_names();
        let name = &names[self.random.below(2) as usize];
        self.allow(name, State::Absent);
        self.tell()?;
        absent(fs::remove_file(self.at(name)))?;
        if self.coin() {
            self.sync_folder(name)?;
            self.promise(name, State::Absent);
        }
        Ok(())
    }

    /// Much data that nobody waits for.
    fn noise(&mut self) -> io::Result<()> {
        let path = format!("w{}/noise", self.promises.worker);
        if self.coin() {
            return absent(fs::remove_file(self.at(&path)));
        }
        let len = self.random.below(MAX_NOISE) as usize;
        fs::write(self.at(&path), vec![b'n'; len])
    }

    /// A file in a fresh folder, then the folder goes as a whole.
    fn nest(&mut self) -> io::Result<()> {
        let folder = format!("w{}/nest", self.promises.worker);
        let path = format!("{folder}/deep/file");
        let (len, seed) = (self.random.below(2000), self.random.word());
        self.forget(&path);
        self.tell()?;
        fs::create_dir_all(self.at(&folder).join("deep"))?;
        let mut file = File::create(self.at(&path))?;
        file.write_all(&pattern(seed, 0, len as usize))?;
        if self.coin() {
            file.sync_all()?;
            self.promise(&path, State::File { len, seed });
            self.tell()?;
        }
        if self.coin() {
            self.forget(&path);
            self.tell()?;
            fs::remove_dir_all(self.at(&folder))?;
            if self.coin() {
                self.sync_folder(&folder)?;
                self.promise(&path, State::Absent);
            }
        }
        Ok(())
    }
}

/// A file that is not there cannot be removed, and need not.
fn absent(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_promised_is_so_at_each_step() {
        let root = std::env::temp_dir().join(format!("user-disk-{}", std::process::id()));
        let mut nr_promises = 0;
        for worker in 0..2 {
            let at = root.clone();
            let mut note = |promises: &Promises| {
                nr_promises += promises.paths.len();
                promises.check(&at).map_err(io::Error::other)
            };
            Worker::new(&root, worker, 7, &mut note).unwrap().run(300).unwrap();
        }
        let _ = fs::remove_dir_all(root);
        assert!(nr_promises > 3000, "{nr_promises}");
    }
}
