//! `demo` as a newcomer runs it: it brings its own parts, tells the truth at the end, and leaves nothing behind.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use outbox_relay::config::DatabaseConfig;
use outbox_relay::db::{Database, Role};
use outbox_relay::secret::Secret;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStderr, Command};

use crate::support::cli::clean_environment;
use crate::support::{BINARY, outbox_relay, wait_until};

/// A folder for temporary files like `/tmp`: the user of PostgreSQL can work there, too.
fn temporary_folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o1777)).unwrap();
    folder
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).unwrap().next().is_none()
}

/// A demo without an end of its own, with what it says.
struct Demo {
    process: Child,
    says: BufReader<ChildStderr>,
    folder: TempDir,
}

impl Demo {
    fn start() -> Self {
        let folder = temporary_folder();
        let mut command = Command::new(BINARY);
        clean_environment(command.as_std_mut());
        command.args(["demo", "--rate", "300", "-o", "json"]).env("TMPDIR", folder.path());
        let mut process = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the binary starts");
        let says = BufReader::new(process.stderr.take().expect("piped"));
        Self { process, says, folder }
    }

    /// The next line that has `text` in it.
    async fn line_with(&mut self, text: &str) -> String {
        let mut all = String::new();
        loop {
            let mut line = String::new();
            let read = tokio::time::timeout(Duration::from_secs(60), self.says.read_line(&mut line)).await;
            let bytes = read.unwrap_or_else(|_| panic!("no {text:?} within a minute after:\n{all}")).unwrap();
            assert!(bytes > 0, "no {text:?} in:\n{all}");
            if line.contains(text) {
                return line;
            }
            all.push_str(&line);
        }
    }

    /// Progress is told every second or so. The first line may come late, and is not that of the first second then.
    async fn progress(&mut self) {
        self.line_with(" 0:").await;
    }

    /// Where its database is.
    async fn database(&mut self) -> SocketAddr {
        let line = self.line_with(" 'postgres://").await;
        line.split('@').nth(1).unwrap().split('/').next().unwrap().parse().unwrap()
    }

    /// Tells it to stop, and returns its exit code, its summary and what else it said.
    async fn stop(&mut self) -> (Option<i32>, serde_json::Value, String) {
        self.signal("TERM");
        let (mut stdout, mut stderr) = (String::new(), String::new());
        self.process.stdout.take().unwrap().read_to_string(&mut stdout).await.unwrap();
        self.says.read_to_string(&mut stderr).await.unwrap();
        let status = self.process.wait().await.unwrap();
        let summary = serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}\n{stderr}"));
        (status.code(), summary, stderr)
    }

    fn signal(&self, name: &str) {
        let pid = self.process.id().expect("it runs").to_string();
        let sent = std::process::Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status().unwrap();
        assert!(sent.success());
    }
}

#[tokio::test]
async fn a_demo_ends_by_itself_keeps_every_promise_and_touches_nothing_that_exists() {
    let folder = temporary_folder();
    let existing = TcpListener::bind("127.0.0.1:0").unwrap();
    existing.set_nonblocking(true).unwrap();
    let address = existing.local_addr().unwrap().to_string();
    let finished = outbox_relay(&["demo", "--for", "2s", "--rate", "1000", "--instances", "2", "-o", "json"])
        .env("TMPDIR", folder.path().to_str().unwrap())
        .env("DATABASE_URL", &format!("postgres://user:secret@{address}/production"))
        .env("KAFKA_BOOTSTRAP_SERVERS", &address)
        .run()
        .await
        .expect_code(0);
    let summary = finished.json();
    assert_eq!(summary["holds"], true, "{summary}");
    let count = |name: &str| summary[name].as_u64().unwrap_or_else(|| panic!("no {name} in {summary}"));
    assert!(count("inserted") > 0);
    for name in ["published", "folded", "records_in_kafka"] {
        assert_eq!(count(name), count("inserted"), "{name}");
    }
    assert!(summary["latency"]["p99"].as_f64().unwrap() > 0.0);
    assert!(!summary["top_products"].as_array().unwrap().is_empty());
    assert!(existing.accept().is_err(), "the demo knocked at a server of the environment");
    assert!(is_empty(folder.path()), "something is left in the temporary folder");
}

#[tokio::test]
async fn a_demo_told_to_stop_delivers_and_checks_what_it_wrote() {
    let mut demo = Demo::start();
    demo.progress().await;
    let (code, summary, stderr) = demo.stop().await;
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(summary["holds"], true, "{summary}");
    assert!(summary["inserted"].as_u64().unwrap() > 0);
    assert!(is_empty(demo.folder.path()), "something is left in the temporary folder");
}

/// The verdict is worth something only if it can be bad.
#[tokio::test]
async fn a_demo_whose_projection_is_wrong_says_where_and_exits_6() {
    let mut demo = Demo::start();
    let address = demo.database().await;
    demo.progress().await;
    let mut folder = std::fs::read_dir(demo.folder.path()).unwrap();
    let passfile = folder.next().unwrap().unwrap().path().join("pgpass");
    let password = std::fs::read_to_string(passfile).unwrap().trim().rsplit(':').next().unwrap().to_owned();
    let url = format!("postgres://demo:{password}@{address}/shop");
    let settings = DatabaseConfig { url: Secret::new(url), ..DatabaseConfig::default() };
    let client = Database::new(&settings).unwrap().connect(Role::Admin).await.unwrap();
    let tampered = wait_until("a product was folded", Duration::from_secs(20), async || {
        let tamper = "update product_metrics set like_count = like_count + 1 \
                      where product_id = (select min(product_id) from product_metrics) returning product_id";
        let row = client.query_opt(tamper, &[]).await.map_err(|error| error.to_string())?;
        row.map(|row| row.get::<_, i64>(0)).ok_or_else(|| "no product yet".to_owned())
    })
    .await;
    drop(client);

    let (code, summary, stderr) = demo.stop().await;
    assert_eq!(code, Some(6), "{stderr}");
    assert_eq!(summary["holds"], false);
    assert_eq!(summary["differences"][0]["product_id"], tampered, "{summary}");
    assert!(stderr.contains("error[OR-D001]"), "{stderr}");
    assert!(is_empty(demo.folder.path()), "something is left in the temporary folder");
}

#[tokio::test]
async fn a_killed_demo_leaves_no_server_and_no_folder() {
    let mut demo = Demo::start();
    let address = demo.database().await;
    assert!(TcpStream::connect(address).is_ok());
    assert!(!is_empty(demo.folder.path()));
    demo.signal("KILL");
    let folder = demo.folder.path().to_owned();
    wait_until("the server and its folder are gone", Duration::from_secs(20), async move || {
        match (TcpStream::connect(address), is_empty(&folder)) {
            (Err(_), true) => Ok(()),
            (Ok(_), _) => Err("the server answers".to_owned()),
            (_, false) => Err("the folder is still there".to_owned()),
        }
    })
    .await;
}
