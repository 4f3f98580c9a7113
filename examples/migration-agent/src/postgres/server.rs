//! Which server a URL means, and how one talks to it: encrypted and verified as libpq's `sslmode` and `sslrootcert` say.
//!
//! `tokio_postgres` takes any TLS. This is rustls, by hand: the crates that bring the two together bring a second
//! cryptography or a second SHA-2 along.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use buttress::BoxError;
use percent_encoding::percent_decode_str;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme, crypto,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_postgres::{Config, Socket};
use tokio_rustls::TlsConnector;

use crate::problem::Problem;

/// A server, and how one talks to it.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) config: Config,
    pub(crate) tls: Tls,
}

/// What has to be true of a server's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trust {
    /// Whoever listens sees nothing, and whoever stands between is not noticed.
    Anybody,
    /// Somebody who is trusted has signed it.
    Chain,
    /// And it is of this host.
    Host,
}

impl Server {
    /// From `postgres://…`.
    pub(crate) fn parse(url: &str) -> Result<Self, Problem> {
        // A password may have a question mark, too.
        let host = url.find('@').unwrap_or_default();
        let query = url[host..].find('?').map_or(url.len(), |at| host + at);
        let pairs = url[query..].trim_start_matches('?').split('&').filter(|pair| !pair.is_empty());
        let (mut mode, mut roots, mut others) = (None, None, Vec::new());
        for pair in pairs {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = || percent_decode_str(value).decode_utf8_lossy().into_owned();
            match key {
                "sslmode" => mode = Some(value()),
                "sslrootcert" => roots = Some(value()),
                "sslnegotiation" => others.push(pair),
                key if key.starts_with("ssl") => {
                    return Err(Problem::input(format!("--database-url: {key} is not known here"))
                        .fix("of libpq's, use sslmode, sslrootcert and sslnegotiation"));
                }
                _ => others.push(pair),
            }
        }
        // The error may quote the URL, with its password.
        let wrong = |_| Problem::input("the database's URL is none").fix("it is sqlite:PATH or postgres://…");
        let mut config: Config = format!("{}?{}", &url[..query], others.join("&")).parse().map_err(wrong)?;
        let (encrypt, trust, roots) = meant(mode.as_deref(), roots.as_deref())?;
        config.ssl_mode(encrypt);
        Ok(Self { config, tls: Tls::new(trust, roots)? })
    }
}

/// What `sslmode` and `sslrootcert` mean.
fn meant(
    mode: Option<&str>,
    roots: Option<&str>,
) -> Result<(SslMode, Trust, Option<RootCertStore>), Problem> {
    let system = roots == Some("system");
    let mode = mode.unwrap_or(if system { "verify-full" } else { "prefer" });
    let wrong = |what: &str, fix: &str| Err(Problem::input(format!("--database-url: {what}")).fix(fix));
    if system && mode != "verify-full" {
        let what = format!(
            "sslmode={mode} is too weak for sslrootcert=system, since anybody can have such a certificate"
        );
        return wrong(&what, "use sslmode=verify-full");
    }
    let file = roots.filter(|_| !system).map(PathBuf::from).or_else(by_default);
    Ok(match (mode, file) {
        ("disable", _) => (SslMode::Disable, Trust::Anybody, None),
        ("prefer", _) => (SslMode::Prefer, Trust::Anybody, None),
        ("require", None) => (SslMode::Require, Trust::Anybody, None),
        ("require" | "verify-ca", Some(file)) => (SslMode::Require, Trust::Chain, Some(read(&file)?)),
        ("verify-full", _) if system => (SslMode::Require, Trust::Host, Some(of_the_system()?)),
        ("verify-full", Some(file)) => (SslMode::Require, Trust::Host, Some(read(&file)?)),
        ("verify-ca" | "verify-full", None) => {
            let what = format!("sslmode={mode} needs the certificates that are trusted");
            return wrong(&what, "give sslrootcert=FILE or, for those of the system, sslrootcert=system");
        }
        _ => {
            let what = format!("sslmode={mode} is not known here");
            return wrong(&what, "use disable, prefer, require, verify-ca or verify-full");
        }
    })
}

/// Where libpq looks, too.
fn by_default() -> Option<PathBuf> {
    let file = std::env::home_dir()?.join(".postgresql/root.crt");
    file.exists().then_some(file)
}

