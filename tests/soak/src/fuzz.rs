//! Random inputs, structured ones above all, for everything that reads bytes from outside.

mod body;
mod capture;
mod dates;
mod grpc;
mod hints;
mod keys;
mod replay;

use std::panic::{AssertUnwindSafe, catch_unwind};

use buttress::BoxError;
use tokio::time::Instant;

use crate::draw::Draw;

/// Something that reads bytes from outside, and what has to hold for any of them.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// What it is.
    pub name: &'static str,
    /// Draws one input and checks what comes of it; panics if that is wrong.
    pub check: fn(&mut Draw),
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "hints: every header, every vendor", check: hints::headers },
    Target { name: "hints: answers that are known", check: hints::known },
    Target { name: "hints: gRPC pushback", check: hints::pushback },
    Target { name: "gRPC: timeouts", check: grpc::timeouts },
    Target { name: "gRPC: service configs", check: grpc::configs },
    Target { name: "gRPC: heads of responses", check: grpc::heads },
    Target { name: "gRPC: responses that are looked into", check: grpc::peeks },
    Target { name: "dates: three forms, any moment", check: dates::dates },
    Target { name: "bodies: recorded and read again", check: replay::replay },
    Target { name: "bodies: captured and restored", check: capture::capture },
    Target { name: "bodies: under a deadline, watched, drained", check: body::pass },
    Target { name: "idempotency: keys in headers", check: keys::keys },
    Target { name: "idempotency: requests compared as JSON", check: keys::json },
];

impl Target {
    /// Checks inputs `from..to` of this seed's.
    ///
    /// # Errors
    ///
    /// At the first input for which something does not hold: which one it is. What does not hold has been printed.
    pub fn run(&self, seed: u64, from: u64, to: u64) -> Result<(), Failed> {
        for number in from..to {
            let mut draw = Draw::new(seed, number);
            catch_unwind(AssertUnwindSafe(|| (self.check)(&mut draw))).map_err(|_| Failed {
                target: self.name,
                seed,
                number,
            })?;
        }
        Ok(())
    }
}

/// Checks so many inputs against every target, and prints a line for each.
///
/// # Errors
///
/// As [`Target::run`].
pub fn run(seed: u64, from: u64, inputs: u64) -> Result<(), BoxError> {
    println!("{:<45} {:>9} {:>8}", "reads bytes from outside", "inputs", "time");
    for target in TARGETS {
        let start = Instant::now();
        target.run(seed, from, from + inputs)?;
        println!("{:<45} {inputs:>9} {:>6.1} s", target.name, start.elapsed().as_secs_f64());
    }
    Ok(())
}

/// An input for which something does not hold.
#[derive(Debug)]
pub struct Failed {
    target: &'static str,
    seed: u64,
    number: u64,
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { target, seed, number } = self;
        write!(
            f,
            "{target}: input {number} of seed {seed} fails; again with `--seed {seed} --from {number} --inputs 1`"
        )
    }
}

impl std::error::Error for Failed {}
