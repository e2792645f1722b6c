//! The sleeping locks this crate uses.

pub(crate) use sched::{Mutex, RwSem, RwSemReadGuard, RwSemWriteGuard};
