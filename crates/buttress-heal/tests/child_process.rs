//! Restarting a real process.
#![cfg(unix)]

use std::path::Path;
use std::time::Duration;

use buttress_heal::{Answer, Check, ChildProcess, Signals, Subject};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;
use tokio::time::{Instant, sleep};

fn shell(script: &'static str) -> ChildProcess {
    ChildProcess::new("backend", move || {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    })
}

/// One that does not obey `SIGTERM`, from when it has started on.
fn stubborn(directory: &tempfile::TempDir) -> ChildProcess {
    let ready = directory.path().join("ready");
    let script = format!("trap '' TERM; touch {}; while :; do sleep 0.01; done", ready.display());
    let process = ChildProcess::new("backend", move || {
        let mut command = Command::new("sh");
        command.args(["-c", &script]);
        command
    });
    process.ready_when(move || std::future::ready(ready.exists()))
}

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), signal).unwrap();
}

fn exists(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

async fn answer(process: &ChildProcess) -> Answer {
    let traffic = Signals::default();
    Check::<()>::run(process, Subject { service: None, generation: 1, target: 0, traffic: &traffic }).await
}

async fn until_it_fails(process: &ChildProcess) -> String {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        match answer(process).await {
            Answer::Fail(why) => return why.to_string(),
            _ => assert!(Instant::now() < deadline),
        }
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_process_that_was_killed_is_found_and_started_again() {
    let process = shell("exec sleep 600");
    assert_eq!(answer(&process).await, Answer::fail("it was not started"));
    let pid = process.start().await.unwrap();
    assert_eq!((process.start().await.unwrap(), process.starts()), (pid, 1), "it runs already");
    assert_eq!(answer(&process).await, Answer::Pass);
    signal(pid, Signal::KILL);
    assert_eq!(until_it_fails(&process).await, "it has ended: signal: 9 (SIGKILL)");
    let next = process.restart().await.unwrap();
    assert!(next != pid && exists(next) && !exists(pid));
    assert_eq!((answer(&process).await, process.starts()), (Answer::Pass, 2));
    process.stop().await.unwrap();
    assert!(!exists(next));
    assert_eq!(answer(&process).await, Answer::fail("it was not started"));
}

#[tokio::test]
async fn a_process_that_ended_by_itself_says_with_which_status() {
    let process = shell("exit 7");
    process.start().await.unwrap();
    assert_eq!(until_it_fails(&process).await, "it has ended: exit status: 7");
    process.restart().await.unwrap();
    assert_eq!(process.starts(), 2);
}

#[tokio::test]
async fn it_is_asked_to_end_before_it_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let (ready, asked) = (directory.path().join("ready"), directory.path().join("asked"));
    let script = format!(
        "trap 'touch {}; exit 0' TERM; touch {}; while :; do sleep 0.01; done",
        asked.display(),
        ready.display()
    );
    let process = ChildProcess::new("backend", move || {
        let mut command = Command::new("sh");
        command.args(["-c", &script]);
        command
    });
    process.start().await.unwrap();
    while !ready.exists() {
        sleep(Duration::from_millis(5)).await;
    }
    process.stop().await.unwrap();
    assert!(asked.exists());
}

#[tokio::test]
async fn one_that_does_not_listen_is_killed_when_its_grace_is_over() {
    let directory = tempfile::tempdir().unwrap();
    let process = stubborn(&directory).grace(Duration::from_millis(200));
    let pid = process.start().await.unwrap();
    let start = Instant::now();
    process.restart().await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(200) && !exists(pid), "{:?}", start.elapsed());
}

#[tokio::test]
async fn one_that_is_stopped_is_continued_so_that_it_can_end() {
    let process = shell("exec sleep 600").grace(Duration::from_secs(3600));
    let pid = process.start().await.unwrap();
    signal(pid, Signal::STOP);
    assert_eq!(answer(&process).await, Answer::Pass, "it is there; whether it answers is for other checks");
    let start = Instant::now();
    process.restart().await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(300) && !exists(pid), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_restart_that_is_dropped_half_way_can_be_made_again_and_never_runs_two() {
    let directory = tempfile::tempdir().unwrap();
    let process = stubborn(&directory).grace(Duration::from_secs(3600));
    let pid = process.start().await.unwrap();
    let dropped = tokio::time::timeout(Duration::from_millis(50), process.restart()).await;
    assert!(dropped.is_err() && exists(pid));
    assert_eq!(answer(&process).await, Answer::Pass, "still the old one");
    let process = process.grace(Duration::ZERO);
    let next = process.restart().await.unwrap();
    assert!(!exists(pid) && exists(next));
    assert_eq!(process.starts(), 2);
}

#[tokio::test]
async fn it_ends_with_its_last_handle() {
    let process = shell("exec sleep 600");
    let other = process.clone();
    let pid = process.start().await.unwrap();
    drop(process);
    assert_eq!(answer(&other).await, Answer::Pass);
    drop(other);
    let deadline = Instant::now() + Duration::from_secs(120);
    // tokio reaps it in the background.
    while exists(pid) {
        assert!(Instant::now() < deadline);
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_command_that_cannot_be_started_is_an_error_that_names_the_process() {
    let process = ChildProcess::new("backend", || Command::new("/nonexistent/backend"));
    for _ in 0..2 {
        let error = process.restart().await.unwrap_err().to_string();
        assert!(error.starts_with("cannot start process `backend`: "), "{error}");
    }
    assert_eq!(process.starts(), 0);
}

#[tokio::test]
async fn it_has_started_when_it_is_ready() {
    let directory = tempfile::tempdir().unwrap();
    let ready = directory.path().join("ready");
    let script = format!("sleep 0.2; touch {}; exec sleep 600", ready.display());
    let process = ChildProcess::new("backend", move || {
        let mut command = Command::new("sh");
        command.args(["-c", &script]);
        command
    });
    let is_there = ready.clone();
    let process = process.ready_when(move || std::future::ready(is_there.exists()));
    process.start().await.unwrap();
    assert!(ready.exists());
}

#[tokio::test]
async fn one_that_ends_before_it_is_ready_was_not_started() {
    let process = shell("sleep 0.1; exit 7").ready_when(|| std::future::ready(false));
    for starts in 1..3 {
        let error = process.restart().await.unwrap_err().to_string();
        assert_eq!(error, "process `backend` was not ready yet: it has ended: exit status: 7");
        assert_eq!(process.starts(), starts);
    }
}
