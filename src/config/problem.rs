//! One problem with the settings, and where each value came from.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Default,
    /// A place in the settings file. Lines and columns count from 1, columns in characters.
    File {
        name: String,
        line: usize,
        column: usize,
        span: Range<usize>,
    },
    /// An environment variable.
    Variable(String),
    /// A flag of the command line, as in `--set relay.batch_rows`.
    Flag(String),
}

impl Origin {
    pub(super) fn span(&self) -> Option<Range<usize>> {
        match self {
            Self::File { span, .. } => Some(span.clone()),
            Self::Default | Self::Variable(_) | Self::Flag(_) => None,
        }
    }

    /// Line and column in the settings file.
    pub fn position(&self) -> Option<(usize, usize)> {
        match self {
            Self::File { line, column, .. } => Some((*line, *column)),
            Self::Default | Self::Variable(_) | Self::Flag(_) => None,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { name, line, .. } => write!(f, "{name}:{line}"),
            Self::Variable(name) | Self::Flag(name) => f.write_str(name),
        }
    }
}

/// The source of every value that is not a default, by full key: `relay.batch_rows`, `routing.rule[0].topic`,
/// `consumer.topics[1]`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Provenance {
    origins: BTreeMap<String, Origin>,
    /// Places in the file that a variable or a flag overrides.
    overridden: BTreeMap<String, Origin>,
}

impl Provenance {
    pub(super) fn record(&mut self, key: String, origin: Origin) {
        // Items of a list that a higher source replaces are gone with it.
        let items = format!("{key}[");
        self.origins.retain(|known, _| !known.starts_with(&items));
        if let Some(before) = self.origins.insert(key.clone(), origin)
            && before.span().is_some()
        {
            self.overridden.insert(key, before);
        }
    }

    pub(super) fn record_item(&mut self, key: &str, index: usize, origin: Origin) {
        self.origins.insert(format!("{key}[{index}]"), origin);
    }

    /// The place in the file whose value for `key` does not count.
    pub(super) fn overridden(&self, key: &str) -> Option<Origin> {
        self.overridden.get(key).cloned()
    }

    /// The source of `key`, or of what contains it.
    pub fn of(&self, key: &str) -> Origin {
        let mut key = key;
        loop {
            if let Some(origin) = self.origins.get(key) {
                return origin.clone();
            }
            match key.rfind(['.', '[']) {
                Some(end) => key = &key[..end],
                None => return Origin::Default,
            }
        }
    }
}

/// One thing to put right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The full key that it is about, if it is about one.
    pub key: Option<String>,
    /// What is wrong, as a headline.
    pub title: String,
    /// The details: stands under the caret, or behind the headline if there is no place in the file.
    pub why: String,
    pub origin: Origin,
    /// What to do.
    pub help: Option<String>,
    /// Other values that take part, with a word on each.
    pub(super) related: Vec<(Origin, String)>,
    /// The place in the file whose value is overridden by the one that is wrong.
    pub(super) overrides: Option<Origin>,
}

impl Problem {
    pub(super) fn new(title: impl Into<String>, why: impl Into<String>, origin: Origin) -> Self {
        Self {
            key: None,
            title: title.into(),
            why: why.into(),
            origin,
            help: None,
            related: Vec::new(),
            overrides: None,
        }
    }

    pub(super) fn of(key: impl Into<String>, why: impl Into<String>, origin: Origin) -> Self {
        let key = key.into();
        Self { key: Some(key.clone()), ..Self::new(format!("bad value for `{key}`"), why, origin) }
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub(super) fn maybe_help(mut self, help: Option<String>) -> Self {
        self.help = help.or(self.help);
        self
    }
}
