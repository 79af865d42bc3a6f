//! A private PostgreSQL that lives as long as this process.
//!
//! Uses the programs found by `binaries` and a folder of `scratch`; never an existing server, and no `database.url`.
//! The server listens on 127.0.0.1 alone, on a free port, with a random password that only the private folder holds. It
//! runs with PostgreSQL's own durable defaults (`fsync` and `synchronous_commit` on): what the demo measures is the
//! real thing.
//!
//! Invariant: the server does not outlive its owner.
//! - Stop, error, panic: [`Drop`] closes a pipe, the watchdog (`watchdog.sh`) stops the server and removes the folder.
//! - This process is killed: the kernel closes the pipe, and the watchdog does the same.
//! - The watchdog is killed too: the next demo stops the server and removes the folder (`scratch`).
//!
//! The watchdog has a process group of its own, so Ctrl-C reaches the server through us alone.

use std::fs::File;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::{OpenOptionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::config::DatabaseConfig;
use crate::db::{Database, Role};
use crate::demo::binaries::Binaries;
use crate::demo::scratch::Scratch;
use crate::error::{Code, Error, Result};
use crate::secret::Secret;

const WATCHDOG: &str = include_str!("watchdog.sh");
const USER: &str = "demo";
/// Maximum wait for the first connection. A cold laptop disk takes a few seconds; a guess with room.
const START_LIMIT: Duration = Duration::from_secs(30);
/// Longer than the watchdog insists before it kills.
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// Another program may take the free port between our look and the server's: look again.
const START_ATTEMPTS: u32 = 3;
const LOG_TAIL_LINES: usize = 12;

/// Nothing that trades safety for speed.
const SETTINGS: [&str; 5] = [
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=", // A socket in /tmp could be taken for somebody's real server.
    "logging_collector=off",
    "log_destination=stderr",
    "cluster_name=outbox-relay-demo",
];

/// Whether the data is still there when the demo has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Afterwards {
    Remove,
    /// Stopped cleanly and left in its folder.
    Keep,
}

/// A running server. Dropping it stops it and removes its data; that blocks for about 50 ms.
#[derive(Debug)]
pub struct PrivatePostgres {
    // Fields drop in this order: the server is stopped before its folder goes.
    server: Watched,
    scratch: Scratch,
    port: u16,
    password: Secret,
    afterwards: Afterwards,
}

impl PrivatePostgres {
    /// Makes a data folder, starts the server and waits until it accepts connections: about a second.
    ///
    /// Errors: [`Code::PostgresUnreachable`] with the end of the server's log. Cancel safe: dropping the future stops
    /// and removes what was started.
    pub async fn start(binaries: &Binaries, afterwards: Afterwards) -> Result<Self> {
        Self::start_with(binaries, afterwards, &SETTINGS).await
    }

    async fn start_with(binaries: &Binaries, afterwards: Afterwards, server_settings: &[&str]) -> Result<Self> {
        let scratch = Scratch::create()?;
        let password = random_password();
        write_private(&scratch, "password", password.expose())?;
        init_data(binaries, &scratch).await?;
        let mut attempt = 1;
        loop {
            let port = free_port()?;
            let mut server =
                Watched::spawn(&server_command(binaries, &scratch, port, server_settings), &scratch, afterwards)?;
            let ready = wait_until_ready(&mut server, &settings(port, &password, "postgres")).await;
            match ready {
                Ok(()) => {
                    write_private(&scratch, "pgpass", &format!("127.0.0.1:{port}:*:{USER}:{}\n", password.expose()))?;
                    return Ok(Self { server, scratch, port, password, afterwards });
                }
                Err(_) if attempt < START_ATTEMPTS && server.ended().is_some() => attempt += 1,
                Err(error) => return Err(with_log_tail(error, &scratch)),
            }
        }
    }

    /// Settings of a connection to one of its databases.
    pub fn settings(&self, database: &str) -> DatabaseConfig {
        settings(self.port, &self.password, database)
    }

