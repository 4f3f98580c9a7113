//! What is in a SQLite file.

use std::path::Path;

use rusqlite::Connection;

/// One column of a query, as text.
pub(crate) fn column(path: &Path, sql: &str) -> Vec<String> {
    let connection = Connection::open(path).expect("the file is there");
    connection.busy_timeout(std::time::Duration::from_secs(10)).expect("it is a time");
    let mut statement = connection.prepare(sql).expect("the query is right");
    let rows = statement.query_map([], |row| row.get::<_, Option<String>>(0)).expect("it has no parameters");
    rows.map(|row| row.expect("it is text").unwrap_or_default()).collect()
}

/// Everything that migrations have made: tables, indexes, rows, and the history without its times.
pub(crate) fn dump(path: &Path) -> Vec<String> {
    let mut dump = column(
        path,
        "SELECT type || ' ' || name || ' ' || coalesce(sql, '') FROM sqlite_schema ORDER BY type, name",
    );
    let tables = column(path, "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name");
    for table in tables.iter().filter(|table| *table != "buttress_migrations") {
        let columns = column(path, &format!("SELECT name FROM pragma_table_info('{table}')")).join(", ");
        let rows = column(path, &format!("SELECT json_array({columns}) FROM {table} ORDER BY 1"));
        dump.extend(rows.into_iter().map(|row| format!("{table}: {row}")));
    }
    let history = "SELECT id || ' ' || hash || ' ' || state || ' ' || sequence FROM buttress_migrations ORDER BY sequence";
    dump.extend(column(path, history));
    dump
}
