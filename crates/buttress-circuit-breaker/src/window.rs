//! Windows over recent calls: what is written without a lock while nothing bad is in them, and what is not.

use std::sync::OnceLock;

use buttress_core::clock::nanos;
use buttress_core::sync::atomic::{AtomicU64, Ordering};

use crate::trip::{RateRule, Window as Span};

/// Calls of a time window are counted in so many buckets.
const BUCKETS: u64 = 10;

/// Good calls, counted without a lock.
///
/// While a window holds nothing but good calls, one more leaves a full one as it is, and merely lengthens one that is
/// not full. So nothing more than a number is kept, and it is written only while it grows.
///
/// What kind of window it counts for changes under the circuit's lock, while others count.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// `kind | epoch | value`: for calls the window's size, for time the width of a bucket in nanoseconds. Zero without a
    /// window.
    shape: AtomicU64,
    /// Of the width; see [`Width`].
    inverse: std::sync::atomic::AtomicU64,
    /// How many good calls there are, up to the window's size; [`DIRTY`] once the ring has taken over.
    good: AtomicU64,
    /// Per bucket the number of its period (upper half) and how many calls it saw, good or bad (lower half). Made for the
    /// first window over time.
    buckets: OnceLock<Box<Buckets>>,
}

type Buckets = [AtomicU64; BUCKETS as usize];

const KIND: u64 = 0b11 << 62;
const CALLS: u64 = 0b01 << 62;
const TIME: u64 = 0b10 << 62;
/// Which shape of the tally this is, so that who still counts for an older one takes none of this one's buckets for its own.
const EPOCH_SHIFT: u32 = 56;
const EPOCH: u64 = 0b11_1111 << EPOCH_SHIFT;
/// Two years for a bucket are as good as any longer time.
const VALUE: u64 = (1 << EPOCH_SHIFT) - 1;

fn shape(rule: Option<&RateRule>) -> u64 {
    match rule.map(|rule| rule.window) {
        None => 0,
        Some(Span::Calls(size)) => CALLS | u64::from(size),
        Some(Span::Time(time)) => TIME | (nanos(time) / BUCKETS).clamp(2, VALUE),
    }
}

/// How long a bucket lasts, in nanoseconds; divides without a division, which costs more than all the rest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Width {
    width: u64,
    /// 2⁶⁴ / `width`, rounded down.
    inverse: u64,
    /// Where the numbers of periods begin.
    first: u64,
}

impl Width {
    /// Which bucket's time `now` is in.
    #[inline]
    fn period(self, now: u64) -> u64 {
        // At most one too small, because the inverse is: by less than one part in 2⁶⁴ of `now`.
        let period = ((u128::from(now) * u128::from(self.inverse)) >> 64) as u64;
        let rest = now.wrapping_sub(period.wrapping_mul(self.width));
        let period = if rest < self.width {
            period
        } else if rest - self.width < self.width {
            period + 1
        } else {
            // The window is being changed, and the inverse is that of another width.
            now / self.width
        };
        self.first + period
    }
}

fn inverse(width: u64) -> u64 {
    ((1 << 64) / u128::from(width)) as u64
}

const DIRTY: u64 = u64::MAX;
const COUNT: u64 = u32::MAX as u64;

impl Tally {
    /// Whether it counts for such a window, or for none.
    pub(crate) fn is_for(&self, rule: Option<&RateRule>) -> bool {
        self.shape.load(Ordering::Relaxed) & !EPOCH == shape(rule)
    }

    /// Counts for such a window from now on, beginning with none; to be called under the circuit's lock.
    pub(crate) fn begin(&self, rule: Option<&RateRule>) {
        let epoch = (self.shape.load(Ordering::Relaxed) & EPOCH).wrapping_add(1 << EPOCH_SHIFT) & EPOCH;
        let shape = shape(rule);
        if shape & KIND == TIME {
            self.inverse.store(inverse(shape & VALUE), Ordering::Relaxed);
            self.buckets.get_or_init(|| Box::new(std::array::from_fn(|_| AtomicU64::new(0))));
        }
        self.reset();
        self.shape.swap(shape | epoch, Ordering::Release);
    }

