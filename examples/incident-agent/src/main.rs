//! Handles an incident over real HTTP while the vendors that it needs are failing: with Buttress, and then the same
//! without. Read `agent` for what is done, `shield` and
//! `clients` for the one difference between the two runs.

mod again;
mod agent;
mod args;
mod board;
mod chaos;
mod clients;
mod console;
mod crash;
mod date;
mod facts;
mod healed;
mod incident;
mod input;
mod patience;
mod report;
mod run;
#[cfg(test)]
mod scenarios;
mod servers;
mod shield;
mod steps;
mod svg;
mod tally;
mod timeline;
mod vendors;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use buttress::{BoxError, find};

use args::{Args, Format};
use chaos::Chaos;
use console::Console;
use incident::Incident;
use input::BadInput;
use report::Report;
use run::{Plan, points};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    // This program in its other role, which nobody asks for by hand.
    let result = match arguments.as_slice() {
        [role, folder] if role == "vendors" => {
            servers::apart::serve(Path::new(folder)).await.map(|()| ExitCode::SUCCESS)
        }
        _ => agent().await,
    };
    result.unwrap_or_else(|error| {
        eprintln!("incident-agent: {error}");
        ExitCode::from(if find::<BadInput>(&*error).is_some() { 2 } else { 1 })
    })
}

async fn agent() -> Result<ExitCode, BoxError> {
    let environment = |name: &str| std::env::var(name).ok();
    let Some(args) = args::parse(lexopt::Parser::from_env(), environment)? else {
        println!("{}", args::HELP);
        return Ok(ExitCode::SUCCESS);
    };
    let options = &args.options;
    // Whoever goes on with a run goes on with its vendors.
    let known = servers::apart::known(&options.folder()).map(|setup| setup.chaos);
    let chaos = known.map_or_else(|| Chaos::load(&args.chaos), Ok)?;
    let over = match args.crash_loop {
        Some(times) => again::at_random(times, options).await?,
        None if options.has_a_point() => None,
        None => again::at_each(chaos.killed(), options).await?,
    };
    if let Some(over) = over {
        return Ok(over);
    }
    let report = run(&args, &chaos).await?;
    Ok(if report.with.outcome.is_handled() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Reads the input, handles the incident, and reports.
async fn run(args: &Args, chaos: &Chaos) -> Result<Report, BoxError> {
    let incident = Arc::new(Incident::load(args.incident.as_deref())?);
    let console = match args.report {
        Format::Text => Console::stdout(),
        Format::Json => Console::stderr(),
    };
    let options = &args.options;
    let plan = Plan { incident: &incident, chaos, options, console: console.clone() };
    plan.check()?;
    plan.introduce();
    console.heading("With Buttress");
    let with = plan.with_buttress().await?;
    let without = if options.targets.all_embedded() {
        console.heading("The same without Buttress");
        Some(plan.without_buttress(&points(&with.state)).await?)
    } else {
        None
    };
    if let Some(file) = &args.svg {
        let drawn = svg::draw(&incident.title, &with, without.as_ref());
        std::fs::write(file, drawn).map_err(|error| {
            let problem = format!("cannot be written: {error}");
            BadInput::new(file.display(), problem, "give --report svg a path that can be")
        })?;
    }
    let report = Report { with: with.run, without: without.map(|without| without.run) };
    match args.report {
        Format::Text => report.print(&console),
        Format::Json => println!("{}", report.json()),
    }
    Ok(report)
}
