//! Servers that one test may stop, kill, pause and restart, on a port that stays the same.
//!
//! They are driven by `scripts/kafka.sh` and `scripts/postgres.sh`. Each has a guard process with a pipe from us as its
//! input: when the value is dropped, or this process dies, the pipe closes and the guard kills the server and removes
//! its data. A broker takes about 400 MB, so tests that share an outage share a broker.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::{script, unique};

/// How to stop a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// As an operator does.
    Orderly,
    /// As a crash does: SIGKILL, or PostgreSQL's `immediate`.
    Crash,
}

/// A Kafka broker of one test.
pub struct PrivateKafka {
    parts: Guarded,
    /// `host:port`.
    pub bootstrap: String,
    /// `host:port` of the listener that no proxy stands before, whatever the other one advertises.
    pub direct: String,
}

impl PrivateKafka {
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// With options of `scripts/kafka.sh start`.
    pub async fn start_with(options: &[&str]) -> Self {
        let parts = Guarded::new("kafka.sh", &["kill"]);
        parts.run("start", options).await;
        Self::of(parts)
    }

    /// One that has its ports and has not been started: [`PrivateKafka::start_again`] starts it.
    pub async fn prepared() -> Self {
        let parts = Guarded::new("kafka.sh", &["kill"]);
        parts.run("prepare", &[]).await;
        Self::of(parts)
    }

    /// Three nodes that replicate everything. A port is what a node tells its clients to come back to; `None`: its own.
    pub async fn cluster(advertised: [Option<u16>; 3]) -> [Self; 3] {
        let nodes = advertised.map(|port| (Guarded::new("kafka.sh", &["kill"]), port));
        for (node, port) in &nodes {
            match port {
                Some(port) => node.run("prepare", &["--advertised-port", &port.to_string()]).await,
                None => node.run("prepare", &[]).await,
            }
        }
        let [(first, _), (second, _), (third, _)] = &nodes;
        first.run("cluster", &[second.folder(), third.folder()]).await;
        nodes.map(|(node, _)| Self::of(node))
    }

    fn of(parts: Guarded) -> Self {
        let address = |file| format!("127.0.0.1:{}", parts.read(file));
        let (bootstrap, direct) = (address("port"), address("direct-port"));
        Self { parts, bootstrap, direct }
    }

    pub async fn stop(&self, mode: StopMode) {
        match mode {
            StopMode::Orderly => self.parts.run("stop", &[]).await,
            StopMode::Crash => self.parts.run("kill", &[]).await,
        }
    }

    /// The broker stops answering, its connections stay open.
    pub async fn pause(&self) {
        self.parts.run("pause", &[]).await;
    }

    pub async fn resume(&self) {
        self.parts.run("resume", &[]).await;
    }

    /// The same broker again, with its data and its port.
    pub async fn start_again(&self) {
        self.parts.run("start", &[]).await;
    }
}

/// A PostgreSQL server of one test.
pub struct PrivatePostgres {
    parts: Guarded,
    /// A superuser's URL.
    pub url: String,
}

impl PrivatePostgres {
    pub async fn stop(&self, mode: StopMode) {
        self.parts.run("stop", &["--mode", shutdown_mode(mode)]).await;
    }

    /// The same server again, with its data and its port.
    pub async fn start_again(&self) {
        self.parts.run("start", &[]).await;
    }

    pub async fn start() -> Self {
        let parts = Guarded::new("postgres.sh", &["stop", "--mode", "immediate"]);
        // Not fsync=off, as on the shared server: the crash must leave what a real one would leave.
        parts.run("start", &["--config", "shared_buffers=64MB"]).await;
        let url = parts.read("url");
        Self { parts, url }
    }

    /// A streaming standby of this server.
    pub async fn standby(&self) -> Self {
        let parts = Guarded::new("postgres.sh", &["stop", "--mode", "immediate"]);
        parts.run("start", &["--follow", self.parts.folder(), "--config", "shared_buffers=64MB"]).await;
        let url = parts.read("url");
        Self { parts, url }
    }

    /// A standby becomes a primary, and takes writes when this returns.
    pub async fn promote(&self) {
        self.parts.run("promote", &[]).await;
    }

