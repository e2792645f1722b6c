//! ioperm(2) and iopl(2): I/O ports for user code.
//!
//! The level of iopl(2) is no privilege level of the CPU: level 3 allows all ports, and CLI and STI do nothing. A thread has
//! its ports for itself; a new thread or process begins with a copy, and a new program keeps them.
//!
//! Sources: ioperm(2), iopl(2); order of errors as observed on Linux 7.2.

use alloc::sync::Arc;

use abi::{Errno, Result};
use hal::ports::{NR_PORTS, PortMap, Ports};
use security::Cap;

use crate::Cx;

/// ioperm(2). `EINVAL`: no such ports. `EPERM`: allowing some without CAP_SYS_RAWIO. `ENOMEM`.
pub(crate) fn sys_ioperm(_cx: &mut Cx<'_>, from: usize, count: usize, allow: i32) -> Result<usize> {
    let end = from.checked_add(count).filter(|end| *end > from && *end <= NR_PORTS).ok_or(Errno::EINVAL)?;
    let allow = allow != 0;
    if allow {
        crate::require(Cap::SYS_RAWIO)?;
    }
    let current = hal::thread::current();
    let Ports { map: old, level } = current.ports();
    if old.is_none() && !allow {
        return Ok(0);
    }
    let map = PortMap::changed(old.as_deref(), from..end, allow).map_err(|_| Errno::ENOMEM)?;
    let map = (!map.is_empty()).then(|| Arc::new(map));
    current.set_ports(Ports { map, level });
    Ok(0)
}

/// iopl(2). `EINVAL`: no such level. `EPERM`: a higher one than before without CAP_SYS_RAWIO.
pub(crate) fn sys_iopl(_cx: &mut Cx<'_>, level: u32) -> Result<usize> {
    let level = u8::try_from(level).ok().filter(|level| *level <= Ports::ALL).ok_or(Errno::EINVAL)?;
    let current = hal::thread::current();
    let ports = current.ports();
    if level > ports.level {
        crate::require(Cap::SYS_RAWIO)?;
    }
    if level != ports.level {
        current.set_ports(Ports { level, ..ports });
    }
    Ok(0)
}
