//! Memory policies (set_mempolicy(2), mbind(2)) on a machine with one node.
//!
//! With a single node every policy that can be set gives the same frames. What is left is what programs can
//! see: which policies are valid, and what get_mempolicy(2) and /proc/PID/numa_maps tell of them.
//!
//! Sources: set_mempolicy(2), mbind(2), get_mempolicy(2), migrate_pages(2); Documentation/admin-guide/mm/numa_memory_policy.rst.

use core::ops::Range;

use abi::{Errno, Result};
use hal::PAGE_SIZE;

use crate::map::{page_align, refused};
use crate::space::Mm;
use crate::sysctl;
use crate::vma::VmaAttr;

/// The only node.
pub const NODE: u32 = 0;
/// `MPOL_DEFAULT`: no policy.
pub const DEFAULT: u32 = 0;
const PREFERRED: u32 = 1;
const BIND: u32 = 2;
const INTERLEAVE: u32 = 3;
const LOCAL: u32 = 4;
const PREFERRED_MANY: u32 = 5;
const WEIGHTED_INTERLEAVE: u32 = 6;
/// `MPOL_F_NUMA_BALANCING`, `MPOL_F_RELATIVE_NODES`, `MPOL_F_STATIC_NODES`.
const BALANCING: u32 = 1 << 13;
const RELATIVE: u32 = 1 << 14;
const STATIC: u32 = 1 << 15;
const MODE_FLAGS: u32 = BALANCING | RELATIVE | STATIC;
/// The policy names node 0.
const NODE0: u32 = 1 << 16;

/// A set of nodes as user space gave it, as far as one node can tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Nodes {
    /// Whether any node is in it.
    pub any: bool,
    /// Whether node 0 is.
    pub zero: bool,
}

/// A policy of a task or of a mapping; the default is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy(u32);

impl Policy {
    /// The policy of `mode` (with its flags) over `nodes`. `EINVAL`: not a valid combination.
    pub fn new(mode: u32, nodes: Nodes) -> Result<Self> {
        let (mode, flags) = (mode & !MODE_FLAGS, mode & MODE_FLAGS);
        let placed = flags & (STATIC | RELATIVE);
        let balances = flags & BALANCING != 0 && mode != BIND && mode != PREFERRED_MANY;
        if mode > WEIGHTED_INTERLEAVE || placed == STATIC | RELATIVE || balances {
            return Err(Errno::EINVAL);
        }
        let mode = match mode {
            DEFAULT if nodes.any => return Err(Errno::EINVAL),
            DEFAULT => return Ok(Self::default()),
            PREFERRED if !nodes.any && placed != 0 => return Err(Errno::EINVAL),
            PREFERRED if !nodes.any => LOCAL,
            LOCAL if nodes.any || placed != 0 => return Err(Errno::EINVAL),
            LOCAL => LOCAL,
            _ if !nodes.any => return Err(Errno::EINVAL),
            mode => mode,
        };
        if mode == LOCAL {
            return Ok(Self(LOCAL | flags));
        }
        // Relative nodes are counted among those there are: all fold onto the only one.
        if !nodes.zero && flags & RELATIVE == 0 {
            return Err(Errno::EINVAL);
        }
        Ok(Self(mode | flags | NODE0))
    }

    /// As [`Self::bits`] gave it.
    pub fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// A number that stands for it.
    pub fn bits(self) -> u32 {
        self.0
    }

    /// Mode and flags, as get_mempolicy(2) gives them.
    pub fn mode(self) -> u32 {
        self.0 & !NODE0
    }

    /// The nodes it names, as a mask.
    pub fn nodes(self) -> u64 {
        u64::from(self.0 & NODE0 != 0)
    }

    /// Whether it spreads pages over nodes in turn.
    pub fn interleaves(self) -> bool {
        matches!(self.0 & !(NODE0 | MODE_FLAGS), INTERLEAVE | WEIGHTED_INTERLEAVE)
    }

    /// Its name in /proc/PID/numa_maps.
    pub fn name(self) -> &'static str {
        match self.0 & !(NODE0 | MODE_FLAGS) {
            PREFERRED => "prefer:0",
            BIND => "bind:0",
            INTERLEAVE => "interleave:0",
            LOCAL => "local",
            PREFERRED_MANY => "prefer (many):0",
            WEIGHTED_INTERLEAVE => "weighted interleave:0",
            _ => "default",
        }
    }
}

