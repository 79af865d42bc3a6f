//! The partitioned outbox: the relay works on it, there is always a partition for the next id, and one is dropped when
//! nothing of it is needed and nothing can appear in it.

use std::collections::HashMap;
use std::time::Duration;

use outbox_relay::cleanup::partitions;
use outbox_relay::config::{CleanupConfig, DatabaseConfig, Retention};
use outbox_relay::db::{Database, Pool, Role};
use outbox_relay::metrics::Metrics;
use outbox_relay::outbox::partitions::Session;
use outbox_relay::secret::Secret;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::support::kafka::sent_ids;
use crate::support::order;
use crate::support::outbox::row;
use crate::support::relay::RelaySettings;
use crate::support::{NewRow, TestDatabase, Topic, holds_for, outbox_relay, parts::parts, unique, wait_until};

const LIMIT: Duration = Duration::from_secs(60);
/// Whoever waits behind a keeper waits for a moment. Counted by PostgreSQL, and not by a test that may be stopped.
const NOT_FOR_LONG: &str = "set lock_timeout = '15s'";
/// Ids of a partition.
const ROWS: i64 = 1_000;

async fn partitioned(name: &str) -> TestDatabase {
    let database = TestDatabase::migrated(name).await;
    up(&database, "--partitioned", 0).await;
    database
}

/// `migrate up` with one more flag; what it says.
async fn up(database: &TestDatabase, flag: &str, code: i32) -> String {
    let call = outbox_relay(&["migrate", "up", flag, "--set", "outbox.partition_rows=1000"])
        .env("DATABASE_URL", &database.url);
    call.run().await.expect_code(code).stderr
}

fn pool(database: &TestDatabase, statement_timeout: Duration) -> Pool {
    let settings = DatabaseConfig { url: Secret::new(&database.url), statement_timeout, ..DatabaseConfig::default() };
    Database::new(&settings).expect("a good URL").pool(Role::Cleanup, 2)
}

/// Looks after partitions in this process, until it is dropped.
pub struct Keeper {
    pub metrics: Metrics,
    stop: CancellationToken,
}

