//! Cgroup namespaces (cgroup_namespaces(7)): which control group is shown as the root. There is one control group, the
//! root itself, so all namespaces show the same.

use alloc::sync::Arc;

use abi::Result;
use hal::sync::LazyLock;
use security::{NsId, NsKind, UserNs};

/// A cgroup namespace.
pub struct CgroupNs {
    id: NsId,
}

static INITIAL: LazyLock<Arc<CgroupNs>> =
    LazyLock::new(|| Arc::new(CgroupNs { id: NsId::initial(NsKind::Cgroup) }));

impl CgroupNs {
    /// The first one.
    pub fn initial() -> &'static Arc<Self> {
        &INITIAL
    }

    /// A new one. `ENOSPC`: too many.
    pub fn new(owner: &UserNs) -> Result<Arc<Self>> {
        Ok(Arc::new(Self { id: NsId::new(NsKind::Cgroup, owner)? }))
    }

    /// Number and owner.
    pub fn id(&self) -> &NsId {
        &self.id
    }
}
