//! How long a wait may poll network devices busily (`EPIOCSPARAMS`, `EPIOCGPARAMS`).
//!
//! The wish is kept and told. No device of this kernel has queues that a waiter could poll: it has no effect, as on Linux
//! with such devices.
//!
//! Source: include/uapi/linux/eventpoll.h of Linux 7.2; errors as observed there.

use abi::{Errno, Result};
use hal::sync::SpinLock;
use hal::{UserAddr, user};
use security::Cap;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Requests of ioctl(2).
const EPIOCSPARAMS: u32 = 0x4008_8a01;
const EPIOCGPARAMS: u32 = 0x8008_8a02;
/// More packets at once than this take a privilege.
const MAX_BUDGET: u16 = 64;

/// `struct epoll_params`.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Params {
    usecs: u32,
    budget: u16,
    prefer: u8,
    pad: u8,
}

/// What was asked for last.
pub(super) struct BusyPoll(SpinLock<Params>);

impl BusyPoll {
    /// None.
    pub(super) const fn new() -> Self {
        Self(SpinLock::new("epoll.busy_poll", Params { usecs: 0, budget: 0, prefer: 0, pad: 0 }))
    }

    /// ioctl(2). `EINVAL`: unknown, or senseless values. `EPERM`: a large budget without CAP_NET_ADMIN. `EFAULT`.
    pub(super) fn ioctl(&self, cmd: u32, arg: UserAddr) -> Result<usize> {
        match cmd {
            EPIOCGPARAMS => {
                let params = *self.0.lock();
                user::write(arg, &params)?;
            }
            EPIOCSPARAMS => {
                let wanted: Params = user::read(arg)?;
                check(&wanted, || process::current().cred().capable(Cap::NET_ADMIN))?;
                *self.0.lock() = wanted;
            }
            _ => return Err(Errno::EINVAL),
        }
        Ok(0)
    }
}

fn check(wanted: &Params, is_privileged: impl FnOnce() -> bool) -> Result<()> {
    if wanted.pad != 0 || wanted.usecs > i32::MAX as u32 || wanted.prefer > 1 {
        return Err(Errno::EINVAL);
    }
    if wanted.budget > MAX_BUDGET && !is_privileged() { Err(Errno::EPERM) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_asked_for() {
        let params = |usecs, budget, prefer, pad| Params { usecs, budget, prefer, pad };
        assert_eq!(check(&params(25, 64, 1, 0), || false), Ok(()));
        assert_eq!(check(&params(0, 65, 0, 0), || false), Err(Errno::EPERM));
        assert_eq!(check(&params(0, u16::MAX, 0, 0), || true), Ok(()));
        for wrong in [params(1 << 31, 0, 0, 0), params(0, 0, 2, 0), params(0, 0, 0, 1)] {
            assert_eq!(check(&wrong, || true), Err(Errno::EINVAL));
        }
    }
}
