//! The loop that keeps the scan bound honest: the barrier every second, the sweep every half minute.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Lanes;
use crate::clock::monotonic;
use crate::outbox::barrier::Barrier;

const PROBE_INTERVAL: Duration = Duration::from_secs(1);
const SWEEP_INTERVAL: Duration = Duration::from_secs(30);

pub(super) async fn run(lanes: Arc<Lanes>, mut barrier: Barrier, stop: CancellationToken) {
    let mut swept = monotonic();
    while !stop.is_cancelled() {
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(PROBE_INTERVAL) => {}
        }
        match barrier.probe().await {
            Ok(horizon) => lanes.horizon.store(horizon, Ordering::Release),
            Err(error) => {
                tracing::debug!(error = %error.chain(), "the lock barrier could not be read; the scan bound stays")
            }
        }
        if monotonic().saturating_sub(swept) < SWEEP_INTERVAL {
            continue;
        }
        swept = monotonic();
        match barrier.sweep(&lanes.owned_shards(), lanes.instance).await {
            Ok(found) => {
                for (shard, id) in found {
                    lanes.metrics.sweep_found_below_watermark.inc();
                    tracing::error!(
                        shard,
                        id,
                        "an event waited below the scan bound; it is claimed now. Please report this"
                    );
                }
            }
            Err(error) => tracing::debug!(error = %error.chain(), "the sweep could not run"),
        }
    }
}
