//! /proc/PID/task: a directory for each thread.

use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;

use abi::fs::Statx;
use abi::{Errno, Result};
use process::Task;
use process::pid::{find_task_global, number_in, to_global_in};
use vfs::inode::SetAttr;
use vfs::listing::{DirFile, Each, Listing};
use vfs::{FileOps, Inode, InodeFlags, InodeOps, OpenRequest};

use super::inode::{is_current, make, refresh_stat, set_attr};
use super::tables::THREAD_ENTRIES;
use super::{Target, make_dir as make_table_dir};
use crate::dir::DIR;
use crate::root::parse_pid;

pub(super) fn make_dir(dir: &Inode, name: &[u8], target: &Target, task: &Task) -> Arc<Inode> {
    make(dir, name, DIR, task, InodeFlags::VOLATILE, Box::new(TaskDir(target.clone())))
}

struct TaskDir(Target);

impl InodeOps for TaskDir {
    fn lookup(&self, dir: &Arc<Inode>, name: &[u8]) -> Result<Option<Arc<Inode>>> {
        let process = self.0.task().map_err(|_| Errno::ENOENT)?;
        let global = parse_pid(name).and_then(|number| to_global_in(number, &self.0.ns));
        let thread = global.and_then(find_task_global).ok_or(Errno::ENOENT)?;
        if !Arc::ptr_eq(thread.group(), process.group()) {
            return Err(Errno::ENOENT);
        }
        Ok(Some(make_table_dir(dir, name, &thread, Target::thread(&thread, &self.0.ns), THREAD_ENTRIES)))
    }

    fn revalidate(&self, _dir: &Arc<Inode>, _name: &[u8], inode: Option<&Arc<Inode>>) -> bool {
        inode.is_some_and(is_current)
    }

    fn open(&self, _inode: &Arc<Inode>, _request: &OpenRequest<'_>) -> Result<Arc<dyn FileOps>> {
        Ok(Arc::new(DirFile(Threads(self.0.clone()))))
    }

    fn get_attr(&self, inode: &Arc<Inode>, stat: &mut Statx) -> Result<()> {
        refresh_stat(inode, &self.0, stat);
        if let Ok(task) = self.0.task() {
            stat.stx_nlink = inode.nlink().saturating_add(task.group().nr_threads());
        }
        Ok(())
    }

    fn set_attr(&self, inode: &Arc<Inode>, change: &SetAttr) -> Result<()> {
        set_attr(inode, change)
    }
}

struct Threads(Target);

impl Listing for Threads {
    /// Positions are thread ids, so that threads that end do not make others be skipped; the leader's is the lowest
    /// unless ids have wrapped around, so the list is sorted.
    fn list(&self, from: u64, each: &mut Each<'_>) -> Result<()> {
        let process = self.0.task().map_err(|_| Errno::ENOENT)?;
        let mut threads = process.group().threads();
        let number = |task: &Arc<Task>| number_in(task.tid(), &self.0.ns);
        threads.sort_unstable_by_key(number);
        for task in threads.iter().filter(|task| u64::from(number(task)) >= from.max(1)) {
            let tid = number(task);
            if !each(format!("{tid}").as_bytes(), DIR, u64::from(tid) + 1) {
                break;
            }
        }
        Ok(())
    }
}
