//! `shards set`: another number of shards while applications insert and instances are at work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_postgres::Client;

use crate::support::cli::{Finished, Started, outbox_relay};
use crate::support::kafka::sent_ids;
use crate::support::order;
use crate::support::outbox::{committed_ids, counts, insert_many, wait_for_status, wait_until_published};
use crate::support::relay::{RelaySettings, leases};
use crate::support::{NewRow, PrivateKafka, TestDatabase, Topic, holds_for, parts::parts, unique, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

/// `shards set` with the settings of the relays, as an operator runs it beside them.
struct Operator {
    environment: Vec<(String, String)>,
}

impl Operator {
    fn new(database: &TestDatabase, kafka: &str, delivery: &str, deployment: &str) -> Self {
        let pairs = [
            ("DATABASE_URL", database.url.as_str()),
            ("KAFKA_BOOTSTRAP_SERVERS", kafka),
            ("OUTBOX_RELAY_RELAY__DELIVERY", delivery),
            ("OUTBOX_RELAY_RUN__DEPLOYMENT", deployment),
        ];
        Self { environment: pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec() }
    }

    fn relay(&self) -> RelaySettings {
        let start = RelaySettings::new(&TestDatabase { url: self.environment[0].1.clone() }, &self.environment[1].1);
        self.environment.iter().fold(start.steady(), |settings, (name, value)| settings.env(name, value))
    }

    fn start(&self, args: &[&str]) -> Started {
        let args: Vec<&str> = ["shards", "set"].iter().chain(args).copied().collect();
        self.environment.iter().fold(outbox_relay(&args), |call, (name, value)| call.env(name, value)).start()
    }

    async fn set(&self, args: &[&str]) -> Finished {
        self.start(args).finish().await
    }
}

async fn number(client: &Client, query: &str) -> i64 {
    client.query_one(query, &[]).await.unwrap_or_else(|error| panic!("{query}: {error:?}")).get(0)
}

/// The shards that there are, and those that keys are spread over.
async fn shards(client: &Client) -> (i64, i64) {
    let there = number(client, "select count(*) from outbox_shards").await;
    (there, number(client, "select outbox_shard_count()::bigint").await)
}

/// Nothing is claimed from a shard that does not have the event's key.
const STRAYS: &str = "select count(*) from outbox_current where status in ('PENDING', 'HELD', 'FAILED') \
                      and shard <> outbox_shard_of(outbox_key_of(partition_key, aggregate_id), id)";

/// Inserts over keys of its own until it is told to stop, with a statement that was prepared before anything changed.
async fn write(client: Client, topic: String, writer: usize, stop: Arc<AtomicBool>) -> u64 {
    let text = "insert into outbox_events (aggregate_type, aggregate_id, event_type, topic, payload) \
                values ('Order', $1, 'OrderCreatedEvent', $2, '{}')";
    let statement = client.prepare(text).await.expect("a statement");
    let mut written = 0;
    // No faster than the relays of a busy machine.
    let mut pace = tokio::time::interval(Duration::from_millis(5));
    while !stop.load(Ordering::Relaxed) {
        pace.tick().await;
        let key = format!("w{writer}-{}", written % 20);
        client.execute(&statement, &[&key, &topic]).await.expect("an insert");
        written += 1;
    }
    written
}

async fn more_and_fewer_shards(delivery: &str) {
    let topic = Topic::planned("reshard").created_with(6, &[("max.message.bytes", "20000")]);
    let (database, topic) = tokio::join!(TestDatabase::migrated("reshard"), topic);
    let client = database.connect().await;
    let operator = Operator::new(&database, &parts().kafka, delivery, &unique("reshard"));
    let settings = operator.relay().set("relay.batch_rows", "200");
    let (first, second) = (settings.clone().instance("first"), settings.instance("second"));
    let (mut first, mut second) = tokio::join!(first.start_ready(), second.start_ready());

    // A key that is held behind a failed event, and one that waits for its time.
    let large = "(select jsonb_build_object('x', string_agg(md5(n::text || random()::text), '')) from generate_series(1, 2000) n)";
    let poison = NewRow::new(&topic.name, "poison", "{}").sql("payload", large).insert(&client).await;
    let behind = NewRow::new(&topic.name, "poison", "{}").insert(&client).await;
    wait_for_status(&client, poison, "FAILED").await;
    wait_for_status(&client, behind, "HELD").await;
    let later =
        NewRow::new(&topic.name, "later", "{}").sql("available_at", "now() + interval '1 hour'").insert(&client).await;
    wait_for_status(&client, later, "HELD").await;

    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = JoinSet::new();
    for writer in 0..4 {
        writers.spawn(write(database.connect().await, topic.name.clone(), writer, Arc::clone(&stop)));
    }
    let held_by = "select count(*) from outbox_held_keys where shard <> outbox_shard_of(partition_key, first_id)";
    // Shards that come back go on from the number of their last batch.
    for count in ["3", "16", "1", "12"] {
        insert_many(&client, &topic.name, 100, 3_000).await;
        let report = operator.set(&[count, "--yes", "-o", "json"]).await.expect_code(0).json();
        assert_eq!(report["shards"].to_string(), count, "{report}");
        let wanted: i64 = count.parse().unwrap();
        assert_eq!(shards(&client).await, (wanted, wanted));
        assert_eq!(number(&client, STRAYS).await, 0);
        assert_eq!(number(&client, held_by).await, 0, "held keys are where their events are");
    }
    stop.store(true, Ordering::Relaxed);
    let written: u64 = writers.join_all().await.into_iter().sum();
    assert!(written > 100, "{written} rows were written meanwhile");

    client.execute("update outbox_events set payload = '{}' where id = $1", &[&poison]).await.unwrap();
    let call = |args: &[&str]| outbox_relay(args).env("DATABASE_URL", &database.url);
    call(&["events", "retry", &poison.to_string(), "--yes"]).run().await.expect_code(0);
    client.execute("update outbox_events set available_at = now() where id = $1", &[&later]).await.unwrap();
    client.execute("update outbox_held_keys set release_at = now() where partition_key = 'later'", &[]).await.unwrap();
    wait_until_published(&database, PATIENCE).await;
    let report = order::check(&committed_ids(&client).await, &sent_ids(&topic.records().await));
    report.expect_kept().expect_no_repeats();
    let audit = "select count(*) from outbox_audit where action = 'set shards'";
    assert_eq!(number(&client, audit).await, 4);
    wait_until("they share the shards", PATIENCE, async || {
        let leases = leases(&client).await;
        let shares = (leases.get("first"), leases.get("second"));
        if shares == (Some(&6), Some(&6)) { Ok(()) } else { Err(format!("{leases:?}")) }
    })
    .await;
    tokio::join!(first.terminate(), second.terminate());
}

/// Promise: resharding.
#[tokio::test]
async fn the_number_of_shards_changes_under_load_and_nothing_is_lost_or_overtaken() {
    more_and_fewer_shards("at-least-once").await;
}

/// Promise: resharding.
#[tokio::test]
async fn the_number_of_shards_changes_under_load_in_exactly_once_delivery() {
    more_and_fewer_shards("exactly-once").await;
}

/// Writers that computed a shard with the number of before are waited for; a command that is killed meanwhile is taken
/// back or run again.
///
/// Promise: resharding.
#[tokio::test]
async fn a_command_that_is_killed_while_it_waits_for_a_writer_has_changed_nothing() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("reshard-killed"), Topic::create("reshard-killed", 3));
    let client = database.connect().await;
    let operator = Operator::new(&database, &parts().kafka, "at-least-once", "killed");
    let mut relay = operator.relay().start_ready().await;
    let mut writer = database.connect().await;
    let open = writer.transaction().await.unwrap();
    open.query_one(&NewRow::new(&topic.name, "open", "{}").statement(), &[]).await.unwrap();

    let command = operator.start(&["5", "--yes"]);
    let taken = "select count(*) from outbox_shards where lease_until > now() + interval '1 year'";
    wait_until("the command has all shards", PATIENCE, async || {
        let taken = number(&client, taken).await;
        if taken == 8 { Ok(()) } else { Err(taken.to_string()) }
    })
    .await;
    let refused = operator.set(&["6", "--yes"]).await.expect_code(6);
    assert!(refused.stderr.contains("another command"), "{}", refused.stderr);
    command.signal("KILL");
    command.finish().await;
    let waits = NewRow::new(&topic.name, "waits", "{}").insert(&client).await;
    holds_for("nobody publishes while the shards are taken", Duration::from_secs(2), async || {
        let status = crate::support::outbox::row(&client, waits).await.status;
        if status == "PENDING" { Ok(()) } else { Err(status) }
    })
    .await;

    // The number that it had takes everything back; the writer is still open, and a command gives up and gives back
    // too.
    let report = operator.set(&["5", "--yes", "--timeout", "1s"]).await.expect_code(6);
    // Their number is not sure: the cleaner may hold the same lock for a moment.
    assert!(report.stderr.contains("transactions that insert events stay open"), "{}", report.stderr);
    wait_for_status(&client, waits, "PUBLISHED").await;
    assert_eq!(shards(&client).await, (8, 8));

    let command = operator.start(&["5", "--yes"]);
    wait_until("the command waits for the writer", PATIENCE, async || {
        let taken = number(&client, taken).await;
        if taken == 8 { Ok(()) } else { Err(taken.to_string()) }
    })
    .await;
    open.commit().await.unwrap();
    command.finish().await.expect_code(0);
    assert_eq!(shards(&client).await, (5, 5));
    assert_eq!(wait_until_published(&database, PATIENCE).await, 2);
    relay.terminate().await;
}

