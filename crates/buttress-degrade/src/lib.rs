//! A tower layer that answers something useful when a call fails, and says how good the answer is.
//!
//! Eighty per cent of the function at all times is better than all of it most of the time, provided that everybody can see which
//! it was. Every answer has a [`Level`]: 0 full, 1 slight, 2 moderate, 3 minimal, 4 failed.
//!
//! * [`DegradeLayer`] answers by a [`Chain`] of rungs where the service fails: an alternate service, a reduced mode, the last
//!   good answer, something fixed. A chain that is closed has no error: `Error = Infallible`.
//! * [`LastGood`] is a store of good answers: fresh ones at once, stale ones while they are refreshed or when the service fails,
//!   one call for all who ask at once.
//! * [`Gather`] asks several services at once and goes on with what has come.
//! * [`DegradationRegistry`] is the level of a whole system.
//!
//! # When to use it, and when not
//!
//! Use it outermost, above retries and circuit breakers, where a worse answer is better than none: prices of a minute ago, search
//! without recommendations. Do not use it for what must be true or must happen: payments, permissions, writes. A fallback that
//! is never used is not known to work; [`Component::set_drill`] shows it while all is well. Let no rung depend on what the
//! service depends on, and let it be simpler than the service.
//!
//! # The rule
//!
//! A call falls when its outcome is a failure to the policy (HTTP 5xx, 408 and 429, errors, time-outs), when a layer below has
//! [refused](buttress_core::Refused) it, when the service cannot become ready, or has not within the
//! [patience](DegradeLayer::patience). It does not fall when the caller is at fault
//! ([`Rejected`](buttress_core::Verdict::Rejected): HTTP 401, 403, 404, 410), nor when what the request is about is busy
//! ([`Conflict`](buttress_core::Kind::Conflict): HTTP 409 with `Retry-After`), which no other service knows of, nor
//! for a caller who has gone. Then the rungs are asked, best level first; each has a time and a number of calls at once, beyond which
//! it is passed over. What nothing answers stays what it was: a 503 is a 503, of level 4; an error says what was tried ([`Unanswered`]).
//!
//! `poll_ready` is always ready: backpressure ends here. A service that is not ready is driven by the call that waits for it,
//! and a fresh clone takes its place.
//!
//! # Cancellation and panics
//!
//! Dropping the future drops the call below, or the rung that is being asked, and gives its place back. With a store, the call
//! below goes on for whoever else waits, and for the store, within the layer's budget or patience, and for nobody else in a
//! [bounded](LastGood::max_abandoned) number; [`LastGood::shutdown`] ends what is left. A panic in the service or in a rung passes on to the caller; in a call that is made for the store it is a
//! failure for all who wait.
//!
//! # Examples
//!
//! Always an answer:
//!
//! ```
//! use buttress_core::Level;
//! use buttress_degrade::{Chain, DegradeLayer, Degraded};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), buttress_core::ConfigError> {
//! let chain = Chain::<String, Degraded<usize>>::new().finally(Level::Minimal, "static", |_| 0);
//! let layer = DegradeLayer::new("search", chain)?;
//! let service = layer.layer(service_fn(|_: String| async { Err::<usize, _>("connection refused") }));
//! let Ok(hits) = service.oneshot("umbrella".into()).await;
//! assert_eq!((hits.level(), hits.shortfalls()[0].component()), (Level::Minimal, "search"));
//! # Ok(())
//! # }
//! ```
//!
//! Last good answers, another service before them, and who hears of it:
//!
//! ```
//! use std::time::Duration;
//! use buttress_core::{ErrorsAreFailures, observe_fn};
//! use buttress_degrade::{ByKey, Chain, DegradeLayer, Degraded, LastGood, Rung};
//! # use tower::{Layer, Service, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), buttress_core::BoxError> {
//! # let replica = service_fn(|query: String| async move { Ok::<_, std::io::Error>(query.len()) });
//! let chain = Chain::<String, Degraded<usize>>::new()
//!     .rung(Rung::alternate("replica", replica, ErrorsAreFailures).timeout(Duration::from_millis(200)));
//! let store = LastGood::new(ByKey::new(|query: &String| Some(query.as_str().into())))
//!     .ttl(Duration::from_secs(30))
//!     .if_error(Duration::from_secs(3600));
//! let layer = DegradeLayer::new("search", chain)?
//!     .last_good(store.clone())?
//!     .observe(observe_fn(|service, event| eprintln!("{service}: {event:?}")));
//! # let service = layer.layer(service_fn(|query: String| async move { Ok::<_, std::io::Error>(query.len()) }));
//! # service.oneshot("umbrella".into()).await?;
//! # assert_eq!(store.len(), 1);
//! # Ok(())
//! # }
//! ```
//!
//! Under HTTP, with [`HttpRules`] for the store, `buttress::http(…).build_degrading(…)` puts a chain above a whole stack.

#[cfg(feature = "store")]
mod backing;
mod chain;
mod declared;
mod error;
mod fallen;
mod falling;
mod future;
mod gather;
mod grade;
#[cfg(feature = "http")]
mod http;
mod lately;
mod layer;
mod primary;
mod recall;
mod recalling;
mod registry;
mod rung;
mod score;
mod served;
mod service;
mod shared;
mod store;
mod tasks;

#[cfg(feature = "store")]
pub use backing::{Backing, Writes};
pub use buttress_core::Level;
pub use chain::{Chain, Closed, Last, Open};
pub use error::{Tried, Unanswered};
pub use fallen::Fallen;
pub use future::{ResponseFuture, Rungs};
pub use gather::{Gather, Partial};
pub use grade::{Degraded, Grade, IntoAnswer};
#[cfg(feature = "http")]
pub use http::{DEGRADATION, HttpAsked, HttpKept, HttpRecording, HttpRules};
pub use layer::{DegradeLayer, Recalling};
pub use recall::{Accepts, ByKey, Keep, Kept, Recall, Renewal, Restore};
pub use registry::{Component, DegradationRegistry, ServiceDegraded, SystemLevel};
pub use rung::Rung;
pub use score::Need;
pub use served::{Cause, Freshness, Served, Shortfall, Source};
pub use service::Degrade;
pub use store::{LastGood, Lifetime};
