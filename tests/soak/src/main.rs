//! `cargo xtask soak` runs this.

use std::process::ExitCode;
use std::time::Duration;

use buttress::BoxError;
use soak::{fuzz, stack};

const HELP: &str = "\
soak fuzz [--inputs N] [--seed S] [--from N]   random inputs for all that reads bytes from outside
soak stack [--minutes N]                       a server that fails in every way under the whole stack";

/// What to do.
#[derive(Debug)]
struct Arguments {
    what: String,
    inputs: u64,
    seed: u64,
    from: u64,
    minutes: f64,
}

fn arguments() -> Result<Arguments, lexopt::Error> {
    use lexopt::prelude::*;
    let mut all = Arguments { what: String::new(), inputs: 1_000_000, seed: 1, from: 0, minutes: 10.0 };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Value(what) if all.what.is_empty() => all.what = what.string()?,
            Long("inputs") => all.inputs = parser.value()?.parse()?,
            Long("seed") => all.seed = parser.value()?.parse()?,
            Long("from") => all.from = parser.value()?.parse()?,
            Long("minutes") => all.minutes = parser.value()?.parse()?,
            other => return Err(other.unexpected()),
        }
    }
    Ok(all)
}

fn main() -> ExitCode {
    let result = match arguments() {
        Ok(all) if all.what == "fuzz" => fuzz::run(all.seed, all.from, all.inputs),
        Ok(all) if all.what == "stack" => minutes(all.minutes).and_then(stack::run),
        Ok(_) => Err(format!("what to do?\n\n{HELP}").into()),
        Err(error) => Err(format!("{error}\n\n{HELP}").into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("soak: {error}");
            ExitCode::FAILURE
        }
    }
}

fn minutes(minutes: f64) -> Result<Duration, BoxError> {
    let time = Duration::try_from_secs_f64(minutes * 60.0)?;
    // The warm-up has to be over, and something has to follow it.
    if time < Duration::from_secs(5) { Err("`--minutes` must be at least 0.1".into()) } else { Ok(time) }
}
