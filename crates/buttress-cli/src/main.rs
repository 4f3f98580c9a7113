//! The `buttress` command.

use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return complain(&format!("no runtime: {error}"), 1),
    };
    let printed = match runtime.block_on(buttress_cli::run(std::env::args_os().skip(1))) {
        Ok(printed) => printed,
        Err(failure) => return complain(&failure.to_string(), if failure.is_usage() { 2 } else { 1 }),
    };
    let mut out = io::stdout().lock();
    match out.write_all(printed.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads has read enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => complain(&format!("it is done, and could not be printed: {error}"), 1),
    }
}

fn complain(failure: &str, code: u8) -> ExitCode {
    // There is nobody else to tell if this fails.
    let _ = writeln!(io::stderr(), "buttress: {failure}");
    ExitCode::from(code)
}
