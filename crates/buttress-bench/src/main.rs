//! Measures what the layers cost, beside their peers, in one process and run. `cargo xtask bench` builds and runs it.

mod cases;
mod contention;
mod leaf;
mod measure;
mod report;

use std::time::Duration;

use lexopt::prelude::*;
use measure::Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const HELP: &str = "\
buttress-bench overhead [--json FILE] [--only TEXT] [--millis N]
buttress-bench degrade [--json FILE] [--millis N]
buttress-bench heal [--json FILE] [--millis N]
buttress-bench list
buttress-bench run NAME CALLS";

fn main() -> Result<(), buttress_core::BoxError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let _inside = runtime.enter();
    let mut parser = lexopt::Parser::from_env();
    let command = parser.next()?;
    match command {
        Some(Value(command)) if command == "overhead" => report(parser, report::Report::run),
        Some(Value(command)) if command == "degrade" => {
            report(parser, |_, slice| report::Report::degrade(slice))
        }
        Some(Value(command)) if command == "heal" => report(parser, |_, slice| report::Report::heal(slice)),
        Some(Value(command)) if command == "list" => {
            cases::all().iter().for_each(|case| println!("{}: {}", case.group, case.name));
            Ok(())
        }
        Some(Value(command)) if command == "run" => {
            let (name, calls): (String, u64) = (parser.value()?.parse()?, parser.value()?.parse()?);
            let mut cases = cases::all();
            let case = cases.iter_mut().find(|case| format!("{}: {}", case.group, case.name) == name);
            let case = case.ok_or_else(|| format!("no case is named `{name}`"))?;
            (case.run)(1000);
            measure::collected(case, calls);
            Ok(())
        }
        _ => Err(HELP.into()),
    }
}

fn report(
    mut parser: lexopt::Parser,
    measure: impl FnOnce(&str, Duration) -> report::Report,
) -> Result<(), buttress_core::BoxError> {
    let (mut json, mut only, mut slice) = (None, String::new(), Duration::from_millis(40));
    while let Some(argument) = parser.next()? {
        match argument {
            Long("json") => json = Some(parser.value()?),
            Long("only") => only = parser.value()?.parse()?,
            Long("millis") => slice = Duration::from_millis(parser.value()?.parse()?),
            other => return Err(other.unexpected().into()),
        }
    }
    let report = measure(&only, slice);
    print!("{report}");
    if let Some(file) = json {
        std::fs::write(&file, serde_json::to_string_pretty(&report.json())?)
            .map_err(|error| format!("cannot write {}: {error}", file.display()))?;
    }
    Ok(())
}
