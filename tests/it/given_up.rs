//! Events whose rows refuse every change: they are given up all the same, count as discarded everywhere, and go when
//! they are old. So do events that failed by their outcome alone.

use std::time::Duration;

use outbox_relay::config::DatabaseConfig;
use outbox_relay::db::{Database, Role};
use outbox_relay::outbox::outcomes;
use outbox_relay::secret::Secret;
use serde_json::Value;
use tokio_postgres::Client;

use crate::support::cli::{Call, Finished};
use crate::support::outbox::wait_for_status;
use crate::support::relay::RelaySettings;
use crate::support::{NewRow, TestDatabase, Topic, holds_for, http, outbox_relay, parts::parts};

/// Raises, or skips the change, for rows with this source.
const GUARD: &str = "
    create function guard() returns trigger language plpgsql as $$
    begin
      if old.source = 'raises' then raise exception 'not %', old.payload; end if;
      if old.source = 'skips' then return null; end if;
      return new;
    end $$;
    create trigger guard before update on outbox_events for each row execute function guard();
    alter table outbox_events add constraint checked check (source is distinct from 'checked') not valid";

async fn number(client: &Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
}

struct Shop {
    database: TestDatabase,
    client: Client,
    topic: Topic,
}

impl Shop {
    async fn open(name: &str) -> Self {
        let (database, topic) = tokio::join!(TestDatabase::migrated(name), Topic::create(name, 1));
        let client = database.connect().await;
        Self { database, client, topic }
    }

    fn call(&self, args: &[&str]) -> Call {
        let args = [args, &["-o", "json"]].concat();
        let call = outbox_relay(&args).env("DATABASE_URL", &self.database.url);
        call.env("KAFKA_BOOTSTRAP_SERVERS", &parts().kafka).env("OUTBOX_RELAY_CONSUMER__ENABLED", "false")
    }

    async fn run(&self, args: &[&str], code: i32) -> Finished {
        self.call(args).run().await.expect_code(code)
    }

    async fn ids(&self, args: &[&str]) -> Vec<i64> {
        let found = self.run(args, 0).await.json();
        found.as_array().expect("a list").iter().map(|event| event["id"].as_i64().expect("an id")).collect()
    }
}

