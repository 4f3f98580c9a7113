//! What a verb costs in each store, beside a bare round trip to it and a bare write that it makes durable in the same way; all
//! measured in one run, in turns, since the machine and its disk have better and worse moments.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use buttress_store::{
    Claim, ClaimRequest, ClaimStore, Claimed, Fingerprint, Postgres, Record, Redis, ScopedKey, Sqlite,
    Written,
};
use redis::aio::ConnectionManager;
use tokio::time::Instant;
use tokio_postgres::{Client, NoTls, Statement};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

const ROUNDS: usize = 5;
const LONG: Duration = Duration::from_secs(3600);

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let calls: usize = std::env::args().nth(1).map_or(Ok(2000), |calls| calls.parse())?;
    println!(
        "{calls} claims and as many completions each, by one caller and by 16; p50, and verbs per second.\n"
    );
    println!(
        "| store | bare round trip | bare write | a verb, 1 caller | ÷ round trip | ÷ write | replay | bare writes/s, 1 writer | \
         1 caller, verbs/s | 16 callers, verbs/s | ÷ bare writes/s |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|");

    let folder = tempfile::tempdir()?;
    let store = Sqlite::open(folder.path().join("claims.db")).await?;
    let sqlite = measure(&store, &mut Log(File::create(folder.path().join("bare"))?), calls).await?;
    sqlite.print("SQLite");

    let server = services::Postgres::start_with(&["fsync=on"]);
    let store = Postgres::at(server.config().parse()?).open(NoTls).await?;
    measure(&store, &mut Table::open(&server.config()).await?, calls).await?.print("PostgreSQL");

    let server = services::Redis::start();
    let store = Redis::at(server.url())?.open().await?;
    let client = redis::Client::open(server.url())?;
    measure(&store, &mut client.get_connection_manager().await?, calls).await?.print("Redis");

    println!();
    aim("a verb of SQLite, 1 caller, ÷ a bare write, at most 1.4", sqlite.to_write(), |ratio| ratio <= 1.4);
    aim("verbs of SQLite, 16 callers, ÷ bare writes of one, at least 2", sqlite.gain(), |ratio| {
        ratio >= 2.0
    });
    Ok(())
}

fn aim(what: &str, ratio: f64, met: impl Fn(f64) -> bool) {
    println!("{}: {what}: {ratio:.2}", if met(ratio) { "met" } else { "MISSED" });
}

/// What a store is made of, with nothing around it.
trait Bare {
    /// Asks for nothing; `false` if there is nobody to ask.
    async fn trip(&mut self) -> Result<bool, BoxError>;
    /// Makes 256 bytes durable.
    async fn write(&mut self) -> Result<(), BoxError>;
}

/// A file that is appended to.
struct Log(File);

impl Bare for Log {
    async fn trip(&mut self) -> Result<bool, BoxError> {
        Ok(false)
    }

    async fn write(&mut self) -> Result<(), BoxError> {
        self.0.write_all(&[7; 256])?;
        Ok(self.0.sync_data()?)
    }
}

/// A table without an index.
struct Table {
    client: Client,
    trip: Statement,
    write: Statement,
}

impl Table {
    async fn open(config: &str) -> Result<Self, BoxError> {
        let (client, connection) = tokio_postgres::connect(config, NoTls).await?;
        tokio::spawn(connection);
        client.batch_execute("CREATE TABLE bare (value bytea)").await?;
        let (trip, write) =
            (client.prepare("SELECT 1").await?, client.prepare("INSERT INTO bare VALUES ($1)").await?);
        Ok(Self { client, trip, write })
    }
}

impl Bare for Table {
    async fn trip(&mut self) -> Result<bool, BoxError> {
        self.client.query_one(&self.trip, &[]).await?;
        Ok(true)
    }

    async fn write(&mut self) -> Result<(), BoxError> {
        self.client.execute(&self.write, &[&&[7_u8; 256][..]]).await?;
        Ok(())
    }
}

impl Bare for ConnectionManager {
    async fn trip(&mut self) -> Result<bool, BoxError> {
        redis::cmd("PING").exec_async(self).await?;
        Ok(true)
    }

    async fn write(&mut self) -> Result<(), BoxError> {
        redis::cmd("SET").arg("bare").arg(&[7_u8; 256][..]).exec_async(self).await?;
        Ok(())
    }
}

