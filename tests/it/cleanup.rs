//! The cleaner: what it deletes, what it leaves alone whatever its age, and what it does beside others.
//!
//! Most cases run it in this process against a database of their own, without a relay.

mod beside;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use outbox_relay::cleanup;
use outbox_relay::config::{CleanupConfig, DatabaseConfig, Retention};
use outbox_relay::db::{Database, Role};
use outbox_relay::metrics::{CleanupLabel, Metrics};
use outbox_relay::outbox::cleanup::{Ages, Session, Window};
use outbox_relay::secret::Secret;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::support::{NewRow, TestDatabase, wait_until};

const LIMIT: Duration = Duration::from_secs(90);
const DAY: Duration = Duration::from_secs(86_400);

/// The defaults, but a pass every second, and a number of rows that makes several batches of a few.
fn settings() -> CleanupConfig {
    CleanupConfig { interval: Duration::from_secs(1), batch_rows: 10.try_into().unwrap(), ..CleanupConfig::default() }
}

/// A cleaner of this process.
struct Cleaner {
    metrics: Metrics,
    stop: CancellationToken,
    ended: tokio::sync::oneshot::Receiver<()>,
}

impl Cleaner {
    fn start(url: &str, settings: CleanupConfig, statement_timeout: Duration) -> Self {
        let database = DatabaseConfig { url: Secret::new(url), statement_timeout, ..DatabaseConfig::default() };
        let pool = Database::new(&database).expect("a good URL").pool(Role::Cleanup, 1);
        let (metrics, stop) = (Metrics::new(), CancellationToken::new());
        let work = cleanup::run(settings, cleanup::What::Everything, pool, metrics.clone(), stop.clone());
        let (done, ended) = tokio::sync::oneshot::channel();
        outbox_relay::supervisor::detach("cleaner", async move {
            work.await.expect("a cleaner never fails");
            done.send(()).unwrap_or_default();
        });
        Self { metrics, stop, ended }
    }

    fn deleted(&self, kind: &'static str) -> u64 {
        self.metrics.cleanup_deleted_rows.get_or_create(&CleanupLabel { kind }).get()
    }

    /// Waits until it has gone over everything `more` times from now on.
    async fn passes(&self, more: u64) {
        let enough = self.metrics.cleanup_passes.get() + more;
        wait_until("the passes of the cleaner", LIMIT, async || {
            let passes = self.metrics.cleanup_passes.get();
            if passes >= enough { Ok(()) } else { Err(format!("{passes} of {enough}")) }
        })
        .await;
    }

    async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(LIMIT, self.ended).await.expect("it stops").expect("in order");
    }
}

fn start(database: &TestDatabase, settings: CleanupConfig) -> Cleaner {
    Cleaner::start(&database.url, settings, Duration::from_secs(30))
}

/// One pass over everything, and the end.
async fn clean(database: &TestDatabase, settings: CleanupConfig) {
    let cleaner = start(database, settings);
    cleaner.passes(1).await;
    cleaner.stop().await;
}

/// A row in a state and of an age, with a key of its own unless one is given.
async fn put(client: &Client, state: &str, age: &str, key: Option<&str>) -> i64 {
    let id = NewRow::new("t", key.unwrap_or("alone"), "{}").insert(client).await;
    let times = match state {
        "PUBLISHED" => format!("published_at = now() - interval '{age}'"),
        "FAILED" => format!("failed_at = now() - interval '{age}', last_error = 'refused'"),
        _ => format!("failed_at = now() - interval '{age}'"),
    };
    let statement = format!(
        "update outbox_events set status = '{state}', created_at = now() - interval '{age}' - interval '1 hour', {times}, \
         aggregate_id = coalesce($2, 'alone-' || id) where id = $1"
    );
    client.execute(&statement, &[&id, &key]).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    id
}

async fn hold(client: &Client, first_id: i64, key: &str) {
    let statement = "insert into outbox_held_keys (first_id, shard, partition_key, reason) \
                     select $1, shard, $2, 'failed' from outbox_events where id = $1";
    assert_eq!(client.execute(statement, &[&first_id, &key]).await.expect("a held key"), 1);
}

async fn ids(client: &Client) -> BTreeSet<i64> {
    let rows = client.query("select id from outbox_events", &[]).await.expect("ids");
    rows.iter().map(|row| row.get(0)).collect()
}

async fn count(client: &Client, table: &str) -> i64 {
    client.query_one(&format!("select count(*) from {table}"), &[]).await.expect("a count").get(0)
}

/// `n` rows that were published so long ago.
async fn published(client: &Client, n: i64, age: &str) {
    let statement = format!(
        "insert into outbox_events (aggregate_id, event_type, topic, payload, status, created_at, published_at) \
         select 'k' || n % 50, 'E', 't', '{{}}', 'PUBLISHED', now() - interval '{age}', now() - interval '{age}' \
         from generate_series(1, $1::bigint) n"
    );
    client.execute(&statement, &[&n]).await.expect("rows");
}

