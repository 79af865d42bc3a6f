//! The binary, run to its end: exit code, stdout, stderr.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use super::binary;

/// Longer than any command takes that ends at all.
const LIMIT: Duration = Duration::from_secs(120);

/// A command line of `outbox-relay`, in an empty folder and with no settings but those given here.
pub struct Call {
    args: Vec<OsString>,
    environment: Vec<(String, String)>,
    folder: Option<PathBuf>,
}

pub fn outbox_relay(args: &[&str]) -> Call {
    Call { args: args.iter().map(OsString::from).collect(), environment: Vec::new(), folder: None }
}

impl Call {
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Runs in a folder that may hold a `relay.toml`.
    #[must_use]
    pub fn within(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// Runs it to its end. Fails the test after [`LIMIT`].
    pub async fn run(self) -> Finished {
        self.start().finish().await
    }

    /// Starts it and returns at once. Killed when dropped.
    pub fn start(self) -> Started {
        let empty = tempfile::tempdir().expect("a temporary folder");
        let mut command = tokio::process::Command::new(binary());
        command.args(&self.args).current_dir(self.folder.as_deref().unwrap_or(empty.path()));
        clean_environment(command.as_std_mut());
        let running = command
            .envs(self.environment)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the binary starts");
        Started { running, call: format!("outbox-relay {:?}", self.args), _folder: empty }
    }
}

/// A call that runs.
pub struct Started {
    running: tokio::process::Child,
    call: String,
    _folder: tempfile::TempDir,
}

impl Started {
    /// Sends a signal by its name: `INT`, `KILL`.
    pub fn signal(&self, name: &str) {
        let process = self.running.id().unwrap_or_else(|| panic!("{} has ended", self.call)).to_string();
        let status = std::process::Command::new("kill").args([&format!("-{name}"), &process]).status();
        assert!(status.expect("kill starts").success(), "{}: kill -{name}", self.call);
    }

    /// Waits for its end. Fails the test after [`LIMIT`].
    pub async fn finish(self) -> Finished {
        let output = tokio::time::timeout(LIMIT, self.running.wait_with_output())
            .await
            .unwrap_or_else(|_| panic!("{} still runs after {LIMIT:?}", self.call))
            .expect("its output");
        Finished {
            call: self.call,
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("UTF-8"),
        }
    }
}

/// Takes away what the developer or the CI has set, so that a test sees only its own settings.
pub fn clean_environment(command: &mut std::process::Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("OUTBOX_RELAY_") || text == "DATABASE_URL" || text == "KAFKA_BOOTSTRAP_SERVERS" {
            command.env_remove(&name);
        }
    }
}

/// How a call ended.
#[derive(Debug)]
pub struct Finished {
    pub call: String,
    /// `None` when a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}\nstdout:\n{}\nstderr:\n{}", self.call, self.stdout, self.stderr);
        self
    }

    /// Its data, for `-o json`.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{}: {error}\n{}", self.call, self.stdout))
    }
}
