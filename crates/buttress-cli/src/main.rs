//! The `buttress` command.

use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("buttress: no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(buttress_cli::run(std::env::args_os().skip(1))) {
        // Whoever reads may have read enough.
        Ok(printed) => {
            std::io::stdout().write_all(printed.as_bytes()).map_or(ExitCode::SUCCESS, |()| ExitCode::SUCCESS)
        }
        Err(failure) => {
            eprintln!("buttress: {failure}");
            if failure.is_usage() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}
