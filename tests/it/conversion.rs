//! An outbox in use becomes a partitioned one: nobody notices, nothing is moved, everything that hangs on the table
//! comes along, and what cannot is named before anything is changed.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use tokio_postgres::Client;

use crate::partitions::{Keeper, names, wait_until_gone};
use crate::support::cli::Call;
use crate::support::kafka::sent_ids;
use crate::support::order;
use crate::support::outbox::{psql, row};
use crate::support::relay::RelaySettings;
use crate::support::{
    NewRow, TestDatabase, Topic, holds_for, outbox_relay, parts::parts, repository, unique, wait_until,
};

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

/// Inserts as they must go on, whatever the command waits for.
async fn inserts_work(client: &Client, duration: Duration) {
    holds_for("inserts work", duration, async || {
        let new = NewRow::new("t", "k", "{}");
        tokio::time::timeout(Duration::from_millis(1_500), new.insert(client))
            .await
            .map_err(|_| "one waits".to_owned())?;
        Ok(())
    })
    .await;
}

/// Waits until the command says that it waits.
async fn wait_until_it_waits(database: &TestDatabase) {
    let client = database.connect().await;
    wait_until("the command has asked for the lock in vain", LIMIT, async || {
        let asked = "select count(*)::text from pg_stat_activity where datname = current_database() \
            and application_name = 'outbox-relay admin' and state = 'idle' and (query like '%pg_locks%' or query = 'ROLLBACK')";
        match texts(&client, asked).await[0].as_str() {
            "1" => Ok(()),
            other => Err(other.to_owned()),
        }
    })
    .await;
}

/// Promise: partitioning.
#[tokio::test]
async fn a_transaction_that_stays_open_keeps_the_conversion_waiting_and_nobody_else() {
    let database = TestDatabase::migrated("convert-open").await;
    let (client, mut other) = (database.connect().await, database.connect().await);
    published(&client, 3_000, 0.0).await;
    let open = other.transaction().await.unwrap();
    let early: i64 = open.query_one(&NewRow::new("t", "late", "{}").statement(), &[]).await.unwrap().get(0);
    let command = convert(&database, 1_000).start();
    wait_until_it_waits(&database).await;
    inserts_work(&client, Duration::from_secs(4)).await;
    assert_eq!(names(&client).await, Vec::<String>::new(), "it is a plain table");
    // Somebody who looks at the sequence comes in the way later: with the table locked, and everything is taken back.
    let mut third = database.connect().await;
    let looking = third.transaction().await.unwrap();
    looking.query_one("select last_value from outbox_events_id_seq", &[]).await.unwrap();
    open.commit().await.unwrap();
    inserts_work(&client, Duration::from_secs(4)).await;
    assert_eq!(names(&client).await, Vec::<String>::new(), "it is a plain table");
    looking.rollback().await.unwrap();
    let said = command.finish().await.expect_code(0).stderr;
    assert!(said.contains("waiting until no transaction") && said.contains("s old"), "{said}");
    assert_eq!(row(&client, early).await.status, "PENDING");
    assert!(names(&client).await.len() >= 3);
}

