use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A program that runs until it is told to end, and no longer than this process.
#[derive(Debug)]
pub(crate) struct Server {
    /// A shell that holds the server, and ends it when its standard input ends.
    keeper: Child,
}

/// Passes signals on, and says so when each is sent; at the end of its input ends the server, and removes the folder unless it was told to keep it: whoever
/// started it may be gone, or go while it does so: nor is it the end if nobody hears what it says. What the server had started may
/// write there for a moment longer. An interrupt at the terminal, which reaches it as well, is such an end and not its own.
const KEEPER: &str = r#"
trap : INT TERM
folder=$1; shift
"$@" > "$folder/log" 2>&1 & server=$!
trap '' PIPE
while read -r line; do
  case $line in keep) keep=yes ;; *) kill "-$line" "$server" 2>/dev/null; echo sent 2>/dev/null ;; esac
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
        let keeper = Command::new("sh")
            .args(["-c", KEEPER, "keeper"])
            .arg(folder)
            .args(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("there is a shell");
        Self { keeper }
    }

    /// Sends a signal to the server, and returns when it is sent: what comes after it meets a server that has got it.
    pub(crate) fn signal(&mut self, name: &str) {
        if let (Some(stdin), Some(said)) = (&mut self.keeper.stdin, &mut self.keeper.stdout) {
            // A server that is gone needs no signal.
            let _ = writeln!(stdin, "{name}").and_then(|()| said.read_exact(&mut [0; "sent\n".len()]));
        }
    }

    /// Ends the server at once, and returns when it is gone. Its files stay.
    pub(crate) fn end(mut self) {
        if let Some(stdin) = &mut self.keeper.stdin {
            let _ = writeln!(stdin, "keep");
        }
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

/// A port of loopback that no other program has for as long as this value lives, whether or not its server runs: it is outside of
/// the range from which the system takes those of clients, and it is the same as a port of UDP that this holds.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _reserved: UdpSocket,
}

impl Port {
    /// One that nothing listens on.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn reserve() -> Self {
        const FIRST: u16 = 10_000;
        const COUNT: u16 = 20_000;
        let random = (RandomState::new().build_hasher().finish() % u64::from(COUNT)) as u16;
        let mut numbers = (0..COUNT).map(|number| FIRST + (random + number) % COUNT);
        let reserve = |number| {
            let reserved = UdpSocket::bind((Ipv4Addr::LOCALHOST, number)).ok()?;
            TcpListener::bind((Ipv4Addr::LOCALHOST, number)).ok()?;
            Some(Self { number, _reserved: reserved })
        };
        numbers.find_map(reserve).expect("loopback has ports")
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }
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
