//! Work outside the lanes that any instance may do for all: due dead letters, scheduled retries of failed events, and
//! recording the progress of the shards.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::shared::Lanes;
use crate::clock::monotonic;
use crate::config::ReprocessConfig;
use crate::db::Pool;
use crate::outbox::{dead_letters::write as dead_letters, retry_discard, watermark};

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How exactly it is known when events were published that are not marked.
const NOTE_EVERY: Duration = Duration::from_mins(1);

/// Until `stop`. While PostgreSQL is away nothing happens; the lanes report the outage.
pub(super) async fn run(lanes: Arc<Lanes>, pool: Pool, reprocess: ReprocessConfig, stop: CancellationToken) {
    let mut letters = dead_letters::Writer::new(pool.clone());
    let mut tried = monotonic();
    let mut noted: Option<Duration> = None;
    while !stop.is_cancelled() {
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        write_dead_letters(&lanes, &mut letters).await;
        if noted.is_none_or(|at| monotonic().saturating_sub(at) >= NOTE_EVERY) {
            match watermark::note_progress(&pool).await {
                Ok(()) => noted = Some(monotonic()),
                Err(error) => tracing::warn!(error = %error.chain(), "could not record the progress of the shards"),
            }
        }
        if reprocess.enabled && monotonic().saturating_sub(tried) >= reprocess.interval {
            tried = monotonic();
            match retry_discard::reprocess(&pool, reprocess.older_than, reprocess.max_events.get()).await {
                Ok(acted) => {
                    if acted.changed > 0 {
                        tracing::info!(events = acted.changed, "retrying failed events");
                    }
                    if let Some(first) = acted.refused.first() {
                        tracing::warn!(
                            events = acted.refused.len(),
                            first = first.item,
                            reason = first.reason(),
                            "the table rejects changes to failed events; they stay FAILED"
                        );
                    }
                }
                Err(error) => tracing::warn!(error = %error.chain(), "could not retry failed events"),
            }
        }
    }
}

async fn write_dead_letters(lanes: &Lanes, letters: &mut dead_letters::Writer) {
    loop {
        match letters.write().await {
            Ok(written) => {
                if let Some(first) = written.refused.first() {
                    tracing::warn!(
                        events = written.refused.len(),
                        first = first.item,
                        reason = first.reason(),
                        "the table rejects dead letters; the events stay FAILED, and writing their dead letters will be retried"
                    );
                }
                if written.letters == 0 {
                    return;
                }
                lanes.metrics.dead_letters.inc_by(written.letters);
                tracing::warn!(events = written.letters, "gave up events and wrote their dead letters to the outbox");
            }
            Err(error) => {
                tracing::warn!(error = %error.chain(), "could not write dead letters");
                return;
            }
        }
    }
}
