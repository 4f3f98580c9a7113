use buttress_core::{ErrorRef, Kind, Verdict, error_verdict, own_verdict};

/// What an error of an HTTP client means.
///
/// Buttress's own errors carry their verdict. An error of the request's own body, as a [`ReplayBody`](crate::ReplayBody)
/// gives it, is the caller's, and [`Ignored`](Verdict::Ignored). With the feature `hyper`: a connection that could not be made, a
/// request that the connection had not begun to send when it closed, an HTTP/2 stream that was refused, and one that the server had not seen when it said GOAWAY certainly had no effect. Everything
/// else is as [`error_verdict`](buttress_core::error_verdict) says: a refused connection was not sent, time-outs are
/// time-outs, and the rest is transient with an unknown effect.
pub fn transport_verdict(error: ErrorRef<'_>) -> Verdict {
    if let Some(verdict) = own_verdict(error) {
        return verdict;
    }
    if is_callers_own(error) {
        return Verdict::Ignored;
    }
    if was_not_sent(error) {
        return Verdict::failure(Kind::Transient).not_sent();
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

#[cfg(feature = "hyper")]
fn was_not_sent(error: ErrorRef<'_>) -> bool {
    buttress_core::chain(error).any(|error| {
        if let Some(error) = error.downcast_ref::<hyper_util::client::legacy::Error>() {
            if error.is_connect() {
                return true;
            }
        }
        // hyper gives back, as cancelled, what it had not begun to write.
        if let Some(error) = error.downcast_ref::<hyper::Error>() {
            return error.is_canceled();
        }
        let Some(error) = error.downcast_ref::<h2::Error>() else { return false };
        // h2 gives a peer's GOAWAY only to streams beyond the last one that the peer will process.
        error.is_remote()
            && (error.is_go_away() || error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM))
    })
}

#[cfg(not(feature = "hyper"))]
fn was_not_sent(_: ErrorRef<'_>) -> bool {
    false
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
