//! The consumer: a projection holds exactly the fold of the distinct events, whatever is delivered again or cut short.

use std::time::Duration;

use tokio_postgres::Client;

use crate::support::outbox::{row, wait_until_published};
use crate::support::relay::RelaySettings;
use crate::support::{NewRow, Signal, TestDatabase, Topic, parts::parts, unique, wait_until};

/// A database with two topics and the settings of a relay and of a consumer between them.
pub struct Shop {
    pub database: TestDatabase,
    catalog: Topic,
    orders: Topic,
    file: String,
}

impl Shop {
    pub async fn open(name: &str) -> Self {
        let (database, catalog, orders) = tokio::join!(
            TestDatabase::migrated(name),
            Topic::create("catalog-events", 3),
            Topic::create("order-events", 3)
        );
        let group = unique("metrics");
        let file = format!(
            "[consumer]\ngroup = \"{group}\"\ntopics = [\"{}\", \"{}\"]\nbatch_records = 200\n\
             [kafka.properties]\n\"session.timeout.ms\" = \"6000\"\n",
            catalog.name, orders.name
        );
        Self { database, catalog, orders, file }
    }

    pub fn settings(&self, parts_to_run: &str) -> RelaySettings {
        RelaySettings::new(&self.database, &parts().kafka).steady().file(&self.file).only(parts_to_run)
    }

    /// Publishes `count` events of all six types over 50 products and waits until Kafka has them.
    pub async fn publish(&self, client: &Client, count: i64) {
        client
            .execute(
                "insert into outbox_events (aggregate_type, aggregate_id, event_type, event_version, topic, payload) \
                 select case when n % 10 < 6 then 'Product' else 'Order' end, \
                   case when n % 10 < 6 then (n * 7 % 50)::text else 'o' || n end, \
                   case n % 10 when 0 then 'LikeRemovedEvent' when 1 then 'LikeAddedEvent' when 2 then 'LikeAddedEvent' \
                     when 3 then 'ProductViewEvent' when 4 then 'ProductViewEvent' when 5 then 'ProductViewEvent' \
                     when 6 then 'OrderCancelledEvent' when 7 then 'PaymentCompletedEvent' else 'OrderCreatedEvent' end, \
                   n::int, case when n % 10 < 6 then $1 else $2 end, \
                   case when n % 10 < 6 then jsonb_build_object('productId', n * 7 % 50, 'userId', n) \
                     when n % 10 = 7 then jsonb_build_object('orderId', n, 'amount', 10.5) \
                     else jsonb_build_object('orderId', n, 'items', jsonb_build_array( \
                       jsonb_build_object('productId', n % 50, 'quantity', 1 + n % 3, 'amount', (n % 100) * 1.25), \
                       jsonb_build_object('productId', (n + 1) % 50, 'quantity', 1, 'amount', 9.99))) end \
                 from generate_series(1, $3::bigint) as n",
                &[&self.catalog.name, &self.orders.name, &count],
            )
            .await
            .expect("insert");
        let mut relay = self.settings("relay,admin").start_ready().await;
        // On a busy machine a broker was seen to answer nobody for most of a minute.
        wait_until_published(&self.database, Duration::from_secs(180)).await;
        relay.terminate().await;
    }

    /// Waits until the group has folded all there is in both topics.
    pub async fn wait_until_folded(&self, client: &Client) {
        let ends = self.catalog.len().await + self.orders.len().await;
        wait_until(&format!("the consumer has read all {ends} records"), Duration::from_secs(90), async || {
            let read = read_so_far(client).await;
            if read == ends { Ok(()) } else { Err(format!("{read} of {ends}")) }
        })
        .await;
    }
}

/// Records that lie below the offsets of all partitions. The logs of a test begin at 0.
async fn read_so_far(client: &Client) -> i64 {
    let sum = "select coalesce(sum(next_offset), 0)::bigint from consumer_partitions";
    client.query_one(sum, &[]).await.expect("offsets").get(0)
}

/// Compares product_metrics with a recomputation from the rows, written for this test.
pub async fn expect_the_fold(client: &Client) {
    let rows = client
        .query(
            "with line as ( \
               select event_type, (payload ->> 'productId')::bigint as product, 0 as quantity, 0 as amount from outbox_events \
               where event_type in ('LikeAddedEvent', 'LikeRemovedEvent', 'ProductViewEvent') \
               union all \
               select event_type, (item ->> 'productId')::bigint, (item ->> 'quantity')::int, (item ->> 'amount')::numeric \
               from outbox_events, jsonb_array_elements(payload -> 'items') as item \
               where event_type in ('OrderCreatedEvent', 'OrderCancelledEvent') \
             ), expected as ( \
               select product, \
                 count(*) filter (where event_type = 'LikeAddedEvent') - count(*) filter (where event_type = 'LikeRemovedEvent') as likes, \
                 count(*) filter (where event_type = 'ProductViewEvent') as views, \
                 coalesce(sum(case event_type when 'OrderCancelledEvent' then -quantity else quantity end), 0) as sales, \
                 coalesce(sum(case event_type when 'OrderCancelledEvent' then -amount else amount end), 0) as revenue \
               from line group by product \
             ) \
             select coalesce(product, product_id)::text || ': expected ' || coalesce(row(likes, views, sales, revenue)::text, 'nothing') \
               || ', found ' || coalesce(row(like_count, view_count, sales_count, total_sales_amount)::text, 'nothing') \
             from expected full join product_metrics on product_id = product \
             where (likes, views, sales, revenue) is distinct from (like_count, view_count, sales_count::numeric, total_sales_amount)",
            &[],
        )
        .await
        .expect("the recomputation");
    let wrong: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert!(wrong.is_empty(), "{} products are wrong: {wrong:#?}", wrong.len());
    let products: i64 = client.query_one("select count(*) from product_metrics", &[]).await.unwrap().get(0);
    assert!(products > 0, "nothing was folded");
}

