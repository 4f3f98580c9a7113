use std::time::{Duration, SystemTime};

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, params};

use super::Sqlite;
use crate::answer::{AnswerStore, Forgotten, NewAnswer, StoredAnswer};
use crate::answer_row::{self, AnswerRow};
use crate::error::StoreError;
use crate::failure::Failure;
use crate::key::ScopedKey;
use crate::stored::{self, Sum};
use crate::time;

/// A row of a whole scope counts for nothing.
const TRIM: &str = "DELETE FROM answers WHERE rowid IN (
    SELECT rowid FROM (
        SELECT rowid, born, expires, sum(bytes) OVER (ORDER BY born DESC, rowid) AS total
        FROM answers WHERE scope = ?1 AND bytes > 0)
    WHERE total > ?2 OR expires <= ?3 OR born <= ?4 ORDER BY born LIMIT ?5)";

impl AnswerStore for Sqlite {
    async fn put(&self, answer: &NewAnswer) -> Result<bool, StoreError> {
        self.inner.limits.answer(answer)?;
        let (key, scope) = (stored::key(&answer.key), stored::scope(answer.key.scope()));
        let (answer, bytes) = (answer.clone(), answer.body.len());
        let work = move |connection: &Connection, now: i64| {
            let born = answer_row::born(&answer, now);
            let row = replaceable(connection, &key)?;
            if !answer_row::admits(row.as_ref(), forgotten(connection, &scope)?, born, now) {
                return Ok(false);
            }
            let row = AnswerRow { born, expires: time::after(now, answer.keep), body: Some(answer.body) };
            write(connection, &key, &scope, &row)?;
            Ok(true)
        };
        self.write("put", bytes, work).await
    }

    async fn get(&self, key: &ScopedKey) -> Result<Option<StoredAnswer>, StoreError> {
        let (key, scope) = (stored::key(key), stored::scope(key.scope()));
        let work = move |connection: &Connection, now| {
            let row = read(connection, &key)?;
            let forgotten = forgotten(connection, &scope)?;
            Ok(row.filter(|row| answer_row::gives(row, forgotten, now)).and_then(|row| {
                let (born, now) = (time::to_system(row.born), time::to_system(now));
                Some(StoredAnswer { body: row.body?, born, now })
            }))
        };
        self.read("get", work).await
    }

    async fn clock(&self) -> Result<SystemTime, StoreError> {
        self.read("clock", |_, now| Ok(time::to_system(now))).await
    }

    async fn forget(&self, what: &Forgotten, age: Duration) -> Result<(), StoreError> {
        self.inner.limits.forgotten(what)?;
        let (key, scope) = stored::forgotten(what);
        let work = move |connection: &Connection, now: i64| {
            let at = now.saturating_sub(time::micros(age));
            let row = replaceable(connection, &key)?;
            let (forgets, forgotten) = if key == scope {
                // What was forgotten of a scope stays so, whatever the clock does.
                let forgets = row.is_none_or(|row| row.born < at);
                (forgets, AnswerRow { born: at, expires: i64::MAX, body: None })
            } else {
                (answer_row::forgets(row.as_ref(), at, now), AnswerRow::forgotten(at, now))
            };
            if forgets { write(connection, &key, &scope, &forgotten) } else { Ok(()) }
        };
        self.write("forget", 0, work).await
    }

    async fn trim(&self, scope: &str, bytes: u64, max: u32) -> Result<u64, StoreError> {
        self.inner.limits.scope("trim", scope)?;
        let scope = stored::scope(scope);
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        let work = move |connection: &Connection, now: i64| {
            let forgotten = forgotten(connection, &scope)?.unwrap_or(i64::MIN);
            let mut trim = connection.prepare_cached(TRIM)?;
            Ok(trim.execute(params![scope, bytes, now, forgotten, max])? as u64)
        };
        self.write("trim", 0, work).await
    }
}

/// When the whole scope was forgotten.
fn forgotten(connection: &Connection, scope: &[u8]) -> Result<Option<i64>, Failure> {
    Ok(read(connection, scope)?.map(|row| row.born))
}

fn read(connection: &Connection, key: &[u8]) -> Result<Option<AnswerRow>, Failure> {
    let sql = "SELECT born, expires, body, sum FROM answers WHERE key = ?1";
    let mut select = connection.prepare_cached(sql)?;
    let row = select.query_row([key], |row| {
        let body: Option<Vec<u8>> = row.get(2)?;
        let found = AnswerRow { born: row.get(0)?, expires: row.get(1)?, body: body.map(Bytes::from) };
        Ok((found, row.get::<_, i64>(3)?))
    });
    match row.optional()? {
        Some((row, sum)) if self::sum(key, &row) != sum => Err(Failure::damaged("the answer")),
        row => Ok(row.map(|(row, _)| row)),
    }
}

/// What a write has to know of a row: whether there is a body, not which. One that cannot be read is as good as none.
fn replaceable(connection: &Connection, key: &[u8]) -> Result<Option<AnswerRow>, Failure> {
    let sql = "SELECT born, expires, body IS NOT NULL FROM answers WHERE key = ?1 \
               AND typeof(born) = 'integer' AND typeof(expires) = 'integer'";
    let mut select = connection.prepare_cached(sql)?;
    let row = select.query_row([key], |row| {
        let body = row.get::<_, bool>(2)?.then(Bytes::new);
        Ok(AnswerRow { born: row.get(0)?, expires: row.get(1)?, body })
    });
    Ok(row.optional()?)
}

fn write(connection: &Connection, key: &[u8], scope: &[u8], row: &AnswerRow) -> Result<(), Failure> {
    let sql = "INSERT OR REPLACE INTO answers (key, scope, born, expires, bytes, body, sum) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    let bytes = if key == scope { 0 } else { row.bytes(key) };
    let (body, sum) = (row.body.as_deref(), sum(key, row));
    connection.prepare_cached(sql)?.execute(params![key, scope, row.born, row.expires, bytes, body, sum])?;
    Ok(())
}

fn sum(key: &[u8], row: &AnswerRow) -> i64 {
    let body = row.body.as_deref();
    let sum = Sum::default().int(row.born).int(row.expires).int(body.is_some().into());
    sum.int(stored::answer_sum(key, body.unwrap_or_default())).get()
}