/// After the change itself there is no way back: nothing is published until the same command has been run to its end.
///
/// Promise: resharding.
#[tokio::test]
async fn a_command_that_is_killed_while_it_moves_events_is_finished_by_the_next() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("reshard-half"), Topic::create("reshard-half", 3));
    let client = database.connect().await;
    let operator = Operator::new(&database, &parts().kafka, "exactly-once", &unique("half"));
    let mut relay = operator.relay().start_ready().await;
    insert_many(&client, &topic.name, 50, 500).await;
    wait_until_published(&database, PATIENCE).await;
    relay.terminate().await;
    insert_many(&client, &topic.name, 50, 2_000).await;

    // A row that cannot be moved for now.
    let mut other = database.connect().await;
    let lock = other.transaction().await.unwrap();
    let last = "select id from outbox_events where status = 'PENDING' and shard = 7 and shard <> \
                (('x' || left(md5(aggregate_id), 8))::bit(32)::bigint & 2147483647) % 12 order by id desc limit 1 for update";
    lock.query_one(last, &[]).await.expect("a row that will be moved");
    let command = operator.start(&["12", "--yes"]);
    wait_until("the command waits for the row", PATIENCE, async || {
        let waiting = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock' \
                       and query like '%partition_key = partition_key%'";
        if number(&client, waiting).await > 0 { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    command.signal("KILL");
    command.finish().await;
    lock.rollback().await.unwrap();
    let gone = "select count(*) from pg_stat_activity where datname = current_database() \
                and query like '%partition_key = partition_key%' and pid <> pg_backend_pid()";
    wait_until("its session has ended", PATIENCE, async || {
        let left = number(&client, gone).await;
        if left == 0 { Ok(()) } else { Err(left.to_string()) }
    })
    .await;
    assert!(number(&client, STRAYS).await > 0, "it was not finished");

    let mut relay = operator.relay().start_ready().await;
    insert_many(&client, &topic.name, 50, 500).await;
    let refused = operator.set(&["4", "--yes"]).await.expect_code(2);
    assert!(refused.stderr.contains("shards set 12"), "{}", refused.stderr);
    assert_eq!(counts(&client).await.get("PENDING"), Some(&2_500), "nothing is published before it is finished");
    relay.wait_for_readiness(200, "[i]the number of shards is being changed").await;

    operator.set(&["12", "--yes"]).await.expect_code(0);
    assert_eq!(number(&client, STRAYS).await, 0);
    assert_eq!(wait_until_published(&database, PATIENCE).await, 3_000);
    let report = order::check(&committed_ids(&client).await, &sent_ids(&topic.records().await));
    report.expect_kept().expect_no_repeats();
    relay.terminate().await;
}

/// What a dead instance has left in flight is settled by another one first, and without one nothing is changed.
///
/// Promise: resharding.
#[tokio::test]
async fn a_batch_of_a_dead_instance_is_settled_before_the_number_changes() {
    let (database, kafka) = tokio::join!(TestDatabase::migrated("reshard-dead"), PrivateKafka::start());
    let topic = Topic::create_on(&kafka.bootstrap, "reshard-dead", 3).await;
    let client = database.connect().await;
    let operator = Operator::new(&database, &kafka.bootstrap, "exactly-once", &unique("dead"));
    let mut relay = operator.relay().instance("dead").set("relay.lease", "3s").start_ready().await;
    NewRow::new(&topic.name, "k0", "{}").insert(&client).await;
    wait_until_published(&database, PATIENCE).await;
    kafka.pause().await;
    insert_many(&client, &topic.name, 20, 200).await;
    wait_until("batches are in flight", PATIENCE, async || {
        let flying = number(&client, "select count(*) from outbox_shards where batch_ids is not null").await;
        if flying > 0 { Ok(()) } else { Err("none".to_owned()) }
    })
    .await;
    relay.kill().await;
    kafka.resume().await;

    let report = operator.set(&["4", "--yes", "--timeout", "6s"]).await.expect_code(6);
    assert!(report.stderr.contains("nobody settles"), "{}", report.stderr);
    assert_eq!(shards(&client).await, (8, 8));
    let command = operator.start(&["4", "--yes"]);
    let mut relay = operator.relay().instance("heir").start_ready().await;
    command.finish().await.expect_code(0);
    assert_eq!(shards(&client).await, (4, 4));
    assert_eq!(wait_until_published(&database, PATIENCE).await, 201);
    let report = order::check(&committed_ids(&client).await, &sent_ids(&topic.records().await));
    report.expect_kept().expect_no_repeats();
    relay.terminate().await;
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_and_changes_nothing() {
    let database = TestDatabase::migrated("reshard-bad").await;
    let client = database.connect().await;
    let operator = Operator::new(&database, &parts().kafka, "at-least-once", "bad");
    for count in ["0", "40000", "-1", "many"] {
        operator.set(&[count, "--yes"]).await.expect_code(2);
    }
    let report = operator.set(&["8", "--yes"]).await.expect_code(0);
    assert!(report.stderr.contains("8 shards already"), "{}", report.stderr);
    let report = operator.set(&["9"]).await.expect_code(2);
    assert!(report.stderr.contains("--yes"), "{}", report.stderr);
    let report = operator.set(&["9", "--dry-run"]).await.expect_code(0);
    assert!(report.stderr.contains("nothing was changed"), "{}", report.stderr);

    let role = unique("reader").replace('-', "_");
    client
        .batch_execute(&format!(
            "create role {role} login password 'x'; grant select on all tables in schema public to {role}"
        ))
        .await
        .unwrap();
    let (_, address) = database.url.rsplit_once('@').map_or(("", database.url.as_str()), |parts| parts);
    let address = address.trim_start_matches("postgres://").trim_start_matches("postgresql://");
    let mut stranger = Operator::new(&database, &parts().kafka, "at-least-once", "bad");
    stranger.environment[0].1 = format!("postgres://{role}:x@{address}");
    let report = stranger.set(&["9", "--yes"]).await.expect_code(4);
    assert!(report.stderr.contains("does not own"), "{}", report.stderr);
    client.batch_execute(&format!("drop owned by {role}; drop role {role}")).await.unwrap();
    assert_eq!(shards(&client).await, (8, 8));
    assert_eq!(number(&client, "select count(*) from outbox_installation where resharding_to is not null").await, 0);
}
