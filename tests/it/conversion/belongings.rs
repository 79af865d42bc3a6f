//! What hangs on the table: it comes along, or it is named and nothing is changed.

use tokio_postgres::Client;

use super::{convert, expect_adopted, published, texts};
use crate::support::outbox::psql;
use crate::support::parts::parts;
use crate::support::{NewRow, TestDatabase, outbox_relay, unique};

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
