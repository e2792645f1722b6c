//! The sleeping locks this crate uses.

use hal::sync::{SpinLock, SpinLockGuard};

pub(crate) type Mutex<T> = SpinLock<T>;

/// x
#[derive(Debug)]
pub(crate) struct RwSem<T>(SpinLock<T>);
impl<T> RwSem<T> {
    pub const fn new(name: &'static str, v: T) -> Self {
        Self(SpinLock::new(name, v))
    }
    pub fn read(&self) -> SpinLockGuard<'_, T> {
        self.0.lock()
    }
    pub fn write(&self) -> SpinLockGuard<'_, T> {
        self.0.lock()
    }
    pub fn get_mut(&mut self) -> &mut T {
        self.0.get_mut()
    }
}
