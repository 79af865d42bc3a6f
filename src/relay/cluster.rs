//! Queries Kafka outside the lanes and for all of them: whether it responds, and about the topics and partitions that
//! they use.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::shared::Lanes;
use crate::broker::partitions::Trouble;
use crate::clock::monotonic;
use crate::metrics::StateLabel;

/// Time between two questions whether it answers.
const PING: Duration = Duration::from_secs(5);
/// The same for all known topics: limits may have been changed.
const REFRESH: Duration = Duration::from_secs(60);
/// While a topic is missing or a partition takes no records, how often that is looked at.
const WATCH: Duration = Duration::from_secs(1);

/// Until `stop`.
pub(super) async fn run(lanes: Arc<Lanes>, stop: CancellationToken) {
    let catalog = &lanes.catalog;
    let (mut refreshed, mut pinged): (Option<Duration>, Option<Duration>) = (None, None);
    let is_due = |at: Option<Duration>, every| at.is_none_or(|at| monotonic().saturating_sub(at) >= every);
    while !stop.is_cancelled() {
        let refresh = is_due(refreshed, REFRESH);
        let mut answer = catalog.learn_wanted().await;
        if refresh && answer.is_ok() {
            answer = catalog.refresh().await.map(|()| true);
        } else if matches!(answer, Ok(false)) && is_due(pinged, PING) {
            answer = catalog.ping().await.map(|()| true);
        }
        let failed = answer.is_err();
        match answer {
            Ok(true) => {
                lanes.health.kafka_works();
                pinged = Some(monotonic());
                refreshed = if refresh { pinged } else { refreshed };
            }
            Ok(false) => {}
            Err(error) => lanes.health.kafka_failed(&error.chain()),
        }
        report(&lanes);
        let rest = if failed || catalog.is_watching() { WATCH } else { PING };
        tokio::select! {
            () = stop.cancelled() => {}
            // After an error it is still wanted.
            () = catalog.asked(), if !failed => {}
            () = tokio::time::sleep(rest) => {}
        }
    }
}

fn report(lanes: &Lanes) {
    let (notes, counts) = lanes.catalog.partitions().report();
    lanes.health.partitions.set(notes);
    for (state, count) in Trouble::STATES.into_iter().zip(counts) {
        lanes.metrics.partitions_unavailable.get_or_create(&StateLabel { state }).set(count);
    }
}
