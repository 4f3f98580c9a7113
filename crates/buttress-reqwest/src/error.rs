//! What reqwest's errors mean.

use buttress::core::{Judged, Kind};
use buttress::{BoxError, Verdict};

/// The error with its meaning, where reqwest alone knows it.
///
/// The classifier finds connect errors by itself; reqwest's time-outs and its errors before and after the exchange are of
/// types of its own.
pub(crate) fn judged(error: reqwest::Error) -> BoxError {
    match verdict(&error) {
        Some(verdict) => Judged::new(verdict, error).into(),
        None => error.into(),
    }
}

fn verdict(error: &reqwest::Error) -> Option<Verdict> {
    if error.is_builder() {
        // The request could not be made, which says nothing about the server.
        Some(Verdict::Ignored)
    } else if error.is_redirect() {
        Some(Verdict::failure(Kind::Permanent))
    } else if error.is_timeout() && !error.is_connect() {
        Some(Verdict::failure(Kind::Timeout))
    } else {
        None
    }
}
