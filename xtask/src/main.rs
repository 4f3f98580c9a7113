//! The commands of this workspace: `cargo xtask <command>`.

mod bench;
mod layering;
mod loom;
mod run;
mod services;
mod tools;

use std::process::ExitCode;

use run::{Failure, Step, cargo};
use tools::{DENY, HACK};

const HELP: &str = "\
cargo xtask <command>

  test [--without-services]
          runs all tests: unit, integration, documentation, README; PostgreSQL and Redis, which some need, are installed
          where they are missing and root may do so, or else the run fails, unless it is to go without
  check   formatting, lints, documentation, each feature alone, the layering rule, licences and bans, warnings denied
  loom    tries what threads share under their interleavings: the circuit, its windows, observers' queue, budgets
          (a minute or two the first time; LOOM_MAX_PREEMPTIONS says how thoroughly, default 3)
  bench   overhead [--json FILE]: times the layers beside their peers; instructions: counts them under valgrind;
          http [--json FILE]: requests per second of real clients, bare and under stacks; http-instructions
          degrade [--json FILE]: chains of fallbacks and stores of last good answers, beside their peers
          heal-overhead [--json FILE]: supervised services of which nothing is wrong, beside their peers; ten thousand of them
          idempotency: claims and completions over each store, beside its raw writes or round trips
          checkpoint: steps and replays of workflows over each store, and the layer outside of a workflow
          heal [--fault NAME] [--injections N] [--minutes N] [--json FILE] [--svg FILE]: real faults in real processes, and
          how clients recover alone, restarted and healed (11 minutes for all; --help has more)
  storm   simulates retry storms at full size and holds the figures against their intervals (some minutes);
          `--svg DIR` draws requests per second over time as well
  soak [--minutes N] [--fuzz]
          a million random inputs for each reader of bytes from outside, then a server that fails in every way under the
          whole stack for so many minutes (default 10), with nothing left behind; with --fuzz only the inputs
  soak --kills N
          kills a process at random so often over each store, and says what its calls were answered and their effects
  soak --workflows [--kills N] [--seeds N] [--seconds N]
          kills so many worker processes in the middle of a workflow (default 5000), simulates workers that crash, stop and
          lose their store by so many seeds (10000), and kills or stops one of four workers each second (60)
  soak --migrations [--kills N] [--seeds N]
          kills the migration agent so often (default 1000) over SQLite and PostgreSQL, and then draws so many sets of migrations
          and faults (1000; two fifths of them over PostgreSQL)

