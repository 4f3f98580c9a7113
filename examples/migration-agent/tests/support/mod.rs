//! What the tests of this program share: directories, the program, random sets of migrations.

#![allow(dead_code, reason = "each test uses its part")]

pub(crate) mod lanes;
pub(crate) mod postgres;
pub(crate) mod set;
pub(crate) mod sqlite;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

/// A directory with migrations and, for SQLite, the database.
pub(crate) struct Place {
    folder: TempDir,
    url: String,
}

/// What a run of the program came to.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) exit: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Place {
    /// With these files, over a SQLite file.
    pub(crate) fn new(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("there is a place for temporary files");
        fs::create_dir(folder.path().join("migrations")).expect("the folder is new");
        let url = format!("sqlite:{}", folder.path().join("app.db").display());
        let place = Self { folder, url };
        for (name, text) in files {
            place.write(name, text);
        }
        place
    }

    /// The same, over another database.
    pub(crate) fn at(self, url: impl Into<String>) -> Self {
        Self { url: url.into(), ..self }
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.file("migrations").join(name), text).expect("the folder is there");
    }

    pub(crate) fn remove(&self, name: &str) {
        fs::remove_file(self.file("migrations").join(name)).expect("the file is there");
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The program, with leases that are short, and long enough for a machine that is busy with other tests.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_migration-agent"));
        command.current_dir(self.folder.path()).env_remove("DATABASE_URL");
        // Nor are certificates of whoever runs the tests trusted.
        command.env("HOME", self.folder.path());
        command.args(["--database-url", &self.url, "--lease", "1500ms"]).args(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub(crate) fn start(&self, arguments: &[&str]) -> Child {
        self.command(arguments).spawn().expect("the program starts")
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        self.start(arguments).wait_with_output().expect("the program ends").into()
    }

    /// Runs it, and wants this exit status.
    pub(crate) fn expect(&self, exit: i32, arguments: &[&str]) -> Ran {
        let ran = self.run(arguments);
        assert_eq!(ran.exit, Some(exit), "{arguments:?}: {ran:?}");
        ran
    }

    /// Its JSON report.
    pub(crate) fn report(&self, exit: i32, arguments: &[&str]) -> Value {
        let ran = self.expect(exit, &[arguments, &["--report", "json"]].concat());
        assert_eq!(ran.stdout.lines().count(), 1, "exactly one object: {ran:?}");
        serde_json::from_str(&ran.stdout).expect("it is JSON")
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { exit: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }
}

impl Ran {
    pub(crate) fn says(&self, what: &str) {
        assert!(self.stdout.contains(what) || self.stderr.contains(what), "`{what}` is not said: {self:?}");
    }
}

/// Ends a process that may have ended by itself.
pub(crate) fn kill(child: &mut Child) -> ExitStatus {
    let _ = child.kill();
    child.wait().expect("it is a child of this process")
}

/// Real time passes: other processes run in it.
#[expect(clippy::disallowed_methods, reason = "another process runs in real time")]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Waits until this is so, for some minutes at most.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..30_000 {
        if is_so() {
            return;
        }
        pause(Duration::from_millis(5));
    }
    panic!("minutes have passed, and not: {what}");
}
