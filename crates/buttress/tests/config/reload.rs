//! Files that are read again.

use super::*;

use buttress::circuit_breaker::{CircuitState, Trip};
use buttress::config::ReloadError;
use buttress::{Mode, Stacks};

#[test]
fn a_reload_says_what_has_changed_and_leaves_the_rest() {
    let layer = built("[http.x]\ntotal = \"20s\"\n[http.x.retry]\nmax_retries = 1");
    let stacks = Stacks::new();
    stacks.add(layer.handle()).unwrap();
    stacks.set_mode(Mode::Observe);
    layer.circuit_breaker().handle().isolate();
    let config = Config::parse(
        "[http.x]\nattempt = \"15s\"\ntotal = \"20s\"\n[http.x.retry]\nmax_retries = 3\n[http.y]",
    )
    .unwrap();
    let reload = stacks.apply(&config).unwrap();
    assert_eq!(
        reload.to_string(),
        "http.x.attempt: \"15s\", was the default\nhttp.x.retry.max_retries: 3, was 1\nwarning http.x: B002: after an attempt \
         of 15 s and a wait, no other fits into 20 s\nhttp.y is not built"
    );
    assert_eq!(layer.attempt().limit(), Duration::from_secs(15));
    assert_eq!(layer.retry().config().attempts(), 4);
    assert!(layer.explain().to_string().contains("3 retries"));
    assert_eq!(layer.circuit_breaker().handle().state(), CircuitState::Isolated);
    assert_eq!(layer.retry().mode(), Mode::Observe, "an operator's word stays");
    assert_eq!(stacks.apply(&config).unwrap().changes, []);

    let config = Config::parse("[http.x]\nmode = \"off\"").unwrap();
    assert_eq!(stacks.apply(&config).unwrap().changes.len(), 4);
    assert_eq!((layer.retry().mode(), layer.total().limit()), (Mode::Off, Duration::from_secs(10)));
    assert_eq!(layer.retry().config().attempts(), 3, "what is not there any more is the default again");
}

#[test]
fn a_file_that_cannot_be_put_in_force_as_a_whole_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("buttress.toml");
    let write = |text: &str| std::fs::write(&path, text).unwrap();
    write("[http.a]\ntotal = \"20s\"\n[http.b]\ntotal = \"20s\"\npreset = \"background\"");
    let config = Config::load(&path).unwrap();
    let (stacks, by_hand) = (Stacks::new(), buttress::http("c").build().unwrap());
    let [a, b] = ["a", "b"].map(|name| config.http(name).unwrap().build().unwrap());
    for stack in [a.handle(), b.handle(), by_hand.handle()] {
        stacks.add(stack).unwrap();
    }
    assert_eq!(stacks.add(b.handle()).unwrap_err().field(), "name");
    assert_eq!(stacks.list().iter().filter(|stack| stack.is_from_file()).count(), 2);
    let before: Vec<String> = stacks.list().iter().map(in_force).collect();
    let same = || assert_eq!(stacks.list().iter().map(in_force).collect::<Vec<_>>(), before);

    write("[http.a]\ntotal = \"5s\"\n[http.b]\ntotal = \"5s\"\nattempt = \"soon\"");
    let error = stacks.reload(&path).unwrap_err();
    assert!(error.to_string().ends_with("buttress.toml:5: `http.b.attempt` is \"soon\", but must be a time with its unit, such as \"500ms\", \"10s\" or \"1m 30s\""), "{error}");
    same();
    write(
        "[http.a]\ntotal = \"5s\"\nvendor = \"github\"\n[http.b]\npreset = \"datadog\"\n[http.b.statuses]\n409 = \"transient\"",
    );
    let ReloadError::Rebuild { keys } = stacks.reload(&path).unwrap_err() else { panic!("refused") };
    assert_eq!(keys, ["http.a.vendor", "http.b.preset", "http.b.statuses.409"]);
    same();
    write("[http.a]\ntotal = \"5s\"");
    assert_eq!(
        stacks.reload(&path).unwrap_err().to_string(),
        "the file has no table [http.b], and the stack is running: write the table again, or `Stacks::remove` it first"
    );
    same();
    write("[http.a]\ntotal = \"5s\"\n[http.b]\npreset = \"user_facing\"\n[http.c]\ntotal = \"1s\"");
    let changes = stacks.reload(&path).unwrap().changes;
    assert_eq!(
        changes.iter().map(|change| &*change.key).collect::<Vec<_>>(),
        ["http.a.total", "http.b.preset", "http.b.total"]
    );
    assert_eq!(
        (a.total().limit(), by_hand.total().limit()),
        (Duration::from_secs(5), Duration::from_secs(10))
    );
}

