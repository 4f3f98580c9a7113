//! A tower layer that answers something useful when a call fails, and says how good the answer is.

mod chain;
mod declared;
mod error;
mod fallen;
mod future;
mod gather;
mod grade;
#[cfg(feature = "http")]
mod http;
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
pub use recall::{Accepts, ByKey, Keep, Kept, Recall, Restore};
pub use registry::{Component, DegradationRegistry, ServiceDegraded, SystemLevel};
pub use rung::Rung;
pub use score::Need;
pub use served::{Cause, Freshness, Served, Shortfall, Source};
pub use service::Degrade;
pub use store::{LastGood, Lifetime};