async fn handled(client: &Client, n: i64, age: &str) {
    let statement = format!(
        "insert into event_handled (consumer_group, event_id, topic, partition, \"offset\", handled_at) \
         select 'g', gen_random_uuid(), 't', 0, n, now() - interval '{age}' from generate_series(1, $1::bigint) n"
    );
    client.execute(&statement, &[&n]).await.expect("entries");
}

/// Each state has its time, and nothing that waits, holds or is in flight goes, however old it is.
///
/// Promise: retention.
#[tokio::test]
async fn every_state_is_kept_for_its_time_and_what_somebody_needs_for_ever() {
    let database = TestDatabase::migrated("retention").await;
    let client = database.connect().await;
    let mut gone = BTreeSet::new();
    let mut kept = BTreeMap::new();
    for (state, age) in [("PUBLISHED", "8 days"), ("DISCARDED", "8 days"), ("FAILED", "31 days")] {
        gone.insert(put(&client, state, age, None).await);
    }
    for (state, age) in [("PUBLISHED", "6 days"), ("DISCARDED", "6 days"), ("FAILED", "29 days")] {
        kept.insert(put(&client, state, age, None).await, "it is too young");
    }
    for state in ["PENDING", "HELD"] {
        kept.insert(put(&client, state, "400 days", None).await, "it is still to be sent");
    }
    let holder = put(&client, "FAILED", "400 days", Some("held")).await;
    hold(&client, holder, "held").await;
    kept.insert(holder, "it holds its key");
    kept.insert(put(&client, "FAILED", "400 days", Some("held")).await, "its key is held by another");
    kept.insert(put(&client, "HELD", "400 days", Some("held")).await, "it is held");
    let given_up = put(&client, "DISCARDED", "400 days", Some("stuck")).await;
    hold(&client, given_up, "stuck").await;
    kept.insert(given_up, "the key still waits for it");
    let released = put(&client, "FAILED", "400 days", Some("released")).await;
    gone.insert(released);
    put(&client, "PUBLISHED", "1 day", Some("released")).await;
    let dead_letter = put(&client, "FAILED", "400 days", None).await;
    client.execute("update outbox_events set dead_letter_to = 'dlq' where id = $1", &[&dead_letter]).await.unwrap();
    kept.insert(dead_letter, "its dead letter is still to be written");
    // By the copy it is known that the original is dealt with, and the schedule need not try it again.
    let given_away = put(&client, "FAILED", "29 days", None).await;
    kept.insert(given_away, "it is too young");
    let copy = put(&client, "PUBLISHED", "28 days", None).await;
    client.execute("update outbox_events set dead_letter_of = $2 where id = $1", &[&copy, &given_away]).await.unwrap();
    kept.insert(copy, "it is the dead letter of a row that is still FAILED");
    let orphan = put(&client, "PUBLISHED", "28 days", None).await;
    client.execute("update outbox_events set dead_letter_of = 999999 where id = $1", &[&orphan]).await.unwrap();
    gone.insert(orphan);
    let unknown = put(&client, "FAILED", "400 days", None).await;
    client.execute("update outbox_events set failed_at = null where id = $1", &[&unknown]).await.unwrap();
    kept.insert(unknown, "it counts as failed since somebody has noticed");
    let in_flight = put(&client, "DISCARDED", "400 days", None).await;
    let manifest = "update outbox_shards set batch_ids = array[$1::bigint] where shard = (select shard from outbox_events where id = $1)";
    client.execute(manifest, &[&in_flight]).await.unwrap();
    kept.insert(in_flight, "it stands in a manifest");
    handled(&client, 30, "31 days").await;
    handled(&client, 7, "29 days").await;

    clean(&database, settings()).await;
    let left = ids(&client).await;
    assert_eq!(gone.intersection(&left).count(), 0, "{gone:?} should be gone");
    let missed: Vec<_> = kept.iter().filter(|(id, _)| !left.contains(id)).collect();
    assert!(missed.is_empty(), "deleted: {missed:?}");
    assert_eq!(count(&client, "event_handled").await, 7);
    assert_eq!(count(&client, "outbox_held_keys").await, 2, "held keys are nobody's but the operator's");
}

/// Somebody set the status with SQL: the time counts from when the cleaner first met the row, and then it goes like the
/// others.
#[tokio::test]
async fn a_row_that_was_set_failed_by_hand_goes_when_its_time_is_over_and_not_before() {
    let database = TestDatabase::migrated("by-hand").await;
    let client = database.connect().await;
    let by_hand = put(&client, "FAILED", "400 days", None).await;
    client.execute("update outbox_events set failed_at = null where id = $1", &[&by_hand]).await.unwrap();
    let retried = put(&client, "HELD", "400 days", None).await;
    client.execute("update outbox_events set failed_at = null where id = $1", &[&retried]).await.unwrap();
    clean(&database, settings()).await;
    let noted = "select id from outbox_events where failed_at > now() - interval '1 hour'";
    let rows = client.query(noted, &[]).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.get(0)).collect::<Vec<i64>>(), [by_hand], "and no row of another state");
    let later = "update outbox_events set failed_at = failed_at - interval '29 days' where id = $1";
    client.execute(later, &[&by_hand]).await.unwrap();
    clean(&database, settings()).await;
    assert_eq!(ids(&client).await, BTreeSet::from([by_hand, retried]), "29 days are not 30");
    client
        .execute("update outbox_events set failed_at = failed_at - interval '2 days' where id = $1", &[&by_hand])
        .await
        .unwrap();
    clean(&database, settings()).await;
    assert_eq!(ids(&client).await, BTreeSet::from([retried]));
}

