//! A tonic server on loopback that fails by a script, in each shape in which gRPC fails on the wire.

mod script;
mod server;

pub use script::{Do, Seen};
pub use server::{Echoing, Server};

/// What tonic generates of `proto/echo.proto`.
#[allow(
    missing_docs,
    missing_debug_implementations,
    clippy::all,
    clippy::pedantic,
    reason = "it is generated"
)]
pub mod echo {
    tonic::include_proto!("echo.v1");
}
