//! What the agent asks about the service, and of whom: of Datadog, and if that fails of whoever else may know.

use std::sync::Arc;
use std::time::Duration;

use buttress::core::{ErrorsAreFailures, Observe};
use buttress::degrade::{ByKey, Chain, Component, DegradeLayer, Degraded, LastGood, Level, Rung};
use buttress::{BoxError, ConfigError};
use serde::{Deserialize, Serialize};
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceExt, service_fn};

use crate::incident::Incident;
use crate::vendors::CallError;
use crate::vendors::aws::Deploys;
use crate::vendors::datadog::{Datadog, Logs};
use crate::vendors::service::Service;

/// A question about the service that is ill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    /// The latest value of the metric that raised the alarm.
    Metric,
    /// What the logs say.
    Logs,
    /// Which monitors are alarmed.
    Alerts,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Fact {
    Metric(f64),
    Logs(Logs),
    Alerts(Vec<String>),
    /// Of ECS, which is asked apart.
    Deploys(Deploys),
    /// Nobody knows.
    Unknown,
}

/// Whom the agent asks.
pub(crate) type Ask = BoxCloneSyncService<Question, Degraded<Fact>, BoxError>;

/// Datadog alone.
pub(crate) fn bare(datadog: Datadog, incident: &Arc<Incident>) -> Ask {
    let incident = Arc::clone(incident);
    let ask = move |question| {
        let (datadog, incident) = (datadog.clone(), Arc::clone(&incident));
        async move { answer(&datadog, &incident, question).await.map(Degraded::full).map_err(BoxError::from) }
    };
    Ask::new(service_fn(ask))
}

/// Datadog; the service itself, which knows its own metric as well (level 1), unless it is not the one that Datadog watches; the
/// last good answer (level 2); and where nobody knows, that (level 3). It cannot fail.
pub(crate) fn protected(
    datadog: Datadog,
    service: Option<Service>,
    incident: &Arc<Incident>,
    component: Component,
    observers: Vec<Arc<dyn Observe>>,
) -> Result<Ask, ConfigError> {
    let mut chain = Chain::<Question, Degraded<Fact>>::new();
    if let Some(service) = service {
        let own = service_fn(move |question| {
            let service = service.clone();
            async move {
                match question {
                    Question::Metric => service.metric().await.map(Fact::Metric).map_err(BoxError::from),
                    Question::Logs | Question::Alerts => Err("it knows its metric only".into()),
                }
            }
        });
        let own = Rung::alternate("service", own, ErrorsAreFailures).timeout(Duration::from_secs(5));
        chain = chain.rung(own);
    }
    let chain = chain.finally(Level::Minimal, "nobody", |_| Fact::Unknown);
    let last_good = LastGood::new(ByKey::new(|question: &Question| Some(format!("{question:?}").into())))
        // Whoever asks wants to know how it is now.
        .ttl(Duration::ZERO)
        .while_revalidate(Duration::ZERO)
        .negative_ttl(Duration::ZERO)
        .if_error(Duration::from_secs(3600));
    let layer = DegradeLayer::new("datadog", chain)?
        .last_good(last_good)?
        .patience(Duration::from_secs(60))?
        .report_to(component)
        .observe(Arc::new(observers));
    let incident = Arc::clone(incident);
    let datadog = service_fn(move |question| {
        let (datadog, incident) = (datadog.clone(), Arc::clone(&incident));
        async move { answer(&datadog, &incident, question).await.map_err(BoxError::from) }
    });
    // The chain is closed, so there is no error; without Buttress there is.
    Ok(Ask::new(layer.layer(datadog).map_err(|never| match never {})))
}

async fn answer(datadog: &Datadog, incident: &Incident, question: Question) -> Result<Fact, CallError> {
    Ok(match question {
        Question::Metric => Fact::Metric(datadog.latest(&incident.query).await?),
        Question::Logs => Fact::Logs(datadog.logs(&incident.logs_query).await?),
        Question::Alerts => Fact::Alerts(datadog.alerts(&incident.service).await?),
    })
}
