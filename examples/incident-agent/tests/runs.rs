//! The program as its users start it: over real sockets and in real time, with chaos that is over soon.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};

const ROUTING_KEY: &str = "the-routing-key";

/// Starts the program with no key but this one.
fn start(arguments: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_incident-agent"));
    for key in ["DD_API_KEY", "DD_APP_KEY", "AWS_ACCESS_KEY_ID"] {
        command.env_remove(key);
    }
    command.env("PAGERDUTY_ROUTING_KEY", ROUTING_KEY);
    command.args(["--folder", concat!(env!("CARGO_TARGET_TMPDIR"), "/incident-agent")]);
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn run(arguments: &[&str]) -> Output {
    start(arguments).wait_with_output().unwrap()
}

/// The JSON report of a run with this chaos, and its exit status.
fn report(name: &str, layers: &str) -> (Value, i32) {
    let file = file(name, &format!("version = 1\n{layers}"));
    let output = run(&["--report", "json", "--chaos", file.to_str().unwrap()]);
    (json_line(&output), output.status.code().unwrap())
}

fn json_line(output: &Output) -> Value {
    let stdout = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(stdout.lines().count(), 1, "exactly one object: {stdout}");
    serde_json::from_str(&stdout).unwrap()
}

fn file(name: &str, text: &str) -> PathBuf {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&file, text).unwrap();
    file
}

fn bundled(path: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path).display().to_string()
}

fn states(report: &Value) -> Vec<&str> {
    let transitions = report["breaker_transitions"].as_array().unwrap();
    transitions.iter().map(|transition| transition["to"].as_str().unwrap()).collect()
}

#[test]
fn an_outage_of_all_vendors_is_survived_and_nobody_is_paged_twice() {
    let (report, status) = report(
        "outage.toml",
        r#"
            [layers]
            datadog = [{ fault = "status", status = 503, first = 4 }]
            aws = [{ fault = "io_error", kind = "connection_reset", first = 3 }]
            service = [{ fault = "lose_answer", when = { method = "POST" }, first = 1 }]
            pagerduty = [
                { fault = "status", status = 429, headers = { retry-after = "1" }, first = 1 },
                { fault = "lose_answer", first = 1 },
            ]
        "#,
    );
    assert_eq!((&report["outcome"], status), (&json!("resolved"), 0), "{report}");
    for step in report["steps"].as_array().unwrap() {
        // What Datadog does not say, the service says itself, and that is noted.
        let expected: &[&str] = match step["name"].as_str().unwrap() {
            "gather" => &["degraded"],
            "verify" => &["done", "degraded"],
            _ => &["done"],
        };
        assert!(expected.contains(&step["status"].as_str().unwrap()), "{step}");
    }
    assert_eq!(report["retries_by_cause"]["throttled"], 1, "{report}");
    assert!(report["retries_by_cause"]["transient"].as_u64() >= Some(3), "{report}");
    assert!(report["rejected_by_breaker"].as_u64() >= Some(1), "{report}");
    let states = states(&report);
    assert!(states.starts_with(&["open"]) && states.contains(&"closed"), "{states:?}");
    assert!(report["elapsed_ms"].as_u64() >= Some(3000), "the circuit was open for 3 s: {report}");
    // Throttled, its answer lost, and heard; on a busy machine an answer may come too late as well.
    assert!(report["pages_sent"].as_u64() >= Some(3), "{report}");
    assert_eq!((&report["incidents_seen"], &report["duplicate_pages"]), (&json!(1), &json!(0)));
    assert_eq!((&report["people_paged"], &report["duplicates"]), (&json!(0), &json!(0)));
    let without = &report["unprotected"];
    assert_eq!((&without["outcome"], &without["calls"]), (&json!("lost"), &json!(5)), "{without}");
    assert!(report["calls"].as_u64() >= Some(15), "{report}");
}

#[test]
fn a_vendor_that_hangs_is_given_up_and_tried_again() {
    let (report, status) = report(
        "hang.toml",
        r#"layers.datadog = [{ fault = "hang", when = { path = "/api/v1/query" }, first = 1 }]"#,
    );
    assert_eq!((&report["outcome"], status), (&json!("resolved"), 0), "{report}");
    assert!(report["retries_by_cause"]["timeout"].as_u64() >= Some(1), "{report}");
    assert_eq!(report["unprotected"]["outcome"], "escalated", "{report}");
}

