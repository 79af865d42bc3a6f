//! What goes out twice in at-least-once delivery: nothing, as long as Kafka answers and the relay lives.

use std::time::Duration;

use crate::support::kafka::sent_ids;
use crate::support::outbox::{committed_ids, counts};
use crate::support::relay::RelaySettings;
use crate::support::{TestDatabase, Topic, order, parts::parts, unique, wait_until};

/// A busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// One in two hundred is refused, by one of two topics: requests to the other one are on their way at that moment, and
/// the rest of the batch is still being handed to the client.
///
/// Promise: at-least-once.
#[tokio::test]
async fn what_kafka_refuses_makes_nothing_else_of_its_batch_go_out_twice() {
    let rows: i64 = 12_000;
    let database = TestDatabase::migrated("repeats").await;
    let limit = [("message.timestamp.after.max.ms", "3600000")];
    let refusing = Topic::planned("repeats-refusing").created_with(3, &limit).await;
    let willing = Topic::create("repeats-willing", 3).await;
    let client = database.connect().await;
    // So little beyond the limit that the relay leaves the decision to the broker.
    let statement = "insert into outbox_events (aggregate_id, event_type, topic, payload, created_at) \
        select 'k' || n, 'E', case when n % 2 = 0 then $1 else $2 end, '{}', \
          case when n % 202 = 0 then now() + '1 hour 50 seconds'::interval else now() end \
        from generate_series(1, $3::bigint) n";
    client.execute(statement, &[&refusing.name, &willing.name, &rows]).await.expect("rows");
    let relay = RelaySettings::new(&database, &parts().kafka)
        .set("run.deployment", &unique("repeats"))
        .set("relay.lease", "60s")
        .start_ready()
        .await;
    let refused = rows / 202;
    wait_until("every row has ended", PATIENCE, async || {
        let counts = counts(&client).await;
        let count = |status| counts.get(status).copied().unwrap_or(0);
        let ended = count("PUBLISHED") == rows - refused && count("FAILED") == refused;
        if ended { Ok(()) } else { Err(format!("{counts:?}")) }
    })
    .await;
    let mut committed = committed_ids(&client).await;
    committed.retain(|key, _| key.trim_start_matches('k').parse::<i64>().is_ok_and(|n| n % 202 != 0));
    let sent = sent_ids(&[refusing.records().await, willing.records().await].concat());
    order::check(&committed, &sent).expect_kept().expect_no_repeats();
    drop(relay);
}
