//! How many retries may be made at all, whatever each single call would like.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use buttress_core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use buttress_core::{ConfigError, Kind};

mod adaptive;
mod bucket;

use adaptive::Adaptive;
use bucket::Bucket;

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
pub struct Budget(Arc<Shared>);

/// What clones share: the rule, which may change, and what has been earned by it.
#[derive(Debug)]
struct Shared {
    rule: Mutex<Rule>,
    /// What a success has to know of the rule: `what it is worth << 3 | kind`.
    success: AtomicU64,
    tokens: Bucket,
    adaptive: Adaptive,
}

/// Amounts are in millionths of a token.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Rule {
    Unlimited,
    Adaptive {
        /// Per success.
        share: u64,
        burst: Duration,
        at_least: u64,
    },
    /// A plain bucket.
    Bucket {
        capacity: u64,
        costs: Costs,
    },
    /// gRPC A6.
    Throttle {
        capacity: u64,
        ratio: u64,
    },
}

const KIND: u64 = 0b111;
const UNLIMITED: u64 = 0;
const ADAPTIVE: u64 = 1;
const BUCKET: u64 = 2;
/// A [`BUCKET`] that gives back what the last retry cost.
const REFUNDING: u64 = 3;
const THROTTLE: u64 = 4;

impl Rule {
    fn success(self) -> u64 {
        match self {
            Self::Unlimited => UNLIMITED,
            Self::Adaptive { .. } => ADAPTIVE,
            Self::Bucket { costs: Costs { success, refund, .. }, .. } => {
                success << 3 | if refund { REFUNDING } else { BUCKET }
            }
            Self::Throttle { ratio, .. } => ratio << 3 | THROTTLE,
        }
    }

    fn capacity(self) -> u64 {
        match self {
            Self::Unlimited | Self::Adaptive { .. } => 0,
            Self::Bucket { capacity, .. } | Self::Throttle { capacity, .. } => capacity,
        }
    }
}

/// What a [`Rule::Bucket`] takes and gives.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Costs {
    retry: u64,
    /// Also for a conflict, which AWS counts among them.
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

/// What was paid for an attempt that is still to be made: it goes back if this is dropped before.
#[derive(Debug, Default)]
pub(crate) struct Prepaid(Option<(Budget, Paid)>);

impl Prepaid {
    /// The attempt is made.
    pub(crate) fn spend(&mut self) {
        self.0 = None;
    }
}

impl Drop for Prepaid {
    fn drop(&mut self) {
        if let Some((budget, paid)) = self.0.take() {
            budget.refund(Some(paid));
        }
    }
}

impl Budget {
    /// The default: 10 % of successes, with a burst worth half a second of this process's own traffic and at least one
    /// retry, so that a fleet amplifies alike whatever its size. A process that has just begun, or makes few calls, has
    /// that one.
    pub fn standard() -> Self {
        Self::of(Rule::adaptive(TOKEN / 10, Duration::from_millis(500), 1))
    }

    /// As [`standard`](Budget::standard), with another share of successes, another burst, and another number of retries
    /// that are possible however little is going on. A fleet of `n` processes can make `n × at_least` retries on top of
    /// its share in an outage.
    ///
    /// # Errors
    ///
    /// Unless the share is between 0 and 1.
    pub fn adaptive(share: f64, burst: Duration, at_least: u32) -> Result<Self, ConfigError> {
        Ok(Self::of(Rule::adaptive(millionths("share", share)?, burst, at_least)))
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
        Ok(Self::of(Rule::Throttle { capacity: u64::from(max_tokens) * TOKEN, ratio }))
    }

    /// No limit. Only where something else limits retries.
    pub fn unlimited() -> Self {
        Self::of(Rule::Unlimited)
    }

    fn bucket(capacity: u32, costs: Costs) -> Self {
        Self::of(Rule::Bucket { capacity: u64::from(capacity) * TOKEN, costs })
    }

    fn of(rule: Rule) -> Self {
        let (tokens, adaptive) = (Bucket::full(rule.capacity()), Adaptive::default());
        if let Rule::Adaptive { share, burst, at_least } = rule {
            adaptive.begin(share, burst, at_least);
        }
        Self(Arc::new(Shared { success: rule.success().into(), tokens, adaptive, rule: Mutex::new(rule) }))
    }

