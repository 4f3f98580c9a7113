//! Encrypted connections, to a real server with a certificate that was made for it.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use support::postgres::{Server, column, execute};
use support::{Place, until};
use tokio_postgres::Client;

const A: (&str, &str) = (
    "1_a.sql",
    "CREATE TABLE how (encrypted text); INSERT INTO how SELECT ssl::text FROM pg_stat_ssl WHERE pid = pg_backend_pid()",
);

/// A key, and a certificate of `localhost` that it has signed itself.
fn certificate(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
    let (key, certificate) = (folder.join(format!("{name}.key")), folder.join(format!("{name}.crt")));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
    openssl.args(["-days", "2", "-subj", &format!("/CN={name}"), "-addext", "subjectAltName=DNS:localhost"]);
    openssl.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
    let made = openssl.arg("-keyout").arg(&key).arg("-out").arg(&certificate).output();
    let made = made.expect("`openssl` is installed: PostgreSQL's own package needs it");
    assert!(made.status.success(), "{made:?}");
    (key, certificate)
}

/// Turns TLS on. The server writes its files itself, and so they are its own, and nobody else can read them.
fn encrypt(admin: &Client, key: &Path, certificate: &Path) {
    let folder = column(admin, "SHOW data_directory").remove(0);
    for (name, file) in [("server.key", key), ("server.crt", certificate)] {
        put(admin, &format!("{folder}/{name}"), &fs::read_to_string(file).unwrap());
    }
    execute(admin, "ALTER SYSTEM SET ssl = on");
    execute(admin, "SELECT pg_reload_conf()");
    until("the server has read it", || column(admin, "SHOW ssl") == ["on"]);
}

fn put(admin: &Client, file: &str, text: &str) {
    let lines = format!("SELECT unnest(string_to_array('{}', E'\\n'))", text.trim_end());
    execute(admin, &format!("COPY ({lines}) TO PROGRAM 'umask 077; cat > {file}'"));
}

#[test]
fn what_is_encrypted_and_what_is_verified_is_as_sslmode_says() {
    let server = Server::start();
    let database = server.database("encrypted");
    let (admin, place) = (database.admin(), Place::new(&[A, ("1_a.down.sql", "DROP TABLE how")]));
    let url = |host: &str, parameters: &str| {
        format!("postgres://encrypted@{host}:{}/encrypted?{parameters}", server.port())
    };
    let up = |exit: i32, host: &str, parameters: &str| {
        let ran = place.report(exit, &["up", "--database-url", &url(host, parameters)]);
        if exit == 0 {
            assert_eq!(place.report(0, &["down", "1", "--database-url", &url(host, parameters)])["exit"], 0);
        }
        ran
    };
    let says = |exit, host, parameters: &str, what: &str| {
        let report = up(exit, host, parameters);
        let error = report["error"].as_str().unwrap();
        assert!(error.contains(what) && error.contains("\n  fix: "), "{parameters}: {error}");
        assert_eq!(report["retries"], json!(0), "it would be the same again: {report}");
    };
    says(4, "localhost", "sslmode=require", "server does not support TLS");
    up(0, "localhost", "sslmode=prefer");

    let (key, trusted) = certificate(place.folder(), "trusted");
    let (_, stranger) = certificate(place.folder(), "stranger");
    encrypt(&admin, &key, &trusted);
    let (trusted, stranger) =
        (format!("sslrootcert={}", trusted.display()), format!("sslrootcert={}", stranger.display()));
    up(0, "localhost", &format!("sslmode=verify-full&{trusted}"));
    says(4, "127.0.0.1", &format!("sslmode=verify-full&{trusted}"), "not valid for name");
    up(0, "127.0.0.1", &format!("sslmode=verify-ca&{trusted}"));
    up(0, "127.0.0.1", &format!("sslmode=require&{trusted}"));
    says(4, "localhost", &format!("sslmode=verify-ca&{stranger}"), "invalid peer certificate");
    says(4, "localhost", &format!("sslmode=require&{stranger}"), "invalid peer certificate");
    says(4, "localhost", "sslrootcert=system", "invalid peer certificate");
    up(0, "127.0.0.1", "sslmode=require");
    says(2, "localhost", "sslmode=verify-full", "needs the certificates that are trusted");

    for (mode, encrypted) in [("disable", "false"), ("prefer", "true"), ("require", "true")] {
        place.expect(0, &["up", "--database-url", &url("localhost", &format!("sslmode={mode}"))]);
        assert_eq!(database.column("SELECT encrypted FROM how"), [encrypted], "{mode}");
        place.expect(0, &["down", "1", "--database-url", &url("localhost", &format!("sslmode={mode}"))]);
    }
    // Not only the connection of the migration, but that of the journal, too.
    let file = column(&admin, "SHOW hba_file").remove(0);
    put(&admin, &file, "host all buttress all trust\nhostssl all all all trust");
    execute(&admin, "SELECT pg_reload_conf()");
    says(4, "localhost", "sslmode=disable", "no encryption");
    up(0, "localhost", &format!("sslmode=verify-full&{trusted}"));
}
