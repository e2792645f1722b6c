//! Random numbers for keys, addresses and user space (getrandom(2), random(4)).
//!
//! A pool is hashed from what the machine offers (RDSEED or RDRAND, interrupt and boot timing, bytes that
//! users write to /dev/urandom) and keys ChaCha20. Each CPU has its own generator with fast key erasure:
//! every request first replaces the key, so what was given out cannot be computed from a later state. When
//! the pool is stirred, its generation number changes and each CPU rekeys from it at its next request.
//!
//! ```text
//! hardware, timing, writes ──SHA-256──▶ pool (32 bytes, generation n)
//!                                         └─▶ CPU key ──ChaCha20──▶ [ next key | bytes for the caller ]
//! ```
//!
//! Programs that use the vDSO's getrandom keep bytes in store; they see the generation too, and throw these away when it
//! changes.
//!
//! # Locks
//!
//! `POOL` and each CPU's generator are `IrqLock`s that nest in nothing and hold nothing else but
//! `generator` → `POOL`. Nothing here sleeps, so it may be used in interrupt context.
//!
//! Sources: random(4), getrandom(2); D. J. Bernstein, "Fast-key-erasure random-number generators" (2017).
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit, StreamCipher};
use hal::percpu::PerCpu;
use hal::preempt;
use hal::sync::IrqLock;
use sha2::{Digest, Sha256};

type Key = [u8; 32];

/// What is given out between two replacements of the key, so that interrupts are not off for long.
const CHUNK: usize = 256;

struct Generator {
    key: Key,
    generation: u64,
}

static POOL: IrqLock<Key> = IrqLock::new("random.pool", [0; 32]);
/// Counts stirrings of the pool; 0 before the first.
static GENERATION: AtomicU64 = AtomicU64::new(0);
static IS_SEEDED: AtomicBool = AtomicBool::new(false);
static GENERATORS: PerCpu<IrqLock<Generator>> =
    PerCpu::new(|_| IrqLock::new("random.generator", Generator { key: [0; 32], generation: 0 }));

/// Gathers the first entropy. Called once at boot, before anything random is needed.
pub fn init() {
    let mut hardware = 0;
    for _ in 0..16 {
        let mut sample = [0; 16];
        if let Some(seed) = hal::rng::hardware_seed() {
            hardware += 1;
            sample[..8].copy_from_slice(&seed.to_le_bytes());
        }
        sample[8..].copy_from_slice(&hal::rng::timing_sample().to_le_bytes());
        stir(&sample);
    }
    // Half of the draws give 512 bits, more than the key takes.
    if hardware >= 8 {
        mark_seeded();
    }
}

/// Whether enough entropy was gathered that getrandom(2) need not wait.
pub fn is_seeded() -> bool {
    IS_SEEDED.load(Ordering::Acquire)
}

/// Declares the pool good: the jitter of the running system was stirred in for long enough.
pub fn mark_seeded() {
    IS_SEEDED.store(true, Ordering::Release);
    hal::vdso::set_random_generation(GENERATION.load(Ordering::Relaxed));
}

/// Mixes `bytes` into the pool. They may be known to an attacker: that does no harm.
pub fn stir(bytes: &[u8]) {
    let mut pool = POOL.lock();
    let mut hash = Sha256::new();
    hash.update(*pool);
    hash.update(bytes);
    *pool = hash.finalize().into();
    let generation = GENERATION.fetch_add(1, Ordering::Release) + 1;
    if is_seeded() {
        // Under the lock, so that the page never goes back to an older one.
        hal::vdso::set_random_generation(generation);
    }
}

/// Fills `to` with random bytes. Before [`is_seeded`] they may be guessable, as those of /dev/urandom.
pub fn fill(to: &mut [u8]) {
    for chunk in to.chunks_mut(CHUNK) {
        let pinned = preempt::disable();
        let mut generator = GENERATORS.get(&pinned).lock();
        // Acquire pairs with the release in `stir`: the pool read below is at least that new.
        let generation = GENERATION.load(Ordering::Acquire);
        if generator.generation != generation {
            generator.generation = generation;
            let mut hash = Sha256::new();
            hash.update(generator.key);
            hash.update(*POOL.lock());
            hash.update(hal::rng::timing_sample().to_le_bytes());
            generator.key = hash.finalize().into();
        }
        let mut cipher = ChaCha20::new(&generator.key.into(), &[0; 12].into());
        let mut next_key = [0; 32];
        cipher.apply_keystream(&mut next_key);
        generator.key = next_key;
        chunk.fill(0);
        cipher.apply_keystream(chunk);
    }
}

/// A random number.
pub fn next_u64() -> u64 {
    let mut bytes = [0; 8];
    fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_differ_and_stirring_changes_the_stream() {
        let first = next_u64();
        stir(b"something");
        let second = next_u64();
        assert_ne!(first, second);
        let mut long = [0u8; 1000];
        fill(&mut long);
        let ones: u32 = long.iter().map(|b| b.count_ones()).sum();
        assert!((3600..4400).contains(&ones), "{ones} of 8000 bits are set");
    }
}
