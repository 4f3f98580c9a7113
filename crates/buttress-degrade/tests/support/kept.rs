//! A store of numbers, and a layer with it.

use std::borrow::Cow;

use buttress_degrade::{
    ByKey, Chain, DegradeLayer, Degraded, Freshness, LastGood, Open, Recalling, Rung, Source,
};
use buttress_testkit::Scripted;
use tower::{Layer, ServiceExt};

use super::secs;

pub(crate) type Answer = Degraded<u32>;
type Rules = ByKey<fn(&String) -> Option<Cow<'_, str>>, u32>;
type Layered = DegradeLayer<Recalling<Chain<String, Answer, Open>, Rules>>;

pub(crate) fn rules() -> Rules {
    let key: fn(&String) -> Option<Cow<'_, str>> =
        |request| (request != "unkeyed").then(|| request.as_str().into());
    ByKey::new(key)
}

/// Ten minutes fresh, and no jitter, unless a test says otherwise.
pub(crate) fn store() -> LastGood<Rules> {
    let store = LastGood::new(rules()).ttl(secs(600)).while_revalidate(secs(0)).if_error(secs(1200));
    store.negative_ttl(secs(0)).refresh_jitter(0)
}

pub(crate) fn layer(store: &LastGood<Rules>) -> Layered {
    let chain = Chain::<String, Answer>::new().rung(Rung::answer("fixed", |_| Some(0)));
    DegradeLayer::new("prices", chain).unwrap().last_good(store.clone()).unwrap()
}

pub(crate) async fn call(layer: &Layered, inner: &Scripted<u32>) -> Answer {
    layer.layer(inner.clone()).oneshot("a".into()).await.unwrap()
}

pub(crate) fn freshness(answer: &Answer) -> Option<Freshness> {
    match answer.clone().into_parts().1?.source() {
        Source::LastGood { freshness } => Some(freshness),
        _ => None,
    }
}
