//! Memory policies and the places of pages (mbind(2) and its family) on the one node that there is.

use abi::{Errno, Result};
use alloc::sync::Arc;
use hal::{UserAddr, user};
use mm::policy::{self, Nodes, Policy};
use process::Task;
use security::{Cap, ObserveIdentity};

use crate::Cx;

/// Bits of a kernel's node mask (`MAX_NUMNODES`).
const MAX_NODES: u64 = 1024;
/// `MPOL_MF_STRICT`, `MPOL_MF_MOVE`, `MPOL_MF_MOVE_ALL`.
const MF_STRICT: u32 = 1;
const MF_MOVE: u32 = 2;
const MF_MOVE_ALL: u32 = 4;

/// Reads a node mask of `max - 1` bits. `EINVAL`: too long, or a node beyond the largest set. `EFAULT`.
fn read_nodes(mask: UserAddr, max: u64) -> Result<Nodes> {
    const LONGEST: u64 = 4096 * 8;
    let bits = max.wrapping_sub(1);
    if bits == 0 || mask.0 == 0 {
        return Ok(Nodes::default());
    }
    if bits > LONGEST {
        return Err(Errno::EINVAL);
    }
    let mut nodes = Nodes::default();
    for word in 0..bits.div_ceil(64) {
        let mut value: u64 = user::read(UserAddr(mask.0.wrapping_add(word * 8)))?;
        let left = bits - word * 64;
        if left < 64 {
            value &= (1 << left) - 1;
        }
        if word >= MAX_NODES / 64 {
            if value != 0 {
                return Err(Errno::EINVAL);
            }
            continue;
        }
        nodes.any |= value != 0;
        nodes.zero |= word == 0 && value & 1 != 0;
    }
    Ok(nodes)
}

/// Writes a node mask with room for `max` bits.
fn write_nodes(mask: UserAddr, max: u64, nodes: u64) -> Result<()> {
    let words = max.saturating_sub(1).div_ceil(64).min(MAX_NODES / 64);
    for word in 0..words {
        let value = if word == 0 { nodes } else { 0 };
        user::write(UserAddr(mask.0.wrapping_add(word * 8)), &value)?;
    }
    Ok(())
}

fn may_nice() -> bool {
    process::current().cred().capable(Cap::SYS_NICE)
}

/// set_mempolicy(2).
pub(crate) fn sys_set_mempolicy(_cx: &mut Cx<'_>, mode: u32, mask: UserAddr, max: u64) -> Result<usize> {
    let nodes = read_nodes(mask, max)?;
    process::current().set_mempolicy(Policy::new(mode, nodes)?);
    Ok(0)
}

/// get_mempolicy(2).
pub(crate) fn sys_get_mempolicy(
    _cx: &mut Cx<'_>,
    out: UserAddr,
    mask: UserAddr,
    max: u64,
    addr: u64,
    flags: u64,
) -> Result<usize> {
    const NODE: u64 = 1;
    const ADDR: u64 = 2;
    const MEMS_ALLOWED: u64 = 4;
    if (mask.0 != 0 && max < 1) || flags & !(NODE | ADDR | MEMS_ALLOWED) != 0 {
        return Err(Errno::EINVAL);
    }
    let task = process::current();
    let (number, nodes) = if flags & MEMS_ALLOWED != 0 {
        if flags & (NODE | ADDR) != 0 {
            return Err(Errno::EINVAL);
        }
        (0, 1)
    } else {
        let policy = if flags & ADDR != 0 {
            task.mm().ok_or(Errno::EFAULT)?.policy_at(addr)?
        } else if addr != 0 {
            return Err(Errno::EINVAL);
        } else {
            task.mempolicy()
        };
        match (flags & NODE != 0, flags & ADDR != 0) {
            (true, true) => {
                // The node of the page, which is faulted in for that.
                task.mm().ok_or(Errno::EFAULT)?.pin_page(UserAddr(addr), false)?;
                (0, policy.nodes())
            }
            (true, false) if policy.interleaves() => (0, policy.nodes()),
            (true, false) => return Err(Errno::EINVAL),
            (false, _) => (policy.mode(), policy.nodes()),
        }
    };
    if out.0 != 0 {
        user::write(out, &number)?;
    }
    if mask.0 != 0 {
        write_nodes(mask, max, nodes)?;
    }
    Ok(0)
}

