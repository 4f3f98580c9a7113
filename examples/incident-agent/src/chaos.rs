//! What the embedded vendors do instead of answering: a script for each.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::path::Path;
use std::time::Duration;

use buttress::core::clock::Seconds;
use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::input::{BadInput, Node, list, parse, read};
use crate::vendors::Vendor;

/// A script for each vendor; one without a script answers as it should.
#[derive(Clone, Debug, Default)]
pub(crate) struct Chaos {
    name: String,
    scripts: BTreeMap<Vendor, Vec<Step>>,
}

/// One thing that a vendor does, and for how long.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Step {
    pub(crate) action: Action,
    pub(crate) lasts: Lasts,
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// It is served.
    Pass,
    /// It is served later.
    Delay(Duration),
    /// It is answered with this, and not served.
    Answer(Answer),
    /// It is never answered.
    Hang,
    /// Its connection is reset before it is served.
    Reset,
    /// It is served, and its connection reset before the answer.
    LoseAnswer,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) body: Value,
}

/// For how long a step is followed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Lasts {
    Requests(u64),
    Time(Duration),
}

/// The script of a run that names none.
const DEFAULT: &str = include_str!("../chaos/default.json");

impl Chaos {
    /// `none`, `default`, or from a file.
    pub(crate) fn load(which: &Path) -> Result<Self, BadInput> {
        match which.to_str() {
            Some("none") => Ok(Self { name: "none".to_owned(), scripts: BTreeMap::new() }),
            Some("default") => {
                Ok(Self { name: "default".to_owned(), ..Self::from_json("chaos/default.json", DEFAULT)? })
            }
            _ => {
                let text = read(which, "give none, default, or the path of a JSON file")?;
                Self::from_json(&which.display().to_string(), &text)
            }
        }
    }

    pub(crate) fn from_json(file: &str, text: &str) -> Result<Self, BadInput> {
        let value = parse(file, text)?;
        let root = Node::root(file, &value);
        root.only(&Vendor::ALL.map(Vendor::as_str))?;
        let mut scripts = BTreeMap::new();
        for vendor in Vendor::ALL {
            if let Some(node) = root.optional(vendor.as_str()) {
                scripts.insert(vendor, node.items()?.iter().map(step).collect::<Result<_, _>>()?);
            }
        }
        Ok(Self { name: file.to_owned(), scripts })
    }

    /// What went into it: the file, or `none` or `default`.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether it has something for this vendor to do.
    pub(crate) fn concerns(&self, vendor: Vendor) -> bool {
        self.describe(vendor).is_some()
    }

    /// What a vendor does, in words; `None` if it has no script.
    pub(crate) fn describe(&self, vendor: Vendor) -> Option<String> {
        let steps = self.scripts.get(&vendor).filter(|steps| !steps.is_empty())?;
        Some(steps.iter().map(Step::to_string).collect::<Vec<_>>().join(", then "))
    }

    /// The script of one vendor, from its beginning.
    pub(crate) fn script(&self, vendor: Vendor) -> Script {
        let steps = self.scripts.get(&vendor).cloned().unwrap_or_default();
        Script { steps: steps.into(), since: None }
    }
}

const ACTIONS: [&str; 6] = ["answer", "delay", "hang", "lose_answer", "pass", "reset"];

fn step(node: &Node<'_>) -> Result<Step, BadInput> {
    let kind = node.field("do", &format!("say what to do: {}", list(&ACTIONS)))?;
    let only = |more: &[&str]| node.only(&[&["do", "requests", "seconds"], more].concat());
    let action = match kind.text()? {
        "answer" => {
            only(&["status", "retry_after", "headers", "body"])?;
            Action::Answer(answer(node)?)
        }
        "delay" => {
            only(&["milliseconds"])?;
            let time = node.field("milliseconds", "say how long: \"milliseconds\": 500")?;
            Action::Delay(Duration::from_millis(time.whole(1, 600_000)?))
        }
        "hang" => only(&[]).map(|()| Action::Hang)?,
        "lose_answer" => only(&[]).map(|()| Action::LoseAnswer)?,
        "pass" => only(&[]).map(|()| Action::Pass)?,
        "reset" => only(&[]).map(|()| Action::Reset)?,
        other => return Err(kind.bad(format!("is \"{other}\""), format!("use {}", list(&ACTIONS)))),
    };
    Ok(Step { action, lasts: lasts(node)? })
}

