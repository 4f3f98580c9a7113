use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};

/// A server of effects, which is a process of its own: it stands for a payment provider with keys of its own, and applies each
/// key once. Every request that it received is a line of its ledger before it is answered.
#[derive(Debug)]
pub struct Effects {
    server: Child,
    address: String,
    folder: TempDir,
}

impl Effects {
    /// Starts a program that hands its last argument to [`serve_effects`].
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub fn start(program: &str, arguments: &[&str]) -> Self {
        let folder = TempDir::new().expect("there is a place for temporary files");
        let mut command = Command::new(program);
        command
            .args(arguments)
            .arg(folder.path().join("ledger"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut server = command.spawn().expect("the server of effects starts");
        let mut address = String::new();
        let output = server.stdout.take().expect("it is piped");
        BufReader::new(output).read_line(&mut address).expect("it says where it listens");
        Self { server, address: address.trim().to_owned(), folder }
    }

    /// Where it listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// A file beside its ledger.
    pub fn file(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    /// What it did for each call: of each request, its key and whether the effect was applied or found to be there.
    ///
    /// # Panics
    ///
    /// If the ledger cannot be read.
    pub fn ledger(&self) -> BTreeMap<String, Vec<Request>> {
        read(&self.folder.path().join("ledger")).expect("the ledger can be read")
    }

    /// Each call had one effect: its first request was applied, and each further one had the same key.
    ///
    /// # Panics
    ///
    /// If one had another number of them.
    pub fn assert_one_effect_each(&self) {
        for (call, requests) in self.ledger() {
            let applied = requests.iter().filter(|request| request.applied).count();
            assert_eq!(applied, 1, "{call} had {applied} effects: {requests:?}");
        }
    }
}

impl Drop for Effects {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// What one request came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The key that it had.
    pub key: String,
    /// Whether it was the first with this key.
    pub applied: bool,
}

struct Ledger {
    keys: HashSet<String>,
    file: File,
}

/// Applies effects, each key once, and writes every request into a ledger before it answers: prints where it listens, takes
/// lines of a call and a key, and ends its process with whoever started it.
///
/// # Errors
///
/// If the ledger cannot be made, or there is no port.
pub fn serve_effects(ledger: impl AsRef<Path>) -> io::Result<()> {
    let ledger = Arc::new(Mutex::new(Ledger { keys: HashSet::new(), file: File::create(ledger)? }));
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?);
    std::thread::spawn(|| {
        // It ends when the other side is gone.
        let _ = io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    for stream in listener.incoming() {
        let (stream, ledger) = (stream?, Arc::clone(&ledger));
        // Whoever asks may be killed in the middle.
        std::thread::spawn(move || drop(serve(stream, &ledger)));
    }
    Ok(())
}

fn serve(stream: TcpStream, ledger: &Mutex<Ledger>) -> io::Result<()> {
    let mut answers = stream.try_clone()?;
    for line in BufReader::new(stream).lines() {
        let line = line?;
        let Some((_, key)) = line.split_once(' ') else { return Ok(()) };
        let mut ledger = ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let what = if ledger.keys.insert(key.to_owned()) { "applied" } else { "repeated" };
        writeln!(ledger.file, "{what} {line}")?;
        drop(ledger);
        answers.write_all(b"done\n")?;
    }
    Ok(())
}

fn read(ledger: &Path) -> io::Result<BTreeMap<String, Vec<Request>>> {
    let mut calls: BTreeMap<String, Vec<Request>> = BTreeMap::new();
    if !ledger.exists() {
        return Ok(calls);
    }
    for line in std::fs::read_to_string(ledger)?.lines() {
        let [what, call, key] = line.split(' ').collect::<Vec<_>>()[..] else {
            return Err(io::Error::other(format!("`{line}` is no line of a ledger")));
        };
        let request = Request { key: key.to_owned(), applied: what == "applied" };
        calls.entry(call.to_owned()).or_default().push(request);
    }
    Ok(calls)
}

/// Has an effect: tells the server of it, and waits for its answer.
///
/// # Errors
///
/// If the server is gone.
pub async fn apply(server: &str, call: &str, key: &str) -> io::Result<()> {
    let mut stream = tokio::net::TcpStream::connect(server).await?;
    stream.write_all(format!("{call} {key}\n").as_bytes()).await?;
    let mut line = String::new();
    tokio::io::BufReader::new(stream).read_line(&mut line).await?;
    if line == "done\n" { Ok(()) } else { Err(io::Error::other("the answer was cut off")) }
}

/// Sends a signal, by its name without `SIG`.
///
/// # Panics
///
/// If there is no such process.
pub fn signal(process: u32, name: &str) {
    let sent = Command::new("kill").args([format!("-{name}"), process.to_string()]).status();
    assert!(sent.expect("`kill` is installed").success(), "process {process} is gone");
}