#[derive(Default)]
struct Times {
    trip: Vec<Duration>,
    write: Vec<Duration>,
    verb: Vec<Duration>,
    replay: Vec<Duration>,
    together: Duration,
    together_verbs: usize,
}

async fn measure<St: ClaimStore>(store: &St, bare: &mut impl Bare, calls: usize) -> Result<Times, BoxError> {
    let mut times = Times::default();
    // Connections are made, and statements prepared.
    together(store, "warm", 400).await?;
    let calls = calls.div_ceil(ROUNDS);
    for round in 0..ROUNDS {
        for _ in 0..calls {
            let began = Instant::now();
            if bare.trip().await? {
                times.trip.push(began.elapsed());
            }
        }
        for _ in 0..calls {
            let began = Instant::now();
            bare.write().await?;
            times.write.push(began.elapsed());
        }
        for call in 0..calls {
            let request = request(&format!("{round} {call}"))?;
            let began = Instant::now();
            let claim = claim(store, &request).await?;
            times.verb.push(began.elapsed());
            let began = Instant::now();
            complete(store, &claim).await?;
            times.verb.push(began.elapsed());
        }
        for call in 0..calls {
            let request = request(&format!("{round} {call}"))?;
            let began = Instant::now();
            let Claimed::Done(_) = store.claim(&request).await? else { return Err("it is done".into()) };
            times.replay.push(began.elapsed());
        }
        times.together += together(store, &round.to_string(), calls).await?;
        times.together_verbs += 2 * calls;
    }
    Ok(times)
}

/// How long sixteen callers take for so many claims and completions.
async fn together<St: ClaimStore>(store: &St, name: &str, calls: usize) -> Result<Duration, BoxError> {
    let (next, began) = (Arc::new(AtomicUsize::new(0)), Instant::now());
    let callers = (0..16).map(|_| {
        let (store, next, name) = (store.clone(), Arc::clone(&next), name.to_owned());
        tokio::spawn(async move {
            loop {
                let call = next.fetch_add(1, Ordering::Relaxed);
                if call >= calls {
                    return Ok::<_, BoxError>(());
                }
                let claim = claim(&store, &request(&format!("together {name} {call}"))?).await?;
                complete(&store, &claim).await?;
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await??;
    }
    Ok(began.elapsed())
}

fn request(name: &str) -> Result<ClaimRequest, BoxError> {
    Ok(ClaimRequest::new(ScopedKey::try_new("bench", name)?, Fingerprint::new([7; 32]), LONG))
}

async fn claim<St: ClaimStore>(store: &St, request: &ClaimRequest) -> Result<Claim, BoxError> {
    match store.claim(request).await? {
        Claimed::Owned(claim) => Ok(claim),
        other => Err(format!("it is free: {other:?}").into()),
    }
}

async fn complete<St: ClaimStore>(store: &St, claim: &Claim) -> Result<(), BoxError> {
    match store.complete(claim, &Record::Value("answer".into()), LONG).await? {
        Written::Applied => Ok(()),
        Written::Fenced { .. } => Err("it is still held".into()),
    }
}

impl Times {
    fn to_write(&self) -> f64 {
        median(&self.verb) / median(&self.write)
    }

    fn gain(&self) -> f64 {
        self.together_verbs as f64 / self.together.as_secs_f64() / rate(&self.write)
    }

    fn print(&self, store: &str) {
        let micros = |seconds: f64| format!("{:.1} µs", seconds * 1e6);
        let trip = (!self.trip.is_empty()).then(|| median(&self.trip));
        let to_trip = trip.map(|trip| format!("{:.2}", median(&self.verb) / trip)).unwrap_or_default();
        println!(
            "| {store} | {} | {} | {} | {to_trip} | {:.2} | {} | {:.0} | {:.0} | {:.0} | {:.2} |",
            trip.map(micros).unwrap_or_default(),
            micros(median(&self.write)),
            micros(median(&self.verb)),
            self.to_write(),
            micros(median(&self.replay)),
            rate(&self.write),
            rate(&self.verb),
            self.together_verbs as f64 / self.together.as_secs_f64(),
            self.gain(),
        );
    }
}

/// In seconds.
fn median(times: &[Duration]) -> f64 {
    let mut times = times.to_vec();
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default().as_secs_f64()
}

/// How many of them there were per second.
fn rate(times: &[Duration]) -> f64 {
    times.len() as f64 / times.iter().sum::<Duration>().as_secs_f64()
}
