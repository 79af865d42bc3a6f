//! The consumer as a library, in the process of the test: its transactions on PostgreSQL (`store`), and the whole of it
//! between Kafka and PostgreSQL (`kafka`). What the binary does is in `consumer.rs`.

mod blame;
mod compacted;
mod doubt;
pub mod kafka;
mod locks;
mod mended;
mod odd;
mod rate;
mod signals;
mod store;

use outbox_relay::config::{DatabaseConfig, ProjectionConfig};
use outbox_relay::db::Database;
use outbox_relay::metrics::Metrics;
use outbox_relay::projection::Projection;
use outbox_relay::projection::fold::{End, Folded, fold_batch};
use outbox_relay::projection::record::{Place, Record};
use outbox_relay::projection::store::{Counts, Store};
use outbox_relay::secret::Secret;
use tokio_postgres::Client;
use uuid::Uuid;

use crate::support::TestDatabase;

pub const TOPIC: &str = "catalog-events";

fn database(test: &TestDatabase) -> Database {
    let settings = DatabaseConfig { url: Secret::new(&test.url), ..DatabaseConfig::default() };
    Database::new(&settings).expect("a valid URL")
}

/// A store for one group on a database of its own.
pub struct StoreBench {
    pub database: Database,
    pub client: Client,
    pub test: TestDatabase,
    pub store: Store,
    pub place: Place,
}

impl StoreBench {
    pub async fn new(name: &str, projections: Vec<Projection>, tables: &str) -> Self {
        let test = TestDatabase::migrated(name).await;
        test.connect().await.batch_execute(tables).await.expect("the test's own tables");
        Self::with(test, projections).await
    }

    /// With the built-in projection, on a database that is there.
    pub async fn at(test: TestDatabase) -> Self {
        Self::with(test, vec![Projection::product_metrics()]).await
    }

    async fn with(test: TestDatabase, projections: Vec<Projection>) -> Self {
        let (client, database) = (test.connect().await, database(&test));
        let store = Store::new(&database, "metrics".to_owned(), projections, Metrics::new());
        let place = Place { topic: TOPIC.to_owned(), partition: 0 };
        Self { database, client, test, store, place }
    }

    pub async fn product_metrics(name: &str) -> Self {
        Self::new(name, vec![Projection::product_metrics()], "").await
    }

    /// Takes the partition; returns the epoch.
    pub async fn take(&self) -> i64 {
        let fences = self.store.take(&[(self.place.clone(), 0)], true).await.expect("take");
        fences[0].epoch
    }

    pub async fn fold(&self, epoch: i64, records: &[Record]) -> Folded {
        fold_batch(&self.store, &self.place, epoch, next_offset(&self.client).await, records).await
    }

    /// Folds with a new epoch, and expects it to go through.
    pub async fn fold_all(&self, records: &[Record]) -> Counts {
        let folded = self.fold(self.take().await, records).await;
        assert!(matches!(folded.end, End::Done), "{folded:?}");
        assert_eq!(folded.next_offset, records.last().map(|record| record.offset + 1));
        folded.counts
    }

    /// Offset and reason of what is parked.
    pub async fn parked(&self) -> Vec<(i64, String)> {
        let sql = "select \"offset\", error from consumer_parked order by \"offset\"";
        let rows = self.client.query(sql, &[]).await.expect("consumer_parked");
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    }
}

/// A record as the relay writes it.
pub fn record(offset: i64, id: Uuid, event_type: &str, value: &str) -> Record {
    let text = |text: &str| Some(text.as_bytes().to_vec());
    let headers = vec![
        (b"outbox-event-id".to_vec(), text(&id.to_string())),
        (b"ce_type".to_vec(), text(event_type)),
        (b"ce_time".to_vec(), text("2031-05-04T09:12:44Z")),
    ];
    Record::new(TOPIC, 0, offset, Some(1_900_000_000_000), headers, text("key"), text(value))
}

/// Likes of product 1, one per offset, each an event of its own.
pub fn likes(offsets: std::ops::Range<i64>) -> Vec<Record> {
    offsets.map(|offset| record(offset, Uuid::new_v4(), "LikeAddedEvent", r#"{"productId": 1}"#)).collect()
}

/// A projection from SQL text.
pub fn projection(name: &str, event_types: &[&str], sql: &str) -> Projection {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), sql).expect("write");
    let event_types = event_types.iter().map(|name| (*name).to_owned()).collect();
    let settings =
        ProjectionConfig { name: name.to_owned(), event_types, sql: file.path().to_owned(), ..Default::default() };
    Projection::load(&settings).expect("the file is there")
}

/// product_metrics as text, one product per line.
pub async fn product_metrics(client: &Client) -> Vec<String> {
    let sql = "select concat_ws(' ', product_id, like_count, view_count, sales_count, trim_scale(total_sales_amount)) \
               from product_metrics order by product_id";
    client.query(sql, &[]).await.expect("product_metrics").iter().map(|row| row.get(0)).collect()
}

pub async fn number(client: &Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
}

pub async fn next_offset(client: &Client) -> i64 {
    number(client, "select coalesce(sum(next_offset), 0)::bigint from consumer_partitions").await
}
