//! What can be told of a file's SQL without running it: its statements, which of them no transaction takes, and how one finds
//! out whether such a one was done.

use std::fmt;

use sqlparser::dialect::{self, PostgreSqlDialect, SQLiteDialect};
use sqlparser::parser::Parser;
use sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};

/// Whose SQL it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Postgres,
    Sqlite,
}

/// The SQL of one file.
#[derive(Debug)]
pub(crate) struct Script {
    pub(crate) text: String,
    /// One after the other, each by itself: what no transaction takes.
    pub(crate) bare: bool,
    pub(crate) statements: Vec<Statement>,
    dialect: Dialect,
}

/// One statement of a file.
#[derive(Debug)]
pub(crate) struct Statement {
    pub(crate) text: String,
    pub(crate) rule: Option<Rule>,
}

/// How one finds out whether a statement that is no part of a transaction was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// The index is there and valid. One that is there and not valid is what an interruption has left: it is dropped.
    IndexBuilt(String),
    /// The index is not there.
    IndexGone(String),
    /// It may as well be done again.
    Repeat,
    /// This query says so, with one row whose first column is true.
    Ask(String),
}

/// What a statement is to a transaction.
enum Kind {
    /// It begins or ends one.
    Control,
    /// No transaction takes it.
    Outside(Option<Rule>),
    Plain,
}

impl Dialect {
    fn parser(self) -> &'static dyn dialect::Dialect {
        match self {
            Self::Postgres => &PostgreSqlDialect {},
            Self::Sqlite => &SQLiteDialect {},
        }
    }
}

impl Script {
    /// `bare` and `ask` are what the header says.
    pub(crate) fn read(text: &str, dialect: Dialect, bare: bool, ask: Option<&str>) -> Result<Self, String> {
        let tokens =
            match Tokenizer::new(dialect.parser(), text).with_unescape(false).tokenize_with_location() {
                Ok(tokens) => tokens,
                // The database may know better.
                Err(_) if !bare => return Ok(Self::opaque(text, dialect)),
                Err(error) => return Err(format!("its statements cannot be told apart: {error}")),
            };
        let parts = split(text, &tokens)?;
        let kinds: Vec<Kind> = parts.iter().map(|part| kind(dialect, &part.words)).collect();
        if let Some(at) = kinds.iter().position(|kind| matches!(kind, Kind::Control)) {
            return Err(format!(
                "`{}` begins or ends a transaction; a file is one by itself, or none with the header `transaction: none`",
                short(&parts[at].text)
            ));
        }
        let outside = kinds.iter().filter(|kind| matches!(kind, Kind::Outside(_))).count();
        if !bare && outside > 0 && outside < kinds.len() {
            let at = kinds.iter().position(|kind| matches!(kind, Kind::Outside(_))).unwrap_or_default();
            return Err(format!(
                "`{}` cannot be a part of a transaction; give it a file of its own",
                short(&parts[at].text)
            ));
        }
        let bare = bare || outside > 0;
        let mut statements = Vec::with_capacity(parts.len());
        for (part, kind) in parts.into_iter().zip(kinds) {
            let rule = if let Kind::Outside(rule) = kind { rule } else { None };
            let rule = rule.or_else(|| Some(Rule::Ask(ask?.to_owned())));
            statements.push(Statement { text: part.text, rule: rule.filter(|_| bare) });
        }
        undecided(&statements, bare)?;
        Ok(Self { text: text.to_owned(), bare, statements, dialect })
    }

    fn opaque(text: &str, dialect: Dialect) -> Self {
        let statements = vec![Statement { text: text.to_owned(), rule: None }];
        Self { text: text.to_owned(), bare: false, statements, dialect }
    }

    /// What `sqlparser` does not understand of it. The database has the last word.
    pub(crate) fn doubt(&self) -> Option<String> {
        Parser::parse_sql(self.dialect.parser(), &self.text).err().map(|error| error.to_string())
    }
}

/// A statement that is interrupted between transactions was done or was not: each needs a rule, and a query is one for one.
fn undecided(statements: &[Statement], bare: bool) -> Result<(), String> {
    if !bare {
        return Ok(());
    }
    if let Some(statement) = statements.iter().find(|statement| statement.rule.is_none()) {
        return Err(format!(
            "how would one know whether `{}` was done, after an interruption? Add `-- reconcile: SELECT ...`, a query that \
             gives true if it was",
            short(&statement.text)
        ));
    }
    let asked = statements.iter().filter(|statement| matches!(statement.rule, Some(Rule::Ask(_)))).count();
    if asked > 1 {
        return Err(format!(
            "its `reconcile` query would have to tell of {asked} statements; give each its own file"
        ));
    }
    Ok(())
}

struct Part {
    text: String,
    words: Vec<Token>,
}

