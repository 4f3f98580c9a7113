//! What the layers cost: `cargo xtask bench`.

use std::path::Path;
use std::process::Command;

use crate::run::{Failure, cargo, metadata};

/// Times all cases, in one process; passes the arguments on.
pub(crate) fn overhead(arguments: &[&str]) -> Result<(), Failure> {
    let run = ["run", "--profile", "bench", "--locked", "--package", "buttress-bench", "--", "overhead"];
    cargo(run.into_iter().chain(arguments.iter().copied())).run()
}

/// So many calls are counted for each case.
const CALLS: u64 = 20_000;

/// Counts instructions under valgrind: they do not depend on what else the machine does.
pub(crate) fn instructions() -> Result<(), Failure> {
    if Command::new("valgrind").arg("--version").output().is_err() {
        return Err(Failure(
            "instructions are counted by valgrind: install it (`apt-get install valgrind`)".into(),
        ));
    }
    cargo(["build", "--profile", "bench", "--locked", "--package", "buttress-bench"]).run()?;
    let metadata = metadata()?;
    let target = metadata["target_directory"].as_str().unwrap_or("target");
    let program = Path::new(target).join("release").join("buttress-bench");
    let list = Command::new(&program).arg("list").output().map_err(|error| Failure(error.to_string()))?;
    println!("| case | instructions a call |\n|---|---:|");
    for case in String::from_utf8_lossy(&list.stdout).lines() {
        let mut valgrind = Command::new("valgrind");
        valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
        valgrind.args(["--toggle-collect=*measure::collected*"]).arg(&program);
        let output = valgrind.args(["run", case, &CALLS.to_string()]).output();
        let output = output.map_err(|error| Failure(format!("valgrind: {error}")))?;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        let count: Option<u64> =
            told.split("Collected : ").nth(1).and_then(|rest| rest.lines().next()?.trim().parse().ok());
        let count = count.ok_or_else(|| Failure(format!("valgrind did not count `{case}`:\n{told}")))?;
        println!("| {case} | {} |", count / CALLS);
    }
    Ok(())
}
