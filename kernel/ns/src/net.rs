//! Network namespaces (network_namespaces(7)). There are no interfaces yet: what one separates is the abstract names of
//! unix sockets, and it is kept by the sockets made in it.

use alloc::sync::Arc;

use abi::Result;
use hal::sync::{LazyLock, Once};
use security::{NsId, NsKind, UserNs};

/// A network namespace.
pub struct NetNs {
    id: NsId,
}

static INITIAL: LazyLock<Arc<NetNs>> = LazyLock::new(|| Arc::new(NetNs { id: NsId::initial(NsKind::Net) }));
static CURRENT: Once<fn() -> Arc<NetNs>> = Once::new();

/// Registers who knows the namespace of the running task. Call once at boot.
pub fn register_current(current: fn() -> Arc<NetNs>) {
    CURRENT.call_once(|| current);
}

impl NetNs {
    /// The first one.
    pub fn initial() -> &'static Arc<Self> {
        &INITIAL
    }

    /// That of the running task; the first one in a kernel thread.
    pub fn current() -> Arc<Self> {
        CURRENT.get().map_or_else(|| INITIAL.clone(), |current| current())
    }

    /// A new one. `ENOSPC`: too many.
    pub fn new(owner: &UserNs) -> Result<Arc<Self>> {
        Ok(Arc::new(Self { id: NsId::new(NsKind::Net, owner)? }))
    }

    /// Number and owner.
    pub fn id(&self) -> &NsId {
        &self.id
    }
}
