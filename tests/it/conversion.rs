//! An outbox in use becomes a partitioned one: nobody notices, nothing is moved, everything that hangs on the table
//! comes along, and what cannot is named before anything is changed.

mod belongings;
mod waits;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use tokio_postgres::Client;

use crate::partitions::{Keeper, names, wait_until_gone};
use crate::support::cli::Call;
use crate::support::kafka::sent_ids;
use crate::support::parts::parts;
use crate::support::relay::RelaySettings;
use crate::support::{TestDatabase, Topic, order, outbox_relay, unique, wait_until};

const LIMIT: Duration = Duration::from_secs(60);

/// `migrate up --partitioned`, with `rows` ids to a partition.
fn convert(database: &TestDatabase, rows: i64) -> Call {
    outbox_relay(&["migrate", "up", "--partitioned", "--set", &format!("outbox.partition_rows={rows}")])
        .env("DATABASE_URL", &database.url)
}

/// `n` rows that were published just now, or days ago.
async fn published(client: &Client, n: i64, days: f64) {
    let insert = "insert into outbox_events (aggregate_id, event_type, topic, payload, status, created_at, published_at) \
         select 'k' || n % 50, 'E', 't', '{}', 'PUBLISHED', now() - $2::float8 * interval '1 day', now() - $2 * interval '1 day' \
         from generate_series(1, $1::bigint) n";
    client.execute(insert, &[&n, &days]).await.expect("rows");
}

async fn texts(client: &Client, statement: &str) -> Vec<String> {
    let rows = client.query(statement, &[]).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    rows.iter().map(|row| row.get(0)).collect()
}

/// The files of the table and of its indexes: the same file before and after means that nothing was written anew.
async fn files(client: &Client, table: &str) -> BTreeSet<String> {
    let statement = format!(
        "select relfilenode::text from pg_class where oid = '{table}'::regclass \
         union select c.relfilenode::text from pg_index i join pg_class c on c.oid = i.indexrelid where i.indrelid = '{table}'::regclass \
         union select t.relfilenode::text from pg_class c join pg_class t on t.oid = c.reltoastrelid where c.oid = '{table}'::regclass"
    );
    texts(client, &statement).await.into_iter().collect()
}

/// Each index of the first partition is a part of one of the whole table.
async fn expect_adopted(client: &Client) {
    let statement = "select c.relname::text from pg_index i join pg_class c on c.oid = i.indexrelid \
        where i.indrelid = 'outbox_events_p1'::regclass and not exists ( \
          select 1 from pg_inherits h join pg_index p on p.indexrelid = h.inhparent \
          where h.inhrelid = i.indexrelid and p.indrelid = 'outbox_events'::regclass and p.indisvalid and p.indisprimary = i.indisprimary)";
    assert_eq!(texts(client, statement).await, Vec::<String>::new(), "indexes that no index of the parent has adopted");
    let own = "select count(*)::text from pg_index where indrelid = 'outbox_events_p1'::regclass";
    let parents = "select count(*)::text from pg_index where indrelid = 'outbox_events'::regclass";
    assert_eq!(texts(client, own).await, texts(client, parents).await);
}

/// Four applications that insert, each with keys of its own, until `stop`. Each statement must succeed the first time.
async fn write(
    database: TestDatabase,
    topic: String,
    writer: usize,
    stop: Arc<AtomicBool>,
) -> HashMap<String, Vec<i64>> {
    let mut client = database.connect().await;
    let insert =
        "insert into outbox_events (aggregate_id, event_type, topic, payload) values ($1, 'E', $2, '{}') returning *";
    // Prepared once, before there is a partition.
    let statement = client.prepare(insert).await.expect("a statement");
    let mut committed: HashMap<String, Vec<i64>> = HashMap::new();
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        let tx = client.transaction().await.expect("begin");
        for _ in 0..n % 3 + 1 {
            let key = format!("w{writer}-{}", n % 7);
            let row = tx.query_one(&statement, &[&key, &topic]).await.expect("no insert fails because of a conversion");
            committed.entry(key).or_default().push(row.get("id"));
            n += 1;
        }
        tx.commit().await.expect("no commit fails because of a conversion");
    }
    committed
}

