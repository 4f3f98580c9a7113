//! A disk that is full in the middle of a run.
#![cfg(target_os = "linux")]

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

/// Mounts a file system of three megabytes, a part of which is taken, and frees that part when it is told to.
const SMALL: &str = r#"
mount -t tmpfs -o size=3m tmpfs "$2" && head -c 2000000 /dev/zero > "$2/ballast" &&
{ read -r line; rm "$2/ballast"; echo; } | "$1" "$2"
"#;

/// In namespaces of its own, where whoever is nobody outside may mount something.
#[test]
fn a_run_that_fills_the_disk_loses_its_lease_and_goes_on_once_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new("unshare");
    command.args([
        "--map-root-user",
        "--mount",
        "sh",
        "-ec",
        SMALL,
        "small",
        env!("CARGO_BIN_EXE_fill_disk"),
    ]);
    let mut child = command.arg(folder.path()).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert_eq!(lines.next().as_deref(), Some("full"), "this needs root, or namespaces for users");
    child.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    assert_eq!(lines.next().as_deref(), Some("going on"));
    assert!(child.wait().unwrap().success());
}
