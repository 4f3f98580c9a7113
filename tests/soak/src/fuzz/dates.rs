use std::time::{Duration, SystemTime, UNIX_EPOCH};

use buttress::http::retry_after;
use http::HeaderValue;

use crate::draw::Draw;

/// The last second of the year 9999, which is the last that a date can name.
const LAST: u64 = 253_402_300_799;

/// A moment in all three forms of RFC 9110 § 5.6.7, and mutations of them.
pub(super) fn dates(draw: &mut Draw) {
    let now = any_now(draw);
    let moment = match draw.below(3) {
        0 => draw.between(0, LAST),
        1 => draw.between(946_684_800, 2_524_608_000),
        _ => near(draw, now),
    };
    let forms = forms(moment);
    let form = draw.pick(&[0, 1, 2]);
    let text = &forms[form];
    // A year of two digits is one of 1970 to 2069.
    if form != 1 || moment < 3_155_760_000 {
        let moment = UNIX_EPOCH + Duration::from_secs(moment);
        let expected = moment.duration_since(now).unwrap_or_default();
        let padded = format!("{}{text}{}", pad(draw), pad(draw));
        assert_eq!(read(padded.as_bytes(), now), Some(expected), "{padded:?} at {now:?}");
    }
    let other = draw.below(3);
    let mutated = draw.mutated(text, &forms[other]);
    check(read(&mutated, now), now, &mutated);
}

/// Whatever was read can be written down again, and reads as the same.
pub(super) fn check(wait: Option<Duration>, now: SystemTime, read_from: &[u8]) {
    let Some(wait) = wait else { return };
    let shown = String::from_utf8_lossy(read_from);
    if wait.subsec_nanos() % 1_000_000 == 0 {
        let text = format!("{}.{:03}", wait.as_secs(), wait.subsec_millis());
        assert_eq!(read(text.as_bytes(), now), Some(wait), "{text:?} from {shown:?}");
    }
    let Some(moment) = now.checked_add(wait) else { return };
    let since = moment.duration_since(UNIX_EPOCH).unwrap_or_default();
    if !wait.is_zero() && since.as_secs() <= LAST && since.subsec_nanos() == 0 {
        let date = httpdate::fmt_http_date(moment);
        assert_eq!(read(date.as_bytes(), now), Some(wait), "{date:?} from {shown:?}");
    }
}

fn read(bytes: &[u8], now: SystemTime) -> Option<Duration> {
    retry_after(&HeaderValue::from_bytes(bytes).ok()?, now)
}

/// Any moment at which somebody may read a header, with a fraction of a second or without.
pub(super) fn any_now(draw: &mut Draw) -> SystemTime {
    let seconds = match draw.below(4) {
        0 => draw.between(0, LAST),
        1 => 0,
        _ => draw.between(1_500_000_000, 2_200_000_000),
    };
    let nanos = if draw.one_in(2) { 0 } else { draw.between(0, 999_999_999) };
    UNIX_EPOCH + Duration::new(seconds, nanos as u32)
}

fn near(draw: &mut Draw, now: SystemTime) -> u64 {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    draw.between(now.saturating_sub(1000), (now + 100_000).min(LAST))
}

pub(super) fn pad(draw: &mut Draw) -> &'static str {
    draw.pick(&["", "", "", " ", "  ", "\t"])
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`, `Sunday, 06-Nov-94 08:49:37 GMT`, `Sun Nov  6 08:49:37 1994`.
pub(super) fn forms(moment: u64) -> [String; 3] {
    const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
    let fixed = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(moment));
    let words: Vec<&str> = fixed.split(' ').collect();
    let [weekday, day, month, year, time, _] = words[..] else { panic!("{fixed}") };
    let weekday = &weekday[..3];
    let long = DAYS.iter().find(|long| long.starts_with(weekday)).expect("a day of the week");
    let day_number: u32 = day.parse().expect("a number");
    let short = &year[year.len() - 2..];
    let old = format!("{long}, {day}-{month}-{short} {time} GMT");
    let oldest = format!("{weekday} {month} {day_number:>2} {time} {year}");
    [fixed, old, oldest]
}
