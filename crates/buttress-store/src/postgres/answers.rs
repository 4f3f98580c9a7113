use std::time::{Duration, SystemTime};

use tokio_postgres::types::ToSql;

use super::Postgres;
use super::row::get;
use crate::answer::{AnswerStore, Forgotten, NewAnswer, REMEMBERED, ROW, SLACK, StoredAnswer};
use crate::error::StoreError;
use crate::failure::Failure;
use crate::key::ScopedKey;
use crate::stored;
use crate::time;

/// What is forgotten while this statement runs hides the row afterwards: `GET` compares the two.
const PUT: &str = "INSERT INTO buttress_answers AS a (key, scope, born, expires, bytes, body, sum)
    SELECT $1, $2, LEAST(buttress_now() - $3, $9::bigint), buttress_now() + $4, $5, $6, $7
    WHERE NOT EXISTS (
        SELECT FROM buttress_answers AS s
        WHERE s.key = $2 AND s.born <= buttress_now() AND s.born >= LEAST(buttress_now() - $3, $9::bigint))
    ON CONFLICT (key) DO UPDATE SET born = excluded.born, expires = excluded.expires,
        bytes = excluded.bytes, body = excluded.body, sum = excluded.sum
    WHERE a.born > buttress_now() OR a.expires <= buttress_now() OR a.born < excluded.born
        OR a.born <= excluded.born + $8 AND a.body IS NOT NULL
    RETURNING 1";

const GET: &str = "SELECT a.born, a.body, a.sum, buttress_now() AS now
    FROM buttress_answers AS a LEFT JOIN buttress_answers AS s ON s.key = $2
    WHERE a.key = $1 AND a.body IS NOT NULL AND a.expires > buttress_now()
        AND (s.born IS NULL OR s.born < a.born)";

/// What was forgotten of a scope (whose row counts for nothing) stays so, whatever the clock does.
const FORGET: &str = "INSERT INTO buttress_answers AS a (key, scope, born, expires, bytes)
    VALUES ($1, $2, buttress_now() - $3, CASE WHEN $4::bigint > 0 THEN buttress_now() + $5 ELSE $5 END, $4)
    ON CONFLICT (key) DO UPDATE SET born = excluded.born, expires = excluded.expires,
        bytes = excluded.bytes, body = NULL, sum = NULL
    WHERE a.born <= excluded.born OR a.bytes > 0 AND a.born > buttress_now()";

/// What was replaced meanwhile stays.
const TRIM: &str = "DELETE FROM buttress_answers AS a USING (
        SELECT key, born FROM (
            SELECT key, born, expires, sum(bytes) OVER (ORDER BY born DESC, key) AS total
            FROM buttress_answers WHERE scope = $1 AND bytes > 0) AS counted
        WHERE total > $2::bigint OR expires <= buttress_now()
            OR born <= (SELECT born FROM buttress_answers WHERE key = $1)
        ORDER BY born LIMIT $3::bigint) AS gone
    WHERE a.key = gone.key AND a.born = gone.born RETURNING 1";

impl AnswerStore for Postgres {
    async fn put(&self, answer: &NewAnswer) -> Result<bool, StoreError> {
        self.inner.limits.answer(answer)?;
        let (key, scope) = (stored::key(&answer.key), stored::scope(answer.key.scope()));
        let (age, keep) = (time::micros(answer.age), time::micros(answer.keep));
        let bytes = (key.len() + answer.body.len()) as i64 + ROW as i64;
        let (body, sum) = (&answer.body[..], stored::answer_sum(&key, &answer.body));
        let asked = answer.asked.map(time::from_system);
        let values: [&(dyn ToSql + Sync); 9] =
            [&key, &scope, &age, &keep, &bytes, &body, &sum, &SLACK, &asked];
        let rows = self.query("put", PUT, &values).await?;
        Ok(!rows.is_empty())
    }

    async fn get(&self, key: &ScopedKey) -> Result<Option<StoredAnswer>, StoreError> {
        let (key, scope) = (stored::key(key), stored::scope(key.scope()));
        let rows = self.query("get", GET, &[&key, &scope]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let read = || {
            let body: Vec<u8> = get(row, "body")?;
            if stored::answer_sum(&key, &body) != get::<i64>(row, "sum")? {
                return Err(Failure::damaged("the answer"));
            }
            let (born, now) = (time::to_system(get(row, "born")?), time::to_system(get(row, "now")?));
            Ok(Some(StoredAnswer { body: body.into(), born, now }))
        };
        read().map_err(|failure: Failure| failure.into_error("postgres", "get"))
    }

    async fn clock(&self) -> Result<SystemTime, StoreError> {
        let rows = self.query("clock", "SELECT buttress_now() AS now", &[]).await?;
        let now = rows.first().ok_or_else(|| Failure::damaged("the clock")).and_then(|row| get(row, "now"));
        now.map(time::to_system).map_err(|failure| failure.into_error("postgres", "clock"))
    }

    async fn forget(&self, what: &Forgotten, age: Duration) -> Result<(), StoreError> {
        self.inner.limits.forgotten(what)?;
        let (key, scope) = stored::forgotten(what);
        let (bytes, expires) = if key == scope {
            (0, i64::MAX)
        } else {
            (key.len() as i64 + ROW as i64, time::micros(REMEMBERED))
        };
        self.query("forget", FORGET, &[&key, &scope, &time::micros(age), &bytes, &expires]).await?;
        Ok(())
    }

    async fn trim(&self, scope: &str, bytes: u64, max: u32) -> Result<u64, StoreError> {
        self.inner.limits.scope("trim", scope)?;
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        let rows = self.query("trim", TRIM, &[&stored::scope(scope), &bytes, &i64::from(max)]).await?;
        Ok(rows.len() as u64)
    }
}
