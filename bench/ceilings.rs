//! Two ceilings: what Kafka takes from one client that has all records in memory, and what PostgreSQL gives and marks
//! when nothing is sent.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::try_join_all;
use rdkafka::client::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Message as _, OwnedMessage};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};
use tokio_postgres::{Client, Statement};

use crate::Result;
use crate::process::LOADED;
use crate::servers::{Reader, connect, producer};

const CLAIM: &str = include_str!("sql/ceiling_claim.sql");
const MARK: &str = include_str!("sql/ceiling_mark.sql");
/// The relay's defaults: rows of a batch, batches in flight, shards.
const ROWS: i64 = 2_000;
const SESSIONS: i16 = 4;
const SHARDS: i16 = 8;
/// Of a larger topic, so much is kept in memory and sent over and over.
const BYTES_MAX: usize = 256_000_000;

/// Counts records that were not acknowledged.
#[derive(Default)]
struct Failures(AtomicU64);

impl ClientContext for Failures {}

impl ProducerContext for Failures {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if result.is_err() {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Sends `rows` records with keys, values and headers of those in `from`.
pub fn produce(from: &str, to: &str, rows: u64) -> Result<()> {
    let (mut records, mut bytes) = (Vec::<OwnedMessage>::new(), 0);
    let mut reader = Reader::new(from)?;
    reader.assign()?;
    while !reader.at_end() && bytes < BYTES_MAX {
        if let Some(message) = reader.next()? {
            bytes += message.payload_len() + message.key_len() + 200;
            records.push(message.detach());
        }
    }
    drop(reader);
    if records.is_empty() {
        return Err(format!("topic {from} is empty").into());
    }
    // In the order in which the broker got them, not one partition after the other.
    records.sort_by_key(|record| (record.timestamp().to_millis(), record.offset()));
    println!("{LOADED}");
    std::io::stdin().read_line(&mut String::new())?;

    let producer: BaseProducer<Failures> = producer()?.create_with_context(Failures::default())?;
    for record in records.iter().cycle().take(usize::try_from(rows)?) {
        let mut next = BaseRecord::<[u8], [u8]>::to(to);
        next.key = record.key();
        next.payload = record.payload();
        next.headers = record.headers().cloned();
        while let Err((error, back)) = producer.send(next) {
            if error != KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) {
                return Err(error.into());
            }
            producer.poll(Duration::from_millis(10));
            next = back;
        }
        producer.poll(Duration::ZERO);
    }
    producer.flush(Duration::from_secs(60))?;
    match producer.context().0.load(Ordering::Relaxed) {
        0 => Ok(()),
        failed => Err(format!("{failed} records were not acknowledged").into()),
    }
}

/// Four sessions with two shards each: claim a batch, mark it, commit, until nothing is left.
pub async fn claim_and_mark() -> Result<()> {
    try_join_all((0..SESSIONS).map(session)).await?;
    // It is measured until somebody ends it.
    std::future::pending().await
}

async fn session(first: i16) -> Result<()> {
    let mut client = connect().await?;
    let statements = (client.prepare(CLAIM).await?, client.prepare(MARK).await?);
    let mut open: Vec<(i16, i64)> = (first..SHARDS).step_by(SESSIONS as usize).map(|shard| (shard, 0)).collect();
    while !open.is_empty() {
        let mut left = Vec::new();
        for (shard, low) in open {
            if let Some(last) = batch(&mut client, &statements, shard, low).await? {
                left.push((shard, last));
            }
        }
        open = left;
    }
    Ok(())
}

/// The last id of the batch; none when nothing was left.
async fn batch(
    client: &mut Client,
    (claim, mark): &(Statement, Statement),
    shard: i16,
    low: i64,
) -> Result<Option<i64>> {
    let transaction = client.transaction().await?;
    let rows = transaction.query(claim, &[&shard, &low, &ROWS]).await?;
    let ids: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
    if !ids.is_empty() {
        transaction.execute(mark, &[&ids]).await?;
    }
    transaction.commit().await?;
    Ok(ids.last().copied())
}
