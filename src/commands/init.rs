//! `init`: writes a commented settings file.

use std::fs::OpenOptions;
use std::io::{self, Write};

use crate::cli::InitArgs;
use crate::config;
use crate::error::{Code, Error, Result};
use crate::output;

pub(super) fn run(args: &InitArgs) -> Result<()> {
    let text = config::commented_toml();
    if args.dry_run {
        return output::raw(text.as_bytes());
    }
    let path = args.path.display();
    let mut options = OpenOptions::new();
    if args.force {
        options.write(true).create(true).truncate(true);
    } else {
        options.write(true).create_new(true);
    }
    let written = options.open(&args.path).and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| {
        if error.kind() == io::ErrorKind::AlreadyExists {
            Error::new(Code::Usage, format!("{path} exists"))
                .hint("overwrite it with --force, or choose another file with --path")
        } else {
            Error::new(Code::Unexpected, format!("cannot write {path}")).caused_by(error)
        }
    })?;
    output::note(&format!(
        "wrote {path}; set database.url and kafka.bootstrap_servers in it, then run: outbox-relay check"
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_exists_is_kept_unless_forced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("relay.toml");
        std::fs::write(&path, "mine").unwrap();
        let args = |force| InitArgs { path: path.clone(), force, dry_run: false };
        assert_eq!(run(&args(false)).unwrap_err().code(), Code::Usage);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
        run(&args(true)).unwrap();
        assert_ne!(std::fs::read_to_string(&path).unwrap(), "mine");
    }
}
