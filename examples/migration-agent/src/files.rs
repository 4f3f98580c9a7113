//! The migrations of a directory: `NNN_name.sql` and `NNN_name.down.sql`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::args::duration;
use crate::order;
use crate::problem::Problem;
use crate::sql::{Dialect, Script};

/// One migration, as its files say.
#[derive(Debug)]
pub(crate) struct Migration {
    /// `NNN_name`.
    pub(crate) id: Arc<str>,
    pub(crate) number: u64,
    pub(crate) requires: Vec<Arc<str>>,
    pub(crate) up: Source,
    pub(crate) down: Option<Source>,
}

/// One file.
#[derive(Debug)]
pub(crate) struct Source {
    /// SHA-256 of the text, whose lines end as they do on Unix.
    pub(crate) hash: String,
    pub(crate) limits: Limits,
    pub(crate) script: Script,
}

/// What a file's header says in place of the arguments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) lock: Option<Duration>,
    pub(crate) statement: Option<Duration>,
}

/// The lines `-- key: value` that a file begins with.
#[derive(Debug, Default)]
struct Header {
    requires: Vec<Arc<str>>,
    bare: bool,
    reconcile: Option<String>,
    limits: Limits,
}

const KEYS: [&str; 5] = ["requires", "transaction", "reconcile", "lock-timeout", "statement-timeout"];

/// Reads a directory, in the order in which its migrations are applied.
pub(crate) fn load(directory: &Path, dialect: Dialect) -> Result<Vec<Migration>, Problem> {
    let shown = directory.display();
    let unreadable = |error| {
        Problem::input(format!("{shown} cannot be read: {error}"))
            .fix("give --migrations the folder that they are in")
    };
    let mut found: BTreeMap<String, (Option<String>, Option<String>)> = BTreeMap::new();
    for entry in fs::read_dir(directory).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name().to_string_lossy().into_owned();
        let Some(stem) = name.strip_suffix(".sql") else { continue };
        match stem.strip_suffix(".down") {
            Some(id) => found.entry(id.to_owned()).or_default().1 = Some(name.clone()),
            None => found.entry(stem.to_owned()).or_default().0 = Some(name.clone()),
        }
    }
    let mut migrations = Vec::new();
    for (id, files) in found {
        migrations.push(migration(directory, dialect, &id, files)?);
    }
    if migrations.is_empty() {
        return Err(Problem::input(format!("{shown} has no migrations"))
            .fix("name them NNN_name.sql, or give another directory with --migrations"));
    }
    order::sort(migrations, &shown.to_string())
}

fn migration(
    directory: &Path,
    dialect: Dialect,
    id: &str,
    (up, down): (Option<String>, Option<String>),
) -> Result<Migration, Problem> {
    let digits = id.split_once('_').filter(|(_, name)| !name.is_empty()).map(|(digits, _)| digits);
    let number = digits.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    let number = number.and_then(|digits| digits.parse().ok()).ok_or_else(|| {
        Problem::input(format!("{id}.sql is no name of a migration"))
            .fix("name it NNN_name.sql, with a number that is less than 2^64")
    })?;
    let up = up.ok_or_else(|| {
        Problem::input(format!("{id}.down.sql would undo {id}.sql, which is not there"))
            .fix("add it, or remove this one")
    })?;
    let (up, requires) = source(directory, &up, dialect)?;
    let down = down.map(|file| source(directory, &file, dialect)).transpose()?.map(|(down, _)| down);
    Ok(Migration { id: id.into(), number, requires, up, down })
}

fn source(directory: &Path, file: &str, dialect: Dialect) -> Result<(Source, Vec<Arc<str>>), Problem> {
    let text = fs::read_to_string(directory.join(file))
        .map_err(|error| Problem::input(format!("{file} cannot be read: {error}")))?
        .replace("\r\n", "\n");
    let Header { requires, bare, reconcile, limits } = header(&text).map_err(|(line, why)| {
        Problem::input(format!("{file}, line {line}: {why}")).fix("see the README for what a header may say")
    })?;
    let script = Script::read(&text, dialect, bare, reconcile.as_deref())
        .map_err(|problem| Problem::input(format!("{file}: {problem}")))?;
    let hash = hash(&text);
    Ok((Source { hash, limits, script }, requires))
}

