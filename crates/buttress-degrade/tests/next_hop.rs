//! Levels over several hops of HTTP: what the next hop reads, and what is believed of it.
#![cfg(feature = "http")]

#[path = "support/origin.rs"]
mod origin;
mod support;

use buttress_core::{BoxError, Level};
use buttress_degrade::{Chain, DEGRADATION, DegradeLayer, Gather, Grade, HttpRules, Need, Rung, Served};
use buttress_http::{Http, HttpCapture, StoredResponse};
use http::Response;
use http_body_util::{BodyExt, Full};
use origin::{Asked, Given, Origin, get, response, store};
use tower::{Layer, ServiceExt, service_fn};

/// Levels compose over hops.
#[tokio::test(start_paused = true)]
async fn the_next_hop_reads_the_level_and_what_fell_short() {
    let chain = || {
        Chain::<Asked, Given>::new()
            .rung(Rung::answer("static", |_| Some(StoredResponse::from(Response::new(&b"sorry"[..])))))
    };
    let below = DegradeLayer::new("prices", chain()).unwrap().policy(Http::new());
    let origin = Origin::of(503, &[]);
    let below = below.layer(origin.service());
    // What goes over the network: header fields, no extensions.
    let wire = service_fn(move |request: Asked| {
        let below = below.clone();
        async move {
            let (mut parts, body) = below.oneshot(request).await?.into_parts();
            parts.extensions.clear();
            Ok::<_, BoxError>(Response::from_parts(parts, Full::new(body.collect().await?.to_bytes())))
        }
    });
    let above = DegradeLayer::new("shop", chain()).unwrap().policy(Http::new()).layer(wire);
    let answer = above.oneshot(get(&[])).await.unwrap();
    assert_eq!(answer.headers()[DEGRADATION], "3; components=\"prices\"");
    let served = answer.extensions().get::<Served>().unwrap();
    assert_eq!((served.level(), served.shortfalls()[0].component()), (Level::Minimal, "prices"));
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "sorry");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_no_failure_is_of_level_3_at_worst_whatever_it_says() {
    let answer = || StoredResponse::from(Response::new("sorry"));
    for status in [200, 404] {
        let chain = Chain::<Asked, Given>::new().finally(Level::Minimal, "static", move |_| answer());
        let layer = DegradeLayer::new("search", chain).unwrap().policy(Http::new());
        let origin = Origin::of(status, &[("buttress-degradation", "4; components=\"db\"")]);
        let Ok(given) = layer.layer(origin.service()).oneshot(get(&[])).await;
        assert_eq!((given.status().as_u16(), given.level()), (status, Level::Minimal));
        assert_eq!(given.headers()[DEGRADATION], "3; components=\"db\"");
        // Nor from a rung, nor where it is shared.
        let rung = Rung::alternate("replica", origin.service(), Http::new());
        let chain =
            Chain::<Asked, Given>::new().rung(rung).finally(Level::Minimal, "static", move |_| answer());
        let layer = DegradeLayer::new("search", chain).unwrap().policy(Http::new());
        let down = Origin::new(|_| Err("connection reset".into()));
        let Ok(given) = layer.layer(down.service()).oneshot(get(&[])).await;
        assert_eq!((given.status().as_u16(), given.level()), (status, Level::Minimal));
        let layer = layer.last_good(store(HttpRules::private())).unwrap();
        let service = layer.layer(origin.service());
        let calls: Vec<_> = (0..2).map(|_| tokio::spawn(service.clone().oneshot(get(&[])))).collect();
        for call in calls {
            let Ok(given) = call.await.unwrap();
            assert_eq!((given.status().as_u16(), given.level()), (status, Level::Minimal));
            given.into_body().collect().await.unwrap();
        }
    }
}

