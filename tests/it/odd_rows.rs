//! Every command that reads, over every odd row: any value that PostgreSQL can hold is listed, shown, traced, counted,
//! retried and given up.

use std::time::Duration;

use tokio_postgres::Client;

use crate::hostile::rows::{Targets, good, oddities};
use crate::support::cli::{Call, Finished, outbox_relay};
use crate::support::outbox::{row, wait_for_status};
use crate::support::relay::RelaySettings;
use crate::support::{NewRow, TestDatabase, Topic, parts::parts, unique, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);
/// Ids of one call of `events show`.
const SHOWN_TOGETHER: usize = 40;

struct Shop {
    database: TestDatabase,
    client: Client,
    secret: String,
}

impl Shop {
    fn call(&self, args: &[&str]) -> Call {
        let call = outbox_relay(args).env("DATABASE_URL", &self.database.url);
        call.env("KAFKA_BOOTSTRAP_SERVERS", &parts().kafka).env("OUTBOX_RELAY_CONSUMER__ENABLED", "false")
    }

    /// Runs a command, which must end with one of these codes, and print nothing of payloads, keys and header values.
    async fn run(&self, args: &[&str], codes: &[i32]) -> Finished {
        let ended = self.call(args).run().await;
        let shows_payloads = args.starts_with(&["events", "show"]);
        let output = format!("{}{}", ended.stdout, ended.stderr);
        let brief: String = output.chars().take(2_000).collect();
        assert!(ended.code.is_some_and(|code| codes.contains(&code)), "{args:?}: {:?}\n{brief}", ended.code);
        assert!(!output.contains("panicked"), "{args:?}: {brief}");
        assert!(shows_payloads || !output.contains(&self.secret), "{args:?} prints a payload or a header");
        ended
    }

    /// All commands that read, over all rows that there are, in these formats.
    async fn look_at_everything(&self, ids: &[i64], formats: &[&str]) {
        let rows = ids.len();
        for format in formats.iter().copied() {
            let list = self.run(&["events", "ls", "--limit", "10000", "-o", format], &[0]).await;
            if format == "json" {
                assert_eq!(list.json().as_array().expect("a list").len(), rows, "every row is listed");
            }
            self.run(&["lag", "-o", format], &[0]).await;
            self.run(&["top", "--once", "-o", if format == "table" { "json" } else { format }], &[0]).await;
            self.run(&["shards", "ls", "-o", format], &[0]).await;
            self.run(&["events", "retry", "--all", "--dry-run", "-o", format], &[0, 6]).await;
        }
        for state in ["pending", "published", "failed", "held", "discarded"] {
            self.run(&["events", "ls", "--limit", "10000", "--status", state, "--oldest-first"], &[0]).await;
        }
        self.run(&["events", "ls", "--since", "1970-01-01T00:00:00Z", "--until", "2100-01-01T00:00:00Z"], &[0]).await;
        self.run(&["events", "discard", "--all", "--dry-run"], &[0, 6]).await;
        self.run(&["replay", "--to", "2100-01-01T00:00:00Z", "--dry-run", "-o", "json"], &[0, 6]).await;
        for status in ["published", "failed", "discarded"] {
            let args = ["cleanup", "--older-than", "1d", "--status", status, "--dry-run"];
            self.run(&args, &[0]).await;
        }
        // A broker that has just started may not know its coordinators yet.
        self.run(&["recover", "-o", "json"], &[0, 4, 6]).await;
        self.run(&["dlq", "ls", "-o", "json"], &[0]).await;
        self.run(&["dlq", "redrive", "--dry-run", "-o", "json"], &[0, 6]).await;
        self.run(&["check", "-o", "json"], &[0, 5, 6]).await;
        for part in ids.chunks(SHOWN_TOGETHER) {
            let part: Vec<String> = part.iter().map(i64::to_string).collect();
            for format in formats.iter().copied().filter(|format| *format != "ndjson") {
                let args: Vec<&str> =
                    ["events", "show", "-o", format].into_iter().chain(part.iter().map(String::as_str)).collect();
                self.run(&args, &[0]).await;
            }
        }
        // What has happened to a row is one statement for all of them; those with odd times and texts stand for the
        // rest.
        for id in ids.iter().step_by(9) {
            self.run(&["events", "trace", &id.to_string(), "-o", "json"], &[0]).await;
        }
    }
}