/// Splits at semicolons, those in the body of a trigger or a function aside.
fn split(text: &str, tokens: &[TokenWithSpan]) -> Result<Vec<Part>, String> {
    let lines: Vec<usize> =
        std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
    let offset = |token: &TokenWithSpan| -> Option<usize> {
        let start = token.span.start;
        let line = *lines.get(usize::try_from(start.line).ok()?.checked_sub(1)?)?;
        let column = usize::try_from(start.column).ok()?.checked_sub(1)?;
        let at = text[line..].char_indices().nth(column).map(|(at, _)| line + at)?;
        text[at..].starts_with(';').then_some(at)
    };
    let (mut parts, mut words, mut depth, mut began) = (Vec::new(), Vec::new(), 0_u32, 0);
    for token in tokens {
        match &token.token {
            Token::Whitespace(_) | Token::EOF => {}
            Token::SemiColon if depth == 0 => {
                let end = offset(token).ok_or("its statements cannot be told apart")?;
                push(&mut parts, &text[began..end], std::mem::take(&mut words));
                began = end + 1;
            }
            other => {
                depth = match word(other).as_deref() {
                    Some("BEGIN") if has_body(&words) => depth + 1,
                    Some("CASE") if depth > 0 => depth + 1,
                    Some("END") => depth.saturating_sub(1),
                    _ => depth,
                };
                words.push(other.clone());
            }
        }
    }
    push(&mut parts, &text[began..], words);
    Ok(parts)
}

fn push(parts: &mut Vec<Part>, text: &str, words: Vec<Token>) {
    if !words.is_empty() {
        parts.push(Part { text: text.trim().to_owned(), words });
    }
}

/// Whether this is the beginning of something whose body has statements of its own.
fn has_body(words: &[Token]) -> bool {
    let head: Vec<String> = words.iter().take(5).filter_map(word).collect();
    head.first().is_some_and(|first| first == "CREATE")
        && head.iter().any(|word| matches!(&**word, "TRIGGER" | "FUNCTION" | "PROCEDURE"))
}

/// A word that is no quoted name, in capitals.
fn word(token: &Token) -> Option<String> {
    match token {
        Token::Word(word) if word.quote_style.is_none() => Some(word.value.to_uppercase()),
        _ => None,
    }
}

fn kind(dialect: Dialect, tokens: &[Token]) -> Kind {
    let words: Vec<String> = tokens.iter().map(|token| word(token).unwrap_or_default()).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let concurrently = words.contains(&"CONCURRENTLY");
    match (dialect, &words[..]) {
        (_, ["ROLLBACK", "TO", ..] | ["ROLLBACK", "TRANSACTION" | "WORK", "TO", ..]) => Kind::Plain,
        (
            _,
            ["BEGIN" | "COMMIT" | "END" | "ROLLBACK" | "ABORT", ..]
            | ["START" | "PREPARE", "TRANSACTION", ..],
        ) => Kind::Control,
        (_, ["VACUUM", ..]) | (Dialect::Sqlite, ["PRAGMA", ..]) => Kind::Outside(Some(Rule::Repeat)),
        (Dialect::Sqlite, ["ATTACH" | "DETACH", ..]) => Kind::Outside(None),
        (Dialect::Sqlite, _) => Kind::Plain,
        (_, ["CREATE", "INDEX" | "UNIQUE", ..]) if concurrently => {
            Kind::Outside(index(tokens, &words).map(Rule::IndexBuilt))
        }
        (_, ["DROP", "INDEX", "CONCURRENTLY", ..]) => {
            let name = &tokens[if words.get(3) == Some(&"IF") { 5 } else { 3 }.min(tokens.len())..];
            // Of several, PostgreSQL drops none.
            Kind::Outside(name_of(name).map(Rule::IndexGone))
        }
        (_, ["REINDEX", ..]) if concurrently => Kind::Outside(Some(Rule::Repeat)),
        (_, ["REINDEX", "SCHEMA" | "DATABASE" | "SYSTEM", ..] | ["ALTER", "SYSTEM", ..]) => {
            Kind::Outside(Some(Rule::Repeat))
        }
        (_, ["ALTER", "TABLE", ..]) if concurrently => Kind::Outside(None),
        (_, ["CREATE" | "DROP", "DATABASE" | "TABLESPACE" | "SUBSCRIPTION", ..]) => Kind::Outside(None),
        _ => Kind::Plain,
    }
}

/// The name of the index that is created, with the schema of its table, which is its own.
fn index(tokens: &[Token], words: &[&str]) -> Option<String> {
    let after = words.iter().position(|word| *word == "CONCURRENTLY")? + 1;
    let after = if words.get(after) == Some(&"IF") { after + 3 } else { after };
    let on = words.iter().position(|word| *word == "ON")?;
    let name = name_of(tokens.get(after..on)?)?;
    let table = on + if words.get(on + 1) == Some(&"ONLY") { 2 } else { 1 };
    match tokens.get(table..table + 2)? {
        [schema @ Token::Word(_), Token::Period] => Some(format!("{schema}.{name}")),
        _ => Some(name),
    }
}

/// A name with its schema, as it is written.
fn name_of(tokens: &[Token]) -> Option<String> {
    match tokens {
        [schema @ Token::Word(_), Token::Period, name @ Token::Word(_), ..] => {
            Some(format!("{schema}.{name}"))
        }
        [name @ Token::Word(_), ..] => Some(name.to_string()),
        _ => None,
    }
}

