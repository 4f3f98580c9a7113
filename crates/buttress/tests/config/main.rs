//! Stacks from files, and files that are read again.
#![cfg(feature = "config")]

mod generated;
mod reload;
mod traffic;

use std::time::Duration;

use buttress::config::Config;
use buttress::retry::Budget;
use buttress::{HttpLayer, StackHandle};

const PAGE: &str = include_str!("../../../../docs/configuration.md");

/// The files on the page, without Cargo's.
fn files() -> Vec<&'static str> {
    PAGE.split("```toml\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .filter(|file| !file.contains("[dependencies]"))
        .collect()
}

fn built(text: &str) -> HttpLayer {
    Config::parse(text).unwrap_or_else(|error| panic!("{error}")).http("x").unwrap().build().unwrap()
}

fn refused(text: &str) -> String {
    Config::parse(text).map(|config| config.names()).unwrap_err().to_string()
}

/// All that is in force. Of the budget, its rule in words.
fn in_force(stack: &StackHandle) -> String {
    let retry = stack.retry().config();
    let (budget, words) = (thread_budget(), retry.to_string());
    let limits = (stack.total().limit(), stack.attempt().limit());
    let retry = retry.budget(budget);
    format!(
        "{limits:?} {words} {retry:?} {:?} {:?} {}",
        stack.circuits().config(),
        stack.modes(),
        stack.explain()
    )
}

/// One for all of a test, so that configurations differ in nothing by it. Its `Debug` says whether another thread holds its lock.
fn thread_budget() -> Budget {
    thread_local!(static ONE: Budget = Budget::unlimited());
    ONE.with(Budget::clone)
}

#[test]
fn the_page_shows_every_key_with_its_default() {
    let [http, grpc] = files()[..] else { panic!("{} files", files().len()) };
    let config = Config::parse(http).unwrap_or_else(|error| panic!("{error}"));
    let (page, plain) = (config.http("example").unwrap(), buttress::http("example"));
    // Who says the total says nothing of a limit beside it.
    let plain = plain.map_retry(|retry| retry.default_max_total_wait(None));
    assert_eq!(in_force(&page.build().unwrap().handle()), in_force(&plain.build().unwrap().handle()));
    // What is shown as a comment is right, too.
    let all: String = http.lines().map(|line| format!("{}\n", shown(line))).collect();
    Config::parse(&all).unwrap_or_else(|error| panic!("{error}\n{all}"));
    #[cfg(feature = "grpc")]
    {
        let (page, plain) =
            (Config::parse(grpc).unwrap().grpc("billing").unwrap(), buttress::grpc("billing"));
        let plain = plain.repeatable("billing.Invoices/Get").stream("grpc.health.v1.Health/Watch");
        let plain = plain.map_retry(|retry| retry.default_max_total_wait(None));
        assert_eq!(in_force(&page.build().unwrap().handle()), in_force(&plain.build().unwrap().handle()));
        let all: String = grpc.lines().map(|line| format!("{}\n", shown(line))).collect();
        Config::parse(&all).unwrap_or_else(|error| panic!("{error}\n{all}"));
    }
    let _ = grpc;
}

/// A line that is a key in a comment, without the comment's sign.
fn shown(line: &str) -> &str {
    let key = line.strip_prefix("# ").filter(|rest| {
        rest.split_once(" = ")
            .is_some_and(|(key, _)| key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
    });
    key.unwrap_or(line)
}

#[test]
fn an_error_names_the_line_the_key_the_value_and_the_rule() {
    for (text, says) in [
        ("[http.x]\ntotal = 10", "configuration:2: `http.x.total` is 10, but must be a time with its unit"),
        (
            "[http.x]\ntotal = \"0s\"",
            "configuration:2: `http.x.total` is \"0s\", but must be longer than zero",
        ),
        (
            "[http.x]\ntotl = \"1s\"",
            "configuration:2: `http.x.totl` is no key that is known here; did you mean `total`?",
        ),
        ("[htp.x]", "configuration:1: `htp` is no key that is known here; did you mean `http`?"),
        (
            "[http.x]\npreset = \"dog\"",
            "configuration:2: `http.x.preset` is \"dog\", but must be one of \"user_facing\"",
        ),
        (
            "[http.x.retry]\nmax-retries = 1",
            "configuration:2: `http.x.retry.max-retries` is no key that is known here; did you mean `max_retries`?",
        ),
        (
            "[http.x.retry]\nmax_retries = -1",
            "configuration:2: `http.x.retry.max_retries` is -1, but must be a whole number",
        ),
        (
            "[http.x.retry]\nbackoff = { base = \"2s\", cap = \"1s\" }",
            "configuration:2: `http.x.retry.backoff.cap` is \"1s\", but must be at least the base of 2s",
        ),
        (
            "[http.x.retry]\nbackoff = { base = \"2s\" }",
            "configuration:2: `http.x.retry.backoff` needs the key `cap`",
        ),
        (
            "[http.x.retry]\nbudget = { share = \"110%\" }",
            "configuration:2: `http.x.retry.budget.share` is \"110%\", but must be between 0 and 1",
        ),
        (
            "[http.x.retry]\nhints = { floor = \"1s\", exact = \"1s\" }",
            "configuration:2: `http.x.retry.hints` must have one of `floor`",
        ),
        (
            "[http.x.breaker]\n\n# none\nprobes = 0",
            "configuration:4: `http.x.breaker.probes` is 0, but must be at least 1",
        ),
        (
            "[http.x.breaker]\nfailure_rate = { window = 10, at_least = \"50%\", minimum_calls = 11 }",
            "configuration:2: `http.x.breaker.failure_rate.minimum_calls` is 11, but must be at most the window's 10 calls",
        ),
        (
            "[http.x.breaker]\nfailure_rate = { window = 10, at_least = 50, minimum_calls = 1 }",
            "configuration:2: `http.x.breaker.failure_rate.at_least` is 50, but must be above 0 and at most 1",
        ),
        (
            "[http.x.breaker]\nopen_for = \"0s\"",
            "configuration:2: `http.x.breaker.open_for` is \"0s\", but must be longer than zero",
        ),
        (
            "[http.x.statuses]\n4004 = \"transient\"",
            "configuration:2: `http.x.statuses.4004` is \"transient\", but must be the verdict on a status",
        ),
        (
            "[http.x]\napi_key = \"very secret\"",
            "configuration:2: `http.x.api_key` is no key that is known here; those are `preset`,",
        ),
        ("[http.x]\ntotal = ", "configuration:2: is not TOML"),
        ("[http]\nx = 1", "configuration:2: `http.x` is 1, but must be a table"),
    ] {
        let error = refused(text);
        assert!(error.starts_with(says), "{error}\n{says}");
        assert!(!error.contains("secret"), "{error}");
    }
    let error = Config::parse("[http.x]").unwrap().http("y").unwrap_err();
    assert_eq!(error.to_string(), "configuration: `http.y` is not there; the stacks are http.x");
    let error = Config::load("no/such/file.toml").unwrap_err();
    assert_eq!(error.to_string(), "no/such/file.toml: cannot be read");
    assert!(std::error::Error::source(&error).is_some());
}
