//! The question before a change.

use crate::error::{Code, Error, Result};
use crate::output;

/// Refuses at once what could not be asked about later: there is nobody at the terminal, and no `--yes`.
pub(super) fn can_ask(yes: bool) -> Result<()> {
    if yes || output::is_attended() {
        return Ok(());
    }
    Err(nobody("there is no terminal to ask at".to_owned()))
}

fn nobody(message: String) -> Error {
    Error::new(Code::Usage, message).hint("--dry-run prints what would be done, --yes does it without asking")
}

/// Whether to go on: `yes`, or what the user answers. Anything but y or yes is a no.
pub(super) fn confirmed(yes: bool, question: &str) -> Result<bool> {
    if yes {
        return Ok(true);
    }
    if !output::is_attended() {
        return Err(nobody(format!("{question} There is no terminal to ask at")));
    }
    let agreed = output::confirm(question)?;
    if !agreed {
        output::note("nothing was changed");
    }
    Ok(agreed)
}