/// Promise: bad-rows.
#[tokio::test]
async fn an_event_whose_row_refuses_every_change_is_given_up_all_the_same() {
    let shop = Shop::open("given-up").await;
    let (client, topic) = (&shop.client, &shop.topic);
    let mut bad = Vec::new();
    for source in ["raises", "skips", "checked", "fine"] {
        let failed = NewRow::new(&topic.name, source, r#"{"card": "s3cret"}"#)
            .text("status", "FAILED")
            .text("last_error", "too-large: x")
            .text("source", source)
            .text("dead_letter_to", "letters")
            .sql("failed_at", "now() - interval '90 days'");
        bad.push(failed.insert(client).await);
    }
    let behind = NewRow::new(&topic.name, "raises", "{}").text("status", "HELD").insert(client).await;
    let waits =
        NewRow::new(&topic.name, "raises", "{}").text("status", "HELD").text("source", "raises").insert(client).await;
    client
        .batch_execute(
            "insert into outbox_held_keys (first_id, shard, partition_key, reason) \
             select id, shard, aggregate_id, 'failed' from outbox_events where status = 'FAILED'",
        )
        .await
        .expect("held");
    // Some have a dead letter already.
    let letter = NewRow::new("letters", "skips", "{}").sql("dead_letter_of", &bad[1].to_string());
    letter.text("status", "PUBLISHED").sql("published_at", "now()").insert(client).await;
    client.batch_execute(GUARD).await.expect("rules of the application");

    let refused = shop.run(&["events", "retry", &bad[0].to_string()], 6).await;
    assert!(refused.stderr.contains("SQLSTATE P0001") && !refused.stderr.contains("s3cret"), "{}", refused.stderr);
    let given_up = shop.run(&["events", "discard", "--all", "--yes", "--reason", "test data"], 0).await;
    let report = given_up.json();
    assert_eq!(
        (&report["changed"], &report["by_outcome"], &report["refused"]),
        (&4.into(), &3.into(), &Value::Array(Vec::new()))
    );
    assert!(
        given_up.stderr.contains("3 rows cannot be changed") && !given_up.stderr.contains("s3cret"),
        "{}",
        given_up.stderr
    );
    // One that waits is given up in the same way.
    let report = shop.run(&["events", "discard", &waits.to_string()], 0).await.json();
    assert_eq!((&report["changed"], &report["by_outcome"]), (&1.into(), &1.into()), "{report}");
    let unchanged = "select count(*) from outbox_events where status = 'FAILED'";
    assert_eq!(number(client, unchanged).await, 3, "the rows are as they were");

    let discarded = [&bad[..], &[waits]].concat();
    assert_eq!(shop.ids(&["events", "ls", "--status", "failed"]).await, Vec::<i64>::new());
    assert_eq!(shop.ids(&["events", "ls", "--status", "discarded", "--oldest-first"]).await, discarded);
    let shown = shop.run(&["events", "show", &bad[0].to_string()], 0).await.json();
    assert_eq!(shown[0]["status"], "DISCARDED", "{shown}");
    assert_eq!(shop.run(&["lag"], 0).await.json()["outbox"]["failed"], 0);
    assert_eq!(shop.run(&["top", "--once"], 0).await.json()["outbox"]["failed"], 0);
    for action in ["retry", "discard"] {
        let again = shop.run(&["events", action, &bad[0].to_string()], 6).await;
        assert!(again.stderr.contains("is DISCARDED"), "{}", again.stderr);
        shop.run(&["events", action, "--all", "--yes"], 6).await;
    }
    let decided = "select count(*) from outbox_decisions where decision = 'discard'";
    assert_eq!(number(client, decided).await, 1, "of the one that has a dead letter");

    // What waited behind goes on; no dead letter is written, nothing is published again, and it stays so.
    let settings = RelaySettings::new(&shop.database, &parts().kafka).steady();
    let mut relay = settings.set("reprocess.enabled", "true").set("cleanup.enabled", "false").start_ready().await;
    wait_for_status(client, behind, "PUBLISHED").await;
    let later = NewRow::new(&topic.name, "raises", "{}").insert(client).await;
    wait_for_status(client, later, "PUBLISHED").await;
    let (status, metrics) = http::get(relay.admin(), "/metrics").await.expect("metrics");
    assert_eq!(status, 200);
    assert!(
        !metrics.lines().any(|line| line.starts_with("outbox_relay_failed_events") && !line.ends_with(" 0")),
        "{metrics}"
    );
    let settings = DatabaseConfig { url: Secret::new(&shop.database.url), ..DatabaseConfig::default() };
    let pool = Database::new(&settings).expect("a good URL").pool(Role::Admin, 1);
    holds_for("the decision stays", Duration::from_secs(1), async || {
        outcomes::forget(&pool).await.map_err(|error| error.to_string())?;
        let left = number(client, "select count(*) from outbox_current where status = 'DISCARDED'").await;
        if left == 5 { Ok(()) } else { Err(format!("{left} are discarded")) }
    })
    .await;
    assert_eq!(number(client, "select count(*) from outbox_events where dead_letter_of is not null").await, 1);
    relay.terminate().await;
    shop.run(&["shards", "set", "16", "--yes"], 0).await;

    // By the age of the decision, and the dead letter of one goes as well.
    let cleanup = ["cleanup", "--status", "published,failed,discarded", "--yes", "--older-than"];
    let kept = shop.run(&[&cleanup[..], &["1d"]].concat(), 0).await;
    assert_eq!(number(client, "select count(*) from outbox_outcomes").await, 4, "{}", kept.stderr);
    client.batch_execute("update outbox_outcomes set at = now() - interval '2 days'").await.expect("old");
    let planned = shop.run(&[&cleanup[..], &["1d", "--dry-run"]].concat(), 0).await;
    assert!(planned.stdout.contains('4'), "{}", planned.stdout);
    shop.run(&[&cleanup[..], &["1d"]].concat(), 0).await;
    assert_eq!(number(client, "select count(*) from outbox_outcomes").await, 0);
    let left =
        format!("select count(*) from outbox_events where id = any('{{{},{},{},{waits}}}')", bad[0], bad[1], bad[2]);
    assert_eq!(number(client, &left).await, 0, "the rows are gone with their outcomes");
}

/// An outcome that says FAILED goes by the rule of the row that it stands for.
#[tokio::test]
async fn events_that_failed_by_their_outcome_go_when_they_are_old() {
    let shop = Shop::open("old-outcomes").await;
    let client = &shop.client;
    let mut ids = Vec::new();
    for n in 0..6 {
        ids.push(NewRow::new("t", &format!("k{n}"), "{}").insert(client).await);
    }
    let statement = format!(
        "insert into outbox_outcomes (id, event_id, status, sqlstate, at, last_error) \
           select id, event_id, 'FAILED', 'P0001', now() - interval '40 days', 'x: y' from outbox_events; \
         update outbox_outcomes set at = now() where id = {young}; \
         update outbox_outcomes set dead_letter_to = 'letters' where id = {due}; \
         update outbox_outcomes set event_id = gen_random_uuid() where id = {stranger}; \
         insert into outbox_held_keys (first_id, shard, partition_key, reason) \
           select id, shard, aggregate_id, 'failed' from outbox_events where id = {holds}; \
         update outbox_shards s set batch_ids = array[{in_flight}] from outbox_events e where e.id = {in_flight} and s.shard = e.shard",
        young = ids[1],
        due = ids[2],
        stranger = ids[3],
        holds = ids[4],
        in_flight = ids[5]
    );
    client.batch_execute(&statement).await.expect("outcomes");
    let cleanup = ["cleanup", "--older-than", "30d", "--status", "failed", "--yes"];
    let planned = shop.run(&[&cleanup[..], &["--dry-run"]].concat(), 0).await;
    assert_eq!(number(client, "select count(*) from outbox_events").await, 6, "{}", planned.stdout);
    shop.run(&cleanup, 0).await;
    let left = "select string_agg(id::text, ',' order by id) from outbox_events";
    let left: String = client.query_one(left, &[]).await.expect("ids").get(0);
    assert_eq!(left, ids[1..].iter().map(i64::to_string).collect::<Vec<_>>().join(","));
    assert_eq!(number(client, "select count(*) from outbox_outcomes").await, 5);
    // Once nothing holds the key it goes, and the rows go by page, whatever stands between them.
    client
        .batch_execute("delete from outbox_held_keys; update outbox_shards set batch_ids = null")
        .await
        .expect("released");
    shop.run(&[&cleanup[..], &["--limit", "1"]].concat(), 0).await;
    shop.run(&cleanup, 0).await;
    assert_eq!(number(client, "select count(*) from outbox_events").await, 3);
}
