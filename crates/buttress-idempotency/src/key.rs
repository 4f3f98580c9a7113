use std::fmt;

use buttress_store::{Fingerprint, ScopedKey};
use uuid::{Builder, Uuid};

use crate::config::Config;
use crate::error::InvalidKey;

/// The longest key that callers may send, in bytes.
pub const MAX_KEY: usize = 255;

/// Hashes what must not change between two calls with one key: BLAKE3 over its parts, each with its length, so that no two
/// lists of parts look alike.
///
/// ```
/// use buttress_idempotency::Hash;
///
/// let hash = |amount: u64, to: &str| Hash::new().part(amount.to_be_bytes()).part(to).fingerprint();
/// assert_eq!(hash(100, "alice"), hash(100, "alice"));
/// assert_ne!(hash(100, "alice"), hash(101, "alice"));
/// ```
#[derive(Clone)]
#[must_use]
pub struct Hash(blake3::Hasher);

impl Hash {
    /// Of nothing yet.
    pub fn new() -> Self {
        Self(blake3::Hasher::new())
    }

    /// Of this part, too.
    pub fn part(mut self, part: impl AsRef<[u8]>) -> Self {
        self.add(part.as_ref());
        self
    }

    /// Adds a part.
    pub fn add(&mut self, part: &[u8]) {
        self.0.update(&(part.len() as u64).to_be_bytes());
        self.0.update(part);
    }

    /// The hash.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::new(*self.0.finalize().as_bytes())
    }
}

impl Default for Hash {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hash")
    }
}

