use std::io::Write;
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

/// Passes signals on, and at the end of its input ends the server, and removes the folder unless it was told to keep it: whoever
/// started it may be gone, or go while it does so. What the server had started may write there for a moment longer. An interrupt at
/// the terminal, which reaches it as well, is such an end and not its own.
const KEEPER: &str = r#"
trap : INT TERM
folder=$1; shift
"$@" & server=$!
while read -r line; do
  case $line in keep) keep=yes ;; *) kill "-$line" "$server" 2>/dev/null ;; esac
done
kill -KILL "$server" 2>/dev/null
wait "$server" 2>/dev/null
[ -z "$keep" ] || exit
for attempt in 1 2 3 4 5 6 7 8 9 10; do
  rm -rf "$folder" 2>/dev/null && break
  sleep 0.3
done
"#;

impl Server {
    /// A server whose files are in this folder, with its log.
    pub(crate) fn start(command: &[String], folder: &Path) -> Self {
        let output = std::fs::File::create(folder.join("log")).expect("the folder is there");
        let errors = output.try_clone().expect("a file has two handles");
        let keeper = Command::new("sh")
            .args(["-c", KEEPER, "keeper"])
            .arg(folder)
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
        if let Some(stdin) = &mut self.keeper.stdin {
            // A server that is gone needs no signal.
            let _ = writeln!(stdin, "{name}");
        }
    }

    /// Ends the server at once, and returns when it is gone. Its files stay.
    pub(crate) fn end(mut self) {
        self.signal("keep");
    }
}

/// Ends it, with all its files.
impl Drop for Server {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

/// Waits until something is so, for a minute at most: a machine may be busy.
pub(crate) fn wait_until(what: &str, folder: &Path, mut is_so: impl FnMut() -> bool) {
    for _ in 0..6000 {
        if is_so() {
            return;
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
    let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
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
