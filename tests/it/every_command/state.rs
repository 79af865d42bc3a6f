//! What is in a database: all of it, and what of it must be the same when a command was interrupted and run again.

use std::collections::BTreeMap;

use tokio_postgres::Client;

/// Columns that a second run may fill in another way: times, ids that were drawn, epochs.
const DIFFERS: &[(&str, &[&str])] = &[
    ("outbox_events", &["id", "event_id"]),
    ("outbox_shards", &["epoch", "low_id", "batch_seq", "done_id", "owner", "ahead_ids"]),
    ("outbox_retired_shards", &["epoch", "batch_seq"]),
    ("outbox_redriven", &["row_id"]),
    ("outbox_replays", &["id", "runner", "upto_id", "last_id"]),
    (
        "outbox_jobs",
        &[
            "id",
            "kind",
            "arguments",
            "actor",
            "reason",
            "state",
            "parts",
            "cursor",
            "result",
            "epoch",
            "runner",
            "run_by",
            "cancelled_by",
            "error_code",
            "error",
            "hint",
        ],
    ),
    ("outbox_installation", &["id", "home_system", "home_database"]),
    ("outbox_audit", &["id", "details", "action", "actor", "reason"]),
    ("consumer_partitions", &["epoch"]),
];

async fn digest(client: &Client, loose: bool) -> String {
    let columns = client
        .query(
            "select table_name::text, column_name::text, data_type::text from information_schema.columns \
             where table_schema = 'public' and table_name <> 'outbox_schema_history' order by 1, ordinal_position",
            &[],
        )
        .await
        .expect("columns");
    let mut tables: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut schema = String::new();
    for row in columns {
        let (table, column, kind): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        schema += &format!("{table}.{column} {kind}\n");
        let differs = kind.starts_with("timestamp")
            || DIFFERS.iter().any(|(of, columns)| *of == table && columns.contains(&column.as_str()));
        let of = tables.entry(table).or_default();
        if !loose || !differs {
            of.push(column);
        }
    }
    let kinds = "select relname::text, relkind::text from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p', 'v', 'i', 'I') \
        order by 1";
    let mut state = String::new();
    for row in client.query(kinds, &[]).await.expect("relations") {
        let (name, kind): (String, String) = (row.get(0), row.get(1));
        schema += &format!("{name} {kind}\n");
        // Rows of a partition are those of its table.
        let Some(columns) = tables.get(&name).filter(|_| kind == "r" || kind == "p") else { continue };
        if columns.is_empty() || name.starts_with("outbox_events_") {
            continue;
        }
        let list: Vec<String> = columns.iter().map(|column| format!("\"{column}\"")).collect();
        let rows = format!(
            "select count(*), md5(coalesce(string_agg(t, '|' order by t), '')) from (select row({})::text as t from \"{name}\") t",
            list.join(", ")
        );
        let row = client.query_one(&rows, &[]).await.unwrap_or_else(|error| panic!("{rows}: {error:?}"));
        state += &format!("{name}: {} rows, {}\n", row.get::<_, i64>(0), row.get::<_, String>(1));
    }
    state + &schema
}

/// Everything, with times.
pub async fn whole(client: &Client) -> String {
    digest(client, false).await
}

/// What an interrupted command and a repeat must agree on with one that was let alone.
pub async fn lasting(client: &Client) -> String {
    digest(client, true).await
}

/// The lines that are not in both.
pub fn difference(one: &str, other: &str) -> String {
    let only = |of: &str, not: &str, sign: &str| -> String {
        of.lines()
            .filter(|line| !not.lines().any(|known| known == *line))
            .map(|line| format!("    {sign} {line}\n"))
            .collect()
    };
    only(one, other, "-") + &only(other, one, "+")
}