/// A key that follows from others, as a UUID (version 8): the same parts always give the same one, and it says nothing
/// about them.
pub(crate) fn derive(parts: &[&[u8]]) -> String {
    let mut hasher = blake3::Hasher::new_derive_key("buttress-idempotency 2026 derived key");
    for part in parts {
        hasher.update(&(part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    let mut bytes = [0; 16];
    hasher.finalize_xof().fill(&mut bytes);
    Builder::from_custom_bytes(bytes).into_uuid().to_string()
}

/// A new key: a UUID of version 7 (RFC 9562 § 5.7), which holds the time at which it was made.
pub fn new_key() -> String {
    Uuid::now_v7().to_string()
}

/// The key that a header's value holds: a string of RFC 8941 (`"…"`, as the IETF draft has it) or bare, as most clients
/// send it; both are the same key.
///
/// # Errors
///
/// If it is empty, longer than [`MAX_KEY`], or has characters other than visible ASCII and inner spaces.
pub fn parse_key(value: &[u8]) -> Result<String, InvalidKey> {
    let value = value.trim_ascii();
    let quoted = value.strip_prefix(b"\"");
    let mut key = Vec::with_capacity(value.len().min(MAX_KEY + 1));
    let mut rest = quoted.unwrap_or(value).iter().copied();
    let mut closed = quoted.is_none();
    while let Some(byte) = rest.next() {
        let byte = match (byte, quoted.is_some()) {
            (b'"', true) => {
                closed = true;
                break;
            }
            (b'\\', true) => match rest.next() {
                Some(escaped @ (b'"' | b'\\')) => escaped,
                _ => return Err(InvalidKey::Malformed),
            },
            (b'"', false) => return Err(InvalidKey::Malformed),
            (byte, _) => byte,
        };
        if !(0x20..0x7f).contains(&byte) {
            return Err(InvalidKey::Malformed);
        }
        if key.len() == MAX_KEY {
            return Err(InvalidKey::TooLong);
        }
        key.push(byte);
    }
    if !closed || rest.next().is_some() {
        return Err(InvalidKey::Malformed);
    }
    if key.trim_ascii().is_empty() {
        return Err(InvalidKey::Empty);
    }
    String::from_utf8(key).map_err(|_| InvalidKey::Malformed)
}

/// The right to carry out one call, as whoever carries it out sees it. In the extensions of HTTP requests.
///
/// It gives what makes the effect safe beyond this process: a fencing token, and keys for the calls that the effect makes
/// in turn. Its `Debug` shows no key.
#[derive(Clone, Debug)]
pub struct Claim {
    pub(crate) claim: buttress_store::Claim,
    #[cfg(feature = "postgres")]
    pub(crate) transaction: crate::transaction::Transaction,
}

impl Claim {
    pub(crate) fn new(claim: buttress_store::Claim, config: &Config) -> Self {
        #[cfg(not(feature = "postgres"))]
        let _ = config;
        Self {
            claim,
            #[cfg(feature = "postgres")]
            transaction: crate::transaction::Transaction::new(config),
        }
    }

    /// What was claimed.
    pub fn key(&self) -> &ScopedKey {
        self.claim.key()
    }

    /// The fencing token: it grows with each owner of the key, so whatever the effect writes to can refuse a smaller one
    /// than it has seen.
    ///
    /// It grows within one use of the key only. A key that the store has forgotten, after the time to live of its answer or
    /// because the first owner released it, starts at 1 again: whoever keeps the largest token has to forget it as early, or to
    /// keep it beside the row that this use of the key is about.
    pub fn epoch(&self) -> u64 {
        self.claim.epoch()
    }

    /// How many earlier owners left the effect unknown. Above zero, look before acting.
    pub fn unfinished(&self) -> u32 {
        self.claim.unfinished()
    }

    /// Whether anything is claimed. If not, because the store failed and calls are carried out all the same, or because the
    /// layer only observes, the [epoch](Claim::epoch) is 0 and fences nothing; [derived](Claim::derive) keys are as ever.
    pub fn is_protected(&self) -> bool {
        self.epoch() > 0
    }

    /// The key for a call that the effect makes in turn: the same at every attempt, another for each name. A UUID, so that
    /// it suits every API.
    ///
    /// ```
    /// # use buttress_idempotency::Claim;
    /// fn charge_key(claim: &Claim) -> String {
    ///     claim.derive("charge")
    /// }
    /// ```
    pub fn derive(&self, name: &str) -> String {
        derive(&[self.key().scope().as_bytes(), self.key().key().as_bytes(), name.as_bytes()])
    }

    /// For an effect that is carried out although nothing can be claimed: epoch 0.
    pub(crate) fn unprotected(key: ScopedKey, fingerprint: Fingerprint) -> Self {
        let request = buttress_store::ClaimRequest::new(key, fingerprint, std::time::Duration::ZERO);
        Self::new(request.granted(0, 0), &Config::new())
    }

    /// The claim as the store knows it.
    pub fn stored(&self) -> &buttress_store::Claim {
        &self.claim
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_and_bare_are_the_same_key() {
        assert_eq!(parse_key(b"abc-1").unwrap(), "abc-1");
        assert_eq!(parse_key(b" \"abc-1\" ").unwrap(), "abc-1");
        assert_eq!(parse_key(br#""a\"b\\""#).unwrap(), r#"a"b\"#);
        assert_eq!(parse_key(&[b'k'; 255]).unwrap().len(), 255);
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for (value, why) in [
            (&b""[..], InvalidKey::Empty),
            (b"\"\"", InvalidKey::Empty),
            (b"\" \"", InvalidKey::Empty),
            (&[b'k'; 256], InvalidKey::TooLong),
            (b"a\tb", InvalidKey::Malformed),
            (b"a\x00b", InvalidKey::Malformed),
            (b"caf\xe9", InvalidKey::Malformed),
            (b"\"open", InvalidKey::Malformed),
            (b"\"a\"b", InvalidKey::Malformed),
            (b"a\"b", InvalidKey::Malformed),
        ] {
            assert_eq!(parse_key(value), Err(why), "{value:?}");
        }
    }

    #[test]
    fn derived_keys_are_stable_and_differ_by_every_part() {
        let derive = |parts: [&str; 3]| derive(&parts.map(str::as_bytes));
        assert_eq!(derive(["", "k", "charge"]), derive(["", "k", "charge"]));
        let others = [["k", "", "charge"], ["", "k", "mail"], ["", "kc", "harge"]];
        assert!(others.iter().all(|parts| derive(*parts) != derive(["", "k", "charge"])));
        assert_eq!(Uuid::parse_str(&derive(["a", "", ""])).unwrap().get_version_num(), 8);
    }
}
