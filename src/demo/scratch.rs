//! The folder of one demo: private, locked while the demo lives, removed afterwards; and the leftovers of demos that
//! were killed together with their watchdog.
//!
//! Invariant: a folder is removed as a leftover only when it carries our prefix, belongs to the user that would use it,
//! and nobody holds the lock in it. The lock is the kernel's (`flock`), so it ends with its process and no process id
//! is ever trusted. A new folder gets its final name only once it is locked, so that it can never look abandoned.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::demo::account::Account;
use crate::error::{Code, Error, Result};

const PREFIX: &str = "outbox-relay-demo-";
const UNLOCKED_PREFIX: &str = ".outbox-relay-demo-new-";
const LOCK: &str = "lock";

/// A private folder. Dropping it removes it, unless [`Scratch::keep`] was called.
#[derive(Debug)]
pub struct Scratch {
    folder: PathBuf,
    /// Who the server runs as, when this process may not run it itself.
    server_account: Option<Account>,
    kept: bool,
    _lock: File,
}

impl Scratch {
    /// A folder below the system's temporary one, which only the user of the server can enter. Removes leftovers first.
    pub fn create() -> Result<Self> {
        let wanted = tempfile::env::temp_dir();
        let probe =
            tempfile::Builder::new().prefix(UNLOCKED_PREFIX).permissions(Permissions::from_mode(0o700)).tempdir();
        let probe = probe.map_err(|error| io_error("cannot create a folder", &wanted, error))?;
        // The owner of what we just made is who we are; the standard library has no other way to ask.
        let owner = fs::metadata(probe.path()).map_err(|error| io_error("cannot read", probe.path(), error))?.uid();
        let server_account = if owner == 0 { Some(Account::for_server()?) } else { None };
        let base = match &server_account {
            Some(_) if !others_may_work_in(&wanted) => PathBuf::from("/tmp"),
            _ => wanted,
        };
        remove_leftovers(&base, server_account.as_ref().map_or(owner, |account| account.uid));
        Self::create_in(&base, server_account)
    }

