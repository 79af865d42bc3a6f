//! What holds a key while earlier events of it are on their way.

use std::time::Duration;

use crate::support::relay::RelaySettings;
use crate::support::{NewRow, TestDatabase, Topic, parts::parts, unique, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

/// The relay leaves the first event to Kafka, which refuses it, and refuses the third one itself when it claims all of
/// them. The second one may not pass the first, although it comes before the third.
///
/// Promise: key-order.
#[tokio::test]
async fn a_later_event_that_fails_at_once_opens_no_way_past_one_that_kafka_refuses() {
    for (delivery, last) in [
        ("at-least-once", ("headers", "'[]'")),
        ("exactly-once", ("headers", "'[]'")),
        ("at-least-once", ("available_at", "now() + interval '1 hour'")),
    ] {
        let topic = Topic { name: unique("holders"), bootstrap: parts().kafka.clone() };
        let future = [("message.timestamp.type", "CreateTime"), ("message.timestamp.after.max.ms", "3600000")];
        let (database, topic) = tokio::join!(TestDatabase::migrated("holders"), topic.created_with(1, &future));
        let client = database.connect().await;
        let row = || NewRow::new(&topic.name, "k", "{}");
        let mut ids = Vec::new();
        // Less than a minute beyond the limit: the relay does not decide that by its own clock.
        for row in [row().sql("created_at", "now() + interval '1 hour 57 seconds'"), row(), row().sql(last.0, last.1)] {
            ids.push(row.insert(&client).await);
        }
        let relay = RelaySettings::new(&database, &parts().kafka)
            .set("run.deployment", &unique("holders"))
            .set("relay.delivery", delivery)
            .set("retry.on_exhausted", "hold")
            .start_ready()
            .await;
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
    }
}
