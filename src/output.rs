//! What a command prints: data on standard output, as a table, JSON or one JSON object per line; everything else on
//! standard error. The only place that writes to either.
//!
//! Invariants: a closed pipe is neither an error nor a panic (`events ls | head`); colour is written only to a
//! terminal; text from the database cannot control the terminal ([`printable`]).

mod ask;
mod indent;
mod progress;
#[cfg(feature = "tui")]
mod screen;
mod table;

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use crate::error::{Code, Error, Result};
use crate::stderr;
pub use crate::text::{age, age_of, printable, shortened};
pub use ask::{confirm, is_attended};
pub use indent::indented;
pub use progress::Progress;
#[cfg(feature = "tui")]
pub use screen::{Key, Screen};
pub use table::{Align, Cell, Table, Tone};

/// Output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Table,
    /// One document.
    Json,
    /// One object per line, for streams and line tools.
    Ndjson,
}

impl Format {
    pub const ALL: [Self; 3] = [Self::Table, Self::Json, Self::Ndjson];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Json => "json",
            Self::Ndjson => "ndjson",
        }
    }
}

/// When to use colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// On a terminal, unless `NO_COLOR` is set.
    Auto,
    Always,
    Never,
}

impl Colour {
    pub const ALL: [Self; 3] = [Self::Auto, Self::Always, Self::Never];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Always => "always",
            Self::Never => "never",
        }
    }
}

/// Decides about colour for the whole process, on both streams.
pub fn set_colour(colour: Colour) {
    match colour {
        Colour::Auto => anstream::ColorChoice::Auto,
        Colour::Always => anstream::ColorChoice::Always,
        Colour::Never => anstream::ColorChoice::Never,
    }
    .write_global();
}

/// Whether standard output goes to a person's terminal.
pub fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Whether colour may be written to standard output, by `--color`, `NO_COLOR` and the terminal.
pub fn has_colour() -> bool {
    anstream::AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never
}

/// Prints one line of JSON. False when the reader has closed its end: whoever prints on and on should stop then.
pub fn line<D: Serialize>(document: &D) -> Result<bool> {
    let text = json(serde_json::to_string(document))? + "\n";
    match write_to(&mut io::stdout().lock(), text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        written => accept_closed_pipe(written).map(|()| true),
    }
}

/// Prints `document` as JSON, `rows` as one line each, or `table`, by `format`. For a single thing the document is its
/// one row.
pub fn data<D, R>(format: Format, document: &D, rows: &[R], table: impl FnOnce() -> String) -> Result<()>
where
    D: Serialize + ?Sized,
    R: Serialize,
{
    let text = match format {
        Format::Table => table(),
        Format::Json => json(serde_json::to_string_pretty(document))? + "\n",
        Format::Ndjson => {
            let mut lines = String::new();
            for row in rows {
                lines.push_str(&json(serde_json::to_string(row))?);
                lines.push('\n');
            }
            lines
        }
    };
    text_to_stdout(&text)
}

/// Prints one thing: `document` as JSON, or `table`.
pub fn one<D: Serialize>(format: Format, document: &D, table: impl FnOnce() -> String) -> Result<()> {
    data(format, document, std::slice::from_ref(document), table)
}

/// Prints text with ANSI styles, which are removed where there shall be no colour.
pub fn text_to_stdout(text: &str) -> Result<()> {
    accept_closed_pipe(write_to(&mut anstream::stdout().lock(), text.as_bytes()))
}

/// Prints bytes as they are: generated files.
pub fn raw(bytes: &[u8]) -> Result<()> {
    accept_closed_pipe(write_to(&mut io::stdout().lock(), bytes))
}

/// A remark on standard error: what was done, how to go on.
pub fn note(text: &str) {
    let colour = anstream::AutoStream::choice(&io::stderr());
    let mut stream = anstream::AutoStream::new(Vec::new(), colour);
    if stream.write_all(format!("{text}\n").as_bytes()).is_ok() {
        stderr::write(stream.into_inner());
    }
}

/// The report of a failed command on standard error.
pub fn report(error: &Error) {
    let (bad, help) = (style(AnsiColor::Red).bold(), style(AnsiColor::Cyan));
    let mut text = format!("{bad}error[{}]{bad:#}: {}", error.code().as_str(), error.chain());
    if let Some(hint) = error.hint_text() {
        for (n, line) in hint.lines().enumerate() {
            let lead = if n == 0 { format!("{help}help{help:#}: ") } else { "      ".to_owned() };
            write!(text, "\n  {lead}{line}").expect("writing to a String cannot fail");
        }
    }
    note(&text);
}

/// A foreground colour.
pub fn style(colour: AnsiColor) -> Style {
    Style::new().fg_color(Some(colour.into()))
}

fn json(text: serde_json::Result<String>) -> Result<String> {
    text.map_err(|error| Error::new(Code::Unexpected, "cannot print as JSON").caused_by(error))
}

fn write_to(stream: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes)?;
    stream.flush()
}

fn accept_closed_pipe(written: io::Result<()>) -> Result<()> {
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::new(Code::Unexpected, "cannot write to standard output").caused_by(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_pipe_is_no_error_and_a_full_disk_is_one() {
        assert!(accept_closed_pipe(Err(io::ErrorKind::BrokenPipe.into())).is_ok());
        let full = accept_closed_pipe(Err(io::ErrorKind::StorageFull.into())).unwrap_err();
        assert_eq!(full.code(), Code::Unexpected);
    }
}