    fn reset(&self) {
        self.good.swap(0, Ordering::Relaxed);
        for bucket in self.buckets.get().into_iter().flat_map(|buckets| buckets.iter()) {
            bucket.swap(0, Ordering::Relaxed);
        }
    }

    /// Counts a good call; `false` if the window has meanwhile seen a bad one and must be asked under its lock.
    // In its place, what there is no window for costs next to nothing.
    #[inline(always)]
    pub(crate) fn good(&self, now: impl FnOnce() -> u64) -> bool {
        let shape = self.shape.load(Ordering::Acquire);
        match shape & KIND {
            CALLS => self.good_of_calls(shape & VALUE),
            TIME => {
                let Some(buckets) = self.buckets.get() else { return false };
                add(buckets, self.width(shape).period(now()));
                true
            }
            _ => true,
        }
    }

    #[inline]
    fn good_of_calls(&self, size: u64) -> bool {
        let mut known = self.good.load(Ordering::Relaxed);
        loop {
            // More than the size, if the window was larger a moment ago.
            if known >= size {
                return known != DIRTY;
            }
            match self.good.compare_exchange_weak(known, known + 1, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(current) => known = current,
            }
        }
    }

    #[inline]
    fn width(&self, shape: u64) -> Width {
        let first = (shape & EPOCH) >> EPOCH_SHIFT << 26;
        Width { width: shape & VALUE, inverse: self.inverse.load(Ordering::Relaxed), first }
    }

    /// The buckets and their width, under the circuit's lock, of a window over time.
    fn time(&self) -> Option<(&Buckets, Width)> {
        Some((self.buckets.get()?, self.width(self.shape.load(Ordering::Relaxed))))
    }
}

/// Counts one call into the bucket of this period, which takes the place of an older one.
fn add(buckets: &Buckets, period: u64) {
    let bucket = &buckets[(period % BUCKETS) as usize];
    let mut known = bucket.load(Ordering::Relaxed);
    loop {
        // How far the bucket is ahead of a caller who read the clock long ago, in rounds of ten; such a call counts late.
        let ahead = ((known >> 32) as u32).wrapping_sub(period as u32);
        let next = if known & COUNT > 0 && ahead < 1000 { known + 1 } else { period << 32 | 1 };
        // A count that can grow no further is left alone: it must not run over into the period.
        if known & COUNT == COUNT && next == known + 1 {
            return;
        }
        match bucket.compare_exchange_weak(known, next, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return,
            Err(current) => known = current,
        }
    }
}

/// What one call means to a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    Good,
    Bad,
    /// Bad only while there is nothing good in the window.
    Abandoned,
}

/// What a window holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) calls: u64,
    pub(crate) bad: u64,
}

/// The part of a window that is written under the circuit's lock.
#[derive(Debug)]
pub(crate) enum Window {
    Calls(Ring),
    /// Per bucket: its period, bad calls, abandoned calls.
    Time(Box<[(u64, u32, u32); BUCKETS as usize]>),
}

/// The last calls, oldest at `head` once it is full. Empty, and without memory, while the tally is not dirty.
#[derive(Debug)]
pub(crate) struct Ring {
    /// As many as there are: most circuits are never full.
    marks: Vec<Mark>,
    size: u32,
    head: u32,
    bad: u32,
    abandoned: u32,
}

impl Window {
    pub(crate) fn new(rule: &RateRule) -> Self {
        match rule.window {
            Span::Calls(size) => Self::Calls(Ring { marks: Vec::new(), size, head: 0, bad: 0, abandoned: 0 }),
            Span::Time(_) => Self::Time(Box::default()),
        }
    }

