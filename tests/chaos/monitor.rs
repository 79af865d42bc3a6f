//! What must hold at every moment, looked at while the faults go on, and what must hold when it is quiet again.
//!
//! Asks the database alone, round the proxies; a look that the database does not answer is left out.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_postgres::{Client, Error};

use crate::it::support::TestDatabase;
use crate::plan::RETENTION;

/// A lane, the consumer and the leases have no reason to hold a transaction for longer.
const LONGEST_TRANSACTION: &str = "10 seconds";

/// Sentences of one look that goes on failing.
const SHOWN: usize = 8;

/// I10: the scan bound is never above a row that waits, as far as the row itself says so. One statement, so one
/// snapshot.
const BOUND_ABOVE_WAITING: &str = "select format('shard %s: low_id %s, row %s is PENDING', s.shard, low_id, min(e.id)) \
     from outbox_shards s join outbox_events e on e.shard = s.shard and e.status = 'PENDING' and e.id > s.done_id \
     group by s.shard, low_id having min(e.id) < low_id";

/// I6: an epoch has one owner, and rows are marked by the owner of their shard alone.
const TWO_OWNERS: &str = "select format('shard %s, epoch %s: %s owners (%s)', shard, epoch, count(distinct owner), \
     string_agg(distinct name, ', ')) from chaos_owners group by shard, epoch having count(distinct owner) > 1";
/// What operators discard is theirs to say.
const STRAYS: &str = "select format('%s set %s rows to %s without owning their shard, the first is %s at %s', \
     name, count(*), status, min(id), min(at)) from chaos_strays where status <> 'DISCARDED' group by name, status";

/// I7: only what was published, and long enough ago, is deleted.
const REMOVED: &str = "select format('%s %s rows were deleted, the first is %s, %s after it was published', count(*), status, \
     min(id), min(removed_at - published_at)) \
     from (select * from chaos_removed where chaos_is_judged(partition_key, aggregate_type) offset 0) as removed \
     where status <> 'PUBLISHED' or removed_at < published_at + $1::text::interval group by status";

/// I9, when it is quiet.
const OLD_TRANSACTIONS: &str = "select format('%s: a transaction open for %s, %s', application_name, \
     clock_timestamp() - xact_start, state) from pg_stat_activity where application_name like 'outbox-relay%' \
     and xact_start < clock_timestamp() - $1::text::interval";

/// From the partial indexes, so that asking costs little.
pub const UNPUBLISHED: &str = "select (select count(*) from outbox_shards s join outbox_events e on e.shard = s.shard and e.status = 'PENDING' \
       and e.id > s.done_id where e.id not in (select unnest(ahead_ids) from outbox_shards) and chaos_is_judged(e.partition_key, e.aggregate_type)) \
     + (select count(*) from outbox_again a join outbox_events e using (id) where chaos_is_judged(e.partition_key, e.aggregate_type)) \
     + (select coalesce(sum(cardinality(batch_ids)), 0) from outbox_shards) \
     + (select count(*) from outbox_events where status = 'HELD' and chaos_is_judged(partition_key, aggregate_type)) \
     + (select count(*) from outbox_events where status = 'FAILED' and chaos_is_judged(partition_key, aggregate_type))";

/// Where every shard stands, for a run that does not converge.
const SHARDS: &str = "select format('shard %s: %s, epoch %s, lease over in %s, low_id %s, batch %s of %s rows, %s PENDING from %s, %s held', \
     s.shard, (select name from outbox_instances where instance = owner), epoch, lease_until - clock_timestamp(), low_id, \
     batch_seq, cardinality(batch_ids), (select count(*) from outbox_events e where e.shard = s.shard and status = 'PENDING'), \
     (select min(id) from outbox_events e where e.shard = s.shard and status = 'PENDING'), \
     (select count(*) from outbox_events e where e.shard = s.shard and status = 'HELD')) from outbox_shards s order by shard";

pub async fn shards(client: &Client) -> Result<String, Error> {
    Ok(texts(client, SHARDS).await?.join("\n"))
}

/// Looks every two seconds, for ever, and adds what it finds to `complaints`. Cancel safe.
pub async fn watch(database: &TestDatabase, complaints: &std::sync::Mutex<Vec<String>>) {
    let mut ticks = interval(Duration::from_secs(2));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut client = None;
    loop {
        ticks.tick().await;
        let Ok(looking) = connected(&mut client, database).await else { continue };
        match texts(looking, BOUND_ABOVE_WAITING).await {
            Ok(found) => {
                let mut complaints = complaints.lock().expect("nobody panics with it");
                let room = SHOWN.saturating_sub(complaints.len());
                complaints.extend(found.into_iter().take(room).map(|text| format!("I10 while faults went on: {text}")));
            }
            Err(_) => client = None,
        }
    }
}

/// What must hold in the end, with the processes still running.
pub async fn in_the_end(client: &Client) -> Result<Vec<String>, Error> {
    let mut complaints = Vec::new();
    for (name, statement) in [("I10", BOUND_ABOVE_WAITING), ("I6", TWO_OWNERS), ("I6", STRAYS)] {
        complaints.extend(texts(client, statement).await?.into_iter().map(|text| format!("{name}: {text}")));
    }
    let kept = format!("{} seconds", RETENTION.as_secs());
    let removed = client.query(REMOVED, &[&kept]).await?;
    complaints.extend(removed.iter().map(|row| format!("I7: {}", row.get::<_, String>(0))));
    let old = client.query(OLD_TRANSACTIONS, &[&LONGEST_TRANSACTION]).await?;
    complaints.extend(old.iter().map(|row| format!("I9: {}", row.get::<_, String>(0))));
    Ok(complaints)
}

async fn connected<'a>(client: &'a mut Option<Client>, database: &TestDatabase) -> Result<&'a Client, Error> {
    if client.is_none() {
        *client = Some(database.try_connect().await?);
    }
    Ok(client.as_ref().expect("just made"))
}

async fn texts(client: &Client, statement: &str) -> Result<Vec<String>, Error> {
    Ok(client.query(statement, &[]).await?.iter().map(|row| row.get(0)).collect())
}

/// Does each wrong thing once, in a transaction that is rolled back, and must be told of it.
pub async fn self_check(client: &mut Client, relay: &str) -> Result<(), Error> {
    let transaction = client.transaction().await?;
    let wrong = format!(
        "insert into outbox_events (event_type, topic, partition_key) values ('Wrong', 'none', 'nobody');
         set local session authorization {relay};
         update outbox_events set status = 'PUBLISHED', published_at = now();
         update outbox_events set status = 'PENDING';
         delete from outbox_events;
         insert into outbox_events (event_type, topic, partition_key) values ('Wrong', 'none', 'nobody');
         update outbox_shards set owner = gen_random_uuid(), epoch = 1, lease_until = now(), low_id = 1000000;
         update outbox_shards set owner = gen_random_uuid();
         reset session authorization;
         set local application_name = 'outbox-relay lane'"
    );
    transaction.batch_execute(&wrong).await?;
    for statement in [BOUND_ABOVE_WAITING, TWO_OWNERS, STRAYS] {
        assert!(!transaction.query(statement, &[]).await?.is_empty(), "nothing is found by: {statement}");
    }
    let removed = transaction.query(REMOVED, &[&"0 seconds"]).await?;
    assert!(!removed.is_empty(), "a PENDING row that is deleted is not seen");
    let old = transaction.query(OLD_TRANSACTIONS, &[&"0 seconds"]).await?;
    assert!(!old.is_empty(), "a transaction that is open is not seen");
    transaction.rollback().await
}
