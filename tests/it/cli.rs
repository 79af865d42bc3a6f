//! The commands as people and scripts use them: data on stdout, the rest on stderr, exit codes of the contract.

use std::net::TcpListener;
use std::time::Duration;

use crate::support::outbox::{wait_for_status, wait_until_published};
use crate::support::relay::RelaySettings;
use crate::support::{NewRow, Nobody, TestDatabase, Topic, cli::Call, outbox_relay, parts::parts};

fn call(database: &TestDatabase, args: &[&str]) -> Call {
    outbox_relay(args).env("DATABASE_URL", &database.url).env("KAFKA_BOOTSTRAP_SERVERS", &parts().kafka)
}

/// Ports that nobody should knock at, standing in for both servers.
struct Untouched {
    listener: TcpListener,
}

impl Untouched {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        Self { listener }
    }

    fn address(&self) -> String {
        self.listener.local_addr().unwrap().to_string()
    }

    #[track_caller]
    fn expect_nobody(&self) {
        let error = self.listener.accept().expect_err("a connection was opened");
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    }
}

#[tokio::test]
async fn all_problems_of_the_settings_are_told_at_once_before_any_connection() {
    let folder = tempfile::tempdir().unwrap();
    let text = "[relay]\nbatch_rws = 5\nlease = \"soon\"\n\n[kafka.properties]\nacks = \"1\"\n";
    std::fs::write(folder.path().join("relay.toml"), text).unwrap();
    let server = Untouched::new();
    let finished = outbox_relay(&["run"])
        .within(folder.path())
        .env("DATABASE_URL", &format!("postgres://user:hunter2@{}/x", server.address()))
        .env("KAFKA_BOOTSTRAP_SERVERS", &server.address())
        .env("OUTBOX_RELAY_RELAY__POLL_MAX", "never")
        .run()
        .await
        .expect_code(3);
    server.expect_nobody();
    let said = &finished.stderr;
    for part in [
        "relay.toml:2:1", // the unknown key,
        "batch_rws",      // by its name,
        "batch_rows",     // with what was meant,
        "relay.toml:3:9", // the value that is none,
        "relay.toml:6:",  // the setting that would break a promise,
        "acks",
        "OUTBOX_RELAY_RELAY__POLL_MAX",
    ] {
        assert!(said.contains(part), "it does not say {part}:\n{said}");
    }
    assert!(!said.contains("hunter2"), "secrets never print");
    assert_eq!(finished.stdout, "", "data goes to stdout, and there is none");
    assert!(!said.contains('\u{1b}'), "no colours where there is no terminal:\n{said}");
}

#[tokio::test]
async fn settings_that_are_missing_are_told_by_the_names_that_set_them() {
    let finished = outbox_relay(&["run"]).run().await.expect_code(3);
    for part in ["DATABASE_URL", "KAFKA_BOOTSTRAP_SERVERS"] {
        assert!(finished.stderr.contains(part), "it does not say {part}:\n{}", finished.stderr);
    }
}

#[tokio::test]
async fn usage_errors_exit_2() {
    for args in [&["no-such-command"][..], &["events", "ls", "--status", "lost"], &["lag", "--fail-over", "many"], &[]]
    {
        outbox_relay(args).run().await.expect_code(2);
    }
}

#[tokio::test]
async fn servers_that_do_not_answer_exit_4_without_the_password() {
    let nobody = Nobody::here();
    let address = nobody.address().to_string();
    for args in [&["migrate", "up"][..], &["events", "ls"], &["lag"], &["migrate", "status"]] {
        let finished = outbox_relay(args)
            .env("DATABASE_URL", &format!("postgres://user:hunter2@{address}/x"))
            .env("KAFKA_BOOTSTRAP_SERVERS", &address)
            .env("OUTBOX_RELAY_DATABASE__CONNECT_TIMEOUT", "2s")
            .run()
            .await
            .expect_code(4);
        assert!(finished.stderr.contains("OR-P001"), "{}", finished.stderr);
        assert!(!finished.stderr.contains("hunter2"), "{}", finished.stderr);
    }
}