async fn conversion_under_load(name: &str, delivery: &str) {
    let (database, topic) = tokio::join!(TestDatabase::migrated(name), Topic::create(name, 3));
    let client = database.connect().await;
    let role = unique("conversion").replace('-', "_");
    client
        .batch_execute(&format!(
            "create role {role}; grant insert on outbox_events to {role}; grant update (status) on outbox_events to {role}; \
             create table seen (id bigint); \
             create function see() returns trigger language plpgsql as $$ begin insert into seen values (new.id); return null; end $$; "
        ))
        .await
        .unwrap();
    published(&client, 200_000, 0.0).await;
    client
        .batch_execute("create trigger see after insert on outbox_events for each row execute function see()")
        .await
        .unwrap();
    let before = files(&client, "outbox_events").await;
    let settings = RelaySettings::new(&database, &parts().kafka)
        .steady()
        .set("relay.delivery", delivery)
        .set("run.deployment", &unique(name))
        .set("outbox.partition_rows", "1000");
    let (one, two) =
        tokio::join!(settings.clone().instance("one").start_ready(), settings.instance("two").start_ready());
    let stop = Arc::new(AtomicBool::new(false));
    let last_id = async || -> i64 {
        client.query_one("select last_value from outbox_events_id_seq", &[]).await.expect("the sequence").get(0)
    };
    let writers = (0..4).map(|writer| write(database.clone(), topic.name.clone(), writer, stop.clone()));
    let conduct = async {
        wait_until("events flow", LIMIT, async || if last_id().await > 201_000 { Ok(()) } else { Err(String::new()) })
            .await;
        let said = convert(&database, 1_000).run().await.expect_code(0).stderr;
        assert!(said.contains("is partitioned now"), "{said}");
        let at = last_id().await;
        wait_until("ids have left the first partitions", LIMIT, async || {
            let last_id = last_id().await;
            if last_id > at + 4_000 { Ok(()) } else { Err(format!("{last_id}")) }
        })
        .await;
        stop.store(true, Ordering::Relaxed);
    };
    let (written, ()) = tokio::join!(join_all(writers), conduct);
    let committed: HashMap<String, Vec<i64>> = written.into_iter().flatten().collect();
    wait_until("everything is published", LIMIT, async || {
        let open = "select count(*) from outbox_events where status <> 'PUBLISHED'";
        match client.query_one(open, &[]).await.expect("a count").get::<_, i64>(0) {
            0 => Ok(()),
            open => Err(format!("{open} open")),
        }
    })
    .await;

    let report = order::check(&committed, &sent_ids(&topic.records().await));
    let logs = format!("{}{}", one.log_text(), two.log_text());
    let troubles: Vec<&str> =
        logs.lines().filter(|line| line.contains("\"WARN\"") || line.contains("taken_over\":true")).collect();
    report.expect_kept();
    // Nobody was killed, so nothing is repeated in either mode; unless a lease ran out on a machine with too much to
    // do.
    if delivery == "exactly-once" || troubles.is_empty() {
        assert_eq!(report.repeats, 0, "{troubles:?}");
    }
    let of_statements: Vec<_> = troubles.iter().filter(|line| line.contains("cannot be read")).collect();
    assert!(of_statements.is_empty(), "statements of a lane failed: {of_statements:?}");
    assert_eq!(files(&client, "outbox_events_p1").await, before, "the old table was written anew");
    expect_adopted(&client).await;
    let inserted = i64::try_from(committed.values().map(Vec::len).sum::<usize>()).unwrap();
    let seen = "select count(distinct id), count(*) from seen";
    let seen = client.query_one(seen, &[]).await.unwrap();
    assert_eq!((seen.get::<_, i64>(0), seen.get::<_, i64>(1)), (inserted, inserted), "the trigger fired once for each");
    let rights = format!(
        "select (has_table_privilege('{role}', 'outbox_events', 'insert') and has_column_privilege('{role}', 'outbox_events', 'status', 'update') \
           and not has_table_privilege('{role}', 'outbox_events', 'update'))::text"
    );
    assert_eq!(texts(&client, &rights).await, ["true"]);
    for relay in [one, two] {
        relay.expect_no_error_lines();
        let log = relay.log_text();
        assert!(!log.contains("cached plan") && !log.contains("could not open relation"), "{log}");
        drop(relay);
    }
    let again = convert(&database, 1_000).run().await.expect_code(0).stderr;
    assert!(again.contains("is partitioned already"), "{again}");
}

/// Promise: partitioning.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outbox_is_converted_under_load_in_at_least_once_delivery() {
    conversion_under_load("convert-alo", "at-least-once").await;
}

/// Promise: partitioning.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outbox_is_converted_under_load_in_exactly_once_delivery() {
    conversion_under_load("convert-eos", "exactly-once").await;
}

/// The old table is a partition like any other: made room behind, and dropped when its events are finished and old.
#[tokio::test]
async fn the_old_table_is_dropped_by_the_relay_when_its_events_are_old() {
    let database = TestDatabase::migrated("convert-drop").await;
    let client = database.connect().await;
    published(&client, 3_000, 8.0).await;
    convert(&database, 1_000).run().await.expect_code(0);
    assert_eq!(names(&client).await, ["outbox_events_p1", "outbox_events_p3001", "outbox_events_p4001"]);
    let keeper = Keeper::start(&database);
    published(&client, 1_500, 0.0).await;
    wait_until_gone(&client, "outbox_events_p1").await;
    wait_until("there is room ahead", LIMIT, async || match keeper.metrics.partition_ids_ahead.get() {
        free if free >= 2_000 => Ok(()),
        free => Err(format!("{free} free")),
    })
    .await;
    assert_eq!(
        names(&client).await,
        ["outbox_events_p3001", "outbox_events_p4001", "outbox_events_p5001", "outbox_events_p6001"]
    );
    let ids = "select min(id)::text || '-' || max(id) || ' ' || count(*) from outbox_events";
    assert_eq!(texts(&client, ids).await, ["3001-4500 1500"]);
}