#[tokio::test]
async fn never_keeps_rows_of_any_age() {
    let database = TestDatabase::migrated("never").await;
    let client = database.connect().await;
    for (state, age) in [("PUBLISHED", "4000 days"), ("DISCARDED", "4000 days"), ("FAILED", "4000 days")] {
        put(&client, state, age, None).await;
    }
    handled(&client, 5, "4000 days").await;
    let never = CleanupConfig {
        published_older_than: Retention::Never,
        failed_older_than: Retention::Never,
        handled_older_than: Retention::Never,
        ..settings()
    };
    clean(&database, never).await;
    assert_eq!((count(&client, "outbox_events").await, count(&client, "event_handled").await), (3, 5));
}

/// Ids are not the order of publication: rows that were published late stay among rows that go, and go when their time
/// comes.
#[tokio::test]
async fn a_row_that_was_published_late_goes_later_and_is_not_forgotten() {
    let database = TestDatabase::migrated("late").await;
    let client = database.connect().await;
    published(&client, 35, "9 days").await;
    let late = NewRow::new("t", "late", "{}").sql("created_at", "now() - interval '9 days'").insert(&client).await;
    published(&client, 35, "9 days").await;
    published(&client, 45, "1 day").await;
    let cleaner = start(&database, settings());
    wait_until("the old rows are gone", LIMIT, async || match count(&client, "outbox_events").await {
        46 => Ok(()),
        left => Err(format!("{left} left")),
    })
    .await;
    cleaner.passes(1).await;
    let publish =
        "update outbox_events set status = 'PUBLISHED', published_at = now() - interval '8 days' where id = $1";
    client.execute(publish, &[&late]).await.unwrap();
    wait_until("the late one is gone", LIMIT, async || {
        if ids(&client).await.contains(&late) { Err("it is there".to_owned()) } else { Ok(()) }
    })
    .await;
    assert_eq!(count(&client, "outbox_events").await, 45, "the young ones stay");
    cleaner.stop().await;
}

/// A pass must not read the history: behind rows that are all younger it ends.
#[tokio::test]
async fn a_walk_ends_at_the_first_rows_that_are_all_young() {
    let database = TestDatabase::migrated("young").await;
    let client = database.connect().await;
    published(&client, 20, "1 day").await;
    let pool = pool(&database);
    let session = Session::open(&pool).await.unwrap();
    let ages = Ages { published: Some(7 * DAY), discarded: Some(7 * DAY) };
    let looked = session.finished(Window { after: 0, up_to: i64::MAX, rows: 10 }, ages).await.unwrap();
    assert_eq!((looked.seen, looked.any_old, looked.deleted.total()), (10, false, 0));
    // A row that waits is as old as its event: the walk goes past it.
    client
        .execute(
            "update outbox_events set status = 'PENDING', created_at = now() - interval '8 days' where id = 5",
            &[],
        )
        .await
        .unwrap();
    let looked = session.finished(Window { after: 0, up_to: i64::MAX, rows: 10 }, ages).await.unwrap();
    assert_eq!((looked.any_old, looked.first_left), (true, Some(1)));
}

fn pool(database: &TestDatabase) -> outbox_relay::db::Pool {
    let settings = DatabaseConfig { url: Secret::new(&database.url), ..DatabaseConfig::default() };
    Database::new(&settings).expect("a good URL").pool(Role::Cleanup, 1)
}

/// Entries that come later, in pages that were looked at or not, and after the table was rewritten.
#[tokio::test]
async fn entries_of_event_handled_go_wherever_they_are() {
    let database = TestDatabase::migrated("handled").await;
    let client = database.connect().await;
    handled(&client, 30_000, "20 days").await;
    handled(&client, 500, "31 days").await;
    // These are too young at the first look at their pages.
    handled(&client, 5_000, "29 days 23 hours 59 minutes 55 seconds").await;
    let cleaner = start(&database, CleanupConfig { batch_rows: 400.try_into().unwrap(), ..settings() });
    let left = async |expected: i64| {
        wait_until("the old entries are gone", LIMIT, async || match count(&client, "event_handled").await {
            left if left == expected => Ok(()),
            left => Err(format!("{left} left")),
        })
        .await;
    };
    left(30_000).await;
    client.batch_execute("vacuum full event_handled").await.unwrap();
    client
        .execute("update event_handled set handled_at = now() - interval '31 days' where \"offset\" <= 100", &[])
        .await
        .unwrap();
    client.batch_execute("vacuum full event_handled").await.unwrap();
    left(29_900).await;
    cleaner.stop().await;
}
