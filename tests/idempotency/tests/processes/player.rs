//! A child process, as the test sees it.

use std::fmt;
use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdout, Command, Stdio};

use services::{Effects, signal};
use tempfile::TempDir;

use crate::child::{EFFECTS, ROLE, STORE};

/// A store that several processes share.
pub(crate) enum Place {
    Sqlite(TempDir),
    Postgres(services::Postgres),
    Redis(services::Redis),
}

impl Place {
    pub(crate) fn sqlite() -> Self {
        Self::Sqlite(TempDir::new().unwrap())
    }

    pub(crate) fn postgres() -> Self {
        Self::Postgres(services::Postgres::start())
    }

    pub(crate) fn redis() -> Self {
        Self::Redis(services::Redis::start())
    }

    /// Where a child finds it.
    fn address(&self) -> String {
        match self {
            Self::Sqlite(folder) => format!("sqlite {}", folder.path().join("claims.db").display()),
            Self::Postgres(server) => format!("postgres {}", server.config()),
            Self::Redis(server) => format!("redis {}", server.url()),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sqlite(_) => "SQLite",
            Self::Postgres(_) => "PostgreSQL",
            Self::Redis(_) => "Redis",
        })
    }
}

/// This program, started again in a role, and what it prints from "ready" on.
pub(crate) struct Player {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Player {
    pub(crate) fn start(role: &str, place: &Place, effects: &Effects) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["child::child", "--exact", "--ignored", "--nocapture", "--test-threads=1"]);
        command.env(ROLE, role).env(STORE, place.address()).env(EFFECTS, effects.address());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut player = Self { child, lines };
        player.until("ready");
        player
    }

    /// The next line that has this in it.
    pub(crate) fn until(&mut self, wanted: &str) -> String {
        let line = self.lines.by_ref().map_while(Result::ok).find(|line| line.contains(wanted));
        line.unwrap_or_else(|| panic!("the child ended without saying `{wanted}`"))
    }

    pub(crate) fn go(&mut self) {
        self.child.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    }

    pub(crate) fn signal(&self, name: &str) {
        signal(self.child.id(), name);
    }

    /// With `SIGKILL`; what it had said before.
    pub(crate) fn kill(mut self) -> Vec<String> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.lines.by_ref().map_while(Result::ok).collect()
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