/// The beginning of a statement, on one line.
pub(crate) fn short(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with("--"));
    let line = lines.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ");
    if line.chars().count() <= 60 {
        return line;
    }
    line.chars().take(59).chain(['…']).collect()
}

impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&short(&self.text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, dialect: Dialect) -> Result<Script, String> {
        Script::read(text, dialect, false, None)
    }

    fn rule(text: &str) -> Option<Rule> {
        let script = read(text, Dialect::Postgres).unwrap();
        assert!(script.bare, "{text}");
        script.statements[0].rule.clone()
    }

    #[test]
    fn statements_end_where_the_database_ends_them() {
        let trigger = "CREATE TRIGGER t AFTER INSERT ON a BEGIN\n UPDATE a SET n = CASE WHEN n > 1 THEN 2 ELSE 3 END; \
                       DELETE FROM b; END";
        let text =
            format!("-- a; b\nINSERT INTO a VALUES (';'); /* ; */ {trigger};\n\nSELECT 'é;', \"a;b\" ;;");
        let script = read(&text, Dialect::Sqlite).unwrap();
        let statements: Vec<&str> = script.statements.iter().map(|it| it.text.as_str()).collect();
        let comment = format!("/* ; */ {trigger}");
        assert_eq!(statements, ["-- a; b\nINSERT INTO a VALUES (';')", &comment, "SELECT 'é;', \"a;b\""]);
        let text = "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $body$ BEGIN RETURN 1; END; $body$; SELECT 1";
        assert_eq!(read(text, Dialect::Postgres).unwrap().statements.len(), 2);
    }

    #[test]
    fn what_ends_a_transaction_is_no_part_of_one() {
        for text in ["SELECT 1; COMMIT", "begin; SELECT 1", "ROLLBACK", "START TRANSACTION", "END"] {
            let error = read(text, Dialect::Postgres).unwrap_err();
            assert!(error.contains("begins or ends a transaction"), "{text}: {error}");
        }
        assert!(!read("SAVEPOINT a; ROLLBACK TO a; SELECT 'COMMIT'", Dialect::Postgres).unwrap().bare);
    }

    #[test]
    fn what_no_transaction_takes_has_a_rule() {
        let built = |name: &str| Some(Rule::IndexBuilt(name.to_owned()));
        assert_eq!(rule("CREATE INDEX CONCURRENTLY a_n ON a (n)"), built("a_n"));
        assert_eq!(
            rule("create unique index concurrently if not exists \"A n\" on only s.a (n)"),
            built("s.\"A n\"")
        );
        let gone = Some(Rule::IndexGone("s.a_n".to_owned()));
        assert_eq!(rule("DROP INDEX CONCURRENTLY IF EXISTS s.a_n"), gone);
        assert_eq!(rule("VACUUM ANALYZE a"), Some(Rule::Repeat));
        assert_eq!(rule("REINDEX TABLE CONCURRENTLY a"), Some(Rule::Repeat));
        assert!(!read("REFRESH MATERIALIZED VIEW CONCURRENTLY a", Dialect::Postgres).unwrap().bare);
        assert!(read("PRAGMA journal_mode = WAL", Dialect::Sqlite).unwrap().bare);
    }

    #[test]
    fn without_a_rule_nothing_is_done_outside_of_a_transaction() {
        let error = read("CREATE INDEX CONCURRENTLY ON a (n)", Dialect::Postgres).unwrap_err();
        assert!(error.contains("Add `-- reconcile: SELECT ...`"), "{error}");
        let error =
            Script::read("UPDATE a SET n = 1; DELETE FROM b", Dialect::Sqlite, true, Some("SELECT 1"));
        assert!(error.unwrap_err().contains("would have to tell of 2 statements"));
        let script =
            Script::read("UPDATE a SET n = n + 1; VACUUM", Dialect::Sqlite, true, Some("SELECT 1")).unwrap();
        let rules: Vec<Option<Rule>> = script.statements.into_iter().map(|it| it.rule).collect();
        assert_eq!(rules, [Some(Rule::Ask("SELECT 1".to_owned())), Some(Rule::Repeat)]);
    }

    #[test]
    fn a_file_is_a_transaction_or_none() {
        let error = read("CREATE TABLE a (n int); CREATE INDEX CONCURRENTLY a_n ON a (n)", Dialect::Postgres);
        assert!(error.unwrap_err().contains("`CREATE INDEX CONCURRENTLY a_n ON a (n)` cannot be a part"));
    }

    #[test]
    fn what_the_parser_does_not_understand_is_said_and_no_error() {
        let script = read("CREATE TABEL a (n int)", Dialect::Postgres).unwrap();
        assert!(script.doubt().unwrap().contains("TABEL"), "{:?}", script.doubt());
        assert_eq!(read("CREATE TABLE a (n int)", Dialect::Postgres).unwrap().doubt(), None);
    }
}
