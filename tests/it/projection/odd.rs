//! Events that PostgreSQL refuses, many at once, and projections that begin in any way SQL allows.

use super::*;

fn place() -> Place {
    Place { topic: TOPIC.to_owned(), partition: 0 }
}

async fn fold(store: &Store, records: &[Record]) -> Counts {
    let fence = store.take(&[(place(), 0)], false).await.expect("take").remove(0);
    let folded = fold_batch(store, &place(), fence.epoch, fence.position.next_offset, records).await;
    assert!(matches!(folded.end, End::Done), "{folded:?}");
    folded.counts
}

fn numbered(offset: i64, value: &str) -> Record {
    record(offset, Uuid::new_v4(), "Numbered", &format!(r#"{{"n": "{value}"}}"#))
}

/// Promise: records.
#[tokio::test]
async fn thousands_of_events_that_the_sql_refuses_are_parked_by_few_transactions() {
    let test = TestDatabase::migrated("refused").await;
    let client = test.connect().await;
    client.batch_execute("create table copies (n int)").await.expect("a table");
    let cast = projection("cast", &[], "insert into copies select (payload ->> 'n')::int from new_events");
    let store = Store::new(&database(&test), "metrics".to_owned(), vec![cast], Metrics::new());
    // All of them, then one in a hundred.
    let bad: Vec<Record> = (0..2_000).map(|n| numbered(n, "x")).collect();
    let counts = fold(&store, &bad).await;
    assert_eq!((counts.applied, counts.parked), (0, 2_000));
    let some: Vec<Record> = (2_000..4_000).map(|n| numbered(n, if n % 100 == 7 { "x" } else { "1" })).collect();
    let counts = fold(&store, &some).await;
    assert_eq!((counts.applied, counts.parked), (1_980, 20));
    assert_eq!(number(&client, "select count(*) from copies").await, 1_980);
    // Each commit and each rollback of the store, once the server has counted them: the sessions end with it.
    drop(store);
    let closed = "select count(*) from pg_stat_activity where datname = current_database() and application_name like 'outbox-relay%'";
    crate::support::wait_until("its sessions are closed", std::time::Duration::from_secs(60), async || {
        match number(&client, closed).await {
            0 => Ok(()),
            n => Err(format!("{n}")),
        }
    })
    .await;
    let ends = "select xact_rollback from pg_stat_database where datname = current_database()";
    let rolled_back = number(&client, ends).await;
    assert!(rolled_back <= 10, "{rolled_back} transactions were rolled back");
}

#[tokio::test]
async fn a_projection_may_begin_in_any_way() {
    let test = TestDatabase::migrated("begins").await;
    let client = test.connect().await;
    client
        .batch_execute(
            "create table copies (n int); create function refuse(n int) returns int language plpgsql as \
        $$ begin raise exception 'no' using errcode = 'SHOP1'; end $$",
        )
        .await
        .expect("a table");
    for (n, sql) in [
        "insert into copies select ordinal from new_events",
        "-- with\n/* a /* nested */ comment */ WITH a AS (select ordinal from new_events) insert into copies select ordinal from a",
        "with recursive n (n) as (select 1 union all select n + 1 from n where n < 3) insert into copies select e.ordinal from new_events e, n where n = 2",
        "merge into copies using new_events e on false when not matched then insert values (e.ordinal)",
        "with x as (insert into copies select ordinal from new_events returning n) select n, 'refused'::text from x where false;",
    ]
    .into_iter()
    .enumerate()
    {
        let any = projection("any", &[], sql);
        let store = Store::new(&database(&test), format!("group{n}"), vec![any], Metrics::new());
        store.prepare().await.expect(sql);
        let counts = fold(&store, &likes(0..3)).await;
        assert_eq!((counts.applied, counts.parked), (3, 0), "{sql}");
        let copied = number(&client, "select count(*) from copies").await;
        assert_eq!(copied, 3, "{sql}");
        client.batch_execute("truncate copies").await.expect("truncate");
    }
    // A SQLSTATE of one's own is about the event that the code was given.
    let raises = projection(
        "raises",
        &[],
        "insert into copies select case when payload ->> 'n' = 'x' then refuse(1) end from new_events",
    );
    let store = Store::new(&database(&test), "raises".to_owned(), vec![raises], Metrics::new());
    let counts = fold(&store, &[numbered(0, "1"), numbered(1, "x"), numbered(2, "1")]).await;
    assert_eq!((counts.applied, counts.parked), (2, 1));
}

/// A database that cannot hold what the headers say keeps it as bytes.
///
/// Promise: records.
#[tokio::test]
async fn what_the_encoding_of_the_database_lacks_is_kept_as_bytes() {
    let name = crate::support::unique("latin").replace('-', "_");
    let shared = &crate::support::parts::parts().database_url;
    let admin = TestDatabase { url: shared.clone() }.connect().await;
    let create = format!("create database {name} encoding 'LATIN1' locale 'C' template template0");
    admin.batch_execute(&create).await.expect("a database");
    let (server, _) = shared.rsplit_once('/').expect("a URL with a database");
    let test = TestDatabase { url: format!("{server}/{name}") };
    let client = test.connect().await;
    let tables = CONSUMER_TABLES.replace(|c: char| !c.is_ascii(), "?");
    client.batch_execute(&tables).await.expect("the tables of the consumer");
    let store = Store::new(&database(&test), "g".to_owned(), vec![Projection::product_metrics()], Metrics::new());
    let value = br#"{"productId": 1}"#.to_vec();
    let odd = |offset, name: &str, text: &str| {
        let headers = vec![
            (b"ce_type".to_vec(), Some(b"LikeAddedEvent".to_vec())),
            (name.as_bytes().to_vec(), Some(text.as_bytes().to_vec())),
        ];
        Record::new(
            TOPIC,
            0,
            offset,
            Some(1_900_000_000_000),
            headers,
            Some("ключ".as_bytes().to_vec()),
            Some(value.clone()),
        )
    };
    let records = [
        odd(0, "ce_subject", "€ 7"),
        odd(1, "naïve €", "x"),
        likes(2..3).remove(0),
        odd(3, "ce_aggregatetype", "товар"),
    ];
    let counts = fold(&store, &records).await;
    assert_eq!((counts.applied, counts.parked), (1, 3));
    let rows = client
        .query("select headers::text, key, event_type, error from consumer_parked order by \"offset\"", &[])
        .await
        .expect("parked events");
    let headers: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
    assert!(headers[0].contains(r#"["ce_subject", {"hex": "e282ac2037"}]"#), "{headers:?}");
    assert!(headers[1].contains(r#"[{"hex": "6e61c3af766520e282ac"}, "x"]"#), "{headers:?}");
    assert!(
        rows.iter()
            .all(|row| row.get::<_, Vec<u8>>(1) == "ключ".as_bytes() && row.get::<_, &str>(2) == "LikeAddedEvent")
    );
    let subject =
        client.query_one("select aggregate_id from event_handled where \"offset\" = 0", &[]).await.expect("handled");
    assert_eq!(subject.get::<_, &str>(0), "\\u{20ac} 7");
}

/// The tables of the consumer alone: a database in another encoding is refused a new outbox.
const CONSUMER_TABLES: &str = concat!(
    include_str!("../../../migrations/V2__consumer.sql"),
    include_str!("../../../migrations/V16__consumer_positions.sql"),
    include_str!("../../../migrations/V18__projections.sql")
);
