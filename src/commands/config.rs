//! `config`: the settings in force, their schema and their reference.

use serde::Serialize;

use super::{Context, Result};
use crate::cli::ConfigCommand;
use crate::config::{self, ConfigError, EffectiveValue, Needs};
use crate::error::{Code, Error};
use crate::output::{self, Align, Cell, Format, Table, Tone};

pub(super) fn run(context: &Context, command: &ConfigCommand) -> Result<()> {
    match command {
        ConfigCommand::Show => show(context),
        ConfigCommand::Validate => validate(context),
        ConfigCommand::Schema => {
            let schema = serde_json::to_string_pretty(&config::schema())
                .map_err(|error| Error::new(Code::Unexpected, "cannot print the schema").caused_by(error))?;
            Ok(output::raw(format!("{schema}\n").as_bytes())?)
        }
        ConfigCommand::Reference => Ok(output::raw(config::reference_markdown().as_bytes())?),
    }
}

fn show(context: &Context) -> Result<()> {
    let loaded = context.load(Needs::NOTHING)?;
    let values = config::effective(&loaded);
    output::data(context.format(), &values, &values, || table(&values))?;
    if let (Format::Table, Some(file)) = (context.format(), &loaded.file) {
        output::note(&format!("settings file: {}", file.display()));
    }
    Ok(())
}

fn table(values: &[EffectiveValue]) -> String {
    let mut table = Table::new(&[("SETTING", Align::Left), ("VALUE", Align::Left), ("FROM", Align::Left)]);
    for value in values {
        // What somebody set stands out against the defaults.
        let tone = if value.source == "default" { Tone::Faint } else { Tone::Plain };
        table.row([Cell::new(&value.key), Cell::new(value.text()).tone(tone), Cell::new(&value.source).tone(tone)]);
    }
    table.render()
}

#[derive(Debug, Serialize)]
struct Verdict<P> {
    valid: bool,
    problems: Vec<P>,
}

fn validate(context: &Context) -> Result<()> {
    let checked = context.load(Needs::BOTH);
    let problems = checked.as_ref().err().map(ConfigError::rows).unwrap_or_default();
    match context.format() {
        // The report of the failure has the lines of the file: better than a table.
        Format::Table => {}
        format @ (Format::Json | Format::Ndjson) => {
            output::one(format, &Verdict { valid: problems.is_empty(), problems }, String::new)?;
        }
    }
    checked?;
    output::note("the settings are valid");
    Ok(())
}
