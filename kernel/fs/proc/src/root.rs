//! The root directory: the static entries, `self` and `thread-self`, and a directory for each process.

use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use process::PidNs;
use process::pid::{find_task_global, next_process_in, number_in, to_global_in};
use vfs::inode::{Link, SetAttr};
use vfs::listing::{DirFile, Each, Listing};
use vfs::{FileOps, Inode, InodeOps, OpenRequest};

use crate::dir::{DIR, Fresh, LINK};
use crate::node;
use crate::pid::{self, Target};
use crate::super_ops::Options;
use crate::system::ENTRIES;

/// Positions from here on: `self`, `thread-self`, then process n at this + 2 + n.
const FIRST_PROCESS: u64 = 256;

/// The root directory, for the processes of a pid namespace.
pub(crate) struct Root(pub(crate) PidNs);

impl InodeOps for Root {
    fn lookup(&self, dir: &Arc<Inode>, name: &[u8]) -> Result<Option<Arc<Inode>>> {
        let caller = match name {
            b"self" => Some(Caller::Process),
            b"thread-self" => Some(Caller::Thread),
            _ => None,
        };
        if let Some(caller) = caller {
            return Ok(Some(
                Fresh::root_owned(dir, name, LINK).make(Box::new(SelfLink(caller, self.0.clone()))),
            ));
        }
        let options = Options::of(dir);
        if let Some(entry) = node::find(ENTRIES, name) {
            let is_hidden = options.is_some_and(Options::shows_only_pids);
            return if is_hidden { Err(Errno::ENOENT) } else { Ok(Some(node::make(dir, entry))) };
        }
        let number = parse_pid(name).ok_or(Errno::ENOENT)?;
        let task = to_global_in(number, &self.0).and_then(find_task_global).ok_or(Errno::ENOENT)?;
        if options.is_some_and(|options| !options.shows(&task)) {
            return Err(Errno::ENOENT);
        }
        let target = if task.is_leader() {
            Target::process(task.group(), &self.0)
        } else {
            Target::thread(&task, &self.0)
        };
        Ok(Some(pid::make_dir(dir, name, &task, target, pid::PROCESS_ENTRIES)))
    }

    fn revalidate(&self, dir: &Arc<Inode>, _name: &[u8], inode: Option<&Arc<Inode>>) -> bool {
        inode.is_some_and(|inode| pid::is_current(inode) && pid::is_shown(dir, inode))
    }

    fn open(&self, inode: &Arc<Inode>, _request: &OpenRequest<'_>) -> Result<Arc<dyn FileOps>> {
        Ok(Arc::new(DirFile(RootListing(self.0.clone(), inode.clone()))))
    }

    fn set_attr(&self, inode: &Arc<Inode>, change: &SetAttr) -> Result<()> {
        inode.apply(change);
        Ok(())
    }

    fn get_attr(&self, inode: &Arc<Inode>, stat: &mut abi::fs::Statx) -> Result<()> {
        let processes = u32::try_from(process::pid::processes_in(&self.0).count()).unwrap_or(u32::MAX);
        stat.stx_nlink = inode.nlink().saturating_add(processes);
        Ok(())
    }
}

/// The number that `name` is, spelled in the one right way.
pub(crate) fn parse_pid(name: &[u8]) -> Option<u32> {
    if name.first() == Some(&b'0') || !name.iter().all(u8::is_ascii_digit) {
        return None;
    }
    core::str::from_utf8(name).ok()?.parse().ok()
}

/// The root directory, read as its instance's options say.
struct RootListing(PidNs, Arc<Inode>);

impl Listing for RootListing {
    fn list(&self, from: u64, each: &mut Each<'_>) -> Result<()> {
        let options = Options::of(&self.1);
        let has_files = from < FIRST_PROCESS && !options.is_some_and(Options::shows_only_pids);
        if has_files && !node::list(ENTRIES, from, each) {
            return Ok(());
        }
        let mut at = from.max(FIRST_PROCESS);
        for name in ["self", "thread-self"].into_iter().skip((at - FIRST_PROCESS).min(2) as usize) {
            at += 1;
            if !each(name.as_bytes(), LINK, at) {
                return Ok(());
            }
        }
        let mut number = u32::try_from(at - FIRST_PROCESS - 2).ok();
        while let Some((pid, group)) = number.and_then(|number| next_process_in(&self.0, number)) {
            number = pid.checked_add(1);
            if options.is_some_and(|options| {
                !find_task_global(group.pid()).is_some_and(|task| options.shows(&task))
            }) {
                continue;
            }
            if !each(format!("{pid}").as_bytes(), DIR, FIRST_PROCESS + 3 + u64::from(pid)) {
                break;
            }
        }
        Ok(())
    }
}

/// Which of the two links.
enum Caller {
    Process,
    Thread,
}

/// The links that lead each caller to itself. `ENOENT`: it is not in the mount's pid namespace.
struct SelfLink(Caller, PidNs);

impl InodeOps for SelfLink {
    fn read_link(&self, _inode: &Arc<Inode>) -> Result<Link> {
        self.link().map(Link::Target)
    }
}

impl SelfLink {
    fn link(&self) -> Result<Vec<u8>> {
        let me = process::try_current().ok_or(Errno::ENOENT)?;
        let pid = number_in(me.pid(), &self.1);
        if pid == 0 {
            return Err(Errno::ENOENT);
        }
        let text = match self.0 {
            Caller::Process => format!("{pid}"),
            Caller::Thread => format!("{pid}/task/{}", number_in(me.tid(), &self.1)),
        };
        Ok(text.into_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_numbers_have_one_spelling() {
        assert_eq!(parse_pid(b"12"), Some(12));
        for bad in [&b""[..], b"0", b"012", b"+1", b"1x", b"99999999999"] {
            assert_eq!(parse_pid(bad), None);
        }
    }

    #[test]
    fn static_entries_leave_room_for_processes() {
        assert!((ENTRIES.len() as u64) < FIRST_PROCESS);
    }
}
