//! Real faults, and how long clients take to recover from them.
//!
//! Backends are processes on loopback, databases are PostgreSQL's own servers, and they are really killed, stopped, cut off,
//! exhausted and filled up ([`fault`], [`world`]). Clients are called at fixed times, whether or not they answer ([`load`]). Each
//! fault meets three of them, on the same schedule ([`arms`], [`schedule`]): one that is left alone, one that a plain
//! supervisor restarts, and one that Buttress heals. What is measured, and how, is told by [`figures`].
//!
//! Nothing outlives the program: servers have a keeper that ends them when their standard input ends, and where the system
//! allows it, all of it runs in namespaces of its own ([`namespace`]), which end with it.

pub mod arms;
pub mod backend;
pub mod fault;
pub mod figures;
pub mod goals;
pub mod journal;
pub mod load;
pub mod namespace;
pub mod network;
pub mod picture;
pub mod report;
pub mod schedule;
pub mod world;

/// Any error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A client of what is called: its answer is the number of the target that gave it.
pub type Client = tower::util::BoxCloneSyncService<(), usize, BoxError>;