impl Keeper {
    pub fn start(database: &TestDatabase) -> Self {
        let pool = pool(database, Duration::from_secs(2));
        let (metrics, stop) = (Metrics::new(), CancellationToken::new());
        let settings = CleanupConfig {
            interval: Duration::from_secs(1),
            published_older_than: Retention::After(Duration::from_secs(7 * 86_400)),
            ..CleanupConfig::default()
        };
        let rows = u32::try_from(ROWS).unwrap().try_into().unwrap();
        let work = partitions::run(settings, rows, pool, metrics.clone(), stop.clone());
        outbox_relay::supervisor::detach("keeper", async move { work.await.expect("a keeper never fails") });
        Self { metrics, stop }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Names of the partitions that there are, in order, the last one aside.
pub async fn names(client: &Client) -> Vec<String> {
    let rows = client
        .query(
            "select c.relname::text from pg_inherits join pg_class c on c.oid = inhrelid \
             where inhparent = 'outbox_events'::regclass and c.relname <> 'outbox_events_last' and not inhdetachpending \
             order by substring(c.relname from '\\d+')::bigint",
            &[],
        )
        .await
        .expect("partitions");
    rows.iter().map(|row| row.get(0)).collect()
}

async fn exists(client: &Client, table: &str) -> bool {
    client.query_one("select to_regclass($1) is not null", &[&table]).await.expect("an answer").get(0)
}

pub async fn wait_until_gone(client: &Client, table: &str) {
    wait_until(&format!("{table} is dropped"), LIMIT, async || {
        if exists(client, table).await { Err("it is there".to_owned()) } else { Ok(()) }
    })
    .await;
}

/// `n` rows that were published eight days ago.
async fn old(client: &Client, n: i64) {
    published(client, n, 8.0).await;
}

async fn published(client: &Client, n: i64, days: f64) {
    client
        .execute(
            "insert into outbox_events (aggregate_id, event_type, topic, payload, status, created_at, published_at) \
             select 'k' || n % 50, 'E', 't', '{}', 'PUBLISHED', now() - $2::float8 * interval '1 day', now() - $2 * interval '1 day' \
             from generate_series(1, $1::bigint) n",
            &[&n, &days],
        )
        .await
        .expect("rows");
}

#[tokio::test]
async fn an_empty_outbox_is_made_partitioned_and_has_everything_of_the_plain_one() {
    let database = partitioned("partition").await;
    let client = database.connect().await;
    assert_eq!(names(&client).await, ["outbox_events_p1"]);
    assert!(up(&database, "--partitioned", 0).await.contains("partitioned already"));
    // Everything that the plain table has.
    let id = NewRow::new("t", "k", "{}").insert(&client).await;
    assert_eq!(id, 1);
    let same = "select (select count(*) from pg_indexes where tablename = 'outbox_events'), \
        (select count(*) from pg_constraint where conrelid = 'outbox_events'::regclass), \
        (select seqcache from pg_sequence where seqrelid = 'outbox_events_id_seq'::regclass), \
        (select count(*) from outbox_claimable where shard = (select shard from outbox_events))";
    let plain = TestDatabase::migrated("plain").await.connect().await;
    NewRow::new("t", "k", "{}").insert(&plain).await;
    let numbers = async |client: &Client| -> [i64; 4] {
        let row = client.query_one(same, &[]).await.expect("numbers");
        [row.get(0), row.get(1), row.get(2), row.get(3)]
    };
    assert_eq!(numbers(&client).await, numbers(&plain).await);
}

/// Promise: partitioning.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_on_a_partitioned_outbox_keeps_every_promise_while_partitions_come_and_go() {
    let report = partitions_come_and_go("partition-load", "at-least-once").await;
    report.expect_kept();
}

/// Promise: partitioning.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partitioned_outbox_is_published_exactly_once_over_a_kill_while_partitions_come_and_go() {
    let report = partitions_come_and_go("partition-eos", "exactly-once").await;
    report.expect_kept().expect_no_repeats();
}

/// The whole way under load: two instances, one of them killed in the middle of a burst, a partition of a thousand ids
/// every moment, finished ones dropped.
async fn partitions_come_and_go(name: &str, delivery: &str) -> order::Report {
    let (database, topic) = tokio::join!(partitioned(name), Topic::create(name, 3));
    let client = database.connect().await;
    let settings = RelaySettings::new(&database, &parts().kafka)
        .steady()
        // In at-least-once delivery the shards of the killed one wait for it.
        .set("relay.lease", "10s")
        .set("relay.delivery", delivery)
        .set("run.deployment", &unique(name))
        .set("outbox.partition_rows", &ROWS.to_string())
        .set("cleanup.interval", "1s")
        .set("cleanup.published_older_than", "2s")
        .set("relay.batch_rows", "200");
    let (mut one, mut two) =
        tokio::join!(settings.clone().instance("one").start_ready(), settings.clone().instance("two").start_ready());
    let mut committed: HashMap<String, Vec<i64>> = HashMap::new();
    let mut insert = async || {
        let inserted = client
            .query(
                "insert into outbox_events (aggregate_id, event_type, topic, payload) \
                 select 'k' || n % 40, 'E', $1, '{}' from generate_series(1, 150) n returning aggregate_id, id",
                &[&topic.name],
            )
            .await
            .expect("an insert never fails for want of a partition");
        for row in inserted {
            committed.entry(row.get(0)).or_default().push(row.get(1));
        }
    };
    for _ in 0..40 {
        insert().await;
    }
    let open = async || -> i64 {
        let open = "select count(*) from outbox_current where status <> 'PUBLISHED'";
        client.query_one(open, &[]).await.expect("a count").get(0)
    };
    wait_until("the burst is on its way", LIMIT, async || match open().await {
        0 => {
            insert().await;
            Err("it was over".to_owned())
        }
        open if open < 5_500 => Ok(()),
        open => Err(format!("{open} open")),
    })
    .await;
    one.kill().await;
    // Ids go on, so that partitions fall behind the one in use, until none of the first phase is left.
    wait_until("everything is published, and finished partitions are dropped", Duration::from_secs(150), async || {
        insert().await;
        wait_until("it is published", LIMIT, async || match open().await {
            0 => Ok(()),
            open => Err(format!("{open} open")),
        })
        .await;
        let lowest = client.query_one("select min(id) from outbox_events", &[]).await.expect("an id");
        match lowest.get::<_, i64>(0) {
            lowest if lowest > 40 * 150 => Ok(()),
            lowest => Err(format!("{lowest}, {:?}", names(&client).await)),
        }
    })
    .await;
    wait_until_gone(&client, "outbox_events_p1").await;
    two.terminate().await;
    two.expect_no_error_lines();
    order::check(&committed, &sent_ids(&topic.records().await))
}

