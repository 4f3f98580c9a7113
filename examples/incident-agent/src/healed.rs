//! Datadog's client, supervised: where its key is refused it is built anew with the key of today, and where its connections are
//! dead, with new ones.

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
    let settings = KeyCheck::settings(pace);
    let (every, stable_for) = (settings.every, settings.every * 2);
    let healed = Supervisor::new(Vendor::Datadog.as_str(), factory)
        .check(KeyCheck { access: access.clone(), settings })
        .check(TrafficCheck::default())
        .rung(Rung::reset_pool())
        .rung(Rung::new(reload).cooldown(every * 5))
        .stable_for(stable_for)
        .observe(Arc::new(observers));
    let (healed, _handle) = healed.spawn()?;
    Ok(Wire::new(healed.policy(Http::new())))
}

/// Whether Datadog takes the key: `GET /api/v1/validate`. What else may be wrong is not for it to say.
struct KeyCheck {
    access: Access,
    settings: CheckSettings,
}

impl KeyCheck {
    fn settings(pace: Pace) -> CheckSettings {
        let every = match pace {
            Pace::Demonstration => Duration::from_secs(1),
            Pace::Production => Duration::from_secs(30),
        };
        // Without a jitter a seed makes a run repeatable; there is no fleet here.
        CheckSettings {
            every,
            fall: 2,
            jitter_percent: 0,
            timeout: Duration::from_secs(2),
            ..CheckSettings::default()
        }
    }
}

impl Check<Wire<Body>> for KeyCheck {
    fn name(&self) -> &str {
        "key"
    }

    fn symptom(&self) -> Symptom {
        Symptom::Credentials
    }

    fn settings(&self) -> CheckSettings {
        self.settings.clone()
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
