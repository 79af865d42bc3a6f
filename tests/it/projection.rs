//! The consumer as a library, in the process of the test: its transactions on PostgreSQL (`store`), and the whole of it
//! between Kafka and PostgreSQL (`kafka`). What the binary does is in `consumer.rs`.

mod blame;
mod kafka;
mod locks;
mod odd;
mod rate;
mod signals;
mod store;

use outbox_relay::config::{DatabaseConfig, ProjectionConfig};
use outbox_relay::db::Database;
use outbox_relay::metrics::Metrics;
use outbox_relay::projection::Projection;
use outbox_relay::projection::record::Record;
use outbox_relay::secret::Secret;
use tokio_postgres::Client;
use uuid::Uuid;

use crate::support::TestDatabase;

const TOPIC: &str = "catalog-events";

fn database(test: &TestDatabase) -> Database {
    let settings = DatabaseConfig { url: Secret::new(&test.url), ..DatabaseConfig::default() };
    Database::new(&settings).expect("a valid URL")
}

/// A record as the relay writes it.
fn record(offset: i64, id: Uuid, event_type: &str, value: &str) -> Record {
    let text = |text: &str| Some(text.as_bytes().to_vec());
    let headers = vec![
        (b"outbox-event-id".to_vec(), text(&id.to_string())),
        (b"ce_type".to_vec(), text(event_type)),
        (b"ce_time".to_vec(), text("2031-05-04T09:12:44Z")),
    ];
    Record::new(TOPIC, 0, offset, Some(1_900_000_000_000), headers, text("key"), text(value))
}

/// Likes of product 1, one per offset, each an event of its own.
fn likes(offsets: std::ops::Range<i64>) -> Vec<Record> {
    offsets.map(|offset| record(offset, Uuid::new_v4(), "LikeAddedEvent", r#"{"productId": 1}"#)).collect()
}

/// A projection from SQL text.
fn projection(name: &str, event_types: &[&str], sql: &str) -> Projection {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), sql).expect("write");
    let event_types = event_types.iter().map(|name| (*name).to_owned()).collect();
    let settings =
        ProjectionConfig { name: name.to_owned(), event_types, sql: file.path().to_owned(), ..Default::default() };
    Projection::load(&settings).expect("the file is there")
}

/// product_metrics as text, one product per line.
async fn product_metrics(client: &Client) -> Vec<String> {
    let sql = "select concat_ws(' ', product_id, like_count, view_count, sales_count, trim_scale(total_sales_amount)) \
               from product_metrics order by product_id";
    client.query(sql, &[]).await.expect("product_metrics").iter().map(|row| row.get(0)).collect()
}

async fn number(client: &Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
}

async fn next_offset(client: &Client) -> i64 {
    number(client, "select coalesce(sum(next_offset), 0)::bigint from consumer_partitions").await
}
