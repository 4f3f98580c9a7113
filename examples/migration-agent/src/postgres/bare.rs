//! Statements that no transaction takes: that each begins is written first, and after an interruption its rule is asked.

use tokio::time::Instant;
use tokio_postgres::Client;

use super::{begin, finish, millis};
use crate::crash::Point;
use crate::database::{Begin, Change, Direction, Done, TABLE};
use crate::fault::Fault;
use crate::problem::{Exit, Problem};
use crate::sql::{Rule, Statement};

/// What there is of an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Index {
    Missing,
    /// An attempt to build it has failed, or was cut off.
    Invalid,
    Valid,
}

pub(super) async fn run(client: &Client, change: &Change) -> Result<Done, Fault> {
    let started = Instant::now();
    let statements = &change.source().script.statements;
    let first = match begin(client, change).await? {
        Begin::Nowhere => return Ok(Done::Before),
        Begin::AtFirst => 0,
        Begin::At(at) => match statements.get(at) {
            Some(statement) if !was_done(client, statement).await? => at,
            _ => at + 1,
        },
    };
    for (at, statement) in statements.iter().enumerate().skip(first) {
        mark(client, change, at).await?;
        change.crash.at(change.id(), Point::Before);
        if let Err(fault) = attempt(client, statement).await {
            if fault.is_refusal() {
                clear_up(client, statement).await?;
                if at == 0 {
                    forget(client, change).await?;
                }
            }
            return Err(fault);
        }
        change.crash.at(change.id(), Point::During);
    }
    let ms = millis(started);
    finish(client, change, ms).await?;
    change.crash.at(change.id(), Point::After);
    Ok(Done::Now { ms })
}

async fn attempt(client: &Client, statement: &Statement) -> Result<(), Fault> {
    client.batch_execute(&statement.text).await?;
    match &statement.rule {
        // `IF NOT EXISTS` is content with the ruins of an earlier attempt.
        Some(Rule::IndexBuilt(name)) if index(client, name).await? != Index::Valid => {
            let what = format!("`{statement}` has ended, and {name} is not valid");
            Err(Fault::refused(Problem::new(Exit::Failed, what)))
        }
        _ => Ok(()),
    }
}

async fn mark(client: &Client, change: &Change, at: usize) -> Result<(), Fault> {
    let sql = format!(
        "INSERT INTO {TABLE} AS it (id, hash, state, statement, sequence, ms, run)
        VALUES ($1, $2, $3, $4, (SELECT coalesce(max(sequence), 0) + 1 FROM {TABLE}), 0, $5)
        ON CONFLICT (id) DO UPDATE SET state = excluded.state, statement = excluded.statement, run = excluded.run"
    );
    let at = i64::try_from(at).unwrap_or(i64::MAX);
    let state = change.direction.state().as_str();
    client.execute(&sql, &[&&**change.id(), &change.migration.up.hash, &state, &at, &&*change.run]).await?;
    Ok(())
}

/// Nothing of it was done: it is as if it had not begun, and its file may be corrected.
async fn forget(client: &Client, change: &Change) -> Result<(), Fault> {
    let sql = match change.direction {
        Direction::Up => format!("DELETE FROM {TABLE} WHERE id = $1"),
        Direction::Down => format!("UPDATE {TABLE} SET state = 'applied', statement = 0 WHERE id = $1"),
    };
    client.execute(&sql, &[&&**change.id()]).await?;
    Ok(())
}

/// Whether a statement that was interrupted has been done. What is left of one that was not is cleared up.
async fn was_done(client: &Client, statement: &Statement) -> Result<bool, Fault> {
    match &statement.rule {
        Some(Rule::IndexBuilt(name)) => {
            clear_up(client, statement).await?;
            Ok(index(client, name).await? == Index::Valid)
        }
        Some(Rule::IndexGone(name)) => Ok(index(client, name).await? == Index::Missing),
        Some(Rule::Ask(query)) => Ok(client.query_one(query, &[]).await?.try_get(0)?),
        Some(Rule::Repeat) | None => Ok(false),
    }
}

async fn clear_up(client: &Client, statement: &Statement) -> Result<(), Fault> {
    let Some(Rule::IndexBuilt(name)) = &statement.rule else { return Ok(()) };
    if index(client, name).await? == Index::Invalid {
        client.batch_execute(&format!("DROP INDEX CONCURRENTLY {name}")).await?;
    }
    Ok(())
}

async fn index(client: &Client, name: &str) -> Result<Index, Fault> {
    let sql = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass($1)";
    match client.query_opt(sql, &[&name]).await? {
        None => Ok(Index::Missing),
        Some(row) if row.try_get(0)? => Ok(Index::Valid),
        Some(_) => Ok(Index::Invalid),
    }
}
