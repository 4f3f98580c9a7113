//! In which order migrations are applied: what each requires first, and otherwise by number.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::files::Migration;
use crate::problem::Problem;

/// Sorts migrations; `place` is where they were found, for the error.
pub(crate) fn sort(migrations: Vec<Migration>, place: &str) -> Result<Vec<Migration>, Problem> {
    unique(&migrations)?;
    missing(&migrations, place)?;
    let mut waiting: BTreeMap<(u64, Arc<str>), Migration> =
        migrations.into_iter().map(|it| ((it.number, it.id.clone()), it)).collect();
    let mut done: BTreeSet<Arc<str>> = BTreeSet::new();
    let mut sorted = Vec::with_capacity(waiting.len());
    while !waiting.is_empty() {
        let ready = waiting.iter().find(|(_, it)| it.requires.iter().all(|id| done.contains(id)));
        let Some(key) = ready.map(|(key, _)| key.clone()) else { return Err(cycle(&waiting)) };
        if let Some(migration) = waiting.remove(&key) {
            done.insert(migration.id.clone());
            sorted.push(migration);
        }
    }
    Ok(sorted)
}

/// Two with one number come from two branches that did not know of each other.
fn unique(migrations: &[Migration]) -> Result<(), Problem> {
    let mut numbers: BTreeMap<u64, &str> = BTreeMap::new();
    for Migration { id, number, .. } in migrations {
        if let Some(other) = numbers.insert(*number, id) {
            return Err(Problem::input(format!("{other} and {id} have the same number"))
                .fix("give the one that was applied nowhere yet the next free number"));
        }
    }
    Ok(())
}

fn missing(migrations: &[Migration], place: &str) -> Result<(), Problem> {
    let ids: BTreeSet<&Arc<str>> = migrations.iter().map(|it| &it.id).collect();
    let mut missing = migrations.iter().flat_map(|it| {
        it.requires.iter().filter(|id| !ids.contains(id)).map(|id| format!("{} requires {id}", it.id))
    });
    let Some(first) = missing.next() else { return Ok(()) };
    let all = missing.fold(first, |all, next| format!("{all}; {next}"));
    Err(Problem::input(format!("{all}: not in {place}")).fix("add what is missing, or correct `requires:`"))
}

/// Among migrations that all wait, whoever is waited for waits as well: following that leads into a circle.
fn cycle(waiting: &BTreeMap<(u64, Arc<str>), Migration>) -> Problem {
    let by_id: BTreeMap<&str, &Migration> = waiting.values().map(|it| (&*it.id, it)).collect();
    let mut path: Vec<&str> = by_id.keys().take(1).copied().collect();
    while let Some(next) = path.last().and_then(|last| {
        let migration = by_id.get(last)?;
        migration.requires.iter().map(|id| &**id).find(|id| by_id.contains_key(id))
    }) {
        if let Some(start) = path.iter().position(|id| *id == next) {
            path.drain(..start);
            path.push(next);
            break;
        }
        path.push(next);
    }
    Problem::input(format!("migrations require each other: {}", path.join(" requires ")))
        .fix("remove one of these `requires:`")
}

#[cfg(test)]
mod tests {
    use crate::files::{load, tests::directory};
    use crate::sql::Dialect;

    fn sorted(files: &[(&str, &str)]) -> Result<Vec<String>, String> {
        let texts: Vec<(String, String)> = files
            .iter()
            .map(|(id, requires)| (format!("{id}.sql"), format!("-- requires: {requires}\nSELECT 1")))
            .collect();
        let texts: Vec<(&str, &str)> = texts.iter().map(|(name, text)| (&**name, &**text)).collect();
        match load(directory(&texts).path(), Dialect::Sqlite) {
            Ok(migrations) => Ok(migrations.iter().map(|it| it.id.to_string()).collect()),
            Err(problem) => Err(problem.to_string()),
        }
    }

    #[test]
    fn what_is_required_comes_first_and_the_rest_by_number() {
        let order = sorted(&[("1_a", "5_e"), ("2_b", ""), ("5_e", "2_b"), ("10_j", "1_a")]).unwrap();
        assert_eq!(order, ["2_b", "5_e", "1_a", "10_j"]);
    }

    #[test]
    fn a_circle_is_named_and_nothing_else() {
        let error = sorted(&[("1_a", "2_b"), ("2_b", "3_c"), ("3_c", "4_d"), ("4_d", "2_b")]).unwrap_err();
        assert!(error.contains(": 2_b requires 3_c requires 4_d requires 2_b\n"), "{error}");
        let itself = sorted(&[("1_a", "1_a")]).unwrap_err();
        assert!(itself.contains(": 1_a requires 1_a\n"), "{itself}");
    }

    #[test]
    fn everything_that_is_missing_is_named() {
        let error = sorted(&[("1_a", "9_x"), ("2_b", "1_a, 8_y")]).unwrap_err();
        assert!(error.starts_with("1_a requires 9_x; 2_b requires 8_y: not in "), "{error}");
    }

    #[test]
    fn two_with_one_number_are_an_error() {
        let error = sorted(&[("01_a", ""), ("1_b", "")]).unwrap_err();
        assert!(error.starts_with("01_a and 1_b have the same number"), "{error}");
    }
}
