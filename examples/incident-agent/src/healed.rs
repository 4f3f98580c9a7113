//! The clients, supervised: one whose calls fail one after the other is built anew, with new connections, and Datadog's, where its
//! key is refused, with the key of today.

use std::sync::Arc;
use std::time::Duration;

use buttress::BoxError;
use buttress::core::Observe;
use buttress::heal::{
    Answer, BoxFuture, Build, Check, CheckSettings, Reload, Rung, SpawnError, Subject, Supervisor, Symptom,
    TrafficCheck,
};
use buttress::http::Http;
use http::{Request, Response, StatusCode};
use tokio::sync::watch;
use tokio::time::timeout;
use tower::{ServiceExt, util::MapRequestLayer};

use crate::clients::{Pace, Reach, boxed};
use crate::vendors::datadog::{Access, KEY};
use crate::vendors::{Body, Vendor, Wire};

/// A client that a supervisor owns. It lives as long as its clones.
pub(crate) fn client(
    vendor: Vendor,
    reach: &Reach,
    pace: Pace,
    observers: Vec<Arc<dyn Observe>>,
) -> Result<Wire<Body>, SpawnError> {
    let reach = reach.clone();
    let factory = move |_: Build| std::future::ready(Ok::<_, BoxError>(reach.wire::<Body>(vendor)));
    let healed = Supervisor::new(vendor.as_str(), factory)
        .check(TrafficCheck::default())
        .rung(Rung::reset_pool())
        .stable_for(every(pace) * 2)
        .observe(Arc::new(observers));
    let (healed, _handle) = healed.spawn()?;
    Ok(Wire::new(healed.policy(Http::new())))
}

/// Datadog's, which is asked whether it takes the key as well.
pub(crate) fn datadog(
    access: &Access,
    reach: &Reach,
    pace: Pace,
    observers: Vec<Arc<dyn Observe>>,
) -> Result<Wire<Body>, SpawnError> {
    let (keys, key) = watch::channel(access.clone());
    let reach = reach.clone();
    let factory = move |_: Build| {
        let key = key.borrow().api_key();
        let keyed = MapRequestLayer::new(move |mut request: Request<Body>| {
            if request.headers().contains_key(KEY) {
                request.headers_mut().insert(KEY, key.clone());
            }
            request
        });
        let client = Wire::new(tower::Layer::layer(&keyed, reach.wire::<Body>(Vendor::Datadog)));
        async move { Ok::<_, BoxError>(client) }
    };
    let reload = Reload::new("reload credentials", move || {
        keys.send_modify(Access::renew);
        std::future::ready(Ok::<_, BoxError>(()))
    });
    let healed = Supervisor::new(Vendor::Datadog.as_str(), factory)
        .check(KeyCheck { access: access.clone(), pace })
        .check(TrafficCheck::default())
        .rung(Rung::reset_pool())
        .rung(Rung::new(reload).cooldown(every(pace) * 5))
        .stable_for(every(pace) * 2)
        .observe(Arc::new(observers));
    let (healed, _handle) = healed.spawn()?;
    Ok(Wire::new(healed.policy(Http::new())))
}

/// How often one looks.
fn every(pace: Pace) -> Duration {
    match pace {
        Pace::Demonstration => Duration::from_secs(1),
        Pace::Production => Duration::from_secs(30),
    }
}

/// Whether Datadog takes the key: `GET /api/v1/validate`. What else may be wrong is not for it to say.
struct KeyCheck {
    access: Access,
    pace: Pace,
}

impl Check<Wire<Body>> for KeyCheck {
    fn name(&self) -> &str {
        "key"
    }

    fn symptom(&self) -> Symptom {
        Symptom::Credentials
    }

    fn settings(&self) -> CheckSettings {
        // Without a jitter a seed makes a run repeatable; there is no fleet here.
        CheckSettings {
            every: every(self.pace),
            fall: 2,
            jitter_percent: 0,
            timeout: Duration::from_secs(2),
            ..CheckSettings::default()
        }
    }

    fn run<'a>(&'a self, subject: Subject<'a, Wire<Body>>) -> BoxFuture<'a, Answer> {
        let Some(client) = subject.service.cloned() else {
            return Box::pin(std::future::ready(Answer::Skipped));
        };
        let request = self.access.validation().map(boxed);
        let answer: BoxFuture<'a, Result<Response<Body>, BoxError>> = Box::pin(client.oneshot(request));
        Box::pin(async move {
            let answer = timeout(Duration::from_secs(1), answer).await;
            match answer.map(|answer| answer.map(|response| response.status())) {
                Ok(Ok(status)) if status.is_success() => Answer::Pass,
                Ok(Ok(StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED)) => {
                    Answer::fail("the key is refused")
                }
                _ => Answer::Skipped,
            }
        })
    }
}
