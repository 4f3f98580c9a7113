//! Retry storms, simulated on a paused clock: many clients behind the real layers, one simulated server.
//!
//! Three models: clients that contend for one row ([`contention`]), a herd of clients that wait for their answers
//! ([`herd`]), and processes that call whether they get answers or not ([`overload`]). The policies are those of the
//! crates, put together with `tower::ServiceBuilder`; only the network, the server and the callers are made up. Every draw
//! comes from a seed, so a run is the same each time.

pub mod contention;
pub mod draw;
pub mod goals;
pub mod herd;
pub mod overload;
pub mod picture;
pub mod report;
pub mod server;
pub mod stack;
pub mod tally;
pub mod whole;

/// Runs a simulation on a clock of its own that is paused: it costs no time but that of its work.
pub fn simulate<T>(simulation: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime without I/O can always be built").block_on(simulation)
}
