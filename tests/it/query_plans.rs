//! The plans of the hot statements: they stay the same when statistics are missing, old or new.

use outbox_relay::config::DatabaseConfig;
use outbox_relay::db::{Database, Role};
use outbox_relay::secret::Secret;
use serde_json::Value;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::support::TestDatabase;
use crate::support::statements::statement;

/// A session of a test, or of the program.
trait Session {
    async fn run(&self, script: &str) -> Result<Vec<SimpleQueryMessage>, String>;
}

impl Session for Client {
    async fn run(&self, script: &str) -> Result<Vec<SimpleQueryMessage>, String> {
        self.simple_query(script).await.map_err(|error| format!("{error:?}"))
    }
}

impl Session for outbox_relay::db::Client {
    async fn run(&self, script: &str) -> Result<Vec<SimpleQueryMessage>, String> {
        self.simple_query(script).await.map_err(|error| error.chain())
    }
}

/// A session with the settings of a lane, since they are what holds the plans.
async fn lane_session(database: &TestDatabase) -> outbox_relay::db::Client {
    let settings = DatabaseConfig { url: Secret::new(&database.url), ..DatabaseConfig::default() };
    Database::new(&settings).expect("a good URL").connect(Role::Lane).await.expect("a connection")
}

/// Runs a statement with literal parameters under EXPLAIN, takes its changes back, and returns the plan.
async fn explain(client: &impl Session, file: &str, parameters: &str) -> Value {
    let statement = statement(file);
    let parameters = if parameters.is_empty() { String::new() } else { format!("({parameters})") };
    let run = format!(
        "begin; deallocate all; prepare hot as {statement};\n\
         explain (analyze, buffers, format json) execute hot{parameters}; rollback;"
    );
    let messages = client.run(&run).await.unwrap_or_else(|error| panic!("{file}: {error}"));
    let plan: String = messages
        .iter()
        .filter_map(|message| {
            let SimpleQueryMessage::Row(row) = message else { return None };
            row.get(0).map(|line| format!("{line}\n"))
        })
        .collect();
    serde_json::from_str::<Value>(&plan).expect("JSON")[0]["Plan"].take()
}

/// All nodes of a plan that read `relation`, as `Node Type index`.
fn scans(plan: &Value, relation: &str) -> Vec<String> {
    let mut found = Vec::new();
    if plan["Relation Name"] == relation {
        found.push(format!("{} {}", plan["Node Type"].as_str().unwrap(), plan["Index Name"].as_str().unwrap_or("-")));
    }
    for child in plan["Plans"].as_array().into_iter().flatten() {
        found.extend(scans(child, relation));
    }
    found
}

fn pages(plan: &Value) -> i64 {
    plan["Shared Hit Blocks"].as_i64().unwrap() + plan["Shared Read Blocks"].as_i64().unwrap()
}

async fn ids(client: &Client, what: &str) -> String {
    let query = format!(
        "select '''{{' || string_agg(id::text, ',') || '}}''' from (select id from outbox_events where {what}) e"
    );
    client.query_one(&query, &[]).await.expect("ids").get(0)
}

/// 200,000 published rows and 1,000 that wait, as after a busy day.
async fn fill(client: &Client, analyze_first: bool) {
    // Statistics of an empty table are the trap: a scan of the whole table looks cheap to the planner.
    client.batch_execute("alter table outbox_events set (autovacuum_enabled = false)").await.unwrap();
    if analyze_first {
        client.batch_execute("analyze outbox_events; analyze outbox_shards").await.unwrap();
    }
    client
        .batch_execute(
            "insert into outbox_events (aggregate_id, event_type, topic, payload, status, published_at) \
             select 'k' || n % 1000, 'E', 't', '{}', 'PUBLISHED', now() from generate_series(1, 200000) n; \
             insert into outbox_events (aggregate_id, event_type, topic, payload) \
             select 'k' || n % 1000, 'E', 't', '{}' from generate_series(1, 1000) n; \
             insert into outbox_events (aggregate_id, event_type, topic, payload, status) \
             select 'held-' || n % 100, 'E', 't', '{}', 'HELD' from generate_series(1, 50000) n; \
             insert into outbox_events (aggregate_id, event_type, topic, payload, status, last_error, failed_at) \
             select 'failed-' || n, 'E', 't', '{}', 'FAILED', 'x', case when n % 2 = 0 then now() end from generate_series(1, 20000) n; \
             insert into outbox_held_keys (first_id, shard, partition_key, reason, release_at, released_to) \
             select min(id), shard, aggregate_id, 'retry', now(), min(id) from outbox_events where status = 'HELD' \
             group by shard, aggregate_id",
        )
        .await
        .unwrap();
}

