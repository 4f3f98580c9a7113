use std::sync::Arc;

use tokio::net::TcpStream;

use super::evidence;
use crate::BoxFuture;
use crate::check::{Answer, Check, Subject, Symptom};

/// Whether a TCP connection can be opened; it is closed at once.
///
/// That is all it says. The kernel accepts connections for a process that is stopped or stuck, until its backlog is full:
/// check with a [request](crate::CallCheck) whether anybody answers. It opens a connection of its own, and so says nothing
/// of those in a pool.
///
/// The symptom is [`Symptom::Connectivity`].
#[derive(Clone, Debug)]
pub struct TcpCheck {
    name: Arc<str>,
    targets: Arc<[Arc<str>]>,
}

impl TcpCheck {
    /// To this host and port (`db.internal:5432`), resolved anew each time.
    pub fn new(address: impl Into<Arc<str>>) -> Self {
        let address = address.into();
        Self { name: format!("tcp {address}").into(), targets: [address].into() }
    }

    /// To the address of the target that is in use: one for each of the supervisor's targets, in their order. A target
    /// beyond the last one is not checked; a single address is that of all targets.
    pub fn of_targets(addresses: impl IntoIterator<Item: Into<Arc<str>>>) -> Self {
        Self { name: "tcp".into(), targets: addresses.into_iter().map(Into::into).collect() }
    }
}

impl<S> Check<S> for TcpCheck {
    fn name(&self) -> &str {
        &self.name
    }

    fn symptom(&self) -> Symptom {
        Symptom::Connectivity
    }

    fn run<'a>(&'a self, subject: Subject<'a, S>) -> BoxFuture<'a, Answer> {
        let address = match &*self.targets {
            [one] => Some(one),
            several => several.get(subject.target),
        };
        Box::pin(async move {
            let Some(address) = address else { return Answer::Skipped };
            match TcpStream::connect(&**address).await {
                Ok(_) => Answer::Pass,
                Err(error) => Answer::fail(format!("cannot connect to {address}: {}", evidence(&error))),
            }
        })
    }
}
