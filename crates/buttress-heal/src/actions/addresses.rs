use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;

use buttress_core::BoxError;
use tokio::net::lookup_host;
use tokio::sync::watch;

use crate::BoxFuture;
use crate::action::{Action, Attempt, Fixes, Limits, Then};
use crate::check::Symptom;

/// The addresses of a host for a client that pins them, and the action that resolves them anew.
///
/// For a factory that connects to addresses of its own; a client that resolves for each connection (hyper's) needs none,
/// and gets new addresses with a new pool. If there are other addresses than before, the service is rebuilt; if there are
/// not, the attempt has failed, and the ladder goes on at once.
///
/// It helps against [`Symptom::Connectivity`]; 5 s, verified for 5 s, 60 s apart, twice. Clones share the addresses.
///
/// ```
/// # use buttress_heal::Addresses;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), buttress_core::BoxError> {
/// let addresses = Addresses::resolve("localhost:8080").await?;
/// // What the factory connects to.
/// let current = addresses.current();
/// # assert!(!current.is_empty());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Addresses {
    host: Arc<str>,
    current: watch::Sender<Arc<[SocketAddr]>>,
}

impl Addresses {
    /// Those of this host and port, as the system resolves them.
    ///
    /// # Errors
    ///
    /// If it cannot be resolved, or has no address.
    pub async fn resolve(host: impl Into<Arc<str>>) -> Result<Self, BoxError> {
        let host = host.into();
        let current = watch::Sender::new(look_up(&host).await?);
        Ok(Self { host, current })
    }

    /// The addresses that were found last, sorted.
    pub fn current(&self) -> Arc<[SocketAddr]> {
        Arc::clone(&self.current.borrow())
    }

    /// The same, and each change of them.
    pub fn watch(&self) -> watch::Receiver<Arc<[SocketAddr]>> {
        self.current.subscribe()
    }

    /// Resolves again; whether there are other addresses now.
    ///
    /// # Errors
    ///
    /// If it cannot be resolved, or has no address; then the old ones stay.
    pub async fn refresh(&self) -> Result<bool, BoxError> {
        let found = look_up(&self.host).await?;
        Ok(self.current.send_if_modified(|current| {
            let changed = *current != found;
            *current = found;
            changed
        }))
    }
}

/// Sorted, because servers of names rotate their answers.
async fn look_up(host: &str) -> Result<Arc<[SocketAddr]>, BoxError> {
    let found = lookup_host(host).await.map_err(|error| format!("cannot resolve {host}: {error}"))?;
    let mut found: Vec<_> = found.collect();
    found.sort_unstable();
    found.dedup();
    if found.is_empty() {
        return Err(format!("{host} has no address").into());
    }
    Ok(found.into())
}

impl Action for Addresses {
    fn name(&self) -> &str {
        "re-resolve"
    }

    fn fixes(&self) -> Fixes {
        Fixes::Only(Cow::Borrowed(&[Symptom::Connectivity]))
    }

    fn limits(&self) -> Limits {
        Limits::seconds(5, 5, 60, 2)
    }

    fn heal<'a>(&'a self, _: &'a Attempt) -> BoxFuture<'a, Result<Then, BoxError>> {
        Box::pin(async move {
            if self.refresh().await? {
                return Ok(Then::Rebuild);
            }
            Err(format!("{} has the same addresses as before", self.host).into())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::incident::Incident;
    use buttress_core::observe::Health;

    #[tokio::test]
    async fn only_other_addresses_are_worth_a_new_service() {
        let addresses = Addresses::resolve("127.0.0.1:8080").await.unwrap();
        let attempt = Attempt {
            incident: Incident::new("db-1", "db", Health::Critical),
            generation: 1,
            target: 0,
            number: 1,
        };
        let error = addresses.heal(&attempt).await.unwrap_err().to_string();
        assert_eq!(error, "127.0.0.1:8080 has the same addresses as before");
        // As if it had been somewhere else.
        addresses.current.send_replace(["10.0.0.1:8080".parse().unwrap()].into());
        let mut changes = addresses.clone().watch();
        assert_eq!(addresses.heal(&attempt).await.unwrap(), Then::Rebuild);
        assert!(changes.has_changed().unwrap());
        assert_eq!(**changes.borrow_and_update(), ["127.0.0.1:8080".parse().unwrap()]);
    }

    #[tokio::test]
    async fn a_name_that_cannot_be_resolved_is_an_error_that_names_it_and_the_old_addresses_stay() {
        for host in ["name.invalid:80", "127.0.0.1"] {
            let error = Addresses::resolve(host).await.unwrap_err().to_string();
            assert!(error.starts_with(&format!("cannot resolve {host}: ")), "{error}");
        }
        let mut addresses = Addresses::resolve("127.0.0.1:8080").await.unwrap();
        let before = addresses.current();
        addresses.host = "name.invalid:80".into();
        assert!(addresses.refresh().await.is_err() && addresses.current() == before);
    }
}
