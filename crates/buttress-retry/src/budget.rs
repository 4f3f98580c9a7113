//! How many retries may be made at all, whatever each single call would like.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use buttress_core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use buttress_core::{ConfigError, Kind};

mod adaptive;
use adaptive::Adaptive;

/// Limits retries to a share of what succeeds, so that they cannot bring a struggling dependency down.
///
/// Jitter spreads load; only a budget limits it. Clones share one budget: give clones of one to every layer that talks to
/// the same dependency with the same credential.
///
/// All kinds are credited by successes and never by requests: in an outage there are requests enough, but nothing to
/// pay a retry with. Time alone fills none but the adaptive ones, and those with no more than one retry a minute, up to
/// what they keep in hand: that a quiet process is not without retries for ever, and a fleet's are no load.
///
/// ```
/// use buttress_retry::Budget;
///
/// let budget = Budget::ratio(0.1, 20)?;
/// assert_eq!(budget.tokens(), 20.0);
/// # Ok::<(), buttress_core::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Budget(Arc<Kinds>);

#[derive(Debug)]
enum Kinds {
    Unlimited,
    Adaptive(Adaptive),
    /// A plain bucket.
    Bucket {
        tokens: Bucket,
        costs: Costs,
    },
    /// gRPC A6.
    Throttle {
        tokens: Bucket,
        ratio: u64,
    },
}

/// What a [`Kinds::Bucket`] takes and gives, in millionths of a token.
#[derive(Clone, Copy, Debug)]
struct Costs {
    retry: u64,
    throttled: u64,
    timeout: u64,
    /// For a call that succeeded at once, and for each success where `refund` is off.
    success: u64,
    /// A call that succeeds after retries gets the last one's cost back, and nothing else (AWS).
    refund: bool,
}

const TOKEN: u64 = 1_000_000;

/// What one retry was charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Paid(u64);

impl Paid {
    pub(crate) const NOTHING: Self = Self(0);
}

impl Budget {
    /// The default: 10 % of successes, with a burst worth half a second of this process's own traffic and at least one
    /// retry, so that a fleet amplifies alike whatever its size. A process that has just begun, or makes few calls, has
    /// that one.
    pub fn standard() -> Self {
        Self::kind(Kinds::Adaptive(Adaptive::new(TOKEN / 10, Duration::from_millis(500), 1)))
    }

    /// As [`standard`](Budget::standard), with another share of successes, another burst, and another number of retries
    /// that are possible however little is going on. A fleet of `n` processes can make `n × at_least` retries on top of
    /// its share in an outage.
    ///
    /// # Errors
    ///
    /// Unless the share is between 0 and 1.
    pub fn adaptive(share: f64, burst: Duration, at_least: u32) -> Result<Self, ConfigError> {
        Ok(Self::kind(Kinds::Adaptive(Adaptive::new(millionths("share", share)?, burst, at_least))))
    }

    /// A bucket of this size, full at first, that each retry takes one token from and each success puts this share of
    /// one into.
    ///
    /// # Errors
    ///
    /// Unless the share is between 0 and 1.
    pub fn ratio(share: f64, capacity: u32) -> Result<Self, ConfigError> {
        let success = millionths("share", share)?;
        let costs = Costs { retry: TOKEN, throttled: TOKEN, timeout: TOKEN, success, refund: false };
        Ok(Self::bucket(capacity, costs))
    }

    /// AWS "standard" 2.1: 500 tokens; a retry costs 14, after throttling 5; a success after a retry refunds the last
    /// one's cost, any other success gives 1.
    pub fn aws_2_1() -> Self {
        let costs = Costs {
            retry: 14 * TOKEN,
            throttled: 5 * TOKEN,
            timeout: 14 * TOKEN,
            success: TOKEN,
            refund: true,
        };
        Self::bucket(500, costs)
    }

    /// AWS "standard" 2.0: 500 tokens; a retry costs 5, after a time-out 10; refunds as 2.1.
    pub fn aws_2_0() -> Self {
        let costs = Costs {
            retry: 5 * TOKEN,
            throttled: 5 * TOKEN,
            timeout: 10 * TOKEN,
            success: TOKEN,
            refund: true,
        };
        Self::bucket(500, costs)
    }

    /// gRPC A6 retry throttling: retries while more than half of `max_tokens` is left; each failure takes one token,
    /// each OK gives `token_ratio`, of which three decimals count.
    ///
    /// # Errors
    ///
    /// Unless `max_tokens` is 1 to 1000 and `token_ratio` at least 0.001 and at most 1000.
    pub fn grpc_throttle(max_tokens: u32, token_ratio: f64) -> Result<Self, ConfigError> {
        if !(1..=1000).contains(&max_tokens) {
            return Err(ConfigError::new("max_tokens", max_tokens, "must be between 1 and 1000 (gRPC A6)"));
        }
        if !(0.001..=1000.0).contains(&token_ratio) {
            return Err(ConfigError::new(
                "token_ratio",
                token_ratio,
                "must be between 0.001 and 1000 (gRPC A6)",
            ));
        }
        // A6 ignores what follows the third decimal; what is added makes up for binary fractions just below it.
        let ratio = (token_ratio * 1000.0 + 1e-6).floor() as u64 * (TOKEN / 1000);
        Ok(Self::kind(Kinds::Throttle { tokens: Bucket::full(max_tokens), ratio }))
    }

    /// No limit. Only where something else limits retries.
    pub fn unlimited() -> Self {
        Self::kind(Kinds::Unlimited)
    }

