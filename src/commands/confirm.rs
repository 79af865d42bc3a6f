//! The question before a change.

use std::io::{self, BufRead, IsTerminal};

use crate::error::{Code, Error, Result};
use crate::output;

/// Refuses at once what could not be asked about later: there is nobody at the terminal, and no `--yes`.
pub(super) fn can_ask(yes: bool) -> Result<()> {
    if yes || (io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Ok(());
    }
    Err(Error::new(Code::Usage, "there is no terminal to ask at")
        .hint("--dry-run shows what would be done, --yes does it"))
}

/// Whether to go on: `yes`, or what the user answers. Anything but y or yes is a no.
pub(super) async fn confirmed(yes: bool, question: &str) -> Result<bool> {
    if yes {
        return Ok(true);
    }
    can_ask(yes)?;
    output::note(&format!("{question} [y/N]"));
    let answer = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line).map(|_| line)
    });
    let answer =
        answer.await.map_err(|join| Error::new(Code::Unexpected, "reading the answer panicked").caused_by(join))?;
    let answer = answer.map_err(|error| Error::new(Code::Unexpected, "cannot read the answer").caused_by(error))?;
    let agreed = matches!(answer.trim().to_lowercase().as_str(), "y" | "yes");
    if !agreed {
        output::note("nothing was changed");
    }
    Ok(agreed)
}