async fn check_plans(database: &TestDatabase, when: &str) {
    let (client, lane) = (database.connect().await, lane_session(database).await);
    for (file, parameters) in [
        ("claim/sql/claim", "1000000, 2097152, 8192, '{3}', '{0}', '{9223372036854775807}', 500"),
        ("claim/sql/claim_watermark", "1000000, 2097152, 8192, '{3}', '{0}', '{9223372036854775807}', 500, '{}', 0"),
        ("step/sql/lowest_pending", "3::smallint, 0"),
    ] {
        let claim = explain(&lane, &format!("outbox/{file}.sql"), parameters).await;
        let mut found = scans(&claim, "outbox_events");
        // Whether a row is locked is asked for each one that has been.
        found.retain(|scan| file != "claim/sql/claim" || scan != "Index Scan outbox_events_pkey");
        let indexed = found.len() == 1 && found[0].ends_with(" outbox_events_pending");
        assert!(indexed, "{when}: {file}: {found:?} {claim:#}");
        assert!(pages(&claim) < 3_000, "{when}: a claim of about 125 rows reads {} pages", pages(&claim));
    }

    // As many as a batch has: a plan that is bad in the number of rows shows only then.
    let batch = ids(&client, "shard = 3 and status = 'PENDING' order by id limit 2000").await;
    let each = |value: &str| format!("'{{{}}}'", vec![value; batch.split(',').count()].join(","));
    for (file, parameters) in [
        ("sql/settle_published", format!("{batch}, {}, {}", each("0"), each("0"))),
        (
            "settle/sql/failed",
            format!("{batch}, {}, {}, {}, {}", each("FAILED"), each("reason"), each("dlq"), each("t")),
        ),
        ("settle/sql/attempts", batch.clone()),
        ("settle/sql/held", batch.clone()),
    ] {
        let settle = explain(&lane, &format!("outbox/{file}.sql"), &parameters).await;
        let mut found = scans(&settle, "outbox_events");
        found.retain(|scan| !scan.starts_with("ModifyTable"));
        assert_eq!(found, ["Index Scan outbox_events_pkey"], "{when}: {file}: {settle:#}");
    }

    let manifest =
        explain(&lane, "outbox/claim/sql/claim_manifest.sql", &format!("1000000, 2097152, 8192, {batch}, true")).await;
    // The second scan looks whether a row that was touched is locked.
    let mut found = scans(&manifest, "outbox_events");
    found.dedup();
    assert_eq!(found, ["Index Scan outbox_events_pkey"], "{when}: {manifest:#}");

    let release = explain(&lane, "outbox/release/sql/due.sql", "3::smallint, 1000, 1000").await;
    for scan in scans(&release, "outbox_events") {
        let indexed = scan.ends_with(" outbox_events_held") || scan.ends_with(" outbox_events_pkey");
        assert!(indexed || scan.starts_with("ModifyTable"), "{when}: {scan}: {release:#}");
    }

    // An age of 0: everything that is finished goes, and comes back with the rollback.
    for (file, first, ages) in [
        ("cleanup/sql/finished", "Index Scan outbox_events_pkey", "0, 0"),
        ("cleanup/sql/failed", "Index Scan outbox_events_failed", "0"),
        // Only old ones: the time of those that do not say theirs is written.
        ("cleanup/sql/failed", "Index Scan outbox_events_failed", "86400"),
    ] {
        let plan =
            explain(&lane, &format!("outbox/{file}.sql"), &format!("0, 9223372036854775807, 1000, {ages}")).await;
        let mut found = scans(&plan, "outbox_events");
        found.retain(|scan| !scan.starts_with("ModifyTable"));
        found.sort();
        found.dedup();
        let mut expected = vec![first, "Index Scan outbox_events_pkey"];
        expected.dedup();
        assert_eq!(found, expected, "{when}: {file}: {plan:#}");
        assert!(pages(&plan) < 20_000, "{when}: a batch of 1,000 rows reads {} pages", pages(&plan));
    }
    let plan = explain(&lane, "outbox/cleanup/sql/handled.sql", "0, 128, 0, 1000").await;
    for scan in scans(&plan, "event_handled") {
        assert!(scan.starts_with("Tid ") || scan.starts_with("ModifyTable"), "{when}: {scan}: {plan:#}");
    }

    let due = explain(&lane, "outbox/sql/shards_due.sql", "'{0,1,2,3,4,5,6,7}', 9223372036854775807, 0").await;
    for scan in scans(&due, "outbox_events") {
        assert!(scan.ends_with(" outbox_events_pending"), "{when}: {due:#}");
    }
    assert!(pages(&due) < 200, "{when}: looking for work reads {} pages", pages(&due));

    client
        .batch_execute(
            "update outbox_shards set owner = '00000000-0000-0000-0000-000000000001', lease_until = 'infinity'",
        )
        .await
        .unwrap();
    let parameters = "'{0,1,2,3,4,5,6,7}', '00000000-0000-0000-0000-000000000001'";
    let sweep = explain(&client, "outbox/barrier/sql/sweep.sql", parameters).await;
    for scan in scans(&sweep, "outbox_events") {
        assert!(scan.ends_with(" outbox_events_pending"), "{when}: {sweep:#}");
    }
    assert!(pages(&sweep) < 200, "{when}: the sweep reads {} pages: {sweep:#}", pages(&sweep));
    client.batch_execute("update outbox_shards set owner = null, lease_until = null").await.unwrap();
}