    fn bucket(capacity: u32, costs: Costs) -> Self {
        Self::kind(Kinds::Bucket { tokens: Bucket::full(capacity), costs })
    }

    fn kind(kind: Kinds) -> Self {
        Self(Arc::new(kind))
    }

    /// How many retries (for AWS and gRPC: tokens) are in hand; infinite without a limit.
    pub fn tokens(&self) -> f64 {
        match &*self.0 {
            Kinds::Unlimited => f64::INFINITY,
            Kinds::Adaptive(adaptive) => adaptive.tokens(),
            Kinds::Bucket { tokens, .. } | Kinds::Throttle { tokens, .. } => {
                tokens.get() as f64 / TOKEN as f64
            }
        }
    }

    /// A call succeeded; `paid` is what its last retry cost, if it needed one.
    #[inline]
    pub(crate) fn success(&self, paid: Option<Paid>) {
        match &*self.0 {
            Kinds::Unlimited => {}
            Kinds::Adaptive(adaptive) => adaptive.success(),
            Kinds::Bucket { tokens, costs } => tokens.add(match paid {
                Some(Paid(paid)) if costs.refund => paid,
                _ => costs.success,
            }),
            Kinds::Throttle { tokens, ratio } => tokens.add(*ratio),
        }
    }

    /// The caller's own fault (HTTP 404): worth as much as a success, except to gRPC, which credits nothing but OK.
    #[inline]
    pub(crate) fn rejected(&self, paid: Option<Paid>) {
        if !matches!(&*self.0, Kinds::Throttle { .. }) {
            self.success(paid);
        }
    }

    /// The retry that was paid for was not made.
    pub(crate) fn refund(&self, paid: Option<Paid>) {
        let Some(Paid(paid)) = paid else { return };
        match &*self.0 {
            Kinds::Unlimited | Kinds::Throttle { .. } => {}
            Kinds::Adaptive(adaptive) => {
                adaptive.settled(|ledger| ledger.tokens = ledger.tokens.saturating_add(paid))
            }
            Kinds::Bucket { tokens, .. } => tokens.add(paid),
        }
    }

    /// An attempt failed in a way that is retried, or the server asked not to be tried again.
    pub(crate) fn failure(&self) {
        if let Kinds::Throttle { tokens, .. } = &*self.0 {
            tokens.take_up_to(TOKEN);
        }
    }

    /// Pays for a retry, if that is possible; `rehearse` only says what it would cost.
    pub(crate) fn pay(&self, kind: Kind, rehearse: bool) -> Option<Paid> {
        match &*self.0 {
            Kinds::Unlimited => Some(Paid::NOTHING),
            Kinds::Adaptive(adaptive) => adaptive.pay(rehearse),
            Kinds::Bucket { tokens, costs } => {
                let cost = match kind {
                    Kind::Throttled => costs.throttled,
                    Kind::Timeout => costs.timeout,
                    _ => costs.retry,
                };
                let paid = if rehearse { tokens.get() >= cost } else { tokens.take(cost) };
                paid.then_some(Paid(cost))
            }
            Kinds::Throttle { tokens, .. } => (tokens.get() > tokens.capacity / 2).then_some(Paid::NOTHING),
        }
    }
}

/// The rule in words.
impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = |millionths: u64| millionths as f64 / TOKEN as f64;
        match &*self.0 {
            Kinds::Unlimited => f.write_str("unlimited"),
            Kinds::Adaptive(Adaptive { share, at_least, .. }) => {
                write!(f, "{} % of successes, at least {} in hand", whole(*share) * 100.0, whole(*at_least))
            }
            Kinds::Bucket { tokens, costs } => {
                write!(
                    f,
                    "{} tokens, {} for a retry, {} back for a success",
                    whole(tokens.capacity),
                    whole(costs.retry),
                    whole(costs.success)
                )
            }
            Kinds::Throttle { tokens, ratio } => {
                write!(
                    f,
                    "more than half of {} tokens, {} back for a success",
                    whole(tokens.capacity),
                    whole(*ratio)
                )
            }
        }
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self::standard()
    }
}

fn millionths(field: &'static str, share: f64) -> Result<u64, ConfigError> {
    if (0.0..=1.0).contains(&share) {
        Ok((share * TOKEN as f64).round() as u64)
    } else {
        Err(ConfigError::new(field, share, "must be between 0 and 1"))
    }
}

#[derive(Debug)]
struct Bucket {
    tokens: AtomicU64,
    capacity: u64,
}

impl Bucket {
    fn full(capacity: u32) -> Self {
        let capacity = u64::from(capacity) * TOKEN;
        Self { tokens: AtomicU64::new(capacity), capacity }
    }

    fn get(&self) -> u64 {
        self.tokens.load(Relaxed)
    }

    fn add(&self, amount: u64) {
        // A full bucket, which is the usual one, is not written.
        let added =
            |tokens: u64| (tokens < self.capacity).then(|| self.capacity.min(tokens.saturating_add(amount)));
        let _ = self.tokens.fetch_update(Relaxed, Relaxed, added);
    }

    fn take(&self, amount: u64) -> bool {
        self.tokens.fetch_update(Relaxed, Relaxed, |tokens| tokens.checked_sub(amount)).is_ok()
    }

    fn take_up_to(&self, amount: u64) {
        let _ = self.tokens.fetch_update(Relaxed, Relaxed, |tokens| Some(tokens.saturating_sub(amount)));
    }
}

#[cfg(all(test, buttress_loom))]
mod loom_models;

#[cfg(test)]
mod model;

#[cfg(test)]
mod tests;
