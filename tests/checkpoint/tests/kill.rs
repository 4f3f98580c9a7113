//! CP-1, CP-2: processes that are killed, at each fault point and at random, on each store that outlives them.
//! `BUTTRESS_KILLS=5000` kills more.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use checkpoint_tests::number_from;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::Instant;

/// Before the row of the run and after it; in its body before the first step; before and after the effect of each of ten
/// steps, and after its record, which is before the next one's effect or the end; and after the end.
const POINTS: u32 = 34;

/// The step that was open at this point, if its effect had been had and was not recorded: it is the only one that runs again.
fn repeated(point: u32) -> Option<u32> {
    (point > 4 && point < POINTS && (point - 5).is_multiple_of(3)).then(|| (point - 5) / 3)
}

fn worker(store: &str, effects: &Path, run: &str, fault: u32) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_worker"));
    command.arg(store).arg(effects).args([run, &fault.to_string()]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Kills a worker once, lets another one end the run, and looks at what both did.
fn kill_once(store: &str, folder: &Path, number: u32) {
    let (run, effects) = (format!("run {number}"), folder.join(format!("effects {number}")));
    // As many are killed at a random moment, in the middle of a write, say.
    let point = Some((number - 1) % (2 * POINTS) + 1).filter(|point| *point <= POINTS);
    if let Some(point) = point {
        let killed = worker(store, &effects, &run, point).output().expect("it starts");
        assert!(!killed.status.success(), "point {point} was not reached: {killed:?}");
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
    let (result, holders) = output.trim().split_once(' ').unwrap_or_default();
    assert_eq!(result, "285", "after kill {number}: {}", String::from_utf8_lossy(&ended.stderr));
    let holders: usize = holders.parse().expect("a number");

    let done = std::fs::read_to_string(&effects).expect("there are effects");
    let mut keys: HashMap<&str, Vec<&str>> = HashMap::new();
    for (step, key) in done.lines().filter_map(|line| line.split_once(' ')) {
        keys.entry(step).or_default().push(key);
    }
    assert_eq!(keys.len(), 10, "kill {number}");
    assert!(keys.values().all(|keys| keys.iter().all(|key| *key == keys[0])), "kill {number}: {keys:?}");
    // Each holder that did not come to the end left one open step at most.
    let again: usize = keys.values().map(|keys| keys.len() - 1).sum();
    assert!(again < holders.max(1), "kill {number}, {holders} holders: {keys:?}");
    // Unless the machine was so slow that leases ended by themselves, that was the step at the fault point.
    if let Some(point) = point.filter(|_| holders <= 2) {
        let expected: Vec<String> = repeated(point).iter().map(u32::to_string).collect();
        let again: Vec<&str> =
            keys.iter().filter(|(_, keys)| keys.len() > 1).map(|(step, _)| *step).collect();
        assert_eq!(again, expected, "kill {number}, at point {point}: {keys:?}");
    }
}

fn kill_everywhere(name: &str, store: &str) {
    let kills =
        u32::try_from(number_from("BUTTRESS_KILLS", 204).div_ceil(3)).expect("as many as one waits for");
    let (folder, began) =
        (tempfile::tempdir().expect("there is a place for temporary files"), Instant::now());
    std::thread::scope(|scope| {
        for lane in 0..4 {
            let folder = folder.path();
            scope.spawn(move || {
                for number in (1..=kills).filter(|number| number % 4 == lane) {
                    kill_once(store, folder, number);
                }
            });
        }
    });
    println!(
        "kill -9 on {name}: {kills} kills, at {POINTS} fault points and as many random moments in turn, in {:.0?}, failures 0",
        began.elapsed()
    );
}

#[test]
fn a_killed_worker_loses_and_repeats_nothing_on_sqlite() {
    let folder = tempfile::tempdir().expect("there is a place for temporary files");
    kill_everywhere("SQLite", &format!("sqlite:{}", folder.path().join("runs.db").display()));
}

#[test]
fn a_killed_worker_loses_and_repeats_nothing_on_postgres() {
    let server = services::Postgres::start();
    kill_everywhere("PostgreSQL", &server.url());
}

#[test]
fn a_killed_worker_loses_and_repeats_nothing_on_redis() {
    let server = services::Redis::start();
    kill_everywhere("Redis", &server.url());
}
