//! I8: `product_metrics` against a recomputation of our own, from the rows of the outbox. Every event counts once,
//! whatever Kafka repeats.

use tokio_postgres::{Client, Error};

/// Every event is handled by the group, none is parked.
const UNHANDLED: &str = "select count(*) from chaos_committed e where status = 'PUBLISHED' and not exists \
     (select from event_handled h where h.consumer_group = $1 and h.event_id = e.event_id)";
const PARKED: &str = "select count(*) from consumer_parked";
const DIFFERENCES: &str = include_str!("fold.sql");

/// How many published events the consumer has not folded yet.
pub async fn unhandled(client: &Client, group: &str) -> Result<i64, Error> {
    Ok(client.query_one(UNHANDLED, &[&group]).await?.get(0))
}

pub async fn complaints(client: &Client) -> Result<Vec<String>, Error> {
    let rows = client.query(DIFFERENCES, &[]).await?;
    let mut complaints: Vec<String> =
        rows.iter().take(8).map(|row| format!("I8: {}", row.get::<_, String>(0))).collect();
    let parked: i64 = client.query_one(PARKED, &[]).await?.get(0);
    if parked > 0 {
        complaints.push(format!("I8: {parked} events are parked, and nothing is wrong with them"));
    }
    Ok(complaints)
}
