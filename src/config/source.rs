//! Where settings come from: the file, the environment and the flags, collected but not yet parsed.
//!
//! The only place in the crate that reads the process environment. Everything downstream works on [`Sources`], so a
//! test can simulate any process.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::problem::{Origin, Problem};

/// Looked for in this order when no file is named.
const SEARCHED: [&str; 2] = ["relay.toml", "/etc/outbox-relay/relay.toml"];

/// Names the settings file, as `--config` does; the flag wins.
const CONFIG_VARIABLE: &str = "OUTBOX_RELAY_CONFIG";

/// Everything that can give a setting a value, unread.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    file: FileChoice,
    pub(super) variables: BTreeMap<String, OsString>,
    pub(super) flags: Vec<Flag>,
}

#[derive(Debug, Clone, Default)]
enum FileChoice {
    #[default]
    None,
    /// Must exist. Which source named it, for the report.
    Named(PathBuf, Origin),
    /// The first that exists, if one does.
    Searched(Vec<PathBuf>),
    /// Text that stands for a file.
    Text(PathBuf, String),
}

/// A setting given on the command line.
#[derive(Debug, Clone)]
pub(super) struct Flag {
    /// As the user wrote it, without the value: `--set relay.batch_rows`.
    pub(super) name: String,
    /// `None` if there was no `=`.
    pub(super) setting: Option<(String, String)>,
}

impl Sources {
    /// No file, no environment, no flags: the defaults. For tests and for commands that bring their own parts.
    pub fn none() -> Self {
        Self::default()
    }

    /// The environment of this process, and the settings file: `config` if given (`--config`), else the one that
    /// `OUTBOX_RELAY_CONFIG` names, else `./relay.toml`, else `/etc/outbox-relay/relay.toml`.
    pub fn of_process(config: Option<&Path>) -> Self {
        let sources = Self::none()
            .with_variables(std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value))));
        let file = match (config, sources.variables.get(CONFIG_VARIABLE)) {
            (Some(path), _) => FileChoice::Named(path.to_owned(), Origin::Flag("--config".to_owned())),
            (None, Some(path)) if !path.is_empty() => {
                FileChoice::Named(path.into(), Origin::Variable(CONFIG_VARIABLE.to_owned()))
            }
            (None, _) => FileChoice::Searched(SEARCHED.map(PathBuf::from).to_vec()),
        };
        Self { file, ..sources }
    }

    /// A file that must exist.
    #[must_use]
    pub fn with_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.file = FileChoice::Named(path.into(), Origin::Flag("--config".to_owned()));
        self
    }

    /// Text as if it stood in a file at `path`, which need not exist.
    #[must_use]
    pub fn with_text(mut self, path: impl Into<PathBuf>, text: impl Into<String>) -> Self {
        self.file = FileChoice::Text(path.into(), text.into());
        self
    }

    /// Environment variables, those of others included.
    #[must_use]
    pub fn with_variables<N: Into<String>, V: Into<OsString>>(
        mut self,
        variables: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        self.variables.extend(variables.into_iter().map(|(name, value)| (name.into(), value.into())));
        self
    }

    /// `--set section.key=value`. Later ones win.
    #[must_use]
    pub fn with_set(mut self, assignment: &str) -> Self {
        let setting = assignment.split_once('=').map(|(key, value)| (key.trim().to_owned(), value.to_owned()));
        // Without `=` the whole may be a secret that lost its key.
        let name = setting.as_ref().map_or_else(|| "--set".to_owned(), |(key, _)| format!("--set {key}"));
        self.flags.push(Flag { name, setting });
        self
    }

    /// A flag of its own that stands for a setting, as `--log-format json` stands for `telemetry.log_format`.
    #[must_use]
    pub fn with_flag(mut self, flag: &str, key: &str, value: &str) -> Self {
        self.flags.push(Flag { name: flag.to_owned(), setting: Some((key.to_owned(), value.to_owned())) });
        self
    }

    /// The settings file, if there is one.
    pub(super) fn read_file(&self) -> Result<Option<SettingsFile>, Box<Problem>> {
        match &self.file {
            FileChoice::None => Ok(None),
            FileChoice::Text(path, text) => Ok(Some(SettingsFile { path: path.clone(), text: text.clone() })),
            FileChoice::Named(path, origin) => match std::fs::read(path) {
                Ok(bytes) => SettingsFile::new(path, bytes).map(Some),
                Err(error) => Err(unreadable(
                    path,
                    &error,
                    origin.clone(),
                    "outbox-relay init writes a settings file; without --config, ./relay.toml is used if it exists",
                )),
            },
            FileChoice::Searched(paths) => {
                for path in paths {
                    match std::fs::read(path) {
                        Ok(bytes) => return SettingsFile::new(path, bytes).map(Some),
                        Err(error) if error.kind() == ErrorKind::NotFound => {}
                        Err(error) => {
                            return Err(unreadable(
                                path,
                                &error,
                                Origin::Default,
                                "make it readable for this user, or name another file with --config",
                            ));
                        }
                    }
                }
                Ok(None)
            }
        }
    }
}

fn unreadable(path: &Path, error: &std::io::Error, origin: Origin, help: &str) -> Box<Problem> {
    Box::new(
        Problem::new(format!("cannot read the settings file {}", path.display()), error.to_string(), origin).help(help),
    )
}

/// The settings file as text.
#[derive(Clone)]
pub(super) struct SettingsFile {
    pub(super) path: PathBuf,
    pub(super) text: String,
}

impl SettingsFile {
    fn new(path: &Path, bytes: Vec<u8>) -> Result<Self, Box<Problem>> {
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Self { path: path.to_owned(), text }),
            Err(error) => {
                let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
                let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
                let why = format!("line {line} is not UTF-8");
                let title = format!("cannot read the settings file {}", path.display());
                Err(Box::new(
                    Problem::new(title, why, Origin::Default).help("save it as UTF-8, the only encoding of TOML"),
                ))
            }
        }
    }

    pub(super) fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// Where relative paths in the file start.
    pub(super) fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }
}

/// The folders in which this process looks for programs.
pub fn search_path() -> Vec<PathBuf> {
    std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default()
}

/// Who is at the terminal, if the environment says so; the person behind `sudo` rather than root.
pub fn user_of_shell() -> Option<String> {
    ["SUDO_USER", "USER", "LOGNAME"]
        .iter()
        .find_map(|name| std::env::var_os(name)?.into_string().ok().filter(|user| !user.is_empty()))
}