#[tokio::test]
async fn events_are_listed_and_shown_as_json() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("events"), Topic::create("events", 1));
    let client = database.connect().await;
    let good =
        NewRow::new(&topic.name, "order-7", r#"{"a": 1}"#).text("correlation_id", "saga-1").insert(&client).await;
    let bad = NewRow::new("no such topic", "order-8", "{}").insert(&client).await;
    let large = NewRow::new(&topic.name, "order-9", r#"{"n": 9007199254740993}"#).insert(&client).await;
    let mut relay = RelaySettings::new(&database, &parts().kafka).steady().start_ready().await;
    wait_for_status(&client, good, "PUBLISHED").await;
    wait_for_status(&client, large, "PUBLISHED").await;
    wait_for_status(&client, bad, "FAILED").await;
    relay.terminate().await;

    let all = call(&database, &["events", "ls", "-o", "json"]).run().await.expect_code(0).json();
    let ids = |value: &serde_json::Value| -> Vec<i64> {
        value.as_array().expect("a list").iter().map(|event| event["id"].as_i64().expect("a number")).collect()
    };
    assert_eq!(ids(&all), [large, bad, good], "newest first");
    for (args, expected) in [
        (&["--status", "failed"][..], vec![bad]),
        (&["--key", "order-7"], vec![good]),
        (&["--correlation-id", "saga-1"], vec![good]),
        (&["--topic", &topic.name, "--oldest-first"], vec![good, large]),
        (&["--key", "order-77"], vec![]),
        (&["--limit", "1"], vec![large]),
    ] {
        let args = [&["events", "ls", "-o", "json"], args].concat();
        assert_eq!(ids(&call(&database, &args).run().await.expect_code(0).json()), expected, "{args:?}");
    }
    let lines = call(&database, &["events", "ls", "-o", "ndjson"]).run().await.expect_code(0).stdout;
    assert_eq!(lines.lines().count(), 3);
    for line in lines.lines() {
        serde_json::from_str::<serde_json::Value>(line).expect("one object per line");
    }

    let shown = call(&database, &["events", "show", &bad.to_string(), "-o", "json"]).run().await.expect_code(0);
    assert!(shown.stdout.contains("FAILED") && shown.stdout.contains("invalid-topic"), "{}", shown.stdout);
    let shown = call(&database, &["events", "show", &large.to_string(), "-o", "json"]).run().await.expect_code(0);
    assert!(shown.stdout.contains("9007199254740993"), "a large number keeps its digits: {}", shown.stdout);
    call(&database, &["events", "show", "999999"]).run().await.expect_code(6);
}

#[tokio::test]
async fn lag_tells_the_backlog_and_fails_over_a_threshold() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("lag"), Topic::create("lag", 1));
    let client = database.connect().await;
    crate::support::outbox::insert_many(&client, &topic.name, 10, 25).await;
    let lag = |args: &[&str]| {
        call(&database, &[&["lag", "-o", "json"], args].concat()).env("OUTBOX_RELAY_CONSUMER__ENABLED", "false")
    };
    let shown = lag(&[]).run().await.expect_code(0);
    assert!(shown.stdout.contains("25"), "{}", shown.stdout);
    shown.json();
    lag(&["--fail-over", "25"]).run().await.expect_code(0);
    let over = lag(&["--fail-over", "24"]).run().await.expect_code(6);
    assert!(over.stderr.contains("25 events wait in the outbox, more than 24"), "{}", over.stderr);
    assert_eq!(over.json()["outbox"]["pending"], 25, "the figures are printed all the same");
    // Held events are still to be delivered.
    client.execute("update outbox_events set status = 'HELD' where id % 2 = 0", &[]).await.unwrap();
    lag(&["--fail-over", "24"]).run().await.expect_code(6);
    lag(&["--fail-over-age", "1h"]).run().await.expect_code(0);
    client.execute("update outbox_events set created_at = now() - interval '2 hours'", &[]).await.unwrap();
    let old = lag(&["--fail-over-age", "1h"]).run().await.expect_code(6);
    assert!(old.stderr.contains("the oldest PENDING event has waited for 2h 0m, more than 1h 0m"), "{}", old.stderr);

    let paused = call(&database, &["pause", "--topic", &topic.name, "--reason", "upgrade"]).run().await;
    paused.expect_code(0);
    let shown = lag(&[]).run().await.expect_code(0).json();
    assert_eq!(shown["pauses"].as_array().map(Vec::len), Some(1), "{shown}");
    assert_eq!(
        (&shown["pauses"][0]["topic"], &shown["pauses"][0]["reason"]),
        (&topic.name.as_str().into(), &"upgrade".into())
    );
    let text = call(&database, &["lag"]).env("OUTBOX_RELAY_CONSUMER__ENABLED", "false").run().await.expect_code(0);
    assert!(text.stdout.contains("PAUSED") && text.stdout.contains("upgrade"), "{}", text.stdout);
    let over = lag(&["--fail-over", "24"]).run().await.expect_code(6);
    assert!(over.stderr.contains("publishing is paused"), "{}", over.stderr);
}

