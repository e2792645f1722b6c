//! Changes of the caller's credentials, and the accounts of users.
//!
//! The rules are `security`'s; here the result is published and what Linux ties to it happens: the account of a new real
//! user id, `dumpable` and the parent-death signal.

use alloc::sync::Arc;
use core::sync::atomic::Ordering::Relaxed;

use abi::Result;
use hal::sync::SpinLock;
use limits::{UserCounts, UserResource, Users};
use security::Cred;

use crate::task::{self, CurrentTask};

/// The accounts of all users.
static USERS: SpinLock<Users> = SpinLock::new("process.users", Users::new());

/// The account of `uid`.
pub fn user_of(uid: u32) -> Arc<UserCounts> {
    USERS.lock().get(uid)
}

/// Replaces the caller's credentials by what `change` makes of them.
pub fn change(change: impl FnOnce(&Cred) -> Result<Cred>) -> Result<()> {
    let task = task::current();
    let old = task.arc().cred();
    let new = change(&old)?;
    publish(&task, &old, new);
    Ok(())
}

/// As [`change`] for calls that do nothing when they may not (setfsuid(2)): `None` keeps all as it is.
pub fn change_if(change: impl FnOnce(&Cred) -> Option<Cred>) {
    let task = task::current();
    let old = task.arc().cred();
    if let Some(new) = change(&old) {
        publish(&task, &old, new);
    }
}

/// Runs `f` with the credentials `cred` in the place of the caller's own.
///
/// Only what the caller does itself goes by them ([`CurrentTask::cred`]). Whoever looks at it, signals or traces it
/// meets its own ([`Task::cred`](crate::Task::cred)): who acts for a user for a moment is not at that user's mercy.
/// `f` must not change credentials or execute a program.
pub fn run_as<T>(cred: Arc<Cred>, f: impl FnOnce() -> T) -> T {
    struct Guard(Option<Arc<Cred>>);
    impl Drop for Guard {
        fn drop(&mut self) {
            drop(task::current().act_with(self.0.take()));
        }
    }
    let _guard = Guard(task::current().act_with(Some(cred)));
    f()
}

/// Makes `new` the caller's credentials.
fn publish(task: &CurrentTask, old: &Cred, new: Cred) {
    if new.is_privilege_change(old) {
        task.group().dumpable.store(0, Relaxed);
        task.pdeath_signal.store(0, Relaxed);
    }
    if new.uid != old.uid {
        let user = user_of(new.uid);
        user.charge(UserResource::Processes, 1);
        if let Some(old_user) = task.user() {
            old_user.uncharge(UserResource::Processes, 1);
        }
        task.replace_user(user);
    }
    task.replace_cred(Arc::new(new));
}
