//! What the layers cost: `cargo xtask bench`.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::run::{Failure, cargo, metadata};

/// Times all cases, in one process; passes the arguments on.
pub(crate) fn overhead(arguments: &[&str]) -> Result<(), Failure> {
    timed("buttress-bench", "overhead", arguments)
}

/// Times chains of fallbacks and stores of last good answers; passes the arguments on.
pub(crate) fn degrade(arguments: &[&str]) -> Result<(), Failure> {
    timed("buttress-bench", "degrade", arguments)
}

/// Times supervised services of which nothing is wrong; passes the arguments on.
pub(crate) fn heal_overhead(arguments: &[&str]) -> Result<(), Failure> {
    timed("buttress-bench", "heal", arguments)
}

/// Lets real clients call a server on loopback; passes the arguments on.
pub(crate) fn http(arguments: &[&str]) -> Result<(), Failure> {
    timed("buttress-bench-http", "times", arguments)
}

/// Injects real faults into real processes, and times how clients recover; passes the arguments on.
pub(crate) fn heal(arguments: &[&str]) -> Result<(), Failure> {
    crate::services::ensure()?;
    crate::services::try_nftables();
    let run = ["run", "--profile", "bench", "--locked", "--package", "heal-tests", "--bin", "recovery", "--"];
    cargo(run.into_iter().chain(arguments.iter().copied())).run()
}

fn timed(package: &str, command: &str, arguments: &[&str]) -> Result<(), Failure> {
    let run = ["run", "--profile", "bench", "--locked", "--package", package, "--", command];
    cargo(run.into_iter().chain(arguments.iter().copied())).run()
}

/// Claims and completions over each store; the servers that it needs are started for it.
pub(crate) fn idempotency() -> Result<(), Failure> {
    crate::services::ensure()?;
    overhead(&["--only", "claims in memory"])?;
    cargo(["run", "--profile", "bench", "--locked", "--package", "idempotency-tests"]).run()
}

/// Steps of workflows over each store and their replay, and then the layer where there is no workflow.
pub(crate) fn checkpoint() -> Result<(), Failure> {
    crate::services::ensure()?;
    let steps = ["--package", "checkpoint-tests", "--bin", "bench"];
    cargo(["run", "--profile", "bench", "--locked"].into_iter().chain(steps)).run()?;
    overhead(&["--only", "outside of a workflow"])
}

/// Counts instructions under valgrind: they do not depend on what else the machine does.
pub(crate) fn instructions() -> Result<(), Failure> {
    const CALLS: u64 = 20_000;
    let program = Program::built("buttress-bench")?;
    println!("| case | instructions a call |\n|---|---:|");
    for case in program.cases()? {
        let count = program.count(&case, CALLS, &["--toggle-collect=*measure::collected*"])?;
        println!("| {case} | {} |", count / CALLS);
    }
    Ok(())
}

/// The same for a client and its server together, without the kernel: the difference of a long and a short run.
pub(crate) fn http_instructions() -> Result<(), Failure> {
    const CALLS: (u64, u64) = (1000, 5000);
    let program = Program::built("buttress-bench-http")?;
    println!("| client | instructions a request, client and server | beyond bare |\n|---|---:|---:|");
    let mut bare = 0;
    for case in program.cases()? {
        let counted = |calls| program.count(&case, calls, &[]);
        let count = (counted(CALLS.1)? - counted(CALLS.0)?) / (CALLS.1 - CALLS.0);
        if case.ends_with(": bare") {
            bare = count;
        }
        let beyond = (count as f64 / bare as f64 - 1.0) * 100.0;
        println!("| {case} | {count} | {beyond:+.1} % |");
    }
    Ok(())
}

/// A program that lists its cases and runs one of them.
struct Program(PathBuf);

impl Program {
    fn built(package: &str) -> Result<Self, Failure> {
        if Command::new("valgrind").arg("--version").output().is_err() {
            return Err(Failure(
                "instructions are counted by valgrind: install it (`apt-get install valgrind`)".into(),
            ));
        }
        cargo(["build", "--profile", "bench", "--locked", "--package", package]).run()?;
        let metadata = metadata()?;
        let target = metadata["target_directory"].as_str().unwrap_or("target");
        Ok(Self(Path::new(target).join("release").join(package)))
    }

    fn cases(&self) -> Result<Vec<String>, Failure> {
        let list = Command::new(&self.0).arg("list").output().map_err(|error| Failure(error.to_string()))?;
        Ok(String::from_utf8_lossy(&list.stdout).lines().map(ToOwned::to_owned).collect())
    }

    fn count(&self, case: &str, calls: u64, arguments: &[&str]) -> Result<u64, Failure> {
        let mut valgrind = Command::new("valgrind");
        valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).args(arguments).arg(&self.0);
        let output = valgrind.args(["run", case, &calls.to_string()]).output();
        let output = output.map_err(|error| Failure(format!("valgrind: {error}")))?;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        let count: Option<u64> =
            told.split("Collected : ").nth(1).and_then(|rest| rest.lines().next()?.trim().parse().ok());
        count
            .filter(|_| output.status.success())
            .ok_or_else(|| Failure(format!("valgrind did not count `{case}`:\n{told}")))
    }
}
