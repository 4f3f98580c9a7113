//! What is done to the servers.

use std::time::Duration;

/// A fault, and how it is injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The backend is killed with `kill -9`, and its parent starts it again.
    Kill,
    /// The backend is stopped with `SIGSTOP`: the kernel goes on accepting connections for it.
    Stop,
    /// A toxic proxy swallows all bytes in both directions, of connections old and new.
    BlackHole,
    /// A toxic proxy closes all connections and refuses new ones.
    Unplug,
    /// The kernel drops all packets in both directions (nftables).
    Cut,
    /// Sessions leak until the pool, and with it PostgreSQL's connections, are used up.
    Exhaust,
    /// A process of a PostgreSQL session is killed with `kill -9`: the server ends all sessions and recovers.
    KillSession,
    /// PostgreSQL's first process is killed with `kill -9`, and its parent starts it again.
    KillPostmaster,
    /// The password is changed and all sessions are ended: nothing that a client can do helps.
    Password,
    /// Another program's cache fills the disk (tmpfs).
    FullDisk,
    /// Nothing is wrong: whatever heals is mistaken.
    Calm,
}

impl Fault {
    /// All, in the order in which they are shown.
    pub const ALL: [Self; 11] = [
        Self::Kill,
        Self::Stop,
        Self::BlackHole,
        Self::Unplug,
        Self::Cut,
        Self::Exhaust,
        Self::KillSession,
        Self::KillPostmaster,
        Self::Password,
        Self::FullDisk,
        Self::Calm,
    ];

    /// Its name on the command line and in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Stop => "stop",
            Self::BlackHole => "black-hole",
            Self::Unplug => "unplug",
            Self::Cut => "cut",
            Self::Exhaust => "exhaust",
            Self::KillSession => "kill-session",
            Self::KillPostmaster => "kill-postmaster",
            Self::Password => "password",
            Self::FullDisk => "full-disk",
            Self::Calm => "calm",
        }
    }

    /// The fault of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|fault| fault.name() == name)
    }

    /// What it is, for people.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Kill => "backend killed (kill -9), restarted by its parent",
            Self::Stop => "backend stopped (SIGSTOP)",
            Self::BlackHole => "black hole (toxic proxy)",
            Self::Unplug => "link unplugged: closed and refused (toxic proxy)",
            Self::Cut => "link cut (nftables), no other target",
            Self::Exhaust => "PostgreSQL: pool and connections leaked",
            Self::KillSession => "PostgreSQL: a session's process killed",
            Self::KillPostmaster => "PostgreSQL: postmaster killed",
            Self::Password => "PostgreSQL: wrong password (no cure)",
            Self::FullDisk => "disk full (tmpfs)",
            Self::Calm => "no fault",
        }
    }

    /// Whether it is one of PostgreSQL's.
    pub const fn needs_postgres(self) -> bool {
        matches!(self, Self::Exhaust | Self::KillSession | Self::KillPostmaster | Self::Password)
    }

    /// How long what is wrong stays wrong, if nobody mends it; `None` for what is over as soon as it is done.
    pub const fn lasts(self) -> Option<Duration> {
        match self {
            Self::Kill | Self::KillSession | Self::KillPostmaster | Self::Calm => None,
            Self::Exhaust | Self::Password | Self::FullDisk => Some(Duration::from_secs(8)),
            Self::Stop | Self::BlackHole | Self::Unplug | Self::Cut => Some(Duration::from_secs(10)),
        }
    }

    /// Between two calls of a client: a session of PostgreSQL costs more than a connection, and whoever has none asks for one
    /// with each call.
    pub const fn every(self) -> Duration {
        Duration::from_millis(if self.needs_postgres() { 20 } else { 10 })
    }

    /// How long a client is watched after the fault is over.
    pub const fn watched(self) -> Duration {
        match self {
            Self::Cut => Duration::from_secs(8),
            Self::KillPostmaster | Self::KillSession => Duration::from_secs(10),
            _ => Duration::from_secs(5),
        }
    }

    /// How many are injected side by side: a PostgreSQL costs more than a backend.
    pub const fn lanes(self) -> usize {
        match self {
            Self::Exhaust | Self::KillSession | Self::KillPostmaster | Self::Password => 5,
            Self::Cut => 10,
            Self::Calm => 1,
            _ => 15,
        }
    }
}