#[test]
fn what_is_not_essential_is_done_without() {
    let output = run(&["--report", "json", "--chaos", "datadog-down"]);
    let report = json_line(&output);
    let statuses = report["steps"].as_array().unwrap().iter().map(|step| step["status"].as_str().unwrap());
    let expected = ["degraded", "done", "done", "done", "done", "degraded", "done", "done"];
    assert_eq!(statuses.collect::<Vec<_>>(), expected);
    assert_eq!((&report["outcome"], output.status.code()), (&json!("resolved"), Some(0)), "{report}");
    assert_eq!(report["unprotected"]["outcome"], "escalated", "{report}");
    // Which of its parts is there, and how good that is.
    let context = report["steps"][0]["detail"].as_str().unwrap();
    assert!(context.starts_with("level 2 (moderate); metric at 1840 ms (level 1)"), "{context}");
    assert!(context.contains("; no logs, it "), "{context}");
}

#[test]
fn without_chaos_both_runs_make_the_same_calls() {
    let output = run(&["--report", "json", "--chaos", "none"]);
    let report = json_line(&output);
    let without = &report["unprotected"];
    assert!(output.status.success());
    assert_eq!((&report["outcome"], &without["outcome"]), (&json!("resolved"), &json!("resolved")));
    // On a machine that is busy an answer may come too late.
    let (calls, retries) = (report["calls"].as_u64().unwrap(), report["retries"].as_u64().unwrap());
    assert_eq!(Some(calls - retries), without["calls"].as_u64(), "{report}");
    if retries == 0 {
        assert_eq!(report["calls_by_vendor"], without["calls_by_vendor"]);
        assert_eq!(report["breaker_transitions"], json!([]));
    }
}

#[test]
fn every_bundled_incident_is_handled() {
    let names = ["checkout-latency", "ingest-queue", "payments-errors"];
    let children = names.map(|name| {
        let incident = bundled(&format!("incidents/{name}.json"));
        start(&["--report", "json", "--chaos", "none", "--incident", &incident])
    });
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert_eq!(
            (json_line(&output)["outcome"].as_str(), output.status.code()),
            (Some("resolved"), Some(0))
        );
    }
}

#[test]
fn where_the_agent_is_stuck_a_person_is_paged() {
    let (report, status) = report(
        "stuck.toml",
        r#"layers.aws = [{ fault = "pass", first = 1 }, { fault = "status", status = 400, body = '{"__type": "ServiceNotFoundException"}', first = 9 }]"#,
    );
    assert_eq!((&report["outcome"], status), (&json!("escalated"), 0), "{report}");
    let steps: Vec<_> = report["steps"].as_array().unwrap().iter().collect();
    assert_eq!(
        steps.iter().map(|step| step["name"].as_str().unwrap()).collect::<Vec<_>>(),
        ["gather", "analyse", "restart", "escalate"]
    );
    assert!(steps[2]["detail"].as_str().unwrap().contains("ServiceNotFoundException"), "{report}");
    assert_eq!((&report["pages_sent"], &report["incidents_seen"]), (&json!(1), &json!(1)));
}

#[test]
fn an_incident_that_nobody_was_told_of_is_exit_status_1() {
    let refuse = r#"[{ fault = "status", status = 403 }]"#;
    let (report, status) =
        report("lost.toml", &format!("layers.aws = {refuse}\nlayers.pagerduty = {refuse}"));
    assert_eq!((&report["outcome"], status), (&json!("lost"), 1), "{report}");
}

#[test]
fn the_text_report_tells_both_runs_and_compares_them() {
    let output = run(&["--chaos", "none"]);
    let text = String::from_utf8(output.stdout).unwrap();
    for part in [
        "incident   checkout-api: p95 latency",
        "\nWith Buttress\n",
        "agent      1/8 gather:",
        "\nThe same without Buttress\n",
        "\nSummary\n",
    ] {
        assert!(text.contains(part), "{part:?} in {text}");
    }
    let calls = text.lines().find(|line| line.contains("calls made")).unwrap();
    let calls: Vec<_> = calls.split_whitespace().collect();
    assert!(calls[2].parse::<u32>().is_ok_and(|with| with >= 17) && calls[3] == "17", "{calls:?}");
    assert!(!text.contains('\x1b'), "no colour where there is no terminal");
    assert!(output.status.success() && output.stderr.is_empty());
}