async fn ids(client: &Client, condition: &str) -> Vec<i64> {
    let rows = client.query(&format!("select id from outbox_events where {condition} order by id"), &[]).await;
    rows.expect("ids").iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn every_command_that_reads_takes_every_row() {
    let database = TestDatabase::migrated("odd-rows").await;
    let client = database.connect().await;
    let secret = format!("s3cret{:08x}", fastrand::u32(..));
    let targets = Targets::named(&unique("odd"), unique("odd"), secret.clone());
    let shop = Shop { database, client, secret };
    let mut refused = 0;
    for (place, oddity) in oddities().iter().enumerate() {
        let key = format!("k{place}");
        good(&targets, &key).insert(&shop.client).await;
        // Some are refused by the table itself.
        let inserted = shop.client.execute(&oddity.row(&targets, &key).statement(), &[]).await;
        refused += usize::from(inserted.is_err());
    }
    let all = ids(&shop.client, "true").await;
    assert!(refused < 15, "{refused} of {} odd rows are refused", oddities().len());
    shop.look_at_everything(&all, &["table", "json", "ndjson"]).await;

    // The same rows after they failed, and those of the same keys behind them.
    shop.client
        .batch_execute(
            "update outbox_events set status = 'FAILED', last_error = coalesce(last_error, 'too-large: x'), \
               failed_at = coalesce(failed_at, created_at) where id % 2 = 0; \
             update outbox_events set status = 'HELD' where id % 2 = 1; \
             insert into outbox_held_keys (first_id, shard, partition_key, reason, held_at, release_at, topic, detail) \
               select id, shard, outbox_key_of(partition_key, aggregate_id), case when id % 4 = 0 then 'failed' else 'delayed' end, \
                 created_at, available_at, left(topic, 300), left(last_error, 300) from outbox_events where id % 2 = 0 \
             on conflict do nothing",
        )
        .await
        .expect("failed");
    shop.look_at_everything(&all, &["table"]).await;

    // And as outcomes over rows that say nothing.
    shop.client
        .batch_execute(
            "insert into outbox_outcomes (id, event_id, status, sqlstate, at, last_error, key_md5) \
               select id, event_id, case when id % 2 = 0 then 'FAILED' else 'HELD' end, 'P0001', created_at, coalesce(last_error, 'x: y'), \
                 md5(outbox_key_of(partition_key, aggregate_id)) from outbox_events; \
             update outbox_events set status = 'PENDING'",
        )
        .await
        .expect("outcomes");
    shop.look_at_everything(&all, &["json"]).await;
    let retried = shop.run(&["events", "retry", "--all", "--yes", "-o", "json"], &[0]).await.json();
    assert_eq!(retried["refused"], serde_json::json!([]), "{retried}");
    shop.client
        .batch_execute("update outbox_events set status = 'FAILED', last_error = 'x: y' where id % 2 = 0")
        .await
        .expect("failed");
    let given_up = shop.run(&["events", "discard", "--all", "--yes", "-o", "json"], &[0]).await.json();
    assert_eq!(given_up["refused"], serde_json::json!([]), "{given_up}");
    assert_eq!(ids(&shop.client, "status = 'FAILED'").await, Vec::<i64>::new());
}

/// Bytes that are no text in any encoding, as a database that was in SQL_ASCII has them, or an old dump. Written as
/// such, and read as UTF-8.
#[tokio::test]
async fn bytes_that_are_no_text_cost_their_row_alone() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("odd-bytes"), Topic::create("odd-bytes", 1));
    let client = database.connect().await;
    set_encoding(&client, &database, "SQL_ASCII").await;
    let ascii = database.connect().await;
    ascii.batch_execute("set client_encoding = 'SQL_ASCII'").await.expect("bytes as they are");
    let mut bad = Vec::new();
    let columns = [
        "event_type",
        "aggregate_type",
        "correlation_id",
        "causation_id",
        "source",
        "traceparent",
        "partition_key",
        "topic",
    ];
    for column in columns {
        let odd = NewRow::new(&topic.name, &format!("k-{column}"), "{}").sql(column, r"E'a\xff\xc3b'");
        bad.push(odd.insert(&ascii).await);
    }
    bad.push(
        NewRow::new(&topic.name, "k-payload", "{}").sql("payload", r#"E'{"a": "\xff"}'::jsonb"#).insert(&ascii).await,
    );
    bad.push(
        NewRow::new(&topic.name, "k-headers", "{}").sql("headers", r#"E'{"a": "\xff"}'::jsonb"#).insert(&ascii).await,
    );
    set_encoding(&client, &database, "UTF8").await;
    drop(ascii);

    // Of sessions that were opened since.
    let client = database.connect().await;
    let mut good = Vec::new();
    for n in 0..20 {
        good.push(NewRow::new(&topic.name, &format!("good{n}"), "{}").insert(&client).await);
    }
    let shop = Shop { database, client, secret: "nothing of the kind".to_owned() };
    let mut all = bad.clone();
    all.extend(&good);
    shop.look_at_everything(&all, &["table", "json"]).await;
    let mut relay = RelaySettings::new(&shop.database, &parts().kafka).steady().start_ready().await;
    for id in &good {
        wait_for_status(&shop.client, *id, "PUBLISHED").await;
    }
    wait_until("each of the others ends", PATIENCE, async || {
        let left = "select count(*) from outbox_current where status = 'PENDING'";
        let left: i64 = shop.client.query_one(left, &[]).await.expect("a count").get(0);
        if left == 0 { Ok(()) } else { Err(left.to_string()) }
    })
    .await;
    let mut failed = 0;
    for id in &bad {
        let found = row(&shop.client, *id).await;
        let payload_alone = found.status == "PUBLISHED" && *id == bad[bad.len() - 2];
        if !payload_alone {
            let why = found.last_error.unwrap_or_default();
            assert_eq!(found.status, "FAILED", "event {id}: {why}");
            failed += i32::from(why.starts_with("unreadable: "));
        }
    }
    assert!(failed >= 6, "{failed} are unreadable");
    shop.look_at_everything(&all, &["json"]).await;
    let retried = shop.run(&["events", "retry", "--all", "--yes", "-o", "json"], &[0]).await.json();
    assert_eq!(retried["refused"], serde_json::json!([]), "{retried}");
    relay.terminate().await;
}

/// What the database says of its texts. The test is a superuser of a server of its own.
async fn set_encoding(client: &Client, database: &TestDatabase, encoding: &str) {
    let change = "update pg_database set encoding = pg_char_to_encoding($1::text::name) where datname = $2::text::name";
    let changed = client.execute(change, &[&encoding, &database.name()]).await.expect("a superuser");
    assert_eq!(changed, 1);
}
