use std::fmt;
use std::future::poll_fn;

use buttress_core::BoxError;
use tower_service::Service;

/// Builds the service that is supervised, and builds it anew when it has to be replaced.
///
/// Any async function of a [`Build`] is one; [`MakeServices`] makes one of a tower `MakeService`. What it gives should be ready
/// for calls: connect, log in, check, and fail where that fails. It may hang, fail or panic; one at a time is built. Its future
/// is dropped where it stands when its time is over.
///
/// ```
/// use buttress_heal::{Build, Factory};
///
/// #[derive(Clone)]
/// struct Client { host: &'static str }
///
/// fn factory() -> impl Factory<Service = Client> {
///     |build: Build| async move {
///         let host = ["eu.example.com", "us.example.com"][build.target];
///         Ok::<_, std::io::Error>(Client { host })
///     }
/// }
/// # factory();
/// ```
pub trait Factory: Send + 'static {
    /// What is built. Calls are made on clones of it, each made under a lock, since it need not be `Sync`: `Clone` must neither block
    /// nor call the supervised service.
    type Service: Clone + Send + 'static;
    /// Why it could not be built.
    type Error: Into<BoxError>;

    /// Builds a service.
    fn make(&mut self, build: Build) -> impl Future<Output = Result<Self::Service, Self::Error>> + Send;
}

/// What is to be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Build {
    /// The generation that it will be: 1 for the first that takes calls, then counting up. What is built only to see whether a
    /// target is well again never becomes one.
    pub generation: u64,
    /// Which target it is to talk to, from 0 on: the index in what the supervisor was given as targets.
    pub target: usize,
}

impl<F, Fut, S, E> Factory for F
where
    F: FnMut(Build) -> Fut + Send + 'static,
    Fut: Future<Output = Result<S, E>> + Send,
    S: Clone + Send + 'static,
    E: Into<BoxError>,
{
    type Service = S;
    type Error = E;

    fn make(&mut self, build: Build) -> impl Future<Output = Result<S, E>> + Send {
        self(build)
    }
}

/// A [`Factory`] from a tower `MakeService`: a service whose responses are services, one target for each of the supervisor's.
pub struct MakeServices<M, T> {
    make: M,
    targets: Vec<T>,
}

impl<M, T> MakeServices<M, T> {
    /// Builds services for these targets, in the order in which the supervisor names them.
    pub fn new(make: M, targets: impl IntoIterator<Item = T>) -> Self {
        Self { make, targets: targets.into_iter().collect() }
    }
}

impl<M, T> fmt::Debug for MakeServices<M, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MakeServices").field("targets", &self.targets.len()).finish_non_exhaustive()
    }
}

impl<M, T> Factory for MakeServices<M, T>
where
    M: Service<T, Error: Into<BoxError>, Response: Clone + Send + 'static, Future: Send> + Send + 'static,
    T: Clone + Send + 'static,
{
    type Service = M::Response;
    type Error = BoxError;

    async fn make(&mut self, build: Build) -> Result<M::Response, BoxError> {
        let Some(target) = self.targets.get(build.target).cloned() else {
            let given = self.targets.len();
            return Err(
                format!("there is no target {}: `MakeServices` was given {given}", build.target).into()
            );
        };
        poll_fn(|cx| self.make.poll_ready(cx)).await.map_err(Into::into)?;
        self.make.call(target).await.map_err(Into::into)
    }
}
