use std::fmt;
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;

use crate::error::StoreError;
use crate::key::{Fingerprint, Owner, ScopedKey};

/// Where claims are kept: who may run the effect of a key, and what it came to.
///
/// A key is free, claimed or done. Every verb is one atomic step of the store; every write is compared with the epoch
/// **and** the owner of the claim that it is made for, so that whoever lost a claim can neither complete nor release it.
/// All times are measured on the *store's* clock.
///
/// ```text
///            claim                complete                 ttl over
///    free ──────────▸ claimed ──────────────▸ done ─────────────────────▸ free
///      ▴    release │    │ ▴ claim (lease over): epoch + 1, unfinished + 1
///      └────────────┘    └─┘ renew
/// ```
///
/// # Leases
///
/// A lease that is over allows others to take the claim; until one of them does it is still its owner's, who may renew,
/// complete or release it. A lease of zero is over at once.
///
/// # Repeating, and dropped futures
///
/// Repeating a verb with the same arguments is safe, and gives what the first time gave: a claim is given to the same
/// [`Owner`] again, and a completion that its own claim has made already is [`Written::Applied`]. So after an error whose
/// [effect](StoreError::effect) is unknown, or after a future was dropped, ask again with the **same** owner. A dropped
/// future may or may not have had its effect, and never half of it.
pub trait ClaimStore: Clone + Send + Sync + 'static {
    /// Takes the key if it is free, or claimed with a lease that is over.
    ///
    /// # Errors
    ///
    /// If the store fails: then nothing may be run.
    fn claim(&self, request: &ClaimRequest) -> impl Future<Output = Result<Claimed, StoreError>> + Send;

    /// Starts the lease anew, from the store's now. It may become shorter.
    ///
    /// # Errors
    ///
    /// If the store fails: the lease ends when it would have ended.
    fn renew(
        &self,
        claim: &Claim,
        lease: Duration,
    ) -> impl Future<Output = Result<Written, StoreError>> + Send;

    /// Records what the effect came to, for `ttl` from now: from completion, and not from the claim.
    ///
    /// # Errors
    ///
    /// If the store fails, or the record is [too large](crate::Fault::TooLarge): the claim stays as it is.
    fn complete(
        &self,
        claim: &Claim,
        record: &Record,
        ttl: Duration,
    ) -> impl Future<Output = Result<Written, StoreError>> + Send;

    /// Gives the claim up because its effect has certainly not begun.
    ///
    /// The key is free at once. Where earlier owners were left unfinished it stays known as that: the next claim can be had
    /// at once, and has the same [`unfinished`](Claim::unfinished) as this one. Releasing what is no longer stored is
    /// [`Written::Applied`].
    ///
    /// # Errors
    ///
    /// If the store fails: the lease ends when it would have ended.
    fn release(&self, claim: &Claim) -> impl Future<Output = Result<Written, StoreError>> + Send;

    /// Waits until the key is no longer claimed by somebody whose lease runs, for `max` at most; with zero it only looks.
    /// Claims nothing and changes nothing.
    ///
    /// # Errors
    ///
    /// If the store fails.
    fn wait(
        &self,
        key: &ScopedKey,
        fingerprint: &Fingerprint,
        max: Duration,
    ) -> impl Future<Output = Result<Waited, StoreError>> + Send;

    /// Deletes at most `max` rows that are of no use any more, and says how many there were: records past their time to
    /// live, and unfinished claims past theirs. What is swept was free before. See [`Sweeper`](crate::Sweeper).
    ///
    /// # Errors
    ///
    /// If the store fails: the rows stay until the next time.
    fn sweep(&self, max: u32) -> impl Future<Output = Result<u64, StoreError>> + Send;
}

/// What somebody asks for who wants to run the effect of a key.
#[derive(Clone, Debug)]
pub struct ClaimRequest {
    key: ScopedKey,
    fingerprint: Fingerprint,
    owner: Owner,
    lease: Duration,
    keep: Duration,
}

impl ClaimRequest {
    /// For how long a claim whose lease is over is remembered by default: 24 hours.
    pub const KEEP: Duration = Duration::from_secs(86_400);

