//! A question to the person at the terminal.

use std::io::{self, BufRead, IsTerminal, Write};
use std::time::Duration;

use crate::error::{Code, Error, Result};
use crate::stderr;

/// Whether somebody is there to answer: standard input and standard error are terminals.
pub fn is_attended() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks on standard error. Only `y` and `yes` mean yes; the end of the input means no.
pub fn confirm(question: &str) -> Result<bool> {
    let failed = |error| Error::new(Code::Unexpected, "cannot ask on the terminal").caused_by(error);
    // What was said before comes before the question.
    stderr::flush(Duration::from_secs(1));
    let mut stream = anstream::stderr().lock();
    write!(stream, "{question} [y/N] ").and_then(|()| stream.flush()).map_err(failed)?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(failed)?;
    Ok(is_yes(&answer))
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clear_yes_is_one() {
        for yes in ["y\n", "Y", " yes \n", "YES\n"] {
            assert!(is_yes(yes), "{yes:?}");
        }
        for no in ["", "\n", "n\n", "yep\n", "1\n"] {
            assert!(!is_yes(no), "{no:?}");
        }
    }
}
