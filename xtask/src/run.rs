//! Running other programs.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use serde_json::Value;

/// Why a command of this workspace failed.
#[derive(Debug)]
pub(crate) struct Failure(pub(crate) String);

/// What cargo knows of this workspace.
pub(crate) fn metadata() -> Result<Value, Failure> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .map_err(|error| Failure(format!("`cargo metadata` failed: {error}")))?;
    serde_json::from_slice(&output.stdout)
        .map_err(|error| Failure(format!("`cargo metadata` is not JSON: {error}")))
}

/// One program to be run from the workspace's root.
pub(crate) struct Step {
    command: Command,
    shown: String,
    quiet: bool,
}

/// The cargo that runs this.
pub(crate) fn cargo<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Step {
    Step::new(&std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()), arguments).shown_as("cargo")
}

impl Step {
    pub(crate) fn new<'a>(program: &str, arguments: impl IntoIterator<Item = &'a str>) -> Self {
        let arguments: Vec<&str> = arguments.into_iter().collect();
        let mut command = Command::new(program);
        command.args(&arguments).current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        Self { command, shown: format!("{program} {}", arguments.join(" ")), quiet: false }
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Is shown under this name, wherever the program is.
    pub(crate) fn shown_as(mut self, program: &str) -> Self {
        let arguments = self.command.get_args().map(|argument| argument.to_string_lossy());
        self.shown = [program.into()].into_iter().chain(arguments).collect::<Vec<_>>().join(" ");
        self
    }

    /// Shows neither the command nor what it prints.
    pub(crate) fn quiet(mut self) -> Self {
        self.quiet = true;
        self
    }

    pub(crate) fn run(mut self) -> Result<(), Failure> {
        if self.quiet {
            self.command.stdout(Stdio::null()).stderr(Stdio::null());
        } else {
            println!("$ {}", self.shown);
        }
        let status = self.command.status().map_err(|error| self.failure(&error))?;
        if status.success() { Ok(()) } else { Err(self.failure(&status)) }
    }

    /// Runs a test runner, passes on what it prints, and counts the tests.
    pub(crate) fn run_counted(mut self) -> Counted {
        println!("$ {}", self.shown);
        let child = self.command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = match child {
            Ok(child) => child,
            Err(error) => return Counted { passed: 0, failed: 0, outcome: Err(self.failure(&error)) },
        };
        let (stdout, stderr) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
        let errors = std::thread::spawn(move || count(stderr, |line| eprintln!("{line}")));
        let printed = count(stdout, |line| println!("{line}"));
        let counted = errors.join().expect("counting does not panic");
        let (passed, failed) = (printed.0 + counted.0, printed.1 + counted.1);
        let outcome = match child.wait() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(self.failure(&status)),
            Err(error) => Err(self.failure(&error)),
        };
        Counted { passed, failed, outcome }
    }

    fn failure(&self, why: &dyn std::fmt::Display) -> Failure {
        Failure(format!("`{}` failed: {why}", self.shown))
    }
}

/// What a test runner came to.
pub(crate) struct Counted {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) outcome: Result<(), Failure>,
}

fn count(from: impl Read, show: impl Fn(&str)) -> (usize, usize) {
    let lines = BufReader::new(from).lines().map_while(Result::ok);
    lines.fold((0, 0), |sum, line| {
        show(&line);
        let (passed, failed) = summary(&line);
        (sum.0 + passed, sum.1 + failed)
    })
}

/// Passed and failed tests, if this is the line in which libtest or nextest sums up.
fn summary(line: &str) -> (usize, usize) {
    let text = line.trim_start();
    // One that is indented is what a test that failed has printed, and counted already.
    if !line.starts_with("test result:") && !text.starts_with("Summary [") {
        return (0, 0);
    }
    let before = |word: &str| {
        let words: Vec<&str> =
            text.split([' ', ',', ';', ':', '(']).filter(|word| !word.is_empty()).collect();
        words.windows(2).find(|pair| pair[1] == word).and_then(|pair| pair[0].parse().ok()).unwrap_or(0)
    };
    (before("passed"), before("failed"))
}

#[cfg(test)]
mod tests {
    use super::summary;

    #[test]
    fn the_summaries_of_both_runners_are_counted() {
        let libtest = "test result: FAILED. 30 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.15s";
        assert_eq!(summary(libtest), (30, 2));
        assert_eq!(
            summary("     Summary [   0.412s] 121 tests run: 119 passed (1 slow), 2 failed, 0 skipped"),
            (119, 2)
        );
        assert_eq!(summary("test a_summary ... ok, 3 passed"), (0, 0));
        let told = "    test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 2 filtered out; finished in 0.20s";
        assert_eq!(summary(told), (0, 0), "nextest shows what a failed test printed");
    }
}
