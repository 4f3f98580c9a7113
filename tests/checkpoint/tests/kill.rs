//! CP-1: processes that are killed, at each fault point and at random, on each store that outlives them.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Before and after the row, before the body, three at each of ten steps, and at the end.
const POINTS: u32 = 34;
/// Beside those that are killed at a point of the code, some are killed at a random moment, in the middle of a write, say.
const RANDOM: u32 = 34;

fn worker(store: &str, effects: &Path, run: &str, fault: u32) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_worker"));
    command.arg(store).arg(effects).args([run, &fault.to_string()]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Kills a worker once, lets another one end the run, and looks at what both did.
fn kill_once(store: &str, folder: &Path, number: u32) {
    let (run, effects) = (format!("run {number}"), folder.join(format!("effects {number}")));
    if number <= POINTS {
        let killed = worker(store, &effects, &run, number).output().expect("it starts");
        assert!(!killed.status.success(), "point {number} was not reached: {killed:?}");
    } else {
        let mut killed = worker(store, &effects, &run, 0).spawn().expect("it starts");
        let millis = StdRng::seed_from_u64(number.into()).random_range(5..60);
        #[expect(clippy::disallowed_methods, reason = "another process runs in real time")]
        std::thread::sleep(Duration::from_millis(millis));
        killed.kill().expect("it can be killed");
        killed.wait().expect("it ends");
    }
    let ended = worker(store, &effects, &run, 0).output().expect("it starts");
    let output = String::from_utf8_lossy(&ended.stdout);
    assert_eq!(output.trim(), "285", "after kill {number}: {}", String::from_utf8_lossy(&ended.stderr));

    let done = std::fs::read_to_string(&effects).expect("there are effects");
    let mut keys: HashMap<&str, Vec<&str>> = HashMap::new();
    for (step, key) in done.lines().filter_map(|line| line.split_once(' ')) {
        keys.entry(step).or_default().push(key);
    }
    assert_eq!(keys.len(), 10, "kill {number}");
    let again = keys.values().filter(|keys| keys.len() > 1).count();
    assert!(again <= 1, "kill {number}: only the step that was open may run again: {keys:?}");
    for keys in keys.values() {
        assert!(keys.len() <= 2 && keys.iter().all(|key| *key == keys[0]), "kill {number}: {keys:?}");
    }
}

fn kill_everywhere(store: &str) {
    let folder = tempfile::tempdir().expect("there is a place for temporary files");
    std::thread::scope(|scope| {
        for lane in 0..4 {
            let folder = folder.path();
            scope.spawn(move || {
                for number in (1..=POINTS + RANDOM).filter(|number| number % 4 == lane) {
                    kill_once(store, folder, number);
                }
            });
        }
    });
}

#[test]
fn a_killed_worker_loses_and_repeats_nothing_on_sqlite() {
    let folder = tempfile::tempdir().expect("there is a place for temporary files");
    kill_everywhere(&format!("sqlite:{}", folder.path().join("runs.db").display()));
}

#[test]
fn a_killed_worker_loses_and_repeats_nothing_on_postgres() {
    let server = services::Postgres::start();
    kill_everywhere(&checkpoint_tests::postgres_url(&server));
}

#[test]
fn a_killed_worker_loses_and_repeats_nothing_on_redis() {
    let server = services::Redis::start();
    kill_everywhere(&server.url());
}