#[test]
fn code_may_override_a_file_and_says_so_itself_while_it_runs() {
    let config = Config::parse("[http.x]\ntotal = \"20s\"").unwrap();
    let layer = config.http("x").unwrap().total(Duration::from_secs(30)).build_per_host().unwrap();
    assert_eq!(layer.total().limit(), Duration::from_secs(30));
    let bad = buttress::http("x").map_circuit_breaker(|breaker| breaker.probes(0));
    assert_eq!(bad.apply_to(&layer.handle()).unwrap_err().field(), "probes");
    let trip = Trip::ConsecutiveFailures(9);
    let good =
        buttress::http("x").total(Duration::from_secs(40)).map_circuit_breaker(|breaker| breaker.trip(trip));
    good.apply_to(&layer.handle()).unwrap();
    assert_eq!(layer.total().limit(), Duration::from_secs(40));
    assert_eq!(layer.circuit_breaker().handle().config().trips(), [trip]);
    let reload = layer.handle().reload(&Config::parse("[http.x]\ntotal = \"25s\"").unwrap()).unwrap();
    assert_eq!((reload.changes.len(), layer.total().limit()), (1, Duration::from_secs(25)));
}

#[cfg(feature = "grpc")]
mod grpc {
    use super::*;
    use std::convert::Infallible;

    use buttress::http::ReplayBody;
    use bytes::Bytes;
    use http::{Request, Response};
    use http_body_util::{Channel, Full};
    use tokio::time::{Instant, sleep};
    use tower::{Layer, ServiceExt};

    fn parse(text: &str) -> Config {
        Config::parse(text).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn of_grpc_what_is_known_of_methods_belongs_to_how_a_stack_is_built() {
        let layer = parse("[grpc.x]\ntotal = \"20s\"").grpc("x").unwrap().build_per_host().unwrap();
        let stacks = Stacks::new();
        stacks.add(layer.handle()).unwrap();
        let before = in_force(&layer.handle());
        let file =
            "[grpc.x]\npreset = \"background\"\nattempt = \"1s\"\npeek = \"none\"\nstreams = [\"a.B/C\"]";
        let error = stacks.apply(&parse(file)).unwrap_err();
        let says = "grpc.x.peek, grpc.x.streams: belongs to how a stack is built, and is not changed in place; restart the process";
        assert_eq!(
            (error.to_string(), in_force(&layer.handle())),
            (says.to_owned(), before),
            "nothing of it"
        );
    }

    #[test]
    fn a_grpc_stack_takes_another_preset_and_other_limits_while_it_runs() {
        let layer = parse("[grpc.x]\ntotal = \"20s\"").grpc("x").unwrap().build_per_host().unwrap();
        let stacks = Stacks::new();
        stacks.add(layer.handle()).unwrap();
        for file in [
            "[grpc.x]\npreset = \"background\"\n[grpc.x.breaker]\nconsecutive_failures = 9",
            "[grpc.x]\npreset = \"user_facing\"\nattempt = \"1s\"\n[grpc.x.retry]\nmax_retries = 7",
            "[grpc.x]\npreset = \"background\"\nattempt = \"1h\"",
        ] {
            stacks.apply(&parse(file)).unwrap();
            let anew = parse(file).grpc("x").unwrap().build_per_host().unwrap();
            assert_eq!(in_force(&layer.handle()), in_force(&anew.handle()), "{file}");
        }
        let limits = (layer.total().limit(), layer.attempt().limit());
        assert_eq!(limits, (Duration::from_secs(600), Duration::from_secs(600)));
    }

    /// The head of a stream that says nothing comes after 400 ms; at 600 ms the attempt would be over.
    #[tokio::test(start_paused = true)]
    async fn a_look_for_a_status_keeps_to_the_attempts_time_as_it_is_now() {
        let file = |attempt: &str| parse(&format!("[grpc.x]\nattempt = {attempt}\nrepeatable = [\"a.B\"]"));
        let layer = file("\"5s\"").grpc("x").unwrap().build().unwrap();
        let service = layer.layer(tower::service_fn(async |_: Request<ReplayBody<Full<Bytes>>>| {
            sleep(Duration::from_millis(400)).await;
            let (sender, body) = Channel::<Bytes>::new(1);
            tokio::spawn(async move {
                sleep(Duration::from_secs(60)).await;
                drop(sender);
            });
            Ok::<_, Infallible>(Response::new(body))
        }));
        for (attempt, heard) in [("\"5s\"", 900), ("\"600ms\"", 600), ("\"700ms\"", 700)] {
            layer.handle().reload(&file(attempt)).unwrap();
            let (started, request) = (Instant::now(), Request::post("http://x/a.B/C").body(Full::default()));
            service.clone().oneshot(request.unwrap()).await.unwrap();
            assert_eq!(started.elapsed(), Duration::from_millis(heard), "{attempt}");
        }
    }
}
