use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use buttress_core::BoxError;

use crate::BoxFuture;
use crate::action::{Action, Attempt, Fixes, Limits, Then};
use crate::check::Symptom;

/// Reads configuration and credentials anew, by a closure, and has the service rebuilt with them.
///
/// The factory has to take them from where the closure puts them. It helps against [`Symptom::Connectivity`] and
/// [`Symptom::Credentials`]; 5 s, verified for 5 s, 60 s apart, twice.
///
/// ```
/// use buttress_heal::Reload;
/// use tokio::sync::watch;
///
/// # fn read() -> Result<String, std::io::Error> { Ok(String::new()) }
/// // The factory holds the receiver.
/// let (password, current) = watch::channel(String::new());
/// let reload = Reload::new("reload credentials", move || {
///     let password = password.clone();
///     async move {
///         password.send_replace(read()?);
///         Ok::<_, std::io::Error>(())
///     }
/// });
/// ```
#[derive(Clone)]
pub struct Reload<F> {
    name: Arc<str>,
    reload: F,
}

impl<F> Reload<F> {
    /// An action of this name. The closure may be dropped where it stands, and be called again.
    pub fn new(name: impl Into<Arc<str>>, reload: F) -> Self {
        Self { name: name.into(), reload }
    }
}

impl<F> fmt::Debug for Reload<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reload").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<F, Fut, E> Action for Reload<F>
where
    F: Fn() -> Fut + Send + Sync,
    Fut: Future<Output = Result<(), E>> + Send,
    E: Into<BoxError>,
{
    fn name(&self) -> &str {
        &self.name
    }

    fn fixes(&self) -> Fixes {
        Fixes::Only(Cow::Borrowed(&[Symptom::Connectivity, Symptom::Credentials]))
    }

    fn limits(&self) -> Limits {
        Limits::seconds(5, 5, 60, 2)
    }

    fn heal<'a>(&'a self, _: &'a Attempt) -> BoxFuture<'a, Result<Then, BoxError>> {
        Box::pin(async move { (self.reload)().await.map(|()| Then::Rebuild).map_err(Into::into) })
    }
}