/// RFC 8941: an item has one line; what was not understood is not passed on.
#[tokio::test(start_paused = true)]
async fn what_the_next_hop_says_is_passed_on_as_it_was_understood() {
    let many: &'static str = String::leak(format!("1; components=\"{}\"", vec!["a"; 1000].join(",")));
    for (said, passed) in [
        (&["two"][..], None),
        (&["1", "3; components=\"b\"", "0"], Some("3; components=\"b\"")),
        (Vec::leak(vec![many]), Some("1; components=\"a, a, a, a, a, a, a, a, a, a, a, a, a, a, a, a\"")),
    ] {
        let origin = Origin::new(move |_| {
            let fields: Vec<_> = said.iter().map(|value| ("buttress-degradation", *value)).collect();
            Ok(response(200, &fields, "x"))
        });
        let layer = DegradeLayer::new("search", Chain::<Asked, Given>::new()).unwrap().policy(Http::new());
        // Through a layer that gives answers of the same type, too.
        let same = tower::util::MapResponse::new(origin.service(), HttpCapture::pass);
        for answer in [
            layer.layer(origin.service()).oneshot(get(&[])).await.unwrap(),
            layer.layer(same).oneshot(get(&[])).await.unwrap(),
        ] {
            let fields: Vec<_> = answer.headers().get_all(DEGRADATION).iter().collect();
            assert_eq!(fields, passed.as_slice(), "{said:?}");
            assert_eq!(answer.level() == Level::Full, passed.is_none());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_stranger_says_of_its_answers_is_neither_believed_nor_passed_on() {
    let origin = || {
        Origin::of(200, &[("cache-control", "max-age=60"), ("buttress-degradation", "3; components=\"db\"")])
    };
    let layer =
        || DegradeLayer::new("search", Chain::<Asked, Given>::new()).unwrap().policy(Http::new()).foreign();
    let seen = |answer: &Given| (answer.level(), answer.headers().contains_key(DEGRADATION));
    let answer = layer().layer(origin().service()).oneshot(get(&[])).await.unwrap();
    assert_eq!(seen(&answer), (Level::Full, false));
    let kept = store(HttpRules::private());
    let service = layer().last_good(kept.clone()).unwrap().layer(origin().service());
    for keyed in [true, true, false] {
        let answer =
            service.clone().oneshot(get(if keyed { &[] } else { &[("range", "bytes=0-1")] })).await.unwrap();
        assert_eq!(seen(&answer), (Level::Full, false));
        answer.into_body().collect().await.unwrap();
        buttress_testkit::clock::settle().await;
    }
    assert_eq!(kept.len(), 1);
    // What a layer of ours says of it counts.
    let rung = Rung::answer("static", |_| Some(StoredResponse::from(Response::new("sorry"))));
    let below =
        DegradeLayer::new("below", Chain::<Asked, Given>::new().rung(rung)).unwrap().policy(Http::new());
    let answer = layer().layer(below.layer(Origin::of(503, &[]).service())).oneshot(get(&[])).await.unwrap();
    assert_eq!(seen(&answer), (Level::Minimal, true));
}

#[tokio::test(start_paused = true)]
async fn a_stranger_among_the_rungs_is_not_believed_either() {
    let replica = Origin::of(200, &[("buttress-degradation", "3; components=\"db\"")]);
    for (foreign, field) in [(false, "3; components=\"db, search\""), (true, "1; components=\"search\"")] {
        let rung = Rung::alternate("replica", replica.service(), Http::new());
        let rung = if foreign { rung.foreign() } else { rung };
        let layer = DegradeLayer::new("search", Chain::<Asked, Given>::new().rung(rung)).unwrap();
        let layer = layer.policy(Http::new());
        let answer = layer.layer(Origin::of(503, &[]).service()).oneshot(get(&[])).await.unwrap();
        assert_eq!(answer.headers()[DEGRADATION], field);
    }
}

#[tokio::test(start_paused = true)]
async fn a_part_of_a_gather_is_as_good_as_the_next_hop_says() {
    let part =
        async { Ok::<_, BoxError>(response(200, &[("buttress-degradation", "3; components=\"db\"")], "x")) };
    let context = Gather::new().part("a", Need::Weight(1), part).await;
    let served = context.served().unwrap();
    assert_eq!((context.level(), served.shortfalls()[0].level()), (Level::Minimal, Level::Minimal));
}
