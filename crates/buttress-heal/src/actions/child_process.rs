use std::fmt;
use std::io;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use buttress_core::{BoxError, within};
use tokio::process::{Child, Command};
use tokio::sync::Mutex;
use tokio::time::sleep;

use crate::BoxFuture;
use crate::action::{Action, Attempt, Limits, Then};
use crate::check::{Answer, Check, Subject, Symptom};

/// A process that this one has started, and starts anew when it is ill.
///
/// [`restart`](Self::restart) asks it to end (`SIGTERM`, on Unix), kills it if it has not within the
/// [`grace`](Self::grace), waits until it is gone, so that its port is free and nothing is left of it but what it has
/// started itself, and starts it again. A process that was stopped (`SIGSTOP`) is continued, so that it can obey.
///
/// Clones are handles of the same process. It is killed when the last one is dropped. Dropping the future of `restart`
/// leaves it running, or killed and not started again, which the next `restart` or [`start`](Self::start) does.
///
/// It is a check, too: whether it runs ([`Symptom::Connectivity`]). As an action it helps against anything and has the
/// service restarted, since its connections are gone; 30 s, verified for 10 s, 60 s apart, three times. Make its rung count
/// as a restart: [`Rung::new(process).as_restart()`](crate::Rung::as_restart), and give it a
/// [`backoff`](crate::Rung::backoff) where what it needs may take long to come back.
///
/// ```no_run
/// use buttress_heal::ChildProcess;
/// use tokio::process::Command;
///
/// # async fn run() -> Result<(), buttress_core::BoxError> {
/// let backend = ChildProcess::new("backend", || {
///     let mut command = Command::new("/usr/libexec/backend");
///     command.args(["--port", "8080"]);
///     command
/// });
/// backend.start().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct ChildProcess {
    grace: Duration,
    ready: Option<Ready>,
    shared: Arc<Shared>,
}

/// Whether it does its work by now.
type Ready = Arc<dyn Fn() -> BoxFuture<'static, bool> + Send + Sync>;

/// From one look at whether it is ready to the next.
const LOOK: Duration = Duration::from_millis(20);

struct Shared {
    name: Arc<str>,
    command: Box<dyn Fn() -> Command + Send + Sync>,
    /// Held while it is started or stopped, so that there are never two of it.
    child: Mutex<Option<Child>>,
    starts: AtomicU64,
}

impl fmt::Debug for ChildProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("ChildProcess");
        debug.field("name", &self.shared.name).field("grace", &self.grace).field("starts", &self.starts());
        debug.finish_non_exhaustive()
    }
}

impl ChildProcess {
    /// The process that this command starts; not started yet. The command is made anew for each start.
    pub fn new(name: impl Into<Arc<str>>, command: impl Fn() -> Command + Send + Sync + 'static) -> Self {
        let (command, child, starts) = (Box::new(command), Mutex::new(None), AtomicU64::new(0));
        let shared = Shared { name: name.into(), command, child, starts };
        Self { grace: Duration::from_secs(5), ready: None, shared: Arc::new(shared) }
    }

    /// How long it has to end by itself before it is killed; zero kills it at once. Default 5 s. Clones that exist already
    /// keep theirs.
    #[must_use]
    pub fn grace(self, grace: Duration) -> Self {
        Self { grace, ..self }
    }

