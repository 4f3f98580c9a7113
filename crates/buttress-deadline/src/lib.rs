//! A tower layer that bounds the time of a call, and carries the deadline to the layers below.
//!
//! # When to use it, and when not
//!
//! Use a [total](DeadlineLayer::total) one outside of a retry, so that a caller waits no longer than it wants to, and an
//! [attempt](DeadlineLayer::attempt) one inside, so that one lost answer does not use up the whole time. It ends at the
//! response; for the body of an HTTP response there is `buttress_http::BodyDeadlineLayer`. It is no cure for a slow
//! dependency: combine it with a circuit breaker, which learns from its time-outs.
//!
//! # The rule
//!
//! Waiting for readiness does not count. With a [`Carry`](buttress_core::Carry), the time starts at `call`; the earlier
//! of the layer's own deadline and the one that travels with the request counts, and travels on. A request whose deadline
//! has passed is refused ([`Refused`](buttress_core::Refused)) without a call; a clone then takes the
//! place of the service inside, so that what that had reserved, such as a permit, is free at once. With `()`, which is the default, nothing
//! is carried and the time starts when the call first has to wait, so that one which is answered at once reads no clock.
//! [Between the two](DeadlineLayer::obey), what a request brings is obeyed and passed on, and nothing is added to one that
//! brings nothing.
//!
//! A call that runs out of time fails with [`Elapsed`]: it may have been applied.
//!
//! # Cancellation and panics
//!
//! When the time is over, the call inside is dropped before the error is returned. Dropping the future drops the call. A
//! panic passes through. Timers register when the call first has to wait.
//!
//! # Examples
//!
//! ```
//! use std::time::Duration;
//! use buttress_deadline::DeadlineLayer;
//! # fn main() -> Result<(), buttress_core::ConfigError> {
//! let layer = DeadlineLayer::total("datadog", Duration::from_secs(10))?;
//! # tower::ServiceBuilder::new().layer(layer);
//! # Ok(())
//! # }
//! ```
//!
//! Watched before it is enforced:
//!
//! ```
//! use std::time::Duration;
//! use buttress_core::{Event, Mode, observe_fn};
//! use buttress_deadline::DeadlineLayer;
//! # fn main() -> Result<(), buttress_core::ConfigError> {
//! let layer = DeadlineLayer::attempt("datadog", Duration::from_secs(2))?.observe(observe_fn(|service, event| {
//!     if let Event::Elapsed { limit, enforced: false } = event {
//!         eprintln!("{service} would have been cut off after {limit:?}");
//!     }
//! }));
//! layer.set_mode(Mode::Observe);
//! # tower::ServiceBuilder::new().layer(layer);
//! # Ok(())
//! # }
//! ```

mod future;
mod layer;
mod service;

pub use buttress_core::Elapsed;
pub use future::ResponseFuture;
pub use layer::DeadlineLayer;
pub use service::Deadline;
