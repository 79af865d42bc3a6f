//! Finds the programs of an installed PostgreSQL.
//!
//! Downloads nothing and starts nothing but `postgres --version`. Reads no environment: the caller passes the
//! directories in `PATH`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{Code, Error, Result};

/// The oldest PostgreSQL that the schema is tested with.
const OLDEST_MAJOR: u32 = 15;

/// Where packages put the programs, as `folder/*/rest`: Debian and Ubuntu, PGDG on Red Hat, Alpine, Homebrew on
/// Apple and Intel machines, Postgres.app.
const PACKAGE_FOLDERS: [(&str, &str, &str); 7] = [
    ("/usr/lib/postgresql", "", "bin"),
    ("/usr", "pgsql-", "bin"),
    ("/usr/libexec", "postgresql", ""),
    ("/opt/homebrew/opt", "postgresql", "bin"),
    ("/usr/local/opt", "postgresql", "bin"),
    ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
    ("/opt", "postgresql", "bin"),
];

const HINT: &str = "\
install PostgreSQL 15 or newer, or put the folder of its initdb and postgres on PATH
  Debian, Ubuntu:  sudo apt-get install postgresql
  Fedora, RHEL:    sudo dnf install postgresql-server
  Alpine:          sudo apk add postgresql
  macOS:           brew install postgresql@17";

/// `initdb` and `postgres` of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    folder: PathBuf,
    version: String,
}

impl Binaries {
    pub fn initdb(&self) -> PathBuf {
        self.folder.join("initdb")
    }

    pub fn postgres(&self) -> PathBuf {
        self.folder.join("postgres")
    }

    /// The client, if it is installed: by its name when a folder of `path` has it, else with its folder.
    pub fn psql(&self, path: &[PathBuf]) -> Option<PathBuf> {
        if path.iter().any(|folder| folder.join("psql").is_file()) {
            return Some(PathBuf::from("psql"));
        }
        Some(self.folder.join("psql")).filter(|program| program.is_file())
    }

    /// For example `15.18`.
    pub fn version(&self) -> &str {
        &self.version
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

/// The newest PostgreSQL among the usual package folders and `path` (the folders of `PATH`). Of two equal versions the
/// first one found wins, package folders first.
///
/// Errors: [`Code::NoPostgresBinaries`] when there is none, or only older ones than the schema is tested with.
pub fn find(path: &[PathBuf]) -> Result<Binaries> {
    let mut folders = package_folders();
    folders.extend(path.iter().cloned());
    newest_of(&folders, version_of)
}

fn newest_of(folders: &[PathBuf], version_of: impl Fn(&Path) -> Option<Version>) -> Result<Binaries> {
    let mut seen = BTreeSet::new();
    let mut best: Option<Version> = None;
    let mut best_folder = PathBuf::new();
    let mut too_old = Vec::new();
    for folder in folders.iter().filter_map(|folder| real_folder(folder)) {
        if !seen.insert(folder.clone()) {
            continue;
        }
        let Some(version) = version_of(&folder.join("postgres")) else { continue };
        if version.major < OLDEST_MAJOR {
            too_old.push(format!("{} in {}", version.text, folder.display()));
        } else if best.as_ref().is_none_or(|best| *best < version) {
            best = Some(version);
            best_folder = folder;
        }
    }
    match best {
        Some(version) => Ok(Binaries { folder: best_folder, version: version.text }),
        None if too_old.is_empty() => {
            Err(Error::new(Code::NoPostgresBinaries, "found no PostgreSQL programs on this system").hint(HINT))
        }
        None => Err(Error::new(
            Code::NoPostgresBinaries,
            format!("every PostgreSQL found is older than {OLDEST_MAJOR}: {}", too_old.join(", ")),
        )
        .hint(HINT)),
    }
}

fn package_folders() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for (parent, prefix, rest) in PACKAGE_FOLDERS {
        let Ok(entries) = std::fs::read_dir(parent) else { continue };
        let mut found: Vec<_> = entries
            .filter_map(std::result::Result::ok)
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
            .map(|entry| entry.path().join(rest))
            .collect();
        found.sort(); // Directory order differs between runs and machines.
        folders.append(&mut found);
    }
    folders
}

/// The folder that really holds both programs: Debian and Homebrew put links into the folders of `PATH`, and `initdb`
/// looks for `postgres` and the share folder beside itself.
fn real_folder(folder: &Path) -> Option<PathBuf> {
    let initdb = folder.join("initdb").canonicalize().ok()?;
    let real = initdb.parent()?;
    real.join("postgres").is_file().then(|| real.to_owned())
}

/// Compared by number first; the text breaks ties between betas of one version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Version {
    major: u32,
    minor: u32,
    text: String,
}

