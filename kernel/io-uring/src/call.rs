//! What floors above do for requests: system calls that this crate does not make itself.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::Result;
use abi::io_uring::Sqe;
use hal::UserAddr;
use hal::sync::Once;
use hal::uio::UserBuf;
use vfs::{FdFlags, File};

/// What a call is made with.
pub struct CallContext<'a> {
    /// The file of the request, if its kind has one.
    pub file: Option<&'a Arc<File>>,
    /// The buffer that was selected for it.
    pub buffer: Option<UserBuf>,
    /// It was made before, and had to wait.
    pub is_retry: bool,
}

/// What a call gives.
pub enum Outcome {
    /// A number.
    Value(usize),
    /// A file that becomes a descriptor, or goes into the table of fixed files.
    File(Arc<File>, FdFlags),
}

/// A call that has its arguments. It may be made several times until it need not wait.
pub type Call = Box<dyn FnMut(&CallContext<'_>) -> Result<Outcome> + Send>;

/// Makes calls of requests. Arguments in user memory are read when the request is submitted where that is possible.
pub trait Calls: Sync {
    /// The call that `sqe` asks for. `EINVAL`: fields that must be zero are not. `EFAULT`, `ENOMEM`.
    fn prepare(&self, sqe: &Sqe) -> Result<Call>;

    /// The buffers of a vector. `EINVAL`, `EFAULT`, `ENOMEM`.
    fn buffers(&self, addr: UserAddr, count: usize) -> Result<Vec<UserBuf>>;

    /// Sends the signal that comes with the result of a write.
    fn wrote(&self, file: &File, result: Result<usize>) -> Result<usize>;

    /// The wall clock in nanoseconds since the Epoch.
    fn wall_ns(&self) -> u64;
}

static CALLS: Once<&'static dyn Calls> = Once::new();

/// Registers who makes calls. Once, at boot.
pub fn register(calls: &'static dyn Calls) {
    CALLS.call_once(|| calls);
}

pub(crate) fn calls() -> Result<&'static dyn Calls> {
    CALLS.get().copied().ok_or(abi::Errno::EINVAL)
}
