use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A program that runs until it is told to end, and no longer than this process.
#[derive(Debug)]
pub(crate) struct Server {
    /// A shell that holds the server, and ends it when its standard input ends.
    keeper: Child,
}

/// Reads a line that never comes, and then ends the server: at once if this process is gone.
const KEEPER: &str = r#"
"$@" & server=$!
while read -r signal; do kill "-$signal" "$server" 2>/dev/null; done
kill -KILL "$server" 2>/dev/null
wait "$server" 2>/dev/null
"#;

impl Server {
    pub(crate) fn start(command: &[String], log: &Path) -> Self {
        let output = std::fs::File::create(log).expect("the folder is there");
        let errors = output.try_clone().expect("a file has two handles");
        let keeper = Command::new("sh")
            .args(["-c", KEEPER, "keeper"])
            .args(command)
            .stdin(Stdio::piped())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .expect("there is a shell");
        Self { keeper }
    }

    /// Sends a signal to the server.
    pub(crate) fn signal(&mut self, name: &str) {
        use io::Write;
        let stdin = self.keeper.stdin.as_mut().expect("open until the end");
        // A server that is gone needs no signal.
        let _ = writeln!(stdin, "{name}");
    }

    /// Ends the server at once, and returns when it is gone.
    pub(crate) fn end(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

/// Waits until something is so, for a minute at most: a machine may be busy.
pub(crate) fn wait_until(what: &str, log: &Path, mut is_so: impl FnMut() -> bool) {
    for _ in 0..6000 {
        if is_so() {
            return;
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
    let log = std::fs::read_to_string(log).unwrap_or_default();
    panic!("waited for {what} in vain; its log says:\n{log}");
}

pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has ports");
    listener.local_addr().expect("it is bound").port()
}

/// A program on the search path.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|program| program.is_file())
}

pub(crate) fn words(words: &[&dyn AsRef<std::ffi::OsStr>]) -> Vec<String> {
    words.iter().map(|word| word.as_ref().to_string_lossy().into_owned()).collect()
}

/// Runs a program to its end.
pub(crate) fn run(command: &[String]) {
    let output = Command::new(&command[0]).args(&command[1..]).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
    assert!(output.status.success(), "{command:?} failed: {}", String::from_utf8_lossy(&output.stderr));
}
