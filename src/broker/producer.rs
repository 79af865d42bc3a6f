//! One librdkafka producer and its delivery reports.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext, PurgeConfig};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaRespErr;

use super::call::CallWatch;
use super::reconnect::LostBrokers;
use super::{Headers, Record, client_config};
use crate::clock::{Permit, monotonic};

/// How long one call of a transaction waits, so that the end of a permit is noticed.
const CALL_TIMEOUT: Duration = Duration::from_secs(1);
/// How long it is asked again before the producer is given up. As long as a transaction may take.
const CALLS_TIMEOUT: Duration = Duration::from_secs(30);

/// The answer for one record, by its index in the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) index: usize,
    /// Reports of one request have the same number.
    pub(super) request: u64,
    /// Where the record went, or would have gone; negative when that was not decided yet.
    pub(super) partition: i32,
    /// Its offset, if it was acknowledged.
    pub(super) outcome: Result<i64, RDKafkaErrorCode>,
}

/// A partition that could not become part of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rejection {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) code: RDKafkaErrorCode,
}

impl Rejection {
    /// From a line of the client's log, which is the only place where librdkafka says which partition it was: its error
    /// names none.
    fn read(facility: &str, line: &str) -> Option<Self> {
        if facility != "ADDPARTS" {
            return None;
        }
        let (_, rest) = line.split_once("Failed to add partition \"")?;
        let (topic, rest) = rest.split_once("\" [")?;
        let (partition, text) = rest.split_once("] to transaction: ")?;
        let known = (-200..=1_000).filter_map(|code| RDKafkaRespErr::try_from(code).ok()).map(RDKafkaErrorCode::from);
        // It prints as a name, with the text of librdkafka in brackets behind it.
        let code = known.into_iter().find(|code| code.to_string().ends_with(&format!("({})", text.trim())));
        Some(Self {
            topic: topic.to_owned(),
            partition: partition.parse().ok()?,
            code: code.unwrap_or(RDKafkaErrorCode::Unknown),
        })
    }
}

/// Gathers delivery reports until the publisher takes them, and tells whether the brokers answer.
struct Context {
    reports: Mutex<Vec<Report>>,
    rejections: Mutex<Vec<Rejection>>,
    /// Of the request whose reports come in.
    request: AtomicU64,
    brokers_up: Arc<AtomicBool>,
    /// No broker of this producer can be reached, and nothing was acknowledged since.
    down: AtomicBool,
    /// Something happened on a connection, and a request may have been sent twice.
    suspicious: AtomicBool,
}

impl Context {
    fn reports(&self) -> MutexGuard<'_, Vec<Report>> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Context {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        if let Some(rejection) = Rejection::read(facility, message) {
            self.rejections.lock().unwrap_or_else(PoisonError::into_inner).push(rejection);
        }
        tracing::debug!(target: "librdkafka", facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if matches!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::AllBrokersDown)) {
            self.brokers_up.store(false, Ordering::Relaxed);
            self.down.store(true, Ordering::Relaxed);
        }
        self.suspicious.store(true, Ordering::Relaxed);
        tracing::debug!(target: "librdkafka", error = %error, reason, "client error");
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, index: usize) {
        let (partition, outcome) = match result {
            Ok(message) => {
                self.brokers_up.store(true, Ordering::Relaxed);
                self.down.store(false, Ordering::Relaxed);
                (message.partition(), Ok(message.offset()))
            }
            Err((error, message)) => {
                (message.partition(), Err(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown)))
            }
        };
        let request = self.request.load(Ordering::Relaxed);
        self.reports().push(Report { index, request, partition, outcome });
    }
}

/// Why a record was not taken.
#[derive(Debug)]
pub(super) enum SendError {
    /// The queue of the client is full: take reports and try again.
    QueueFull,
    Code(RDKafkaErrorCode),
}

/// A producer of its own for one lane, driven by the thread that owns it: reports arrive during [`Producer::poll`]
/// only.
pub(super) struct Producer {
    inner: BaseProducer<Context>,
    unreported: usize,
    watch: Arc<CallWatch>,
    lost: LostBrokers,
}

