use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// What somebody got who asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// 4 is none.
    pub level: u8,
    /// In seconds, of one that was stored.
    pub age: Option<u64>,
    /// The answer.
    pub value: String,
}

/// A process that asks, and keeps what it gets.
#[derive(Debug)]
pub struct Process {
    child: Child,
    lines: BufReader<ChildStdout>,
    input: ChildStdin,
}

impl Process {
    /// Starts the program `asker`, whose answers are fresh for so many seconds.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub fn start(program: &str, place: &str, origin: &str, ttl: u64) -> Self {
        let mut command = Command::new(program);
        command.args([place, origin, &ttl.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the program is built");
        let lines = BufReader::new(child.stdout.take().expect("it is piped"));
        let input = child.stdin.take().expect("it is piped");
        let mut process = Self { child, lines, input };
        assert_eq!(process.line().as_deref(), Some("ready"));
        process
    }

    /// Has it ask.
    ///
    /// # Panics
    ///
    /// If it has ended.
    pub fn ask(&mut self, key: &str) -> Seen {
        let line = self.tell(&format!("ask {key}")).expect("it answers");
        let mut parts = line.splitn(3, ' ');
        let mut part = || parts.next().unwrap_or_default();
        let (level, age) = (part().parse().expect("a level"), part().parse().ok());
        Seen { level, age, value: part().to_owned() }
    }

    /// Has it do this, and returns when it is done. `None` if it has ended.
    pub fn tell(&mut self, what: &str) -> Option<String> {
        writeln!(self.input, "{what}").ok()?;
        self.line()
    }

    /// Has it do this without waiting.
    pub fn begin(&mut self, what: &str) {
        let _ = writeln!(self.input, "{what}");
    }

    /// SIGKILL.
    ///
    /// # Panics
    ///
    /// If it cannot be sent.
    pub fn kill(mut self) {
        self.child.kill().expect("it can be killed");
        let _ = self.child.wait();
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        self.lines.read_line(&mut line).ok().filter(|bytes| *bytes > 0)?;
        Some(line.trim_end().to_owned())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
