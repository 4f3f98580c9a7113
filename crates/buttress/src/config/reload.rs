use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use super::{Config, FileError};
use crate::explain::Warning;
use crate::live::{Plan, StackHandle, Written};
use crate::stacks::Stacks;

/// What a reload has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reload {
    /// The keys whose values are others than before, in the order of their names. All of it is in force.
    pub changes: Vec<Change>,
    /// What looks wrong about the stacks as they are now, each with the stack's name.
    pub warnings: Vec<(String, Warning)>,
    /// Stacks of the file that nobody has built and added: they are not there until then.
    pub not_built: Vec<String>,
}

/// A key whose value is another one than before.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change {
    /// The key with its tables, such as `http.datadog.total`.
    pub key: String,
    /// As it was written; `None` if it was not there.
    pub from: Option<String>,
    /// As it is written; `None` if it is not there any more: the default is in force.
    pub to: Option<String>,
}

/// A file that was not put in force: everything stays as it was.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ReloadError {
    /// It cannot be read, or says something that cannot be done.
    File(FileError),
    /// It changes how a stack is built, which is not done in place.
    Rebuild {
        /// The keys that would have to be left as they are, in the order of their names.
        keys: Vec<String>,
    },
    /// It has no table for a stack that came from a file.
    Missing {
        /// The stack.
        name: String,
    },
}

/// The keys, beneath a stack's table, that say how it is built.
const STRUCTURE: [&str; 12] = [
    "vendor",
    "silent",
    "deadline_travels",
    "replay",
    "statuses",
    "service_config",
    "repeatable",
    "streams",
    "unary",
    "codes",
    "peek",
    "send_deadline",
];

impl Stacks {
    /// Reads a file and puts it in force for every stack that came from one: all of it, or, with an error, nothing of it.
    ///
    /// # Errors
    ///
    /// If the file cannot be read or breaks a rule, changes what belongs to how a stack is built, or lacks a stack.
    pub fn reload(&self, path: impl AsRef<Path>) -> Result<Reload, ReloadError> {
        self.apply(&Config::load(path).map_err(ReloadError::File)?)
    }

    /// The same with a configuration that has been read.
    ///
    /// # Errors
    ///
    /// As [`reload`](Stacks::reload).
    pub fn apply(&self, config: &Config) -> Result<Reload, ReloadError> {
        // Held to the end: of two who reload at once, all of one's comes after all of the other's.
        let stacks = self.lock();
        let mut reload = put_in_force(config, stacks.iter().map(|(name, stack)| (name.clone(), stack)))?;
        reload.not_built = config.names().into_iter().filter(|name| !stacks.contains_key(name)).collect();
        Ok(reload)
    }
}

impl StackHandle {
    /// Puts in force what a configuration says of this stack. One that did not come from a configuration stays as it is.
    ///
    /// # Errors
    ///
    /// As [`Stacks::reload`].
    pub fn reload(&self, config: &Config) -> Result<Reload, ReloadError> {
        put_in_force(config, [(format!("{}.{}", self.protocol(), self.name()), self)])
    }
}

fn put_in_force<'a>(
    config: &Config,
    stacks: impl IntoIterator<Item = (String, &'a StackHandle)>,
) -> Result<Reload, ReloadError> {
    let (mut reload, mut rebuild, mut plans) = (Reload::default(), Vec::new(), Vec::new());
    for (name, stack) in stacks {
        let Some(before) = stack.written() else { continue };
        let Some(plan) = config.plan(stack) else { return Err(ReloadError::Missing { name }) };
        let after = plan.written.clone().unwrap_or_default();
        let changes = changes(&name, &before, &after);
        let structure = changes.iter().filter(|change| is_structure(&change.key[name.len() + 1..], change));
        rebuild.extend(structure.map(|change| change.key.clone()));
        plans.push((name, stack, plan, before, after, changes));
    }
    if !rebuild.is_empty() {
        return Err(ReloadError::Rebuild { keys: rebuild });
    }
    for (name, stack, plan, before, after, changes) in plans {
        // What the file leaves alone stays as an operator may have set it since.
        if before != after {
            let changed = before.get("mode") != after.get("mode");
            let mode = changed.then(|| plan.mode.unwrap_or_default());
            stack.apply(&Plan { mode, ..plan }).expect("it was checked when it was read");
            stack.set_written(Some(after));
        }
        reload.changes.extend(changes);
        let warnings = stack.explain().warnings().to_vec();
        reload.warnings.extend(warnings.into_iter().map(|warning| (name.clone(), warning)));
    }
    Ok(reload)
}

impl Config {
    /// What it says of this stack.
    fn plan(&self, stack: &StackHandle) -> Option<Plan> {
        match stack.protocol() {
            "http" => Some(self.http.get(stack.name())?.plan()),
            #[cfg(feature = "grpc")]
            "grpc" => Some(self.grpc.get(stack.name())?.plan()),
            _ => None,
        }
    }
}

fn changes(stack: &str, before: &Written, after: &Written) -> Vec<Change> {
    let all: BTreeMap<&String, ()> = before.keys().chain(after.keys()).map(|key| (key, ())).collect();
    let change = |key: &String| {
        let (from, to) = (before.get(key).cloned(), after.get(key).cloned());
        (from != to).then(|| Change { key: format!("{stack}.{key}"), from, to })
    };
    all.into_keys().filter_map(change).collect()
}

/// Whether this change, of this key of a stack, changes how the stack is built.
fn is_structure(key: &str, change: &Change) -> bool {
    let first = key.split('.').next().unwrap_or_default();
    // Presets are figures, but those for vendors say how their answers are read.
    let vendor =
        |preset: &Option<String>| match preset.as_deref().map(|preset| preset.trim_matches(['"', '\''])) {
            None | Some("user_facing" | "background") => "generic".to_owned(),
            Some("aws" | "aws_sdk") => "aws".to_owned(),
            Some(vendor) => vendor.to_owned(),
        };
    match key {
        "preset" => vendor(&change.from) != vendor(&change.to),
        _ => STRUCTURE.contains(&first),
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let written = |value: &Option<String>| value.clone().unwrap_or_else(|| "the default".to_owned());
        write!(f, "{}: {}, was {}", self.key, written(&self.to), written(&self.from))
    }
}

/// One line for each change, warning and stack that is not built.
impl fmt::Display for Reload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.changes.is_empty() {
            f.write_str("nothing has changed")?;
        }
        for (n, change) in self.changes.iter().enumerate() {
            write!(f, "{}{change}", if n > 0 { "\n" } else { "" })?;
        }
        self.warnings.iter().try_for_each(|(stack, warning)| write!(f, "\nwarning {stack}: {warning}"))?;
        self.not_built.iter().try_for_each(|stack| write!(f, "\n{stack} is not built"))
    }
}

impl fmt::Display for ReloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(error) => error.fmt(f),
            Self::Rebuild { keys } => {
                let keys = keys.join(", ");
                write!(
                    f,
                    "{keys}: belongs to how a stack is built, and is not changed in place; restart the process"
                )
            }
            Self::Missing { name } => write!(
                f,
                "the file has no table [{name}], and the stack is running: write the table again, or `Stacks::remove` it first"
            ),
        }
    }
}

impl std::error::Error for ReloadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::File(error) => std::error::Error::source(error),
            Self::Rebuild { .. } | Self::Missing { .. } => None,
        }
    }
}

impl From<FileError> for ReloadError {
    fn from(error: FileError) -> Self {
        Self::File(error)
    }
}
