//! Random numbers, from seeds only.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// A generator of what the models need.
#[derive(Debug)]
pub struct Draw(SmallRng);

impl Draw {
    /// The same draws for the same seed.
    pub fn seeded(seed: u64) -> Self {
        Self(SmallRng::seed_from_u64(seed))
    }

    /// Uniform in `0..1`.
    pub fn uniform(&mut self) -> f64 {
        self.0.random()
    }

    /// One of `0..n`.
    pub fn index(&mut self, n: usize) -> usize {
        self.0.random_range(0..n)
    }

    /// Exponential with this mean.
    pub fn exponential(&mut self, mean: Duration) -> Duration {
        mean.mul_f64(-(1.0 - self.uniform()).ln())
    }

    /// The absolute value of a normal draw (Box and Muller).
    pub fn normal(&mut self, mean: Duration, deviation: Duration) -> Duration {
        let (u, v) = (1.0 - self.uniform(), self.uniform());
        let z = (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos();
        Duration::from_secs_f64((mean.as_secs_f64() + z * deviation.as_secs_f64()).abs())
    }
}
