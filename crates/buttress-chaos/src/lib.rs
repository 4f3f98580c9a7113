//! A tower layer that injects faults, reproducibly, and a TCP proxy that makes a network ill.
//!
//! | what | feature |
//! |---|---|
//! | [`ChaosLayer`]: latency, errors, hangs, panics, lost answers, in any service | none |
//! | [`Http`]: statuses, gRPC codes, bodies that are cut off or slow | `http` |
//! | [`ToxicProxy`]: a network that is slow, narrow or gone, for any client of TCP | `proxy` |
//! | [`ControlServer`]: the proxy under the control of a shell or another process | `control` |
//! | [`ChaosSchedule`]: all of it from a TOML file | `schedule` |
//!
//! # When to use it, and when not
//!
//! Use the layer to test what a stack, an agent or a handler does when a dependency fails, and put it where the dependency
//! is: innermost, around the client. Use the proxy where the failure is one of the network, or where the client is not
//! yours. [`Fault::LoseAnswer`] is the fault that most code has never met: the work was done, and the caller does not know.
//! Neither is a load generator, and neither belongs into production by accident: a layer in a release build is refused
//! unless [`Config::allow_in_release`] says that it is meant.
//!
//! # The rule
//!
//! [`Rule`]s are tried in order, and the first that meets a call is the only one that acts on it. For a delay and then an
//! error there is [`Rule::delayed`]; for faults that are independent of each other, put two layers on top of each other.
//!
//! Whether a rule meets a call is a function of the seed, the rule's place, and the call's *number*, which is taken in
//! `call`; nothing is drawn from a generator that others draw from, too. What follows from that:
//!
//! * One caller at a time: the same seed gives the same faults in the same places.
//! * Concurrent callers, [`Numbering::Calls`]: the same number of each fault; which caller meets which is a matter of who
//!   comes first.
//! * Concurrent callers, [`Numbering::PerKey`]: the n-th call with a key meets the same fault, whatever the others do, as
//!   long as all rules before it are by key as well.
//! * [`Numbering::Key`]: a key meets the same fault each time.
//!
//! Windows are counted on tokio's clock, from the first call that looks at one, or from [`Config::start_at`]. Faults that
//! depend on a window are as reproducible as the time of the calls is: exactly, on a paused clock.
//!
//! A fault is decided, counted and reported ([`Event::Injected`](buttress_core::Event::Injected)) in `call`. Faults that take
//! the place of the call act when the future is first polled; nothing is passed on, and what the service inside had
//! reserved is given back. Injected errors hold [`Injected`], and classifiers judge them as what they stand for.
//!
//! # Cancellation and panics
//!
//! A call that hangs can be dropped, and so can one that is delayed: it is then never made. A panic of the service inside
//! passes through, and an injected one is a real panic. Latencies begin when the future is first polled; without a tokio
//! timer they are a typed error, [`NoTimer`](buttress_core::NoTimer). No lock is held while anything waits.
//!
//! # Examples
//!
//! A tenth of all calls fail, and one in twenty does its work and says nothing:
//!
//! ```
//! use buttress_chaos::{ChaosLayer, Config, Rule};
//! use buttress_core::Kind;
//! # fn main() -> Result<(), buttress_core::ConfigError> {
//! let rules = [Rule::error(Kind::Transient).rate(0.1), Rule::lose_answer().rate(0.05)];
//! let chaos = ChaosLayer::new("payments", Config::seeded(7).rules(rules))?;
//! # tower::ServiceBuilder::new().layer(chaos);
//! # Ok(())
//! # }
//! ```
//!
//! An outage, controlled while it runs:
//!
//! ```
//! use std::time::Duration;
//! use buttress_chaos::{ChaosLayer, Config, Mode, Rule, Window};
//! # fn main() -> Result<(), buttress_core::ConfigError> {
//! let window = Window::always().from(Duration::from_secs(10)).until(Duration::from_secs(30));
//! let chaos = ChaosLayer::new("payments", Config::seeded(7).rule(Rule::hang().within(window)))?;
//! let handle = chaos.handle();
//! # let client = tower::service_fn(|()| async { Ok::<_, std::io::Error>(()) });
//! let client = tower::ServiceBuilder::new().layer(chaos).service(client);
//! handle.set_rules([Rule::latency(Duration::from_secs(2)).every_nth(10)])?;
//! handle.set_mode(Mode::Off);
//! # let _ = client;
//! # Ok(())
//! # }
//! ```

mod config;
#[cfg(feature = "control")]
mod control;
mod describe;
mod draw;
mod error;
mod fault;
mod future;
mod handle;
#[cfg(feature = "http")]
mod http;
mod inject;
mod layer;
mod plan;
#[cfg(feature = "proxy")]
mod proxy;
mod rule;
#[cfg(feature = "schedule")]
mod schedule;
mod service;
#[cfg(any(feature = "proxy", feature = "schedule"))]
mod toxic;
mod window;
#[cfg(any(feature = "control", feature = "schedule"))]
mod written;

#[cfg(feature = "http")]
pub use self::http::{ChaosBody, Http};
pub use buttress_core::Mode;
pub use config::Config;
#[cfg(feature = "control")]
pub use control::ControlServer;
pub use error::Injected;
pub use fault::{Answer, Code, Cut, Fault, FaultKind, Latency};
pub use future::ResponseFuture;
pub use handle::ChaosHandle;
pub use inject::{Inject, Protocol, RespondWith, respond_with};
pub use layer::ChaosLayer;
#[cfg(feature = "proxy")]
pub use proxy::{ProxyCounts, ProxyHandle, ToxicError, ToxicProxy};
pub use rule::{Field, Numbering, Rule};
#[cfg(feature = "schedule")]
pub use schedule::{ChaosSchedule, ScheduleError};
pub use service::Chaos;
#[cfg(any(feature = "proxy", feature = "schedule"))]
pub use toxic::{Stream, Toxic, ToxicKind};
pub use window::Window;

/// The page on chaos is compiled and run with the tests.
#[cfg(all(doctest, feature = "control", feature = "http", feature = "schedule"))]
#[doc = include_str!("../../../docs/chaos.md")]
struct Page;
