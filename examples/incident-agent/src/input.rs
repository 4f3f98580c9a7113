//! Reading what people write: every mistake is answered with the place, the problem and the fix.

use std::error::Error;
use std::fmt;
use std::path::Path;

use serde_json::Value;

/// Input that cannot be used.
#[derive(Debug, PartialEq)]
pub(crate) struct BadInput {
    place: String,
    problem: String,
    fix: String,
}

impl BadInput {
    /// `place` is a file, an option or a variable.
    pub(crate) fn new(place: impl fmt::Display, problem: impl fmt::Display, fix: impl fmt::Display) -> Self {
        Self { place: place.to_string(), problem: problem.to_string(), fix: fix.to_string() }
    }
}

impl fmt::Display for BadInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}\n  fix: {}", self.place, self.problem, self.fix)
    }
}

impl Error for BadInput {}

/// The text of a file; `fix` says what to give in its place.
pub(crate) fn read(file: &Path, fix: &str) -> Result<String, BadInput> {
    std::fs::read_to_string(file)
        .map_err(|error| BadInput::new(file.display(), format!("cannot be read: {error}"), fix))
}

/// The JSON in a text.
pub(crate) fn parse(file: &str, text: &str) -> Result<Value, BadInput> {
    serde_json::from_str(text).map_err(|error| {
        let fix = format!("correct the syntax at line {}, column {}", error.line(), error.column());
        BadInput::new(file, format!("is not JSON: {error}"), fix)
    })
}

/// A value somewhere in a JSON file, which knows where it is.
#[derive(Clone, Debug)]
pub(crate) struct Node<'a> {
    file: &'a str,
    path: String,
    value: &'a Value,
}

impl<'a> Node<'a> {
    pub(crate) fn root(file: &'a str, value: &'a Value) -> Self {
        Self { file, path: String::new(), value }
    }

    /// The field of an object; `fix` says what to write if it is not there. `null` counts as absent.
    pub(crate) fn field(&self, key: &str, fix: &str) -> Result<Self, BadInput> {
        self.object()?;
        self.optional(key).ok_or_else(|| self.child(key, self.value).bad("is missing", fix))
    }

    /// The field of an object, if it has it.
    pub(crate) fn optional(&self, key: &str) -> Option<Self> {
        let value = self.value.get(key).filter(|value| !value.is_null())?;
        Some(self.child(key, value))
    }

    /// A string that is not empty.
    pub(crate) fn text(&self) -> Result<&'a str, BadInput> {
        match self.value.as_str() {
            Some("") => Err(self.bad("is empty", "write a string that is not empty")),
            Some(text) => Ok(text),
            None => Err(self.not("a string")),
        }
    }

    pub(crate) fn number(&self) -> Result<f64, BadInput> {
        self.value.as_f64().ok_or_else(|| self.not("a number"))
    }

    /// What is wrong with this value, and what to do.
    pub(crate) fn bad(&self, problem: impl fmt::Display, fix: impl fmt::Display) -> BadInput {
        let problem = match self.path.as_str() {
            "" => problem.to_string(),
            path => format!("`{path}` {problem}"),
        };
        BadInput::new(self.file, problem, fix)
    }

    fn object(&self) -> Result<&'a serde_json::Map<String, Value>, BadInput> {
        self.value.as_object().ok_or_else(|| self.not("an object"))
    }

    fn not(&self, what: &str) -> BadInput {
        let is = match self.value {
            Value::Null => "null",
            Value::Bool(_) => "true or false",
            Value::Number(_) => "a number",
            Value::String(_) => "a string",
            Value::Array(_) => "an array",
            Value::Object(_) => "an object",
        };
        self.bad(format!("is {is}"), format!("write {what}"))
    }

    fn child(&self, key: &str, value: &'a Value) -> Self {
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        Self { file: self.file, path, value }
    }
}

/// Words as people list them: "`a`, `b` or `c`".
pub(crate) fn list(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_mistake_is_named_with_its_file_its_path_and_the_fix() {
        let value = json!({ "a": { "b": 1, "c": "", "d": null } });
        let root = Node::root("x.json", &value);
        let a = root.field("a", "").unwrap();
        let b = a.field("b", "").unwrap();
        assert_eq!(b.text().unwrap_err().to_string(), "x.json: `a.b` is a number\n  fix: write a string");
        let c = a.field("c", "").unwrap();
        assert!(c.text().unwrap_err().to_string().starts_with("x.json: `a.c` is empty"));
        assert!(c.number().unwrap_err().to_string().starts_with("x.json: `a.c` is a string"));
        let missing = a.field("d", "add d").unwrap_err();
        assert_eq!(missing.to_string(), "x.json: `a.d` is missing\n  fix: add d");
    }

    #[test]
    fn what_is_not_json_is_named_with_line_and_column() {
        let error = parse("x.json", "{\n  \"a\": }").unwrap_err().to_string();
        assert!(error.starts_with("x.json: is not JSON") && error.contains("line 2, column 8"), "{error}");
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = read(Path::new("no/such.json"), "give another").unwrap_err().to_string();
        assert!(error.starts_with("no/such.json: cannot be read"), "{error}");
        assert!(error.ends_with("\n  fix: give another"), "{error}");
    }
}
