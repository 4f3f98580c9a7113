//! The page on clients is compiled with the tests.

#[cfg(doctest)]
#[doc = include_str!("../../../docs/clients.md")]
struct Clients;
