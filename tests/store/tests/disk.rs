//! A disk that is full.
#![cfg(target_os = "linux")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// Mounts a small file system, a part of which is taken, and frees that part when it is told to.
const SMALL: &str = r#"
mount -t tmpfs -o size=3m,mode=755 tmpfs "$3" && head -c 500000 /dev/zero > "$3/ballast" &&
{ read -r line; rm "$3/ballast"; echo; } | $4 "$1" "$2" "$3"
"#;

/// In a namespace of its own, where whoever is nobody outside may mount something; what fills it is run `by` somebody.
fn fill(store: &str, namespace: &[&str], by: &str) {
    let directory = TempDir::new().unwrap();
    // For a server that runs as somebody else.
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new("unshare");
    command.args(namespace).args(["--mount", "sh", "-ec", SMALL, "small", env!("CARGO_BIN_EXE_fill"), store]);
    let child = command.arg(directory.path()).arg(by).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = child.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert_eq!(lines.next().as_deref(), Some("full"), "this needs root, or namespaces for users");
    child.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    assert_eq!(lines.next().as_deref(), Some("going on"));
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_full_disk_is_an_error_that_loses_nothing_and_the_store_goes_on_once_there_is_room() {
    fill("sqlite", &["--map-root-user"], "");
}

#[test]
fn a_full_tablespace_of_postgres_is_an_error_that_loses_nothing_and_the_store_goes_on_once_there_is_room() {
    let me = fs::metadata("/proc/self").unwrap();
    // PostgreSQL does not run as root: root has it run as somebody else, who is unknown in a namespace for users, and whoever
    // became root there for the mount becomes who they were again.
    if me.uid() == 0 {
        fill("postgres", &[], "");
    } else {
        let me = format!("unshare --map-user={} --map-group={}", me.uid(), me.gid());
        fill("postgres", &["--map-root-user"], &me);
    }
}
