//! What the tests of stores against real servers share.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use buttress_store::{
    Claim, ClaimRequest, ClaimStore, Claimed, Fingerprint, NewEntry, NewRun, Owner, Record, ScopedKey,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Longer than any test.
pub const HOUR: Duration = Duration::from_secs(3600);

/// A request of a new owner.
pub fn request(name: &str) -> ClaimRequest {
    ClaimRequest::new(ScopedKey::try_new("", name).expect("short"), Fingerprint::new([0; 32]), HOUR)
}

/// A record.
pub fn value(bytes: impl Into<Vec<u8>>) -> Record {
    Record::Value(bytes.into().into())
}

/// A key that is free, claimed.
///
/// # Panics
///
/// If it is not free.
pub async fn owned<S: ClaimStore>(store: &S, name: &str) -> Claim {
    match store.claim(&request(name)).await.expect("the store works") {
        Claimed::Owned(claim) => claim,
        other => panic!("{name} is not free: {other:?}"),
    }
}

/// A run of the workflow `flow`.
pub fn run(name: &str) -> NewRun {
    NewRun {
        id: buttress_store::RunId::try_new(name).expect("short"),
        name: "flow".into(),
        version: 1,
        fingerprint: Fingerprint::new([0; 32]),
        input: "input".into(),
        parent: None,
        owner: Owner::random(),
        worker: "test".into(),
    }
}

/// An entry that says which one it is.
pub fn entry(seq: u64) -> NewEntry {
    NewEntry { kind: 1, format: 1, name: "step".into(), occurrence: 0, payload: seq.to_string().into() }
}

/// What a proxy does with the answers that pass through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    /// Passes them on.
    Pass,
    /// Throws the next one away and closes the connection: what was asked for is done, and nobody is told.
    Cut,
    /// Keeps them until they may pass: the server seems to hang.
    Hold,
    /// Keeps those of the connection for ever, whatever it is told to do later.
    Strand,
}

/// A proxy before a server on loopback.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    server: Arc<AtomicU16>,
    answers: Arc<watch::Sender<Answers>>,
}

impl Proxy {
    /// A proxy that passes everything on to this port, until it is told otherwise.
    ///
    /// # Panics
    ///
    /// If loopback has no port left.
    pub async fn start(server: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("loopback has ports");
        let port = listener.local_addr().expect("it is bound").port();
        let answers = Arc::new(watch::Sender::new(Answers::Pass));
        let (sender, server) = (answers.clone(), Arc::new(AtomicU16::new(server)));
        let target = server.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (answers, server) = (sender.subscribe(), target.load(Ordering::Relaxed));
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).await else { return };
                    let ((from_client, to_client), (from_server, to_server)) =
                        (client.into_split(), server.into_split());
                    let asking = tokio::spawn(ask(from_client, to_server));
                    answer(from_server, to_client, answers).await;
                    asking.abort();
                });
            }
        });
        Self { port, server, answers }
    }

    /// Connects whoever comes from now on to this port, as when a name gets another address.
    pub fn redirect(&self, server: u16) {
        self.server.store(server, Ordering::Relaxed);
    }

    /// Where it listens, on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Does this with answers from now on.
    pub fn set(&self, answers: Answers) {
        self.answers.send_replace(answers);
    }
}

async fn ask(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    let _ = tokio::io::copy(&mut from, &mut to).await;
}

async fn answer(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut answers: watch::Receiver<Answers>) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(bytes @ 1..) = from.read(&mut buffer).await {
        if answers.wait_for(|answers| *answers != Answers::Hold).await.is_err() {
            return;
        }
        if *answers.borrow() == Answers::Strand {
            std::future::pending::<()>().await;
        }
        if *answers.borrow() == Answers::Cut || to.write_all(&buffer[..bytes]).await.is_err() {
            return;
        }
    }
}
