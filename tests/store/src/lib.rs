//! What the tests of stores against real servers share.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use buttress_store::{
    AnswerStore, Appended, Claim, ClaimRequest, ClaimStore, Claimed, Created, Fingerprint, Flow, Forgotten,
    JournalStore, NewAnswer, NewEntry, NewRun, Next, Owner, Query, Record, Renewed, ScopedKey, Waited,
    Wanted, Written,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

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

/// Two claim the same thousand keys, in tasks of their own: each key has one winner.
///
/// # Panics
///
/// If a key has two winners, or none, or what its winner writes is not applied.
pub async fn race<S: ClaimStore + 'static>(stores: [S; 2]) {
    let mut racers = JoinSet::new();
    for (racer, store) in stores.into_iter().enumerate() {
        racers.spawn(async move {
            let mut won = 0;
            for index in 0..1000 {
                let claimed = store.claim(&request(&index.to_string())).await.expect("the store works");
                if let Claimed::Owned(claim) = claimed {
                    let written = store.complete(&claim, &value(racer.to_string()), HOUR).await;
                    assert_eq!(written.expect("the store works"), Written::Applied);
                    won += 1;
                }
            }
            won
        });
    }
    let won: Vec<u32> = racers.join_all().await;
    assert_eq!(won.iter().sum::<u32>(), 1000, "{won:?}");
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
    trips: Arc<AtomicU64>,
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
        let (target, trips) = (server.clone(), Arc::new(AtomicU64::new(0)));
        let counter = trips.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (answers, server) = (sender.subscribe(), target.load(Ordering::Relaxed));
                let (trips, asked) = (counter.clone(), Arc::new(AtomicBool::new(false)));
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).await else { return };
                    let ((from_client, to_client), (from_server, to_server)) =
                        (client.into_split(), server.into_split());
                    let asking = tokio::spawn(ask(from_client, to_server, asked.clone(), trips));
                    answer(from_server, to_client, answers, &asked).await;
                    asking.abort();
                });
            }
        });
        Self { port, server, answers, trips }
    }

    /// Connects whoever comes from now on to this port, as when a name gets another address.
    pub fn redirect(&self, server: u16) {
        self.server.store(server, Ordering::Relaxed);
    }

    /// Where it listens, on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How often somebody who had an answer, or had not asked yet, has asked: the round trips, on all connections.
    pub fn trips(&self) -> u64 {
        self.trips.load(Ordering::SeqCst)
    }

    /// Does this with answers from now on.
    pub fn set(&self, answers: Answers) {
        self.answers.send_replace(answers);
    }
}

async fn ask(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, asked: Arc<AtomicBool>, trips: Arc<AtomicU64>) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(bytes @ 1..) = from.read(&mut buffer).await {
        if !asked.swap(true, Ordering::SeqCst) {
            trips.fetch_add(1, Ordering::SeqCst);
        }
        if to.write_all(&buffer[..bytes]).await.is_err() {
            return;
        }
    }
    // The other direction stays open, until the server closes it.
    let _ = to.shutdown().await;
}

async fn answer(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut answers: watch::Receiver<Answers>,
    asked: &AtomicBool,
) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(bytes @ 1..) = from.read(&mut buffer).await {
        if answers.wait_for(|answers| *answers != Answers::Hold).await.is_err() {
            return;
        }
        if *answers.borrow() == Answers::Strand {
            std::future::pending::<()>().await;
        }
        asked.store(false, Ordering::SeqCst);
        if *answers.borrow() == Answers::Cut || to.write_all(&buffer[..bytes]).await.is_err() {
            return;
        }
    }
}

/// How many round trips each verb takes, with names that have not been used.
///
/// # Panics
///
/// If a verb does not do what it is to do.
pub async fn trips<S: ClaimStore + JournalStore + AnswerStore>(
    store: &S,
    proxy: &Proxy,
    name: &str,
) -> Vec<(&'static str, u64)> {
    let mut trips = Vec::new();
    let mut before = proxy.trips();
    let mut count = |verb| {
        trips.push((verb, proxy.trips() - before));
        before = proxy.trips();
    };
    let claim = owned(store, name).await;
    count("claim");
    assert_eq!(ClaimStore::renew(store, &claim, HOUR).await.expect("it works"), Written::Applied);
    count("renew a claim");
    let looked = store.wait(claim.key(), request(name).fingerprint(), Duration::ZERO).await;
    assert!(matches!(looked, Ok(Waited::InFlight { .. })), "{looked:?}");
    count("look");
    assert!(matches!(store.claim(&request(name)).await, Ok(Claimed::InFlight { .. })));
    count("claim what is in flight");
    assert_eq!(store.complete(&claim, &value("answer"), HOUR).await.expect("it works"), Written::Applied);
    count("complete");
    assert!(matches!(store.claim(&request(name)).await, Ok(Claimed::Done(_))));
    count("claim what is done");
    let released = owned(store, &format!("{name} released")).await;
    count("claim");
    assert_eq!(store.release(&released).await.expect("it works"), Written::Applied);
    count("release");
    assert!(matches!(store.complete(&released, &value(""), HOUR).await, Ok(Written::Fenced { .. })));
    count("complete what is lost");

    let run = run(name);
    let Ok(Created::Held(hold)) = store.create(&run, Some(HOUR)).await else { panic!("it is new") };
    count("create");
    assert!(matches!(
        store.create(&NewRun { owner: Owner::random(), ..run }, None).await,
        Ok(Created::Exists(_))
    ));
    count("create what is there");
    let appended = store.append(&hold, 0, &[entry(0), entry(1)], &Next::Go).await;
    assert!(matches!(appended, Ok(Appended::Applied { .. })), "{appended:?}");
    count("append");
    let renewed = JournalStore::renew(store, &hold, HOUR).await;
    assert!(matches!(renewed, Ok(Renewed::Held { .. })), "{renewed:?}");
    count("renew a run");
    let appended = store.append(&hold, 2, &[entry(2)], &Next::Yield).await;
    assert!(matches!(appended, Ok(Appended::Applied { .. })), "{appended:?}");
    count("append and give back");
    let flows = vec![Flow { name: "flow".into(), versions: 1..=1 }];
    let wanted =
        Wanted { flows, id: None, owner: Owner::random(), worker: "test".into(), lease: HOUR, max: 5 };
    assert_eq!(store.acquire(&wanted).await.expect("it works").len(), 1);
    count("acquire");
    assert_eq!(store.load(&hold.id).await.expect("it works").expect("it is there").entries.len(), 3);
    count("load");
    assert!(store.peek(&hold.id).await.expect("it works").is_some());
    count("peek");
    assert!(!store.list(&Query::default()).await.expect("it works").runs.is_empty());
    count("list");
    assert_eq!(store.prune(HOUR, 10).await.expect("it works"), 0);
    count("prune");

    let key = ScopedKey::try_new("answers", name).expect("short");
    let answer =
        NewAnswer { key: key.clone(), body: "answer".into(), age: Duration::ZERO, asked: None, keep: HOUR };
    assert!(store.put(&answer).await.expect("it works"));
    count("put");
    assert!(store.get(&key).await.expect("it works").is_some());
    count("get");
    assert_eq!(store.trim("answers", 1 << 20, 10).await.expect("it works"), 0);
    count("trim");
    store.forget(&Forgotten::Key(key), Duration::ZERO).await.expect("it works");
    count("forget");
    trips
}
