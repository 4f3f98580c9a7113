//! JSON that says the same in other words.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::key::Hash;

/// Deeper than this, JSON counts as it is written: each level is read once more than the one above it.
const DEPTH: usize = 32;

/// Hashes JSON without its spaces, the order of its keys and the escapes of its strings; numbers count as they are written, so
/// that none loses a digit. `None` if it is no JSON, or names a key twice.
pub(super) fn hash(json: &[u8]) -> Option<Hash> {
    let mut hash = Hash::new();
    add(&mut hash, serde_json::from_slice(json).ok()?, DEPTH)?;
    Some(hash)
}

fn add(hash: &mut Hash, raw: &RawValue, depth: usize) -> Option<()> {
    let text = raw.get();
    match text.as_bytes().first()? {
        b'{' if depth > 0 => {
            let mut fields = serde_json::from_str::<Fields<'_>>(text).ok()?.0;
            fields.sort_unstable_by(|a, b| a.0.cmp(&b.0));
            if fields.windows(2).any(|pair| pair[0].0 == pair[1].0) {
                return None;
            }
            hash.add(b"{");
            count(hash, fields.len());
            for (name, value) in fields {
                hash.add(name.as_bytes());
                add(hash, value, depth - 1)?;
            }
        }
        b'[' if depth > 0 => {
            let values = serde_json::from_str::<Vec<&RawValue>>(text).ok()?;
            hash.add(b"[");
            count(hash, values.len());
            for value in values {
                add(hash, value, depth - 1)?;
            }
        }
        b'"' => {
            hash.add(b"\"");
            hash.add(serde_json::from_str::<Text<'_>>(text).ok()?.0.as_bytes());
        }
        _ => hash.add(text.as_bytes()),
    }
    Some(())
}

/// Says how many values follow, so that none of them can be taken for the end.
fn count(hash: &mut Hash, values: usize) {
    hash.add(&(values as u64).to_be_bytes());
}

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

struct Fields<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Vec::new();
                while let Some((Text(name), value)) = map.next_entry()? {
                    fields.push((name, value));
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(a: &str, b: &str) -> bool {
        hash(a.as_bytes()).unwrap().fingerprint() == hash(b.as_bytes()).unwrap().fingerprint()
    }

    /// IA-7
    #[test]
    fn order_spaces_and_escapes_do_not_count() {
        assert!(same(r#"{"a":1,"b":[1,{"c":"x"}]}"#, "{ \"b\" : [1, {\"c\":\"\\u0078\"}],\n \"a\":1 }"));
        assert!(!same(r#"{"a":1}"#, r#"{"a":2}"#));
        assert!(!same(r#"{"a":"1"}"#, r#"{"a":1}"#));
        assert!(!same("[1,2]", "[2,1]"));
        assert!(!same("[[1],2]", "[[1,2]]"));
        assert!(!same("[[],1]", "[[1]]"));
        assert!(!same(r#"{"a":{},"b":1}"#, r#"{"a":{"b":1}}"#));
        assert!(!same("{\"wei\":100000000000000000000001}", "{\"wei\":100000000000000000000002}"));
    }

    /// IA-5: whatever names look like.
    #[test]
    fn names_that_look_like_syntax_are_no_syntax() {
        assert!(!same(r#"{"":{},"\"":"}"}"#, r#"{"":{"}":"\""}}"#));
        let names = ["", "{", "}", "[", "]", "\\\"", "0"];
        let objects = |inner: &[String]| -> Vec<String> {
            names
                .iter()
                .flat_map(|name| inner.iter().map(move |value| format!("{{\"{name}\":{value}}}")))
                .collect()
        };
        let texts: Vec<String> =
            names.iter().map(|name| format!("\"{name}\"")).chain(["{}".into(), "[]".into()]).collect();
        let (one, two) = (objects(&texts), objects(&objects(&texts)));
        let lists = texts.iter().flat_map(|a| texts.iter().map(move |b| format!("[{a},{b}]")));
        let all: Vec<String> = texts.iter().cloned().chain(one).chain(two).chain(lists).collect();
        let hashes: std::collections::HashSet<_> =
            all.iter().map(|json| hash(json.as_bytes()).unwrap().fingerprint()).collect();
        assert_eq!(hashes.len(), all.len());
    }

    #[test]
    fn what_is_no_json_or_ambiguous_is_not_hashed() {
        for json in ["", "{", "{\"a\":1,\"a\":2}", "{\"a\":1} x", "nul"] {
            assert!(hash(json.as_bytes()).is_none(), "{json}");
        }
        let deep = "[".repeat(100) + &"]".repeat(100);
        assert!(hash(deep.as_bytes()).is_some());
    }
}
