//! `top`: its data as lines of JSON, and the live view on a real (pseudo) terminal.
#![cfg_attr(not(feature = "tui"), allow(dead_code, unused_imports, reason = "most of it is for the view"))]

use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, Command};

use crate::support::cli::{Call, clean_environment};
use crate::support::relay::RelaySettings;
use crate::support::{
    BINARY, NewRow, PrivatePostgres, StopMode, TestDatabase, Topic, outbox, outbox_relay, parts::parts, wait_until,
};

const SOON: Duration = Duration::from_secs(30);

fn top(database: &TestDatabase, args: &[&str]) -> Call {
    outbox_relay(&[&["top"], args].concat()).env("DATABASE_URL", &database.url)
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

#[tokio::test]
async fn an_empty_database_is_a_snapshot_and_one_without_schema_an_error() {
    let (empty, bare) = tokio::join!(TestDatabase::migrated("top-empty"), TestDatabase::empty("top-bare"));
    let once = top(&empty, &["--once"]).run().await.expect_code(0);
    let [line] = &lines(&once.stdout)[..] else { panic!("{}", once.stdout) };
    assert_eq!((&line["state"], &line["outbox"]["pending"]), (&"ok".into(), &0.into()), "{line:#}");
    assert_eq!(line["shards"].as_array().map(Vec::len), Some(8));
    assert_eq!((&line["rates"], &line["oldest_pending_seconds"]), (&Value::Null, &Value::Null));
    for list in ["instances", "pauses", "held_keys", "consumers"] {
        assert_eq!(line[list], Value::Array(Vec::new()), "{list}");
    }
    let refused = top(&bare, &["--once"]).run().await.expect_code(6);
    assert!(refused.stderr.contains("OR-P004") && refused.stderr.contains("migrate up"), "{}", refused.stderr);
    assert_eq!(refused.stdout, "");
    // The consumer may have a role of its own.
    let role = empty.name().to_owned();
    let grants = format!(
        "create role {role} login; \
         grant select on outbox_events, outbox_shards, outbox_again, outbox_outcomes, outbox_instances, outbox_held_keys, \
         outbox_pauses, outbox_installation to {role}; \
         grant select on sequence outbox_events_id_seq to {role}"
    );
    empty.connect().await.batch_execute(&grants).await.unwrap();
    let relay = TestDatabase { url: empty.url.replacen("postgres@", &format!("{role}@"), 1) };
    assert_ne!(relay.url, empty.url);
    let line = &lines(&top(&relay, &["--once"]).run().await.expect_code(0).stdout)[0];
    assert_eq!((&line["state"], &line["consumers"]), (&"ok".into(), &Value::Null), "{line:#}");
    // So many shards as there can be.
    let wide = TestDatabase::empty("top-wide").await;
    let migrate = outbox_relay(&["migrate", "up"]).env("DATABASE_URL", &wide.url);
    migrate.env("OUTBOX_RELAY_OUTBOX__SHARDS", "256").run().await.expect_code(0);
    let wide = lines(&top(&wide, &["--once"]).run().await.expect_code(0).stdout);
    assert_eq!(wide[0]["shards"].as_array().map(Vec::len), Some(256));
}

#[tokio::test]
async fn a_snapshot_has_what_waits_and_why_and_never_a_key_or_a_payload() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("top"), Topic::create("top", 1));
    let client = database.connect().await;
    let settings = RelaySettings::new(&database, &parts().kafka).steady().instance("relay-a");
    let mut relay = settings.start_ready().await;
    outbox::insert_many(&client, &topic.name, 10, 500).await;
    let bad = NewRow::new("no such topic", "secret-key-17", r#"{"a": "secret-payload-17"}"#).insert(&client).await;
    outbox::wait_for_status(&client, bad, "FAILED").await;
    let behind = NewRow::new(&topic.name, "secret-key-17", "{}").insert(&client).await;
    outbox::wait_for_status(&client, behind, "HELD").await;
    wait_until("the others are published", SOON, async || match outbox::counts(&client).await.get("PUBLISHED") {
        Some(500) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    client
        .execute(
            "insert into consumer_partitions (consumer_group, topic, partition, epoch, next_offset) values ('shop', $1, 0, 1, 460)",
            &[&topic.name],
        )
        .await
        .unwrap();
    let pause = outbox_relay(&["pause", "--topic", "other", "--reason", "upgrade"]).env("DATABASE_URL", &database.url);
    pause.run().await.expect_code(0);

    let shown = top(&database, &["--count", "2", "--interval", "100ms"]).run().await.expect_code(0);
    assert!(!shown.stdout.contains("secret"), "{}", shown.stdout);
    let shown = lines(&shown.stdout);
    let line = &shown[1];
    assert_eq!(shown.len(), 2);
    assert!(line["rates"]["over_seconds"].as_f64().is_some_and(|over| over > 0.0), "{line:#}");
    assert_eq!((&line["outbox"]["failed"], &line["outbox"]["held"]), (&1.into(), &1.into()), "{line:#}");
    assert_eq!((&line["held_keys"][0]["reason"], &line["held_keys"][0]["keys"]), (&"failed".into(), &1.into()));
    assert_eq!((&line["pauses"][0]["topic"], &line["pauses"][0]["reason"]), (&"other".into(), &"upgrade".into()));
    let instance = &line["instances"][0];
    assert_eq!(
        (&instance["name"], &instance["alive"], &instance["shards"]),
        (&"relay-a".into(), &true.into(), &8.into())
    );
    // What the newest rows tell: 500 records are there.
    let consumer = &line["consumers"][0];
    assert_eq!((&consumer["group"], &consumer["behind_at_least"]), (&"shop".into(), &40.into()), "{consumer}");
    relay.terminate().await;
    // What the rate of updates stands on: one update for each event that was published, failed or held.
    wait_until("the statistics say so", SOON, async || {
        let updated = "select n_tup_upd from pg_stat_user_tables where relname = 'outbox_events'";
        match client.query_one(updated, &[]).await.map_err(|error| error.to_string())?.get::<_, i64>(0) {
            502 => Ok(()),
            other => Err(format!("{other} updates")),
        }
    })
    .await;

    // The same lines as `shards ls`.
    let ls = outbox_relay(&["shards", "ls", "-o", "json"]).env("DATABASE_URL", &database.url).run().await;
    let once = top(&database, &["--once"]).run().await.expect_code(0);
    assert_eq!(lines(&once.stdout)[0]["shards"], ls.expect_code(0).json());
}

/// Something that runs, and what it has written so far.
struct Running {
    child: Child,
    input: ChildStdin,
    output: Arc<Mutex<Vec<u8>>>,
}

impl Running {
    fn start(mut command: Command, database: &TestDatabase) -> Self {
        clean_environment(command.as_std_mut());
        command.env("DATABASE_URL", &database.url).env("TERM", "xterm").env_remove("NO_COLOR");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true);
        let mut child = command.spawn().expect("it starts");
        let (input, mut stream) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let output = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&output);
        outbox_relay::supervisor::detach("output of a test", async move {
            let mut part = [0; 4096];
            while let Ok(read @ 1..) = stream.read(&mut part).await {
                kept.lock().unwrap_or_else(PoisonError::into_inner).extend(&part[..read]);
            }
        });
        Self { child, input, output }
    }

    fn json(database: &TestDatabase, args: &[&str]) -> Self {
        let mut command = Command::new(BINARY);
        command.arg("top").args(args);
        Self::start(command, database)
    }

    /// On a terminal of 40 columns and 10 lines. Says its process id first.
    fn view(database: &TestDatabase) -> Self {
        let shell = format!("stty cols 40 rows 10; echo pid $$.; exec '{BINARY}' top --interval 100ms");
        let mut command = Command::new("script");
        command.args(["--quiet", "--flush", "--return", "--command", &shell, "/dev/null"]);
        Self::start(command, database)
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.output.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    /// Waits until it writes something, after the first `from` bytes. Returns how much it had written then.
    async fn writes(&self, what: &str, from: usize) -> usize {
        wait_until(&format!("it writes {what}"), SOON, async || {
            let text = self.text();
            if text.get(from..).is_some_and(|new| new.contains(what)) { Ok(text.len()) } else { Err(text) }
        })
        .await
    }

    /// Waits until something stands on the screen.
    async fn shows(&self, what: &str) {
        wait_until(&format!("the screen shows {what}"), SOON, async || {
            let screen = screen(&self.text());
            if screen.contains(what) { Ok(()) } else { Err(screen) }
        })
        .await;
    }

    async fn press(&mut self, keys: &str) {
        self.input.write_all(keys.as_bytes()).await.expect("it reads");
        self.input.flush().await.expect("it reads");
    }

    /// Waits for its end, and asserts that the terminal was given back: its former screen, and a cursor.
    async fn ends_in_order(mut self) {
        let status = tokio::time::timeout(SOON * 3, self.child.wait()).await.expect("it ends").expect("a status");
        let back = self.writes("\x1b[?1049l", 0).await;
        let text = self.text();
        assert_eq!(status.code(), Some(0), "{text}");
        let (taken, given) =
            (text.rfind("\x1b[?1049h").expect("taken"), text.rfind("\x1b[?1049l").expect("given back"));
        assert!(taken < given && back >= given, "{text:?}");
        assert!(text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l"), "the cursor is shown again: {text:?}");
    }
}

/// What stands on a screen of 40 columns and 10 lines after this was written to it. Only changes are drawn, so the text
/// alone says little.
fn screen(written: &str) -> String {
    let mut cells = vec![vec![' '; 40]; 10];
    let (mut line, mut column) = (0, 0);
    let mut text = written.rsplit_once("\x1b[?1049h").map_or("", |(_, drawn)| drawn).chars();
    while let Some(letter) = text.next() {
        if letter == '\x1b' {
            let mut sequence = String::new();
            // `[`, parameters, and a letter that ends it.
            for part in text.by_ref().skip(1) {
                sequence.push(part);
                if part.is_ascii_alphabetic() {
                    break;
                }
            }
            if let Some(place) = sequence.strip_suffix('H') {
                let (to_line, to_column) = place.split_once(';').expect("a place");
                (line, column) = (to_line.parse::<usize>().unwrap() - 1, to_column.parse::<usize>().unwrap() - 1);
            }
            continue;
        }
        if let Some(cell) = cells.get_mut(line).and_then(|line| line.get_mut(column)) {
            *cell = letter;
        }
        column += 1;
    }
    cells.iter().map(|line| line.iter().collect::<String>() + "\n").collect()
}

#[cfg(feature = "tui")]
#[tokio::test]
async fn keys_and_sigterm_end_the_view_and_the_terminal_is_as_before() {
    let database = TestDatabase::migrated("top-view").await;
    let mut view = Running::view(&database);
    view.shows("0/8 shards").await;
    view.press("\t").await;
    view.shows("nothing is waiting").await;
    view.press("p").await;
    view.shows("FROZEN").await;
    view.press("q").await;
    view.ends_in_order().await;

    let view = Running::view(&database);
    view.shows("0/8 shards").await;
    let text = view.text();
    let pid = text.split_once("pid ").and_then(|(_, rest)| rest.split_once('.')).expect("its id").0.to_owned();
    let kill = std::process::Command::new("kill").args(["-TERM", &pid]).status().expect("kill starts");
    assert!(kill.success());
    view.ends_in_order().await;

    // Ctrl-C is a key as long as the terminal is ours.
    let mut view = Running::view(&database);
    view.shows("0/8 shards").await;
    view.press("\x03").await;
    view.ends_in_order().await;
}

/// The lines of JSON are there in every build; the view says what it takes.
#[cfg(not(feature = "tui"))]
#[tokio::test]
async fn a_build_without_the_view_says_how_to_get_it() {
    let database = TestDatabase::migrated("top-no-view").await;
    let view = Running::view(&database);
    view.writes("OR-U001", 0).await;
    view.writes("--features tui", 0).await;
    top(&database, &["--once"]).run().await.expect_code(0);
}

#[cfg(feature = "tui")]
#[tokio::test]
async fn an_outage_is_shown_and_outlived() {
    let server = PrivatePostgres::start().await;
    let database = TestDatabase::migrated_at(&server.url).await;
    let mut view = Running::view(&database);
    view.shows("0/8 shards").await;
    let stream = Running::json(&database, &["--interval", "100ms"]);
    let told = stream.writes("\"state\":\"ok\"", 0).await;
    server.stop(StopMode::Orderly).await;
    view.shows("PostgreSQL away since").await;
    let told = stream.writes("\"state\":\"unreachable\"", told).await;
    server.start_again().await;
    view.shows("0/8 shards").await;
    let told = stream.writes("\"state\":\"ok\"", told).await;
    // The counters of the statistics began anew with the server, or did not: rates come again either way.
    let client = database.reconnect().await;
    outbox::insert_many(&client, "t", 10, 1_000).await;
    wait_until("the inserts are seen", SOON, async || {
        let text = stream.text();
        let complete = text.rsplit_once('\n').map_or("", |(complete, _)| complete);
        let rates = lines(complete.get(told..).unwrap_or_default().split_once('\n').map_or("", |(_, rest)| rest));
        let seen = rates.iter().any(|line| {
            line["rates"]["inserted_rows_per_second_estimate"].as_f64().is_some_and(|rate| rate > 0.0)
                && line["outbox"]["pending"] == 1_000
        });
        if seen { Ok(()) } else { Err(format!("{} lines", rates.len())) }
    })
    .await;
    view.press("\x1b").await;
    view.ends_in_order().await;
    // The server is there when the command begins, or it is an error.
    server.stop(StopMode::Orderly).await;
    top(&database, &["--once"]).run().await.expect_code(4);
}
