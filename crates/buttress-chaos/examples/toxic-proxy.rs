//! A toxic proxy that a shell controls: `toxic-proxy LISTEN UPSTREAM [CONTROL]`, as in
//!
//! ```sh
//! cargo run -p buttress-chaos --features control,schedule --example toxic-proxy -- 127.0.0.1:15432 127.0.0.1:5432
//! curl -d '{"type": "latency", "attributes": {"latency": "250ms"}}' localhost:8474/proxies/proxy/toxics
//! ```
//!
//! With `TOXICS=chaos.toml` it begins with the toxics of `[[proxies.proxy]]` in that file.

use std::error::Error;
use std::time::Duration;

use buttress_chaos::{ChaosSchedule, ControlServer, ToxicProxy};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (listen, upstream, control) = match &arguments[..] {
        [listen, upstream] => (listen, upstream, "127.0.0.1:8474"),
        [listen, upstream, control] => (listen, upstream, control.as_str()),
        _ => {
            eprintln!(
                "usage: toxic-proxy LISTEN UPSTREAM [CONTROL]\n  addresses such as 127.0.0.1:15432; CONTROL is 127.0.0.1:8474 by default"
            );
            std::process::exit(2);
        }
    };
    let schedule = match std::env::var_os("TOXICS") {
        Some(file) => ChaosSchedule::load(file).unwrap_or_else(|error| {
            eprintln!("{error}");
            std::process::exit(2);
        }),
        None => ChaosSchedule::default(),
    };
    let proxy = ToxicProxy::listen_with_seed(listen, upstream, schedule.seed()).await?;
    proxy.handle().replace(schedule.toxics("proxy").iter().cloned())?;
    let control = ControlServer::listen(control, [("proxy", proxy.handle())]).await?;
    println!(
        "{} -> {upstream}, controlled at http://{}/proxies/proxy",
        proxy.local_addr(),
        control.local_addr()
    );
    tokio::signal::ctrl_c().await?;
    proxy.shutdown(Duration::from_secs(5)).await;
    Ok(())
}