    fn create_in(base: &Path, server_account: Option<Account>) -> Result<Self> {
        let unlocked = tempfile::Builder::new()
            .prefix(UNLOCKED_PREFIX)
            .permissions(Permissions::from_mode(0o700))
            .tempdir_in(base)
            .map_err(|error| io_error("cannot create a folder in", base, error))?;
        let fail = |error| io_error("cannot prepare", unlocked.path(), error);
        let lock = File::create(unlocked.path().join(LOCK)).map_err(fail)?;
        lock.try_lock().map_err(|error| fail(error.into()))?;
        if let Some(account) = &server_account {
            chown(unlocked.path(), Some(account.uid), Some(account.gid)).map_err(fail)?;
        }
        let name = unlocked.path().file_name().unwrap_or_default().to_string_lossy().replace(UNLOCKED_PREFIX, PREFIX);
        let folder = base.join(name);
        fs::rename(unlocked.path(), &folder).map_err(fail)?;
        drop(unlocked.keep()); // It has another name now, and this type removes it.
        Ok(Self { folder, server_account, kept: false, _lock: lock })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn server_account(&self) -> Option<&Account> {
        self.server_account.as_ref()
    }

    /// Leaves the folder behind, and no later demo takes it for a leftover.
    pub fn keep(&mut self) {
        if fs::remove_file(self.folder.join(LOCK)).is_ok() {
            self.kept = true;
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        // An initdb that was killed may have a child that still writes for a moment.
        for last in [false, false, false, false, true] {
            match fs::remove_dir_all(&self.folder) {
                Ok(()) => return,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
                Err(error) if last => {
                    tracing::warn!(folder = %self.folder.display(), error = %error, "could not remove the demo's directory");
                }
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }
}

/// Removes what demos of `owner` left behind in `base`, and stops a server that still runs there. Returns how many.
fn remove_leftovers(base: &Path, owner: u32) -> usize {
    let Ok(entries) = fs::read_dir(base) else { return 0 };
    let mut removed = 0;
    for entry in entries.filter_map(std::result::Result::ok) {
        let ours = entry.file_name().to_string_lossy().starts_with(PREFIX)
            && entry.metadata().is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == owner);
        if !ours {
            continue;
        }
        // No lock file: it was kept on purpose. A lock that somebody holds: a demo that runs.
        let Ok(lock) = File::open(entry.path().join(LOCK)) else { continue };
        if lock.try_lock().is_err() {
            continue;
        }
        stop_abandoned_server(&entry.path().join("data"));
        if fs::remove_dir_all(entry.path()).is_ok() {
            removed += 1;
            tracing::info!(folder = %entry.path().display(), "removed leftovers of a killed demo");
        }
    }
    removed
}

/// Stops the server of a data folder at once where we can be sure which process it is: its working directory is the
/// data folder. Elsewhere it goes by itself: a PostgreSQL whose lock file has disappeared stops within a minute.
/// Returns whether a process was told to stop.
fn stop_abandoned_server(data: &Path) -> bool {
    let Ok(text) = fs::read_to_string(data.join("postmaster.pid")) else { return false };
    let Some(pid) = text.lines().next().and_then(|line| line.trim().parse::<u32>().ok()) else { return false };
    let works_there =
        fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| data.canonicalize().is_ok_and(|data| cwd == data));
    if !works_there {
        return false;
    }
    let told = Command::new("/bin/sh")
        .args(["-c", r#"kill -QUIT "$1""#, "sh", &pid.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    tracing::info!(pid, told, "stopping the server of a killed demo");
    told
}

/// Whether a user with no rights of ours can reach `folder`, and remove its own things there: every part of the way
/// must be open to others, and the folder itself writable, as `/tmp` is.
fn others_may_work_in(folder: &Path) -> bool {
    let mode = |part: &Path| fs::metadata(part).map_or(0, |metadata| metadata.mode());
    mode(folder) & 0o002 != 0 && folder.ancestors().all(|part| mode(part) & 0o001 != 0)
}

fn io_error(what: &str, path: &Path, error: std::io::Error) -> Error {
    Error::new(Code::Unexpected, format!("{what} {}", path.display()))
        .caused_by(error)
        .hint("the demo needs a few hundred megabytes below the temporary folder; TMPDIR names another one")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner_of(path: &Path) -> u32 {
        fs::metadata(path).unwrap().uid()
    }

    #[test]
    fn the_folder_is_private_and_gone_after_its_owner() {
        let base = tempfile::tempdir().unwrap();
        let scratch = Scratch::create_in(base.path(), None).unwrap();
        let folder = scratch.folder().to_owned();
        assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o777, 0o700);
        drop(scratch);
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 0, "something is left in the base folder");
    }

    #[test]
    fn a_leftover_is_removed_and_a_running_demo_is_not() {
        let base = tempfile::tempdir().unwrap();
        let running = Scratch::create_in(base.path(), None).unwrap();
        let leftover = base.path().join("outbox-relay-demo-killed");
        fs::create_dir_all(leftover.join("data")).unwrap();
        fs::write(leftover.join(LOCK), "").unwrap();

        assert_eq!(remove_leftovers(base.path(), owner_of(base.path())), 1);
        assert!(!leftover.exists());
        assert!(running.folder().join(LOCK).exists());
    }

    #[test]
    fn nothing_else_is_ever_taken_for_a_leftover() {
        let base = tempfile::tempdir().unwrap();
        let mut kept = Scratch::create_in(base.path(), None).unwrap();
        kept.keep();
        let kept_folder = kept.folder().to_owned();
        drop(kept);
        fs::create_dir(base.path().join("outbox-relay-demo-without-lock")).unwrap();
        fs::create_dir(base.path().join("other")).unwrap();
        fs::write(base.path().join("other").join(LOCK), "").unwrap();
        let target = base.path().join("other");
        std::os::unix::fs::symlink(target, base.path().join("outbox-relay-demo-link")).unwrap();

        assert_eq!(remove_leftovers(base.path(), owner_of(base.path())), 0);
        assert!(kept_folder.exists());
        // A folder of somebody else.
        fs::write(kept_folder.join(LOCK), "").unwrap();
        assert_eq!(remove_leftovers(base.path(), owner_of(base.path()) + 1), 0);
    }

    #[test]
    fn another_user_gets_a_folder_that_it_can_remove_again() {
        let base = tempfile::tempdir().unwrap();
        let folder = base.path().join("folder");
        fs::create_dir(&folder).unwrap();
        for (base_mode, folder_mode, expected) in [(0o755, 0o1777, true), (0o755, 0o755, false), (0o700, 0o1777, false)]
        {
            fs::set_permissions(base.path(), Permissions::from_mode(base_mode)).unwrap();
            fs::set_permissions(&folder, Permissions::from_mode(folder_mode)).unwrap();
            assert_eq!(others_may_work_in(&folder), expected, "{base_mode:o}/{folder_mode:o}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_server_that_works_in_a_leftover_is_stopped() {
        let base = tempfile::tempdir().unwrap();
        let data = base.path().join("outbox-relay-demo-killed/data");
        fs::create_dir_all(&data).unwrap();
        fs::write(base.path().join("outbox-relay-demo-killed").join(LOCK), "").unwrap();
        // A job in the background of a shell ignores SIGINT and SIGQUIT, and so does what it starts; a server does
        // not, whoever started it. Both wait for input that never comes, and end with this test.
        let waits = |folder: &Path| {
            let mut command = Command::new("env");
            command
                .args(["--default-signal=INT,QUIT", "cat"])
                .stdin(Stdio::piped())
                .current_dir(folder)
                .spawn()
                .unwrap()
        };
        let (mut server, mut bystander) = (waits(&data), waits(base.path()));
        // Until then `env` may not have asked for the signal yet.
        let is_cat = |child: &std::process::Child| {
            fs::read_to_string(format!("/proc/{}/comm", child.id())).is_ok_and(|name| name.trim() == "cat")
        };
        while !(is_cat(&server) && is_cat(&bystander)) {
            std::thread::yield_now();
        }
        fs::write(data.join("postmaster.pid"), format!("{}\n{}\n", server.id(), data.display())).unwrap();

        assert_eq!(remove_leftovers(base.path(), owner_of(base.path())), 1);
        assert!(!server.wait().unwrap().success());
        // A recycled process id: the process has nothing to do with the folder.
        fs::create_dir_all(&data).unwrap();
        fs::write(data.join("postmaster.pid"), format!("{}\n", bystander.id())).unwrap();
        assert!(!stop_abandoned_server(&data), "an unrelated process was told to stop");
        bystander.kill().unwrap();
        bystander.wait().unwrap();
    }
}