    fn rule(&self) -> Rule {
        *self.0.rule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Obeys the other's rule from now on, with all who share this one. What is in hand stays, as far as the new size goes; with
    /// a rule of another kind it begins as a new budget does.
    ///
    /// ```
    /// use buttress_retry::Budget;
    ///
    /// let budget = Budget::ratio(0.1, 20)?;
    /// let shared = budget.clone();
    /// budget.become_like(&Budget::ratio(0.2, 5)?);
    /// assert_eq!(shared.tokens(), 5.0);
    /// # Ok::<(), buttress_core::ConfigError>(())
    /// ```
    pub fn become_like(&self, other: &Self) {
        let rule = other.rule();
        // Held to the end: of two who change the rule at once, all of one's comes after all of the other's.
        let mut current = self.0.rule.lock().unwrap_or_else(PoisonError::into_inner);
        let Shared { success, tokens, adaptive, .. } = &*self.0;
        match (*current, rule) {
            (old, new) if old == new => {}
            (Rule::Adaptive { .. }, Rule::Adaptive { share, burst, at_least }) => {
                adaptive.change(share, burst, at_least);
            }
            (_, Rule::Adaptive { share, burst, at_least }) => adaptive.begin(share, burst, at_least),
            (Rule::Bucket { .. }, Rule::Bucket { capacity, .. })
            | (Rule::Throttle { .. }, Rule::Throttle { capacity, .. }) => tokens.resize(capacity),
            (_, new) => tokens.refill(new.capacity()),
        }
        success.swap(rule.success(), Relaxed);
        *current = rule;
    }

    /// How many retries (for AWS and gRPC: tokens) are in hand; infinite without a limit.
    pub fn tokens(&self) -> f64 {
        match self.rule() {
            Rule::Unlimited => f64::INFINITY,
            Rule::Adaptive { .. } => self.0.adaptive.tokens(),
            Rule::Bucket { .. } | Rule::Throttle { .. } => self.0.tokens.get() as f64 / TOKEN as f64,
        }
    }

    /// A call succeeded; `paid` is what its last retry cost, if it needed one.
    #[inline]
    pub(crate) fn success(&self, paid: Option<Paid>) {
        let success = self.0.success.load(Relaxed);
        match success & KIND {
            ADAPTIVE => self.0.adaptive.success(),
            UNLIMITED => {}
            kind => self.0.tokens.add(match paid {
                Some(Paid(paid)) if kind == REFUNDING => paid,
                _ => success >> 3,
            }),
        }
    }

    /// The caller's own fault (HTTP 404): worth as much as a success, except to gRPC, which credits nothing but OK.
    #[inline]
    pub(crate) fn rejected(&self, paid: Option<Paid>) {
        if self.0.success.load(Relaxed) & KIND != THROTTLE {
            self.success(paid);
        }
    }

    /// Keeps what was paid until the attempt is made.
    pub(crate) fn prepaid(&self, paid: Option<Paid>) -> Prepaid {
        Prepaid(paid.filter(|paid| *paid != Paid::NOTHING).map(|paid| (self.clone(), paid)))
    }

    /// The retry that was paid for was not made.
    pub(crate) fn refund(&self, paid: Option<Paid>) {
        let Some(Paid(paid)) = paid else { return };
        match self.rule() {
            Rule::Unlimited | Rule::Throttle { .. } => {}
            Rule::Adaptive { .. } => {
                self.0.adaptive.settled(|ledger| ledger.tokens = ledger.tokens.saturating_add(paid))
            }
            Rule::Bucket { .. } => self.0.tokens.add(paid),
        }
    }

    /// An attempt failed in a way that is retried, or the server asked not to be tried again.
    pub(crate) fn failure(&self) {
        if let Rule::Throttle { .. } = self.rule() {
            self.0.tokens.take_up_to(TOKEN);
        }
    }

    /// Pays for a retry, if that is possible; `rehearse` only says what it would cost.
    pub(crate) fn pay(&self, kind: Kind, rehearse: bool) -> Option<Paid> {
        let tokens = &self.0.tokens;
        match self.rule() {
            Rule::Unlimited => Some(Paid::NOTHING),
            Rule::Adaptive { .. } => self.0.adaptive.pay(rehearse),
            Rule::Bucket { costs, .. } => {
                let cost = match kind {
                    Kind::Throttled | Kind::Conflict => costs.throttled,
                    Kind::Timeout => costs.timeout,
                    _ => costs.retry,
                };
                let paid = if rehearse { tokens.get() >= cost } else { tokens.take(cost) };
                paid.then_some(Paid(cost))
            }
            Rule::Throttle { capacity, .. } => (tokens.get() > capacity / 2).then_some(Paid::NOTHING),
        }
    }
}

/// The rule in words.
impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = |millionths: u64| millionths as f64 / TOKEN as f64;
        match self.rule() {
            Rule::Unlimited => f.write_str("unlimited"),
            Rule::Adaptive { share, at_least, .. } => {
                write!(f, "{} % of successes, at least {} in hand", whole(share) * 100.0, whole(at_least))
            }
            Rule::Bucket { capacity, costs } => {
                write!(
                    f,
                    "{} tokens, {} for a retry, {} back for a success",
                    whole(capacity),
                    whole(costs.retry),
                    whole(costs.success)
                )
            }
            Rule::Throttle { capacity, ratio } => {
                write!(f, "more than half of {} tokens, {} back for a success", whole(capacity), whole(ratio))
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

impl Rule {
    fn adaptive(share: u64, burst: Duration, at_least: u32) -> Self {
        Self::Adaptive { share, burst, at_least: u64::from(at_least) * TOKEN }
    }
}

#[cfg(all(test, buttress_loom))]
mod loom_models;

#[cfg(test)]
mod model;

#[cfg(test)]
mod tests;
