use std::sync::{Arc, OnceLock};

use buttress_core::BoxError;
use tracing::{error, info, warn};

use crate::BoxFuture;
use crate::incident::Incident;

/// Calls a human: once per incident, and tells them when it is over.
///
/// The supervisor never waits for a page while it heals. What fails, panics or takes more than 10 s is tried again, in order,
/// until it gets through; a resolve that overtakes a page that never got through replaces it.
pub trait Pager: Send + Sync {
    /// A human is needed. The same [`key`](Incident::key) may come again if it was not clear whether this got through.
    fn trigger<'a>(&'a self, incident: &'a Incident) -> BoxFuture<'a, Result<(), BoxError>>;

    /// It got worse. The default does nothing.
    fn update<'a>(&'a self, incident: &'a Incident) -> BoxFuture<'a, Result<(), BoxError>> {
        let _ = incident;
        Box::pin(std::future::ready(Ok(())))
    }

    /// It is over.
    fn resolve<'a>(&'a self, incident: &'a Incident) -> BoxFuture<'a, Result<(), BoxError>>;
}

/// Shared with others.
impl<P: Pager + ?Sized> Pager for Arc<P> {
    fn trigger<'a>(&'a self, incident: &'a Incident) -> BoxFuture<'a, Result<(), BoxError>> {
        (**self).trigger(incident)
    }

    fn update<'a>(&'a self, incident: &'a Incident) -> BoxFuture<'a, Result<(), BoxError>> {
        (**self).update(incident)
    }

    fn resolve<'a>(&'a self, incident: &'a Incident) -> BoxFuture<'a, Result<(), BoxError>> {
        (**self).resolve(incident)
    }
}

/// Writes pages into the log, through `tracing`, target `buttress`: the default.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogPager;

/// The pager of whoever has none of their own; one for all.
pub(crate) fn standard() -> Arc<dyn Pager> {
    static STANDARD: OnceLock<Arc<LogPager>> = OnceLock::new();
    Arc::clone(STANDARD.get_or_init(Arc::default)) as Arc<dyn Pager>
}

impl Pager for LogPager {
    fn trigger<'a>(&'a self, incident: &'a Incident) -> BoxFuture<'a, Result<(), BoxError>> {
        let (service, key) = (incident.service(), incident.key());
        error!(target: "buttress", service, incident = key, "a human is needed:\n{incident}");
        Box::pin(std::future::ready(Ok(())))
    }

    fn update<'a>(&'a self, incident: &'a Incident) -> BoxFuture<'a, Result<(), BoxError>> {
        let (service, key, health) = (incident.service(), incident.key(), incident.worst().as_str());
        warn!(target: "buttress", service, incident = key, health, "the incident got worse");
        Box::pin(std::future::ready(Ok(())))
    }

    fn resolve<'a>(&'a self, incident: &'a Incident) -> BoxFuture<'a, Result<(), BoxError>> {
        let (service, key) = (incident.service(), incident.key());
        info!(target: "buttress", service, incident = key, "the incident is over:\n{incident}");
        Box::pin(std::future::ready(Ok(())))
    }
}
