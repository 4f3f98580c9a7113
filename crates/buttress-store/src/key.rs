use std::fmt;
use std::sync::Arc;

use buttress_core::{ConfigError, Rng};

/// The longest scope, key or name that a store takes, in bytes.
pub const MAX_NAME: usize = 512;

/// What a claim is about: a key, within the scope (tenant, account, endpoint) in which it is unique.
///
/// Two scopes never see each other's keys. Neither part is ever printed: keys are as good as secrets where the answer of
/// a completed call can be had with one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScopedKey {
    scope: Arc<str>,
    key: Arc<str>,
}

impl ScopedKey {
    /// A key within a scope, which may be empty.
    ///
    /// # Errors
    ///
    /// If the key is empty, or one of the two is longer than [`MAX_NAME`].
    pub fn try_new(scope: impl Into<Arc<str>>, key: impl Into<Arc<str>>) -> Result<Self, ConfigError> {
        let (scope, key) = (scope.into(), key.into());
        within("scope", scope.len(), 0)?;
        within("key", key.len(), 1)?;
        Ok(Self { scope, key })
    }

    /// What sorts before every key.
    pub(crate) fn least() -> Self {
        Self { scope: "".into(), key: "".into() }
    }

    /// The scope.
    pub fn scope(&self) -> &str {
        &self.scope
    }

    /// The key.
    pub fn key(&self) -> &str {
        &self.key
    }
}

impl fmt::Debug for ScopedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ScopedKey({} + {} bytes)", self.scope.len(), self.key.len())
    }
}

/// The identity of one run of a workflow, unique in its store and chosen by whoever starts it. It is shown in listings and
/// errors, so nothing secret belongs in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(Arc<str>);

impl RunId {
    /// The run with this identity.
    ///
    /// # Errors
    ///
    /// If it is empty, longer than [`MAX_NAME`], or has control characters.
    pub fn try_new(id: impl Into<Arc<str>>) -> Result<Self, ConfigError> {
        let id = id.into();
        within("run id", id.len(), 1)?;
        if id.contains(char::is_control) {
            return Err(ConfigError::new("run id", id, "must have no control characters"));
        }
        Ok(Self(id))
    }

    /// What sorts before every identity.
    #[cfg(feature = "memory")]
    pub(crate) fn least() -> Self {
        Self("".into())
    }

    /// The identity as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn within(field: &'static str, bytes: usize, least: usize) -> Result<(), ConfigError> {
    if (least..=MAX_NAME).contains(&bytes) {
        return Ok(());
    }
    // The length, and not the value: it may be a secret.
    Err(ConfigError::new(
        field,
        format_args!("{bytes} bytes"),
        format!("must have {least} to {MAX_NAME} bytes"),
    ))
}

/// A hash of what must not change between two uses of one key: the same key with another fingerprint is an error.
///
/// Which hash is the caller's choice; a store only compares.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// This hash.
    pub const fn new(hash: [u8; 32]) -> Self {
        Self(hash)
    }

    /// The hash.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(f, "Fingerprint({a:02x}{b:02x}{c:02x}{d:02x}…)")
    }
}

/// Who holds a claim or a run: a random number, drawn for **one** attempt to get hold of it.
///
/// It makes every verb safe to repeat: a store recognises the owner whose answer was lost on the way, and gives the same
/// answer again. For the same reason two callers must never share one.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Owner(u128);

impl Owner {
    /// An owner that nobody else is.
    pub fn random() -> Self {
        let mut rng = Rng::from_system();
        let mut half = || u128::from(rng.between(0, u64::MAX));
        // Zero stands for nobody in stored rows.
        Self((half() << 64 | half()).max(1))
    }

    /// The owner with this number, for stores and for tests. `None` for zero, which is nobody.
    pub const fn from_u128(number: u128) -> Option<Self> {
        if number == 0 { None } else { Some(Self(number)) }
    }

    /// The number, never zero.
    pub const fn as_u128(self) -> u128 {
        self.0
    }
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Owner({:032x})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_a_key_nor_its_scope_is_printed() {
        let key = ScopedKey::try_new("tenant-a", "sk_live_1234").unwrap();
        assert_eq!(format!("{key:?}"), "ScopedKey(8 + 12 bytes)");
        let error = ScopedKey::try_new("", "secret".repeat(100)).unwrap_err().to_string();
        assert_eq!(error, "`key` is 600 bytes, but must have 1 to 512 bytes");
    }

    #[test]
    fn an_empty_key_and_an_empty_run_id_are_refused() {
        assert_eq!(ScopedKey::try_new("", "").unwrap_err().field(), "key");
        assert_eq!(RunId::try_new("").unwrap_err().field(), "run id");
        assert_eq!(RunId::try_new("a\nb").unwrap_err().field(), "run id");
    }

    #[test]
    fn owners_differ() {
        assert_ne!(Owner::random(), Owner::random());
        assert_eq!(Owner::from_u128(0), None);
    }
}
