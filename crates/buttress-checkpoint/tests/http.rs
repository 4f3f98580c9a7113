//! HTTP responses that are steps.

use std::time::Duration;

use buttress_checkpoint::{CheckpointLayer, Cx, Failure, HttpRecord, Workflows};
use buttress_store::Memory;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tower::{ServiceBuilder, ServiceExt, service_fn};

#[tokio::test(start_paused = true)]
async fn a_recorded_response_has_its_status_headers_and_bytes_again() {
    let workflows = Workflows::open(Memory::new());
    let code = async |cx: Cx, ()| {
        let answer = async |_: Request<()>| {
            let body = Full::new(Bytes::from_static(b"\xff\x00caf\xc3\xa9"));
            Ok::<_, std::io::Error>(Response::builder().status(201).header("x-id", "7").body(body).unwrap())
        };
        let layer = CheckpointLayer::named("create").record(HttpRecord::default());
        let service = ServiceBuilder::new().layer(layer).service(service_fn(answer));
        let response = service.oneshot(Request::new(())).await.map_err(|error| Failure::of(&*error))?;
        let (status, id) = (response.status().as_u16(), response.headers()["x-id"].to_str()?.to_owned());
        let body = response.into_body().collect().await.map_err(|error| Failure::of(&*error))?.to_bytes();
        cx.sleep(Duration::from_secs(3600)).await?;
        Ok::<_, Failure>((status, id, body.to_vec()))
    };
    let flow = workflows.register::<(), _, _, _, _>("w", 1, code).unwrap();
    let handle = flow.start("run", ()).await.unwrap();
    let result = tokio::select! {
        () = workflows.run_until(std::future::pending()) => unreachable!(),
        result = handle.result() => result.unwrap(),
    };
    assert_eq!(result, (201, "7".to_owned(), b"\xff\x00caf\xc3\xa9".to_vec()));
}
