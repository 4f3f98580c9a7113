//! What a stack says of itself: its layers, their settings, and what looks wrong about them.

use std::time::Duration;

fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

#[test]
fn explain_says_what_each_layer_does() {
    let text = buttress::http("datadog").datadog().build().unwrap().explain().to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 6, "{text}");
    assert_eq!(lines[0], "datadog");
    assert_eq!(lines[1], "  deadline (total)    30 s until the response's head");
    assert!(
        lines[2].starts_with("  retry               2 retries after 500 ms × 2 up to 5 s, full jitter"),
        "{text}"
    );
    assert!(
        lines[3].starts_with("  circuit breaker     opens after 5 failures in a row, for 60 s"),
        "{text}"
    );
    assert_eq!(lines[4], "  deadline (attempt)  8 s for each attempt");
    assert_eq!(lines[5], "  client              yours");
}

#[test]
fn the_readme_shows_what_explain_prints() {
    let text = buttress::http("datadog").datadog().build().unwrap().explain().to_string();
    assert!(include_str!("../../../README.md").contains(&text), "{text}");
}

#[test]
fn no_preset_warns_of_itself() {
    let start = || buttress::http("x");
    let vendors = [start().datadog(), start().github(), start().pagerduty(), start().aws()];
    for builder in [start(), start().background()].into_iter().chain(vendors) {
        let layer = builder.build().unwrap();
        assert_eq!(layer.explain().warnings(), []);
    }
}

#[test]
fn a_warning_has_the_limits_that_were_asked_for_and_the_list_those_that_are_in_force() {
    let layer = buttress::http("api").total(secs(10)).attempt(secs(15)).build().unwrap();
    let warned = |layer: &buttress::HttpLayer| layer.explain().warnings()[0].to_string();
    assert!(
        warned(&layer).starts_with("B001: an attempt may take 15 s and the whole call 10 s"),
        "{}",
        warned(&layer)
    );
    assert!(layer.explain().to_string().contains("10 s for each attempt"));
    buttress::http("api").total(secs(10)).attempt(secs(20)).apply_to(&layer.handle()).unwrap();
    assert!(warned(&layer).contains("may take 20 s"), "{}", warned(&layer));
    layer.attempt().set_limit(secs(12)).unwrap();
    assert!(warned(&layer).contains("may take 12 s"), "{}", warned(&layer));
}

#[test]
fn what_is_set_explicitly_counts_whichever_comes_first() {
    let total = |builder: buttress::HttpBuilder| builder.build().unwrap().total().limit();
    assert_eq!(total(buttress::http("x").total(secs(7)).datadog()), secs(7));
    assert_eq!(total(buttress::http("x").datadog().total(secs(7))), secs(7));
    assert_eq!(total(buttress::http("x").datadog().background()), secs(600));
    let layer = buttress::http("x").pagerduty().map_retry(|retry| retry.max_retries(3)).build().unwrap();
    assert!(layer.explain().to_string().contains("3 retries after 1 s × 2 up to 30 s"));
}

/// The preset's 10 s are a default, as in a configuration file.
#[test]
fn whoever_says_how_long_all_of_it_may_take_is_not_told_otherwise_by_a_preset() {
    use buttress::retry::Config;
    let total = || buttress::http("x").total(secs(30));
    for (stack, limited) in [
        (buttress::http("x"), true),
        (buttress::http("x").map_retry(|retry| retry.max_retries(3)), true),
        (total().map_retry(|retry| retry.max_retries(3)), false),
        (buttress::http("x").map_retry(|retry| retry.max_retries(3)).total(secs(30)), false),
        (total().retry(Config::user_facing().max_retries(3)), false),
        (total().map_retry(|retry| retry.max_total_wait(secs(10))), true),
        (total().retry(Config::user_facing().max_total_wait(secs(10))).map_retry(|retry| retry), true),
    ] {
        let explained = stack.silent().build().unwrap().explain().to_string();
        assert_eq!(explained.contains("none starts later than 10 s"), limited, "{explained}");
    }
}