impl Producer {
    /// Connects in the background. `brokers_up` is set by every acknowledgement and cleared when no broker can be
    /// reached.
    pub(super) fn new(config: &ClientConfig, records_max: usize, brokers_up: Arc<AtomicBool>) -> KafkaResult<Self> {
        let reports = Mutex::new(Vec::with_capacity(records_max));
        let context = Context {
            reports,
            rejections: Mutex::default(),
            request: AtomicU64::new(0),
            brokers_up,
            down: AtomicBool::new(false),
            suspicious: AtomicBool::new(false),
        };
        let inner = BaseProducer::from_config_and_context(&client_config::fresh(config), context)?;
        Ok(Self { inner, unreported: 0, watch: Arc::default(), lost: LostBrokers::new(config.clone()) })
    }

    /// Tells `watch` about calls of transactions from now on.
    pub(super) fn watched_by(mut self, watch: Arc<CallWatch>) -> Self {
        self.watch = watch;
        self
    }

    /// Hands a record over; its report will carry `index`. Without a `partition` the key decides, or the client.
    pub(super) fn send(&mut self, record: &Record, index: usize, partition: Option<i32>) -> Result<(), SendError> {
        let mut base = BaseRecord::<str, [u8], usize>::with_opaque_to(&record.topic, index)
            .timestamp(record.timestamp_ms)
            .headers(owned_headers(&record.headers));
        if let Some(partition) = partition {
            base = base.partition(partition);
        }
        if let Some(key) = &record.key {
            base = base.key(key.as_str());
        }
        if let Some(value) = &record.value {
            base = base.payload(value.as_slice());
        }
        match self.inner.send(base) {
            Ok(()) => {
                self.unreported += 1;
                Ok(())
            }
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => Err(SendError::QueueFull),
            Err((error, _)) => Err(SendError::Code(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown))),
        }
    }

    /// Records handed over whose report has not been taken.
    pub(super) fn unreported(&self) -> usize {
        self.unreported
    }

    /// Takes the reports that are there; if there are none, waits once, for `wait`, and looks again.
    ///
    /// Waiting is a sleep, since `rdkafka` waits in whole milliseconds and spends what is left of the last one
    /// spinning.
    pub(super) fn poll(&mut self, wait: Duration) -> Vec<Report> {
        let mut reports = self.take_reports();
        if reports.is_empty() && !wait.is_zero() {
            std::thread::sleep(wait);
            reports = self.take_reports();
        }
        self.unreported -= reports.len();
        reports
    }

    fn take_reports(&self) -> Vec<Report> {
        let mut known = 0;
        loop {
            // One event of the client per call, with the reports of a whole request in it.
            self.inner.context().request.fetch_add(1, Ordering::Relaxed);
            self.inner.poll(Duration::ZERO);
            let mut reports = self.inner.context().reports();
            if reports.len() == known {
                return std::mem::take(&mut *reports);
            }
            known = reports.len();
        }
    }

    /// Fences every older producer with the same `transactional.id` and ends what they had open: commits where a commit
    /// had begun, aborts otherwise. Waits for `blocked` at most where a transaction cannot be ended now.
    pub(super) fn fence(&self, permit: &Permit, blocked: Duration) -> KafkaResult<()> {
        let started = monotonic();
        self.patiently_while(
            permit,
            |timeout| self.watch.init(&self.inner, timeout),
            |code| code != RDKafkaErrorCode::ConcurrentTransactions || monotonic().saturating_sub(started) < blocked,
        )
    }

    /// Begins a transaction. Errors on connections that were seen before do not count against it.
    pub(super) fn begin(&mut self) -> KafkaResult<()> {
        self.inner.poll(Duration::ZERO);
        self.inner.context().suspicious.store(false, Ordering::Relaxed);
        self.inner.begin_transaction()
    }

    /// Makes committed offsets of a group part of the transaction.
    pub(super) fn send_offsets(
        &self,
        offsets: &TopicPartitionList,
        group: &ConsumerGroupMetadata,
        permit: &Permit,
    ) -> KafkaResult<()> {
        self.patiently(permit, |timeout| self.watch.send_offsets(&self.inner, offsets, group, timeout))
    }

    /// Every record must have been reported before: the client would wait for reports that nobody takes.
    pub(super) fn commit(&self, permit: &Permit) -> KafkaResult<()> {
        self.patiently(permit, |timeout| self.watch.commit(&self.inner, timeout))
    }

    pub(super) fn abort(&self, permit: &Permit) -> KafkaResult<()> {
        self.patiently(permit, |timeout| self.watch.abort(&self.inner, timeout))
    }

    /// Aborts whatever the permit says: it has ended, mostly.
    pub(super) fn abort_at_once(&self, timeout: Duration) -> KafkaResult<()> {
        self.inner.purge(PurgeConfig::default().queue().inflight());
        self.watch.abort(&self.inner, timeout)
    }

    /// Calls of transactions go on in the background when they time out, and the next one takes them up. So each is
    /// asked again as long as the permit holds: a broker that starts again needs longer than a short lease is at its
    /// shortest.
    fn patiently(&self, permit: &Permit, call: impl Fn(Duration) -> KafkaResult<()>) -> KafkaResult<()> {
        self.patiently_while(permit, call, |_| true)
    }

    fn patiently_while(
        &self,
        permit: &Permit,
        call: impl Fn(Duration) -> KafkaResult<()>,
        worth: impl Fn(RDKafkaErrorCode) -> bool,
    ) -> KafkaResult<()> {
        let started = monotonic();
        loop {
            match call(permit.remaining().min(CALL_TIMEOUT)) {
                Err(KafkaError::Transaction(error))
                    if error.is_retriable()
                        && worth(error.code())
                        && permit.holds()
                        && monotonic().saturating_sub(started) < CALLS_TIMEOUT =>
                {
                    self.suspect();
                }
                ended => return ended,
            }
        }
    }

    /// Partitions that could not become part of the transaction, since the last call.
    pub(super) fn rejections(&self) -> Vec<Rejection> {
        self.inner.poll(Duration::ZERO);
        std::mem::take(&mut *self.inner.context().rejections.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether something unusual happened since the transaction began. Then a request of it may still be on its way,
    /// and could end a later transaction of this producer: a new one, with a new epoch, is proof against that.
    pub(super) fn is_suspicious(&self) -> bool {
        self.inner.poll(Duration::ZERO);
        self.inner.context().suspicious.load(Ordering::Relaxed) || self.fatal().is_some()
    }

    pub(super) fn suspect(&self) {
        self.inner.context().suspicious.store(true, Ordering::Relaxed);
    }

    /// No broker can be reached.
    pub(super) fn is_down(&self) -> bool {
        self.inner.context().down.load(Ordering::Relaxed)
    }

    /// Whether there are brokers, and this producer will never find them again. To be asked again and again while
    /// reports are missing.
    pub(super) fn has_lost_its_brokers(&mut self) -> bool {
        let down = self.is_down();
        self.lost.look(down)
    }

    /// The error after which this producer sends nothing any more.
    pub(super) fn fatal(&self) -> Option<(RDKafkaErrorCode, String)> {
        self.inner.client().fatal_error()
    }

    /// Gives up what is queued but not in flight; it will be reported as purged.
    pub(super) fn purge_queue(&self) {
        self.inner.purge(PurgeConfig::default().queue());
    }

    /// Gives up everything and takes its reports, so that none of them comes later and is taken for another one of the
    /// same record.
    pub(super) fn purge_and_wait(&mut self, limit: Duration) -> Vec<Report> {
        const WAIT: Duration = Duration::from_millis(1);
        self.purge_all();
        let (end, mut reports) = (monotonic() + limit, Vec::new());
        while self.unreported > 0 && monotonic() < end {
            reports.extend(self.poll(WAIT));
        }
        reports
    }

    /// Gives up everything. What was in flight may be in the log.
    pub(super) fn purge_all(&self) {
        self.inner.purge(PurgeConfig::default().queue().inflight());
    }
}

fn owned_headers(headers: &Headers) -> OwnedHeaders {
    let mut owned = OwnedHeaders::new_with_capacity(headers.len());
    for (key, value) in headers.iter() {
        owned = owned.insert(Header { key, value: Some(value) });
    }
    owned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_that_was_not_added_is_read_from_the_log_of_the_client() {
        let line = "[thrd:main]: 127.0.0.1:9092/1: Failed to add partition \"orders.v1\" [2] to transaction: \
                    Broker: Topic authorization failed";
        let found = Rejection::read("ADDPARTS", line).expect("a rejection");
        let code = RDKafkaErrorCode::TopicAuthorizationFailed;
        assert_eq!(found, Rejection { topic: "orders.v1".to_owned(), partition: 2, code });
        assert_eq!(Rejection::read("TXNERR", line), None);
        assert_eq!(Rejection::read("ADDPARTS", "[thrd:main]: 127.0.0.1:9092/1: something else"), None);
    }
}
