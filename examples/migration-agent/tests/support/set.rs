//! Random sets of migrations: valid in the order in which they are applied, and none may be applied twice unnoticed.

use std::fmt::Write;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

/// What differs between the databases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Sqlite,
    Postgres,
}

/// A set of migrations.
pub(crate) struct Set {
    /// Names and texts.
    pub(crate) files: Vec<(String, String)>,
    /// Ids.
    pub(crate) ids: Vec<String>,
    /// Of those that note themselves in the ledger.
    pub(crate) noted: Vec<String>,
}

impl Set {
    /// Some tables, columns, rows and indexes, each migration requiring those that it builds on. Numbers are drawn, so that
    /// often enough only what is required says what comes first.
    pub(crate) fn draw(seed: u64, kind: Kind) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let count = rng.random_range(5..=10);
        let mut numbers: Vec<u32> = (2..=count + 1).collect();
        numbers.shuffle(&mut rng);
        let ledger = "CREATE TABLE ledger (id text); CREATE TABLE sums (n bigint); INSERT INTO sums VALUES (0); \
                      INSERT INTO ledger VALUES ('001_ledger');";
        let mut set = Self { files: Vec::new(), ids: Vec::new(), noted: Vec::new() };
        set.add("001_ledger", ledger, true);
        let mut tables: Vec<String> = Vec::new();
        for number in numbers {
            let id = format!("{number:03}_m{number}");
            let table = tables.get(rng.random_range(0..=tables.len())).cloned();
            let Some(creator) = table else {
                let text = format!(
                    "CREATE TABLE t_{id} (n bigint, m bigint); INSERT INTO t_{id} VALUES (1, {number})"
                );
                set.noting(&id, &["001_ledger"], &text, number);
                tables.push(id);
                continue;
            };
            let requires = ["001_ledger", &creator];
            match rng.random_range(0..5) {
                0 => set.noting(
                    &id,
                    &requires,
                    &format!("ALTER TABLE t_{creator} ADD COLUMN c_{id} text"),
                    number,
                ),
                1 => set.noting(&id, &requires, &format!("UPDATE t_{creator} SET n = n * 3 + 1"), number),
                2 => set.noting(
                    &id,
                    &requires,
                    &format!("INSERT INTO t_{creator} (n, m) SELECT n + 1, m FROM t_{creator}"),
                    number,
                ),
                3 => set.noting(&id, &requires, &format!("CREATE INDEX i_{id} ON t_{creator} (m)"), number),
                _ => {
                    let text = match kind {
                        Kind::Postgres => format!("CREATE INDEX CONCURRENTLY i_{id} ON t_{creator} (n)"),
                        Kind::Sqlite => "VACUUM".to_owned(),
                    };
                    set.add(&id, &format!("-- requires: {}\n{text};\n", requires.join(", ")), false);
                }
            }
        }
        set
    }

    /// Once more would be seen in the ledger and in the sum.
    fn noting(&mut self, id: &str, requires: &[&str], sql: &str, number: u32) {
        let mut text = format!("-- requires: {}\n\n{sql};\n", requires.join(", "));
        let _ = write!(text, "INSERT INTO ledger VALUES ('{id}');\nUPDATE sums SET n = n * 2 + {number};\n");
        self.add(id, &text, true);
    }

    fn add(&mut self, id: &str, text: &str, noted: bool) {
        self.files.push((format!("{id}.sql"), text.to_owned()));
        self.ids.push(id.to_owned());
        if noted {
            self.noted.push(id.to_owned());
        }
    }

    pub(crate) fn files(&self) -> Vec<(&str, &str)> {
        self.files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect()
    }

    /// Each noted itself once; `ledger` is what is noted.
    pub(crate) fn assert_once(&self, mut ledger: Vec<String>, context: &str) {
        let mut noted = self.noted.clone();
        ledger.sort();
        noted.sort();
        assert_eq!(ledger, noted, "{context}");
    }
}
