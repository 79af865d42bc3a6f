//! Replays of events that the topic would not keep: Kafka deletes by the time of the record, which is that of the
//! event.

use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::support::cli::Call;
use crate::support::kafka::client_config;
use crate::support::{NewRow, TestDatabase, Topic, outbox_relay, parts::parts, unique};

const DAY: &str = "86400000";

/// Promise: replay.
#[tokio::test]
async fn copies_that_kafka_would_delete_are_told_before_any_is_made() {
    let database = TestDatabase::migrated("retention").await;
    let client = database.connect().await;
    let of_a_day = Topic::planned("of-a-day").created_with(1, &[("retention.ms", DAY)]).await;
    let keeps = Topic::planned("keeps").created_with(1, &[("retention.ms", "-1")]).await;
    let refuses = Topic::planned("refuses")
        .created_with(1, &[("retention.ms", "-1"), ("message.timestamp.before.max.ms", "3600000")])
        .await;
    let settings = [("retention.ms", DAY), ("message.timestamp.type", "LogAppendTime")];
    let own_time = Topic::planned("own-time").created_with(1, &settings).await;
    let compacted =
        Topic::planned("compacted").created_with(1, &[("retention.ms", DAY), ("cleanup.policy", "compact")]).await;
    let missing = unique("missing");
    let published = |topic: &str, age: &str| {
        let row = NewRow::new(topic, "k", r#"{"card": "s3cret"}"#).text("status", "PUBLISHED");
        row.sql("published_at", "now()").sql("created_at", age)
    };
    let old = "now() - interval '2 days'";
    for _ in 0..3 {
        published(&of_a_day.name, old).insert(&client).await;
    }
    for age in ["now()", "now() - interval '23 hours'", "'infinity'"] {
        published(&of_a_day.name, age).insert(&client).await;
    }
    published(&of_a_day.name, "'-infinity'").insert(&client).await;
    for topic in [&keeps.name, &own_time.name, &compacted.name, &missing] {
        published(topic, old).insert(&client).await;
    }
    published(&refuses.name, "now() - interval '2 hours'").insert(&client).await;
    published("any", old).without("topic").text("event_type", "Routed").insert(&client).await;
    published("any", old).without("topic").text("event_type", "Nowhere").insert(&client).await;

    let folder = tempfile::tempdir().expect("a folder");
    let rule = format!("[[routing.rule]]\nevent_type = \"Routed\"\ntopic = \"{}\"\n", of_a_day.name);
    std::fs::write(folder.path().join("relay.toml"), rule).expect("settings");
    let replay = |args: &[&str]| -> Call {
        let args = [&["replay"], args, &["-o", "json"]].concat();
        let call = outbox_relay(&args).within(folder.path()).env("DATABASE_URL", &database.url);
        call.env("KAFKA_BOOTSTRAP_SERVERS", &parts().kafka)
    };
    let count = async |sql: &str| -> i64 { client.query_one(sql, &[]).await.expect("a count").get(0) };
    let copies = "select count(*) from outbox_events where replay_of is not null";
    let everything = ["--to", "2100-01-01"];

    let planned = replay(&[&everything[..], &["--dry-run"]].concat()).run().await.expect_code(6);
    let report = planned.json();
    // The one at infinity is not before the year 2100.
    assert_eq!(report["matched"], 13, "{report}");
    let mut expired: Vec<(String, i64, i64)> = report["expired"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|line| {
            let number = |name: &str| line[name].as_i64().expect("a number");
            (line["topic"].as_str().expect("a topic").to_owned(), number("max_age_seconds"), number("events"))
        })
        .collect();
    expired.sort();
    assert_eq!(expired, [(of_a_day.name.clone(), 86_400, 5), (refuses.name.clone(), 3_600, 1)]);
    assert!(planned.stderr.contains("6 copies") && planned.stderr.contains("--ignore-retention"), "{}", planned.stderr);

    let refused = replay(&[&everything[..], &["--yes"]].concat()).run().await.expect_code(6);
    assert!(refused.stderr.contains("6 copies") && refused.stderr.contains(&of_a_day.name), "{}", refused.stderr);
    assert_eq!((count(copies).await, count("select count(*) from outbox_replays").await), (0, 0), "nothing was begun");
    for fine in [
        &["--topic", &keeps.name][..],
        &["--topic", &own_time.name],
        &["--topic", &compacted.name],
        &["--topic", &missing],
    ] {
        replay(&[fine, &["--dry-run"]].concat()).run().await.expect_code(0);
    }
    // What the topic keeps can be chosen, and so can another topic.
    replay(&["--topic", &of_a_day.name, "--from", "1d", "--dry-run"]).run().await.expect_code(0);
    replay(&["--topic", &of_a_day.name, "--to", "2100-01-01", "--to-topic", &keeps.name, "--dry-run"])
        .run()
        .await
        .expect_code(0);
    replay(&["--topic", &keeps.name, "--to-topic", &of_a_day.name, "--yes"]).run().await.expect_code(6);

    // One that was begun, and lay about until its events were too old.
    let begun = "insert into outbox_replays (filter, upto_id, matched, actor, runner) \
        values (jsonb_build_object('topic', $1::text), (select max(id) from outbox_events), 7, 'me', gen_random_uuid()) returning id::text";
    let id: String = client.query_one(begun, &[&of_a_day.name]).await.expect("a replay").get(0);
    let told = replay(&["--resume", &id, "--dry-run"]).run().await.expect_code(6);
    assert!(told.stderr.contains("4 copies"), "{}", told.stderr);
    replay(&["--resume", &id]).run().await.expect_code(6);
    assert_eq!(count(copies).await, 0);
    let done = replay(&["--resume", &id, "--ignore-retention"]).run().await.expect_code(0).json();
    assert_eq!((&done["copied"], &done["finished"]), (&7.into(), &true.into()), "{done}");
    replay(&[&everything[..], &["--yes", "--ignore-retention"]].concat()).run().await.expect_code(0);
    assert_eq!(count(copies).await, 7 + 13);
}

#[tokio::test]
async fn dead_letters_that_their_topic_would_delete_are_told() {
    let database = TestDatabase::migrated("letter-retention").await;
    let client = database.connect().await;
    let topic = Topic::planned("letter-retention").created_with(1, &[("retention.ms", DAY)]).await;
    let letters = Topic { name: format!("{}-dlq", topic.name), bootstrap: topic.bootstrap.clone() };
    let letters = letters.created_with(1, &[("retention.ms", "-1")]).await;
    let failed = NewRow::new(&topic.name, "k", "{}").text("status", "FAILED").text("last_error", "x: y");
    let failed = failed.sql("failed_at", "now()").sql("created_at", "now() - interval '2 days'").insert(&client).await;
    let event_id: String =
        client.query_one("select event_id::text from outbox_events", &[]).await.expect("its id").get(0);
    let producer: BaseProducer = client_config(&letters.bootstrap).create().expect("producer");
    let now = outbox_relay::clock::wall().as_millisecond();
    let own: [(&str, &str); 2] = [("outbox-id", &failed.to_string()), ("outbox-event-id", &event_id)];
    for (headers, age_days) in [(&own[..], 2), (&[("consumer_group", "g")], 2), (&[("consumer_group", "h")], 0)] {
        let named = OwnedHeaders::new().insert(Header { key: "original_topic", value: Some(&topic.name) });
        let headers = headers.iter().fold(named, |all, (key, value)| all.insert(Header { key, value: Some(*value) }));
        let record = BaseRecord::to(&letters.name).key("k").payload("{}").headers(headers);
        let record = record.timestamp(now - age_days * 86_400_000);
        producer.send(record).map_err(|(error, _)| error).expect("queued");
    }
    producer.flush(std::time::Duration::from_secs(60)).expect("acknowledged");
    let redrive = |args: &[&str]| -> Call {
        let args = [&["dlq", "redrive", "--dlq", &letters.name, "-o", "json"], args].concat();
        outbox_relay(&args).env("DATABASE_URL", &database.url).env("KAFKA_BOOTSTRAP_SERVERS", &parts().kafka)
    };
    let planned = redrive(&["--dry-run"]).run().await.expect_code(0);
    assert!(planned.stderr.contains("2 of these events are older"), "{}", planned.stderr);
    let sent = redrive(&["--yes"]).run().await.expect_code(0);
    assert!(sent.stderr.contains("2 of these events are older"), "{}", sent.stderr);
    let counts = ["expired", "refused", "appended", "reopened"].map(|name| sent.json()[name].as_i64().unwrap_or(-1));
    assert_eq!(counts, [2, 0, 2, 1], "{}", sent.stdout);
    // Nothing is to be told of what is left alone.
    let again = redrive(&["--yes"]).run().await.expect_code(0);
    assert!(!again.stderr.contains("older"), "{}", again.stderr);
}