#[tokio::test]
async fn lag_fails_over_what_a_consumer_group_is_behind_and_over_a_position_that_kafka_has_not() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("group-lag"), Topic::create("group-lag", 1));
    let client = database.connect().await;
    crate::support::outbox::insert_many(&client, &topic.name, 10, 30).await;
    let mut relay = RelaySettings::new(&database, &parts().kafka).steady().start_ready().await;
    wait_until_published(&database, Duration::from_secs(30)).await;
    relay.terminate().await;
    let folded = "insert into consumer_partitions (consumer_group, topic, partition, epoch, next_offset) values ('shop', $1, 0, 1, 10)";
    client.execute(folded, &[&topic.name]).await.unwrap();
    let lag = |args: &[&str]| {
        call(&database, &[&["lag", "--group", "shop", "-o", "json"], args].concat())
            .env("OUTBOX_RELAY_CONSUMER__ENABLED", "false")
            .env("OUTBOX_RELAY_CONSUMER__TOPICS", &topic.name)
    };
    let shown = lag(&["--fail-over", "20"]).run().await.expect_code(0).json();
    assert_eq!(shown["consumer"]["total"], 20, "{shown}");
    let over = lag(&["--fail-over", "19"]).run().await.expect_code(6);
    assert!(over.stderr.contains("group shop is 20 records behind, more than 19"), "{}", over.stderr);
    client.execute("update consumer_partitions set next_offset = 31", &[]).await.unwrap();
    lag(&[]).run().await.expect_code(0);
    lag(&["--fail-over", "1000"]).run().await.expect_code(6);
}

/// What cannot be measured is no zero: records behind an open transaction, a topic that does not exist, bounds above
/// the sequence.
#[tokio::test]
async fn lag_fails_over_what_it_cannot_measure() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("no-lag"), Topic::create("no-lag", 1));
    let client = database.connect().await;
    let open = topic.open_transaction(5).await;
    let read = "insert into consumer_partitions (consumer_group, topic, partition, epoch, next_offset) values ('shop', $1, 0, 1, 0)";
    client.execute(read, &[&topic.name]).await.unwrap();
    let lag = |topics: &str, args: &[&str]| {
        call(&database, &[&["lag", "--group", "shop", "-o", "json"], args].concat())
            .env("OUTBOX_RELAY_CONSUMER__ENABLED", "false")
            .env("OUTBOX_RELAY_CONSUMER__TOPICS", topics)
    };
    let over = lag(&topic.name, &["--fail-over", "4"]).run().await.expect_code(6);
    let shown = over.json();
    let partition = &shown["consumer"]["partitions"][0];
    assert_eq!((&partition["lag"], &partition["state"]), (&5.into(), &"open-transaction".into()), "{shown}");
    assert_eq!((&partition["stable_offset"], &partition["end_offset"]), (&0.into(), &5.into()), "{shown}");
    assert!(partition["detail"].as_str().is_some_and(|detail| detail.contains("has been open since 20")), "{shown}");
    drop(open);

    let misspelt = format!("{},{}-misspelt", topic.name, topic.name);
    let over = lag(&misspelt, &["--fail-over", "1000"]).run().await.expect_code(6);
    assert!(over.stderr.contains("-misspelt does not exist"), "{}", over.stderr);

    crate::support::outbox::insert_many(&client, &topic.name, 10, 25).await;
    client.batch_execute("update outbox_shards set low_id = 1000000 where shard = 0").await.unwrap();
    for threshold in [["--fail-over", "1000"], ["--fail-over-age", "1h"]] {
        let over = lag(&topic.name, &threshold).run().await.expect_code(6);
        assert!(over.stderr.contains("pending events of shard 0 are not counted"), "{}", over.stderr);
        assert_eq!(over.json()["unmeasured_shards"][0], 0);
    }
    lag(&topic.name, &[]).run().await.expect_code(0);
}

#[tokio::test]
async fn check_is_content_with_a_good_deployment_and_names_what_is_missing() {
    let (good, empty) = tokio::join!(TestDatabase::migrated("check"), TestDatabase::empty("check"));
    let settings = |database: &TestDatabase| call(database, &["check"]).env("OUTBOX_RELAY_CONSUMER__ENABLED", "false");
    let finished = settings(&good).run().await.expect_code(0);
    assert!(!finished.stdout.is_empty());
    let finished = settings(&empty).run().await.expect_code(6);
    assert!(finished.stdout.contains("outbox-relay migrate up"), "the fix is named:\n{}", finished.stdout);
    // What exactly-once delivery needs is looked at where it is switched on.
    let once = settings(&good).env("OUTBOX_RELAY_RELAY__DELIVERY", "exactly-once").run().await.expect_code(0);
    assert!(once.stdout.contains("outbox-relay.progress") && once.stdout.contains("run.deployment"), "{}", once.stdout);
    // Its other name.
    call(&good, &["doctor"]).env("OUTBOX_RELAY_CONSUMER__ENABLED", "false").run().await.expect_code(0);
}