fn answer(node: &Node<'_>) -> Result<Answer, BadInput> {
    let status = node.field("status", "add the status to answer with: \"status\": 503")?;
    let status = StatusCode::from_u16(status.whole(200, 599)? as u16).expect("200 to 599 are statuses");
    let mut headers = Vec::new();
    if let Some(after) = node.optional("retry_after") {
        headers.push((http::header::RETRY_AFTER, HeaderValue::from(after.whole(0, 86_400)?)));
    }
    for (name, value) in node.optional("headers").map_or(Ok(Vec::new()), |node| node.fields())? {
        let bad = || value.bad("is no HTTP header", "use a name and a value that HTTP allows");
        let name = HeaderName::try_from(name).map_err(|_| bad())?;
        headers.push((name, HeaderValue::from_str(value.text()?).map_err(|_| bad())?));
    }
    let body = node.optional("body").map(|body| body.value().clone());
    Ok(Answer { status, headers, body: body.unwrap_or_else(|| json!({})) })
}

fn lasts(node: &Node<'_>) -> Result<Lasts, BadInput> {
    match (node.optional("requests"), node.optional("seconds")) {
        (Some(requests), None) => Ok(Lasts::Requests(requests.whole(1, 1_000_000)?)),
        (None, Some(seconds)) => {
            let time = seconds.number()?;
            if time > 0.0 && time <= 3600.0 {
                Ok(Lasts::Time(Duration::from_secs_f64(time)))
            } else {
                Err(seconds.bad(format!("is {time}"), "write a number above 0 and up to 3600"))
            }
        }
        (None, None) => Err(node.bad("does not end", "add \"requests\": 3 or \"seconds\": 5")),
        (Some(_), Some(seconds)) => {
            Err(seconds.bad("comes on top of `requests`", "keep one of `requests` and `seconds`"))
        }
    }
}

/// A script that is being followed. A step begins when the one before it ends, the first with the first request, and
/// what comes after the last is served.
#[derive(Debug)]
pub(crate) struct Script {
    steps: VecDeque<Step>,
    since: Option<Instant>,
}

impl Script {
    /// What becomes of a request that arrives now.
    pub(crate) fn next(&mut self, now: Instant) -> Action {
        let mut since = *self.since.get_or_insert(now);
        while let Some(Step { action, lasts }) = self.steps.front_mut() {
            match lasts {
                Lasts::Requests(left) => {
                    let action = action.clone();
                    *left -= 1;
                    if *left == 0 {
                        self.steps.pop_front();
                        self.since = Some(now);
                    }
                    return action;
                }
                Lasts::Time(time) if now < since + *time => return action.clone(),
                Lasts::Time(time) => {
                    since += *time;
                    self.since = Some(since);
                    self.steps.pop_front();
                }
            }
        }
        Action::Pass
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.action {
            Action::Pass => f.write_str("is well")?,
            Action::Delay(time) => write!(f, "takes {} more", Seconds(*time))?,
            Action::Answer(answer) => write!(f, "answers {}", answer.status.as_u16())?,
            Action::Hang => f.write_str("hangs")?,
            Action::Reset => f.write_str("resets the connection")?,
            Action::LoseAnswer => f.write_str("loses its answer")?,
        }
        match self.lasts {
            Lasts::Requests(1) => f.write_str(" for 1 request"),
            Lasts::Requests(n) => write!(f, " for {n} requests"),
            Lasts::Time(time) => write!(f, " for {}", Seconds(time)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        Chaos::from_json("x.json", text).unwrap_err().to_string()
    }

    #[test]
    fn the_bundled_scripts_can_be_read() {
        for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("chaos")).unwrap() {
            assert!(Chaos::load(&entry.unwrap().path()).unwrap().concerns(Vendor::Datadog));
        }
        let default = Chaos::load(Path::new("default")).unwrap();
        assert_eq!(
            default.describe(Vendor::Datadog).as_deref(),
            Some("answers 503 for 5 s, then hangs for 7 s")
        );
        assert!(!Chaos::load(Path::new("none")).unwrap().concerns(Vendor::Datadog));
    }

    #[tokio::test(start_paused = true)]
    async fn steps_follow_each_other_by_requests_and_by_the_clock() {
        let text = r#"{ "aws": [
            { "do": "reset", "requests": 2 }, { "do": "hang", "seconds": 2 }, { "do": "hang", "seconds": 1 },
            { "do": "lose_answer", "requests": 1 }
        ] }"#;
        let mut script = Chaos::from_json("x.json", text).unwrap().script(Vendor::Aws);
        let mut after = async |millis| {
            tokio::time::advance(Duration::from_millis(millis)).await;
            script.next(Instant::now())
        };
        assert_eq!((after(5000).await, after(10).await), (Action::Reset, Action::Reset));
        assert_eq!((after(0).await, after(1999).await), (Action::Hang, Action::Hang));
        assert_eq!((after(1001).await, after(0).await), (Action::LoseAnswer, Action::Pass));
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_in_seconds_passes_whether_or_not_anybody_asks() {
        let text = r#"{ "aws": [{ "do": "hang", "seconds": 2 }, { "do": "reset", "seconds": 2 }] }"#;
        let mut script = Chaos::from_json("x.json", text).unwrap().script(Vendor::Aws);
        assert_eq!(script.next(Instant::now()), Action::Hang);
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(script.next(Instant::now()), Action::Reset);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(script.next(Instant::now()), Action::Pass);
    }

