//! Keys and fingerprints: what is derived from what, for ever the same.

use std::sync::Arc;

use buttress_store::Fingerprint;
use sha2::{Digest, Sha256};

/// The idempotency key of a step: the same in every attempt, on every machine. 32 hexadecimal digits, half a SHA-256.
pub(crate) fn derive(root: &str, name: &str, occurrence: u32) -> Arc<str> {
    let mut hash = Sha256::new();
    // Each part with its length, so that no two steps have the same bytes.
    hash.update(b"buttress step key 1");
    for part in [root, name] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    hash.update(occurrence.to_be_bytes());
    let digits = digits(hash.finalize().into());
    text(&digits).into()
}

/// What the keys of a new run are derived from: chance, so that a run in another database, or one that is begun again when
/// the first is pruned, has others.
pub(crate) fn root() -> String {
    format!("{:032x}", buttress_store::Owner::random().as_u128())
}

/// What must not change between two uses of one identity.
pub(crate) fn fingerprint(bytes: &[u8]) -> Fingerprint {
    Fingerprint::new(Sha256::digest(bytes).into())
}

/// The fingerprint of a step's input, short enough for each entry of a journal.
pub(crate) fn short(bytes: &[u8]) -> String {
    text(&digits(Sha256::digest(bytes).into())).to_owned()
}

/// The first half of a hash. Not with `format!`, which takes longer than the hash.
fn digits(hash: [u8; 32]) -> [u8; 32] {
    std::array::from_fn(|index| {
        let shift = if index % 2 == 0 { 4 } else { 0 };
        b"0123456789abcdef"[usize::from(hash[index / 2] >> shift & 0xf)]
    })
}

fn text(digits: &[u8; 32]) -> &str {
    std::str::from_utf8(digits).expect("they are ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_never_changes_and_no_two_steps_share_one() {
        // If this changes, steps that are repeated across an upgrade are sent under another key.
        assert_eq!(&*derive("order-42", "charge", 0), "9bd6136c2a9e2872aef317ff38fc27ca");
        let parts = [("a", "bc", 0), ("ab", "c", 0), ("a", "bc", 1), ("", "abc", 0)];
        let keys: std::collections::HashSet<_> =
            parts.map(|(root, name, nth)| derive(root, name, nth)).into();
        assert_eq!(keys.len(), parts.len());
    }
}
