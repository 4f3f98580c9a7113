mod groups;
mod usage;

use std::path::{Path, PathBuf};
use std::time::Duration;

use buttress_core::{BoxError, ConfigError};

use crate::BoxFuture;
use crate::check::{Answer, Check, CheckSettings, Subject, Symptom};
use usage::{MiB, Usage, of_process};

/// Whether too much memory is used: of what there is, or by this process. On Linux.
///
/// [`below_percent`](Self::below_percent) looks at what the kernel would kill for: the control group of this process and
/// those above it, version 1 or 2, the one that is nearest to its limit (of version 2 the lower one of `memory.max` and
/// `memory.high`); where there is no limit that is lower than what the machine has, the machine. Pages of files do not
/// count, since the kernel takes them back by itself: what counts is `memory.current` less the file pages and the
/// reclaimable slab of `memory.stat` (version 1: usage less `total_inactive_file` and `total_active_file`), and of the
/// machine `MemTotal` less `MemAvailable`. Other processes of the same group count, as they do for the kernel.
///
/// [`process_below`](Self::process_below) looks at what this process holds: anonymous and shared memory, what is swapped
/// out included; mapped files are not.
///
/// The symptom is [`Symptom::Memory`]. If its files cannot be read any more, the answer is [`Answer::Skipped`].
#[derive(Clone, Debug)]
pub struct MemoryCheck {
    bound: Bound,
    root: PathBuf,
}

#[derive(Clone, Copy, Debug)]
enum Bound {
    Percent(u8),
    Bytes(u64),
}

impl MemoryCheck {
    /// Fails as soon as so many per cent of what there is are used.
    ///
    /// # Errors
    ///
    /// If `percent` is not 1 to 100, or if memory cannot be read here (this is not Linux).
    ///
    /// ```
    /// # fn main() -> Result<(), buttress_core::ConfigError> {
    /// # if cfg!(target_os = "linux") {
    /// let check = buttress_heal::MemoryCheck::below_percent(90)?;
    /// # }
    /// # Ok(())
    /// # }
    /// ```
    pub fn below_percent(percent: u8) -> Result<Self, ConfigError> {
        if !(1..=100).contains(&percent) {
            return Err(ConfigError::new("percent", percent, "must be 1 to 100"));
        }
        Self::that_works("percent", Bound::Percent(percent))
    }

    /// Fails as soon as this process holds so many bytes.
    ///
    /// # Errors
    ///
    /// If `bytes` is zero, or if memory cannot be read here (this is not Linux).
    pub fn process_below(bytes: u64) -> Result<Self, ConfigError> {
        if bytes == 0 {
            return Err(ConfigError::new("bytes", bytes, "must be at least 1, or it always fails"));
        }
        Self::that_works("bytes", Bound::Bytes(bytes))
    }

    fn that_works(field: &'static str, bound: Bound) -> Result<Self, ConfigError> {
        let check = Self { bound, root: PathBuf::from("/") };
        match check.bound.excess(&check.root) {
            Ok(_) => Ok(check),
            Err(error) => {
                let rule = format!("memory can be checked on Linux only: {error}");
                Err(ConfigError::new(field, bound, rule))
            }
        }
    }
}

impl Bound {
    /// What is wrong, if anything is.
    fn excess(self, root: &Path) -> Result<Option<String>, BoxError> {
        Ok(match self {
            Self::Percent(percent) => {
                let usage = Usage::of_surroundings(root)?;
                usage.reaches(percent).then(|| format!("{usage} are used, which is {percent} % or more"))
            }
            Self::Bytes(bytes) => {
                let held = of_process(root)?;
                (held >= bytes).then(|| format!("this process holds {}, of {}", MiB(held), MiB(bytes)))
            }
        })
    }
}

impl<S> Check<S> for MemoryCheck {
    fn name(&self) -> &str {
        match self.bound {
            Bound::Percent(_) => "memory",
            Bound::Bytes(_) => "memory of the process",
        }
    }

    fn symptom(&self) -> Symptom {
        Symptom::Memory
    }

    fn settings(&self) -> CheckSettings {
        CheckSettings { in_doubt_every: Duration::from_secs(1), ..CheckSettings::default() }
    }

    fn run<'a>(&'a self, _: Subject<'a, S>) -> BoxFuture<'a, Answer> {
        Box::pin(async move {
            // A few files of /proc and /sys: the kernel may have to add up the counters of all its processors for them.
            let (bound, root) = (self.bound, self.root.clone());
            let read = tokio::task::spawn_blocking(move || bound.excess(&root)).await;
            match read {
                Ok(Ok(None)) => Answer::Pass,
                Ok(Ok(Some(excess))) => Answer::fail(excess),
                Ok(Err(_)) | Err(_) => Answer::Skipped,
            }
        })
    }
}
