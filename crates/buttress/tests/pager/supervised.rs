//! A service that is ill until it is mended, and its supervisor.

use super::*;
use buttress::heal::{Build, Heal, Supervisor, SupervisorHandle};
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::time::sleep;

struct Ill {
    is_well: Arc<AtomicBool>,
    handle: SupervisorHandle,
    _service: Heal<()>,
}

impl Ill {
    fn with(pager: impl Pager + 'static, stable_for: Duration) -> Self {
        let is_well = Arc::new(AtomicBool::new(false));
        let (builds, pings) = (Arc::clone(&is_well), Arc::clone(&is_well));
        let well =
            |is_well: &AtomicBool| if is_well.load(Ordering::Relaxed) { Ok(()) } else { Err("refused") };
        let supervisor = Supervisor::new("search", move |_: Build| std::future::ready(well(&builds)))
            .ping(move |()| std::future::ready(well(&pings)))
            .stable_for(stable_for)
            .page_after(Duration::from_secs(1))
            .pager(pager);
        let (service, handle) = supervisor.spawn().unwrap();
        Self { is_well, handle, _service: service }
    }

    fn is_well(&self, is_well: bool) {
        self.is_well.store(is_well, Ordering::Relaxed);
    }
}

/// PagerDuty, down until so long after the start, and what it has taken, by when.
type Taken = Arc<Mutex<Vec<(u64, String)>>>;

fn down_for(outage: Duration) -> (PagerDuty, Taken, Arc<Mutex<usize>>) {
    let (taken, asked) = (Taken::default(), Arc::new(Mutex::new(0)));
    let (taking, asking, start) = (Arc::clone(&taken), Arc::clone(&asked), Instant::now());
    let client = service_fn(move |request: Asked| {
        let (taken, is_down) = (Arc::clone(&taking), start.elapsed() < outage);
        *asking.lock().unwrap() += 1;
        async move {
            let body = http_body_util::BodyExt::collect(request.into_body()).await?.to_bytes();
            let event: Value = serde_json::from_slice(&body)?;
            if !is_down {
                let action = event["event_action"].as_str().unwrap().to_owned();
                taken.lock().unwrap().push((start.elapsed().as_secs(), action));
            }
            let status = if is_down { 503 } else { 202 };
            Ok::<_, BoxError>(Response::builder().status(status).body(Full::<Bytes>::default())?)
        }
    });
    (PagerDuty::over(client, KEY).unwrap(), taken, asked)
}

fn actions(taken: &Taken) -> Vec<String> {
    taken.lock().unwrap().iter().map(|(_, action)| action.clone()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_page_survives_an_outage_of_the_pager_and_is_sent_once_and_resolved_once() {
    let (pager, taken, asked) = down_for(Duration::from_secs(600));
    let ill = Ill::with(pager, Duration::from_secs(60));
    sleep(Duration::from_secs(3 * 3600)).await;
    assert_eq!(actions(&taken), ["trigger"]);
    let (at, asked) = (taken.lock().unwrap()[0].0, *asked.lock().unwrap());
    assert!((600..=690).contains(&at), "{at} s: within a minute and the open circuit of its being back");
    assert!(asked <= 60, "{asked} requests in ten minutes");
    ill.is_well(true);
    sleep(Duration::from_secs(600)).await;
    assert_eq!(actions(&taken), ["trigger", "resolve"]);
    assert!(!ill.handle.incidents().is_empty() && ill.handle.incident().is_none());
}

#[tokio::test(start_paused = true)]
async fn an_incident_that_is_over_before_the_pager_is_back_calls_nobody_and_is_resolved_there() {
    let (pager, taken, _) = down_for(Duration::from_secs(1200));
    let ill = Ill::with(pager, Duration::from_secs(60));
    sleep(Duration::from_secs(300)).await;
    ill.is_well(true);
    sleep(Duration::from_secs(3600)).await;
    // One of the attempts may have arrived, for all that is known here.
    assert_eq!(actions(&taken), ["resolve"]);
}

#[tokio::test(start_paused = true)]
async fn a_day_of_incidents_during_an_outage_leaves_no_backlog() {
    let (pager, taken, _) = down_for(Duration::from_secs(86_400));
    let ill = Ill::with(pager, Duration::from_secs(1));
    let start = Instant::now();
    let mut incidents = 0;
    while start.elapsed() < Duration::from_secs(86_400) {
        ill.is_well(false);
        sleep(Duration::from_secs(120)).await;
        incidents += u32::from(ill.handle.incident().is_some_and(|incident| incident.is_escalated()));
        ill.is_well(true);
        sleep(Duration::from_secs(180)).await;
    }
    assert!(incidents > 200, "{incidents}");
    sleep(Duration::from_secs(3600)).await;
    assert!(actions(&taken).iter().all(|action| action == "resolve"), "nobody is called for what is over");
    let last = taken.lock().unwrap().last().map(|(at, _)| *at);
    assert!(last.is_none_or(|at| at < 86_400 + 1800), "{last:?}");
}

/// In real time, against a server on loopback.
#[tokio::test]
async fn over_a_real_connection_one_incident_is_one_trigger_and_one_resolve() {
    let server = Server::start_then([Do::Reset, status(503)], status(202)).await;
    let ill = Ill::with(pagerduty(&server), Duration::from_secs(1));
    let is_paged = || events(&server).iter().any(|event| event["event_action"] == "trigger");
    wait_until(is_paged).await;
    ill.is_well(true);
    wait_until(|| events(&server).iter().any(|event| event["event_action"] == "resolve")).await;
    let keys: std::collections::HashSet<_> =
        events(&server).iter().map(|event| event["dedup_key"].to_string()).collect();
    let taken = &events(&server)[2..];
    let actions: Vec<_> = taken.iter().map(|event| event["event_action"].as_str().unwrap()).collect();
    assert_eq!((actions, keys.len()), (vec!["trigger", "resolve"], 1));
    let report = taken[0]["payload"]["custom_details"]["incident"].as_str().unwrap();
    assert!(report.contains("what happened:") && report.contains("refused"), "{report}");
}

async fn wait_until(is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline);
        sleep(Duration::from_millis(20)).await;
    }
}