/// Starts a run anew under a name that no test before has left something of.
fn fresh(name: &str) -> String {
    let _ = std::fs::remove_dir_all(Path::new(env!("CARGO_TARGET_TMPDIR")).join("incident-agent").join(name));
    name.to_owned()
}

#[cfg(unix)]
fn was_killed(output: &Output) -> bool {
    use std::os::unix::process::ExitStatusExt;
    output.status.signal() == Some(9)
}

#[test]
#[cfg(unix)]
fn killed_in_the_middle_of_a_step_the_next_process_goes_on_and_nothing_happens_twice() {
    for point in ["restart:after", "clear_cache:after", "scale:before", "resolve:after"] {
        let name = fresh(&format!("killed-at-{}", point.replace(':', "-")));
        let arguments = ["--report", "json", "--chaos", "aws-lost-ack", "--run", &name];
        let killed = run(&[&arguments[..], &["--crash-at", point]].concat());
        assert!(was_killed(&killed) && killed.stdout.is_empty(), "{killed:?}");
        let output = run(&arguments);
        let report = json_line(&output);
        assert_eq!((&report["outcome"], output.status.code()), (&json!("resolved"), Some(0)), "{report}");
        assert_eq!((&report["killed"], &report["duplicates"]), (&json!([point]), &json!(0)), "{report}");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(told.contains("gather: recorded before, not done again"), "{told}");
        // Once more: it is over, and nothing is asked of anybody.
        let again = json_line(&run(&arguments));
        assert_eq!((&again["outcome"], &again["calls"]), (&json!("resolved"), &report["calls"]), "{again}");
    }
}

/// The journal may be on other machines. `cargo xtask test --without-services` goes without this.
#[test]
#[cfg(unix)]
fn a_run_goes_on_over_each_store() {
    if std::env::var_os("BUTTRESS_WITHOUT_SERVICES").is_some() {
        return;
    }
    let (postgres, redis) = (services::Postgres::start(), services::Redis::start());
    let postgres = format!("postgres://buttress@127.0.0.1:{}/postgres", postgres.port());
    for (store, url) in [("postgres", postgres), ("redis", redis.url())] {
        let name = fresh(&format!("over-{store}"));
        let arguments = ["--report", "json", "--chaos", "none", "--run", &name, "--store", &url];
        assert!(was_killed(&run(&[&arguments[..], &["--crash-at", "restart:after"]].concat())), "{store}");
        let report = json_line(&run(&arguments));
        assert_eq!((&report["outcome"], &report["duplicates"]), (&json!("resolved"), &json!(0)), "{report}");
        assert_eq!(report["killed"], json!(["restart:after"]), "{report}");
    }
}

/// The agent without a journal restarts the service twice.
#[test]
#[cfg(unix)]
fn without_a_journal_what_was_done_before_the_kill_is_done_again() {
    let name = fresh("compared");
    let arguments = ["--report", "json", "--chaos", "none", "--run", &name];
    assert!(was_killed(&run(&[&arguments[..], &["--crash-at", "scale:after"]].concat())));
    let report = json_line(&run(&arguments));
    let without = &report["unprotected"];
    assert_eq!((&report["duplicates"], &without["killed"]), (&json!(0), &json!(["scale:after"])), "{report}");
    assert!(without["duplicates"].as_u64() >= Some(1), "{without}");
}

#[test]
#[cfg(unix)]
fn killed_ten_times_at_random_the_run_comes_to_its_end() {
    let name = fresh("ten-times");
    let output =
        run(&["--report", "json", "--chaos", "none", "--run", &name, "--crash-loop", "10", "--seed", "3"]);
    let report = json_line(&output);
    assert_eq!((&report["outcome"], output.status.code()), (&json!("resolved"), Some(0)), "{report}");
    assert_eq!(report["killed"].as_array().map(Vec::len), Some(10), "{report}");
    assert_eq!((&report["duplicates"], &report["people_paged"]), (&json!(0), &json!(0)), "{report}");
}