fn hash(text: &str) -> String {
    use std::fmt::Write;
    Sha256::digest(text).iter().fold(String::with_capacity(64), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

fn header(text: &str) -> Result<Header, (usize, String)> {
    let mut header = Header::default();
    for (line, text) in text.lines().enumerate() {
        let Some(comment) = text.trim().strip_prefix("--") else {
            if text.trim().is_empty() { continue } else { break }
        };
        let Some((key, value)) = comment.split_once(':') else { continue };
        let (key, value) = (key.trim(), value.trim());
        apply(&mut header, key, value).map_err(|why| (line + 1, why))?;
    }
    Ok(header)
}

fn apply(header: &mut Header, key: &str, value: &str) -> Result<(), String> {
    let time = || duration(value).map(Some).map_err(|why| format!("`{key}: {value}`: {why}"));
    match key {
        "requires" => {
            let names = value.split(',').map(str::trim).filter(|name| !name.is_empty());
            header.requires.extend(names.map(Arc::from));
        }
        "transaction" if value == "none" => header.bare = true,
        "transaction" => return Err(format!("`transaction: {value}` can only be `none`")),
        "reconcile" => header.reconcile = Some(value.trim_end_matches(';').to_owned()),
        "lock-timeout" => header.limits.lock = time()?,
        "statement-timeout" => header.limits.statement = time()?,
        // A slip of the pen must not pass for a comment.
        other => {
            if let Some(meant) = KEYS.iter().find(|key| other.get(..4) == key.get(..4)) {
                return Err(format!("`{other}` is not known; `{meant}` is"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A directory with these files.
    pub(crate) fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(directory.path().join(name), text).unwrap();
        }
        directory
    }

    fn problem(files: &[(&str, &str)]) -> String {
        load(directory(files).path(), Dialect::Sqlite).unwrap_err().to_string()
    }

    #[test]
    fn a_migration_is_two_files_and_a_header() {
        let text = "-- What it is for: tests.\n-- requires: 1_a, 2_b\n-- lock-timeout: 2s\n\nSELECT 1;\n-- requires: 9_z\n";
        let files = [("1_a.sql", "SELECT 1"), ("2_b.sql", "SELECT 1"), ("10_c.sql", text)];
        let directory = directory(&[&files[..], &[("1_a.down.sql", "SELECT 2"), ("notes.md", "")]].concat());
        let migrations = load(directory.path(), Dialect::Sqlite).unwrap();
        let ids: Vec<&str> = migrations.iter().map(|migration| &*migration.id).collect();
        assert_eq!(ids, ["1_a", "2_b", "10_c"], "by number, not by name");
        let last = &migrations[2];
        assert_eq!(last.requires.iter().map(|id| &**id).collect::<Vec<_>>(), ["1_a", "2_b"]);
        assert_eq!(last.up.limits, Limits { lock: Some(Duration::from_secs(2)), statement: None });
        assert!(migrations[0].down.is_some() && last.down.is_none());
        assert_eq!(migrations[0].up.hash.len(), 64);
    }

    #[test]
    fn the_ends_of_lines_are_no_change() {
        assert_ne!(hash("a\nb"), hash("a b"));
        let (unix, windows) = ([("1_a.sql", "SELECT 1;\n")], [("1_a.sql", "SELECT 1;\r\n")]);
        let hashes = [unix, windows].map(|files| {
            let directory = directory(&files);
            load(directory.path(), Dialect::Sqlite).unwrap()[0].up.hash.clone()
        });
        assert_eq!(hashes[0], hashes[1]);
    }

    #[test]
    fn every_mistake_is_named_with_its_file() {
        for (files, expected) in [
            (&[("a.sql", "")][..], "a.sql is no name of a migration"),
            (&[("1x_a.sql", "")], "1x_a.sql is no name of a migration"),
            (&[("1_a.down.sql", "")], "1_a.down.sql would undo 1_a.sql"),
            (&[("notes.md", "")], "has no migrations"),
            (
                &[("1_a.sql", "-- require: 2_b\nSELECT 1")],
                "1_a.sql, line 1: `require` is not known; `requires` is",
            ),
            (&[("1_a.sql", "\n-- transaction: off\nSELECT 1")], "1_a.sql, line 2: `transaction: off`"),
            (&[("1_a.sql", "-- lock-timeout: soon\nSELECT 1")], "1_a.sql, line 1: `lock-timeout: soon`"),
            (&[("1_a.sql", "COMMIT")], "1_a.sql: "),
        ] {
            let problem = problem(files);
            assert!(problem.contains(expected), "{problem}");
        }
    }
}
