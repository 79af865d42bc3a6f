//! All problems with the settings in one report, in the style of rustc: headline, place, source line, caret, help.
//!
//! Invariant: a [`ConfigError`] holds the file only in masked form, so nothing made from it can show a secret.

use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde::Serialize;

use super::mask::Masked;
use super::problem::{Origin, Problem};
use crate::error::{Code, Error};

/// Why the settings cannot be used: every problem there is, in the order of the file.
#[derive(Clone)]
pub struct ConfigError {
    problems: Vec<Problem>,
    /// Name and masked text of the settings file.
    file: Option<(String, Masked)>,
}

/// One problem as data, for `config validate -o json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProblemRow {
    pub key: Option<String>,
    pub problem: String,
    pub why: String,
    /// `relay.toml:12`, a variable or a flag; nothing if the setting is missing.
    pub source: Option<String>,
    pub line: Option<usize>,
    pub column: Option<usize>,
    pub help: Option<String>,
}

impl ConfigError {
    pub(super) fn new(mut problems: Vec<Problem>, file: Option<(String, Masked)>) -> Self {
        // The file from top to bottom, then the environment, then the flags, then what is missing.
        problems.sort_by_key(|problem| match &problem.origin {
            Origin::File { span, .. } => (0, span.start),
            Origin::Variable(_) => (1, 0),
            Origin::Flag(_) => (2, 0),
            Origin::Default => (3, 0),
        });
        Self { problems, file }
    }

    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    pub fn rows(&self) -> Vec<ProblemRow> {
        let row = |problem: &Problem| ProblemRow {
            key: problem.key.clone(),
            problem: problem.title.clone(),
            why: problem.why.clone(),
            source: Some(&problem.origin).filter(|origin| **origin != Origin::Default).map(Origin::to_string),
            line: problem.origin.position().map(|(line, _)| line),
            column: problem.origin.position().map(|(_, column)| column),
            help: problem.help.clone(),
        };
        self.problems.iter().map(row).collect()
    }

    /// The whole report, ending with a line that counts the problems.
    pub fn render(&self, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let mut text = String::new();
        for problem in &self.problems {
            text.push_str(&renderer.render(&[self.group(problem)]));
            text.push_str("\n\n");
        }
        text.push_str(&self.to_string());
        text.push('\n');
        text
    }

    fn group<'p>(&'p self, problem: &'p Problem) -> Group<'p> {
        let code = Code::ConfigInvalid.as_str();
        let place = match (&problem.origin, &self.file) {
            (Origin::File { span, .. }, Some(file)) => Some((span, file)),
            (Origin::File { .. } | Origin::Default | Origin::Variable(_) | Origin::Flag(_), _) => None,
        };
        let mut group = match place {
            Some((span, (name, masked))) => {
                let snippet = Snippet::source(masked.text())
                    .path(name.as_str())
                    .annotation(AnnotationKind::Primary.span(visible(masked, span)).label(problem.why.as_str()));
                let related = problem.related.iter().filter_map(|(origin, word)| Some((origin.span()?, word)));
                let snippet = related.fold(snippet, |snippet, (span, word)| {
                    snippet.annotation(AnnotationKind::Context.span(visible(masked, &span)).label(word.as_str()))
                });
                Group::with_title(Level::ERROR.primary_title(problem.title.as_str()).id(code)).element(snippet)
            }
            None => {
                let title = match &problem.origin {
                    Origin::Variable(name) | Origin::Flag(name) if !problem.title.contains(name.as_str()) => {
                        format!("{} in {name}: {}", problem.title, problem.why)
                    }
                    Origin::Variable(_) | Origin::Flag(_) | Origin::Default | Origin::File { .. } => {
                        format!("{}: {}", problem.title, problem.why)
                    }
                };
                Group::with_title(Level::ERROR.primary_title(title).id(code))
            }
        };
        if let Some(Origin::File { name, line, column, .. }) = &problem.overrides {
            group = group.element(Level::NOTE.message(format!("it overrides {name}:{line}:{column}")));
        }
        for (origin, word) in &problem.related {
            let in_snippet = place.is_some() && origin.span().is_some();
            if !in_snippet && *origin != Origin::Default {
                group = group.element(Level::NOTE.message(format!("{word} comes from {origin}")));
            }
        }
        match &problem.help {
            Some(help) => group.element(Level::HELP.message(help.as_str())),
            None => group,
        }
    }
}

/// The place to underline: on one line, and at least one character.
fn visible(masked: &Masked, span: &Range<usize>) -> Range<usize> {
    let span = masked.map(span);
    let text = masked.text();
    let start = text.floor_char_boundary(span.start.min(text.len()));
    let rest = &text[start..];
    let line = rest.find(['\n', '\r']).unwrap_or(rest.len());
    let end = text.ceil_char_boundary(span.end.clamp(start, start + line));
    start..end.max(start)
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problems.len() {
            1 => f.write_str("there is a problem with the settings; nothing was started"),
            count => write!(f, "there are {count} problems with the settings; nothing was started"),
        }
    }
}

impl fmt::Debug for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigError").field("problems", &self.problems).finish_non_exhaustive()
    }
}

impl std::error::Error for ConfigError {}

impl From<ConfigError> for Error {
    /// For callers that print errors themselves; the command line prints [`ConfigError::render`].
    fn from(error: ConfigError) -> Self {
        Self::new(Code::ConfigInvalid, format!("the settings cannot be used\n\n{}", error.render(false).trim_end()))
    }
}