    /// It is started only when this says so, asked each 20 ms; without it, at once. For a service that connects while it is
    /// built: a process needs a while until it listens. Bound it in time where it is called; a rung has its time-out.
    ///
    /// ```
    /// # use buttress_heal::ChildProcess;
    /// # use tokio::{net::TcpStream, process::Command};
    /// # let backend = ChildProcess::new("backend", || Command::new("backend"));
    /// let backend = backend.ready_when(|| async { TcpStream::connect("127.0.0.1:8080").await.is_ok() });
    /// ```
    #[must_use]
    pub fn ready_when<F, Fut>(self, ready: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = bool> + Send + 'static,
    {
        Self { ready: Some(Arc::new(move || Box::pin(ready()))), ..self }
    }

    /// How often it was started.
    pub fn starts(&self) -> u64 {
        self.shared.starts.load(Ordering::Relaxed)
    }

    /// Starts it, unless it is running; its process id.
    ///
    /// # Errors
    ///
    /// If it cannot be started, or ends before it is ready.
    pub async fn start(&self) -> Result<u32, BoxError> {
        let mut child = self.shared.child.lock().await;
        match running(&mut child) {
            Ok(pid) => Ok(pid),
            Err(_) => self.begin(&mut child).await,
        }
    }

    /// Stops it, if it is running, and starts it; its new process id.
    ///
    /// # Errors
    ///
    /// If it cannot be stopped or started, or ends before it is ready.
    pub async fn restart(&self) -> Result<u32, BoxError> {
        let mut child = self.shared.child.lock().await;
        self.end(&mut child).await?;
        self.begin(&mut child).await
    }

    /// Stops it, if it is running.
    ///
    /// # Errors
    ///
    /// If it cannot be stopped.
    pub async fn stop(&self) -> Result<(), BoxError> {
        let mut child = self.shared.child.lock().await;
        self.end(&mut child).await
    }

    /// Its process id, if it runs.
    ///
    /// # Errors
    ///
    /// If it does not run: why, and if it has ended, with which status.
    pub fn pid(&self) -> Result<u32, BoxError> {
        match self.shared.child.try_lock() {
            Ok(mut child) => running(&mut child),
            Err(_) => Err("it is being started or stopped".into()),
        }
    }

    async fn begin(&self, child: &mut Option<Child>) -> Result<u32, BoxError> {
        let pid = self.spawn(child)?;
        let Some(ready) = &self.ready else { return Ok(pid) };
        while !ready().await {
            let name = &self.shared.name;
            running(child).map_err(|why| format!("process `{name}` was not ready yet: {why}"))?;
            sleep(LOOK).await;
        }
        Ok(pid)
    }

    fn spawn(&self, child: &mut Option<Child>) -> Result<u32, BoxError> {
        let name = &self.shared.name;
        let spawned = (self.shared.command)().kill_on_drop(true).spawn();
        let spawned = spawned.map_err(|error| format!("cannot start process `{name}`: {error}"))?;
        let pid = spawned.id().ok_or_else(|| format!("process `{name}` ended as it was started"))?;
        *child = Some(spawned);
        self.shared.starts.fetch_add(1, Ordering::Relaxed);
        Ok(pid)
    }

    async fn end(&self, child: &mut Option<Child>) -> Result<(), BoxError> {
        let Some(running) = child else { return Ok(()) };
        let ended: io::Result<ExitStatus> = async {
            if let Some(ended) = running.try_wait()? {
                return Ok(ended);
            }
            if !self.grace.is_zero() && ask_to_end(running) {
                if let Some(ended) = within(self.grace, running.wait()).await {
                    return ended;
                }
            }
            running.start_kill()?;
            running.wait().await
        }
        .await;
        let name = &self.shared.name;
        ended.map_err(|error| format!("cannot stop process `{name}`: {error}"))?;
        *child = None;
        Ok(())
    }
}

impl<S> Check<S> for ChildProcess {
    fn name(&self) -> &str {
        &self.shared.name
    }

    fn symptom(&self) -> Symptom {
        Symptom::Connectivity
    }

    fn run<'a>(&'a self, _: Subject<'a, S>) -> BoxFuture<'a, Answer> {
        Box::pin(async move {
            match self.pid() {
                Ok(_) => Answer::Pass,
                Err(why) => Answer::fail(why.to_string()),
            }
        })
    }
}

impl Action for ChildProcess {
    fn name(&self) -> &str {
        "restart process"
    }

    fn limits(&self) -> Limits {
        Limits::seconds(30, 10, 60, 3)
    }

    fn heal<'a>(&'a self, _: &'a Attempt) -> BoxFuture<'a, Result<Then, BoxError>> {
        Box::pin(async move { self.restart().await.map(|_| Then::Restart) })
    }
}

/// The process id of a child that runs.
fn running(child: &mut Option<Child>) -> Result<u32, BoxError> {
    let Some(child) = child else { return Err("it was not started".into()) };
    match child.try_wait() {
        Ok(None) => child.id().ok_or_else(|| "it has ended".into()),
        Ok(Some(status)) => Err(format!("it has ended: {status}").into()),
        Err(error) => Err(format!("its state cannot be read: {error}").into()),
    }
}

/// Whether it could be asked. It has not been waited for, so that its id is no other's.
#[cfg(unix)]
fn ask_to_end(child: &Child) -> bool {
    use rustix::process::{Pid, Signal, kill_process};

    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    // One that is stopped would obey later only.
    pid.is_some_and(|pid| kill_process(pid, Signal::TERM).is_ok() && kill_process(pid, Signal::CONT).is_ok())
}

#[cfg(not(unix))]
fn ask_to_end(_: &Child) -> bool {
    false
}
