//! Ports of loopback that the kernel cuts off.

use std::net::{Ipv4Addr, TcpListener};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

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

/// A port that nothing listens on, outside of the range from which the system takes those of clients: a server that is
/// started again finds it free.
///
/// # Panics
///
/// If there is none.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 10_000;
    const COUNT: u16 = 20_000;
    // Several programs may look for one at once.
    let own = (std::process::id() % u32::from(COUNT)) as u16;
    let tries = std::iter::repeat_with(|| NEXT.fetch_add(1, Relaxed)).take(usize::from(COUNT));
    let mut ports = tries.map(|number| FIRST + (own + number) % COUNT);
    ports.find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok()).expect("loopback has ports")
}
