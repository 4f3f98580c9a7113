//! A supervised tower service: checked, rebuilt, failed over, and escalated once to a human.

mod action;
mod actions;
mod body;
mod chart;
mod check;
mod checks;
mod factory;
mod failback;
mod future;
mod gate;
mod generations;
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
pub use check::{Answer, Check, CheckFn, CheckSettings, Monitor, Subject, Symptom, TrafficCheck, check_fn};
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
pub use permit::Permit;
pub use service::Heal;
pub use settings::SwapSettings;
pub use signals::{Outcomes, Signals};
pub use unavailable::{CutOff, Unavailable, Why};

// What is ready-made: checks, actions and pagers.
pub use actions::{Addresses, ChildProcess, ClearCaches, LoadLimit, LoadLimited, LoadLimitedFuture, Reload};
pub use checks::{
    CallCheck, MemoryCheck, Reading, ResponseTimeCheck, TcpCheck, circuit_breaker, pool_use, queue_depth,
};
pub use page_budget::PageBudget;

/// A boxed future, as the object-safe traits of this crate give it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
