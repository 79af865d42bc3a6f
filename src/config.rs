//! Settings: flags over environment over `relay.toml` over defaults, read and checked before anything is opened.
//!
//! Owns the names of settings, their allowed values and their sources; their effect belongs to other modules. The
//! settings themselves are declared once, in `sections.rs`; the reader, the reference, the JSON Schema and the example
//! file are derived from that. Invariants: all problems are reported at once, and no text produced here contains a
//! secret.

pub mod connection;

mod effective;
mod environment;
mod example;
mod macros;
mod mask;
mod problem;
mod reader;
mod reference;
mod report;
mod rules;
mod schema;
pub mod secret_file;
mod sections;
mod source;
mod spec;
mod suggest;
#[cfg(test)]
mod tests;
mod value;

use std::collections::BTreeSet;
use std::path::PathBuf;

use toml::Spanned;
use toml::de::DeTable;

use mask::Masked;
use reader::{Reader, Scope, Section as _};

pub use effective::{EffectiveValue, effective};
pub use example::commented_toml;
pub use problem::{Origin, Problem, Provenance};
pub use reference::reference_markdown;
pub use report::{ConfigError, ProblemRow};
pub use rules::Needs;
pub use schema::schema;
pub use sections::*;
pub use source::{Sources, search_path, user_of_shell};
pub use value::Retention;

/// Settings that passed every check, and where they came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    pub config: Config,
    pub provenance: Provenance,
    /// The settings file, if one was used.
    pub file: Option<PathBuf>,
}

impl Config {
    /// Reads and checks the settings, and the files that hold secrets; opens nothing else.
    pub fn load(sources: &Sources, needs: Needs) -> Result<Loaded, ConfigError> {
        let root = Self::spec();
        let mut problems = Vec::new();
        let (file, unread) = match sources.read_file() {
            Ok(file) => (file, None),
            Err(problem) => (None, Some(*problem)),
        };
        let given = environment::gather(sources, &root, &mut problems);
        let (table, syntax) = file.as_ref().map_or((None, Vec::new()), |file| {
            let (table, errors) = DeTable::parse_recoverable(&file.text);
            (Some(table), errors)
        });
        let mut reader = Reader {
            file: file.as_ref(),
            given: &given,
            root: &root,
            problems,
            provenance: Provenance::default(),
            broken: BTreeSet::new(),
            hidden: Vec::new(),
        };
        let config =
            Scope::section(&mut reader, String::new(), table.as_ref().map(Spanned::get_ref), false, Self::default());
        // What is missing may be in the part that could not be read.
        let is_whole = unread.is_none() && syntax.is_empty();
        rules::check(&config, if is_whole { needs } else { Needs::NOTHING }, &mut reader);
        report_syntax(&mut reader, &syntax);
        reader.problems.extend(unread);
        if reader.problems.is_empty() {
            return Ok(Loaded { config, provenance: reader.provenance, file: file.map(|file| file.path) });
        }
        let Reader { problems, mut hidden, .. } = reader;
        let shown = file.as_ref().map(|file| {
            if let Some(table) = &table {
                mask::in_values(table.get_ref(), &mut hidden);
            }
            mask::in_lines(&file.text, &mut hidden);
            let broken = syntax.iter().filter_map(|error| Some(error.span()?.start));
            mask::in_broken_lines(&file.text, broken, &root.open_keys(), &mut hidden);
            (file.name(), Masked::new(&file.text, hidden))
        });
        Err(ConfigError::new(problems, shown))
    }
}

/// Adds the syntax errors, and drops what else is said about their lines: it would be about a guess of the parser.
fn report_syntax(reader: &mut Reader<'_>, errors: &[toml::de::Error]) {
    let mut lines = BTreeSet::new();
    let mut problems = Vec::new();
    for error in errors {
        let origin = reader.place(error.span().unwrap_or(0..0));
        lines.extend(origin.position().map(|(line, _)| line));
        problems.push(Problem::new("the settings file is not valid TOML", error.message(), origin));
    }
    reader.problems.retain(|problem| problem.origin.position().is_none_or(|(line, _)| !lines.contains(&line)));
    reader.problems.extend(problems);
}