#[tokio::test]
async fn claim_and_settle_use_their_indexes_whatever_the_statistics_say() {
    for analyze_first in [false, true] {
        let database = TestDatabase::migrated("plans").await;
        let client = database.connect().await;
        fill(&client, analyze_first).await;
        check_plans(&database, if analyze_first { "statistics of an empty table" } else { "no statistics" }).await;
        client.batch_execute("analyze outbox_events").await.unwrap();
        check_plans(&database, "new statistics").await;
    }
}

/// Autovacuum looks at the table while the relay keeps up, so next to nothing is PENDING; then a backlog builds up.
#[tokio::test]
async fn statistics_of_a_quiet_moment_do_not_slow_down_a_backlog() {
    let database = TestDatabase::migrated("quiet-plans").await;
    let client = database.connect().await;
    fill(&client, false).await;
    client
        .batch_execute(
            "delete from outbox_events where status = 'PENDING' and id % 300 <> 0; analyze outbox_events; \
             insert into outbox_events (aggregate_id, event_type, topic, payload) \
             select 'k' || n % 1000, 'E', 't', '{}' from generate_series(1, 100000) n",
        )
        .await
        .unwrap();
    check_plans(&database, "statistics of a quiet moment").await;
}

/// All of a large table waits, and statistics know it: the primary key, which has the rows of all shards in the order
/// of ids, must not look cheaper than the index of the shard.
#[tokio::test]
async fn a_backlog_is_read_by_shard() {
    let database = TestDatabase::migrated("backlog-plans").await;
    let client = database.connect().await;
    client
        .batch_execute(
            "insert into outbox_events (aggregate_id, event_type, topic, payload) \
             select 'k' || n % 1000, 'E', 't', '{}' from generate_series(1, 100000) n; \
             analyze outbox_events",
        )
        .await
        .unwrap();
    check_plans(&database, "statistics of a backlog").await;
}

/// A long transaction elsewhere keeps every dead row: neither claims nor counts may wade through them.
#[tokio::test]
async fn dead_rows_below_the_scan_bound_are_not_read() {
    let database = TestDatabase::migrated("dead-rows").await;
    let (client, mut pinning) = (database.connect().await, database.connect().await);
    let pinned = pinning.build_transaction().isolation_level(tokio_postgres::IsolationLevel::RepeatableRead);
    let pinned = pinned.start().await.unwrap();
    pinned.query_one("select count(*) from outbox_events", &[]).await.unwrap();
    client
        .batch_execute(
            "alter table outbox_events set (autovacuum_enabled = false); \
             insert into outbox_events (aggregate_id, event_type, topic, payload) \
             select 'k' || n % 1000, 'E', 't', '{}' from generate_series(1, 50000) n; \
             update outbox_events set status = 'PUBLISHED', published_at = now(); \
             insert into outbox_events (aggregate_id, event_type, topic, payload) values ('k', 'E', 't', '{}')",
        )
        .await
        .unwrap();
    let row = client.query_one("select id, shard from outbox_events where status = 'PENDING'", &[]).await.unwrap();
    let (id, shard): (i64, i16) = (row.get(0), row.get(1));
    let lane = lane_session(&database).await;
    let bounded = explain(
        &lane,
        "outbox/claim/sql/claim.sql",
        &format!("1000000, 2097152, 8192, '{{{shard}}}', '{{{id}}}', '{{9223372036854775807}}', 500"),
    )
    .await;
    assert!(pages(&bounded) < 50, "a claim of one row reads {} pages", pages(&bounded));
    // With the planner as every session has it, what counts the rows that wait.
    client.execute("update outbox_shards set low_id = $1", &[&id]).await.unwrap();
    for (file, parameters) in [
        ("backlog/sql/backlog", "10000"),
        ("inspect/sql/backlog_by_topic", ""),
        ("inspect/sql/pending_topics", "10000"),
    ] {
        let plan = explain(&client, &format!("outbox/{file}.sql"), parameters).await;
        assert!(pages(&plan) < 100, "{file}: {} pages for one row: {plan:#}", pages(&plan));
    }
}

