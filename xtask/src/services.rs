//! The servers that some tests run against, installed where they are missing.

use crate::run::{Failure, Step};

/// What cannot be tested without them.
pub(crate) const PACKAGES: &[&str] = &[
    "checkpoint-tests",
    "degrade-tests",
    "heal-tests",
    "idempotency-tests",
    "migration-agent",
    "services",
    "store-tests",
];

/// Set for packages of which only some tests need them.
pub(crate) const WITHOUT: &str = "BUTTRESS_WITHOUT_SERVICES";

/// What is said of a run that went without them.
pub(crate) const LEFT_OUT: &str = "stores, idempotency, workflows, good answers, migrations and healing against PostgreSQL and Redis, a full disk (--without-services)";

/// Makes sure that PostgreSQL and Redis are installed; the tests start servers of their own.
pub(crate) fn ensure() -> Result<(), Failure> {
    let missing = services::missing();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|(name, _)| *name).collect();
    let packages: Vec<&str> = missing.iter().map(|(_, package)| *package).collect();
    println!("missing for the tests of stores: {}", names.join(", "));
    let installed = install(&packages).is_ok() && services::missing().is_empty();
    if installed {
        return Ok(());
    }
    Err(Failure(format!(
        "the tests of stores need {}, which could not be installed here; install them \
         (`apt-get install {packages}` on Debian and Ubuntu, `brew install postgresql redis` on macOS), \
         or leave these tests out with --without-services",
        names.join(" and "),
        packages = packages.join(" "),
    )))
}

/// Installs what cuts links in the kernel, where that is missing and can be done; whoever has none leaves this fault out and
/// says so.
pub(crate) fn try_nftables() {
    if Step::new("nft", ["--version"]).quiet().run().is_err() {
        let _ = install(&["nftables"]);
    }
}

/// As Debian's packages, if this is root. They are not to start a server of the system's own: hence the run level.
fn install(packages: &[&str]) -> Result<(), Failure> {
    let apt = |arguments: &[&str]| {
        let step = Step::new("apt-get", arguments.iter().copied());
        step.env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1").run()
    };
    let install = [&["install", "--yes", "--no-install-recommends"][..], packages].concat();
    // The lists may be there, and may be missing or old.
    apt(&install).or_else(|_| apt(&["update"]).and_then(|()| apt(&install)))
}
