//! doc
mod config;
#[cfg(feature = "control")]
mod control;
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
mod service;
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
pub use service::Chaos;
pub use toxic::{Stream, Toxic, ToxicKind};
pub use window::Window;