/// mbind(2).
pub(crate) fn sys_mbind(
    _cx: &mut Cx<'_>,
    addr: u64,
    len: u64,
    mode: u32,
    mask: UserAddr,
    max: u64,
    flags: u32,
) -> Result<usize> {
    let nodes = read_nodes(mask, max)?;
    if flags & !(MF_STRICT | MF_MOVE | MF_MOVE_ALL) != 0 {
        return Err(Errno::EINVAL);
    }
    if flags & MF_MOVE_ALL != 0 && !may_nice() {
        return Err(Errno::EPERM);
    }
    let policy = Policy::new(mode, nodes)?;
    super::mem::own_mm()?.bind(addr, len, policy).map(|()| 0)
}

/// set_mempolicy_home_node(2).
pub(crate) fn sys_set_mempolicy_home_node(
    _cx: &mut Cx<'_>,
    addr: u64,
    len: u64,
    node: u64,
    flags: u64,
) -> Result<usize> {
    if flags != 0 || node != 0 {
        return Err(Errno::EINVAL);
    }
    super::mem::own_mm()?.set_home_node(addr, len).map(|()| 0)
}

/// The task whose pages a call is about; 0 is the caller. `ESRCH`, `EPERM`.
fn target(pid: i32) -> Result<Arc<Task>> {
    let task = match pid {
        0 => return process::pid::find_task(process::current().tid()).ok_or(Errno::ESRCH),
        pid => u32::try_from(pid).ok().and_then(process::pid::find_task).ok_or(Errno::ESRCH)?,
    };
    if process::prctl::may_observe(&task, ObserveIdentity::Real) { Ok(task) } else { Err(Errno::EPERM) }
}

/// migrate_pages(2): with one node every page is where it should be.
pub(crate) fn sys_migrate_pages(
    _cx: &mut Cx<'_>,
    pid: i32,
    max: u64,
    old: UserAddr,
    new: UserAddr,
) -> Result<usize> {
    read_nodes(old, max)?;
    let new = read_nodes(new, max)?;
    target(pid)?;
    if new.any && !new.zero && !may_nice() {
        return Err(Errno::EPERM);
    }
    if new.zero { Ok(0) } else { Err(Errno::EINVAL) }
}

/// move_pages(2).
pub(crate) fn sys_move_pages(
    _cx: &mut Cx<'_>,
    pid: i32,
    count: u64,
    pages: UserAddr,
    nodes: UserAddr,
    status: UserAddr,
    flags: u32,
) -> Result<usize> {
    if flags & !(MF_MOVE | MF_MOVE_ALL) != 0 {
        return Err(Errno::EINVAL);
    }
    if flags & MF_MOVE_ALL != 0 && !may_nice() {
        return Err(Errno::EPERM);
    }
    let mm = target(pid)?.mm().ok_or(Errno::EINVAL)?;
    for i in 0..count {
        if i % 256 == 0 && process::current().fatal_signal_pending() {
            return Err(Errno::EINTR);
        }
        let at = |base: UserAddr, size: u64| UserAddr(base.0.wrapping_add(i.wrapping_mul(size)));
        let page: u64 = user::read(at(pages, 8))?;
        if nodes.0 != 0 {
            let node: i32 = user::read(at(nodes, 4))?;
            if node != 0 {
                return Err(Errno::ENODEV);
            }
        }
        let state = mm.page_node(page).map_or_else(|errno| -errno.number(), |()| policy::NODE as i32);
        user::write(at(status, 4), &state)?;
    }
    Ok(0)
}
