//! What the tests of idempotency across processes share: stores that a child can be told to open, and a server that counts
//! effects.

/// The page on idempotency; its examples are compiled.
#[doc = include_str!("../../../docs/idempotency.md")]
#[cfg(doctest)]
pub struct Page;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tempfile::TempDir;

/// A store that several processes share.
#[derive(Debug)]
pub enum Backend {
    /// A file.
    Sqlite(TempDir),
    /// A server.
    Postgres(services::Postgres),
    /// A server.
    Redis(services::Redis),
}

impl Backend {
    /// A file in a new folder.
    ///
    /// # Panics
    ///
    /// If there is no room.
    pub fn sqlite() -> Self {
        Self::Sqlite(TempDir::new().expect("a folder"))
    }

    /// Where a child finds it.
    pub fn address(&self) -> String {
        match self {
            Self::Sqlite(folder) => format!("sqlite {}", folder.path().join("claims.db").display()),
            Self::Postgres(server) => format!("postgres {}", server.config()),
            Self::Redis(server) => format!("redis {}", server.url()),
        }
    }
}

/// Opens the store at an address, and goes on with it.
#[macro_export]
macro_rules! with_store {
    ($address:expr, $then:expr) => {
        match $address.split_once(' ').expect("a kind and a place") {
            ("sqlite", path) => $then(buttress_store::Sqlite::open(path).await.expect("a file")).await,
            ("postgres", config) => {
                let config = config.parse().expect("a configuration");
                let store = buttress_store::Postgres::at(config).open(tokio_postgres::NoTls).await;
                $then(store.expect("a server")).await
            }
            (_, url) => {
                let store = buttress_store::Redis::at(url).expect("a URL").open().await;
                $then(store.expect("a server")).await
            }
        }
    };
}

/// A process that applies effects, each key once, and remembers every request.
///
/// It stands for a payment provider with keys of its own. It runs in the process of the test, which the killed ones are not.
#[derive(Clone, Debug)]
pub struct Effects {
    address: String,
    seen: Arc<Mutex<HashMap<String, Vec<String>>>>,
}

impl Effects {
    /// Listens on loopback.
    ///
    /// # Panics
    ///
    /// If there is no port.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let effects = Self { address, seen: Arc::default() };
        let seen = Arc::clone(&effects.seen);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let seen = Arc::clone(&seen);
                std::thread::spawn(move || serve(stream, &seen));
            }
        });
        effects
    }

    /// Where it listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// For each call, the keys that its requests had.
    pub fn seen(&self) -> HashMap<String, Vec<String>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn serve(stream: TcpStream, seen: &Mutex<HashMap<String, Vec<String>>>) {
    let mut answers = stream.try_clone().expect("a second handle");
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        let Some((call, key)) = line.split_once(' ') else { return };
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.entry(call.to_owned()).or_default().push(key.to_owned());
        drop(seen);
        if answers.write_all(b"applied\n").is_err() {
            return;
        }
    }
}

/// Has an effect: tells the server of it, and waits for its answer.
///
/// # Errors
///
/// If the server is gone.
pub async fn apply(server: &str, call: &str, key: &str) -> std::io::Result<()> {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(server).await?;
    stream.write_all(format!("{call} {key}\n").as_bytes()).await?;
    let mut line = String::new();
    tokio::io::BufReader::new(stream).read_line(&mut line).await?;
    if line == "applied\n" { Ok(()) } else { Err(std::io::Error::other("the answer was cut off")) }
}

/// Sends a signal.
///
/// # Panics
///
/// If there is no such process.
pub fn signal(process: u32, name: &str) {
    let sent = Command::new("kill").args([format!("-{name}"), process.to_string()]).status();
    assert!(sent.expect("`kill` is installed").success(), "process {process} is gone");
}

/// How many random kills each backend has to survive: `BUTTRESS_KILLS`, 100 by default.
pub fn kills() -> usize {
    std::env::var("BUTTRESS_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(100)
}

/// The lease in these tests: longer than a process needs to start, short enough to be waited for.
pub const LEASE: Duration = Duration::from_millis(400);
