//! IPC namespaces (ipc_namespaces(7)): the anchor for objects that crates above keep.
//!
//! The crate that has System V objects attaches its state with [`IpcNs::state`] on first use; it goes with the namespace.

use alloc::sync::Arc;
use core::any::Any;

use abi::Result;
use hal::sync::{LazyLock, Once};
use security::{NsId, NsKind, UserNs};

/// What a crate keeps for one namespace.
pub type State = Arc<dyn Any + Send + Sync>;

/// An IPC namespace.
pub struct IpcNs {
    id: NsId,
    state: Once<State>,
}

static INITIAL: LazyLock<Arc<IpcNs>> =
    LazyLock::new(|| Arc::new(IpcNs { id: NsId::initial(NsKind::Ipc), state: Once::new() }));

impl IpcNs {
    /// The first one.
    pub fn initial() -> &'static Arc<Self> {
        &INITIAL
    }

    /// A new one without objects. `ENOSPC`: too many.
    pub fn new(owner: &UserNs) -> Result<Arc<Self>> {
        Ok(Arc::new(Self { id: NsId::new(NsKind::Ipc, owner)?, state: Once::new() }))
    }

    /// Number and owner.
    pub fn id(&self) -> &NsId {
        &self.id
    }

    /// What is attached; the first call makes it.
    pub fn state(&self, make: impl FnOnce() -> State) -> &State {
        self.state.call_once(make)
    }

    /// What is attached, if anything was.
    pub fn existing_state(&self) -> Option<&State> {
        self.state.get()
    }
}
