//! The polling loop that people write: one instance, `SELECT … FOR UPDATE SKIP LOCKED`, send, wait for all
//! acknowledgements, `UPDATE`, commit; a thousand rows at a time, a tenth of a second of rest when there is nothing. It
//! stops on the first error.

use std::time::Duration;

use futures_util::future::try_join_all;
use rdkafka::client::DefaultClientContext;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::util::AsyncRuntime;
use tokio::time::{Sleep, sleep};

use crate::Result;
use crate::servers::{connect, producer};

const CLAIM: &str = include_str!("sql/polling_claim.sql");
const MARK: &str = include_str!("sql/polling_mark.sql");
const ROWS: i64 = 1_000;

/// The timers and tasks of tokio; the feature of rdkafka that brings them would make it another library than the
/// relay's.
struct Tokio;

impl AsyncRuntime for Tokio {
    type Delay = Sleep;

    fn spawn<T: Future<Output = ()> + Send + 'static>(task: T) {
        tokio::spawn(task);
    }

    fn delay_for(duration: Duration) -> Sleep {
        sleep(duration)
    }
}

pub async fn run(topic: &str) -> Result<()> {
    // The loop sends a thousand records and waits: to linger would only make it slower.
    let producer: FutureProducer<DefaultClientContext, Tokio> = producer()?.set("linger.ms", "0").create()?;
    let mut client = connect().await?;
    let (claim, mark) = (client.prepare(CLAIM).await?, client.prepare(MARK).await?);
    loop {
        let transaction = client.transaction().await?;
        let rows = transaction.query(&claim, &[&ROWS]).await?;
        if rows.is_empty() {
            transaction.commit().await?;
            sleep(Duration::from_millis(100)).await;
            continue;
        }
        let mut sent = Vec::with_capacity(rows.len());
        for row in &rows {
            let headers = OwnedHeaders::new()
                .insert(Header { key: "event-id", value: row.get::<_, Option<&str>>(1) })
                .insert(Header { key: "event-type", value: row.get::<_, Option<&str>>("event_type") });
            let mut record = FutureRecord::<str, str>::to(topic).headers(headers);
            record.key = row.get("key");
            record.payload = row.get("payload");
            // The queue holds a hundred times as many, so it is never full.
            sent.push(producer.send_result(record).map_err(|(error, _)| error)?);
        }
        for outcome in try_join_all(sent).await? {
            outcome.map_err(|(error, _)| error)?;
        }
        let ids: Vec<i64> = rows.iter().map(|row| row.get("id")).collect();
        transaction.execute(&mark, &[&ids]).await?;
        transaction.commit().await?;
    }
}