/// A transaction that only reads keeps the command from the lock here.
///
/// Promise: partitioning.
#[tokio::test]
async fn a_conversion_that_is_killed_at_any_step_refuses_nothing_and_is_gone_on_with() {
    let database = TestDatabase::migrated("convert-killed").await;
    let (client, mut other) = (database.connect().await, database.connect().await);
    published(&client, 3_000, 0.0).await;
    let before = files(&client, "outbox_events").await;
    let step = |name: &str| {
        std::fs::read_to_string(repository().join("src/migrations/conversion/sql").join(name))
            .expect("a statement of the command")
    };
    let check =
        "select coalesce((select convalidated::text from pg_constraint where conname = 'outbox_events_bound'), 'none')";
    // Killed before the check is there; after that, which it then finds and validates; and before the exchange.
    for (done, left) in [(None, "none"), (Some("bound.sql"), "true"), (None, "true")] {
        if let Some(done) = done {
            client.batch_execute(&step(done)).await.unwrap();
        }
        let reading = other.transaction().await.unwrap();
        reading.query_one("select max(id) from outbox_events", &[]).await.unwrap();
        let command = convert(&database, 1_000).start();
        wait_until_it_waits(&database).await;
        inserts_work(&client, Duration::from_secs(1)).await;
        let end = "select count(pg_terminate_backend(pid))::text from pg_stat_activity \
            where datname = current_database() and application_name = 'outbox-relay admin'";
        assert_eq!(texts(&client, end).await, ["1"]);
        let said = command.finish().await.expect_code(4).stderr;
        reading.rollback().await.unwrap();
        assert!(said.contains("OR-P001"), "{said}");
        assert_eq!(texts(&client, check).await, [left], "{said}");
        assert_eq!(names(&client).await, Vec::<String>::new(), "it is a plain table");
        NewRow::new("t", "k", "{}").insert(&client).await;
    }
    // Nothing can fail the check that stayed behind, not even the highest id of all.
    let highest = "begin; insert into outbox_events (id, event_type) overriding system value values (4611686018427387904, 'E'); rollback";
    client.batch_execute(highest).await.unwrap();
    let checked = outbox_relay(&["check", "-o", "json"])
        .env("DATABASE_URL", &database.url)
        .env("KAFKA_BOOTSTRAP_SERVERS", &parts().kafka)
        .run()
        .await;
    let finding = &checked.json()["findings"];
    let finding = finding.as_array().unwrap().iter().find(|finding| finding["check"] == "schema.partitions").unwrap();
    assert_eq!(finding["level"], "warning", "{finding}");
    outbox_relay(&["migrate", "up"]).env("DATABASE_URL", &database.url).run().await.expect_code(0);
    // Once validated, nothing reads the table again: above all not the exchange, under its lock.
    client.batch_execute("alter table outbox_events validate constraint outbox_events_bound").await.unwrap();
    let read = "select pg_stat_get_tuples_returned($1)";
    let table: u32 = client.query_one("select 'outbox_events'::regclass::oid", &[]).await.unwrap().get(0);
    let read = async || -> i64 {
        client.batch_execute("select pg_stat_force_next_flush(); select pg_stat_clear_snapshot()").await.unwrap();
        client.query_one(read, &[&table]).await.unwrap().get(0)
    };
    let read_before = read().await;
    let said = convert(&database, 1_000).run().await.expect_code(0).stderr;
    assert!(said.contains("continuing"), "{said}");
    wait_until("its session has ended, and its figures are there", LIMIT, async || {
        let sessions = "select count(*)::text from pg_stat_activity \
            where datname = current_database() and application_name = 'outbox-relay admin'";
        let sessions = texts(&client, sessions).await;
        if sessions == ["0"] { Ok(()) } else { Err(format!("{sessions:?}")) }
    })
    .await;
    assert_eq!(read().await, read_before, "rows were read under the lock");
    assert_eq!(files(&client, "outbox_events_p1").await, before);
    assert_eq!(texts(&client, check).await, ["none"]);
    assert_eq!(texts(&client, "select count(*)::text from pg_proc where proname = 'outbox_events_bound'").await, ["0"]);
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
        Some(free) if free >= 2_000 => Ok(()),
        free => Err(format!("{free:?} free")),
    })
    .await;
    assert_eq!(
        names(&client).await,
        ["outbox_events_p3001", "outbox_events_p4001", "outbox_events_p5001", "outbox_events_p6001"]
    );
    let ids = "select min(id)::text || '-' || max(id) || ' ' || count(*) from outbox_events";
    assert_eq!(texts(&client, ids).await, ["3001-4500 1500"]);
}

