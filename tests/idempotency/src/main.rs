//! Claims and completions over each store, beside its raw writes or round trips, measured in the same run.

use std::io::{BufRead, BufReader, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use buttress_idempotency::{Config, Hash, Idempotency};
use buttress_store::{ClaimStore, Memory, Postgres, Redis, ScopedKey, Sqlite};
use tokio::time::Instant;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let calls: usize = std::env::args().nth(1).map_or(Ok(2000), |calls| calls.parse())?;
    let folder = tempfile::tempdir()?;
    println!("{calls} calls each; a call is a claim and a completion");
    println!(
        "| store | raw, p50 | 1 caller, p50 a verb | ratio | 1 caller, calls/s | 16 callers, calls/s | replay, p50 |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|");

    let memory = of(Memory::new())?;
    report("memory", None, &memory, calls).await?;

    let mut file = std::fs::File::create(folder.path().join("raw"))?;
    let raw = p50(calls, || {
        file.write_all(&[7; 256])?;
        file.sync_data()
    })?;
    let sqlite = of(Sqlite::open(folder.path().join("claims.db")).await?)?;
    report("SQLite (raw: append and fdatasync)", Some(raw), &sqlite, calls).await?;

    let server = services::Postgres::start();
    let (client, connection) = tokio_postgres::connect(&server.config(), tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    let select = client.prepare("SELECT 1").await?;
    let mut times = Vec::with_capacity(calls);
    for _ in 0..calls {
        let began = Instant::now();
        client.query_one(&select, &[]).await?;
        times.push(began.elapsed());
    }
    let postgres = of(Postgres::at(server.config().parse()?).open(tokio_postgres::NoTls).await?)?;
    report("PostgreSQL (raw: SELECT 1)", Some(median(times)), &postgres, calls).await?;

    let server = services::Redis::start();
    let mut socket = std::net::TcpStream::connect(("127.0.0.1", server.port()))?;
    socket.set_nodelay(true)?;
    let mut answers = BufReader::new(socket.try_clone()?);
    let mut line = String::new();
    let raw = p50(calls, || {
        socket.write_all(b"PING\r\n")?;
        line.clear();
        answers.read_line(&mut line).map(drop)
    })?;
    let redis = of(Redis::at(server.url())?.open().await?)?;
    report("Redis (raw: PING)", Some(raw), &redis, calls).await
}

fn of<St: ClaimStore>(store: St) -> Result<Idempotency<St>, BoxError> {
    Ok(Idempotency::new("bench", store, Config::new())?)
}

fn p50(calls: usize, mut act: impl FnMut() -> std::io::Result<()>) -> Result<Duration, BoxError> {
    let mut times = Vec::with_capacity(calls);
    for _ in 0..calls {
        let began = Instant::now();
        act()?;
        times.push(began.elapsed());
    }
    Ok(median(times))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

async fn call<St: ClaimStore>(at: &Idempotency<St>, name: String) -> Result<Duration, BoxError> {
    let (key, fingerprint) = (ScopedKey::try_new("bench", name)?, Hash::new().part("100").fingerprint());
    let began = Instant::now();
    at.run(key, fingerprint, async |_| Ok::<u64, std::io::Error>(7)).await?;
    Ok(began.elapsed())
}

async fn report<St: ClaimStore>(
    name: &str,
    raw: Option<Duration>,
    at: &Idempotency<St>,
    calls: usize,
) -> Result<(), BoxError> {
    let (mut times, began) = (Vec::with_capacity(calls), Instant::now());
    for number in 0..calls {
        times.push(call(at, format!("one-{number}")).await?);
    }
    // A call is two verbs.
    let (alone, verb) = (rate(calls, began), median(times) / 2);
    let mut times = Vec::with_capacity(calls);
    for number in 0..calls {
        times.push(call(at, format!("one-{number}")).await?);
    }
    let replay = median(times);
    let (next, began) = (Arc::new(AtomicUsize::new(0)), Instant::now());
    let callers = (0..16).map(|_| {
        let (at, next) = (at.clone(), Arc::clone(&next));
        tokio::spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= calls {
                    return Ok::<_, BoxError>(());
                }
                call(&at, format!("many-{number}")).await?;
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await??;
    }
    let together = rate(calls, began);
    let ratio = raw.map(|raw| format!("{:.2}", verb.as_secs_f64() / raw.as_secs_f64())).unwrap_or_default();
    let raw = raw.map(|raw| format!("{raw:.1?}")).unwrap_or_default();
    println!("| {name} | {raw} | {verb:.1?} | {ratio} | {alone:.0} | {together:.0} | {replay:.1?} |");
    Ok(())
}

fn rate(calls: usize, began: Instant) -> f64 {
    calls as f64 / began.elapsed().as_secs_f64()
}
