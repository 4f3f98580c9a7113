//! What there is to do, given the files and the history.

use std::sync::Arc;

use crate::agent::{Plan, Planned};
use crate::crash::is_named;
use crate::database::{Direction, Record, State, same};
use crate::files::Migration;
use crate::problem::{Exit, Problem};

/// Everything that the files and the history do not agree on.
pub(crate) fn differences(migrations: &[Arc<Migration>], records: &[Record]) -> Vec<Problem> {
    let mut found = Vec::new();
    for record in records {
        match migrations.iter().find(|it| *it.id == *record.id) {
            Some(migration) => found.extend(same(&record.id, &record.hash, &migration.up.hash).err()),
            None => {
                let what = format!("{} was applied, and has no file", record.id);
                found.push(Problem::new(Exit::Changed, what).fix("bring the file back"));
            }
        }
    }
    found
}

/// A file that has changed since is an error; one that is missing may be on another branch.
fn unchanged(migrations: &[Arc<Migration>], records: &[Record]) -> Result<(), Problem> {
    records.iter().try_for_each(|record| {
        let migration = migrations.iter().find(|it| *it.id == *record.id);
        migration.map_or(Ok(()), |migration| same(&record.id, &record.hash, &migration.up.hash))
    })
}

/// What is pending, in its order, no further than `to`.
pub(crate) fn up(
    migrations: &[Arc<Migration>],
    records: &[Record],
    to: Option<&str>,
) -> Result<Plan, Problem> {
    unchanged(migrations, records)?;
    let end = match to {
        None => migrations.len(),
        Some(to) => 1 + find(migrations, "--to", to)?,
    };
    let pending = migrations[..end]
        .iter()
        .filter(|it| !records.iter().any(|record| *record.id == *it.id && record.state == State::Applied));
    let steps = pending.map(|it| planned(it, &it.up.hash, &it.requires)).collect();
    Ok(Plan { direction: Direction::Up, steps })
}

/// The last so many, the last first.
pub(crate) fn down(migrations: &[Arc<Migration>], records: &[Record], count: usize) -> Result<Plan, Problem> {
    unchanged(migrations, records)?;
    let mut steps = Vec::new();
    for record in records.iter().rev().take(count) {
        let missing = |what: &str| {
            Problem::input(format!("{} cannot be undone: there is no {}{what}.sql", record.id, record.id))
        };
        let migration = migrations.iter().find(|it| *it.id == *record.id).ok_or_else(|| missing(""))?;
        let file = migration.down.as_ref().ok_or_else(|| missing(".down"))?;
        let dependents = migrations.iter().filter(|it| it.requires.contains(&migration.id));
        let dependents: Vec<_> = dependents.map(|it| it.id.clone()).collect();
        steps.push(planned(migration, &file.hash, &dependents));
    }
    Ok(Plan { direction: Direction::Down, steps })
}

fn planned(migration: &Migration, hash: &str, others: &[Arc<str>]) -> Planned {
    let others = others.iter().map(ToString::to_string).collect();
    Planned { id: migration.id.to_string(), hash: hash.to_owned(), others }
}

/// The place of a migration, by its id or its number, as an option names it.
pub(crate) fn find(migrations: &[Arc<Migration>], option: &str, wanted: &str) -> Result<usize, Problem> {
    let found = migrations.iter().position(|it| is_named(&it.id, wanted));
    found.ok_or_else(|| Problem::input(format!("{option} {wanted}: there is no such migration")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::{load, tests::directory};
    use crate::sql::Dialect;

    fn migrations() -> Vec<Arc<Migration>> {
        let files = [
            ("1_a.sql", "SELECT 1"),
            ("1_a.down.sql", "SELECT 1"),
            ("2_b.sql", "-- requires: 1_a\nSELECT 2"),
            ("3_c.sql", "SELECT 3"),
            ("3_c.down.sql", "SELECT 3"),
        ];
        let loaded = load(directory(&files).path(), Dialect::Sqlite).unwrap();
        loaded.into_iter().map(Arc::new).collect()
    }

    fn record(migration: &Migration, state: State) -> Record {
        let (id, hash) = (migration.id.to_string(), migration.up.hash.clone());
        let sequence = i64::try_from(migration.number).unwrap();
        Record { id, hash, state, statement: 0, sequence, at: String::new(), ms: 0 }
    }

    fn ids(plan: Plan) -> Vec<String> {
        plan.steps.into_iter().map(|step| step.id).collect()
    }

    #[test]
    fn what_is_not_applied_is_pending() {
        let all = migrations();
        let records = [record(&all[0], State::Applied), record(&all[2], State::Applying)];
        assert_eq!(ids(up(&all, &records, None).unwrap()), ["2_b", "3_c"]);
        assert_eq!(ids(up(&all, &records, Some("2")).unwrap()), ["2_b"]);
        assert_eq!(ids(up(&all, &[], Some("1_a")).unwrap()), ["1_a"]);
        assert_eq!(up(&all, &[], Some("9")).unwrap_err().exit, Exit::Input);
    }

    #[test]
    fn the_last_is_undone_first_and_all_of_them_need_a_file() {
        let all = migrations();
        let records: Vec<Record> = all.iter().map(|it| record(it, State::Applied)).collect();
        assert_eq!(ids(down(&all, &records, 1).unwrap()), ["3_c"]);
        let error = down(&all, &records, 3).unwrap_err().to_string();
        assert!(error.starts_with("2_b cannot be undone: there is no 2_b.down.sql"), "{error}");
        let undone = down(&all, &records[..1], 5).unwrap();
        assert_eq!(undone.steps[0].others, ["2_b"]);
    }

    #[test]
    fn a_changed_file_shows_both_hashes() {
        let all = migrations();
        let record = Record { hash: "0123".to_owned(), ..record(&all[0], State::Applied) };
        let error = up(&all, std::slice::from_ref(&record), None).unwrap_err();
        assert_eq!(error.exit, Exit::Changed);
        let hashes = [&record.hash, &all[0].up.hash];
        assert!(hashes.iter().all(|hash| error.to_string().contains(*hash)), "{error}");
        let gone = Record { id: "0_z".to_owned(), ..record.clone() };
        assert_eq!(differences(&all, &[record, gone]).len(), 2);
    }
}