    #[test]
    fn an_answer_has_what_the_file_says() {
        let text = r#"{ "pagerduty": [{ "do": "answer", "status": 429, "retry_after": 3,
            "headers": { "x-a": "b" }, "body": [1], "requests": 1 }] }"#;
        let mut script = Chaos::from_json("x.json", text).unwrap().script(Vendor::PagerDuty);
        let Action::Answer(answer) = script.next(Instant::now()) else { panic!("no answer") };
        assert_eq!((answer.status.as_u16(), answer.body), (429, json!([1])));
        let headers: Vec<_> =
            answer.headers.iter().map(|(k, v)| format!("{k}: {}", v.to_str().unwrap())).collect();
        assert_eq!(headers, ["retry-after: 3", "x-a: b"]);
    }

    #[test]
    fn every_mistake_is_named_with_its_path() {
        for (text, expected) in [
            ("[]", "x.json: is an array"),
            (r#"{ "gcp": [] }"#, "x.json: `gcp` is not known here"),
            (r#"{ "aws": {} }"#, "x.json: `aws` is an object"),
            (r#"{ "aws": [{ "requests": 1 }] }"#, "x.json: `aws[0].do` is missing"),
            (r#"{ "aws": [{ "do": "explode" }] }"#, "x.json: `aws[0].do` is \"explode\""),
            (r#"{ "aws": [{ "do": "hang" }] }"#, "x.json: `aws[0]` does not end"),
            (r#"{ "aws": [{ "do": "hang", "requests": 0 }] }"#, "x.json: `aws[0].requests` is 0"),
            (r#"{ "aws": [{ "do": "hang", "seconds": -1 }] }"#, "x.json: `aws[0].seconds` is -1"),
            (
                r#"{ "aws": [{ "do": "hang", "seconds": 1, "requests": 1 }] }"#,
                "x.json: `aws[0].seconds` comes on top",
            ),
            (r#"{ "aws": [{ "do": "hang", "status": 503 }] }"#, "x.json: `aws[0].status` is not known here"),
            (r#"{ "aws": [{ "do": "answer", "requests": 1 }] }"#, "x.json: `aws[0].status` is missing"),
            (
                r#"{ "aws": [{ "do": "answer", "status": 99, "requests": 1 }] }"#,
                "x.json: `aws[0].status` is 99",
            ),
            (
                r#"{ "aws": [{ "do": "answer", "status": 503, "headers": { "a b": "c" }, "requests": 1 }] }"#,
                "x.json: `aws[0].headers.a b` is no HTTP header",
            ),
            (r#"{ "aws": [{ "do": "delay", "requests": 1 }] }"#, "x.json: `aws[0].milliseconds` is missing"),
        ] {
            let error = error(text);
            assert!(error.starts_with(expected) && error.contains("\n  fix: "), "{error}");
        }
    }
}
