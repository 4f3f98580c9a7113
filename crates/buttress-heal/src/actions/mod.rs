//! Actions that are ready-made, beside those of the standard ladder.

mod addresses;
mod child_process;
mod clear_caches;
mod load_limit;
mod reload;

pub use addresses::Addresses;
pub use child_process::ChildProcess;
pub use clear_caches::ClearCaches;
pub use load_limit::{LoadLimit, LoadLimited, LoadLimitedFuture};
pub use reload::Reload;
