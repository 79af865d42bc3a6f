//! `config`: the settings in force, their schema and their reference.

use super::{Context, seams};
use crate::cli::ConfigCommand;
use crate::error::Result;
use crate::output;

pub(super) fn run(context: &Context, command: &ConfigCommand) -> Result<()> {
    match command {
        ConfigCommand::Show => seams::show_settings(context),
        ConfigCommand::Schema => output::raw(seams::settings_schema().as_bytes()),
        ConfigCommand::Reference => output::raw(seams::settings_reference().as_bytes()),
        ConfigCommand::Validate => {
            context.settings()?;
            output::note("the settings are valid");
            Ok(())
        }
    }
}
