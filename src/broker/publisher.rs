//! Publishes batches in order and waits for every acknowledgement: one thread and one producer per lane, and one of
//! each for the small batches of all lanes, which are then sent together.
//!
//! Owns ordering on Kafka's side: records go to the client in batch order, from one thread. If one is rejected, nothing
//! later of its key is sent; what has to be resent is resent in order. Invariant: a record is reported as
//! [`Delivery::Refused`] only if the broker named it or it was alone in its request. A broker rejects whole batches,
//! and librdkafka then fails every record in them; see `explore`.

mod jobs;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use rdkafka::ClientConfig;
use tokio::sync::oneshot;

use super::partitions::Partitions;
use super::{Delivery, Record};
use crate::clock::{Permit, monotonic};
use jobs::Job;
use worker::Worker;

/// Time between two checks whether the thread still has to answer.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// After the end of a permit the thread takes less than a second, and closing a client some two.
const STUCK: Duration = Duration::from_secs(10);

/// The handle of one lane or of all lanes. Dropping it ends the thread after its current work.
#[derive(Debug)]
pub struct Publisher {
    jobs: Sender<Job>,
    brokers_up: Arc<AtomicBool>,
    /// Since when it has been sending, in monotonic milliseconds and one more; 0 when it has nothing to send.
    sending_since: Arc<AtomicU64>,
}

/// What a publisher needs to know.
#[derive(Debug, Clone)]
pub struct PublisherSettings {
    /// From [`client_config::producer`](super::client_config::producer).
    pub client: ClientConfig,
    /// Time without any acknowledgement after which the producer is replaced.
    pub publish_timeout: Duration,
    /// Where findings about partitions are kept.
    pub partitions: Partitions,
    /// Of the thread.
    pub name: String,
}

impl PublisherSettings {
    /// The same for one publisher of several: its thread is called `name`, its client `client_id`.
    #[must_use]
    pub fn of(&self, name: String, client_id: String) -> Self {
        let mut settings = Self { name, ..self.clone() };
        settings.client.set("client.id", client_id);
        settings
    }
}

impl Publisher {
    /// Starts the thread, which connects in the background.
    pub fn start(settings: PublisherSettings) -> std::io::Result<Self> {
        let (jobs, inbox) = channel();
        let brokers_up = Arc::new(AtomicBool::new(true));
        let sending_since = Arc::new(AtomicU64::new(0));
        let worker = Worker {
            settings,
            producer: None,
            finder: None,
            brokers_up: Arc::clone(&brokers_up),
            sending_since: Arc::clone(&sending_since),
        };
        std::thread::Builder::new().name(worker.settings.name.clone()).spawn(move || worker.run(&inbox))?;
        Ok(Self { jobs, brokers_up, sending_since })
    }

    /// Publishes a batch and returns the result of each record, in batch order. Waits as long as Kafka is away and the
    /// permit holds; after that, unacknowledged records are [`Delivery::Unsent`]. Batches that arrive while another one
    /// is being sent are sent together, and the end of one permit then ends all of them: what is not acknowledged may
    /// be resent.
    ///
    /// `company`: number of batches about to arrive, including this one; they are awaited for a moment. Two batches
    /// with the same key must not be in flight at the same time.
    ///
    /// Not cancel safe: a dropped future leaves the batch being sent. End the permit instead.
    pub async fn publish(&self, records: Arc<Vec<Record>>, permit: Permit, company: usize) -> Vec<Delivery> {
        let count = records.len();
        let (answer, _) = self.hand_in(records, permit.clone(), company);
        answered(answer, &permit, count).await
    }

    /// The same, unless the current work keeps this batch waiting for longer than `patience`: then `None`, and nothing
    /// of it was sent.
    pub async fn publish_within(
        &self,
        patience: Duration,
        records: Arc<Vec<Record>>,
        permit: Permit,
        company: usize,
    ) -> Option<Vec<Delivery>> {
        let count = records.len();
        let (mut answer, decided) = self.hand_in(records, permit.clone(), company);
        match tokio::time::timeout(patience, &mut answer).await {
            Ok(answered) => Some(answered.unwrap_or_else(|_| vec![Delivery::Unsent; count])),
            Err(_) if !decided.swap(true, Ordering::AcqRel) => None,
            Err(_) => Some(answered(answer, &permit, count).await),
        }
    }

