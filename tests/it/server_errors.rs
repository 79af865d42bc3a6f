//! Rows of the outbox whose trigger fails with errors by which PostgreSQL blames itself.

use std::time::Duration;

use crate::support::outbox::wait_for_status;
use crate::support::relay::RelaySettings;
use crate::support::{NewRow, TestDatabase, Topic, parts::parts, wait_until};

const PATIENCE: Duration = Duration::from_secs(120);

/// `file` and `statement` are errors of PostgreSQL itself.
const TRIGGER: &str = "
    create function no() returns trigger language plpgsql as $$
    begin
      case coalesce(old.source, 'good')
        when 'good' then return new;
        when 'file' then perform pg_read_file('no-such-file');
        when 'statement' then execute 'execute no_such_statement';
        else raise exception 'not %', old.payload using errcode = old.source;
      end case;
      return new;
    end $$;
    create trigger no before update on outbox_events for each row execute function no();";

/// Promise: bad-rows.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_whose_trigger_always_blames_the_server_costs_nobody_else_anything() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("server-errors"), Topic::create("server-errors", 1));
    let client = database.connect().await;
    client.batch_execute(TRIGGER).await.expect("a trigger of the application");
    let kinds =
        ["40001", "40P01", "57P01", "58030", "53100", "55P03", "08006", "28000", "42501", "25006", "file", "statement"];
    let mut bad = Vec::new();
    for kind in kinds {
        bad.push(NewRow::new(&topic.name, kind, "{}").text("source", kind).insert(&client).await);
    }
    let mut good = Vec::new();
    for n in 0..40 {
        good.push(NewRow::new(&topic.name, &format!("good-{n}"), "{}").insert(&client).await);
    }
    let mut relay = RelaySettings::new(&database, &parts().kafka).set("relay.lease", "3s").start();
    wait_until("every good row is published, and the outcome of every other one is known", PATIENCE, async || {
        let waiting = "select count(*) from outbox_events e where status <> 'PUBLISHED' \
             and not exists (select from outbox_outcomes o where o.id = e.id and o.status = 'PUBLISHED')";
        let waiting: i64 = client.query_one(waiting, &[]).await.map_err(|error| error.to_string())?.get(0);
        if waiting == 0 { Ok(()) } else { Err(format!("{waiting} wait")) }
    })
    .await;
    let sent = topic.records().await;
    for id in good.iter().chain(&bad) {
        assert!(sent.iter().any(|record| record.outbox_id() == *id), "{id} is in Kafka");
    }
    // The shards work on as if nothing had been.
    let later = NewRow::new(&topic.name, "later", "{}").insert(&client).await;
    wait_for_status(&client, later, "PUBLISHED").await;
    relay.terminate().await;
}