    pub(crate) fn record(&mut self, tally: &Tally, mark: Mark, now: u64) {
        match self {
            Self::Calls(ring) => {
                let good = &tally.good;
                if good.load(Ordering::Relaxed) != DIRTY {
                    if mark == Mark::Good && tally.good(|| now) {
                        return;
                    }
                    // Whoever counts a good call at this moment either is in the number or finds it dirty.
                    ring.fill_good(good.swap(DIRTY, Ordering::Relaxed));
                }
                ring.push(mark);
                if ring.bad == 0 && ring.abandoned == 0 {
                    good.store(ring.marks.len() as u64, Ordering::Relaxed);
                    ring.clear();
                }
            }
            Self::Time(buckets) => {
                let Some((totals, width)) = tally.time() else { return };
                let period = width.period(now);
                add(totals, period);
                let bucket = &mut buckets[(period % BUCKETS) as usize];
                if bucket.0 < period {
                    *bucket = (period, 0, 0);
                }
                match mark {
                    Mark::Good => {}
                    Mark::Bad => bucket.1 = bucket.1.saturating_add(1),
                    Mark::Abandoned => bucket.2 = bucket.2.saturating_add(1),
                }
            }
        }
    }

    /// What is in the window now. Abandoned calls are bad if there is nothing good, and otherwise no calls at all.
    pub(crate) fn totals(&self, tally: &Tally, now: u64) -> Totals {
        let (calls, bad, abandoned) = self.raw(tally, now);
        if calls > bad + abandoned {
            Totals { calls: calls - abandoned, bad }
        } else {
            Totals { calls, bad: bad + abandoned }
        }
    }

    /// Whether only good calls are in the window, so that further good ones need no lock.
    pub(crate) fn is_clean(&self, tally: &Tally, now: u64) -> bool {
        let (_, bad, abandoned) = self.raw(tally, now);
        bad == 0 && abandoned == 0
    }

    fn raw(&self, tally: &Tally, now: u64) -> (u64, u64, u64) {
        match self {
            Self::Calls(ring) => match tally.good.load(Ordering::Relaxed) {
                DIRTY => (ring.marks.len() as u64, ring.bad.into(), ring.abandoned.into()),
                good => (good.min(ring.size.into()), 0, 0),
            },
            Self::Time(buckets) => {
                let Some((totals, width)) = tally.time() else { return (0, 0, 0) };
                let current = width.period(now);
                // The upper half of a word holds the lower half of the period.
                let live = |period: u32| (current as u32).wrapping_sub(period) < BUCKETS as u32;
                let (mut calls, mut bad, mut abandoned) = (0, 0, 0);
                for (word, marked) in totals.iter().zip(buckets.iter()) {
                    let word = word.load(Ordering::Relaxed);
                    let period = (word >> 32) as u32;
                    calls += if live(period) { word & COUNT } else { 0 };
                    // Who read the clock before somebody else took the bucket over finds neither its calls nor these.
                    if marked.0 as u32 == period && current.wrapping_sub(marked.0) < BUCKETS {
                        bad += u64::from(marked.1);
                        abandoned += u64::from(marked.2);
                    }
                }
                (calls, bad, abandoned)
            }
        }
    }

    pub(crate) fn reset(&mut self, tally: &Tally) {
        match self {
            Self::Calls(ring) => ring.clear(),
            Self::Time(buckets) => **buckets = Default::default(),
        }
        tally.reset();
    }
}

impl Ring {
    fn clear(&mut self) {
        *self = Self { marks: Vec::new(), size: self.size, head: 0, bad: 0, abandoned: 0 };
    }

    fn fill_good(&mut self, good: u64) {
        self.clear();
        self.marks = vec![Mark::Good; good.min(self.size.into()) as usize];
    }

    fn push(&mut self, mark: Mark) {
        if self.marks.len() < self.size as usize {
            self.marks.push(mark);
        } else {
            match self.marks[self.head as usize] {
                Mark::Good => {}
                Mark::Bad => self.bad -= 1,
                Mark::Abandoned => self.abandoned -= 1,
            }
            self.marks[self.head as usize] = mark;
            self.head = (self.head + 1) % self.size;
        }
        match mark {
            Mark::Good => {}
            Mark::Bad => self.bad += 1,
            Mark::Abandoned => self.abandoned += 1,
        }
    }
}

#[cfg(all(test, buttress_loom))]
mod loom_models;

#[cfg(test)]
mod tests;