    /// Each lane waits for its answer, so there are never more jobs than there are lanes.
    fn hand_in(
        &self,
        records: Arc<Vec<Record>>,
        permit: Permit,
        company: usize,
    ) -> (oneshot::Receiver<Vec<Delivery>>, Arc<AtomicBool>) {
        let (reply, answer) = oneshot::channel();
        let decided = Arc::new(AtomicBool::new(false));
        let job = Job { records, permit, decided: Arc::clone(&decided), company, reply };
        // The thread lives as long as this handle, unless it has panicked. Then the sender panics as well: the relay is
        // restarted with another producer, and whatever was in flight is resent, as after a crash.
        assert!(self.jobs.send(job).is_ok(), "the thread of the Kafka producer panicked");
        (answer, decided)
    }

    /// How long it has been sending its current batch.
    pub fn busy(&self) -> Duration {
        match self.sending_since.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => (monotonic() + Duration::from_millis(1)).saturating_sub(Duration::from_millis(since)),
        }
    }

    /// False while no broker can be reached.
    pub fn brokers_up(&self) -> bool {
        self.brokers_up.load(Ordering::Relaxed)
    }
}

/// Waits for the thread to answer, which it does soon after the end of the permit, unless a client call does not
/// return. Then the lane is told that nothing was sent; the thread sends nothing more on its own, because the permit
/// stays ended.
async fn answered(mut answer: oneshot::Receiver<Vec<Delivery>>, permit: &Permit, count: usize) -> Vec<Delivery> {
    let mut ended: Option<Duration> = None;
    loop {
        match tokio::time::timeout(WATCH_EVERY, &mut answer).await {
            Ok(answered) => return answered.unwrap_or_else(|_| vec![Delivery::Unsent; count]),
            Err(_) if permit.holds() => ended = None,
            Err(_) => {
                let since = *ended.get_or_insert_with(monotonic);
                if monotonic().saturating_sub(since) > STUCK {
                    tracing::error!("a Kafka client call does not return; abandoning its thread");
                    return vec![Delivery::Unsent; count];
                }
            }
        }
    }
}

#[cfg(test)]
mod repeats;

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;

    use super::super::client_config;
    use super::*;
    use crate::broker::Headers;
    use crate::config::KafkaConfig;

    fn records(topic: &str) -> Arc<Vec<Record>> {
        let record = Record {
            topic: topic.to_owned(),
            key: Some("k".to_owned()),
            value: Some(b"{}".to_vec()),
            headers: Headers::default(),
            timestamp_ms: 0,
        };
        Arc::new(vec![record])
    }

    fn permit() -> Permit {
        Permit::new(monotonic() + Duration::from_secs(600))
    }

    fn is_acked(deliveries: &[Delivery]) -> bool {
        matches!(deliveries, [Delivery::Acked { .. }])
    }

    /// One topic of two has no leader: whose batch is for the other one goes on, whether it was sent with that batch or
    /// comes later.
    #[tokio::test]
    async fn a_partition_without_a_leader_is_waited_for_by_those_alone_who_have_something_for_it() {
        let cluster = MockCluster::new(1).expect("a cluster in this process");
        cluster.create_topic("offline", 1, 1).expect("a topic");
        cluster.create_topic("online", 1, 1).expect("a topic");
        cluster.partition_leader("offline", 0, None).expect("no leader");
        let settings = KafkaConfig { bootstrap_servers: cluster.bootstrap_servers(), ..KafkaConfig::default() };
        let publisher = Publisher::start(PublisherSettings {
            client: client_config::producer(&settings, "test", 1_000_000),
            publish_timeout: Duration::from_secs(600),
            partitions: Partitions::default(),
            name: "test".to_owned(),
        })
        .expect("a thread");
        let limit = Duration::from_secs(60);

        let mut stuck = Box::pin(publisher.publish(records("offline"), permit(), 2));
        let with_it = publisher.publish(records("online"), permit(), 2);
        let deliveries = tokio::select! {
            deliveries = tokio::time::timeout(limit, with_it) => deliveries.expect("it is answered"),
            early = &mut stuck => panic!("there is no leader: {early:?}"),
        };
        assert!(is_acked(&deliveries), "{deliveries:?}");

        let patience = Duration::from_millis(20);
        let later = publisher.publish_within(patience, records("online"), permit(), 1).await;
        assert_eq!(later, None, "it is behind the one that is stuck");
        assert!(publisher.busy() >= patience);

        cluster.partition_leader("offline", 0, Some(1)).expect("a leader");
        let deliveries = tokio::time::timeout(limit, stuck).await.expect("it is answered");
        assert!(is_acked(&deliveries), "{deliveries:?}");
        // What was taken back is not sent.
        let last = tokio::time::timeout(limit, publisher.publish(records("online"), permit(), 1)).await;
        let last = last.expect("it is answered");
        assert!(matches!(last[..], [Delivery::Acked { offset: 1, .. }]), "{last:?}");
    }
}
