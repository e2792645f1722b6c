//! Directories: a chain of clusters full of records.
//!
//! A place in a directory is its byte offset. A name is where its short record is ([`Entry::at`]); the records of its
//! long name lie before, from [`Entry::start`] on.

use alloc::string::String;
use alloc::vec::Vec;

use zerocopy::{FromBytes, IntoBytes};

use crate::layout::FIXED_ROOT;
use crate::name::{self, Long, Spelling};
use crate::record::{Attributes, LEN, Record};
use crate::{Error, Layout, Result, Table, Volume};

/// The most that a directory may take (specification, page 25).
pub const MAX_LEN: u32 = 65536 * LEN as u32;
const FREE: u8 = 0xe5;
const END: u8 = 0;
/// Numbers that are tried to make a short name unique.
const MAX_NUMBER: u32 = 999_999;

/// A directory: its clusters.
#[derive(Clone, Copy, Debug)]
pub struct Dir<'a> {
    /// The geometry of the volume.
    pub layout: &'a Layout,
    /// The volume.
    pub volume: &'a dyn Volume,
    /// Its clusters.
    pub chain: &'a [u32],
}

impl core::fmt::Debug for dyn Volume + '_ {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Volume")
    }
}

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name as it is shown.
    pub name: String,
    /// Where the first of its records is.
    pub start: u32,
    /// Where its short record is.
    pub at: u32,
    /// The short record.
    pub record: Record,
}

/// A name as it lies in a directory.
struct Found<'a> {
    /// Its long form in UTF-16, if it has one.
    units: Option<&'a [u16]>,
    start: u32,
    at: u32,
    record: Record,
}

impl Found<'_> {
    /// With the name as it is shown. `NoMemory`.
    fn entry(self, spelling: Spelling) -> Result<Entry> {
        let Self { units, start, at, record } = self;
        let name = match units {
            Some(units) => {
                let mut name = String::new();
                name.try_reserve(units.len() * 3).map_err(|_| Error::NoMemory)?;
                name.extend(name::characters(units));
                name
            }
            None => name::show_short(&record.name, record.case, spelling),
        };
        Ok(Entry { name, start, at, record })
    }
}

impl<'a> Dir<'a> {
    /// Bytes that its clusters have.
    pub fn len(&self) -> u32 {
        if self.is_fixed() {
            return self.layout.root_len.min(MAX_LEN);
        }
        let len = self.chain.len() as u64 * u64::from(self.layout.cluster_size);
        len.min(MAX_LEN.into()) as u32
    }

    /// Whether it has no clusters.
    pub fn is_empty(&self) -> bool {
        self.chain.is_empty()
    }

    /// Whether it is a root directory that is not in clusters.
    fn is_fixed(&self) -> bool {
        self.chain.first() == Some(&FIXED_ROOT)
    }

    /// Where the record at `at` is on the volume.
    pub fn place(&self, at: u32) -> Result<u64> {
        if self.is_fixed() {
            let is_inside = at < self.layout.root_len;
            return is_inside.then(|| self.layout.root_at + u64::from(at)).ok_or(Error::Corrupt("place"));
        }
        self.layout.locate(self.chain, at.into()).map(|(place, _)| place)
    }

    /// Calls `visit` with each record from `from` on and where it is, until it gives something; `None` at the end.
    fn each<R>(
        &self,
        from: u32,
        mut visit: impl FnMut(&[u8; LEN], u32) -> Result<Option<R>>,
    ) -> Result<Option<R>> {
        let (mut at, end) = (from, self.len());
        let mut buf = [0; 512];
        while at < end {
            // A sector at a time, aligned.
            let len = (512 - at % 512).min(end - at);
            let bytes = buf.get_mut(..len as usize).ok_or(Error::Io)?;
            self.volume.read(self.place(at)?, bytes)?;
            for raw in bytes.chunks_exact(LEN) {
                let raw: &[u8; LEN] = raw.try_into().map_err(|_| Error::Io)?;
                if let Some(found) = visit(raw, at)? {
                    return Ok(Some(found));
                }
                at += LEN as u32;
            }
        }
        Ok(None)
    }

    /// Calls `visit` with each name from `from` on until it gives something. "." and ".." are left out.
    pub fn for_each<R>(&self, from: u32, mut visit: impl FnMut(Entry) -> Option<R>) -> Result<Option<R>> {
        self.each_found(from, |found| Ok(visit(found.entry(self.layout.spelling)?)))
    }

