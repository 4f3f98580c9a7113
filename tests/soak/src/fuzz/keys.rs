use std::fmt::Write;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use buttress::idempotency::{HttpKeys, Identify, MAX_KEY, parse_key};
use buttress::store::Fingerprint;
use http::Request;

use crate::draw::Draw;

/// Values of `Idempotency-Key`: whatever is taken for a key is one, and is the same in quotes and without.
pub(super) fn keys(draw: &mut Draw) {
    let value = match draw.below(3) {
        0 => draw.bytes(300),
        1 => draw.mutated("7f1a5c1e-8c0b-7d3e-9a51-0f6f2b6f0c55", "\"order \\\"42\\\" of \\\\ today\""),
        _ => draw.mutated("\"order-42\"", "order-43"),
    };
    let Ok(key) = parse_key(&value) else { return };
    let shown = String::from_utf8_lossy(&value);
    assert!(!key.trim().is_empty() && key.len() <= MAX_KEY, "{shown:?}");
    assert!(key.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{shown:?}");
    let quoted = format!("\"{}\"", key.replace('\\', "\\\\").replace('"', "\\\""));
    assert_eq!(parse_key(quoted.as_bytes()).as_ref(), Ok(&key), "{shown:?}");
    if !key.contains('"') && key.trim() == key {
        assert_eq!(parse_key(key.as_bytes()).as_ref(), Ok(&key), "{shown:?}");
    }
}

/// JSON that is compared: the same in another order and with other spaces, and another one with any change.
pub(super) fn json(draw: &mut Draw) {
    let value = Json::any(draw, 4);
    let (plain, other) =
        (value.written(&mut |_| false, draw), value.written(&mut |draw| draw.one_in(2), draw));
    assert_eq!(fingerprint(plain.as_bytes()), fingerprint(other.as_bytes()), "{plain} and {other}");
    let different = Json::any(draw, 4);
    if different != value {
        let different = different.written(&mut |_| false, draw);
        assert_ne!(
            fingerprint(plain.as_bytes()),
            fingerprint(different.as_bytes()),
            "{plain} and {different}"
        );
    }
    // What is no JSON counts as it is written.
    fingerprint(&draw.mutated(&plain, &other));
    fingerprint(&draw.bytes(40));
}

fn fingerprint(body: &[u8]) -> Fingerprint {
    let request = Request::post("/").header("idempotency-key", "k");
    let body = http_body_util::Full::new(bytes::Bytes::copy_from_slice(body));
    let identified = HttpKeys::default().canonical_json().identify(request.body(body).expect("valid"));
    match pin!(identified).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready((_, Ok(Some((_, fingerprint))))) => fingerprint,
        other => panic!("{:?}", other.map(|(_, identity)| identity)),
    }
}

#[derive(Debug, PartialEq)]
enum Json {
    Word(&'static str),
    Text(&'static str),
    List(Vec<Json>),
    /// In the order of their names.
    Object(Vec<(&'static str, Json)>),
}

impl Json {
    fn any(draw: &mut Draw, depth: usize) -> Self {
        const TEXTS: [&str; 8] = ["", "a", "b", "}", "]", "{", "\"", "[1]"];
        match draw.below(if depth == 0 { 2 } else { 4 }) {
            0 => Self::Word(draw.pick(&["null", "true", "0", "1", "1.0", "1e0", "100000000000000000000001"])),
            1 => Self::Text(draw.pick(&TEXTS)),
            2 => Self::List((0..draw.below(4)).map(|_| Self::any(draw, depth - 1)).collect()),
            _ => {
                let names = TEXTS.iter().filter(|_| draw.one_in(3)).copied().collect::<Vec<_>>();
                Self::Object(names.into_iter().map(|name| (name, Self::any(draw, depth - 1))).collect())
            }
        }
    }

    /// As text; `odd` says where to be different without saying anything else.
    fn written(&self, odd: &mut impl FnMut(&mut Draw) -> bool, draw: &mut Draw) -> String {
        let space = if odd(draw) { " \n" } else { "" };
        let text = |text: &str, escaped: bool| {
            let mut out = String::from('"');
            for symbol in text.chars() {
                match (symbol, escaped) {
                    (symbol, true) => write!(out, "\\u{:04x}", u32::from(symbol)).expect("there is room"),
                    ('"', _) => out.push_str("\\\""),
                    (symbol, _) => out.push(symbol),
                }
            }
            out + "\""
        };
        match self {
            Self::Word(word) => format!("{space}{word}{space}"),
            Self::Text(said) => format!("{space}{}{space}", text(said, odd(draw))),
            Self::List(list) => {
                let items: Vec<_> = list.iter().map(|item| item.written(odd, draw)).collect();
                format!("{space}[{}{space}]", items.join(","))
            }
            Self::Object(fields) => {
                let mut all: Vec<_> = fields
                    .iter()
                    .map(|(name, value)| {
                        let name = text(name, odd(draw));
                        format!("{space}{name}{space}:{}", value.written(odd, draw))
                    })
                    .collect();
                if odd(draw) {
                    all.reverse();
                }
                format!("{{{}{space}}}", all.join(","))
            }
        }
    }
}