/// There is room before the last partition at every moment, and what was put into the last one meanwhile is not lost.
///
/// Promise: partitioning.
#[tokio::test]
async fn partitions_are_made_ahead_also_after_nobody_made_any() {
    let database = partitioned("partition-ahead").await;
    let client = database.connect().await;
    // No instance runs: the rows behind the first partition go into the last one, and no insert fails.
    published(&client, 4_500, 0.0).await;
    let in_last = "select count(*) from outbox_events_last";
    assert_eq!(client.query_one(in_last, &[]).await.unwrap().get::<_, i64>(0), 3_500);
    // A writer that lasts keeps the partition from being made, and others from waiting for that.
    let mut other = database.connect().await;
    let writer = other.transaction().await.unwrap();
    writer.batch_execute("lock table outbox_events in row exclusive mode").await.unwrap();
    let keeper = Keeper::start(&database);
    client.batch_execute(NOT_FOR_LONG).await.unwrap();
    holds_for("inserts work", Duration::from_secs(3), async || {
        NewRow::new("t", "k", "{}").insert(&client).await;
        Ok(())
    })
    .await;
    assert_eq!(names(&client).await, ["outbox_events_p1"]);
    writer.rollback().await.unwrap();
    wait_until("there is room ahead", LIMIT, async || match keeper.metrics.partition_ids_ahead.get() {
        free if free >= 2 * ROWS => Ok(()),
        free => Err(format!("{free} free")),
    })
    .await;
    assert_eq!(client.query_one(in_last, &[]).await.unwrap().get::<_, i64>(0), 0);
    let names = names(&client).await;
    assert!(names.len() >= 3 && names[1] == "outbox_events_p1001", "{names:?}");
}

/// A low id that is committed late has its partition until it is published.
///
/// Promise: partitioning.
#[tokio::test]
async fn a_partition_with_an_open_late_writer_is_not_dropped() {
    let database = partitioned("partition-late").await;
    let client = database.connect().await;
    let mut writer = database.connect().await;
    let late = writer.transaction().await.unwrap();
    let id: i64 = late.query_one(&NewRow::new("t", "late", "{}").statement(), &[]).await.unwrap().get(0);
    old(&client, 2_200).await;
    let _keeper = Keeper::start(&database);
    holds_for("nothing is dropped", Duration::from_secs(4), async || {
        let names = names(&client).await;
        if names.contains(&"outbox_events_p1".to_owned()) { Ok(()) } else { Err(format!("{names:?}")) }
    })
    .await;
    late.commit().await.unwrap();
    // It is visible now, and waits.
    wait_until_gone(&client, "outbox_events_p1001").await;
    assert_eq!(row(&client, id).await.status, "PENDING");
    let publish = "update outbox_events set status = 'PUBLISHED', published_at = now() - interval '8 days', \
                   created_at = now() - interval '8 days' where id = $1";
    client.execute(publish, &[&id]).await.unwrap();
    wait_until_gone(&client, "outbox_events_p1").await;
}

