//! Steps over each store, beside its raw writes or round trips, measured in the same run: `bench [STEPS]`.

use std::io::{BufRead, BufReader, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use buttress_checkpoint::{Config, Cx, Failure, Workflow, Workflows};
use buttress_cli::AnyStore;
use buttress_store::{JournalStore, Memory, Sqlite};
use checkpoint_tests::Worker;
use tokio::sync::Notify;
use tokio::time::Instant;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What is compared is measured in turn, so often: the machine is not the same from one second to the next.
const ROUNDS: usize = 20;
const TOGETHER: usize = 16;
const RECORDED: usize = 10_000;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let steps: usize = std::env::args().nth(1).map_or(Ok(4000), |steps| steps.parse())?;
    let folder = tempfile::tempdir()?;
    println!("{steps} steps each, in {ROUNDS} rounds");
    println!(
        "| store | raw, p50 | a step, p50 | ratio | 1 workflow, steps/s | {TOGETHER} workflows, steps/s | × one raw writer |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|");
    report("memory", Raw::Nothing, Memory::new(), steps).await?;
    let raw = Raw::File(std::fs::File::create(folder.path().join("raw"))?);
    let sqlite = AnyStore::create(&format!("sqlite:{}", folder.path().join("runs.db").display())).await?;
    let (alone, together) = report("SQLite (raw: append and fdatasync)", raw, sqlite, steps).await?;
    let server = services::Postgres::start();
    let raw = Raw::postgres(&server).await?;
    report("PostgreSQL (raw: SELECT 1)", raw, AnyStore::create(&server.url()).await?, steps).await?;
    let server = services::Redis::start();
    let raw = Raw::redis(&server)?;
    report("Redis (raw: PING)", raw, AnyStore::create(&server.url()).await?, steps).await?;

    println!("\n| {RECORDED} recorded steps | from the start of a worker to the first new step, best of 5 |");
    println!("|---|---:|---:|");
    let replayed = replay("memory", Memory::new()).await?;
    replay("SQLite", Sqlite::open(folder.path().join("replay.db")).await?).await?;

    println!("\n| target | | measured | |\n|---|---|---:|---|");
    let target = |what: &str, limit: &str, measured: f64, holds: bool| {
        println!("| {what} | {limit} | {measured:.2} | {} |", if holds { "holds" } else { "**missed**" });
    };
    target("SQLite: a step / a raw append", "at most 1.3", alone, alone <= 1.3);
    target("SQLite: 16 workflows / one raw writer", "at least 2", together, together >= 2.0);
    let millis = replayed.as_secs_f64() * 1000.0;
    target("memory: 10,000 steps replayed, ms", "at most 50", millis, millis <= 50.0);
    Ok(())
}

/// What a store does below, without it.
enum Raw {
    Nothing,
    File(std::fs::File),
    Postgres(tokio_postgres::Client, tokio_postgres::Statement),
    Redis(BufReader<std::net::TcpStream>),
}

impl Raw {
    async fn postgres(server: &services::Postgres) -> Result<Self, BoxError> {
        let (client, connection) = tokio_postgres::connect(&server.config(), tokio_postgres::NoTls).await?;
        tokio::spawn(connection);
        let select = client.prepare("SELECT 1").await?;
        Ok(Self::Postgres(client, select))
    }

    fn redis(server: &services::Redis) -> Result<Self, BoxError> {
        let socket = std::net::TcpStream::connect(("127.0.0.1", server.port()))?;
        socket.set_nodelay(true)?;
        Ok(Self::Redis(BufReader::new(socket)))
    }

    async fn once(&mut self) -> Result<(), BoxError> {
        match self {
            Self::Nothing => {}
            Self::File(file) => {
                file.write_all(&[7; 256])?;
                file.sync_data()?;
            }
            Self::Postgres(client, select) => drop(client.query_one(&*select, &[]).await?),
            Self::Redis(socket) => {
                socket.get_ref().write_all(b"PING\r\n")?;
                socket.read_line(&mut String::new())?;
            }
        }
        Ok(())
    }

    async fn times(&mut self, count: usize) -> Result<Vec<Duration>, BoxError> {
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let began = Instant::now();
            self.once().await?;
            times.push(began.elapsed());
        }
        Ok(times)
    }
}

/// A workflow of as many steps as it is told, each of which says how long it took.
struct Steps<S> {
    flow: Workflow<S, usize, (), Failure>,
    times: Arc<Mutex<Vec<Duration>>>,
}

