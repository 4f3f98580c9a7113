//! Shared state under the interleavings that can be told apart.

use std::path::Path;

use crate::run::{Failure, cargo, metadata};

/// The crates that have models.
const PACKAGES: [&str; 4] = ["buttress-circuit-breaker", "buttress-core", "buttress-heal", "buttress-retry"];

/// How often a thread loses its turn in the middle; a fourth time takes three times as long and finds nothing more.
const PREEMPTIONS: &str = "3";

/// Builds what is tested anew, with loom's locks and atomics, in a directory of its own.
pub(crate) fn run() -> Result<(), Failure> {
    let metadata = metadata()?;
    let target = Path::new(metadata["target_directory"].as_str().unwrap_or("target")).join("loom");
    let preemptions = std::env::var("LOOM_MAX_PREEMPTIONS").unwrap_or_else(|_| PREEMPTIONS.to_owned());
    let packages = PACKAGES.iter().flat_map(|package| ["--package", package]);
    let arguments = ["test", "--locked", "--profile", "loom", "--lib"].into_iter().chain(packages);
    let step = cargo(arguments.chain(["loom_models", "--", "--nocapture"]));
    let step =
        step.env("RUSTFLAGS", "--cfg buttress_loom").env("CARGO_TARGET_DIR", &target.to_string_lossy());
    let models = step.env("LOOM_MAX_PREEMPTIONS", &preemptions).run_counted();
    println!("{} models hold, {} do not, with up to {preemptions} preemptions", models.passed, models.failed);
    models.outcome?;
    if models.passed == 0 { Err(Failure("no model was found".to_owned())) } else { Ok(()) }
}