/// What an operator may have put on the table, as PostgreSQL describes it.
async fn belongings(client: &Client) -> Vec<String> {
    let statement = "with t as (select * from pg_class where oid = 'outbox_events'::regclass) \
        select 'owner ' || relowner::regrole from t \
        union all select 'comment ' || obj_description(oid, 'pg_class') from t \
        union all select 'row security ' || relrowsecurity from t \
        union all select format('right %s %s %s %s', c.relname, a.grantee::regrole, a.privilege_type, a.is_grantable) \
          from pg_class c, aclexplode(coalesce(c.relacl, acldefault(case c.relkind when 'S' then 's' else 'r' end::\"char\", c.relowner))) a \
          where c.oid in ('outbox_events'::regclass, 'outbox_events_id_seq'::regclass, 'outbox_claimable'::regclass) \
        union all select format('right %s %s %s', c.attname, a.grantee::regrole, a.privilege_type) \
          from t, pg_attribute c, aclexplode(c.attacl) a where c.attrelid = t.oid \
        union all select format('column %s %s %s %s %s %s', attname, atttypid::regtype, attnotnull, attidentity, attgenerated, attstorage) \
          from t, pg_attribute where attrelid = t.oid and attnum > 0 and not attisdropped \
        union all select 'default ' || pg_get_expr(adbin, adrelid) from t, pg_attrdef where adrelid = t.oid \
        union all select 'constraint ' || conname || ' ' || pg_get_constraintdef(c.oid) from t, pg_constraint c where conrelid = t.oid \
        union all select 'index ' || replace(pg_get_indexdef(indexrelid), ' ON ONLY ', ' ON ') from t, pg_index where indrelid = t.oid \
        union all select 'trigger ' || pg_get_triggerdef(g.oid) || tgenabled::text from t, pg_trigger g where tgrelid = t.oid and not tgisinternal \
        union all select format('policy %s %s %s %s %s %s', polname, polpermissive, polcmd, polroles::regrole[], pg_get_expr(polqual, t.oid), \
          pg_get_expr(polwithcheck, t.oid)) from t, pg_policy where polrelid = t.oid \
        union all select format('publication %s %s %s', p.pubname, p.attnames, p.rowfilter) from pg_publication_tables p where tablename = 'outbox_events' \
        union all select format('view %s %s %s %s', c.relname, c.oid, c.reloptions, pg_get_viewdef(c.oid)) from pg_class c \
          where relkind = 'v' and relnamespace = 'public'::regnamespace \
        union all select format('sequence %s %s %s', last_value, is_called, (select seqcache from pg_sequence where seqrelid = 'outbox_events_id_seq'::regclass)) \
          from outbox_events_id_seq \
        order by 1";
    texts(client, statement).await
}

