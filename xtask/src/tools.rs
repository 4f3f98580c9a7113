//! Programs that the checks need beside the toolchain, brought in where they are missing.

use std::path::{Path, PathBuf};

use crate::run::{Failure, Step, cargo, metadata};

/// A cargo subcommand that is a program of its own.
pub(crate) struct Tool {
    /// What follows `cargo`.
    name: &'static str,
    version: &'static str,
}

pub(crate) const DENY: Tool = Tool { name: "deny", version: "0.20.2" };
pub(crate) const HACK: Tool = Tool { name: "hack", version: "0.6.45" };

impl Tool {
    /// The tool with these arguments: the user's own if there is one, else one of `target/tools`, which is filled if need
    /// be: ready-made by pip, which takes seconds, or else built by cargo, which takes minutes. Neither needs any right but
    /// to write there, and nothing outside of it changes.
    pub(crate) fn step<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Result<Step, Failure> {
        let arguments = [self.name].into_iter().chain(arguments);
        if cargo([self.name, "--version"]).quiet().run().is_ok() {
            return Ok(cargo(arguments));
        }
        let program = self.installed()?;
        Ok(Step::new(&program, arguments).shown_as("cargo"))
    }

    fn installed(&self) -> Result<String, Failure> {
        let root = self.root()?;
        let program = root.join("bin").join(self.program()).to_string_lossy().into_owned();
        let works = || Step::new(&program, [self.name, "--version"]).quiet().run().is_ok();
        if works() {
            return Ok(program);
        }
        println!("{} is missing and is put into {}", self.program(), root.display());
        let by_pip = ["pip3", "pip"].iter().any(|pip| self.pip(pip, &root).run().is_ok() && works());
        if by_pip || self.cargo_install(&root).run().is_ok() && works() {
            return Ok(program);
        }
        Err(Failure(format!(
            "{program} could be installed neither by pip nor by cargo; install it with `cargo install {program} --locked`, \
             or put it on the PATH in another way, and check again",
            program = self.program()
        )))
    }

    fn program(&self) -> String {
        format!("cargo-{}", self.name)
    }

    /// One directory for each tool and version, so that none has to be updated.
    fn root(&self) -> Result<PathBuf, Failure> {
        let metadata = metadata()?;
        let target = metadata["target_directory"].as_str().unwrap_or("target");
        Ok(Path::new(target).join("tools").join(format!("{}-{}", self.program(), self.version)))
    }

    fn pip(&self, pip: &str, root: &Path) -> Step {
        let package = format!("astral-dev-toolchain-{}=={}", self.program(), self.version);
        let root = root.to_string_lossy();
        let step =
            Step::new(pip, ["install", "--quiet", "--no-deps", "--upgrade", "--target", &root, &package]);
        let step = step.env("PIP_DISABLE_PIP_VERSION_CHECK", "1").env("PIP_ROOT_USER_ACTION", "ignore");
        // A user's setting that cannot go together with `--target`.
        step.env("PIP_USER", "0").quiet()
    }

    fn cargo_install(&self, root: &Path) -> Step {
        let (program, root) = (self.program(), root.to_string_lossy());
        cargo(["install", "--locked", "--version", self.version, "--root", &root, &program])
    }
}
