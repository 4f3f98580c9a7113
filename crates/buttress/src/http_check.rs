use std::fmt;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::sync::Arc;

use buttress_core::{BoxError, Classify, ConfigError, Discard, Verdict};
use buttress_heal::{Answer, BoxFuture, Check, Subject, Symptom};
use buttress_http::Http;
use http::{HeaderName, HeaderValue, Request, Response, Uri};
use http_body::Body;
use tower_service::Service;

/// A `GET` through the supervised service, as a call would make it: passes with HTTP 200 to 399, as Kubernetes' probes do.
///
/// Everything else fails, and the status or the error is the evidence, an HTTP 401 or 404 included: it is the check that
/// asks for what is not there or not allowed. The response's body is read to its end, within the bounds of [`Http::drain`],
/// so that the connection can be used again.
///
/// The symptom is [`Symptom::Connectivity`], and [`Symptom::Credentials`] where a check of its own asks for something that
/// needs them.
///
/// ```
/// use buttress::heal::{Monitor, Symptom};
/// use buttress::HttpCheck;
/// # use bytes::Bytes;
/// # type Body = http_body_util::Full<Bytes>;
///
/// # fn main() -> Result<(), buttress::ConfigError> {
/// let health = HttpCheck::<Body>::get("http://search.internal:8080/health")?;
/// // Seldom, since it counts against the API's limits.
/// let key = HttpCheck::<Body>::get("https://api.datadoghq.com/api/v1/validate")?.symptom(Symptom::Credentials);
/// let key = Monitor::new(key).every(std::time::Duration::from_secs(60));
/// # Ok(())
/// # }
/// ```
pub struct HttpCheck<B> {
    name: Arc<str>,
    symptom: Symptom,
    targets: Vec<Uri>,
    headers: Vec<(HeaderName, HeaderValue)>,
    policy: Http,
    body: PhantomData<fn() -> B>,
}

impl<B> HttpCheck<B> {
    /// Asks for this.
    ///
    /// # Errors
    ///
    /// If it is no URI.
    pub fn get(uri: impl AsRef<str>) -> Result<Self, ConfigError> {
        Self::of_targets([uri])
    }

    /// Asks for the one of the target that is in use: one for each of the supervisor's targets, in their order. A target
    /// beyond the last one is not checked; a single URI is that of all targets.
    ///
    /// # Errors
    ///
    /// If there is none, or if one is no URI.
    pub fn of_targets(uris: impl IntoIterator<Item = impl AsRef<str>>) -> Result<Self, ConfigError> {
        let targets = uris.into_iter().map(|uri| {
            let uri = uri.as_ref();
            uri.parse::<Uri>().map_err(|error| {
                ConfigError::new("uri", format_args!("[not shown]"), format!("it is no URI: {error}"))
            })
        });
        let targets = targets.collect::<Result<Vec<_>, _>>()?;
        // Without the query, which may hold a key.
        let Some(path) = targets.first().map(|uri| uri.path().to_owned()) else {
            return Err(ConfigError::new("uris", (), "there must be at least one"));
        };
        let name = format!("GET {path}").into();
        let (headers, policy) = (Vec::new(), Http::new());
        Ok(Self { name, symptom: Symptom::Connectivity, targets, headers, policy, body: PhantomData })
    }

    /// Sends this header too. It is marked as [sensitive](HeaderValue::set_sensitive).
    #[must_use]
    pub fn header(mut self, name: HeaderName, mut value: HeaderValue) -> Self {
        value.set_sensitive(true);
        self.headers.push((name, value));
        self
    }

    /// What is wrong when it fails.
    #[must_use]
    pub fn symptom(self, symptom: Symptom) -> Self {
        Self { symptom, ..self }
    }

    fn request(&self, target: usize) -> Option<Request<B>>
    where
        B: Default,
    {
        let uri = match &*self.targets {
            [one] => one,
            several => several.get(target)?,
        };
        let mut request = Request::new(B::default());
        *request.uri_mut() = uri.clone();
        request.headers_mut().extend(self.headers.iter().cloned());
        Some(request)
    }
}

impl<B> Clone for HttpCheck<B> {
    fn clone(&self) -> Self {
        let Self { name, symptom, targets, headers, policy, body } = self;
        let (name, symptom, targets) = (Arc::clone(name), symptom.clone(), targets.clone());
        Self { name, symptom, targets, headers: headers.clone(), policy: policy.clone(), body: *body }
    }
}

impl<B> fmt::Debug for HttpCheck<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpCheck").field("name", &self.name).field("symptom", &self.symptom).finish()
    }
}

impl<S, B, R> Check<S> for HttpCheck<B>
where
    S: Service<Request<B>, Response = Response<R>, Error: Into<BoxError>, Future: Send> + Clone + Send,
    B: Default + Send,
    R: Body + Send,
{
    fn name(&self) -> &str {
        &self.name
    }

    fn symptom(&self) -> Symptom {
        self.symptom.clone()
    }

    fn run<'a>(&'a self, subject: Subject<'a, S>) -> BoxFuture<'a, Answer> {
        let (service, target) = (subject.service.cloned(), subject.target);
        Box::pin(async move {
            let Some(mut service) = service else { return Answer::fail("there is no service") };
            let Some(request) = self.request(target) else { return Answer::Skipped };
            let ready = poll_fn(|cx| service.poll_ready(cx)).await.map_err(Into::into);
            let outcome: Result<_, BoxError> = match ready {
                Ok(()) => service.call(request).await.map_err(Into::into),
                Err(error) => Err(error),
            };
            match outcome {
                Ok(response) => {
                    let status = response.status();
                    self.policy.discard(response).await;
                    let well = status.is_success() || status.is_redirection();
                    if well { Answer::Pass } else { Answer::fail(format!("HTTP {status}")) }
                }
                Err(error) => {
                    // Such as that there is no timer here: it says nothing about the service.
                    let verdict = Classify::<Response<R>>::classify(&self.policy, Err(&*error));
                    if verdict == Verdict::Ignored { Answer::Skipped } else { Answer::error(&*error) }
                }
            }
        })
    }
}