/// What keeps a partition: one row that is young, failed, or that holds a key.
///
/// Promise: partitioning.
#[tokio::test]
async fn one_row_that_is_needed_keeps_its_partition() {
    let database = partitioned("partition-needed").await;
    let client = database.connect().await;
    old(&client, 5_500).await;
    let change = async |set: &str, id: i64| {
        let statement = format!("update outbox_events set {set} where id = $1");
        client.execute(&statement, &[&id]).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    };
    change("published_at = now() - interval '1 day'", 500).await;
    change("status = 'FAILED', last_error = 'x', failed_at = now() - interval '8 days'", 1_500).await;
    let _keeper = Keeper::start(&database);
    // The ids from 1001 on were in the last partition when the keeper came: it made one of them.
    wait_until("partitions were made", LIMIT, async || {
        let names = names(&client).await;
        if names.len() > 2 { Ok(()) } else { Err(format!("{names:?}")) }
    })
    .await;
    holds_for("they stay", Duration::from_secs(3), async || {
        let names = names(&client).await;
        if names[..2] == ["outbox_events_p1", "outbox_events_p1001"] { Ok(()) } else { Err(format!("{names:?}")) }
    })
    .await;
    change("published_at = now() - interval '8 days'", 500).await;
    wait_until_gone(&client, "outbox_events_p1").await;
    // Ids go on until they have left the partition.
    old(&client, 2_000).await;
    // One reason at a time: each is there before the one before it is taken away.
    let original = NewRow::new("t", "alone", "{}").insert(&client).await;
    change("status = 'FAILED', last_error = 'x', failed_at = now()", original).await;
    let dead_letter = format!("update outbox_events set dead_letter_of = {original} where id = 1200");
    let reasons = [
        ("", "update outbox_events set status = 'DISCARDED' where id = 1500"),
        (
            "insert into outbox_held_keys (first_id, shard, partition_key, reason) values (2500, 0, 'k', 'failed')",
            "delete from outbox_held_keys",
        ),
        ("update outbox_shards set batch_ids = '{3500}' where shard = 0", "update outbox_shards set batch_ids = null"),
        (dead_letter.as_str(), "update outbox_events set dead_letter_of = null where id = 1200"),
        (
            "update outbox_events set status = 'HELD' where id = 4500",
            "update outbox_events set status = 'PUBLISHED' where id = 4500",
        ),
    ];
    for (n, (reason, end)) in reasons.iter().enumerate() {
        holds_for("it stays", Duration::from_secs(2), async || {
            let names = names(&client).await;
            if names.contains(&"outbox_events_p1001".to_owned()) { Ok(()) } else { Err(format!("{reason}: {names:?}")) }
        })
        .await;
        let next = reasons.get(n + 1).map_or("", |(next, _)| next);
        client.batch_execute(&format!("begin; {next}; {end}; commit")).await.unwrap();
    }
    wait_until_gone(&client, "outbox_events_p1001").await;
}