    /// As [`Dir::for_each`], with what was found instead of names made of it.
    fn each_found<R>(
        &self,
        from: u32,
        mut visit: impl FnMut(Found<'_>) -> Result<Option<R>>,
    ) -> Result<Option<R>> {
        let has_long = self.layout.spelling != Spelling::Msdos;
        let mut long = Long::default();
        let found = self.each(from, |raw, at| {
            match raw[0] {
                END => return Ok(Some(None)),
                FREE => long.clear(),
                _ if Attributes(raw[11]).is_long() => long.take(raw, at),
                _ if Attributes(raw[11]).has(Attributes::VOLUME) => long.clear(),
                b'.' => long.clear(),
                _ => {
                    let record = Record::read_from_bytes(raw).map_err(|_| Error::Io)?;
                    let start = long.start;
                    let units = long.finish(&record.name).filter(|_| has_long);
                    let start = if units.is_some() { start } else { at };
                    return Ok(visit(Found { units, start, at, record })?.map(Some));
                }
            }
            Ok(None)
        })?;
        Ok(found.flatten())
    }

    /// The entry that `name` names: its long or its short name, in any case.
    pub fn find(&self, name: &[u8]) -> Result<Option<Entry>> {
        let spelling = self.layout.spelling;
        if spelling == Spelling::Msdos {
            let Ok(raw) = name::msdos(name) else { return Ok(None) };
            return self.each_found(0, |found| {
                if found.record.name == raw { found.entry(spelling).map(Some) } else { Ok(None) }
            });
        }
        let Some(wanted) = name::wanted(name) else { return Ok(None) };
        self.each_found(0, |found| {
            let is_it = found.units.is_some_and(|units| name::is_long_same(units, wanted))
                || name::is_short_same(&found.record.name, wanted);
            if is_it { found.entry(spelling).map(Some) } else { Ok(None) }
        })
    }

    /// Whether it has no names.
    pub fn has_no_names(&self) -> Result<bool> {
        Ok(self.each_found(0, |_| Ok(Some(())))?.is_none())
    }

    /// The record at `at`.
    pub fn record(&self, at: u32) -> Result<Record> {
        let mut raw = [0; LEN];
        self.volume.read(self.place(at)?, &mut raw)?;
        Record::read_from_bytes(&raw).map_err(|_| Error::Io)
    }

    /// Removes the records of `entry`.
    pub fn remove(&self, entry: &Entry) -> Result<()> {
        let mut at = entry.start;
        while at <= entry.at {
            self.volume.write(self.place(at)?, &[FREE])?;
            at += LEN as u32;
        }
        Ok(())
    }

    /// Has ".." lead to the directory that begins with `parent`; 0 stands for the root.
    pub fn set_parent(&self, parent: u32) -> Result<()> {
        let mut record = self.record(LEN as u32)?;
        if record.name != *b"..         " {
            return Err(Error::Corrupt("directory without .."));
        }
        record.set_cluster(parent);
        store(self.volume, self.place(LEN as u32)?, &record)
    }

    /// The short name for `name` that no other entry has, and the bits of `case` if no long one is needed beside it.
    fn choose(&self, name: &str) -> Result<([u8; 11], Option<u8>)> {
        let short = name::shorten(name);
        let mut taken: Vec<[u8; 11]> = Vec::new();
        self.each_found(0, |found| {
            // Those that are alike in the first character and the extension may get in the way.
            let raw = found.record.name;
            if raw[0] == short.raw[0] && raw[8..] == short.raw[8..] {
                taken.try_reserve(1).map_err(|_| Error::NoMemory)?;
                taken.push(raw);
            }
            Ok(None::<()>)
        })?;
        taken.sort_unstable();
        let is_taken = |raw: &[u8; 11]| taken.binary_search(raw).is_ok();
        if !short.is_lossy && !is_taken(&short.raw) {
            return Ok((short.raw, name::case_of(name, &short.raw, self.layout.spelling)));
        }
        let mut candidates = (1..=MAX_NUMBER).map(|nr| name::numbered(&short.raw, nr));
        candidates.find(|raw| !is_taken(raw)).map(|raw| (raw, None)).ok_or(Error::NoSpace)
    }
}

/// Stores a record.
pub fn store(volume: &dyn Volume, place: u64, record: &Record) -> Result<()> {
    volume.write(place, record.as_bytes())
}

/// Where `count` free records in a row are in the directory with the clusters `chain`, which may get one more.
fn make_room(
    layout: &Layout,
    volume: &dyn Volume,
    table: &mut Table,
    chain: &mut Vec<u32>,
    count: u32,
) -> Result<u32> {
    let (mut first, mut run, mut is_end) = (0, 0, false);
    let found = Dir { layout, volume, chain }.each(0, |raw, at| {
        // Behind the end all is free.
        is_end |= raw[0] == END;
        if is_end || raw[0] == FREE {
            first = if run == 0 { at } else { first };
            run += 1;
        } else {
            run = 0;
        }
        Ok((run == count).then_some(first))
    })?;
    if let Some(first) = found {
        return Ok(first);
    }
    let len_of = |chain: &[u32]| Dir { layout, volume, chain }.len();
    let first = if run == 0 { len_of(chain) } else { first };
    while len_of(chain) < first + count * LEN as u32 {
        if len_of(chain) >= MAX_LEN {
            return Err(Error::NoSpace);
        }
        append_zeroed(layout, volume, table, chain)?;
    }
    Ok(first)
}

/// Gives a directory one more cluster, all of it behind the end.
fn append_zeroed(
    layout: &Layout,
    volume: &dyn Volume,
    table: &mut Table,
    chain: &mut Vec<u32>,
) -> Result<()> {
    let cluster = table.append(layout, volume, chain)?;
    let at = layout.cluster_at(cluster)?;
    for offset in (0..u64::from(layout.cluster_size)).step_by(512) {
        volume.write(at + offset, &[0; 512])?;
    }
    Ok(())
}

/// Adds `name`, which no entry has, to the directory with the clusters `chain`, with what `record` says beside the
/// name; gives the entry.
///
/// `BadName`, `NameTooLong`. `NoSpace`: nothing was added.
pub fn add(
    layout: &Layout,
    volume: &dyn Volume,
    table: &mut Table,
    chain: &mut Vec<u32>,
    name: &[u8],
    record: &Record,
) -> Result<Entry> {
    let is_short = layout.spelling == Spelling::Msdos;
    let (raw, case) = match is_short {
        true => (name::msdos(name)?, Some(0)),
        false => Dir { layout, volume, chain }.choose(name::check(name)?)?,
    };
    let long = match case {
        Some(_) => Vec::new(),
        None => name::long_records(name::check(name)?, name::checksum(&raw))?,
    };
    let start = make_room(layout, volume, table, chain, long.len() as u32 + 1)?;
    let record = Record { name: raw, case: case.unwrap_or(0), ..*record };
    let dir = Dir { layout, volume, chain };
    // The end moves behind the new records, where all is zero or free already.
    let mut at = start;
    for part in &long {
        volume.write(dir.place(at)?, part)?;
        at += LEN as u32;
    }
    store(volume, dir.place(at)?, &record)?;
    let mut shown = String::new();
    if is_short {
        shown = name::show_short(&raw, 0, layout.spelling);
    } else {
        let name = name::check(name)?;
        shown.try_reserve(name.len()).map_err(|_| Error::NoMemory)?;
        shown.push_str(name);
    }
    Ok(Entry { name: shown, start, at, record })
}

/// Makes the first cluster of a directory in the one that begins with `parent` (0: the root); `times` has its times.
/// Gives its clusters. `NoSpace`.
pub fn make(
    layout: &Layout,
    volume: &dyn Volume,
    table: &mut Table,
    parent: u32,
    times: &Record,
) -> Result<Vec<u32>> {
    let mut chain = Vec::new();
    append_zeroed(layout, volume, table, &mut chain)?;
    let own = chain.first().copied().unwrap_or(0);
    let at = layout.cluster_at(own)?;
    for (nth, (name, cluster)) in [(*b".          ", own), (*b"..         ", parent)].into_iter().enumerate()
    {
        let mut record =
            Record { name, case: 0, attributes: Attributes::DIRECTORY, size: 0.into(), ..*times };
        record.set_cluster(cluster);
        store(volume, at + (nth * LEN) as u64, &record)?;
    }
    Ok(chain)
}
