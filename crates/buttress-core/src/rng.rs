use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// A small, fast generator for jitter. Not for secrets.
#[derive(Clone, Debug)]
pub struct Rng(SmallRng);

/// Where generators come from: the system, or a seed for reproducible runs.
///
/// Clones share one sequence, so that two sessions never start from the same generator.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seeds(Option<Arc<AtomicU64>>);

/// The same sequence, and not one that happens to stand at the same place.
impl PartialEq for Seeds {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(seeds), Some(others)) => Arc::ptr_eq(seeds, others),
            (None, None) => true,
            _ => false,
        }
    }
}

impl Seeds {
    pub(crate) fn from_seed(seed: u64) -> Self {
        Self(Some(Arc::new(AtomicU64::new(seed))))
    }

    pub(crate) fn next(&self) -> Rng {
        match &self.0 {
            // Weyl's sequence; `seed_from_u64` mixes it well.
            Some(seeds) => Rng::seeded(seeds.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed)),
            None => Rng::from_system(),
        }
    }
}

impl Rng {
    /// A generator that no other session has.
    pub fn from_system() -> Self {
        Self(SmallRng::from_rng(&mut rand::rng()))
    }

    /// The same generator for the same seed.
    pub fn seeded(seed: u64) -> Self {
        Self(SmallRng::seed_from_u64(seed))
    }

    /// Uniform in `low..=high`; `low` if the range is empty.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        if low >= high { low } else { self.0.random_range(low..=high) }
    }

    /// Uniform in `0..=max`.
    pub fn up_to(&mut self, max: Duration) -> Duration {
        Duration::from_nanos(self.between(0, crate::clock::nanos(max)))
    }
}