/// The pages of a range given to mbind(2); `None` when it is empty. `EINVAL`.
fn policy_range(addr: u64, len: u64) -> Result<Option<Range<u64>>> {
    if !addr.is_multiple_of(PAGE_SIZE as u64) {
        return Err(Errno::EINVAL);
    }
    let end = addr.checked_add(page_align(len)).ok_or(Errno::EINVAL)?;
    Ok((end > addr).then_some(addr..end))
}

impl Mm {
    /// mbind(2): gives the mappings of the range a policy. May sleep.
    ///
    /// `EFAULT`: a hole, unless the policy is the default. `ENOMEM`: the count limit; what lies below has changed.
    pub fn bind(&self, addr: u64, len: u64, policy: Policy) -> Result<()> {
        let Some(range) = policy_range(addr, len)? else { return Ok(()) };
        let mut space = self.space.write();
        if policy != Policy::default() && !space.set.covers(range.clone()) {
            return Err(Errno::EFAULT);
        }
        if space.set.overlapping(range.clone()).next().is_none() {
            return Err(Errno::EFAULT);
        }
        let mut at = range.start;
        while let Some(vma) = space.set.find(at).filter(|v| v.start < range.end && at < range.end) {
            let part = vma.clip(&(at..range.end));
            at = part.end;
            if vma.attr.policy == policy {
                continue;
            }
            let mut attr: VmaAttr = vma.attr.clone();
            vma_set::Attr::advance(&mut attr, part.start - vma.start);
            attr.policy = policy;
            space.set.modify(part, attr, sysctl::max_map_count()).map_err(refused)?;
        }
        Ok(())
    }

    /// set_mempolicy_home_node(2). `EOPNOTSUPP`: a mapping's policy has no use for it.
    pub fn set_home_node(&self, addr: u64, len: u64) -> Result<()> {
        let Some(range) = policy_range(addr, len)? else { return Ok(()) };
        let space = self.space.read();
        for vma in space.set.overlapping(range) {
            match vma.attr.policy.mode() & !MODE_FLAGS {
                DEFAULT | BIND | PREFERRED_MANY => {}
                _ => return Err(Errno::EOPNOTSUPP),
            }
        }
        Ok(())
    }

    /// The policy of the mapping at `addr`. `EFAULT`: there is none.
    pub fn policy_at(&self, addr: u64) -> Result<Policy> {
        self.space.read().set.at(addr).map(|v| v.attr.policy).ok_or(Errno::EFAULT)
    }

    /// Whether a page lies at `addr`, for move_pages(2). `EFAULT`: no mapping, or the page of zeroes.
    pub fn page_node(&self, addr: u64) -> Result<()> {
        if self.space.read().set.at(addr).is_none() {
            return Err(Errno::EFAULT);
        }
        match self.query_page(addr) {
            None => Err(Errno::ENOENT),
            Some((pfn, _)) if crate::fault::zero_frame().is_some_and(|z| z.pfn() == pfn) => {
                Err(Errno::EFAULT)
            }
            Some(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Nodes = Nodes { any: false, zero: false };
    const ZERO: Nodes = Nodes { any: true, zero: true };
    const OTHER: Nodes = Nodes { any: true, zero: false };

    #[test]
    fn combinations_are_checked_as_on_linux() {
        assert_eq!(Policy::new(DEFAULT, NONE), Ok(Policy::default()));
        assert_eq!(Policy::new(DEFAULT, ZERO), Err(Errno::EINVAL));
        assert_eq!(Policy::new(PREFERRED, NONE).map(Policy::mode), Ok(LOCAL));
        assert_eq!(Policy::new(BIND, NONE), Err(Errno::EINVAL));
        assert_eq!(Policy::new(BIND, OTHER), Err(Errno::EINVAL), "there is one node");
        assert_eq!(Policy::new(BIND | RELATIVE, OTHER).map(Policy::nodes), Ok(1));
        assert_eq!(Policy::new(BIND | STATIC, ZERO).map(Policy::mode), Ok(BIND | STATIC));
        assert_eq!(Policy::new(BIND | STATIC | RELATIVE, ZERO), Err(Errno::EINVAL));
        assert_eq!(Policy::new(INTERLEAVE | BALANCING, ZERO), Err(Errno::EINVAL));
        assert_eq!(Policy::new(7, ZERO), Err(Errno::EINVAL));
    }
}