#[test]
#[cfg(unix)]
fn a_schedule_says_where_the_agent_is_killed_and_the_run_is_brought_to_its_end() {
    let chaos =
        file("killed.toml", "version = 1\n\n[agent]\nkilled = [\"restart:after\", \"scale:before\"]\n");
    let name = fresh("by-schedule");
    let output = run(&["--report", "json", "--chaos", chaos.to_str().unwrap(), "--run", &name]);
    let report = json_line(&output);
    assert_eq!((&report["outcome"], output.status.code()), (&json!("resolved"), Some(0)), "{report}");
    assert_eq!(report["killed"], json!(["restart:after", "scale:before"]), "{report}");
    assert_eq!(report["duplicates"], json!(0), "{report}");
}

#[test]
fn a_run_of_another_incident_is_not_gone_on_with() {
    let name = fresh("another");
    let one = run(&["--report", "json", "--chaos", "none", "--run", &name]);
    assert!(one.status.success());
    let other = bundled("incidents/ingest-queue.json");
    let output = run(&["--report", "json", "--chaos", "none", "--run", &name, "--incident", &other]);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("--run: \"another\" is about another incident"), "{message}");
}

#[test]
fn the_timeline_is_drawn() {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("timeline.svg");
    let output = run(&["--chaos", "none", "--report", "svg", file.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    let drawn = std::fs::read_to_string(file).unwrap();
    assert!(drawn.starts_with("<svg xmlns=") && drawn.ends_with("</svg>\n"), "{drawn}");
    for words in ["with Buttress: ", "without: ", ">verify</text>", ">pagerduty</text>"] {
        assert!(drawn.contains(words), "{words} in {drawn}");
    }
}

#[test]
fn input_that_cannot_be_used_is_exit_status_2_with_the_file_the_field_and_the_fix() {
    let payload = std::fs::read_to_string(bundled("incidents/checkout-latency.json")).unwrap();
    let file = |name: &str, text: &str| file(name, text).display().to_string();
    let no_service = file("no-service.json", &payload.replace("\"service\"", "\"business_service\""));
    let resolved = file("resolved.json", &payload.replace("incident.triggered", "incident.resolved"));
    let broken = file("broken.json", &payload[..payload.len() / 2]);
    let chaos = |name: &str, layers: &str| file(name, &format!("version = 1\n[layers]\n{layers}"));
    let typo = chaos("typo.toml", r#"datadog = [{ fault = "status", sttaus = 503 }]"#);
    let vendor = chaos("vendor.toml", "gcp = []");
    let own = chaos("own.toml", r#"pagerduty = [{ fault = "hang" }]"#);
    let url = "--pagerduty-url";
    for (arguments, place, problem) in [
        (&["--incident", "nowhere.json"][..], "nowhere.json", "cannot be read"),
        (&["--incident", &broken], &broken, "is not JSON"),
        (&["--incident", &no_service], &no_service, "`event.data.service` is missing"),
        (&["--incident", &resolved], &resolved, "`event.event_type` is \"incident.resolved\""),
        (&["--chaos", "nowhere.toml"], "nowhere.toml", "cannot be read"),
        (&["--chaos", &typo], &typo, "line 3: unknown field `sttaus`"),
        (&["--chaos", &vendor], &vendor, "`layers.gcp` is not known here"),
        (&["--aws-url", "https://ecs.us-east-1.amazonaws.com"], "AWS_ACCESS_KEY_ID", "is not set"),
        (&[url, "pagerduty.example"], url, "\"pagerduty.example\" does not begin with"),
        (&[url, "http://127.0.0.1:9", "--chaos", &own], &own, "`layers.pagerduty` has rules, but"),
        (&["--report", "yaml"], "--report", "\"yaml\" is no format"),
        (&["--crash-at", "reboot"], "--crash-at", "\"reboot\" is no step"),
        (&["--run", "../up"], "--run", "\"../up\" cannot be the name of a run"),
        (&["--store", "mysql://x"], "--store", "is the URL of no store"),
        (&["--service-url", "http://127.0.0.1:9"], "SERVICE_TOKEN", "is not set"),
        (&["--retries", "3"], "--retries", "is not an option"),
    ] {
        let output = run(arguments);
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
        assert!(message.starts_with(&format!("incident-agent: {place}: {problem}")), "{message}");
        assert!(message.contains("\n  fix: "), "{message}");
        assert!(output.stdout.is_empty() && !message.contains(ROUTING_KEY), "{arguments:?}");
    }
}
