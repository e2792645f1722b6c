//! Cgroup namespaces (cgroup_namespaces(7)): which control group is shown as the root.

use alloc::sync::Arc;

use abi::Result;
use cgroup::Cgroup;
use hal::sync::LazyLock;
use security::{NsId, NsKind, UserNs};

/// A cgroup namespace.
pub struct CgroupNs {
    id: NsId,
    root: Arc<Cgroup>,
}

static INITIAL: LazyLock<Arc<CgroupNs>> =
    LazyLock::new(|| Arc::new(CgroupNs { id: NsId::initial(NsKind::Cgroup), root: Cgroup::root().clone() }));

impl CgroupNs {
    /// The first one.
    pub fn initial() -> &'static Arc<Self> {
        &INITIAL
    }

    /// A new one that shows `root` as the root. `ENOSPC`: too many.
    pub fn new(owner: &UserNs, root: Arc<Cgroup>) -> Result<Arc<Self>> {
        Ok(Arc::new(Self { id: NsId::new(NsKind::Cgroup, owner)?, root }))
    }

    /// Number and owner.
    pub fn id(&self) -> &NsId {
        &self.id
    }

    /// The control group that it shows as the root.
    #[inline]
    pub fn root(&self) -> &Arc<Cgroup> {
        &self.root
    }

    /// Whether it is the first one.
    pub fn is_initial(&self) -> bool {
        core::ptr::eq(self, &**INITIAL)
    }
}
