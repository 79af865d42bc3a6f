//! A transaction draws ids, the number of shards falls and rises again, and only then the events are inserted.

use crate::support::cli::outbox_relay;
use crate::support::kafka::sent_ids;
use crate::support::outbox::wait_until_published;
use crate::support::parts::parts;
use crate::support::relay::RelaySettings;
use crate::support::{TestDatabase, Topic};

const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// Promise: resharding.
#[tokio::test]
async fn an_event_whose_id_was_drawn_before_its_shard_went_and_came_back_is_sent() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("drawn_early"), Topic::create("drawn-early", 1));
    let (mut writer, kafka) = (database.connect().await, &parts().kafka);
    let transaction = writer.transaction().await.expect("a transaction");
    let draw = "select array_agg(nextval('outbox_events_id_seq')) from generate_series(1, 40)";
    let ids: Vec<i64> = transaction.query_one(draw, &[]).await.expect("ids").get(0);
    for shards in ["1", "8"] {
        let set = outbox_relay(&["shards", "set", shards, "--yes"]).env("DATABASE_URL", &database.url);
        set.env("KAFKA_BOOTSTRAP_SERVERS", kafka).run().await.expect_code(0);
    }
    let insert = "insert into outbox_events (id, aggregate_type, aggregate_id, event_type, topic, payload) \
                  overriding system value select id, 'Order', 'k' || id, 'OrderCreatedEvent', $2, '{}' from unnest($1::bigint[]) id";
    transaction.execute(insert, &[&ids, &topic.name]).await.expect("events");
    transaction.commit().await.expect("a commit");

    let mut relay = RelaySettings::new(&database, kafka).start_ready().await;
    wait_until_published(&database, PATIENCE).await;
    relay.terminate().await;
    let mut sent: Vec<i64> = sent_ids(&topic.records().await).into_values().flatten().collect();
    sent.sort_unstable();
    assert_eq!(sent, ids, "every event is sent, and none twice");
}