#[tokio::test]
async fn what_operators_put_on_the_table_comes_along() {
    let database = TestDatabase::migrated("convert-belongings").await;
    let client = database.connect().await;
    let (owner, app, reader) = (unique("owner"), unique("app"), unique("reader"));
    let [owner, app, reader] = [owner, app, reader].map(|name| name.replace('-', "_"));
    client
        .batch_execute(&format!(
            "create role {owner}; create role {app}; create role {reader}; grant create on schema public to {owner}; \
             alter table outbox_events owner to {owner}; \
             alter default privileges grant all on tables to {reader}; alter default privileges grant all on sequences to {reader}; \
             grant insert on outbox_events to {app} with grant option; grant update (status, headers) on outbox_events to {app}; \
             grant select on outbox_events_id_seq to {reader}; revoke truncate on outbox_events from {owner}; \
             grant select on outbox_events to public; grant select on outbox_claimable to {reader}; \
             alter table outbox_events add column tenant text default 'none', add column gone int, alter column payload set storage external, \
               add constraint tenant_given check (tenant <> ''); \
             alter table outbox_events drop column gone; \
             create index by_type on outbox_events (event_type, lower(topic)) include (tenant) where tenant is not null; \
             create unique index by_event on outbox_events (event_id, id); \
             create function tell() returns trigger language plpgsql as $$ begin perform pg_notify('outbox', ''); return null; end $$; \
             create trigger tell after insert on outbox_events for each statement execute function tell(); \
             create trigger never before update of topic on outbox_events for each row when (new.topic is null) execute function tell(); \
             alter table outbox_events disable trigger never, enable always trigger tell; \
             create policy of_tenant on outbox_events as restrictive for select to {app}, {reader} using (tenant = current_user); \
             create policy all_in on outbox_events for insert with check (true); \
             alter table outbox_events enable row level security; \
             create publication whole for table outbox_events (id, topic, status) where (id > 5) with (publish_via_partition_root = true); \
             create view failures with (security_barrier = true) as select id, last_error from outbox_events where status = 'FAILED'; \
             create view failures_today as select * from failures"
        ))
        .await
        .unwrap();
    published(&client, 1_500, 0.0).await;
    let before = belongings(&client).await;
    convert(&database, 1_000).run().await.expect_code(0);
    let after = belongings(&client).await;
    assert_eq!(before, after);
    expect_adopted(&client).await;
    let owners = "select distinct relowner::regrole::text from pg_class c join pg_partition_tree('outbox_events') t on t.relid = c.oid";
    assert_eq!(texts(&client, owners).await, [owner]);
    let left = "select count(*)::text from pg_depend where refclassid = 'pg_class'::regclass and refobjid = 'outbox_events_p1'::regclass \
        and classid in ('pg_rewrite'::regclass, 'pg_publication_rel'::regclass)";
    assert_eq!(texts(&client, left).await, ["0"], "nothing hangs on the old table");
    assert_eq!(NewRow::new("t", "k", "{}").insert(&client).await, 1_501, "ids go on");
}

