use buttress_core::{ErrorRef, Kind, Verdict, error_verdict, own_verdict};

/// What an error of an HTTP client means.
///
/// Buttress's own errors carry their verdict. An error of the request's own body, as a [`ReplayBody`](crate::ReplayBody)
/// gives it, is the caller's, and [`Ignored`](Verdict::Ignored).
///
/// With the feature `hyper`, these certainly had no effect:
///
/// * an HTTP/2 stream that was refused, or lies beyond the last one that a server serves which closes its connection in good
///   order (GOAWAY with NO_ERROR), and a request that its connection had not begun to send when it closed: they are
///   [`Unprocessed`](Kind::Unprocessed), which says nothing of the server's health;
/// * a connection that could not be made, and a stream that a GOAWAY with another code gives back. So is what hyper-util's pool
///   gives back: what an old connection had not begun to send it sends by itself over another, so that this was a new one,
///   which closed at once.
///
/// Everything else is as [`error_verdict`](buttress_core::error_verdict) says: a refused connection was not sent, time-outs are
/// time-outs, and the rest is transient with an unknown effect.
pub fn transport_verdict(error: ErrorRef<'_>) -> Verdict {
    if let Some(verdict) = own_verdict(error) {
        return verdict;
    }
    if is_callers_own(error) {
        return Verdict::Ignored;
    }
    if let Some(kind) = not_sent(error) {
        return Verdict::failure(kind).not_sent();
    }
    if timed_out(error) { Verdict::failure(Kind::Timeout) } else { error_verdict(error) }
}

/// An HTTP/2 stream that this side has given up, since the request's body failed: hyper does not say with what.
#[cfg(feature = "hyper")]
fn is_callers_own(error: ErrorRef<'_>) -> bool {
    buttress_core::chain(error)
        .filter_map(|error| error.downcast_ref::<h2::Error>())
        .any(|error| error.is_reset() && !error.is_remote() && !error.is_library())
}

#[cfg(not(feature = "hyper"))]
fn is_callers_own(_: ErrorRef<'_>) -> bool {
    false
}

/// What kind of failure it is, if it certainly had no effect.
#[cfg(feature = "hyper")]
fn not_sent(error: ErrorRef<'_>) -> Option<Kind> {
    let (mut pooled, mut cancelled) = (false, false);
    for error in buttress_core::chain(error) {
        if let Some(error) = error.downcast_ref::<hyper_util::client::legacy::Error>() {
            if error.is_connect() {
                return Some(Kind::Transient);
            }
            pooled = true;
        } else if let Some(error) = error.downcast_ref::<hyper::Error>() {
            // hyper gives back, as cancelled, what it had not begun to write.
            cancelled |= error.is_canceled();
        } else if let Some(given_back) = error.downcast_ref().and_then(given_back) {
            return Some(given_back);
        }
    }
    cancelled.then_some(if pooled { Kind::Transient } else { Kind::Unprocessed })
}

#[cfg(feature = "hyper")]
fn given_back(error: &h2::Error) -> Option<Kind> {
    if !error.is_remote() {
        return None;
    }
    match error.reason() {
        // h2 gives a peer's GOAWAY only to streams beyond the last one that the peer will process.
        Some(h2::Reason::NO_ERROR) if error.is_go_away() => Some(Kind::Unprocessed),
        Some(h2::Reason::REFUSED_STREAM) if error.is_reset() => Some(Kind::Unprocessed),
        _ => error.is_go_away().then_some(Kind::Transient),
    }
}

#[cfg(not(feature = "hyper"))]
fn not_sent(_: ErrorRef<'_>) -> Option<Kind> {
    None
}

#[cfg(feature = "hyper")]
fn timed_out(error: ErrorRef<'_>) -> bool {
    buttress_core::chain(error)
        .filter_map(|error| error.downcast_ref::<hyper::Error>())
        .any(hyper::Error::is_timeout)
}

#[cfg(not(feature = "hyper"))]
fn timed_out(_: ErrorRef<'_>) -> bool {
    false
}