    /// The address of a database for a user who looks into it while the demo runs. Holds no password, only the name of
    /// the private file with it.
    pub fn public_url(&self, database: &str) -> String {
        let passfile = self.scratch.folder().join("pgpass");
        format!("postgres://{USER}@127.0.0.1:{}/{database}?passfile={}", self.port, passfile.display())
    }

    /// The command that starts a kept server again, and the folder to remove one day.
    pub fn restart_command(&self, binaries: &Binaries) -> String {
        let postgres = binaries.postgres();
        format!(
            "{} -D {} -p {} -c unix_socket_directories=",
            postgres.display(),
            data(&self.scratch).display(),
            self.port
        )
    }

    /// Fails when the server has ended by itself.
    pub fn check(&mut self) -> Result<()> {
        match self.server.ended() {
            None => Ok(()),
            Some(status) => {
                let error = Error::new(Code::PostgresUnreachable, format!("the private PostgreSQL ended ({status})"));
                Err(with_log_tail(error, &self.scratch))
            }
        }
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        self.server.stop();
        if self.afterwards == Afterwards::Keep {
            self.scratch.keep();
        }
    }
}

fn data(scratch: &Scratch) -> PathBuf {
    scratch.folder().join("data")
}

fn log(scratch: &Scratch) -> PathBuf {
    scratch.folder().join("log")
}

fn settings(port: u16, password: &Secret, database: &str) -> DatabaseConfig {
    let url = Secret::new(format!("postgres://{USER}:{}@127.0.0.1:{port}/{database}", password.expose()));
    DatabaseConfig { url, ..DatabaseConfig::default() }
}

/// 244 random bits from the operating system, as letters that need no quoting in a URL or a password file.
fn random_password() -> Secret {
    Secret::new(format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple()))
}

/// A port that is free now, because the kernel just gave it to us.
pub(super) fn free_port() -> Result<u16> {
    let port =
        TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr()).map(|address| address.port());
    port.map_err(|error| Error::new(Code::Unexpected, "no free port on 127.0.0.1").caused_by(error))
}

/// A file that only the user of the server (and root) can read.
fn write_private(scratch: &Scratch, name: &str, text: &str) -> Result<()> {
    let path = scratch.folder().join(name);
    let write = || {
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        file.write_all(text.as_bytes())?;
        match scratch.server_account() {
            Some(account) => chown(&path, Some(account.uid), Some(account.gid)),
            None => Ok(()),
        }
    };
    write().map_err(|error| Error::new(Code::Unexpected, format!("cannot write {}", path.display())).caused_by(error))
}

async fn init_data(binaries: &Binaries, scratch: &Scratch) -> Result<()> {
    let mut command = Command::new(binaries.initdb());
    command
        .arg("--pgdata")
        .arg(data(scratch))
        .arg("--pwfile")
        .arg(scratch.folder().join("password"))
        .args(["--username", USER, "--auth", "scram-sha-256", "--encoding", "UTF8", "--no-locale"])
        // Only the empty cluster is written without waiting for the disk; the server itself runs durably.
        .args(["--no-sync", "--no-instructions"]);
    run_as_server(&mut command, scratch);
    let output = tokio::process::Command::from(command).stdin(Stdio::null()).kill_on_drop(true).output().await;
    let output = output.map_err(|error| cannot_run(&binaries.initdb(), error))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(Error::new(Code::PostgresUnreachable, format!("initdb failed ({}):\n{}", output.status, tail(&text))))
}

fn server_command(binaries: &Binaries, scratch: &Scratch, port: u16, settings: &[&str]) -> Vec<String> {
    let mut command = vec![binaries.postgres().display().to_string()];
    command.extend(["-D".to_owned(), data(scratch).display().to_string(), "-p".to_owned(), port.to_string()]);
    command.extend(settings.iter().flat_map(|setting| ["-c".to_owned(), (*setting).to_owned()]));
    command
}

/// Never as root, and in a folder that the server's user may enter.
fn run_as_server(command: &mut Command, scratch: &Scratch) {
    command.current_dir(scratch.folder()).process_group(0);
    if let Some(account) = scratch.server_account() {
        command.uid(account.uid).gid(account.gid);
    }
}