    /// A new [owner](Owner::random) asks for a key, for as long as `lease`.
    pub fn new(key: ScopedKey, fingerprint: Fingerprint, lease: Duration) -> Self {
        Self { key, fingerprint, owner: Owner::random(), lease, keep: Self::KEEP }
    }

    /// The owner, to repeat what one has asked before.
    #[must_use]
    pub fn owned_by(mut self, owner: Owner) -> Self {
        self.owner = owner;
        self
    }

    /// For how long the claim is remembered after its lease ended without a completion: that long the next owner learns that
    /// there was one before it. [`ClaimRequest::KEEP`] by default.
    #[must_use]
    pub fn keep(mut self, keep: Duration) -> Self {
        self.keep = keep;
        self
    }

    /// What is asked for.
    pub fn key(&self) -> &ScopedKey {
        &self.key
    }

    /// What must be the same whenever this key is used.
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// Who asks.
    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// For how long.
    pub fn lease(&self) -> Duration {
        self.lease
    }

    /// For how long after that it is remembered.
    pub fn kept_for(&self) -> Duration {
        self.keep
    }

    /// The claim that a store gives for this request; for implementations of [`ClaimStore`].
    pub fn granted(&self, epoch: u64, unfinished: u32) -> Claim {
        Claim { key: self.key.clone(), owner: self.owner, epoch, unfinished, keep: self.keep }
    }
}

/// The right to run the effect of a key, as long as nobody else has taken it.
///
/// It is proof, and not a guard: dropping it does nothing, and its lease goes on.
#[derive(Clone, Debug)]
pub struct Claim {
    key: ScopedKey,
    owner: Owner,
    epoch: u64,
    unfinished: u32,
    keep: Duration,
}

impl Claim {
    /// What was claimed.
    pub fn key(&self) -> &ScopedKey {
        &self.key
    }

    /// Who holds it.
    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// Which owner of the key this is, from 1 on. It grows with each, so it can serve as a fencing token; once a key is
    /// forgotten, it starts at 1 again.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// How many earlier owners have neither completed nor released the key: each of them may have had the effect, or a part
    /// of it, and perhaps still works on it. Zero if this is the first try.
    pub fn unfinished(&self) -> u32 {
        self.unfinished
    }

    /// For how long it is remembered after its lease ended without a completion.
    pub fn kept_for(&self) -> Duration {
        self.keep
    }
}

/// What a claim came to.
#[derive(Clone, Debug)]
pub enum Claimed {
    /// The caller has it. Look at [`Claim::unfinished`] before running anything.
    Owned(Claim),
    /// It is done, and this is what it came to.
    Done(Record),
    /// Somebody else has it.
    InFlight {
        /// Time until the lease of whoever has it is over, unless it is renewed.
        remaining: Duration,
    },
    /// The key is in use with another fingerprint. Nothing is said about what it came to.
    Mismatch,
}

/// What waiting for a key came to.
#[derive(Clone, Debug)]
pub enum Waited {
    /// It is done, and this is what it came to.
    Done(Record),
    /// Nobody has it: it was never claimed, or released, or its lease is over. It can be claimed.
    Free,
    /// Somebody still has it.
    InFlight {
        /// Time until the lease of whoever has it is over, unless it is renewed.
        remaining: Duration,
    },
    /// The key is in use with another fingerprint.
    Mismatch,
}

/// What a write with a claim came to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a claim that is lost must not go on"]
pub enum Written {
    /// It is stored.
    Applied,
    /// The claim is lost, and nothing was changed: somebody else took it after its lease was over, or it was released, or
    /// forgotten.
    Fenced {
        /// What the winner's effect came to, if it is done. It is what the caller of the lost claim should get.
        winner: Option<Record>,
    },
}

/// What an effect came to, as it is kept for whoever asks again.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Record {
    /// The answer, encoded by whoever completed the claim.
    Value(Bytes),
    /// The effect is done, but its answer could not be kept: it was too large, or it broke off, or did not end.
    TooLarge,
    /// The effect may have been applied; nobody knows, and it was decided not to try again.
    Unknown,
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(value) => write!(f, "Value({} bytes)", value.len()),
            Self::TooLarge => f.write_str("TooLarge"),
            Self::Unknown => f.write_str("Unknown"),
        }
    }
}
