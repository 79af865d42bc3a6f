//! `man`: manual pages, made from the command line's types.

use std::fs;

use clap::CommandFactory;

use crate::cli::{Cli, ManArgs};
use crate::error::{Code, Error, Result};
use crate::output;

pub(super) fn run(args: &ManArgs) -> Result<()> {
    let Some(dir) = &args.dir else { return output::raw(&page()?) };
    let written = fs::create_dir_all(dir).and_then(|()| clap_mangen::generate_to(Cli::command(), dir));
    written
        .map_err(|error| Error::new(Code::Unexpected, format!("cannot write to {}", dir.display())).caused_by(error))?;
    output::note(&format!("wrote the manual pages to {}", dir.display()));
    Ok(())
}

fn page() -> Result<Vec<u8>> {
    let mut page = Vec::new();
    let mut command = Cli::command();
    // Global flags reach the subcommands only when it is built.
    command.build();
    clap_mangen::Man::new(command)
        .render(&mut page)
        .map_err(|error| Error::new(Code::Unexpected, "cannot make the manual page").caused_by(error))?;
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_page_for_every_command() {
        let dir = tempfile::tempdir().unwrap();
        run(&ManArgs { dir: Some(dir.path().to_owned()) }).unwrap();
        for name in ["outbox-relay.1", "outbox-relay-run.1", "outbox-relay-events-ls.1", "outbox-relay-migrate-up.1"] {
            assert!(dir.path().join(name).exists(), "{name} is missing");
        }
        assert!(String::from_utf8(page().unwrap()).unwrap().contains("outbox\\-relay"));
    }
}
