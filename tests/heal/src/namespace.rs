//! A place of one's own in the system: network, mounts and processes that end with it.

use std::io::{self, Read};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Says to the program that it is in there.
const INSIDE: &str = "BUTTRESS_HEAL_NAMESPACE";

/// Where faults are injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Right here.
    Here,
    /// In namespaces of its own.
    Namespace,
}

/// Whether this program runs in namespaces of its own.
pub fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// The command that runs one in namespaces; when it ends, or is killed, so are all processes in there.
fn unshare(user: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    command.args(user).args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    command
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|id| id.stdout == b"0\n")
}

/// What has to come before `unshare`'s other arguments: whoever is not root has to become so in there.
fn user() -> &'static [&'static str] {
    if is_root() { &[] } else { &["--map-root-user"] }
}

/// Where faults can be injected: in namespaces if there are any, and PostgreSQL's, which does not run as root, only if this is
/// the true root.
pub fn place(needs_postgres: bool) -> Place {
    let possible =
        || unshare(user()).arg("true").stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    if is_inside() || needs_postgres && !is_root() || !possible() { Place::Here } else { Place::Namespace }
}

/// Runs this program there, with these arguments, to its end; it ends early if this one does.
///
/// # Errors
///
/// If it cannot be started.
pub fn run(place: Place, arguments: &[String]) -> io::Result<bool> {
    let program = std::env::current_exe()?;
    let mut command = match place {
        Place::Here => Command::new(program),
        Place::Namespace => {
            // One for all: each namespace has another file system in its place.
            let folder = std::env::temp_dir().join("buttress-heal");
            std::fs::create_dir_all(&folder)?;
            let mut command = unshare(user());
            command.args(["sh", "-ec", IN_MEMORY, "sh"]).arg(&folder).arg(program);
            command.env(INSIDE, "1").env("TMPDIR", &folder);
            command
        }
    };
    // The other end stays open for as long as this process lives.
    let mut child = command.args(arguments).stdin(Stdio::piped()).spawn()?;
    let _open = child.stdin.take();
    Ok(child.wait()?.success())
}

/// Temporary files go with the namespace, whatever ends it, if they are in its memory.
const IN_MEMORY: &str = r#"mount -t tmpfs -o mode=755 tmpfs "$1"; shift; exec "$@""#;

/// Ends this process when its standard input does, or when it is interrupted: the first process of a namespace is deaf to
/// signals that it does not ask for.
pub fn end_with_parent() {
    std::thread::spawn(|| {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(130);
    });
}

/// A program on the search path, or where only root has one.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).map(|folder| folder.join(name)).find(|file| file.is_file())
}
