//! Handles an incident over real HTTP while the vendors that it needs are failing: with Buttress, and then the same
//! without. Read `agent` for what is done, `clients` for the one difference between the two runs.

mod agent;
mod args;
mod chaos;
mod clients;
mod console;
mod date;
mod incident;
mod input;
mod journal;
mod patience;
mod report;
mod run;
mod servers;
mod tally;
mod timeline;
mod vendors;

use std::process::ExitCode;

use buttress::{BoxError, find};

use args::{Args, Format};
use chaos::Chaos;
use console::Console;
use incident::Incident;
use input::BadInput;
use report::Report;
use run::Plan;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let environment = |name: &str| std::env::var(name).ok();
    let result = match args::parse(lexopt::Parser::from_env(), environment) {
        Ok(None) => {
            println!("{}", args::HELP);
            return ExitCode::SUCCESS;
        }
        Ok(Some(args)) => run(&args).await,
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(report) if report.with.outcome.is_handled() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("incident-agent: {error}");
            ExitCode::from(if find::<BadInput>(&*error).is_some() { 2 } else { 1 })
        }
    }
}

/// Reads the input, handles the incident, and reports.
async fn run(args: &Args) -> Result<Report, BoxError> {
    let incident = Incident::load(args.incident.as_deref())?;
    let chaos = Chaos::load(&args.chaos)?;
    let console = match args.report {
        Format::Text => Console::stdout(),
        Format::Json => Console::stderr(),
    };
    let plan = Plan { incident: &incident, chaos: &chaos, targets: &args.targets, console };
    plan.check()?;
    plan.introduce();
    console.heading("With Buttress");
    let with = plan.with_buttress().await?;
    let without = if args.targets.all_embedded() {
        console.heading("The same without Buttress");
        Some(plan.without_buttress().await?)
    } else {
        None
    };
    let report = Report { with, without };
    match args.report {
        Format::Text => report.print(console),
        Format::Json => println!("{}", report.json()),
    }
    Ok(report)
}
