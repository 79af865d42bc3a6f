//! The log and the process: standard error that is closed, full or not read, lines that repeat, and signals.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use jiff::Timestamp;

use crate::support::cli::clean_environment;
use crate::support::outbox::{insert_many, wait_until_published};
use crate::support::relay::leave_to_the_reaper;
use crate::support::{BINARY, Nobody, TestDatabase, Topic, outbox_relay, parts::parts, wait_until};

const LIMIT: Duration = Duration::from_secs(60);

/// A relay with a standard error of the test's choice. Killed when dropped.
struct Process(Child);

impl Process {
    fn relay(database: &str, kafka: &str, stderr: Stdio, settings: &[(&str, &str)]) -> Self {
        let mut command = Command::new(BINARY);
        clean_environment(&mut command);
        let child = command
            .args(["run", "--only", "relay"])
            .env("DATABASE_URL", database)
            .env("KAFKA_BOOTSTRAP_SERVERS", kafka)
            .envs(settings.iter().copied())
            .current_dir(env!("CARGO_TARGET_TMPDIR"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .expect("the binary starts");
        leave_to_the_reaper(child.id());
        Self(child)
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.0.id().to_string()]).status();
        assert!(status.expect("kill starts").success(), "kill -{name}: it has ended");
    }

    async fn ended(&mut self) -> ExitStatus {
        wait_until("the process has ended", LIMIT, async || {
            self.0.try_wait().expect("our own child").ok_or_else(|| "it still runs".to_owned())
        })
        .await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Relays 1500 events with this standard error, then stops.
async fn relays(name: &str, stderr: Stdio, close: impl FnOnce(&mut Child)) {
    let (database, topic) = tokio::join!(TestDatabase::migrated(name), Topic::create(name, 3));
    let client = database.connect().await;
    let settings = [
        ("OUTBOX_RELAY_TELEMETRY__LOG_FILTER", "outbox_relay=trace,librdkafka=debug"),
        ("OUTBOX_RELAY_RELAY__LEASE", "60s"),
    ];
    let mut relay = Process::relay(&database.url, &parts().kafka, stderr, &settings);
    close(&mut relay.0);
    for portion in 1..=3 {
        insert_many(&client, &topic.name, 50, 500).await;
        assert_eq!(wait_until_published(&database, LIMIT).await, portion * 500);
    }
    relay.signal("TERM");
    assert_eq!(relay.ended().await.code(), Some(0), "{name}");
}

#[tokio::test]
async fn a_log_that_cannot_be_written_stops_nothing() {
    let full = OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
    // A pipe that is full before the first line, and that nobody reads.
    let (_unread, mut stalled) = std::io::pipe().expect("a pipe");
    stalled.write_all(&[b'\n'; 65_536]).expect("as much as a pipe takes");
    tokio::join!(
        relays("log-full", Stdio::from(full), |_| ()),
        relays("log-closed", Stdio::piped(), |child| drop(child.stderr.take())),
        relays("log-stalled", Stdio::from(stalled), |_| ()),
    );
}

/// A hangup is a stop: nothing is repeated, and the leases are given back.
#[tokio::test]
async fn a_hangup_is_a_stop() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("hangup"), Topic::create("hangup", 3));
    let client = database.connect().await;
    insert_many(&client, &topic.name, 50, 500).await;
    let mut relay =
        Process::relay(&database.url, &parts().kafka, Stdio::null(), &[("OUTBOX_RELAY_RELAY__LEASE", "60s")]);
    wait_until_published(&database, LIMIT).await;
    relay.signal("HUP");
    assert_eq!(relay.ended().await.code(), Some(0));
    let left = client.query_one("select count(owner) from outbox_shards", &[]).await.expect("shards");
    assert_eq!(left.get::<_, i64>(0), 0, "leases are given back");
    assert_eq!(topic.len().await, 500);
}