#[tokio::test]
async fn what_cannot_come_along_is_named_and_nothing_is_changed() {
    let database = TestDatabase::migrated("convert-refused").await;
    let client = database.connect().await;
    NewRow::new("t", "k", "{}").insert(&client).await;
    let cases = [
        ("create table notes (event bigint references outbox_events)", "drop table notes", "notes_event_fkey"),
        (
            "create materialized view old as select id from outbox_events",
            "drop materialized view old",
            "materialized view old",
        ),
        (
            "create function newest() returns bigint language sql begin atomic select max(id) from outbox_events; end",
            "drop function newest",
            "function newest()",
        ),
        ("create table copies (event outbox_events)", "drop table copies", "column event of table copies"),
        ("create unique index once on outbox_events (event_id)", "drop index once", "index once"),
        (
            "alter table outbox_events add unique (event_id)",
            "alter table outbox_events drop constraint outbox_events_event_id_key",
            "UNIQUE (event_id)",
        ),
        (
            "alter table outbox_events add constraint later check (id > 1) not valid",
            "alter table outbox_events drop constraint later",
            "validate constraint later",
        ),
        ("create publication part for table outbox_events", "drop publication part", "publish_via_partition_root"),
        ("create publication whole for all tables", "drop publication whole", "publish_via_partition_root"),
        (
            "alter table outbox_events replica identity full",
            "alter table outbox_events replica identity default",
            "replica identity",
        ),
        (
            "create rule nothing as on delete to outbox_events do also nothing",
            "drop rule nothing on outbox_events",
            "rule nothing",
        ),
        (
            "alter table outbox_events add column n serial",
            "alter table outbox_events drop column n",
            "sequence outbox_events_n_seq",
        ),
        ("create table outbox_events_last ()", "drop table outbox_events_last", "the name outbox_events_last"),
        (
            "create function f() returns trigger language plpgsql as 'begin return null; end'; create trigger added_rows after insert on outbox_events \
             referencing new table as added for each row execute function f()",
            "drop function f cascade",
            "trigger added_rows",
        ),
    ];
    let before = belongings(&client).await;
    for (statement, back, expected) in cases {
        client.batch_execute(statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
        let finished = convert(&database, 1_000).run().await.expect_code(1);
        let said = &finished.stderr;
        assert!(
            said.contains("OR-P005") && said.contains(expected) && said.contains("nothing was changed"),
            "{statement}: {said}"
        );
        client.batch_execute(back).await.unwrap_or_else(|error| panic!("{back}: {error:?}"));
        assert_eq!(belongings(&client).await, before, "{statement}");
    }
    // All of it at once, and without being the owner.
    let role = unique("stranger").replace('-', "_");
    client.batch_execute(&format!("create role {role} login; grant select on all tables in schema public to {role}; grant select on all sequences in schema public to {role}")).await.unwrap();
    let stranger = TestDatabase { url: database.url.replacen("postgres@", &format!("{role}@"), 1) };
    let said = convert(&stranger, 1_000).run().await.expect_code(1).stderr;
    assert!(
        said.contains("does not own outbox_events")
            && said.contains("may not create tables")
            && said.contains("connect as"),
        "{said}"
    );
    let dry = outbox_relay(&["migrate", "up", "--partitioned", "--dry-run"]).env("DATABASE_URL", &stranger.url);
    assert!(dry.run().await.expect_code(1).stderr.contains("does not own"));
}

#[tokio::test]
async fn a_dry_run_says_what_would_be_done_and_does_nothing() {
    let database = TestDatabase::migrated("convert-dry").await;
    let client = database.connect().await;
    published(&client, 3_000, 0.0).await;
    client.batch_execute("analyze outbox_events").await.unwrap();
    let before = belongings(&client).await;
    let dry = async || {
        let flags = ["migrate", "up", "--partitioned", "--dry-run", "--set", "outbox.partition_rows=1000"];
        outbox_relay(&flags).env("DATABASE_URL", &database.url).run().await.expect_code(0).stderr
    };
    let said = dry().await;
    assert!(said.contains("about 3000 rows") && said.contains("ids below 3001"), "{said}");
    assert_eq!(belongings(&client).await, before);
    assert_eq!(psql(&database, "select relkind from pg_class where relname = 'outbox_events'").await, "r");
    convert(&database, 1_000).run().await.expect_code(0);
    assert!(dry().await.contains("is partitioned already"));
}

/// A relay that does not own the table can do everything but what partitions need: `check` says so, and what for.
#[tokio::test]
async fn check_tells_a_role_that_cannot_look_after_partitions() {
    let database = TestDatabase::migrated("convert-check").await;
    let client = database.connect().await;
    convert(&database, 1_000).run().await.expect_code(0);
    let role = unique("relay").replace('-', "_");
    let rights = format!("create role {role} login; grant select on all tables in schema public to {role}");
    client.batch_execute(&rights).await.unwrap();
    let findings = async || {
        let url = database.url.replacen("postgres@", &format!("{role}@"), 1);
        let call = outbox_relay(&["check", "-o", "json"]).env("DATABASE_URL", &url);
        let found = call.env("KAFKA_BOOTSTRAP_SERVERS", &parts().kafka).run().await.json();
        let found = found["findings"].as_array().expect("findings").clone();
        let of_partitions = found.into_iter().filter(|finding| finding["check"] == "schema.partitions");
        of_partitions.map(|finding| format!("{} {}", finding["level"], finding["what"])).collect::<Vec<_>>().join("; ")
    };
    let told = findings().await;
    assert!(
        told.contains("does not own") && told.contains("outbox_events_p1") && told.contains("may not create tables"),
        "{told}"
    );
    let owned = format!(
        "grant create on schema public to {role}; alter table outbox_events owner to {role}; \
         alter table outbox_events_p1 owner to {role}; alter table outbox_events_last owner to {role}"
    );
    client.batch_execute(&owned).await.unwrap();
    let told = findings().await;
    assert!(told.starts_with("\"ok\""), "{told}");
}
