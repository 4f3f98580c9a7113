//! Ports of loopback that the kernel cuts off.

use std::process::Command;
use std::sync::{Mutex, PoisonError};

use services::Port;

use crate::namespace::{is_inside, program};

/// Drops what goes to and comes from the ports of a set.
const RULES: &str = "
table inet buttress {
  set cut { type inet_service; }
  chain arriving {
    type filter hook input priority 0;
    tcp dport @cut drop
    tcp sport @cut drop
  }
}";

/// Makes loopback work in a network of one's own, and loads the rules there if they can be.
///
/// # Errors
///
/// Why no port can be cut off.
pub fn prepare() -> Result<(), String> {
    if !is_inside() {
        return Err("there is no network namespace: run it as root, or allow namespaces for users".to_owned());
    }
    run("ip", &["link", "set", "lo", "up"])?;
    run("nft", &[RULES])
}

/// Drops all packets to and from a port from now on.
///
/// # Panics
///
/// If [`prepare`] failed.
pub fn cut(port: u16) {
    let element = format!("{{ {port} }}");
    run("nft", &["add", "element", "inet", "buttress", "cut", &element]).expect("the rules are loaded");
}

/// Lets them through again. A port that is not cut off stays so.
pub fn restore(port: u16) {
    let element = format!("{{ {port} }}");
    let _ = run("nft", &["delete", "element", "inet", "buttress", "cut", &element]);
}

fn run(name: &str, arguments: &[&str]) -> Result<(), String> {
    let path = program(name).ok_or_else(|| format!("`{name}` is not installed"))?;
    let output = Command::new(path).args(arguments).output().map_err(|error| format!("`{name}`: {error}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("`{name}` failed: {}", errors.trim())) }
}

/// A port that nothing listens on, and that is this program's from now on: a server that is started again finds it free.
///
/// # Panics
///
/// If there is none.
pub fn free_port() -> u16 {
    static RESERVED: Mutex<Vec<Port>> = Mutex::new(Vec::new());
    let port = Port::reserve();
    let number = port.number();
    RESERVED.lock().unwrap_or_else(PoisonError::into_inner).push(port);
    number
}