async fn wait_until_ready(server: &mut Watched, settings: &DatabaseConfig) -> Result<()> {
    let database = Database::new(settings)?;
    let started = Instant::now();
    loop {
        let Err(error) = database.connect(Role::Admin).await else { return Ok(()) };
        if let Some(status) = server.ended() {
            return Err(Error::new(
                Code::PostgresUnreachable,
                format!("the private PostgreSQL ended while starting ({status})"),
            ));
        }
        if started.elapsed() > START_LIMIT {
            let message = format!("the private PostgreSQL accepts no connection after {} s", START_LIMIT.as_secs());
            return Err(Error::new(Code::PostgresUnreachable, message).caused_by(Error::from(error)));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn cannot_run(program: &Path, error: std::io::Error) -> Error {
    Error::new(Code::PostgresUnreachable, format!("cannot run {}", program.display())).caused_by(error)
}

fn with_log_tail(error: Error, scratch: &Scratch) -> Error {
    let text = std::fs::read(log(scratch)).unwrap_or_default();
    let lines = tail(&String::from_utf8_lossy(&text));
    if lines.is_empty() {
        error
    } else {
        Error::new(error.code(), format!("{}; the end of its log:\n{lines}", error.chain()))
    }
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(LOG_TAIL_LINES)..]
        .iter()
        .map(|line| format!("    {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// A server behind `watchdog.sh`. Dropping it stops the server.
#[derive(Debug)]
struct Watched {
    watchdog: Child,
}

impl Watched {
    fn spawn(server: &[String], scratch: &Scratch, afterwards: Afterwards) -> Result<Self> {
        // Data that is thrown away needs no checkpoint first: SIGQUIT stops at once, SIGINT stops cleanly.
        let (remove, signal) = match afterwards {
            Afterwards::Remove => (scratch.folder().display().to_string(), "QUIT"),
            Afterwards::Keep => (String::new(), "INT"),
        };
        let path = log(scratch);
        let log_file = || File::options().append(true).create(true).open(&path);
        let streams = log_file().and_then(|stdout| Ok((stdout, log_file()?)));
        let (stdout, stderr) = streams.map_err(|error| cannot_run(&path, error))?;
        let mut command = Command::new("/bin/sh");
        command.args(["-c", WATCHDOG, "outbox-relay-demo", &remove, signal]).args(server);
        command.stdin(Stdio::piped()).stdout(stdout).stderr(stderr);
        run_as_server(&mut command, scratch);
        let watchdog = command.spawn().map_err(|error| cannot_run(Path::new("/bin/sh"), error))?;
        Ok(Self { watchdog })
    }

    /// The status of a server that has ended by itself.
    fn ended(&mut self) -> Option<ExitStatus> {
        self.watchdog.try_wait().ok().flatten()
    }

    /// Blocks until the server and its watchdog are gone.
    fn stop(&mut self) {
        drop(self.watchdog.stdin.take());
        let started = Instant::now();
        while matches!(self.watchdog.try_wait(), Ok(None)) {
            if started.elapsed() > STOP_LIMIT {
                tracing::warn!("the private PostgreSQL does not stop; its watchdog keeps trying");
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::binaries;

    fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
        let started = Instant::now();
        while !holds() {
            assert!(started.elapsed() < Duration::from_secs(20), "{what}: not within 20 s");
            std::thread::yield_now();
        }
    }

    fn accepts_connections(port: u16) -> bool {
        std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
    }

    #[tokio::test]
    async fn a_private_server_works_durably_and_is_gone_when_dropped() {
        let binaries = binaries::find(&crate::config::search_path()).unwrap();
        let mut postgres = PrivatePostgres::start(&binaries, Afterwards::Remove).await.unwrap();
        postgres.check().unwrap();
        let client = Database::new(&postgres.settings("postgres")).unwrap().connect(Role::Admin).await.unwrap();
        let durable: bool = client.query_one(include_str!("sql/durability.sql"), &[]).await.unwrap().get(0);
        assert!(durable, "the demo would measure something that is not the real thing");
        #[cfg(target_os = "linux")]
        {
            let watchdog = postgres.server.watchdog.id();
            let stat = std::fs::read_to_string(format!("/proc/{watchdog}/stat")).unwrap();
            let group = stat.rsplit(')').next().unwrap().split_whitespace().nth(2).unwrap();
            assert_eq!(group, watchdog.to_string(), "Ctrl-C would stop the server before the relay");
        }
        let (port, folder) = (postgres.port, postgres.scratch.folder().to_owned());
        assert!(postgres.public_url("shop").contains(&format!("127.0.0.1:{port}/shop?passfile=")));
        assert!(!postgres.public_url("shop").contains(postgres.password.expose()));
        drop(postgres);
        assert!(!accepts_connections(port), "the server still answers");
        assert!(!folder.exists());
    }

    #[tokio::test]
    async fn a_wrong_password_is_refused() {
        let binaries = binaries::find(&crate::config::search_path()).unwrap();
        let postgres = PrivatePostgres::start(&binaries, Afterwards::Remove).await.unwrap();
        let stranger = settings(postgres.port, &Secret::new("guess"), "postgres");
        let refused = Database::new(&stranger).unwrap().connect(Role::Admin).await.map(drop).map_err(Error::from);
        assert_eq!(refused.unwrap_err().code(), Code::PostgresDenied);
    }

    #[tokio::test]
    async fn kept_data_is_there_after_a_clean_stop() {
        let binaries = binaries::find(&crate::config::search_path()).unwrap();
        let postgres = PrivatePostgres::start(&binaries, Afterwards::Keep).await.unwrap();
        let (port, folder) = (postgres.port, postgres.scratch.folder().to_owned());
        drop(postgres);
        assert!(!accepts_connections(port));
        let log = std::fs::read_to_string(folder.join("log")).unwrap();
        assert!(folder.join("data/PG_VERSION").exists());
        assert!(log.contains("database system is shut down") && !log.contains("immediate shutdown"), "{log}");
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[tokio::test]
    async fn a_server_that_does_not_start_shows_the_end_of_its_log() {
        let binaries = binaries::find(&crate::config::search_path()).unwrap();
        let settings = [SETTINGS.as_slice(), &["max_connections=none"]].concat();
        let error = PrivatePostgres::start_with(&binaries, Afterwards::Remove, &settings).await.unwrap_err();
        assert_eq!(error.code(), Code::PostgresUnreachable);
        assert!(error.chain().contains("FATAL:  invalid value for parameter \"max_connections\""), "{}", error.chain());
    }

    /// What the kernel does when the owner is killed: the pipe closes, and nobody waits.
    #[tokio::test]
    async fn the_watchdog_stops_the_server_and_removes_the_folder_when_its_owner_is_gone() {
        let binaries = binaries::find(&crate::config::search_path()).unwrap();
        let mut postgres = PrivatePostgres::start(&binaries, Afterwards::Remove).await.unwrap();
        assert!(accepts_connections(postgres.port));
        drop(postgres.server.watchdog.stdin.take());
        wait_until("the folder is removed", || !postgres.scratch.folder().exists());
        assert!(!accepts_connections(postgres.port), "the server still answers");
        wait_until("the watchdog ends", || postgres.server.ended().is_some());
    }

    #[test]
    fn a_server_that_ends_by_itself_is_noticed_and_leaves_its_log() {
        let scratch = Scratch::create().unwrap();
        let server = ["/bin/sh", "-c", "echo going down; exit 7"].map(str::to_owned);
        let mut watched = Watched::spawn(&server, &scratch, Afterwards::Remove).unwrap();
        wait_until("the watchdog ends", || watched.ended().is_some());
        assert_eq!(watched.ended().unwrap().code(), Some(7));
        assert_eq!(std::fs::read_to_string(log(&scratch)).unwrap(), "going down\n");
    }
}
