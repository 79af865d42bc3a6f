//! `outbox-relay run` as a process: its settings, signals, log, memory, metrics, and how it ended.

use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use tempfile::TempDir;
use tokio_postgres::Client;

use super::cli::clean_environment;
use super::{TestDatabase, binary, http, wait_until};

/// What to start. Defaults: the relay and its HTTP server on a free port, no consumer, a lease of 3 s so that takeovers
/// are quick.
#[derive(Debug, Clone)]
pub struct RelaySettings {
    environment: Vec<(String, String)>,
    only: String,
    file: Option<String>,
}

impl RelaySettings {
    pub fn new(database: &TestDatabase, bootstrap: &str) -> Self {
        let settings = Self { environment: Vec::new(), only: "relay,admin".to_owned(), file: None };
        // So that the same tests tell of both ways to keep progress: `make test-watermark`.
        let tracking =
            std::env::var_os("TRACKING").map_or_else(|| "rows".into(), |text| text.to_string_lossy().into_owned());
        settings
            .set("relay.tracking", &tracking)
            .env("DATABASE_URL", &database.url)
            .env("KAFKA_BOOTSTRAP_SERVERS", bootstrap)
            .set("admin.listen", "127.0.0.1:0")
            .set("relay.lease", "3s")
    }

    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.retain(|(other, _)| other != name);
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// One setting, through the environment: `set("relay.lease", "3s")`.
    #[must_use]
    pub fn set(self, path: &str, value: &str) -> Self {
        let (section, key) = path.split_once('.').expect("section.key");
        self.env(&format!("OUTBOX_RELAY_{}__{}", section.to_uppercase(), key.to_uppercase()), value)
    }

    /// The name that the log and `outbox_instances` show.
    #[must_use]
    pub fn instance(self, name: &str) -> Self {
        self.set("run.instance", name)
    }

    /// A lease and a shutdown timeout that outlast a machine which stalls for seconds. For tests in which nobody takes
    /// over from a process that was killed, is frozen or is cut off: in at-least-once delivery its shards wait for the
    /// lease.
    #[must_use]
    pub fn steady(self) -> Self {
        self.set("relay.lease", "60s").set("run.shutdown_timeout", "60s")
    }

    /// The parts to run, as in `--only`.
    #[must_use]
    pub fn only(mut self, parts: &str) -> Self {
        self.only = parts.to_owned();
        self
    }

    /// The text of `relay.toml`, for what the environment cannot say.
    #[must_use]
    pub fn file(mut self, text: &str) -> Self {
        self.file = Some(text.to_owned());
        self
    }

    /// Starts the process and returns at once.
    pub fn start(&self) -> Relay {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let log = folder.path().join("stderr");
        let mut command = Command::new(binary());
        command.args(["run", "--only", &self.only]).current_dir(folder.path());
        if let Some(text) = &self.file {
            let file = folder.path().join("relay.toml");
            std::fs::write(&file, text).expect("the settings file");
            command.arg("--config").arg(file);
        }
        clean_environment(&mut command);
        let child = command
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).expect("the log file"))
            .spawn()
            .expect("the binary starts");
        leave_to_the_reaper(child.id());
        Relay { child, log, _folder: folder, ended: None }
    }

    /// Starts the process and waits until `/readyz` says 200.
    #[track_caller]
    pub fn start_ready(&self) -> impl Future<Output = Relay> + use<> {
        let relay = self.start();
        let log = relay.log.clone();
        let waiting = wait_until("the relay is ready", Duration::from_secs(60), async move || {
            let text = std::fs::read_to_string(&log).expect("the log");
            let address = admin_address(&text).ok_or("no address of the HTTP server in its log")?;
            match http::get(address, "/readyz?verbose").await? {
                (200, _) => Ok(()),
                (status, body) => Err(format!("{status} {body}")),
            }
        });
        async move {
            waiting.await;
            relay
        }
    }
}

