use super::*;
use crate::trip::Window;

#[test]
fn every_bad_value_is_named_with_its_rule() {
    let rate = |window, percent, minimum_calls| {
        Config::only(Trip::FailureRate { window, at_least: Ratio::percent(percent), minimum_calls })
    };
    let ten = Window::Calls(10);
    for (config, message) in [
        (Config::only(Trip::ConsecutiveFailures(0)), "`consecutive_failures` is 0, but must be at least 1"),
        (rate(ten, 0, 10), "`at_least` is 0.0, but must be above 0"),
        (rate(ten, 101, 10), "`at_least` is 1.01, but must be above 0"),
        (rate(ten, 50, 11), "`minimum_calls` is 11, but must be at most the window's 10 calls"),
        (rate(ten, 50, 0), "`minimum_calls` is 0, but must be at least 1"),
        (rate(Window::Calls(0), 50, 1), "`window` is Calls(0), but must be between 1 and 100,000"),
        (
            rate(Window::Time(Duration::from_millis(9)), 50, 1),
            "`window` is Time(9ms), but must be at least 10 ms",
        ),
        (Config::standard().open_for(Duration::ZERO), "`open_for` is 0ns, but must be longer than zero"),
        (
            Config::standard().open_backoff(
                Backoff::constant(Duration::from_secs(60)).jitter(Jitter::Spread { percent: 51 }),
            ),
            "`open_backoff` is ± 51 %, but must be at most 50 %",
        ),
        (Config::standard().probes(0), "`probes` is 0, but must be at least 1"),
        (Config::standard().success_threshold(0), "`success_threshold` is 0, but must be at least 1"),
        (
            Config::standard().probe_lease(Duration::ZERO),
            "`probe_lease` is 0ns, but must be longer than zero",
        ),
    ] {
        let error = config.check().unwrap_err().to_string();
        assert!(error.starts_with(message), "{error}");
    }
    for (share, named) in [(-0.5, "-0.5"), (5000.0, "5000.0"), (f64::NAN, "NaN"), (0.0, "0.0")] {
        let error = Ratio::try_new(share).unwrap_err().to_string();
        assert!(error.starts_with(&format!("`at_least` is {named}, but must be above 0")), "{error}");
    }
}

#[test]
fn a_configuration_says_in_words_what_it_does() {
    let text = Config::standard().to_string();
    assert_eq!(text, "opens after 5 failures in a row, for 60 s; 2 good probes close it, 1 at a time");
    let window = Window::Time(Duration::from_secs(10));
    let (at_least, minimum_calls) = (Ratio::percent(50), 20);
    let slower_than = Duration::from_millis(800);
    let text = Config::only(Trip::FailureRate { window, at_least, minimum_calls })
        .trip(Trip::SlowCalls { slower_than, window: Window::Calls(100), at_least, minimum_calls })
        .open_backoff(Backoff::exponential(Duration::from_secs(1), 2.0, Duration::from_secs(60)).unwrap())
        .success_threshold(1)
        .to_string();
    assert_eq!(
        text,
        "opens after 50 % failures in the last 10 s (20 or more) or 50 % slower than 800 ms in the last 100 calls \
         (20 or more), for 1 s, growing to 60 s; 1 good probe closes it, 1 at a time"
    );
}

#[test]
fn a_configuration_without_a_rule_never_opens_and_is_allowed_for_manual_control() {
    let config = Config::standard().without_consecutive_failures();
    config.check().unwrap();
}
