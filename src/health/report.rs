//! What `/readyz` and `/livez` print.

use std::borrow::Cow;
use std::fmt;

/// The outcome of all checks at one moment. Displays as a line per check, `[+]name ok` or `[-]name failed: reason`, and
/// a line per note, `[i]text`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub(super) lines: Vec<(Cow<'static, str>, Result<(), String>)>,
    pub(super) notes: Vec<String>,
}

impl Report {
    pub fn is_ok(&self) -> bool {
        self.lines.iter().all(|(_, state)| state.is_ok())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, state) in &self.lines {
            match state {
                Ok(()) => writeln!(f, "[+]{name} ok")?,
                Err(reason) => writeln!(f, "[-]{name} failed: {reason}")?,
            }
        }
        for note in &self.notes {
            writeln!(f, "[i]{note}")?;
        }
        Ok(())
    }
}
