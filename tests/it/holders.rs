//! What holds a key while earlier events of it are on their way.

use std::time::Duration;

use crate::support::cli::outbox_relay;
use crate::support::relay::RelaySettings;
use crate::support::{NewRow, TestDatabase, Topic, parts::parts, side_by_side, unique, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

/// The relay leaves the first event to Kafka, which refuses it, and refuses the third one itself when it claims all of
/// them. The second one may not pass the first, although it comes before the third.
///
/// Promise: key-order.
#[tokio::test]
async fn a_later_event_that_fails_at_once_opens_no_way_past_one_that_kafka_refuses() {
    let cases = [
        ("at-least-once", ("headers", "'[]'")),
        ("exactly-once", ("headers", "'[]'")),
        ("at-least-once", ("available_at", "now() + interval '1 hour'")),
    ];
    side_by_side(cases, async |(delivery, last)| {
        let topic = Topic { name: unique("holders"), bootstrap: parts().kafka.clone() };
        let future = [("message.timestamp.type", "CreateTime"), ("message.timestamp.after.max.ms", "3600000")];
        let (database, topic) = tokio::join!(TestDatabase::migrated("holders"), topic.created_with(1, &future));
        let (client, mut writer) = (database.connect().await, database.connect().await);
        let row = || NewRow::new(&topic.name, "k", "{}");
        let relay = RelaySettings::new(&database, &parts().kafka)
            .steady()
            .set("run.deployment", &unique("holders"))
            .set("relay.delivery", delivery)
            .set("retry.on_exhausted", "hold")
            .start_ready()
            .await;
        // Less than a minute beyond the limit: the relay does not decide that by its own clock. All of them at once,
        // and not before somebody waits for them.
        let mut ids = Vec::new();
        let all = writer.transaction().await.expect("begin");
        for row in [row().sql("created_at", "now() + interval '1 hour 57 seconds'"), row(), row().sql(last.0, last.1)] {
            ids.push(row.insert(all.client()).await);
        }
        all.commit().await.expect("commit");
        wait_until("the first one has failed, and the others wait", PATIENCE, async || {
            let rows = client.query("select status from outbox_current where id = any($1) order by id", &[&ids]).await;
            let found: Vec<String> = rows.map_err(|error| error.to_string())?.iter().map(|row| row.get(0)).collect();
            assert_ne!(
                found[1],
                "PUBLISHED",
                "{delivery}, {last:?}: it has passed the first one\n{}",
                relay.log_text()
            );
            if found == ["FAILED", "HELD", "HELD"] { Ok(()) } else { Err(format!("{delivery}, {last:?}: {found:?}")) }
        })
        .await;
    })
    .await;
}

/// An event that was committed late fails behind a key that a later event holds. What is between the two waits for
/// the earlier one, and the later one waits for its turn.
///
/// Promise: key-order.
#[tokio::test]
async fn an_earlier_event_that_comes_late_and_fails_takes_the_key_over() {
    side_by_side(["at-least-once", "exactly-once"], async |delivery| {
        let (database, topic) = tokio::join!(TestDatabase::migrated("late-holder"), Topic::create("late-holder", 1));
        let client = database.connect().await;
        let noise = "to_jsonb((select string_agg(md5(n::text), '') from generate_series(1, 40000) n))";
        let good = || NewRow::new(&topic.name, "k", "{}");
        let bad = || good().sql("payload", noise);
        let mut late = database.connect().await;
        let late = late.transaction().await.expect("begin");
        let mut ids = Vec::new();
        for row in [bad(), good()] {
            ids.push(late.query_one(&row.statement(), &[]).await.expect("a row").get::<_, i64>(0));
        }
        ids.push(bad().insert(&client).await);
        ids.push(good().insert(&client).await);
        let relay = RelaySettings::new(&database, &parts().kafka)
            .steady()
            .set("run.deployment", &unique("late-holder"))
            .set("relay.delivery", delivery)
            .set("retry.on_exhausted", "hold")
            .start_ready()
            .await;
        let states = async |what: &str, expected: &[&str]| {
            wait_until(what, PATIENCE, async || {
                let sql = "select status from outbox_current where id = any($1) order by id";
                let rows = client.query(sql, &[&ids]).await.map_err(|error| error.to_string())?;
                let found: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
                if found == expected { Ok(()) } else { Err(format!("{delivery}: {found:?}")) }
            })
            .await;
        };
        states("the later one has failed", &["FAILED", "HELD"]).await;
        late.commit().await.expect("commit");
        states("the earlier one holds the key", &["FAILED", "HELD", "HELD", "HELD"]).await;
        assert_eq!(topic.records().await.len(), 0, "{delivery}: one of them has passed");
        let discard = async |id: i64| {
            let call = ["events", "discard", &id.to_string(), "--yes", "--reason", "too large"];
            drop(outbox_relay(&call).env("DATABASE_URL", &database.url).run().await.expect_code(0));
        };
        discard(ids[0]).await;
        states("what lies between has gone", &["DISCARDED", "PUBLISHED", "FAILED", "HELD"]).await;
        discard(ids[2]).await;
        states("all of them are settled", &["DISCARDED", "PUBLISHED", "DISCARDED", "PUBLISHED"]).await;
        drop(relay);
    })
    .await;
}
