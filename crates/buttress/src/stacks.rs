use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use buttress_core::{ConfigError, Mode};

use crate::live::StackHandle;

/// The stacks of a process by name: what there is, what state it is in, and one switch for all of it.
///
/// Clones are the same registry. It holds no more of a stack than its [handle](StackHandle): one whose services are gone stays
/// listed until it is [removed](Stacks::remove).
///
/// ```
/// use buttress::{Mode, Stacks};
///
/// # fn main() -> Result<(), buttress::ConfigError> {
/// let stacks = Stacks::new();
/// let datadog = buttress::http("datadog").datadog().build()?;
/// stacks.add(datadog.handle())?;
/// for stack in stacks.list() {
///     println!("{stack}");
/// }
/// stacks.get("http.datadog").unwrap().isolate();
/// stacks.set_mode(Mode::Observe);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Stacks {
    stacks: Arc<Mutex<BTreeMap<String, StackHandle>>>,
}

impl Stacks {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a stack, as `http.NAME` or `grpc.NAME`.
    ///
    /// # Errors
    ///
    /// If there is one of this name already: two that a name does not tell apart cannot be controlled one by one.
    pub fn add(&self, stack: StackHandle) -> Result<(), ConfigError> {
        let name = format!("{}.{}", stack.protocol(), stack.name());
        let mut stacks = self.lock();
        if stacks.contains_key(&name) {
            return Err(ConfigError::new("name", &name, "must be that of no other stack"));
        }
        stacks.insert(name, stack);
        Ok(())
    }

    /// Forgets a stack, which goes on as it is.
    pub fn remove(&self, name: &str) -> Option<StackHandle> {
        self.lock().remove(name)
    }

    /// The stack of this name: `http.datadog`, `grpc.billing`.
    pub fn get(&self, name: &str) -> Option<StackHandle> {
        self.lock().get(name).cloned()
    }

    /// All stacks in the order of their names.
    pub fn list(&self) -> Vec<StackHandle> {
        self.lock().values().cloned().collect()
    }

    /// Switches the mode of all layers of all stacks.
    pub fn set_mode(&self, mode: Mode) {
        self.list().iter().for_each(|stack| stack.set_mode(mode));
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, BTreeMap<String, StackHandle>> {
        self.stacks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
