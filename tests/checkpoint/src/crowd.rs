//! Worker processes that share a store: what they run, and how a test starts, stops and kills them.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use buttress_checkpoint::{Cx, Failure, StepKey, Workflow, Workflows};
use buttress_cli::AnyStore;
use buttress_store::{JournalStore, RunId, StatusKind};
use services::{Effects, apply, signal};
use tokio::time::{sleep, timeout};

use crate::quick;

/// How many steps, and for how many milliseconds each of them works.
pub type Size = (u32, u64);

type Flow = Workflow<AnyStore, Size, u32, Failure>;

/// The workflows of a worker process, and of the test that begins their runs.
pub fn workflows(store: AnyStore) -> Workflows<AnyStore> {
    Workflows::with(store, quick(Duration::from_millis(800)).max_recoveries(1000))
}

/// Each step has its effect in another process, under its key.
///
/// # Panics
///
/// If it is registered already.
pub fn register(workflows: &Workflows<AnyStore>, effects: &str) -> Flow {
    let effects = effects.to_owned();
    let code = move |cx: Cx, (steps, millis): Size| {
        let effects = effects.clone();
        async move {
            for step in 0..steps {
                let call = format!("{}/{step}", cx.run_id());
                let body = async || {
                    // Before and after the effect there is time to be killed in.
                    let half = Duration::from_millis(millis) / 2;
                    sleep(half).await;
                    let key = StepKey::current().map(|key| key.to_string()).unwrap_or_default();
                    apply(&effects, &call, &key).await?;
                    sleep(half).await;
                    Ok::<_, Failure>(())
                };
                cx.step(format!("step {step}"), body).await?;
            }
            Ok(steps)
        }
    };
    workflows.register("crowd", 1, code).expect("it is the first")
}

/// A test's view of the store that its worker processes share, and of their effects.
#[derive(Debug)]
pub struct Crowd {
    url: String,
    program: &'static str,
    store: AnyStore,
    flow: Flow,
    /// What the workers did.
    pub effects: Effects,
    runs: HashMap<String, u32>,
}

impl Crowd {
    /// On the store with this URL; `program` is the worker's.
    ///
    /// # Panics
    ///
    /// If the store cannot be opened.
    pub async fn open(url: &str, program: &'static str) -> Self {
        let store = AnyStore::create(url).await.expect("the store opens");
        let effects = Effects::start(program, &["effects"]);
        let flow = register(&workflows(store.clone()), effects.address());
        Self { url: url.to_owned(), program, store, flow, effects, runs: HashMap::new() }
    }

    /// Another worker process, which has opened the store.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub fn worker(&self) -> Process {
        let mut command = Command::new(self.program);
        command.args([&self.url, self.effects.address()]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let mut ready = String::new();
        let read = child.stdout.take().map(|stdout| BufReader::new(stdout).read_line(&mut ready));
        assert!(matches!(read, Some(Ok(_))) && ready == "ready\n", "the worker did not open the store");
        Process { child }
    }

    /// Begins so many runs of this size.
    ///
    /// # Panics
    ///
    /// If the store fails.
    pub async fn begin(&mut self, name: &str, runs: usize, size: Size) {
        for run in 0..runs {
            let id = format!("{name}-{run}");
            self.flow.start(id.clone(), size).await.expect("it starts");
            self.runs.insert(id, size.0);
        }
    }

    /// Waits for so many requests for effects.
    pub async fn requests(&self, count: usize) {
        while self.effects.ledger().values().map(Vec::len).sum::<usize>() < count {
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until all runs are over, and looks at what is recorded and at what was done: each step once, whoever did what
    /// when. Gives how many effects there were, and how many requests for them were repeated.
    ///
    /// # Panics
    ///
    /// If something was lost, invented or done twice, or it takes more than ten minutes.
    pub async fn over(&self) -> (usize, usize) {
        let mut effects = 0;
        for (id, steps) in &self.runs {
            let handle = self.flow.handle(RunId::try_new(id.as_str()).expect("it is short"));
            let result = timeout(Duration::from_secs(600), handle.result()).await;
            assert_eq!(result.expect("it ends").expect("it ends well"), *steps, "{id}");
            let run = self.store.load(handle.id()).await.expect("the store works").expect("it is there");
            assert_eq!(run.info.status.kind(), StatusKind::Done);
            let recorded: Vec<_> = run.entries.iter().map(|entry| entry.entry.name.to_string()).collect();
            let expected = (0..*steps).map(|step| format!("step {step}")).chain([String::new()]);
            assert_eq!(recorded, expected.collect::<Vec<_>>(), "each step of {id} is recorded once");
            effects += *steps as usize;
        }
        let seen = self.effects.ledger();
        let mut keys = HashSet::new();
        for (call, sent) in &seen {
            assert!(
                sent.iter().all(|request| request.key == sent[0].key),
                "{call} was asked for under several keys: {sent:?}"
            );
            assert!(keys.insert(&sent[0].key), "{call} has the key of another");
        }
        assert_eq!(keys.len(), effects, "each effect once");
        self.effects.assert_one_effect_each();
        (effects, seen.values().map(Vec::len).sum::<usize>() - effects)
    }

    /// All that is stored of the runs.
    ///
    /// # Panics
    ///
    /// If the store fails.
    pub async fn journals(&self) -> Vec<String> {
        let mut journals = Vec::new();
        for id in self.runs.keys() {
            let id = RunId::try_new(id.as_str()).expect("it is short");
            let run = self.store.load(&id).await.expect("the store works").expect("it is there");
            journals.push(format!("{id} {} {:?} {:?}", run.info.epoch, run.info.status, run.entries));
        }
        journals
    }
}

/// A worker process, which ends with this value.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// Stops it where it is, and returns once it stands still; or lets it go on.
    ///
    /// # Panics
    ///
    /// If it is gone.
    pub fn freeze(&self, frozen: bool) {
        let id = self.child.id();
        signal(id, if frozen { "STOP" } else { "CONT" });
        // What it has begun to ask of the system is still carried out, such as to lock a file.
        let stands = || {
            let state = Command::new("ps").args(["-o", "stat=", "-p", &id.to_string()]).output();
            state.expect("`ps` is installed").stdout.starts_with(b"T")
        };
        while frozen && !stands() {}
    }

    /// Whether it has not ended by itself.
    ///
    /// # Panics
    ///
    /// If the system does not know it.
    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().expect("it is a child").is_none()
    }
}

impl Drop for Process {
    /// As `kill -9` does.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
