//! Rows of the outbox, as an application writes them and as an operator sees them.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio_postgres::Client;

use super::{TestDatabase, wait_until};

/// An insert that names only the columns that are set, so that the defaults of the table are at work.
#[derive(Debug, Clone, Default)]
pub struct NewRow {
    columns: Vec<(&'static str, String)>,
}

impl NewRow {
    /// The least that an application writes.
    pub fn new(topic: &str, key: &str, payload: &str) -> Self {
        Self::default()
            .text("aggregate_type", "Order")
            .text("aggregate_id", key)
            .text("event_type", "OrderCreatedEvent")
            .text("topic", topic)
            .text("payload", payload)
    }

    /// Sets a column to a text, or to what PostgreSQL makes of it (`jsonb`, `timestamptz`).
    #[must_use]
    pub fn text(self, column: &'static str, text: &str) -> Self {
        self.sql(column, &format!("'{}'", text.replace('\'', "''")))
    }

    /// Sets a column to an SQL expression.
    #[must_use]
    pub fn sql(mut self, column: &'static str, expression: &str) -> Self {
        self.columns.retain(|(name, _)| *name != column);
        self.columns.push((column, expression.to_owned()));
        self
    }

    /// Leaves a column to its default.
    #[must_use]
    pub fn without(mut self, column: &str) -> Self {
        self.columns.retain(|(name, _)| *name != column);
        self
    }

    /// The statement, as someone would type it into psql.
    pub fn statement(&self) -> String {
        let (names, values): (Vec<_>, Vec<_>) =
            self.columns.iter().map(|(name, value)| (*name, value.as_str())).unzip();
        format!("insert into outbox_events ({}) values ({}) returning id", names.join(", "), values.join(", "))
    }

    /// The same for as many rows; expressions may use `n`, which counts them from 1.
    pub fn statement_of_many(&self, rows: usize) -> String {
        let (names, values): (Vec<_>, Vec<_>) =
            self.columns.iter().map(|(name, value)| (*name, value.as_str())).unzip();
        let (names, values) = (names.join(", "), values.join(", "));
        format!("insert into outbox_events ({names}) select {values} from generate_series(1, {rows}) n returning id")
    }

    /// Inserts in a transaction of its own (or in the one that the client has open) and returns the id.
    pub async fn insert(&self, client: &Client) -> i64 {
        let statement = self.statement();
        let row = client.query_one(&statement, &[]).await;
        row.unwrap_or_else(|error| panic!("{statement}: {error:?}")).get(0)
    }
}

/// Runs one statement as someone at a terminal would: with psql where there is one, and else by the simple protocol
/// that psql uses. Returns the first column of the first row.
pub async fn psql(database: &TestDatabase, statement: &str) -> String {
    let arguments = ["-X", "-q", "-t", "-A", "-v", "ON_ERROR_STOP=1", "-d", &database.url, "-c", statement];
    match tokio::process::Command::new("psql").args(arguments).output().await {
        Ok(output) => {
            assert!(output.status.success(), "{statement}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
        }
        Err(_) => {
            let messages = database.connect().await.simple_query(statement).await.expect("the statement");
            let row = messages.iter().find_map(|message| {
                let tokio_postgres::SimpleQueryMessage::Row(row) = message else { return None };
                row.get(0).map(str::to_owned)
            });
            row.unwrap_or_default()
        }
    }
}

/// What the tests look at in a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub id: i64,
    pub status: String,
    pub retry_count: i32,
    pub last_error: Option<String>,
    pub published_partition: Option<i32>,
    pub published_offset: Option<i64>,
    pub has_published_at: bool,
}

pub async fn row(client: &Client, id: i64) -> Row {
    let found = client
        .query_one(
            "select status, retry_count, last_error, published_partition, published_offset, published_at is not null \
             from outbox_current where id = $1",
            &[&id],
        )
        .await
        .unwrap_or_else(|error| panic!("row {id}: {error:?}"));
    Row {
        id,
        status: found.get(0),
        retry_count: found.get(1),
        last_error: found.get(2),
        published_partition: found.get(3),
        published_offset: found.get(4),
        has_published_at: found.get(5),
    }
}

/// Waits until a row has a status, and returns it.
#[track_caller]
pub fn wait_for_status<'a>(client: &'a Client, id: i64, status: &'a str) -> impl Future<Output = Row> + use<'a> {
    wait_until(&format!("row {id} is {status}"), Duration::from_secs(30), async move || {
        let row = row(client, id).await;
        if row.status == status { Ok(row) } else { Err(format!("{row:?}")) }
    })
}

/// The time of a delayed event comes now. A test that would have to see it wait gives it an hour first.
pub async fn make_due(client: &Client, id: i64) {
    for statement in [
        "update outbox_events set available_at = clock_timestamp() where id = $1",
        "update outbox_held_keys set release_at = clock_timestamp() where first_id = $1",
    ] {
        let changed = client.execute(statement, &[&id]).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
        assert_eq!(changed, 1, "{statement}: event {id}");
    }
}

/// Number of rows per status.
pub async fn counts(client: &Client) -> BTreeMap<String, i64> {
    try_counts(client).await.expect("counts")
}

/// As [`counts`], for servers that a test has stopped.
pub async fn try_counts(client: &Client) -> Result<BTreeMap<String, i64>, tokio_postgres::Error> {
    let rows = client.query("select status, count(*) from outbox_current group by status", &[]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Waits until every row is PUBLISHED, and returns how many there are.
#[track_caller]
pub fn wait_until_published(database: &TestDatabase, limit: Duration) -> impl Future<Output = i64> + use<> {
    let database = database.clone();
    wait_until("every row is PUBLISHED", limit, async move || {
        // A connection per look: the server may be restarting.
        let client = database.try_connect().await.map_err(|error| error.to_string())?;
        let counts = try_counts(&client).await.map_err(|error| error.to_string())?;
        match counts.get("PUBLISHED") {
            Some(published) if counts.len() == 1 => Ok(*published),
            _ => Err(format!("{counts:?}")),
        }
    })
}

/// Inserts `count` rows over `keys` keys, `k0` to `k<keys-1>` in turn, in one transaction.
pub async fn insert_many(client: &Client, topic: &str, keys: i64, count: i64) {
    let inserted = client
        .execute(
            "insert into outbox_events (aggregate_type, aggregate_id, event_type, topic, payload) \
             select 'Order', 'k' || n % $2::bigint, 'OrderCreatedEvent', $1, jsonb_build_object('n', n, 'pad', repeat('x', 200)) \
             from generate_series(0, $3::bigint - 1) as n",
            &[&topic, &keys, &count],
        )
        .await
        .expect("insert");
    assert_eq!(inserted, u64::try_from(count).expect("not negative"));
}

/// The committed ids per key, ascending: one side of the order checker.
pub async fn committed_ids(client: &Client) -> HashMap<String, Vec<i64>> {
    let rows = client
        .query("select coalesce(partition_key, aggregate_id, ''), id from outbox_events order by id", &[])
        .await
        .expect("committed ids");
    let mut ids: HashMap<String, Vec<i64>> = HashMap::new();
    for row in rows {
        ids.entry(row.get(0)).or_default().push(row.get(1));
    }
    ids
}

/// The highest `retry_count` of all rows: an outage must leave it 0.
pub async fn most_attempts(client: &Client) -> i32 {
    let row = client.query_one("select coalesce(max(retry_count), 0) from outbox_events", &[]).await;
    row.expect("most attempts").get(0)
}