    /// Freezes the server, as a stalled host does: sockets stay open, connections are accepted by the kernel, and
    /// nobody answers. It goes on when the guard is dropped, which has to be before the server is.
    pub fn freeze(&self) -> Frozen {
        let postmaster = self.parts.read("pid");
        let children = Command::new("pgrep").args(["-P", &postmaster]).output().expect("pgrep starts").stdout;
        let children = String::from_utf8(children).expect("numbers");
        Frozen::new(std::iter::once(postmaster.as_str()).chain(children.split_whitespace()))
    }

    /// Freezes the process that accepts connections, and no other: what is connected works.
    pub fn freeze_postmaster(&self) -> Frozen {
        Frozen::new(std::iter::once(self.parts.read("pid").as_str()))
    }

    pub async fn restart(&self, mode: StopMode) {
        self.parts.run("restart", &["--mode", shutdown_mode(mode)]).await;
    }
}

/// Processes that are stopped until this is dropped.
pub struct Frozen(Vec<String>);

impl Frozen {
    fn new<'a>(pids: impl Iterator<Item = &'a str>) -> Self {
        let pids: Vec<String> = pids.map(str::to_owned).collect();
        signal("-STOP", &pids);
        Self(pids)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        signal("-CONT", &self.0);
    }
}

/// Some of them may have ended.
fn signal(name: &str, pids: &[String]) {
    drop(Command::new("kill").arg(name).args(pids).stderr(Stdio::null()).status());
}

fn shutdown_mode(mode: StopMode) -> &'static str {
    match mode {
        StopMode::Orderly => "fast",
        StopMode::Crash => "immediate",
    }
}

/// A folder with a server in it, and the process that ends the server when we are gone.
struct Guarded {
    script: PathBuf,
    folder: PathBuf,
    guard: Child,
}

impl Guarded {
    /// `end` is the command of the script that ends the server, and its options.
    fn new(script_name: &str, end: &[&str]) -> Self {
        let script = script(script_name);
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(unique("private"));
        std::fs::create_dir_all(&folder).expect("a folder below the target folder");
        // $1 script, $2 folder, then the command and its options. `datadir` is where postgres.sh put the data when it
        // could not use the folder.
        let last_will = r#"cat; script=$1 folder=$2 command=$3; shift 3
            "$script" "$command" "$folder" "$@"
            data=$(cat "$folder/datadir" 2>/dev/null)
            [[ $data != */outbox-relay-postgres.*/data ]] || rm -rf "${data%/data}"
            rm -rf "$folder""#;
        let guard = Command::new("bash")
            .args(["-c", last_will, "guard"])
            .args([&script, &folder])
            .args(end)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0) // a Ctrl-C ends us; the guard has work to do then
            .spawn()
            .expect("bash starts");
        Self { script, folder, guard }
    }

    fn folder(&self) -> &str {
        self.folder.to_str().expect("a path in UTF-8")
    }

    fn read(&self, file: &str) -> String {
        let text = std::fs::read_to_string(self.folder.join(file)).expect("the script wrote it");
        text.trim().to_owned()
    }

    async fn run(&self, command: &str, options: &[&str]) {
        let output = tokio::process::Command::new(&self.script)
            .arg(command)
            .arg(&self.folder)
            .args(options)
            .stdin(Stdio::null())
            .output()
            .await
            .expect("the script starts");
        assert!(
            output.status.success(),
            "{} {command}: {}\n{}",
            self.script.display(),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        drop(self.guard.wait());
    }
}

#[tokio::test]
async fn a_private_server_comes_back_on_its_port_with_its_data() {
    let (kafka, postgres) = tokio::join!(PrivateKafka::start(), PrivatePostgres::start());
    let topic = super::Topic::create_on(&kafka.bootstrap, "private", 1).await;
    kafka.stop(StopMode::Crash).await;
    let database = super::TestDatabase { url: postgres.url.clone() };
    database.connect().await.batch_execute("create table t ()").await.expect("a table");
    postgres.restart(StopMode::Crash).await;
    database.reconnect().await.query_one("select count(*) from t", &[]).await.expect("the table is there");
    kafka.start_again().await;
    let direct = super::Topic { bootstrap: kafka.direct.clone(), ..topic.clone() };
    for listener in [topic, direct] {
        assert_eq!(listener.len().await, 0, "the topic is there");
    }
    let folders = [kafka.parts.folder.clone(), postgres.parts.folder.clone()];
    drop((kafka, postgres));
    for folder in folders {
        assert!(!folder.exists(), "{} was left behind", folder.display());
    }
}