fn version_of(postgres: &Path) -> Option<Version> {
    let output = Command::new(postgres).arg("--version").stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    parse_version(&String::from_utf8_lossy(&output.stdout))
}

/// Reads `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`, `… 18beta1`, `… 17rc1`.
fn parse_version(text: &str) -> Option<Version> {
    let version = text.split_once("(PostgreSQL)")?.1.split_whitespace().next()?;
    let digits = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>();
    let major = digits(version);
    let minor = version[major.len()..].strip_prefix('.').map(digits).unwrap_or_default();
    Some(Version { major: major.parse().ok()?, minor: minor.parse().unwrap_or(0), text: version.to_owned() })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Files that hold what the program would print: nothing is executed here.
    fn fake_postgres(folder: &Path, version: &str) {
        std::fs::create_dir_all(folder).unwrap();
        for program in ["postgres", "initdb"] {
            std::fs::write(folder.join(program), format!("{program} (PostgreSQL) {version}\n")).unwrap();
        }
    }

    fn newest(folders: &[PathBuf]) -> Result<Binaries> {
        newest_of(folders, |postgres| parse_version(&std::fs::read_to_string(postgres).ok()?))
    }

    #[test]
    fn the_newest_version_is_taken_by_number_not_by_text() {
        let root = tempfile::tempdir().unwrap();
        let folders: Vec<_> = ["16.9", "16.10", "15.18"].map(|version| root.path().join(version)).to_vec();
        for folder in &folders {
            fake_postgres(folder, folder.file_name().unwrap().to_str().unwrap());
        }
        assert_eq!(newest(&folders).unwrap().version(), "16.10");
    }

    #[test]
    fn a_link_on_path_leads_to_the_folder_of_the_programs() {
        let root = tempfile::tempdir().unwrap();
        let (real, links) = (root.path().join("real"), root.path().join("links"));
        fake_postgres(&real, "17.2");
        std::fs::create_dir(&links).unwrap();
        symlink(real.join("initdb"), links.join("initdb")).unwrap();
        assert_eq!(newest(&[links]).unwrap().folder(), real.canonicalize().unwrap());
    }

    #[test]
    fn without_any_programs_the_error_says_what_to_install() {
        let empty = tempfile::tempdir().unwrap();
        let error = newest(&[empty.path().to_owned(), empty.path().join("missing")]).unwrap_err();
        assert_eq!(error.code(), Code::NoPostgresBinaries);
        let hint = error.hint_text().unwrap();
        assert!(
            hint.contains("apt-get install") && hint.contains("dnf install") && hint.contains("brew install"),
            "{hint}"
        );
    }

    #[test]
    fn a_version_that_is_too_old_is_named_in_the_error() {
        let root = tempfile::tempdir().unwrap();
        fake_postgres(root.path(), "13.4");
        let error = newest(&[root.path().to_owned()]).unwrap_err();
        assert_eq!(error.code(), Code::NoPostgresBinaries);
        assert!(error.to_string().contains("13.4"), "{error}");
    }

    #[test]
    fn versions_of_packages_betas_and_nonsense_are_read() {
        let cases = [
            ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n", Some((15, 18))),
            ("postgres (PostgreSQL) 18beta1\n", Some((18, 0))),
            ("postgres (PostgreSQL) 17.6 (Homebrew)", Some((17, 6))),
            ("no such thing", None),
            ("postgres (PostgreSQL) devel", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_version(text).map(|version| (version.major, version.minor)), expected, "{text}");
        }
    }
}
