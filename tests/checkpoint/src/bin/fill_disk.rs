//! Fills the file system of a folder with the results of a workflow's steps, and ends the workflow once there is room.

use std::io::BufRead;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use buttress_checkpoint::{Cx, Failure, Workflows};
use buttress_store::{Fault, JournalStore, Sqlite};
use checkpoint_tests::cases::{Effects, id};
use checkpoint_tests::{Worker, quick};
use tokio::time::{sleep, timeout};

const STEPS: usize = 60;

#[tokio::main]
async fn main() {
    let folder = std::env::args().nth(1).expect("a folder is given");
    let store = Sqlite::open(format!("{folder}/runs.db")).await.expect("it opens");
    let effects = Effects::default();
    let config = quick(Duration::from_millis(800)).max_recoveries(1000);
    let workflows = Workflows::with(store.clone(), config);
    let body = effects.clone();
    let code = move |cx: Cx, ()| {
        let effects = body.clone();
        async move {
            let mut bytes = 0;
            for step in 0..STEPS {
                let name = format!("step {step}");
                let body = async || effects.done(&name).map(|_| "x".repeat(10_000));
                bytes += cx.step(name.clone(), body).await?.len();
            }
            Ok::<_, Failure>(bytes)
        }
    };
    let flow = workflows.register("fill", 1, code).expect("it is the first");
    let handle = flow.start("run", ()).await.expect("there is room for its beginning");
    let worker = Worker::start(&workflows);
    full(&store).await;
    let before = store.load(&id("run")).await.expect("it can be read").expect("it is there").entries.len();
    assert!((1..STEPS).contains(&before), "{before} steps are recorded");
    // For longer than a lease, so that the run is lost, and can be taken by nobody.
    sleep(Duration::from_millis(1500)).await;
    full(&store).await;
    println!("full");
    // Somebody makes room.
    std::io::stdin().lock().read_line(&mut String::new()).expect("there is an input");
    let ended = timeout(Duration::from_secs(60), handle.result()).await.expect("it ends");
    assert_eq!(ended.expect("it ends well"), STEPS * 10_000);
    worker.stop().await;
    let run = store.load(&id("run")).await.expect("it can be read").expect("it is there");
    assert_eq!(run.entries.len(), STEPS + 1);
    let keys = effects.keys();
    assert_eq!(keys.len(), STEPS);
    assert!(keys.values().all(|keys| keys.iter().all(|key| *key == keys[0])), "{keys:?}");
    assert!(
        (0..before).all(|step| keys[&format!("step {step}")].len() == 1),
        "a recorded step ran again: {keys:?}"
    );
    println!("going on");
}

/// Waits until there is no room for anything.
async fn full(store: &Sqlite) {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let others = Workflows::open(store.clone());
    let flow = others.register::<String, (), Failure, _, _>("other", 1, async |_, _| Ok(()));
    let flow = Arc::new(flow.expect("it is the first"));
    loop {
        let name = format!("other {}", NUMBER.fetch_add(1, Ordering::SeqCst));
        match flow.start(name, "x".repeat(10_000)).await {
            Ok(_) => {}
            Err(buttress_checkpoint::StartError::Store(error)) if error.fault() == Fault::Full => return,
            Err(error) => panic!("it failed in another way: {error}"),
        }
        sleep(Duration::from_millis(50)).await;
    }
}
