//! Dates as APIs write them.

use std::time::SystemTime;

/// `2015-08-30T12:36:00Z`, out of an HTTP date such as `Sun, 30 Aug 2015 12:36:00 GMT`.
pub(crate) fn iso(time: SystemTime) -> String {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let date = httpdate::fmt_http_date(time);
    let (day, month, year, clock) = (&date[5..7], &date[8..11], &date[12..16], &date[17..25]);
    let month = MONTHS.find(month).map_or(0, |at| at / 3 + 1);
    format!("{year}-{month:02}-{day}T{clock}Z")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn dates_are_those_of_iso_8601() {
        let text = |seconds| iso(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(
            [text(0), text(1_440_938_160), text(1_735_689_599)],
            ["1970-01-01T00:00:00Z", "2015-08-30T12:36:00Z", "2024-12-31T23:59:59Z"]
        );
    }
}
