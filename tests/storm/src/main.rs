//! Runs the whole simulation, prints its figures against their intervals, and draws it.

use std::path::PathBuf;
use std::process::ExitCode;

use lexopt::prelude::{Long, Short};
use storm_tests::{picture, whole};

const HELP: &str = "\
Usage: storm-tests [--svg DIR]

  --svg DIR   also draws requests per second over time into this directory

Exit status: 0 if every figure is within its interval, 1 if not, 2 if the arguments cannot be used.";

fn main() -> ExitCode {
    let svg = match arguments() {
        Ok(Arguments::Run { svg }) => svg,
        Ok(Arguments::Help) => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("{error}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    if let Some(directory) = svg {
        if let Err(error) = picture::draw_all(&directory) {
            eprintln!("cannot draw into {}: {error}", directory.display());
            return ExitCode::from(2);
        }
    }
    let report = whole::run();
    print!("{report}");
    if report.checked_and_missed().1 == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

enum Arguments {
    Run { svg: Option<PathBuf> },
    Help,
}

fn arguments() -> Result<Arguments, lexopt::Error> {
    let mut parser = lexopt::Parser::from_env();
    let mut svg = None;
    while let Some(argument) = parser.next()? {
        match argument {
            Long("svg") => svg = Some(parser.value()?.into()),
            Short('h') | Long("help") => return Ok(Arguments::Help),
            other => return Err(other.unexpected()),
        }
    }
    Ok(Arguments::Run { svg })
}