/// The signals that the tests send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Stop in order.
    Terminate,
    /// Crash.
    Kill,
    /// Freeze, as a stalled host does.
    Stop,
    /// Wake up again.
    Continue,
}

/// A running (or ended) relay. Killed when dropped.
pub struct Relay {
    child: Child,
    pub log: PathBuf,
    /// Holds the log and the settings file.
    _folder: TempDir,
    ended: Option<ExitStatus>,
}

impl Relay {
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        let name = match signal {
            Signal::Terminate => "-TERM",
            Signal::Kill => "-KILL",
            Signal::Stop => "-STOP",
            Signal::Continue => "-CONT",
        };
        let status = Command::new("kill").args([name, &self.child.id().to_string()]).status().expect("kill starts");
        assert!(status.success(), "kill {name}: the relay is gone:\n{}", self.log_text());
    }

    /// Whether the process still runs.
    pub fn is_running(&mut self) -> bool {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().expect("our own child");
        }
        self.ended.is_none()
    }

    /// Waits until the process has ended by itself, and returns its exit code; `None` when a signal ended it.
    pub async fn wait_for_exit(&mut self, limit: Duration) -> Option<i32> {
        let this = Mutex::new(self);
        let status = wait_until("the relay has ended", limit, async || {
            let mut this = this.lock().unwrap_or_else(PoisonError::into_inner);
            if this.is_running() {
                return Err("it still runs".to_owned());
            }
            this.ended.ok_or_else(|| "ended".to_owned())
        })
        .await;
        status.code()
    }

    /// SIGTERM, and the process must end with 0 within its `shutdown_timeout`. Returns how long it took.
    pub async fn terminate(&mut self) -> Duration {
        let start = tokio::time::Instant::now();
        self.signal(Signal::Terminate);
        let code = self.wait_for_exit(Duration::from_secs(15)).await;
        assert_eq!(code, Some(0), "exit code after SIGTERM:\n{}", self.log_text());
        start.elapsed()
    }

    /// SIGKILL, and waits until the process is gone.
    pub async fn kill(&mut self) {
        self.signal(Signal::Kill);
        assert_eq!(self.wait_for_exit(Duration::from_secs(5)).await, None);
    }

    pub fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).expect("the log")
    }

    /// Waits until the log has these words: its lines are written by a thread of their own, a moment after the fact.
    #[track_caller]
    pub fn wait_for_log<'a>(&'a self, words: &'a str) -> impl Future<Output = ()> + use<'a> {
        wait_until(&format!("the log says {words}"), Duration::from_secs(60), async move || {
            let text = self.log_text();
            if text.contains(words) { Ok(()) } else { Err(text) }
        })
    }

    /// Waits until a sample of `/metrics`, summed over its labels, is as it should be. Many are renewed in intervals,
    /// or a moment after the fact.
    #[track_caller]
    pub fn wait_for_metric<'a>(
        &'a self,
        name: &'a str,
        right: impl Fn(f64) -> bool + 'a,
    ) -> impl Future<Output = f64> + 'a {
        wait_until(&format!("{name} is as it should be"), Duration::from_secs(60), async move || {
            let (status, text) = http::get(self.admin(), "/metrics").await?;
            match http::sample(&text, name) {
                Some(value) if right(value) => Ok(value),
                found => Err(format!("{status} {found:?}")),
            }
        })
    }

    /// Waits until `/readyz?verbose` has this status and these words, and returns what it says.
    #[track_caller]
    pub fn wait_for_readiness<'a>(&'a self, expected: u16, words: &'a str) -> impl Future<Output = String> + use<'a> {
        wait_until(&format!("/readyz says {expected} {words}"), Duration::from_secs(60), async move || {
            let address = self.try_admin().ok_or("no address of the HTTP server in its log")?;
            match http::get(address, "/readyz?verbose").await? {
                (status, body) if status == expected && body.contains(words) => Ok(body),
                (status, body) => Err(format!("{status} {body}")),
            }
        })
    }

    /// Lines of level ERROR: a person must act. None may be there that the test did not cause.
    #[track_caller]
    pub fn expect_no_error_lines(&self) {
        let text = self.log_text();
        let errors: Vec<&str> = text.lines().filter(|line| line.contains("\"level\":\"ERROR\"")).collect();
        assert!(errors.is_empty(), "unexpected errors in the log:\n{}", errors.join("\n"));
    }

    /// The address of the HTTP server, from the log.
    #[track_caller]
    pub fn admin(&self) -> SocketAddr {
        self.try_admin().unwrap_or_else(|| panic!("no address of the HTTP server in the log:\n{}", self.log_text()))
    }

    /// As [`Relay::admin`]; `None` while it starts.
    pub fn try_admin(&self) -> Option<SocketAddr> {
        admin_address(&self.log_text())
    }

    /// `/metrics`, the sum of one sample over its labels.
    pub async fn metric(&self, name: &str) -> f64 {
        let (status, text) = http::get(self.admin(), "/metrics").await.expect("the relay answers");
        assert_eq!(status, 200);
        http::sample(&text, name).unwrap_or_else(|| panic!("no sample {name} in:\n{text}"))
    }

    /// Resident memory, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// The most resident memory that it ever had, in bytes.
    pub fn peak_bytes(&self) -> u64 {
        self.memory("VmHWM:")
    }

    fn memory(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("the field");
        let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kilobytes * 1024
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if self.ended.is_none() {
            // A stopped process can be killed, too.
            drop(self.child.kill());
            drop(self.child.wait());
        }
        if std::thread::panicking() {
            eprintln!("--- the end of the relay's log ({:?})\n{}---", self.ended, tail(&self.log));
        }
    }
}

