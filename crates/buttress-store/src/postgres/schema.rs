use std::time::Duration;

use deadpool_postgres::{GenericClient, Object};

use crate::error::Fault;
use crate::failure::Failure;

/// Held while tables are made, so that one process does it: "Btrs".
const LOCK: i64 = 0x4274_7273;

/// What a new connection begins with: an acknowledged commit is on the disk, unless more than that is asked for already, and
/// no statement outlives the limit of its verb: one that waits for a lock does not notice that nobody waits for it.
pub(super) fn session(limit: Duration) -> String {
    let millis = limit.as_millis().clamp(1, i32::MAX as u128);
    format!(
        "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off';
        SELECT set_config('statement_timeout', '{millis}', false) FROM pg_settings
        WHERE name = 'statement_timeout' AND (setting::bigint = 0 OR setting::bigint > {millis})"
    )
}

/// `state`: 0 claimed, 1 released, 2 to 4 done. `status`: as `StatusKind`; from 4 on it is over. Times are microseconds since
/// 1970. The function is one expression, which the planner puts in its place.
const FIRST: &str = r#"
CREATE FUNCTION buttress_now() RETURNS bigint LANGUAGE sql STABLE PARALLEL SAFE AS
    $$ SELECT (extract(epoch FROM statement_timestamp()) * 1000000)::bigint $$;

CREATE TABLE buttress_claims (
    key bytea PRIMARY KEY,
    fingerprint bytea NOT NULL,
    owner bytea NOT NULL,
    epoch bigint NOT NULL,
    unfinished bigint NOT NULL,
    state smallint NOT NULL,
    lease_until bigint,
    expires bigint NOT NULL,
    body bytea,
    sum bigint
);
CREATE INDEX buttress_claims_expires ON buttress_claims (expires);

CREATE TABLE buttress_runs (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id text COLLATE "C" NOT NULL UNIQUE,
    name text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    fingerprint bytea NOT NULL,
    parent text COLLATE "C",
    status smallint NOT NULL,
    reason text NOT NULL,
    cancel boolean NOT NULL,
    epoch bigint NOT NULL,
    owner bytea NOT NULL,
    worker text NOT NULL,
    lease_until bigint,
    due bigint,
    recoveries bigint NOT NULL,
    entries bigint NOT NULL,
    created bigint NOT NULL,
    changed bigint NOT NULL,
    input bytea NOT NULL,
    sum bigint NOT NULL
);
CREATE INDEX buttress_runs_due ON buttress_runs (name, due) WHERE due IS NOT NULL;
CREATE INDEX buttress_runs_created ON buttress_runs (created, id);
CREATE INDEX buttress_runs_over ON buttress_runs (changed) WHERE status >= 4;
CREATE INDEX buttress_runs_parent ON buttress_runs (parent) WHERE parent IS NOT NULL;

CREATE TABLE buttress_entries (
    run bigint NOT NULL,
    seq bigint NOT NULL,
    at bigint NOT NULL,
    kind integer NOT NULL,
    format integer NOT NULL,
    name text NOT NULL,
    occurrence bigint NOT NULL,
    payload bytea NOT NULL,
    sum bigint NOT NULL,
    PRIMARY KEY (run, seq)
);

CREATE TABLE buttress_schema (version integer NOT NULL);
INSERT INTO buttress_schema VALUES (1);
"#;

/// Whether somebody waits, and wants to be told.
const SECOND: &str = "ALTER TABLE buttress_claims ADD COLUMN awaited boolean NOT NULL DEFAULT false";

/// A row without a body was forgotten; one that takes no bytes is that of its scope.
const THIRD: &str = "
CREATE TABLE buttress_answers (
    key bytea PRIMARY KEY,
    scope bytea NOT NULL,
    born bigint NOT NULL,
    expires bigint NOT NULL,
    bytes bigint NOT NULL,
    body bytea,
    sum bigint
);
CREATE INDEX buttress_answers_born ON buttress_answers (scope, born);
";

/// What leads from each version to the next; tables of a higher one than these lead to are not touched.
const MIGRATIONS: [&str; 3] = [FIRST, SECOND, THIRD];

/// Brings the tables up to date, and says what of the server's set-up would lose what it acknowledged.
pub(super) async fn open(client: &mut Object) -> Result<Vec<String>, Failure> {
    migrate(client).await?;
    warnings(client).await
}

/// Takes the tables as they are, and says the same.
pub(super) async fn attach(client: &mut Object) -> Result<Vec<String>, Failure> {
    let (version, known) = (version(&*client).await?, MIGRATIONS.len() as i32);
    expect_known(version)?;
    if version < known {
        let detail = match version {
            0 => "there are no tables of this store; an application has to open it first".to_owned(),
            _ => format!(
                "its tables have version {version}, and not {known}; an application has to open it first"
            ),
        };
        return Err(Failure::new(Fault::Misconfigured, detail));
    }
    warnings(client).await
}

/// The version of the tables; 0 if there are none.
async fn version(client: &impl GenericClient) -> Result<i32, Failure> {
    let exists = "SELECT to_regclass('buttress_schema') IS NOT NULL";
    if !client.query_one(exists, &[]).await?.try_get::<_, bool>(0)? {
        return Ok(0);
    }
    Ok(client.query_one("SELECT version FROM buttress_schema", &[]).await?.try_get(0)?)
}

fn expect_known(version: i32) -> Result<(), Failure> {
    let known = MIGRATIONS.len() as i32;
    if version > known {
        let detail = format!("its tables have version {version}, this release knows {known}");
        return Err(Failure::new(Fault::Version, detail));
    }
    Ok(())
}

async fn migrate(client: &mut Object) -> Result<(), Failure> {
    let transaction = client.transaction().await?;
    transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK]).await?;
    let (version, known) = (version(&transaction).await?, MIGRATIONS.len() as i32);
    expect_known(version)?;
    if version < known {
        for migration in &MIGRATIONS[usize::try_from(version).unwrap_or(0)..] {
            transaction.batch_execute(migration).await?;
        }
        transaction.execute("UPDATE buttress_schema SET version = $1", &[&known]).await?;
    }
    Ok(transaction.commit().await?)
}

async fn warnings(client: &Object) -> Result<Vec<String>, Failure> {
    let mut warnings = Vec::new();
    for (setting, loss) in [
        ("fsync", "a loss of power loses what was acknowledged, or all"),
        ("full_page_writes", "a loss of power may leave pages half written"),
    ] {
        let row = client.query_one("SELECT current_setting($1)", &[&setting]).await?;
        if row.try_get::<_, &str>(0)? == "off" {
            warnings.push(format!("PostgreSQL's {setting} is off: {loss}"));
        }
    }
    Ok(warnings)
}
