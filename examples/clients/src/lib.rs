//! See `examples/`: each file is one client, with its wiring, its call sites, and an outage on loopback.
//!
//! ```sh
//! cargo run -p client-examples --example hyper       # or axum, or pagerduty
//! ```