pub async fn handled(client: &Client) -> i64 {
    client.query_one("select count(*) from event_handled", &[]).await.expect("event_handled").get(0)
}

#[tokio::test]
async fn six_kinds_of_events_become_the_metrics_of_their_products() {
    let shop = Shop::open("metrics").await;
    let client = shop.database.connect().await;
    let relay = shop.settings("relay,consumer,admin").start_ready().await;
    let event =
        |kind: &str, topic: &Topic, payload: &str| NewRow::new(&topic.name, "1", payload).text("event_type", kind);
    for (kind, payload) in [
        ("LikeAddedEvent", r#"{"productId": 1}"#),
        ("LikeAddedEvent", r#"{"productId": 1, "userId": "u"}"#),
        ("LikeRemovedEvent", r#"{"productId": 1}"#),
        ("ProductViewEvent", r#"{"productId": 1}"#),
        ("ProductViewEvent", r#"{"productId": 2}"#),
    ] {
        event(kind, &shop.catalog, payload).insert(&client).await;
    }
    let two = r#"{"orderId": 9, "items": [{"productId": 1, "quantity": 2, "amount": 31800.50}, {"productId": 2, "quantity": 1, "amount": 7}]}"#;
    event("OrderCreatedEvent", &shop.orders, two).insert(&client).await;
    event("OrderCreatedEvent", &shop.orders, two).insert(&client).await;
    event("OrderCancelledEvent", &shop.orders, two).insert(&client).await;
    event("PaymentCompletedEvent", &shop.orders, r#"{"orderId": 9}"#).insert(&client).await;
    // Nobody knows it: counted, passed over, and no error loop.
    let unknown = event("SomethingElse", &shop.orders, "{}").insert(&client).await;
    wait_until_published(&shop.database, Duration::from_secs(30)).await;
    shop.wait_until_folded(&client).await;
    let rows = client
        .query(
            "select product_id, like_count, view_count, sales_count, trim_scale(total_sales_amount)::text, last_event_at is not null \
             from product_metrics order by product_id",
            &[],
        )
        .await
        .unwrap();
    let found: Vec<(i64, i64, i64, i64, String, bool)> =
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4), row.get(5))).collect();
    let expected = [(1, 1, 1, 2, "31800.5".to_owned(), true), (2, 0, 1, 1, "7".to_owned(), true)];
    assert_eq!(found, expected);
    assert_eq!(row(&client, unknown).await.status, "PUBLISHED");
    relay.expect_no_error_lines();
}

/// The offsets go back to the beginning, as after a restored consumer or a reset by hand.
///
/// Promise: projections.
#[tokio::test]
async fn records_delivered_again_change_nothing() {
    let shop = Shop::open("redelivery").await;
    let client = shop.database.connect().await;
    shop.publish(&client, 3_000).await;
    let mut consumer = shop.settings("consumer,admin").start_ready().await;
    shop.wait_until_folded(&client).await;
    expect_the_fold(&client).await;
    let first = handled(&client).await;
    consumer.terminate().await;
    let reset = client.execute("update consumer_partitions set next_offset = 0", &[]).await;
    assert_eq!(reset.expect("reset"), 6);
    let mut consumer = shop.settings("consumer,admin").start_ready().await;
    shop.wait_until_folded(&client).await;
    expect_the_fold(&client).await;
    assert_eq!(handled(&client).await, first);
    consumer.terminate().await;

    // And the same events as new records, as a relay leaves them that crashed before it marked them.
    client
        .batch_execute(
            "update outbox_events set status = 'PENDING', published_at = null where id % 2 = 0; \
             update outbox_shards set low_id = 0",
        )
        .await
        .unwrap();
    let relay = shop.settings("relay,consumer,admin").start_ready().await;
    wait_until_published(&shop.database, Duration::from_secs(60)).await;
    assert_eq!(shop.catalog.len().await + shop.orders.len().await, 4_500);
    shop.wait_until_folded(&client).await;
    expect_the_fold(&client).await;
    assert_eq!(handled(&client).await, first);
    relay.expect_no_error_lines();
}

/// Stops folds in the middle of their transactions, once so many records are read: whatever else happens meanwhile, the
/// consumer does not get further.
struct Gate {
    client: Client,
}

impl Gate {
    async fn shut(database: &TestDatabase, after: i64) -> Self {
        let client = database.connect().await;
        client
            .batch_execute(&format!(
                "create or replace function gate() returns trigger language plpgsql as $$ begin \
                   if (select sum(next_offset) from consumer_partitions) >= {after} then perform pg_advisory_xact_lock_shared(7419); end if; \
                   return null; end $$; \
                 create or replace trigger gate after insert or update on product_metrics for each statement execute function gate(); \
                 select pg_advisory_lock(7419)"
            ))
            .await
            .expect("the gate");
        Self { client }
    }

    /// Waits until a fold stands before it.
    async fn is_reached(&self) {
        wait_until("the consumer is in the middle of a batch", Duration::from_secs(60), async || {
            let waiting = "select count(*) from pg_locks where locktype = 'advisory' and objid = 7419 and not granted \
                and database = (select oid from pg_database where datname = current_database())";
            let count: i64 = self.client.query_one(waiting, &[]).await.expect("pg_locks").get(0);
            if count > 0 {
                Ok(())
            } else {
                Err(format!("nobody, {} records are read", read_so_far(&self.client).await))
            }
        })
        .await;
    }

    async fn open(self) {
        self.client.batch_execute("select pg_advisory_unlock(7419)").await.expect("it opens");
    }
}

/// SIGKILL in the middle of the transaction that folds.
///
/// Promise: projections.
#[tokio::test]
async fn a_consumer_killed_in_the_middle_of_a_batch_counts_nothing_twice() {
    let shop = Shop::open("mid-batch").await;
    let client = shop.database.connect().await;
    shop.publish(&client, 3_000).await;
    for round in 1..=3_i64 {
        // Some batches are folded first, so that it dies in another place each time.
        let gate = Gate::shut(&shop.database, read_so_far(&client).await + round * 150).await;
        let mut consumer = shop.settings("consumer,admin").set("consumer.batch_records", "100").start();
        gate.is_reached().await;
        consumer.kill().await;
        gate.open().await;
    }
    let _consumer = shop.settings("consumer,admin").start_ready().await;
    shop.wait_until_folded(&client).await;
    expect_the_fold(&client).await;
}

/// Frozen in the middle of a batch until another member has its partitions, then woken: its batch is refused.
///
/// Promise: projections.
#[tokio::test]
async fn a_consumer_that_wakes_up_as_a_zombie_counts_nothing_twice() {
    let shop = Shop::open("zombie-consumer").await;
    let client = shop.database.connect().await;
    shop.publish(&client, 3_000).await;
    let settings = shop.settings("consumer,admin").set("consumer.batch_records", "100");
    let gate = Gate::shut(&shop.database, 500).await;
    let mut zombie = settings.start();
    gate.is_reached().await;
    zombie.signal(Signal::Stop);
    // Now its transaction stands open and nobody goes on with it.
    gate.open().await;
    let epochs = "select coalesce(sum(epoch), 0)::bigint from consumer_partitions";
    let before: i64 = client.query_one(epochs, &[]).await.unwrap().get(0);
    let _heir = settings.start();
    wait_until("the heir has taken partitions", Duration::from_secs(60), async || {
        let now: i64 = client.query_one(epochs, &[]).await.unwrap().get(0);
        if now > before { Ok(()) } else { Err(format!("epochs {before} -> {now}")) }
    })
    .await;
    zombie.signal(Signal::Continue);
    shop.wait_until_folded(&client).await;
    expect_the_fold(&client).await;
    // Whether it goes on as a member or ends for a supervisor to start it again, it must not fail in another way.
    if !zombie.is_running() {
        assert_eq!(zombie.wait_for_exit(Duration::from_secs(1)).await, Some(75), "{}", zombie.log_text());
    }
}

#[tokio::test]
async fn sigterm_ends_a_consumer_in_order_under_load() {
    let shop = Shop::open("consumer-term").await;
    let client = shop.database.connect().await;
    shop.publish(&client, 6_000).await;
    let settings = shop.settings("consumer,admin").set("consumer.batch_records", "100");
    for round in 1..=2 {
        let mut consumer = settings.start();
        wait_for_progress(&client, round * 1_000).await;
        consumer.terminate().await;
        consumer.expect_no_error_lines();
        assert!(!consumer.log_text().contains("shutdown did not finish"), "{}", consumer.log_text());
    }
    let _consumer = settings.start();
    shop.wait_until_folded(&client).await;
    expect_the_fold(&client).await;
}

async fn wait_for_progress(client: &Client, records: i64) {
    wait_until(&format!("{records} records are folded"), Duration::from_secs(60), async || {
        let read = read_so_far(client).await;
        if read >= records { Ok(()) } else { Err(format!("{read} records")) }
    })
    .await;
}
