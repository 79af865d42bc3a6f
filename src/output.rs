//! What a command prints: data on standard output, as a table, JSON or one JSON object per line; everything else on
//! standard error. The only place that writes to either.
//!
//! Invariants: a closed pipe is neither an error nor a panic (`events ls | head`); colour is written only to a
//! terminal; text from the database cannot control the terminal ([`printable`]).

mod ask;
mod progress;
#[cfg(feature = "tui")]
mod screen;
mod table;

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use crate::error::{Code, Error, Result};
use crate::stderr;
pub use ask::{confirm, is_attended};
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

/// `text` with control characters written as escapes: an event type with an escape sequence in it must not clear the
/// operator's screen. Line ends too, so that a table row stays one line.
pub fn printable(text: &str) -> Cow<'_, str> {
    // Besides C0 and C1: the marks that turn the direction of writing, by which text can look like other text.
    let bad = |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if !text.contains(bad) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().fold(String::with_capacity(text.len()), |mut safe, c| {
        if bad(c) {
            safe.extend(c.escape_default())
        } else {
            safe.push(c)
        }
        safe
    }))
}

/// `text` in at most `width` characters, the cut marked with `…`.
pub fn shortened(text: &str, width: usize) -> Cow<'_, str> {
    match text.char_indices().nth(width) {
        None => Cow::Borrowed(text),
        Some(_) => Cow::Owned(text.chars().take(width.saturating_sub(1)).chain(['…']).collect()),
    }
}

/// [`age`] of a number of seconds, as statements return it. Below zero, which two clocks can make of a moment ago, is
/// zero.
pub fn age_of(seconds: f64) -> String {
    age(Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or_default())
}

/// A duration for people: `0.8s`, `42s`, `3m 20s`, `5h 12m`, `3d 4h`.
pub fn age(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..10 => format!("{:.1}s", duration.as_secs_f64()),
        10..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h {}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_steer_the_terminal() {
        assert_eq!(printable("order-17 é"), "order-17 é");
        assert_eq!(printable("a\x1b[2Jb\nc\u{9b}"), "a\\u{1b}[2Jb\\nc\\u{9b}");
        assert_eq!(printable("a\u{202e}b"), "a\\u{202e}b");
    }

    #[test]
    fn a_closed_pipe_is_no_error_and_a_full_disk_is_one() {
        assert!(accept_closed_pipe(Err(io::ErrorKind::BrokenPipe.into())).is_ok());
        let full = accept_closed_pipe(Err(io::ErrorKind::StorageFull.into())).unwrap_err();
        assert_eq!(full.code(), Code::Unexpected);
    }

    #[test]
    fn a_cut_is_visible_and_counts_characters() {
        assert_eq!(shortened("ääää", 4), "ääää");
        assert_eq!(shortened("äääää", 4), "äää…");
    }

    #[test]
    fn ages_are_read_at_a_glance() {
        let text = |seconds| age(Duration::from_secs(seconds));
        assert_eq!(age(Duration::from_millis(840)), "0.8s");
        assert_eq!((text(42), text(200)), ("42s".to_owned(), "3m 20s".to_owned()));
        assert_eq!((text(18_720), text(273_600)), ("5h 12m".to_owned(), "3d 4h".to_owned()));
    }
}
