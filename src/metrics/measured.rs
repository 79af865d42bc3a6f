//! A gauge that is not shown while its value is unknown.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::{EncodeGaugeValue, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::{MetricType, TypedMetric};

use crate::clock;

/// A gauge that is not shown while its value is unknown: an old figure, or a zero that nobody has measured, would look
/// like a good one. A value may also have a time after which it is not believed any more. Whoever reads the metrics
/// judges that, so that a thread which is stuck cannot leave its last figure standing.
#[derive(Debug, Clone)]
pub struct Measured<N>(Arc<Mutex<Option<Value<N>>>>);

#[derive(Debug, Clone, Copy)]
struct Value<N> {
    number: N,
    /// Monotonic; `None`: until the next one.
    believed_until: Option<Duration>,
}

impl<N> Default for Measured<N> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<N: Copy> Measured<N> {
    pub fn set(&self, number: N) {
        *self.lock() = Some(Value { number, believed_until: None });
    }

    /// A value that is believed for this long.
    pub fn set_for(&self, lasts: Duration, number: N) {
        *self.lock() = Some(Value { number, believed_until: Some(clock::monotonic().saturating_add(lasts)) });
    }

    /// Until the next value.
    pub fn unknown(&self) {
        *self.lock() = None;
    }

    fn at(&self, now: Duration) -> Option<N> {
        self.lock().filter(|value| value.believed_until.is_none_or(|until| now < until)).map(|value| value.number)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Value<N>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<N: Copy + EncodeGaugeValue> EncodeMetric for Measured<N> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        self.at(clock::monotonic()).map_or(Ok(()), |number| encoder.encode_gauge(&number))
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Gauge
    }

    fn is_empty(&self) -> bool {
        self.at(clock::monotonic()).is_none()
    }
}

impl<N> TypedMetric for Measured<N> {
    const TYPE: MetricType = MetricType::Gauge;
}

#[cfg(test)]
mod tests {
    use super::super::{Metrics, PartitionLabels};
    use super::*;

    #[test]
    fn a_gauge_that_nobody_renews_is_not_shown() {
        let gauge = Measured::<i64>::default();
        gauge.set_for(Duration::from_secs(20), 3);
        let now = clock::monotonic();
        assert_eq!(gauge.at(now), Some(3));
        assert_eq!(gauge.at(now + Duration::from_secs(21)), None);
        let metrics = Metrics::new();
        let labels = PartitionLabels { group: "g".to_owned(), topic: "t".to_owned(), partition: 0 };
        metrics.consumer_lag_records.get_or_create(&labels).set_for(Duration::ZERO, 3);
        assert!(!metrics.encode().contains("consumer_lag_records{"), "{}", metrics.encode());
    }
}