/// Number of shards with a live lease, by the name of the instance.
pub async fn leases(client: &Client) -> std::collections::BTreeMap<String, i64> {
    let rows = client
        .query(
            "select name, count(*) from outbox_shards join outbox_instances on instance = owner \
             where lease_until > clock_timestamp() group by name",
            &[],
        )
        .await
        .expect("leases");
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

fn tail(log: &std::path::Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].iter().map(|line| format!("{line}\n")).collect()
}

/// The field `address` of what the admin server logs.
fn admin_address(log: &str) -> Option<SocketAddr> {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut own = lines.filter(|line| line["target"].as_str().is_some_and(|target| target.contains("::admin")));
    own.find_map(|line| line["address"].as_str()?.parse().ok())
}

/// Tells one helper process our child's id. When this process dies without dropping its values (a timeout of the CI, a
/// SIGKILL), the pipe to the helper closes and it kills the relays that are left; otherwise they would run for ever.
pub fn leave_to_the_reaper(process: u32) {
    static REAPER: LazyLock<Mutex<ChildStdin>> = LazyLock::new(|| {
        use std::os::unix::process::CommandExt;
        let reap = r#"pids=(); while read -r pid; do pids+=("$pid"); done
            for pid in "${pids[@]}"; do [[ $(readlink "/proc/$pid/exe") != "$1" ]] || kill -KILL "$pid"; done"#;
        let binary = std::fs::canonicalize(binary()).expect("the binary is built");
        #[expect(clippy::zombie_processes, reason = "it outlives this process, which is its purpose")]
        let helper = Command::new("bash")
            .args(["-c", reap, "reaper"])
            .arg(binary)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("bash starts");
        Mutex::new(helper.stdin.expect("piped"))
    });
    let mut reaper = REAPER.lock().unwrap_or_else(PoisonError::into_inner);
    writeln!(reaper, "{process}").expect("the reaper reads");
}

#[test]
fn the_address_is_read_from_what_the_admin_server_logs() {
    let log = r#"{"message":"starting","address":"127.0.0.1:1","target":"x"}
not json
{"message":"admin server listening","address":"127.0.0.1:41234","target":"outbox_relay::admin"}
"#;
    assert_eq!(admin_address(log), Some(SocketAddr::from(([127, 0, 0, 1], 41234))));
    assert_eq!(admin_address(""), None);
}
