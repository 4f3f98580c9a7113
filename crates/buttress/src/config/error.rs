use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file that says something which cannot be done: where it stands, and what would be right.
///
/// Its `Display` names the file, the line and the key, shows the value, and says the rule that the value breaks; for a key that
/// is not known, the known one that is nearest. The values of unknown keys are never shown: they may be secret.
#[derive(Clone, Debug)]
pub struct FileError {
    path: Option<PathBuf>,
    line: Option<usize>,
    key: String,
    says: String,
    source: Option<Arc<std::io::Error>>,
}

impl FileError {
    pub(super) fn new(path: Option<&Path>, line: usize, key: String, says: String) -> Self {
        Self { path: path.map(Path::to_owned), line: Some(line), key, says, source: None }
    }

    /// About no line of it.
    pub(super) fn whole(path: Option<&Path>, key: String, says: String) -> Self {
        Self { path: path.map(Path::to_owned), line: None, key, says, source: None }
    }

    pub(super) fn unreadable(path: &Path, error: std::io::Error) -> Self {
        let says = "cannot be read".to_owned();
        Self { source: Some(Arc::new(error)), ..Self::whole(Some(path), String::new(), says) }
    }

    /// The file; `None` for text that came from elsewhere.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The line, counted from 1, if it is about one.
    pub fn line(&self) -> Option<usize> {
        self.line
    }

    /// The key with the tables it is in, such as `http.datadog.total`; empty if it is about none.
    pub fn key(&self) -> &str {
        &self.key
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => write!(f, "{}", path.display())?,
            None => f.write_str("configuration")?,
        }
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        f.write_str(": ")?;
        if !self.key.is_empty() {
            write!(f, "`{}` ", self.key)?;
        }
        f.write_str(&self.says)
    }
}

impl std::error::Error for FileError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|error| &**error as _)
    }
}