/// Each step of a drop can be the last one before a crash.
///
/// Promise: partitioning.
#[tokio::test]
async fn a_drop_that_a_crash_has_interrupted_is_ended() {
    let database = partitioned("partition-crash").await;
    let client = database.connect().await;
    {
        let mut session = Session::open(&pool(&database, LIMIT)).await.unwrap();
        for _ in 0..4 {
            let last = session.list().await.unwrap().pop().expect("the last one");
            session.extend(&last, last.lower.expect("a bound") + ROWS).await.unwrap();
        }
    }
    published(&client, 4_000, 0.0).await;
    let mark =
        "comment on table NAME is 'outbox-relay drops this table: its events from id LOWER to UPPER are finished'";
    let mark = |name: &str, lower: &str, upper: &str| {
        mark.replace("NAME", name).replace("LOWER", lower).replace("UPPER", upper)
    };
    // Taken off and not dropped; a row in it may have been changed by hand since.
    for (name, lower, upper) in [("outbox_events_p1", "minvalue", "1001"), ("outbox_events_p1001", "1001", "2001")] {
        client.batch_execute(&mark(name, lower, upper)).await.unwrap();
        client.batch_execute(&format!("alter table outbox_events detach partition {name} concurrently")).await.unwrap();
    }
    client.execute("update outbox_events_p1001 set status = 'PENDING' where id = 1500", &[]).await.unwrap();
    // Not taken off to the end, because somebody still read.
    client.batch_execute(&mark("outbox_events_p2001", "2001", "3001")).await.unwrap();
    let mut reader = database.connect().await;
    let reading = reader.transaction().await.unwrap();
    reading.query_one("select count(*) from outbox_events", &[]).await.unwrap();
    let detaching = database.connect().await;
    let detach = detaching.batch_execute("alter table outbox_events detach partition outbox_events_p2001 concurrently");
    let stopped = async {
        wait_until("it waits for the reader", LIMIT, async || {
            let waits = "select count(pg_cancel_backend(pid)) from pg_stat_activity where datname = current_database() \
                 and wait_event_type = 'Lock' and query like '%concurrently' and exists (select from pg_inherits where inhdetachpending)";
            let waits: i64 = client.query_one(waits, &[]).await.unwrap().get(0);
            if waits == 1 { Ok(()) } else { Err(format!("{waits} wait")) }
        })
        .await;
    };
    let (detached, ()) = tokio::join!(detach, stopped);
    detached.expect_err("it was stopped");
    let pending = "select count(*) from pg_inherits where inhdetachpending";
    assert_eq!(client.query_one(pending, &[]).await.unwrap().get::<_, i64>(0), 1);

    let _keeper = Keeper::start(&database);
    client.batch_execute(NOT_FOR_LONG).await.unwrap();
    holds_for("nobody waits for the reader", Duration::from_secs(4), async || {
        NewRow::new("t", "k", "{}").insert(&client).await;
        if exists(&client, "outbox_events_p2001").await {
            Ok(())
        } else {
            Err("it was dropped under its reader".to_owned())
        }
    })
    .await;
    reading.rollback().await.unwrap();
    wait_until_gone(&client, "outbox_events_p1").await;
    wait_until_gone(&client, "outbox_events_p2001").await;
    wait_until("the one with an open row is a partition again", LIMIT, async || {
        let names = names(&client).await;
        if names.contains(&"outbox_events_p1001".to_owned()) { Ok(()) } else { Err(format!("{names:?}")) }
    })
    .await;
    assert_eq!(row(&client, 1_500).await.status, "PENDING");
    let comment = "select obj_description('outbox_events_p1001'::regclass) is null";
    assert!(client.query_one(comment, &[]).await.unwrap().get::<_, bool>(0));
}

/// A partition that an operator takes off to keep it is none of ours.
#[tokio::test]
async fn a_table_that_somebody_else_took_off_is_left_alone() {
    let database = partitioned("partition-archive").await;
    let client = database.connect().await;
    old(&client, 1_200).await;
    client.batch_execute("alter table outbox_events detach partition outbox_events_p1").await.unwrap();
    let _keeper = Keeper::start(&database);
    wait_until("it works", LIMIT, async || {
        let names = names(&client).await;
        if names.len() > 1 { Ok(()) } else { Err(format!("{names:?}")) }
    })
    .await;
    holds_for("it stays", Duration::from_secs(3), async || {
        if exists(&client, "outbox_events_p1").await { Ok(()) } else { Err("it is gone".to_owned()) }
    })
    .await;
}
