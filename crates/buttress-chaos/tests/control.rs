//! The control of proxies from another process.
#![cfg(feature = "control")]

use buttress_chaos::{ControlServer, ToxicProxy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The status and the body of an answer.
async fn ask(control: &ControlServer, method: &str, path: &str, body: &str) -> (u16, serde_json::Value) {
    let mut stream = TcpStream::connect(control.local_addr()).await.unwrap();
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), serde_json::from_str(body).unwrap())
}

#[tokio::test]
async fn a_shell_adds_changes_lists_and_removes_toxics() {
    let proxy = ToxicProxy::listen("127.0.0.1:0", "127.0.0.1:9").await.unwrap();
    let control = ControlServer::listen("127.0.0.1:0", [("db", proxy.handle())]).await.unwrap();
    let slow = r#"{"type": "latency", "attributes": {"latency": 250, "jitter": "50ms"}}"#;
    let (status, toxic) = ask(&control, "POST", "/proxies/db/toxics", slow).await;
    assert_eq!((status, &toxic["name"]), (200, &"latency_downstream".into()));
    assert_eq!(toxic["attributes"], serde_json::json!({ "latency": "250ms", "jitter": "50ms" }));
    assert_eq!(ask(&control, "POST", "/proxies/db/toxics", slow).await.0, 409);

    let narrow = r#"{"name": "n", "type": "bandwidth", "stream": "upstream", "toxicity": 0.5, "attributes": {"rate": 9}, "until": "1m"}"#;
    assert_eq!(ask(&control, "POST", "/proxies/db/toxics", narrow).await.0, 200);
    let faster = narrow.replace("9}", "99}");
    assert_eq!(ask(&control, "PATCH", "/proxies/db/toxics/n", &faster).await.0, 200);
    let (_, toxic) = ask(&control, "GET", "/proxies/db/toxics/n", "").await;
    assert_eq!((&toxic["attributes"]["rate"], &toxic["until"]), (&99.into(), &"1m".into()));
    assert_eq!(ask(&control, "GET", "/proxies/db/toxics", "").await.1.as_array().unwrap().len(), 2);
    assert_eq!(ask(&control, "DELETE", "/proxies/db/toxics/n", "").await.0, 200);
    assert_eq!(ask(&control, "DELETE", "/proxies/db/toxics/n", "").await.0, 404);

    let (_, down) =
        ask(&control, "POST", "/proxies/db", r#"{"enabled": false, "upstream": "127.0.0.1:8"}"#).await;
    assert_eq!((&down["enabled"], &down["upstream"]), (&false.into(), &"127.0.0.1:8".into()));
    assert_eq!(ask(&control, "POST", "/reset", "").await.0, 200);
    let (_, all) = ask(&control, "GET", "/proxies", "").await;
    assert_eq!((&all["db"]["enabled"], &all["db"]["toxics"]), (&true.into(), &serde_json::json!([])));
    assert_eq!(all["db"]["listen"], proxy.local_addr().to_string());
}

#[tokio::test]
async fn a_web_page_is_not_answered() {
    let proxy = ToxicProxy::listen("127.0.0.1:0", "127.0.0.1:9").await.unwrap();
    let control = ControlServer::listen("127.0.0.1:0", [("db", proxy.handle())]).await.unwrap();
    let elsewhere = r#"{"upstream": "127.0.0.1:8"}"#;
    let path = "/proxies/db HTTP/1.1\r\norigin: https://news.example\r\nx-rest:";
    assert_eq!(ask(&control, "POST", path, elsewhere).await.0, 403);
    assert_eq!(ask(&control, "GET", "/proxies/db", "").await.1["upstream"], "127.0.0.1:9");
}

#[tokio::test]
async fn what_cannot_be_done_is_answered_with_what_is_wrong() {
    let proxy = ToxicProxy::listen("127.0.0.1:0", "127.0.0.1:9").await.unwrap();
    let control = ControlServer::listen("127.0.0.1:0", [("db", proxy.handle())]).await.unwrap();
    let huge = "x".repeat(70_000);
    for (method, path, body, status, part) in [
        ("GET", "/proxies/nobody", "", 404, r#"only ["db"]"#),
        ("GET", "/elsewhere", "", 404, "there is no GET /elsewhere"),
        ("DELETE", "/proxies/db/toxics", "", 404, "there is no DELETE"),
        ("POST", "/proxies/db/toxics", "{", 400, "EOF while parsing"),
        ("POST", "/proxies/db/toxics", &huge, 400, "length limit exceeded"),
        ("POST", "/proxies/db/toxics", r#"{"type": "fog"}"#, 400, "one of \"latency\", \"bandwidth\""),
        (
            "POST",
            "/proxies/db/toxics",
            r#"{"type": "latency"}"#,
            400,
            "`latency` is None, but \"latency\" needs it",
        ),
        (
            "POST",
            "/proxies/db/toxics",
            r#"{"type": "latency", "attributes": {"latency": "fast"}}"#,
            400,
            "a time such as",
        ),
        (
            "POST",
            "/proxies/db/toxics",
            r#"{"type": "timeout", "attributes": {"rate": 1}}"#,
            400,
            "only timeout",
        ),
        ("POST", "/proxies/db/toxics", r#"{"type": "timeout", "stream": "side"}"#, 400, "\"upstream\" or"),
        ("POST", "/proxies/db/toxics", r#"{"type": "timeout", "colour": 1}"#, 400, "unknown field `colour`"),
        ("POST", "/proxies/db/toxics/x", r#"{"type": "timeout"}"#, 404, "no toxic `x`"),
        ("POST", "/proxies/db", r#"{"enable": true}"#, 400, "unknown field `enable`"),
    ] {
        let (answered, value) = ask(&control, method, path, body).await;
        let error = value["error"].as_str().unwrap();
        assert!(answered == status && error.contains(part), "{method} {path} {answered}: {error}");
    }
}
