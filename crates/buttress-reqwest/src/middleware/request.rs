use std::sync::Arc;
use std::time::Duration;

use buttress::core::{Backoff, Carried, Stop};

/// Limits and a key of a request's own, for the stack that it will pass through: `buttress::RequestExt` for the builder
/// of a `ClientWithMiddleware`.
///
/// ```
/// use buttress_reqwest::RequestBuilderExt;
///
/// # async fn run(client: reqwest_middleware::ClientWithMiddleware) -> reqwest_middleware::Result<()> {
/// let event = client.post("http://127.0.0.1/v2/enqueue").body("{}");
/// event.with_idempotency_key("incident-42").with_max_retries(5).send().await?;
/// # Ok(())
/// # }
/// ```
pub trait RequestBuilderExt: Sized {
    /// Retries this request at most so often, in place of the stack's own limit, which may be lower; 0 sends it once.
    #[must_use]
    fn with_max_retries(self, max_retries: u32) -> Self;

    /// Waits so before retries of this request, in place of the stack's own delays; what the server asks for still counts.
    #[must_use]
    fn with_backoff(self, backoff: Backoff) -> Self;

    /// Gives this request so much time in all, in place of the total deadline's own limit.
    #[must_use]
    fn with_time_limit(self, limit: Duration) -> Self;

    /// Gives each attempt at this request so much time, in place of the attempt deadline's own limit.
    #[must_use]
    fn with_attempt_limit(self, limit: Duration) -> Self;

    /// Says that applying this request several times is the same as applying it once.
    #[must_use]
    fn repeatable(self) -> Self;

    /// Says that the receiver recognises a repetition of this request by this key, wherever in the request it is. No
    /// header is set.
    #[must_use]
    fn with_idempotency_key(self, key: impl Into<Arc<str>>) -> Self;
}

impl RequestBuilderExt for reqwest_middleware::RequestBuilder {
    fn with_max_retries(self, max_retries: u32) -> Self {
        carrying(self, |carried| carried.max_retries = Some(max_retries))
    }

    fn with_backoff(self, backoff: Backoff) -> Self {
        carrying(self, |carried| carried.backoff = Some(Arc::new(backoff)))
    }

    fn with_time_limit(self, limit: Duration) -> Self {
        carrying(self, |carried| carried.time_limit = Some(limit))
    }

    fn with_attempt_limit(self, limit: Duration) -> Self {
        carrying(self, |carried| carried.attempt_limit = Some(limit))
    }

    fn repeatable(self) -> Self {
        carrying(self, |carried| carried.repeatable = true)
    }

    fn with_idempotency_key(self, key: impl Into<Arc<str>>) -> Self {
        carrying(self, |carried| carried.idempotency_key = Some(key.into()))
    }
}

fn carrying(
    mut builder: reqwest_middleware::RequestBuilder,
    change: impl FnOnce(&mut Carried),
) -> reqwest_middleware::RequestBuilder {
    change(builder.extensions().get_or_insert_default());
    builder
}

/// How many attempts it took to get this response.
pub fn attempts(response: &reqwest::Response) -> u32 {
    response.extensions().get::<Carried>().map_or(1, |carried| carried.attempt.max(1))
}

/// Why a retry made no further attempt, if this response is a failure that it gave up on.
pub fn gave_up(response: &reqwest::Response) -> Option<Stop> {
    response.extensions().get::<Carried>()?.stop
}