/// The gauge of a large backlog comes from its first rows: it must not cost what the backlog does.
#[tokio::test]
async fn a_large_backlog_is_counted_in_part() {
    let database = TestDatabase::migrated("large-backlog").await;
    let client = database.connect().await;
    // Every fourth id waits, so the estimate cannot take ids for rows. Without a vacuum each row that is counted is
    // looked at.
    client
        .batch_execute(
            "alter table outbox_events set (autovacuum_enabled = false); \
             insert into outbox_events (aggregate_id, event_type, topic, payload, status, published_at) \
             select 'k' || n % 997, 'E', 't', '{}', case when n % 4 = 0 then 'PENDING' else 'PUBLISHED' end, now() \
             from generate_series(1, 80000) n; \
             analyze outbox_events",
        )
        .await
        .unwrap();
    let waiting = async |most: u32| -> i64 {
        let statement = std::fs::read_to_string("src/outbox/backlog/sql/backlog.sql").unwrap();
        client.query_one(&statement, &[&i64::from(most)]).await.unwrap().get("pending")
    };
    assert_eq!(waiting(10_000).await, 20_000, "fewer wait in each shard, so they are counted");
    let estimate = waiting(500).await;
    assert!((19_000..=21_000).contains(&estimate), "{estimate} instead of 20,000");
    let part = explain(&client, "outbox/backlog/sql/backlog.sql", "500").await;
    let all = explain(&client, "outbox/backlog/sql/backlog.sql", "10000").await;
    assert!(pages(&part) * 3 < pages(&all), "{} pages for a part, {} for all: {part:#}", pages(&part), pages(&all));
}

/// A replay walks the table by its primary key. Without statistics the planner would sort all that is left for every
/// window.
#[tokio::test]
async fn a_window_of_a_replay_reads_only_its_own_rows() {
    for analyze_first in [false, true] {
        let database = TestDatabase::migrated("replay-plans").await;
        let client = database.connect().await;
        fill(&client, analyze_first).await;
        client.batch_execute(outbox_relay::outbox::replay::SESSION).await.unwrap();
        let nothing = "null, null, null, null, null, null, null, null";
        for (file, more) in [("count", ""), ("copy", ", 5000, 16777216, null, false, now()")] {
            let file = format!("outbox/replay/sql/{file}.sql");
            let plan = explain(&client, &file, &format!("1000, 9223372036854775807, 5000, {nothing}{more}")).await;
            let mut found = scans(&plan, "outbox_events");
            found.retain(|scan| !scan.starts_with("ModifyTable"));
            found.dedup();
            assert_eq!(found, ["Index Scan outbox_events_pkey"], "{file}: {plan:#}");
            // A row is read twice and written once, with an entry in two indexes.
            assert!(pages(&plan) < 5_000 * 12, "{file}: {} pages for 5000 rows", pages(&plan));
            // By ids, whatever lies between them.
            let two = format!("0, 9223372036854775807, 5000, '{{1,199999}}', {}{more}", &nothing[6..]);
            let plan = explain(&client, &file, &two).await;
            assert!(pages(&plan) < 300, "{file}: {} pages for two rows: {plan:#}", pages(&plan));
        }
    }
}

/// With the planner as every session has it: what `top` asks each second, and `check` once, reads the newest rows and
/// no others.
#[tokio::test]
async fn a_look_at_the_newest_rows_reads_no_history() {
    for analyze_first in [false, true] {
        let database = TestDatabase::migrated("newest-plans").await;
        let client = database.connect().await;
        fill(&client, analyze_first).await;
        let folded = "insert into consumer_partitions (consumer_group, topic, partition, epoch, next_offset) \
                      select 'g', 't', n, 1, 1 from generate_series(0, 9) n";
        client.batch_execute(folded).await.unwrap();
        for (file, rows) in [("inspect/sql/consumer_progress", 2_000), ("inspect/sql/recent_topics", 10_000)] {
            let plan = explain(&client, &format!("outbox/{file}.sql"), &rows.to_string()).await;
            assert_eq!(scans(&plan, "outbox_events"), ["Index Scan outbox_events_pkey"], "{file}: {plan:#}");
            assert!(pages(&plan) < rows, "{file}: {} pages for {rows} rows", pages(&plan));
        }
    }
}
