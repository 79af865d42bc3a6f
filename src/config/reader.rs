//! From the sources' values to typed sections: the strongest source wins, every source is checked.
//!
//! A value that a stronger source overrides is still read, so that a mistake in the file does not surface only on the
//! day the variable is gone.

mod setting;
mod tables;

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::environment::{Given, Layer};
use super::problem::{Origin, Problem, Provenance};
use super::secret_file;
use super::source::SettingsFile;
use super::spec::{SectionSpec, join};
use super::value::{Bad, Scalar};
use crate::secret::Secret;
pub(super) use setting::{Section, Setting, scalar_settings};

/// What has been found out so far.
pub(super) struct Reader<'a> {
    pub(super) file: Option<&'a SettingsFile>,
    pub(super) given: &'a [Given],
    pub(super) root: &'a SectionSpec,
    pub(super) problems: Vec<Problem>,
    pub(super) provenance: Provenance,
    /// Keys that have a problem already: rules about them are not checked.
    pub(super) broken: BTreeSet<String>,
    /// Values that must not be shown in a snippet.
    pub(super) hidden: Vec<Range<usize>>,
}

impl<'a> Reader<'a> {
    /// A place in the settings file.
    pub(super) fn place(&self, span: Range<usize>) -> Origin {
        let Some(file) = self.file else { return Origin::Default };
        let before = &file.text[..file.text.floor_char_boundary(span.start)];
        let line = before.matches('\n').count() + 1;
        let column = before[before.rfind('\n').map_or(0, |end| end + 1)..].chars().count() + 1;
        Origin::File { name: file.name(), line, column, span }
    }

    fn bad(&mut self, key: &str, bad: Bad, origin: Origin) {
        self.broken.insert(key.to_owned());
        let origin = bad.span.map_or(origin, |span| self.place(span));
        self.problems.push(Problem::of(key, bad.why, origin).maybe_help(bad.help));
    }

    fn folder(&self) -> &'a Path {
        self.file.map_or(Path::new(""), SettingsFile::folder)
    }
}

/// One table while it is read.
pub(super) struct Scope<'r, 'a> {
    reader: &'r mut Reader<'a>,
    path: String,
    table: Option<&'a DeTable<'a>>,
    /// Variables and flags reach tables, but not lists of tables.
    listed: bool,
}

/// A value as a source gives it.
enum Raw<'a> {
    Toml(&'a Spanned<DeValue<'a>>),
    Text(&'a Given),
}

impl Raw<'_> {
    fn parse<T: Scalar>(&self, folder: &Path) -> Result<T, Bad> {
        match self {
            Self::Toml(value) => T::from_toml(value.get_ref(), folder),
            Self::Text(given) => T::from_text(&given.text),
        }
    }

    fn layer(&self) -> Layer {
        match self {
            Self::Toml(_) => Layer::File,
            Self::Text(given) => given.layer,
        }
    }
}

impl<'r, 'a> Scope<'r, 'a> {
    /// Reads the whole of a section, and complains about keys that it does not have.
    pub(super) fn section<S: Section>(
        reader: &'r mut Reader<'a>,
        path: String,
        table: Option<&'a DeTable<'a>>,
        listed: bool,
        fallback: S,
    ) -> S {
        let mut scope = Self { reader, path, table, listed };
        scope.refuse_unknown_keys(&S::spec());
        S::read_fields(&mut scope, fallback)
    }

    pub(super) fn scalar<T: Scalar>(&mut self, key: &str, fallback: T) -> T {
        let full = join(&self.path, key);
        let mut value = fallback;
        for raw in self.raws(key) {
            match raw.parse(self.reader.folder()) {
                Ok(read) => {
                    value = read;
                    self.record(&full, &raw);
                }
                Err(bad) => self.bad_value(&full, bad, &raw),
            }
        }
        value
    }

    /// A secret itself, or the file that holds it. A stronger source wins in either form.
    pub(super) fn secret(&mut self, key: &str, fallback: Secret) -> Secret {
        let full = join(&self.path, key);
        let file_key = format!("{key}_file");
        let (direct, from_file) = (self.raws(key), self.raws(&file_key));
        let mut value = fallback;
        for layer in [Layer::File, Layer::SharedVariable, Layer::Variable, Layer::Flag] {
            let in_layer = |raws: &[Raw<'a>]| raws.iter().rposition(|raw| raw.layer() == layer);
            let raw = match (in_layer(&direct), in_layer(&from_file)) {
                (None, None) => continue,
                (Some(_), Some(at)) => {
                    let bad = Bad::new(format!("`{full}` is also set, and only one of the two can apply"))
                        .help("remove one of them");
                    self.bad_value(&format!("{full}_file"), bad, &from_file[at]);
                    self.reader.broken.insert(full.clone());
                    continue;
                }
                (Some(at), None) => {
                    let raw = &direct[at];
                    raw.parse(self.reader.folder()).map(|secret| value = secret).map(|()| raw).map_err(|bad| (bad, raw))
                }
                (None, Some(at)) => {
                    let raw = &from_file[at];
                    let path: Result<std::path::PathBuf, Bad> = raw.parse(self.reader.folder());
                    path.and_then(|path| secret_file::read(&path).map_err(Bad::new))
                        .map(|secret| value = secret)
                        .map(|()| raw)
                        .map_err(|bad| (bad, raw))
                }
            };
            match raw {
                Ok(raw) => self.record(&full, raw),
                Err((bad, raw)) => self.bad_value(&full, bad, raw),
            }
        }
        value
    }

    /// What the sources give for `key`, the weakest first.
    fn raws(&self, key: &str) -> Vec<Raw<'a>> {
        let full = join(&self.path, key);
        let file = self.table.and_then(|table| table.get(key)).map(Raw::Toml);
        let texts = self.reader.given.iter().filter(|given| !self.listed && given.key == full).map(Raw::Text);
        file.into_iter().chain(texts).collect()
    }

    fn origin(&self, raw: &Raw<'_>) -> Origin {
        match raw {
            Raw::Toml(value) => self.reader.place(value.span()),
            Raw::Text(given) => given.origin.clone(),
        }
    }

    fn record(&mut self, key: &str, raw: &Raw<'_>) {
        self.reader.provenance.record(key.to_owned(), self.origin(raw));
        if let Raw::Toml(value) = raw
            && let DeValue::Array(items) = value.get_ref()
        {
            for (index, item) in items.iter().enumerate() {
                let origin = self.reader.place(item.span());
                self.reader.provenance.record_item(key, index, origin);
            }
        }
    }

    fn bad_value(&mut self, key: &str, bad: Bad, raw: &Raw<'_>) {
        let origin = self.origin(raw);
        let below = self.reader.provenance.of(key);
        let overridden = Some(below).filter(|below| matches!(raw, Raw::Text(_)) && below.span().is_some());
        let why = match raw {
            Raw::Text(given) if !self.is_secret(key) => format!("{}, found `{}`", bad.why, given.text),
            Raw::Text(_) | Raw::Toml(_) => bad.why.clone(),
        };
        self.reader.bad(key, Bad { why, ..bad }, origin);
        if let Some(problem) = self.reader.problems.last_mut() {
            problem.overrides = overridden;
        }
    }

    fn is_secret(&self, key: &str) -> bool {
        let key = key.strip_suffix("_file").unwrap_or(key);
        let secret = |leaf: &super::spec::Leaf| leaf.path == key && leaf.kind == super::spec::LeafKind::Secret;
        self.reader.root.leaves().iter().any(secret)
    }
}
