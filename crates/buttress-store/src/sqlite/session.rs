use rusqlite::{Connection, PrepFlags, Statement};

use super::known::Known;
use crate::failure::Failure;

/// What a thread keeps from one command to the next.
pub(super) struct Session<'c> {
    pub(super) connection: &'c Connection,
    pub(super) known: Known,
    /// Few, and carried out all the time: to have them from the connection's cache is an eighth of an append.
    statements: Vec<(&'static str, Statement<'c>)>,
}

impl<'c> Session<'c> {
    pub(super) fn new(connection: &'c Connection) -> Self {
        Self { connection, known: Known::default(), statements: Vec::new() }
    }

    /// A statement that is kept. So is what is bound to it, until something else is.
    pub(super) fn kept(&mut self, sql: &'static str) -> rusqlite::Result<&mut Statement<'c>> {
        let index = match self.statements.iter().position(|(kept, _)| *kept == sql) {
            Some(index) => index,
            None => {
                let flags = PrepFlags::SQLITE_PREPARE_PERSISTENT;
                self.statements.push((sql, self.connection.prepare_with_flags(sql, flags)?));
                self.statements.len() - 1
            }
        };
        Ok(&mut self.statements[index].1)
    }

    pub(super) fn execute(&mut self, sql: &'static str) -> Result<(), Failure> {
        self.kept(sql)?.execute([])?;
        Ok(())
    }

    /// What is known is forgotten if somebody else has written: asked once a transaction keeps others from it.
    pub(super) fn check_known(&mut self) -> Result<(), Failure> {
        let version = self.kept("PRAGMA data_version")?.query_row([], |row| row.get(0))?;
        self.known.check(self.connection, version)
    }
}
