//! Random choices that a seed repeats.

use buttress::core::Rng;

/// Draws everything that makes up one input.
#[derive(Debug)]
pub struct Draw(Rng);

impl Draw {
    /// The draws of input `number` of a run.
    pub fn new(seed: u64, number: u64) -> Self {
        // Weyl's sequence: neighbours have nothing in common after seeding.
        Self(Rng::seeded(seed.wrapping_add(number.wrapping_mul(0x9E37_79B9_7F4A_7C15))))
    }

    /// Uniform in `low..=high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        self.0.between(low, high)
    }

    /// Uniform in `0..n`; 0 for an empty range.
    pub fn below(&mut self, n: usize) -> usize {
        self.between(0, n.saturating_sub(1) as u64) as usize
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// One of these.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// Any number, of any size alike often.
    pub fn number(&mut self) -> u64 {
        let bits = self.between(0, 64);
        if bits == 0 { 0 } else { self.between(0, u64::MAX >> (64 - bits)) }
    }

    /// Up to `longest` bytes.
    pub fn bytes(&mut self, longest: usize) -> Vec<u8> {
        (0..self.below(longest + 1)).map(|_| self.between(0, 255) as u8).collect()
    }

    /// The text with a few bytes changed, left out, doubled or put in, and sometimes cut or put together with another.
    pub fn mutated(&mut self, text: &str, other: &str) -> Vec<u8> {
        let mut bytes = text.as_bytes().to_vec();
        for _ in 0..self.between(1, 4) {
            let at = self.below(bytes.len() + 1);
            let odd = self.pick(b"0123456789-+.,;=\"' \teExGMT:\x7f\xff\xc3");
            match self.below(7) {
                0 => bytes.insert(at, odd),
                1 if at < bytes.len() => bytes[at] = odd,
                2 if at < bytes.len() => drop(bytes.remove(at)),
                3 => bytes.truncate(at),
                4 => bytes.extend_from_slice(&other.as_bytes()[self.below(other.len() + 1)..]),
                5 => bytes.extend_from_within(at..),
                _ => drop(bytes.splice(at..at, std::iter::repeat_n(odd, self.below(30)))),
            }
            bytes.truncate(500);
        }
        bytes
    }
}