#[tokio::test]
async fn what_repeats_in_an_outage_is_gathered() {
    let nobody = Nobody::here();
    let log = tempfile::NamedTempFile::new().expect("a log");
    let file = File::options().append(true).open(log.path()).expect("the log");
    let settings = [("OUTBOX_RELAY_TELEMETRY__LOG_FORMAT", "json")];
    let mut relay = Process::relay(
        &format!("postgres://nobody@{}/none", nobody.address()),
        &parts().kafka,
        Stdio::from(file),
        &settings,
    );
    // When each line about it was logged, and what it says.
    let line = |line: &str| -> Option<(Timestamp, String)> {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        Some((line["timestamp"].as_str()?.parse().ok()?, line["message"].as_str()?.to_owned()))
    };
    let lines = |path: &Path| -> Vec<(Timestamp, String)> {
        BufReader::new(File::open(path).expect("the log"))
            .lines()
            .filter_map(|text| line(&text.expect("UTF-8")))
            .filter(|(_, text)| text.starts_with("waiting for PostgreSQL"))
            .collect()
    };
    let found = wait_until("a gathered line", LIMIT, async || {
        let found = lines(log.path());
        if found.iter().any(|(_, text)| text.ends_with("(repeated)")) { Ok(found) } else { Err(format!("{found:?}")) }
    })
    .await;
    assert_eq!(found[0].1, "waiting for PostgreSQL", "the first is there at once");
    let alone: Vec<Timestamp> =
        found.iter().filter(|(_, text)| text == "waiting for PostgreSQL").map(|(at, _)| *at).collect();
    // A process that stalls for longer than the ten seconds in which lines are gathered begins anew.
    assert!(alone.is_sorted_by(|one, next| next.duration_since(*one).as_secs() >= 9), "{found:?}");
    relay.signal("TERM");
    assert_eq!(relay.ended().await.code(), Some(0));
}

/// A command that waits for a lock which this test holds.
async fn waiting_command(database: &TestDatabase) -> tokio_postgres::Client {
    let client = database.connect().await;
    client.execute("select pg_advisory_lock($1)", &[&0x6f75_7462_6f78_i64]).await.expect("the lock of migrations");
    client
}

async fn wait_until_waiting(client: &tokio_postgres::Client, sessions: i64) {
    let waits = "select count(*) from pg_locks where locktype = 'advisory' and not granted \
                 and database = (select oid from pg_database where datname = current_database())";
    wait_until("the command waits", LIMIT, async || {
        let found: i64 = client.query_one(waits, &[]).await.expect("locks").get(0);
        if found == sessions { Ok(()) } else { Err(format!("{found} wait")) }
    })
    .await;
}

#[tokio::test]
async fn every_command_ends_on_each_signal() {
    let database = TestDatabase::migrated("signals").await;
    let client = waiting_command(&database).await;
    for (n, (signal, status)) in (1..).zip([("TERM", 143), ("INT", 130), ("HUP", 129)]) {
        let command = outbox_relay(&["migrate", "up"]).env("DATABASE_URL", &database.url).start();
        // PostgreSQL does not notice that the others have gone, while they wait.
        wait_until_waiting(&client, n).await;
        command.signal(signal);
        command.finish().await.expect_code(status);
    }
}

/// Process 1 of a container has no default actions: a signal that nobody handles does nothing.
#[tokio::test]
async fn a_command_ends_on_a_signal_as_process_1() {
    let isolated = ["--user", "--map-root-user", "--fork", "--pid", "--kill-child"];
    let possible = Command::new("unshare").args(isolated).arg("true").stderr(Stdio::null()).status();
    if !possible.is_ok_and(|status| status.success()) {
        eprintln!("skipped: this machine lets nobody make a namespace of processes");
        return;
    }
    let database = TestDatabase::migrated("process-1").await;
    let client = waiting_command(&database).await;
    let mut command = Command::new("unshare");
    clean_environment(&mut command);
    let child = command
        .args(isolated)
        .args([BINARY, "migrate", "up"])
        .env("DATABASE_URL", &database.url)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut process = Process(child.expect("unshare starts"));
    wait_until_waiting(&client, 1).await;
    let parent = process.0.id();
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).expect("its children");
    let status = Command::new("kill").args(["-TERM", children.trim()]).status().expect("kill starts");
    assert!(status.success());
    process.ended().await;
}
