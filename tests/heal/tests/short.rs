//! Each fault once, in the form of every day: that it is detected, healed and escalated at all, on a machine that does other
//! things as well. How fast, is for `cargo xtask bench heal`.
#![cfg(target_os = "linux")]

use std::process::{Command, Stdio};

/// Runs what injects the fault, which ends with this process.
fn inject(fault: &str, more: &[&str]) {
    let mut bench = Command::new(env!("CARGO_BIN_EXE_recovery"));
    bench.args(["--short", "--client", "healed", "--injections", "1", "--fault", fault]).args(more);
    let output = bench.stdin(Stdio::null()).output().unwrap();
    let (told, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{told}");
    assert!(output.status.success(), "{told}\n{errors}");
}

#[test]
fn a_client_recovers_when_its_backend_is_killed_and_restarted_by_its_parent() {
    inject("kill", &[]);
}

/// HD-18.
#[test]
fn a_stopped_backend_accepts_connections_and_is_failed_over_all_the_same() {
    inject("stop", &[]);
}

#[test]
fn a_black_hole_is_failed_over() {
    inject("black-hole", &[]);
}

#[test]
fn a_link_that_is_unplugged_is_failed_over() {
    inject("unplug", &[]);
}

#[test]
fn a_client_answers_soon_after_its_cut_link_is_restored() {
    inject("cut", &[]);
}

#[test]
fn an_exhausted_pool_of_postgres_is_rebuilt_when_its_leaked_sessions_are_ended() {
    inject("exhaust", &[]);
}

#[test]
fn a_client_recovers_when_a_session_of_postgres_is_killed_and_all_others_with_it() {
    inject("kill-session", &[]);
}

#[test]
fn a_client_recovers_when_the_postmaster_is_killed_and_restarted_by_its_parent() {
    inject("kill-postmaster", &[]);
}

#[test]
fn a_wrong_password_pages_exactly_once_and_is_resolved_when_it_is_right_again() {
    inject("password", &[]);
}

#[test]
fn a_full_disk_is_cleared_of_the_cache_that_filled_it() {
    inject("full-disk", &[]);
}

#[test]
fn nothing_is_healed_and_nobody_paged_while_nothing_is_wrong() {
    inject("calm", &["--minutes", "0.5"]);
}