#[tokio::test]
async fn check_names_dead_letter_topics_that_are_missing_where_they_would_be_used() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("check-dlq"), Topic::create("check-dlq", 1));
    let client = database.connect().await;
    // Published long ago: it is not by the backlog that the topic is known.
    NewRow::new(&topic.name, "k", "{}").text("status", "PUBLISHED").sql("published_at", "now()").insert(&client).await;
    let check = || call(&database, &["check", "-o", "json"]).env("OUTBOX_RELAY_CONSUMER__ENABLED", "false");
    let findings = |document: &serde_json::Value| -> Vec<serde_json::Value> {
        let all = document["findings"].as_array().expect("a list");
        all.iter().filter(|finding| finding["check"] == "kafka.dead_letters").cloned().collect()
    };
    assert_eq!(findings(&check().run().await.expect_code(0).json()).len(), 0, "nothing would be sent there");
    let strict = || check().env("OUTBOX_RELAY_RETRY__ON_EXHAUSTED", "dead-letter").run();
    let found = findings(&strict().await.expect_code(6).json());
    let dead = format!("{}-dlq", topic.name);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0]["what"], format!("dead-letter topic {dead} does not exist"));
    let fix = found[0]["fix"].as_str().expect("a text");
    assert!(fix.contains(&format!("--create --topic {dead} ")), "{fix}");
    let _dead = Topic { name: dead, ..topic.clone() }.created(1).await;
    assert_eq!(findings(&strict().await.expect_code(0).json()).len(), 0);
}

#[tokio::test]
async fn health_asks_the_instance_that_runs() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("health"), Topic::create("health", 1));
    // An address of this test: nobody else listens there when the relay has ended.
    let own = format!("127.{}.{}.{}:0", fastrand::u8(2..), fastrand::u8(..), fastrand::u8(1..));
    let mut relay = RelaySettings::new(&database, &parts().kafka).set("admin.listen", &own).start_ready().await;
    let health = |address: &str, args: &[&str]| {
        call(&database, &[&["health"], args].concat()).env("OUTBOX_RELAY_ADMIN__LISTEN", address)
    };
    let address = relay.admin().to_string();
    health(&address, &[]).run().await.expect_code(0);
    health(&address, &["--ready"]).run().await.expect_code(0);
    let client = database.connect().await;
    NewRow::new(&topic.name, "k", "{}").insert(&client).await;
    wait_until_published(&database, Duration::from_secs(30)).await;
    relay.terminate().await;
    let finished = health(&address, &["--timeout", "1s"]).run().await;
    assert!(matches!(finished.code, Some(4 | 6)), "{finished:?}");
}

#[tokio::test]
async fn the_effective_settings_are_shown_with_their_sources_and_without_secrets() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("relay.toml"), "[relay]\nbatch_rows = 77\n").unwrap();
    let finished = outbox_relay(&["config", "show", "-o", "json"])
        .within(folder.path())
        .env("DATABASE_URL", "postgres://user:hunter2@db/x")
        .env("KAFKA_BOOTSTRAP_SERVERS", "kafka:9092")
        .env("OUTBOX_RELAY_RELAY__LEASE", "7s")
        .run()
        .await
        .expect_code(0);
    finished.json();
    for part in ["77", "relay.toml", "OUTBOX_RELAY_RELAY__LEASE", "DATABASE_URL", "***"] {
        assert!(finished.stdout.contains(part), "it does not show {part}:\n{}", finished.stdout);
    }
    assert!(!finished.stdout.contains("hunter2") && !finished.stderr.contains("hunter2"), "secrets never print");
}

/// The file that `init` writes is valid as it is, but for what only the user knows.
#[tokio::test]
async fn init_writes_a_file_that_validates_and_never_overwrites_one() {
    let folder = tempfile::tempdir().unwrap();
    outbox_relay(&["init"]).within(folder.path()).run().await.expect_code(0);
    let written = std::fs::read_to_string(folder.path().join("relay.toml")).unwrap();
    assert!(written.contains("# ") && written.contains("[relay]"), "{written}");
    outbox_relay(&["config", "validate"])
        .within(folder.path())
        .env("DATABASE_URL", "postgres://localhost/x")
        .env("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092")
        .run()
        .await
        .expect_code(0);
    std::fs::write(folder.path().join("relay.toml"), "# mine").unwrap();
    let again = outbox_relay(&["init"]).within(folder.path()).run().await;
    assert_ne!(again.code, Some(0), "{again:?}");
    assert_eq!(std::fs::read_to_string(folder.path().join("relay.toml")).unwrap(), "# mine");
}

#[tokio::test]
async fn completions_and_the_manual_are_generated() {
    for shell in ["bash", "zsh", "fish"] {
        let finished = outbox_relay(&["completions", shell]).run().await.expect_code(0);
        assert!(finished.stdout.contains("outbox-relay"), "{shell}");
    }
    let finished = outbox_relay(&["man"]).run().await.expect_code(0);
    assert!(finished.stdout.contains(".TH"), "a roff page");
}
