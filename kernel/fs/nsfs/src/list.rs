//! listns(2): the numbers of namespaces in use.

use abi::{Errno, Result};
use hal::{UserAddr, user};
use security::{NsKind, UserNs};

use crate::Namespace;
use crate::active::{InUse, may_see_all};

/// What is to be listed.
#[derive(Clone, Copy, Debug)]
pub struct Listing {
    /// Only numbers above this one.
    pub after: u64,
    /// `CLONE_NEW*` flags of the kinds; 0 for all.
    pub kinds: u32,
    /// The number of the user namespace that owns them, [`Listing::CALLERS`], or 0 for any.
    pub owner: u64,
}

impl Listing {
    /// The caller's user namespace (`LISTNS_CURRENT_USER`).
    pub const CALLERS: u64 = u64::MAX;

    fn owner_ns(&self, all: &InUse) -> Result<Option<UserNs>> {
        match self.owner {
            0 => Ok(None),
            Self::CALLERS => Ok(Some(process::current().cred().user_ns.clone())),
            id => match all.get(id) {
                Some(Namespace::User(ns)) => Ok(Some(ns.clone())),
                _ => Err(Errno::EINVAL),
            },
        }
    }
}

/// Writes at most `room` numbers to `out`, ascending; gives how many.
///
/// A caller that does not administrate the machine sees those it is in. `EOPNOTSUPP`: unknown kinds. `EINVAL`: the owner
/// is no user namespace in use. `ENOENT`: there is nothing above `after`. `EFAULT`.
pub fn list(listing: &Listing, out: UserAddr, room: usize) -> Result<usize> {
    let known = NsKind::ALL.iter().fold(0, |flags, kind| flags | kind.clone_flag());
    if listing.kinds & !known != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let all = InUse::collect();
    let owner = listing.owner_ns(&all)?;
    let is_owned = |ns: &&Namespace| owner.is_none() || ns.owner_ns() == owner;
    let is_wanted = |ns: &&Namespace| listing.kinds == 0 || listing.kinds & ns.id().kind().clone_flag() != 0;
    if listing.after != 0 {
        let is_one_kind = listing.kinds.is_power_of_two() && owner.is_none();
        let has_more = all.after(listing.after).filter(is_owned).any(|ns| !is_one_kind || is_wanted(&ns));
        has_more.then_some(()).ok_or(Errno::ENOENT)?;
    }
    let sees_all = may_see_all();
    let shown = all.after(listing.after).filter(is_owned).filter(is_wanted);
    let mut nr = 0;
    for ns in shown.filter(|ns| sees_all || ns.holds_caller()).take(room) {
        user::write(UserAddr(out.0.wrapping_add(nr as u64 * 8)), &ns.id().id())?;
        nr += 1;
    }
    Ok(nr)
}