fn read(file: &Path) -> Result<RootCertStore, Problem> {
    let wrong = |error: &dyn std::fmt::Display| {
        Problem::input(format!("--database-url: sslrootcert {}: {error}", file.display()))
            .fix("it is a file of certificates in PEM")
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| wrong(&error))? {
        let certificate = certificate.map_err(|error| wrong(&error))?;
        roots.add(certificate).map_err(|error| wrong(&error))?;
    }
    if roots.is_empty() { Err(wrong(&"there is no certificate in it")) } else { Ok(roots) }
}

fn of_the_system() -> Result<RootCertStore, Problem> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        let what = "--database-url: sslrootcert=system: this system has no certificates";
        return Err(Problem::input(what).fix("install them (Debian's ca-certificates), or give a file"));
    }
    Ok(roots)
}

/// Rustls, for `tokio_postgres`.
#[derive(Clone, Debug)]
pub(crate) struct Tls(Arc<ClientConfig>);

impl Tls {
    fn new(trust: Trust, roots: Option<RootCertStore>) -> Result<Self, Problem> {
        // The provider is named, because rustls has no default one where a build has two.
        let provider = Arc::new(crypto::ring::default_provider());
        let algorithms = provider.signature_verification_algorithms;
        let chain = roots.map(|roots| {
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build()
        });
        let chain = chain.transpose().map_err(|error| Problem::input(format!("--database-url: {error}")))?;
        let verifier = Arc::new(Verifier { trust, chain, algorithms });
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.expect("ring has the suites of TLS 1.2 and 1.3").dangerous();
        let mut config = builder.with_custom_certificate_verifier(verifier).with_no_client_auth();
        config.alpn_protocols = vec![b"postgresql".to_vec()];
        Ok(Self(Arc::new(config)))
    }
}

/// Verifies as much of a certificate as is asked for.
#[derive(Debug)]
struct Verifier {
    trust: Trust,
    chain: Option<Arc<WebPkiServerVerifier>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        host: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        match chain.verify_server_cert(certificate, between, host, ocsp, now) {
            // The host is looked at last.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.trust == Trust::Chain => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl MakeTlsConnect<Socket> for Tls {
    type Stream = Encrypted;
    type TlsConnect = Connect;
    type Error = BoxError;

    fn make_tls_connect(&mut self, host: &str) -> Result<Connect, BoxError> {
        let host = ServerName::try_from(host.to_owned())?;
        Ok(Connect { host, connector: TlsConnector::from(Arc::clone(&self.0)) })
    }
}

/// One handshake.
pub(crate) struct Connect {
    host: ServerName<'static>,
    connector: TlsConnector,
}

impl TlsConnect<Socket> for Connect {
    type Stream = Encrypted;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Encrypted, BoxError>> + Send>>;

    fn connect(self, socket: Socket) -> Self::Future {
        let handshake = self.connector.connect(self.host, socket);
        Box::pin(async move {
            // What rustls says is inside of an error of the socket, where nobody finds it.
            handshake.await.map(Encrypted).map_err(|error| match error.downcast::<Error>() {
                Ok(error) => error.into(),
                Err(error) => error.into(),
            })
        })
    }
}

/// An encrypted connection.
pub(crate) struct Encrypted(tokio_rustls::client::TlsStream<Socket>);

impl TlsStream for Encrypted {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl AsyncRead for Encrypted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Encrypted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_that_cannot_be_kept_is_named_with_its_fix() {
        for (parameters, expected) in [
            ("sslmode=allow", "sslmode=allow is not known here"),
            ("sslrootcert=system&sslmode=require", "sslmode=require is too weak for sslrootcert=system"),
            ("sslmode=verify-ca&sslrootcert=/no%20where", "sslrootcert /no where: "),
            ("sslcert=mine.pem", "sslcert is not known here"),
        ] {
            let error =
                Server::parse(&format!("postgres://a:b?c@host/db?{parameters}")).unwrap_err().to_string();
            assert!(
                error.contains(&format!("--database-url: {expected}")) && error.contains("\n  fix: "),
                "{error}"
            );
            assert!(!error.contains("b?c"), "{error}");
        }
    }

    #[test]
    fn what_is_not_about_encryption_stays() {
        let server = Server::parse("postgres://a:b?c@host/db?application_name=x&sslmode=require").unwrap();
        let config = server.config;
        assert_eq!((config.get_application_name(), config.get_ssl_mode()), (Some("x"), SslMode::Require));
        assert_eq!(config.get_password(), Some(&b"b?c"[..]));
        assert_eq!(Server::parse("postgres://host/db").unwrap().config.get_ssl_mode(), SslMode::Prefer);
    }
}
