//! Whatever ends the program, no process of its faults is left.
#![cfg(target_os = "linux")]

use std::collections::HashMap;
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use services::signal;

/// A process: its parent, its state, its name.
type Process = (u32, char, String);

fn processes() -> HashMap<u32, Process> {
    let entries = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.filter_map(|process| Some((process, read(process)?))).collect()
}

/// None if it is gone.
fn read(process: u32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name is in parentheses, and may be anything.
    let (before, after) = stat.rsplit_once(')')?;
    let mut fields = after.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((fields.next()?.parse().ok()?, state, before.split_once('(')?.1.to_owned()))
}

/// Who descends from this process, it included.
fn descendants(of: u32) -> Vec<u32> {
    let all = processes();
    let descends = |process: &&u32| {
        let parents =
            std::iter::successors(Some(**process), |process| all.get(process).map(|(parent, ..)| *parent));
        parents.take(64).any(|process| process == of)
    };
    all.keys().filter(descends).copied().collect()
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    // Clients are given two minutes to be well before a fault.
    for _ in 0..4800 {
        if is_so() {
            return;
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
    panic!("waited for {what} in vain");
}

/// Starts it in a group of its own, as a shell does, and waits until the fault is there.
fn bench(arguments: &[&str], is_there: impl Fn(&[Process]) -> bool) -> Child {
    let mut bench = Command::new(env!("CARGO_BIN_EXE_recovery"));
    bench.args(arguments).args(["--short", "--client", "alone", "--injections", "1"]);
    // Not its own: it reads on it that its parent is gone.
    bench.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    let bench = bench.spawn().unwrap();
    until("the fault", || {
        let all: Vec<Process> = descendants(bench.id()).into_iter().filter_map(read).collect();
        is_there(&all)
    });
    bench
}

/// Ends it, and waits until all that it had started are gone.
fn end(mut bench: Child, how: impl FnOnce(u32)) {
    let all = descendants(bench.id());
    assert!(all.len() > 2, "there is something to be left");
    how(bench.id());
    bench.wait().unwrap();
    let left = || all.iter().filter_map(|process| read(*process)).filter(|(_, state, _)| *state != 'Z');
    until("the end of all", || left().next().is_none());
}

fn a_backend_is_stopped(all: &[Process]) -> bool {
    all.iter().any(|(_, state, name)| *state == 'T' && name == "recovery")
}

fn sessions_are_leaked(all: &[Process]) -> bool {
    all.iter().filter(|(.., name)| name == "postgres").count() > 10
}

const STOP: [&str; 2] = ["--fault", "stop"];
const EXHAUST: [&str; 2] = ["--fault", "exhaust"];

#[test]
fn no_process_is_left_when_it_is_killed() {
    end(bench(&STOP, a_backend_is_stopped), |bench| signal(bench, "KILL"));
    end(bench(&EXHAUST, sessions_are_leaked), |bench| signal(bench, "KILL"));
}

#[test]
fn no_process_is_left_when_it_is_interrupted_at_a_terminal() {
    end(bench(&STOP, a_backend_is_stopped), interrupt);
    end(bench(&EXHAUST, sessions_are_leaked), interrupt);
}

/// Without namespaces there is nobody to end with: the servers' keepers see that their input ends.
#[test]
fn no_process_is_left_when_what_injects_ends_outside_of_namespaces() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("heal.json");
    let here = |fault: [&str; 2], there: fn(&[Process]) -> bool| {
        bench(&["inject", json.to_str().unwrap(), fault[0], fault[1]], there)
    };
    end(here(STOP, a_backend_is_stopped), |bench| signal(bench, "KILL"));
    end(here(STOP, a_backend_is_stopped), interrupt);
    // As a panic does where it aborts.
    end(here(STOP, a_backend_is_stopped), |bench| signal(bench, "ABRT"));
    end(here(EXHAUST, sessions_are_leaked), |bench| signal(bench, "KILL"));
    end(here(EXHAUST, sessions_are_leaked), interrupt);
}

/// All of its group, as a terminal does.
fn interrupt(bench: u32) {
    let status = Command::new("kill").args(["-INT", "--", &format!("-{bench}")]).status();
    assert!(status.unwrap().success());
}
