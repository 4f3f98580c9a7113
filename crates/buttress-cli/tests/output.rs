//! What the command tells whoever started it.

#![cfg(target_os = "linux")]

use std::fs::File;
use std::process::{Command, Output, Stdio};

fn help(out: impl Into<Stdio>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_buttress"));
    command.arg("--help").stdout(out).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap()
}

#[test]
fn what_cannot_be_written_is_a_failure() {
    let ended = help(File::options().write(true).open("/dev/full").unwrap());
    assert_eq!(ended.status.code(), Some(1));
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(said.starts_with("buttress: it is done, and could not be printed:"), "{said}");
}

#[test]
fn whoever_reads_may_have_read_enough() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let ended = help(writer);
    assert_eq!((ended.status.code(), ended.stderr), (Some(0), Vec::new()));
}
