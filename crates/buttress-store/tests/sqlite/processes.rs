//! Several processes with one file, and what is left of one that is killed.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use buttress_store::{
    Appended, ClaimStore, Claimed, Created, JournalStore, NewEntry, NewRun, Next, Owner, Record, RunId,
    Sqlite, Written,
};
use tempfile::TempDir;

use super::{HOUR, open, owned, request, value};

const ROLE: &str = "BUTTRESS_STORE_ROLE";
const DIRECTORY: &str = "BUTTRESS_STORE_DIRECTORY";

/// What a child process does; it is this program, started again.
#[tokio::test]
#[ignore = "is started by the other tests"]
async fn child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let directory = std::env::var(DIRECTORY).unwrap();
    let store = open(Path::new(&directory)).await;
    println!("ready");
    match &*role {
        "race" => race(&store).await,
        "write" => write(&store).await,
        other => panic!("there is no role {other}"),
    }
}

/// This program, started again in a role.
fn start(role: &str, directory: &Path) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["processes::child", "--exact", "--ignored", "--nocapture", "--test-threads=1"]);
    command.env(ROLE, role).env(DIRECTORY, directory);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

/// The lines that a child prints, from "ready" on, as far as they are its own and not the test runner's.
fn lines(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut lines = lines.skip_while(|line| !line.ends_with("ready"));
    assert!(lines.next().is_some(), "the child did not get ready");
    lines
}

fn go() {
    std::io::stdin().lock().read_line(&mut String::new()).unwrap();
}

async fn race(store: &Sqlite) {
    go();
    let mut won = 0;
    for index in 0..1000 {
        match store.claim(&request(&index.to_string())).await.unwrap() {
            Claimed::Owned(claim) => {
                let process = std::process::id().to_string();
                assert_eq!(store.complete(&claim, &value(process), HOUR).await.unwrap(), Written::Applied);
                won += 1;
            }
            Claimed::Done(_) | Claimed::InFlight { .. } => {}
            Claimed::Mismatch => panic!("the fingerprint is the same"),
        }
    }
    println!("won {won}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_race_for_a_thousand_keys_and_each_key_has_one_winner() {
    let directory = TempDir::new().unwrap();
    let mut children: Vec<Child> = (0..2).map(|_| start("race", directory.path())).collect();
    let outputs: Vec<_> = children.iter_mut().map(lines).collect();
    for child in &mut children {
        child.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    }
    let mut won = Vec::new();
    for output in outputs {
        let output: Vec<String> = output.collect();
        let line = output.iter().find_map(|line| line.strip_prefix("won ")).expect("it came to an end");
        won.push(line.parse::<u32>().unwrap());
    }
    assert_eq!(won.iter().sum::<u32>(), 1000, "{won:?}");
    let processes: Vec<String> = children.iter().map(|child| child.id().to_string()).collect();
    assert!(children.iter_mut().all(|child| child.wait().unwrap().success()));

    let store = open(directory.path()).await;
    let mut recorded = vec![0; 2];
    for index in 0..1000 {
        let claimed = store.claim(&request(&index.to_string())).await.unwrap();
        let Claimed::Done(Record::Value(winner)) = claimed else { panic!("{index}: {claimed:?}") };
        recorded[processes.iter().position(|process| winner == process.as_bytes()).unwrap()] += 1;
    }
    assert_eq!(recorded, won, "as each of them was told");
}

pub(super) fn entry(seq: u64) -> NewEntry {
    NewEntry { kind: 1, format: 1, name: "step".into(), occurrence: 0, payload: seq.to_string().into() }
}

pub(super) fn run(name: &str) -> NewRun {
    NewRun {
        id: RunId::try_new(name).unwrap(),
        name: "flow".into(),
        version: 1,
        fingerprint: buttress_store::Fingerprint::new([0; 32]),
        input: "input".into(),
        parent: None,
        owner: Owner::random(),
        worker: "child".into(),
    }
}

async fn write(store: &Sqlite) {
    let Created::Held(hold) = store.create(&run("run"), Some(HOUR)).await.unwrap() else {
        panic!("it is new")
    };
    for index in 0_u64.. {
        let Claimed::Owned(claim) = store.claim(&request(&index.to_string())).await.unwrap() else {
            panic!()
        };
        assert_eq!(store.complete(&claim, &value("done"), HOUR).await.unwrap(), Written::Applied);
        let appended = store.append(&hold, index, &[entry(index)], &Next::Go).await.unwrap();
        assert!(matches!(appended, Appended::Applied { .. }), "{appended:?}");
        println!("{index}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_there_after_kill_9() {
    for kill_after in [1, 7, 50, 400] {
        let directory = TempDir::new().unwrap();
        let mut child = start("write", directory.path());
        let mut acknowledged: Vec<String> = lines(&mut child).take(kill_after).collect();
        child.kill().unwrap();
        child.wait().unwrap();
        let last: u64 = acknowledged.pop().unwrap().parse().unwrap();

        let store = open(directory.path()).await;
        for index in 0..=last {
            let claimed = store.claim(&request(&index.to_string())).await.unwrap();
            assert!(matches!(claimed, Claimed::Done(_)), "{index} of {last}: {claimed:?}");
        }
        let run = store.load(&RunId::try_new("run").unwrap()).await.unwrap().unwrap();
        assert!(run.entries.len() as u64 > last, "{} of {last}", run.entries.len());
        assert!(run.entries.iter().all(|stored| stored.entry == entry(stored.seq)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_may_open_a_file_that_is_not_there_yet_at_the_same_time() {
    for _ in 0..5 {
        let directory = TempDir::new().unwrap();
        let mut opening = tokio::task::JoinSet::new();
        for index in 0..16 {
            let path = directory.path().to_owned();
            opening.spawn(async move { owned(&open(&path).await, &index.to_string()).await });
        }
        assert_eq!(opening.join_all().await.len(), 16);
    }
}
