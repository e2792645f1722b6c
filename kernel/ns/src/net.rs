//! Network namespaces (network_namespaces(7)): what one separates is the abstract names of unix sockets and what the
//! network keeps for it (interfaces, ports, connections). It is kept by the sockets made in it.

use alloc::sync::Arc;
use core::any::Any;

use abi::Result;
use hal::sync::{LazyLock, Once};
use security::{NsId, NsKind, UserNs};

/// What the network keeps for a namespace.
pub type NetState = Arc<dyn Any + Send + Sync>;

/// A network namespace.
pub struct NetNs {
    id: NsId,
    state: Once<NetState>,
}

static INITIAL: LazyLock<Arc<NetNs>> =
    LazyLock::new(|| Arc::new(NetNs { id: NsId::initial(NsKind::Net), state: Once::new() }));
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
        Ok(Arc::new(Self { id: NsId::new(NsKind::Net, owner)?, state: Once::new() }))
    }

    /// What the network keeps for it, which `make` makes when it is first asked for. It must not refer to the namespace.
    pub fn state(&self, make: impl FnOnce() -> NetState) -> &NetState {
        self.state.call_once(make)
    }

    /// Number and owner.
    pub fn id(&self) -> &NsId {
        &self.id
    }
}