impl<S: JournalStore> Steps<S> {
    fn register(workflows: &Workflows<S>) -> Result<Self, BoxError> {
        let times = Arc::<Mutex<Vec<Duration>>>::default();
        let told = Arc::clone(&times);
        let code = move |cx: Cx, steps: usize| {
            let told = Arc::clone(&told);
            async move {
                let mut times = Vec::with_capacity(steps);
                for number in 0..steps {
                    let began = Instant::now();
                    cx.step("step", async || Ok::<_, Failure>(number)).await?;
                    times.push(began.elapsed());
                }
                told.lock().unwrap_or_else(PoisonError::into_inner).append(&mut times);
                Ok(())
            }
        };
        Ok(Self { flow: workflows.register("steps", 1, code)?, times })
    }

    /// So many runs at once, and how long each step took, and all of them together.
    async fn run(
        &self,
        name: &str,
        runs: usize,
        steps: usize,
    ) -> Result<(Vec<Duration>, Duration), BoxError> {
        let began = Instant::now();
        let mut handles = Vec::with_capacity(runs);
        for run in 0..runs {
            handles.push(self.flow.start(format!("{name} {run}"), steps).await?);
        }
        for handle in handles {
            handle.result().await.map_err(|error| Failure::from(error).into_error())?;
        }
        let times = std::mem::take(&mut *self.times.lock().unwrap_or_else(PoisonError::into_inner));
        Ok((times, began.elapsed()))
    }
}

/// Gives how many times as long as a raw write a step takes, and how many times as many steps of workflows at once there are.
async fn report<S: JournalStore>(
    name: &str,
    mut raw: Raw,
    store: S,
    steps: usize,
) -> Result<(f64, f64), BoxError> {
    let workflows = Workflows::with(store, Config::default());
    let (steps_of, worker) = (Steps::register(&workflows)?, Worker::start(&workflows));
    let each = (steps / ROUNDS).max(1);
    let (mut raws, mut ones, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let (mut raw_rates, mut one_rates, mut many_rates) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let (written, (stepped, one)) =
            (raw.times(each).await?, steps_of.run(&format!("one {round}"), 1, each).await?);
        raw_rates.push(each as f64 / written.iter().sum::<Duration>().as_secs_f64());
        one_rates.push(each as f64 / one.as_secs_f64());
        let (written, stepped) = (median(written), median(stepped));
        ratios.push(stepped.as_secs_f64() / written.as_secs_f64());
        raws.push(written);
        ones.push(stepped);
        let (_, many) = steps_of.run(&format!("many {round}"), TOGETHER, each).await?;
        many_rates.push((TOGETHER * each) as f64 / many.as_secs_f64());
    }
    worker.stop().await;
    let (one, many) = (median(one_rates), median(many_rates));
    let beside = |text: String| if matches!(raw, Raw::Nothing) { String::new() } else { text };
    let (ratio, times) = (median(ratios), many / median(raw_rates));
    println!(
        "| {name} | {} | {:.1?} | {} | {one:.0} | {many:.0} | {} |",
        beside(format!("{:.1?}", median(raws))),
        median(ones),
        beside(format!("{ratio:.2}")),
        beside(format!("{times:.1}")),
    );
    Ok((ratio, times))
}

/// Records a run's steps, lets it go, and lets another worker come to where it was.
async fn replay<S: JournalStore>(name: &str, store: S) -> Result<Duration, BoxError> {
    let mut best = Duration::MAX;
    for round in 0..6 {
        let (there, workflows) = (Arc::new(Notify::new()), Workflows::open(store.clone()));
        let arrived = Arc::clone(&there);
        let code = move |cx: Cx, ()| {
            let arrived = Arc::clone(&arrived);
            async move {
                for number in 0..RECORDED {
                    cx.step("step", async || Ok::<_, Failure>(number)).await?;
                }
                arrived.notify_one();
                std::future::pending::<Result<(), Failure>>().await
            }
        };
        workflows.register::<(), (), Failure, _, _>("replay", 1, code)?.start("replay", ()).await?;
        let began = Instant::now();
        let worker = Worker::start(&workflows);
        there.notified().await;
        if round > 0 {
            best = best.min(began.elapsed());
        }
        worker.stop().await;
    }
    println!("| {name} | {best:.1?} |");
    Ok(best)
}

fn median<T: PartialOrd + Copy>(mut values: Vec<T>) -> T {
    values.sort_unstable_by(|one, other| one.partial_cmp(other).expect("they are numbers"));
    values[values.len() / 2]
}
