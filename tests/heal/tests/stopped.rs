//! A process that is stopped, and to which the kernel lets connect all the same.
#![cfg(target_os = "linux")]

use std::path::Path;
use std::time::Duration;

use buttress_heal::{Build, Happened, Health, Monitor, Supervisor, Symptom, TcpCheck, check_fn};
use heal_tests::network::free_port;
use heal_tests::world::http_client;
use heal_tests::{Client, backend};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tower::ServiceExt;

const MINUTE: Duration = Duration::from_secs(60);

/// HD-18.
#[tokio::test]
async fn a_stopped_process_accepts_connections_and_is_found_by_who_asks_it_something() {
    let port = free_port();
    let mut backend = backend::start(Path::new(env!("CARGO_BIN_EXE_recovery")), port, 0).await;
    let address = format!("127.0.0.1:{port}");
    // On a machine that is busy, who answers takes this long, and the kernel that long.
    let (every, patience) = (Duration::from_millis(100), Duration::from_secs(2));
    // Nobody takes the connections that the kernel accepts, and there is room for some hundred.
    let seldom = Duration::from_secs(2);
    let asks = check_fn("asks", Symptom::Connectivity, |client: Client| async move {
        client.oneshot(()).await.map(drop)
    });
    let supervisor = Supervisor::new("stopped", move |_: Build| std::future::ready(http_client(port)))
        .check(
            Monitor::new(TcpCheck::new(address.clone())).every(seldom).in_doubt_every(seldom).timeout(MINUTE),
        )
        .check(Monitor::new(asks).every(every).in_doubt_every(every).timeout(patience));
    let (client, handle) = supervisor.spawn().unwrap();
    assert_eq!(client.clone().oneshot(()).await.unwrap(), 0);

    backend.signal("STOP");
    let mut status = handle.watch();
    let ill = status.wait_for(|status| status.health != Health::Healthy);
    assert_eq!(timeout(MINUTE, ill).await.unwrap().unwrap().health, Health::Critical);
    let connections: Vec<_> = (0..50).map(|_| TcpStream::connect(&address)).collect();
    for connecting in connections {
        timeout(MINUTE, connecting).await.unwrap().unwrap();
    }

    backend.signal("CONT");
    let well = status.wait_for(|status| status.health == Health::Healthy);
    timeout(MINUTE, well).await.unwrap().unwrap();
    let incident = handle.incident().unwrap();
    let fell = incident.timeline().iter().filter_map(|(_, happened)| match happened {
        Happened::Fell { check, .. } => Some(&**check),
        _ => None,
    });
    assert_eq!(fell.collect::<Vec<_>>(), ["asks"], "the connections say that all is well");
    handle.shutdown(Duration::from_secs(1)).await;
}
