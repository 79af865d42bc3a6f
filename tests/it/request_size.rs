//! Topics that take less at once than the client sends in a request: a broker refuses such a request as a whole, and
//! none of its records is to blame.

use std::time::Duration;

use crate::support::kafka::sent_ids;
use crate::support::outbox::{committed_ids, wait_until_published};
use crate::support::relay::RelaySettings;
use crate::support::{TestDatabase, Topic, order, parts::parts, unique};

/// Each record fits, three of them do not. Rows of another topic are among them.
#[tokio::test]
async fn records_that_fit_one_by_one_are_published_however_many_there_are() {
    for mode in ["at-least-once", "exactly-once"] {
        let (database, small, large) = tokio::join!(
            TestDatabase::migrated("request-size"),
            Topic::planned("request-size").created_with(1, &[("max.message.bytes", "20000")]),
            Topic::create("request-size-large", 1),
        );
        let client = database.connect().await;
        let rows = "insert into outbox_events (aggregate_id, event_type, topic, payload) \
             select 'k' || n % 12, 'E', case when n % 4 = 0 then $1 else $2 end, \
               jsonb_build_object('pad', (select string_agg(md5((n * m)::text), '') from generate_series(1, 220) m)) \
             from generate_series(1, 200) n";
        client.execute(rows, &[&large.name, &small.name]).await.expect("rows");
        let relay = RelaySettings::new(&database, &parts().kafka)
            .steady()
            .set("relay.delivery", mode)
            .set("run.deployment", &unique("request-size"))
            .start_ready()
            .await;
        assert_eq!(wait_until_published(&database, Duration::from_secs(60)).await, 200, "{mode}");
        let mut sent = sent_ids(&small.records().await);
        for (key, ids) in sent_ids(&large.records().await) {
            sent.entry(key).or_default().extend(ids);
        }
        order::check(&committed_ids(&client).await, &sent).expect_kept().expect_no_repeats();
        assert!(!relay.log_text().contains("rejected records"), "{mode}: it is known beforehand\n{}", relay.log_text());
    }
}
