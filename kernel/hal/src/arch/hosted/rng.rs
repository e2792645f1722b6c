//! Randomness of the host's hash seeds.

use std::hash::{BuildHasher, Hasher};

pub fn hardware_seed() -> Option<u64> {
    Some(std::hash::RandomState::new().build_hasher().finish())
}

pub fn timing_sample() -> u64 {
    super::time::now_ns()
}
