//! Work beside the lanes that any instance may do for all: dead letters that are due, the scheduled retry of failed events, and the note
//! how far the shards are.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Lanes;
use crate::clock::monotonic;
use crate::config::ReprocessConfig;
use crate::db::Pool;
use crate::outbox::{dead_letters, redo, watermark};

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How exactly it is known when events were published that are not marked.
const NOTE_EVERY: Duration = Duration::from_mins(1);

/// Until `stop`. While PostgreSQL is away nothing happens; the lanes report the outage.
pub(super) async fn run(lanes: Arc<Lanes>, pool: Pool, reprocess: ReprocessConfig, stop: CancellationToken) {
    let mut tried = monotonic();
    let mut noted: Option<Duration> = None;
    while !stop.is_cancelled() {
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        write_dead_letters(&lanes, &pool).await;
        if noted.is_none_or(|at| monotonic().saturating_sub(at) >= NOTE_EVERY) {
            match watermark::note_progress(&pool).await {
                Ok(()) => noted = Some(monotonic()),
                Err(error) => tracing::warn!(error = %error.chain(), "how far the shards are could not be noted"),
            }
        }
        if reprocess.enabled && monotonic().saturating_sub(tried) >= reprocess.interval {
            tried = monotonic();
            match redo::reprocess(&pool, reprocess.older_than, reprocess.max_events.get()).await {
                Ok(0) => {}
                Ok(events) => tracing::info!(events, "failed events are tried again"),
                Err(error) => tracing::warn!(error = %error.chain(), "failed events could not be tried again"),
            }
        }
    }
}

async fn write_dead_letters(lanes: &Lanes, pool: &Pool) {
    loop {
        match dead_letters::write(pool).await {
            Ok(0) => return,
            Ok(written) => {
                lanes.metrics.dead_letters.inc_by(written);
                tracing::warn!(events = written, "events were given up; their dead letters are on the way");
            }
            Err(error) => {
                tracing::warn!(error = %error.chain(), "dead letters could not be written");
                return;
            }
        }
    }
}
