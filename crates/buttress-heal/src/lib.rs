//! A supervised tower service: checked, rebuilt, failed over, and escalated once to a human.
//!
//! Most outages of a client are its own: a pooled connection that is dead, an address that is stale, a pool that is exhausted,
//! credentials that have expired. A [`Supervisor`] builds the client, looks after it, and puts a new one in its place when it is ill.
//! What calls see is a [`Heal`] service, which stands directly above the transport.
//!
//! * A [`Check`] finds out whether something is well, on the service itself where it wants to. [`TrafficCheck`], the default, looks at the
//!   calls.
//! * An [`Action`] does something against it. A [`Rung`] says how often it may, and how long it has to show that it has helped.
//! * An [`Incident`] is one illness from its first symptom until it has been gone for long enough. A [`Pager`] is told of it once, when
//!   nothing has helped, and once more when it is over.
//! * The [`SupervisorHandle`] is for operators: how things are, what would be done next and why nothing else, pause, force, shut down.
//!
//! # When to use it, and when not
//!
//! Use it for whatever is built once and then kept: pools, sessions, clients with credentials, child processes. It repeats no call (a retry
//! does) and refuses none because a dependency is ill (a circuit breaker does); it acts where these only wait. It does not restart your
//! own process.
//!
//! # The rule
//!
//! A check is *down* after [`fall`](CheckSettings::fall) failures in a row and *up* after [`rise`](CheckSettings::rise) passes. While one is down there is an
//! incident. Of the rungs that help against what is down, the first one that may be tried is tried, one at a time: within its attempts
//! and its cooldown, and, if it restarts something, within the [`Intensity`] (OTP's) and unless most [`Siblings`] are in trouble too. The attempt
//! has helped if the symptom is gone when the time to verify is over, and not because the action says so. A rung that cools down for longer than
//! 10 s is overtaken by the next. When nothing may be tried any more, or after [`page_after`](Supervisor::page_after), a human is called: that is a
//! state, in which the service keeps serving, checks go on, and what [keeps trying](Rung::keep_trying) does so each minute. The incident
//! is over after [`stable_for`](Supervisor::stable_for) without symptoms, and only then do attempts count anew. How many restarts there were is never
//! forgotten.
//!
//! While all is well, and while it is degraded, a new service is built and tried before the old one goes; when it is critical, the
//! old one goes first, and callers wait, a bounded number for a bounded time ([`SwapSettings`]). What calls of one generation meet never
//! counts against the next.
//!
//! # Cancellation and panics
//!
//! One task owns the factory, and runs checks and actions within their times; what is late is dropped where it stands. A check, an action, a factory, a
//! pager or an observer that panics or hangs is an answer, a failed attempt, a page that is sent again; it harms nothing else. Dropping a call's
//! future settles it as abandoned. The supervisor ends with the last clone of its service, or by
//! [`shutdown`](SupervisorHandle::shutdown), which drops what runs and gives calls and pages on their way a bounded time.
//!
//! # Examples
//!
//! Five lines:
//!
//! ```
//! use buttress_heal::{Build, Supervisor};
//! # use std::io::Error;
//! # #[derive(Clone)] struct Client;
//! # impl Client {
//! #     async fn connect() -> Result<Self, Error> { Ok(Self) }
//! #     async fn ping(&self) -> Result<(), Error> { Ok(()) }
//! # }
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), buttress_core::BoxError> {
//! let (client, handle) = Supervisor::new("orders", |_: Build| Client::connect())
//!     .ping(|client: Client| async move { client.ping().await })
//!     .spawn()?;
//! # drop((client, handle));
//! # Ok(())
//! # }
//! ```
//!
//! Two targets, a check that is strict, an action of one's own before the usual ones, and a pager:
//!
//! ```
//! use std::time::Duration;
//! use buttress_core::BoxError;
//! use buttress_heal::{
//!     Action, Attempt, BoxFuture, Build, Health, LogPager, Monitor, Rung, Supervisor, Symptom, Then, check_fn,
//! };
//! # use std::io::Error;
//! # #[derive(Clone)] struct Client;
//! # impl Client {
//! #     async fn connect(_: &str) -> Result<Self, Error> { Ok(Self) }
//! #     async fn ping(&self) -> Result<(), Error> { Ok(()) }
//! # }
//! # async fn renew_token() -> Result<(), Error> { Ok(()) }
//!
//! struct RenewToken;
//!
//! impl Action for RenewToken {
//!     fn name(&self) -> &str {
//!         "renew token"
//!     }
//!
//!     fn heal<'a>(&'a self, _: &'a Attempt) -> BoxFuture<'a, Result<Then, BoxError>> {
//!         Box::pin(async {
//!             renew_token().await?;
//!             Ok(Then::Rebuild)
//!         })
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), BoxError> {
//! const HOSTS: [&str; 2] = ["eu.example.com", "us.example.com"];
//! let ping = check_fn("ping", Symptom::Connectivity, |client: Client| async move { client.ping().await });
//! let (client, handle) = Supervisor::new("orders", |build: Build| Client::connect(HOSTS[build.target]))
//!     .targets(HOSTS)
//!     .check(Monitor::new(ping).every(Duration::from_secs(1)).fall(2))
//!     .rung(Rung::new(RenewToken).max_attempts(1))
//!     .rung(Rung::reset_pool())
//!     .rung(Rung::fail_over())
//!     .pager(LogPager)
//!     .spawn()?;
//! assert_eq!(handle.health(), Health::Healthy);
//! println!("{}", handle.explain().await.unwrap());
//! # drop(client);
//! # Ok(())
//! # }
//! ```

mod action;
mod actions;
mod body;
mod chart;
mod check;
mod checks;
mod connection;
mod ending;
mod factory;
mod failback;
mod findings;
mod future;
mod gate;
mod generations;
mod group;
mod handle;
mod health;
mod incident;
mod intensity;
mod judge;
mod ladder;
mod lane;
mod latencies;
mod layer;
mod ledger;
mod looking;
mod operator;
mod page_budget;
mod pager;
mod pages;
mod permit;
mod ramp;
mod rounds;
mod service;
mod settings;
mod siblings;
mod signals;
mod state;
mod supervisor;
mod task;
mod unavailable;
mod unwind;
mod view;

use std::pin::Pin;

// The state machine.
pub use action::{Action, Attempt, FailOver, Fixes, Limits, ResetPool, Restart, Then};
pub use buttress_core::Mode;
pub use buttress_core::observe::{HealState, Health};
pub use check::{Answer, Check, CheckFn, CheckSettings, Monitor, Subject, Symptom, check_fn};
pub use failback::Failback;
pub use handle::{Explanation, NoSuchRung, Status, SupervisorHandle};
pub use health::Policy;
pub use incident::{Happened, Incident, Tried};
pub use intensity::Intensity;
pub use ladder::{Fit, Rung};
pub use ledger::{Ledger, LedgerEntry};
pub use pager::{LogPager, Pager};
pub use siblings::Siblings;
pub use supervisor::{SpawnError, Supervisor};

// The swap.
pub use factory::{Build, Factory, MakeServices};
pub use future::ResponseFuture;
pub use layer::HealLayer;
pub use permit::Permit;
pub use service::Heal;
pub use settings::SwapSettings;
pub use signals::{Outcomes, Signals};
pub use unavailable::{CutOff, Unavailable, Why};

// What is ready-made: checks, actions and pagers.
pub use actions::{Addresses, ChildProcess, ClearCaches, LoadLimit, LoadLimited, LoadLimitedFuture, Reload};
pub use checks::{
    CallCheck, MemoryCheck, PoolUse, Reading, ResponseTimeCheck, TcpCheck, TrafficCheck, circuit_breaker,
    pool_use, queue_depth,
};
pub use page_budget::PageBudget;

/// A boxed future, as the object-safe traits of this crate give it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
