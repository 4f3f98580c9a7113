use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A server of effects, which is a process of its own: it stands for a payment provider with keys of its own, and applies each
/// key once. Every request that it received is a line of its ledger before it is answered.
#[derive(Debug)]
pub struct Effects {
    server: Child,
    address: String,
    folder: TempDir,
}

impl Effects {
    /// Starts the program `effects`, which listens on loopback.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub fn start(program: &str) -> Self {
        let folder = TempDir::new().expect("there is a place for temporary files");
        let mut command = Command::new(program);
        command.arg(folder.path().join("ledger")).stdin(Stdio::piped()).stdout(Stdio::piped());
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
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(format!("{call} {key}\n").as_bytes()).await?;
    let mut line = String::new();
    tokio::io::BufReader::new(stream).read_line(&mut line).await?;
    if line == "done\n" { Ok(()) } else { Err(io::Error::other("the answer was cut off")) }
}
