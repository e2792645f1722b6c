//! I/O ports that user code may use by itself (ioperm(2), iopl(2)).
//!
//! A thread has [`Ports`]; its CPU keeps user code from all others. The map is shared by threads until one of them wants
//! another: then that one gets a new map, as maps never change.
//!
//! Whoever lets user code at ports lets it at the machine: some devices move memory as ports tell them, and there is no
//! other protection. So only the owner of the machine may (CAP_SYS_RAWIO), as on Linux.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use zerocopy::IntoBytes;

use crate::error::NoMemory;

/// How many ports there are.
pub const NR_PORTS: usize = 0x1_0000;
/// Bytes of a map.
pub const MAP_BYTES: usize = NR_PORTS / 8;
/// Words of a map.
pub(crate) const MAP_WORDS: usize = NR_PORTS / 64;

/// No two maps have the same. 0 is no map.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Which ports are allowed. Never changes.
#[derive(Debug)]
pub struct PortMap {
    /// [`MAP_WORDS`] words: a set bit forbids its port.
    forbidden: Vec<u64>,
    #[cfg_attr(
        not(any(target_os = "none", test)),
        expect(dead_code, reason = "the hosted machine has no ports; only tests use it")
    )]
    id: u64,
}

impl PortMap {
    /// `old`, or the map that forbids everything, with `ports` allowed or forbidden.
    ///
    /// # Panics
    ///
    /// When `ports` go beyond [`NR_PORTS`].
    pub fn changed(old: Option<&PortMap>, ports: Range<usize>, allow: bool) -> Result<PortMap, NoMemory> {
        assert!(ports.end <= NR_PORTS, "no such port");
        let mut forbidden = Vec::new();
        forbidden.try_reserve_exact(MAP_WORDS).map_err(|_| NoMemory)?;
        match old {
            Some(old) => forbidden.extend_from_slice(&old.forbidden),
            None => forbidden.resize(MAP_WORDS, u64::MAX),
        }
        for port in ports {
            let bit = 1 << (port % 64);
            let word = &mut forbidden[port / 64];
            *word = if allow { *word & !bit } else { *word | bit };
        }
        Ok(PortMap { forbidden, id: NEXT_ID.fetch_add(1, Ordering::Relaxed) })
    }

    /// Does it allow no port?
    pub fn is_empty(&self) -> bool {
        self.forbidden.iter().all(|word| *word == u64::MAX)
    }

    /// A bit for each port, set where it is forbidden: [`MAP_BYTES`] bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.forbidden.as_bytes()
    }

    /// The same as words, and what tells this map from others.
    #[cfg(target_os = "none")]
    pub(crate) fn words(&self) -> (&[u64], u64) {
        (&self.forbidden, self.id)
    }
}

/// What user code of a thread may do with ports.
#[derive(Clone, Debug, Default)]
pub struct Ports {
    /// Those that it was given one by one, if any.
    pub map: Option<Arc<PortMap>>,
    /// The level of iopl(2), 0 to 3. With 3 all ports are allowed, whatever the map says.
    pub level: u8,
}

impl Ports {
    /// All ports are allowed from this level on.
    pub const ALL: u8 = 3;

    /// Is any port allowed?
    pub fn are_any(&self) -> bool {
        self.map.is_some() || self.level >= Self::ALL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_forbids_all_that_was_not_allowed() {
        let one = PortMap::changed(None, 0x80..0x81, true).unwrap();
        assert_eq!(one.as_bytes().len(), MAP_BYTES);
        assert_eq!((one.as_bytes()[0x0f], one.as_bytes()[0x10], one.as_bytes()[0x11]), (0xff, 0xfe, 0xff));
        assert!(!one.is_empty());
        let more = PortMap::changed(Some(&one), 0xffff..NR_PORTS, true).unwrap();
        assert_eq!((more.as_bytes()[0x10], more.as_bytes()[MAP_BYTES - 1]), (0xfe, 0x7f));
        assert_ne!(one.id, more.id);
        let none = PortMap::changed(Some(&more), 0..NR_PORTS, false).unwrap();
        assert!(none.is_empty() && !more.is_empty());
        let all = PortMap::changed(None, 0..NR_PORTS, true).unwrap();
        assert!(all.as_bytes().iter().all(|byte| *byte == 0));
        assert!(PortMap::changed(None, 5..5, true).unwrap().is_empty());
    }

    #[test]
    fn level_three_is_all_ports() {
        assert!(!Ports::default().are_any());
        assert!(!Ports { level: 2, map: None }.are_any());
        assert!(Ports { level: 3, map: None }.are_any());
        let map = PortMap::changed(None, 1..2, true).unwrap();
        assert!(Ports { level: 0, map: Some(Arc::new(map)) }.are_any());
    }
}
