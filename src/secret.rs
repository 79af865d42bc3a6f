//! A string that is never printed: passwords, connection URLs, key passphrases.

use std::fmt;
use std::path::{Path, PathBuf};

/// Text that must not reach a log, an error or a screen. `Debug` and `Display` print `***`; [`Secret::expose`] is the
/// one way to the text, so that a reader can find every place that uses it.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret {
    text: String,
    /// Where it was read, and can be read again when it no longer opens anything.
    file: Option<PathBuf>,
}

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), file: None }
    }

    /// Text that was read from a file.
    pub fn of_file(text: impl Into<String>, file: &Path) -> Self {
        Self { text: text.into(), file: Some(file.to_owned()) }
    }

    /// The file that holds it, if it came from one.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// The text itself. For handing to a client library, never for printing.
    pub fn expose(&self) -> &str {
        &self.text
    }

    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
