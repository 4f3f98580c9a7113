//! Applies SQL migrations to PostgreSQL or SQLite, each once, whatever is killed or cut off meanwhile. Read `agent` for what a
//! run is, `stack` for what stands around the database, `sqlite` and `postgres` for what makes a change happen once.

mod agent;
mod app;
mod args;
mod console;
mod crash;
mod database;
mod fault;
mod files;
mod heal;
mod history;
mod monitor;
mod order;
mod plan;
mod postgres;
mod problem;
mod report;
mod sql;
mod sqlite;
mod stack;
mod tally;

use std::process::ExitCode;
use std::sync::Arc;

use tokio::time::Instant;

use app::App;
use args::Args;
use console::Console;
use problem::Problem;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let database = std::env::var("DATABASE_URL").ok();
    let result = match args::parse(lexopt::Parser::from_env(), database) {
        Ok(None) => {
            println!("{}", args::HELP);
            return ExitCode::SUCCESS;
        }
        Ok(Some(args)) => run(args).await,
        Err(problem) => Err(problem),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("migration-agent: {problem}");
            ExitCode::from(problem.exit as u8)
        }
    }
}

async fn run(args: Args) -> Result<(), Problem> {
    let (json, command) = (args.json, args.command);
    let console = Arc::new(Console::new(json));
    let started = Instant::now();
    let (mut report, result) = match App::new(args, Arc::clone(&console)) {
        Ok(app) => app.run().await,
        Err(problem) => {
            let mut report = report::Report { command: command.as_str(), ..report::Report::default() };
            let result = Err(problem);
            report.end(&result);
            (report, result)
        }
    };
    report.elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    if json {
        println!("{}", serde_json::to_string(&report).unwrap_or_default());
    }
    result
}