All set up what they need and need nothing but a Rust toolchain with its linker, and a C compiler for SQLite.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["test"] => test(true),
        ["test", "--without-services"] => test(false),
        ["check"] => check(),
        ["loom"] => loom::run(),
        ["bench", "overhead", ref arguments @ ..] => bench::overhead(arguments),
        ["bench", "degrade", ref arguments @ ..] => bench::degrade(arguments),
        ["bench", "heal-overhead", ref arguments @ ..] => bench::heal_overhead(arguments),
        ["bench", "heal", ref arguments @ ..] => bench::heal(arguments),
        ["bench", "instructions"] => bench::instructions(),
        ["bench", "http", ref arguments @ ..] => bench::http(arguments),
        ["bench", "http-instructions"] => bench::http_instructions(),
        ["bench", "idempotency"] => bench::idempotency(),
        ["bench", "checkpoint"] => bench::checkpoint(),
        ["storm"] => storm(None),
        ["storm", "--svg", directory] => storm(Some(directory)),
        ["soak"] => soak(Some("10")),
        ["soak", "--fuzz"] => soak(None),
        ["soak", "--minutes", minutes] => soak(Some(minutes)),
        ["soak", "--kills", kills] => soak_kills(kills),
        ["soak", "--workflows", ref options @ ..] => soak_workflows(options),
        ["soak", "--migrations", ref options @ ..] => soak_migrations(options),
        [] | ["help" | "--help" | "-h"] => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("unknown command `{}`\n\n{HELP}", arguments.join(" "));
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure(why)) => {
            eprintln!("xtask: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Everything that can fail, with nextest where it is installed, and one line that counts it.
fn test(with_services: bool) -> Result<(), Failure> {
    if with_services {
        services::ensure()?;
        services::try_nftables();
    }
    let excluded = if with_services { &[] } else { services::PACKAGES };
    let excluded = excluded.iter().flat_map(|package| ["--exclude", *package]);
    let all: Vec<&str> = ["--workspace", "--all-features", "--locked"].into_iter().chain(excluded).collect();
    let nextest = cargo(["nextest", "--version"]).quiet().run().is_ok();
    let runner: &[&str] = if nextest {
        &["nextest", "run", "--no-fail-fast"]
    } else {
        &["test", "--no-fail-fast", "--all-targets"]
    };
    let mut tests = cargo(runner.iter().chain(&all).copied());
    if !with_services {
        tests = tests.env(services::WITHOUT, "1");
    }
    let tests = tests.run_counted();
    let documented = cargo(["test", "--doc"].into_iter().chain(all)).run_counted();
    let (passed, doc_passed) = (tests.passed, documented.passed);
    let (failed, outcome) = (tests.failed + documented.failed, tests.outcome.and(documented.outcome));
    let left_out = if with_services { String::new() } else { format!("; not run: {}", services::LEFT_OUT) };
    println!(
        "{} tests passed, {failed} failed: {passed} unit and integration tests, {doc_passed} documentation and README \
         examples{left_out}",
        passed + doc_passed,
    );
    outcome
}

/// The simulation whose small form is among the tests, optimized.
fn storm(svg: Option<&str>) -> Result<(), Failure> {
    // Relative to where this was started, and not to the root, where the simulation runs.
    let svg = svg.map(std::path::absolute).transpose();
    let svg = svg.map_err(|error| Failure(format!("no such directory can be: {error}")))?;
    let svg = svg.as_ref().map(|directory| directory.to_string_lossy());
    let arguments = svg.iter().flat_map(|directory| ["--", "--svg", &**directory]);
    cargo(["run", "--release", "--locked", "--package", "storm-tests"].into_iter().chain(arguments)).run()
}

/// What takes minutes and not seconds: inputs by the million, and then the stack for so many minutes, unless there are none.
fn soak(minutes: Option<&str>) -> Result<(), Failure> {
    let run = ["run", "--quiet", "--locked", "--profile", "soak", "--package", "soak", "--"];
    cargo(run.into_iter().chain(["fuzz"])).run()?;
    let stack = minutes.map(|minutes| cargo(run.into_iter().chain(["stack", "--minutes", minutes])));
    stack.map_or(Ok(()), Step::run)
}

/// Random kills over each store; the tests of every day have a hundred.
fn soak_kills(kills: &str) -> Result<(), Failure> {
    services::ensure()?;
    let test =
        ["test", "--locked", "--profile", "soak", "--package", "idempotency-tests", "--test", "processes"];
    let random = ["--", "killed_at_random", "--nocapture"];
    cargo(test.into_iter().chain(random)).env("BUTTRESS_KILLS", kills).run()
}

/// What the tests of every day do in a small form; each prints a line of what it came to, and a seed where it fails.
fn soak_workflows(options: &[&str]) -> Result<(), Failure> {
    let parts = [
        ("--kills", "5000", "BUTTRESS_KILLS", "kill", "a_killed_worker"),
        ("--seeds", "10000", "BUTTRESS_SEEDS", "simulation", "whatever_workers_and_stores_do"),
        ("--seconds", "60", "BUTTRESS_CHAOS_SECONDS", "crowd", "killed_and_stopped_each_second"),
    ];
    soak_parts("checkpoint-tests", parts, options)
}

/// The same for the migration agent.
fn soak_migrations(options: &[&str]) -> Result<(), Failure> {
    let parts = [
        ("--kills", "1000", "BUTTRESS_KILLS", "kills", "killed_again_and_again"),
        ("--seeds", "1000", "BUTTRESS_SEEDS", "property", "whatever_happens"),
    ];
    soak_parts("migration-agent", parts, options)
}

/// Parts are an option, how often without it, the variable that says so, a test program, and which of its tests.
fn soak_parts<'a, const N: usize>(
    package: &str,
    mut parts: [(&str, &'a str, &str, &str, &str); N],
    options: &[&'a str],
) -> Result<(), Failure> {
    services::ensure()?;
    for option in options.chunks(2) {
        let [name, number] = option else { return Err(Failure(format!("`{}` needs a number", option[0]))) };
        let part = parts.iter_mut().find(|part| part.0 == *name);
        part.ok_or_else(|| Failure(format!("`{name}` is no option of this")))?.1 = number;
    }
    for (_, number, variable, test, filter) in parts {
        let soak = ["test", "--locked", "--profile", "soak", "--package", package, "--test", test];
        cargo(soak.into_iter().chain(["--", "--nocapture", filter])).env(variable, number).run()?;
    }
    Ok(())
}

/// What a reviewer would otherwise have to look for.
fn check() -> Result<(), Failure> {
    for (component, command) in [("rustfmt", ["fmt", "--version"]), ("clippy", ["clippy", "--version"])] {
        if cargo(command).quiet().run().is_err() {
            Step::new("rustup", ["component", "add", component]).run()?;
        }
    }
    cargo(["fmt", "--all", "--", "--check"]).run()?;
    cargo(["clippy", "--workspace", "--all-targets", "--all-features", "--locked", "--", "-D", "warnings"])
        .run()?;
    let doc = cargo(["doc", "--workspace", "--no-deps", "--all-features", "--locked"]);
    doc.env("RUSTDOCFLAGS", "-D warnings").run()?;
    layering::check()?;
    // It is built by hand, so its lock file is all that shows whether it still can be.
    let datadog =
        ["metadata", "--locked", "--format-version", "1", "--manifest-path", "tests/datadog/Cargo.toml"];
    cargo(datadog).quiet().run()?;
    // What is only compared with, or tested with, is not shipped.
    let excluded = [
        "buttress-bench",
        "buttress-bench-http",
        "aws-tests",
        "clients-page",
        "grpc-tests",
        "kube-example",
        "tonic-example",
    ];
    let excluded = excluded.iter().flat_map(|package| ["--exclude", *package]);
    let check = ["check", "--hide-inclusion-graph", "licenses", "bans", "sources"];
    DENY.step(["--locked", "--all-features"].into_iter().chain(excluded).chain(check))?.run()?;
    // Test dependencies have no part in it: cargo unites features with theirs only where it builds tests.
    let each = ["--workspace", "--ignore-private", "--lib", "--each-feature", "--locked", "--quiet"];
    HACK.step(["clippy"].into_iter().chain(each).chain(["--", "-D", "warnings"]))?.run()
}
