//! A run whose process is killed again and again.

use std::ffi::OsString;
use std::process::ExitCode;

use buttress::BoxError;
use buttress::core::Rng;
use tokio::process::Command;

use crate::args::Options;
use crate::crash::Point;
use crate::servers::apart::ledger_file;
use crate::servers::ledger::read;

/// Starts processes that go on with the run, and each of which dies at a point drawn at random. `None` when so many have died:
/// then somebody has to bring it to its end.
pub(crate) async fn at_random(times: u32, options: &Options) -> Result<Option<ExitCode>, BoxError> {
    let mut rng = options.seed.map_or_else(Rng::from_system, Rng::seeded);
    // A step has two points. The first ones are those at which the last process died.
    let deaths = (0..times).map(|_| ("--crash-in", rng.between(0, 3).to_string()));
    die(deaths, options).await
}

/// The same, each at one of these points, without those at which the run was killed before.
pub(crate) async fn at_each(points: &[Point], options: &Options) -> Result<Option<ExitCode>, BoxError> {
    let before = read(&ledger_file(&options.folder()), "")?.killed().len();
    let deaths = points.iter().skip(before).map(|point| ("--crash-at", point.to_string()));
    die(deaths, options).await
}

async fn die(
    deaths: impl Iterator<Item = (&'static str, String)>,
    options: &Options,
) -> Result<Option<ExitCode>, BoxError> {
    let arguments = without("--crash-loop", std::env::args_os().skip(1));
    for (option, value) in deaths {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(&arguments).args(["--run", &options.run, option, &value]);
        let status = command.status().await?;
        if let Some(code) = status.code() {
            // It has come to its end before.
            return Ok(Some(ExitCode::from(u8::try_from(code).unwrap_or(1))));
        }
    }
    Ok(None)
}

/// The arguments without this option and its value.
fn without(option: &str, arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut left = Vec::new();
    let mut arguments = arguments.peekable();
    while let Some(argument) = arguments.next() {
        if argument == *option {
            arguments.next();
        } else if !argument.to_str().is_some_and(|text| text.starts_with(&format!("{option}="))) {
            left.push(argument);
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_arguments_stay() {
        let left = |arguments: &[&str]| without("--crash-loop", arguments.iter().map(OsString::from));
        assert_eq!(
            left(&["--chaos", "none", "--crash-loop", "3", "--seed", "7"]),
            ["--chaos", "none", "--seed", "7"]
        );
        assert_eq!(left(&["--crash-loop=3"]), [""; 0]);
    }
}
