//! Every setting: its type, its default, and what it trades off.
//!
//! The doc comments are the reference: `docs/configuration.md`, `config schema` and the file that `init` writes are
//! generated from them. A module receives its own section, never the whole [`Config`](super::Config).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;

use super::macros::{choice, section};
use super::value::Retention;
use crate::secret::Secret;

const fn rows(n: u32) -> NonZeroU32 {
    NonZeroU32::new(n).expect("not zero")
}

section! {
    /// All settings, validated. Modules receive their section by value.
    pub struct Config in "" {
        pub database: DatabaseConfig = DatabaseConfig::default(),
        pub outbox: OutboxConfig = OutboxConfig::default(),
        pub relay: RelayConfig = RelayConfig::default(),
        pub retry: RetryConfig = RetryConfig::default(),
        pub reprocess: ReprocessConfig = ReprocessConfig::default(),
        pub dead_letter: DeadLetterConfig = DeadLetterConfig::default(),
        pub routing: RoutingConfig = RoutingConfig::default(),
        pub headers: HeadersConfig = HeadersConfig::default(),
        pub kafka: KafkaConfig = KafkaConfig::default(),
        pub consumer: ConsumerConfig = ConsumerConfig::default(),
        pub projection: Vec<ProjectionConfig> = Vec::new(),
        pub cleanup: CleanupConfig = CleanupConfig::default(),
        pub admin: AdminConfig = AdminConfig::default(),
        pub telemetry: TelemetryConfig = TelemetryConfig::default(),
        pub run: RunConfig = RunConfig::default(),
    }
}

section! {
    /// The PostgreSQL database that holds the outbox.
    pub struct DatabaseConfig in "database" {
        /// Connection URL, `postgres://user:password@host:port/database`, or `name=value` pairs in libpq's format.
        /// `DATABASE_URL` also sets it. `url_file` names a file that contains the URL; the file is read again when it
        /// changes and when PostgreSQL rejects the password. URL parameters after `?` take effect, or are rejected by
        /// name.
        pub url: Secret = Secret::default(),
        /// `disable`, `prefer` (TLS if the server offers it, certificate not checked), `require` (TLS, certificate not
        /// checked), `verify-ca`, or `verify-full` (chain and host name checked). `auto` means `verify-full`, except
        /// that it means `disable` for Unix sockets and for `localhost` when it resolves to this host. An `sslmode` in
        /// the URL can ask for more than `auto`, never for less. Certificate files are read again for each new
        /// connection.
        pub tls: TlsMode = TlsMode::Auto,
        /// PEM file with the certificate authorities to trust. Unset: the operating system's.
        pub ca_file: Option<PathBuf> = None,
        /// PEM file with the client certificate, for servers that require one. Needs `key_file`.
        pub cert_file: Option<PathBuf> = None,
        /// PEM file with the private key for `cert_file`.
        pub key_file: Option<PathBuf> = None,
        /// Connections for the relay's lanes. With fewer connections than the instance has shards, lanes wait for each
        /// other; more connections than PostgreSQL has cores gain little.
        pub pool_size: NonZeroU16 = NonZeroU16::new(8).expect("not zero"),
        /// Whether `run` applies pending migrations at startup. Turn it off if the relay's role may not change the
        /// schema, and run `migrate up` with a role that may.
        pub auto_migrate: bool = true,
        /// Maximum time to open a connection, per address of each host in the URL, including TLS and authentication.
        pub connect_timeout: Duration = Duration::from_secs(5),
        /// Maximum run time of one statement of the relay or the consumer. PostgreSQL then cancels the statement, and
        /// it is retried. If the server has not responded five seconds after that, the connection is closed. Statements
        /// of lanes end after half of `relay.lease` (at least 5 s) at the latest.
        pub statement_timeout: Duration = Duration::from_secs(30),
    }
}

choice! {
    /// How the connection to PostgreSQL is protected.
    pub enum TlsMode { Auto = "auto", Disable = "disable", Prefer = "prefer", Require = "require", VerifyCa = "verify-ca", VerifyFull = "verify-full" }
}

section! {
    /// The outbox table.
    pub struct OutboxConfig in "outbox" {
        /// Schema that holds the outbox: its tables, functions, views and migration history. Written as PostgreSQL
        /// stores it, without quotes; `migrate up` creates it if the role may. Unset: the first schema on the
        /// connection's `search_path` that contains an outbox, or the first schema on it if none does. Two outboxes in
        /// one database need a schema each. The connection's own `search_path` follows this schema, so the SQL of
        /// projections and triggers still finds its tables.
        pub schema: Option<String> = None,
        /// Number of shards that keys are spread over. `migrate up` applies it while the table is still empty; after
        /// that, use `outbox-relay shards set`. One lane works per shard, so this is the maximum number of instances
        /// that can share the work. At most 32767.
        pub shards: NonZeroU16 = NonZeroU16::new(8).expect("not zero"),
        /// Ids per partition, if `migrate up --partitioned` created the table. A partition is dropped as a whole:
        /// smaller partitions can be dropped sooner, but every partition adds a little cost to every statement. At
        /// least 1000.
        pub partition_rows: NonZeroU32 = rows(5_000_000),
    }
}

section! {
    /// The relay: from `outbox_events` to Kafka.
    pub struct RelayConfig in "relay" {
        /// Whether `run` relays at all. Turn it off for an instance that only consumes.
        pub enabled: bool = true,
        /// What a crash may repeat. `at-least-once`: at most one batch per shard, contiguous and in the same order.
        /// `exactly-once`: nothing, for consumers that read with `isolation.level = read_committed`.
        pub delivery: Delivery = Delivery::AtLeastOnce,
        /// `key`: events of a key are published in id order, among the rows that are visible. `strict`: the relay also
        /// waits for every open transaction that might still commit a lower id; a long transaction delays all events
        /// behind it.
        pub ordering: Ordering = Ordering::Key,
        /// What happens to the row of a published event. `mark`: it becomes PUBLISHED and records its position in
        /// Kafka; `[cleanup]` deletes it later, and until then it can be replayed and traced. `delete`: it is deleted
        /// at once, which is cheaper for PostgreSQL.
        pub after_publish: AfterPublish = AfterPublish::Mark,
        /// How published events are told apart from pending ones. `rows`: by the status of each row. `watermark`: by
        /// one id per shard up to which everything is published, so publishing an event does not update its row, which
        /// is much cheaper for PostgreSQL. The view `outbox_current` then shows the status of each row, positions in
        /// Kafka are not kept, and a row must never be inserted with an id that was not drawn from the table's
        /// sequence. Can be changed at any time, one instance after the other. Cannot be combined with `after_publish =
        /// "delete"`.
        pub tracking: Tracking = Tracking::Rows,
        /// Maximum number of rows in one batch of a shard. More rows per PostgreSQL commit and per Kafka request raise
        /// throughput; the number also bounds memory and what a crash may repeat. At most 100000.
        pub batch_rows: NonZeroU32 = rows(1_000),
        /// Maximum number of batches that an instance has in flight. Bounds memory: this many times `batch_bytes`,
        /// times five to seven. The batches that lanes with little work claim together count as one more.
        pub parallel_batches: NonZeroU16 = NonZeroU16::new(4).expect("not zero"),
        /// Maximum payload bytes in one batch of a shard; keeps memory bounded whatever the rows contain. Must not be
        /// less than `max_record_bytes`, so that any single row fits.
        pub batch_bytes: ByteSize = ByteSize::mib(2),
        /// Largest record (key, value and headers, uncompressed). A larger event fails and is never loaded. The topic's
        /// own `max.message.bytes` applies as well.
        pub max_record_bytes: ByteSize = ByteSize::b(1_000_000),
        /// Delay before looking for new rows again when the last look found some.
        pub poll_min: Duration = Duration::from_millis(5),
        /// Maximum delay between two looks while the outbox is idle: the latency of the first event after a quiet
        /// period.
        pub poll_max: Duration = Duration::from_millis(250),
        /// How long an instance owns its shards without renewing the lease. A shorter lease means faster takeover after
        /// a crash, but less tolerance of a stalled host. At least 3s.
        pub lease: Duration = Duration::from_secs(15),
        /// Time without any acknowledgement after which the producer is discarded and the rest of the batch is sent
        /// with a new one. Kafka's own retries come first: this is for a client that is stuck.
        pub publish_timeout: Duration = Duration::from_secs(120),
        /// How long to wait for a missing topic before its events fail.
        pub unknown_topic_grace: Duration = Duration::from_secs(30),
    }
}

choice! {
    /// Delivery guarantee of the relay.
    pub enum Delivery { AtLeastOnce = "at-least-once", ExactlyOnce = "exactly-once" }
}

choice! {
    /// Which order is promised.
    pub enum Ordering { Key = "key", Strict = "strict" }
}

choice! {
    /// How published events are told apart from pending ones.
    pub enum Tracking { Rows = "rows", Watermark = "watermark" }
}

choice! {
    /// What happens to the row of a published event.
    pub enum AfterPublish { Mark = "mark", Delete = "delete" }
}

section! {
    /// What happens to an event that Kafka or the relay's own checks reject. An outage is not a rejection and uses up
    /// no attempt.
    pub struct RetryConfig in "retry" {
        /// Number of attempts per event, including the first. Errors that a retry cannot fix (see `docs/errors.md`) use
        /// them all up at once.
        pub max_attempts: NonZeroU32 = rows(3),
        /// Delay before the second attempt. The key of the event waits with it; all other keys continue.
        pub initial_backoff: Duration = Duration::from_secs(1),
        /// Factor by which each delay is longer than the one before. At least 1.
        pub multiplier: f64 = 2.0,
        /// Maximum delay between two attempts.
        pub max_backoff: Duration = Duration::from_secs(30),
        /// Fraction of each delay that is random (0 to 1); spreads out retries that failed together.
        pub jitter: f64 = 0.2,
        /// What happens when no attempt is left and the event becomes FAILED. `hold`: its key waits until an operator
        /// decides, so order is kept. `dead-letter`: the event is copied to the dead-letter topic, and its key
        /// continues. `skip`: its key continues.
        pub on_exhausted: OnExhausted = OnExhausted::Hold,
        /// Exceptions, first match wins: `[[retry.rule]]`.
        pub rule: Vec<RetryRule> = Vec::new(),
    }
}

choice! {
    /// What happens to an event that has no attempts left.
    pub enum OnExhausted { Hold = "hold", DeadLetter = "dead-letter", Skip = "skip" }
}

section! {
    /// An exception to `[retry]`. Unset conditions match everything; unset values are those of `[retry]`.
    pub struct RetryRule in "retry.rule" {
        /// Topic, exact or with `*` as a wildcard.
        pub topic: Option<String> = None,
        /// Event type, exact or with `*` as a wildcard.
        pub event_type: Option<String> = None,
        /// Error class, as listed in `docs/errors.md`. A rule that names a class makes errors of that class retryable.
        pub error_class: Option<String> = None,
        /// As in `[retry]`.
        pub max_attempts: Option<NonZeroU32> = None,
        /// As in `[retry]`.
        pub initial_backoff: Option<Duration> = None,
        /// As in `[retry]`.
        pub max_backoff: Option<Duration> = None,
        /// As in `[retry]`.
        pub on_exhausted: Option<OnExhausted> = None,
    }
}

section! {
    /// Automatic retries of FAILED events.
    pub struct ReprocessConfig in "reprocess" {
        /// Whether FAILED events are retried automatically.
        pub enabled: bool = false,
        /// Time between two rounds.
        pub interval: Duration = Duration::from_secs(60),
        /// Only events that failed at least this long ago.
        pub older_than: Duration = Duration::from_secs(300),
        /// Maximum number of events per round.
        pub max_events: NonZeroU32 = rows(1_000),
    }
}

section! {
    /// Where dead letters go.
    pub struct DeadLetterConfig in "dead_letter" {
        /// Name of the dead-letter topic. `{topic}` stands for the topic of the event.
        pub topic: String = "{topic}-dlq".to_owned(),
    }
}

section! {
    /// How an event's topic is chosen.
    pub struct RoutingConfig in "routing" {
        /// Topics that rows may name: exact names, or with `*` as a wildcard. Empty: any topic. A row that names
        /// another topic fails.
        pub allowed_topics: Vec<String> = Vec::new(),
        /// Rules for rows without a topic, first match wins: `[[routing.rule]]`.
        pub rule: Vec<RoutingRule> = Vec::new(),
    }
}

section! {
    /// A rule for rows that name no topic.
    pub struct RoutingRule in "routing.rule" {
        /// Regular expression that must match the whole `aggregate_type`. Unset: any.
        pub aggregate_type: Option<String> = None,
        /// Regular expression that must match the whole `event_type`. Unset: any.
        pub event_type: Option<String> = None,
        /// The topic. `$1` and `${name}` insert capture groups (of the `aggregate_type` expression if both are given);
        /// `{aggregate_type}` and `{event_type}` insert the row's own values.
        pub topic: String = String::new(),
    }
}

section! {
    /// Headers of the Kafka records.
    pub struct HeadersConfig in "headers" {
        /// `cloudevents` (binary mode, `ce_*`), or `plain` (only `outbox-*`, the row's own headers and the trace
        /// headers).
        pub profile: HeaderProfile = HeaderProfile::CloudEvents,
        /// `ce_source` for rows without a source. Unset: `/` followed by the deployment name.
        pub source: Option<String> = None,
    }
}

choice! {
    /// Which standard headers a record carries.
    pub enum HeaderProfile { CloudEvents = "cloudevents", Plain = "plain" }
}

section! {
    /// The connection to Kafka.
    pub struct KafkaConfig in "kafka" {
        /// Bootstrap brokers, `host:port,host:port`. `KAFKA_BOOTSTRAP_SERVERS` also sets it.
        pub bootstrap_servers: String = String::new(),
        /// `plaintext`, `ssl`, `sasl_plaintext` or `sasl_ssl`.
        pub security_protocol: SecurityProtocol = SecurityProtocol::Plaintext,
        /// SASL mechanism: `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`, which need a user name and a password; `GSSAPI`
        /// in builds with that feature, configured through `properties`.
        pub sasl_mechanism: Option<String> = None,
        /// SASL user name.
        pub sasl_username: Option<String> = None,
        /// SASL password. `sasl_password_file` names a file that contains it; the file is read again for each new
        /// client.
        pub sasl_password: Secret = Secret::default(),
        /// PEM file with the certificate authorities to trust. Unset: the operating system's.
        pub ca_file: Option<PathBuf> = None,
        /// PEM file with the client certificate.
        pub cert_file: Option<PathBuf> = None,
        /// PEM file with the private key for `cert_file`.
        pub key_file: Option<PathBuf> = None,
        /// Passphrase of `key_file`. `key_password_file` names a file that contains it.
        pub key_password: Secret = Secret::default(),
        /// Any librdkafka setting. Settings that would break a promise or have no effect are rejected, with the reason.
        pub properties: BTreeMap<String, String> = BTreeMap::new(),
    }
}

choice! {
    /// How the connection to Kafka is protected.
    pub enum SecurityProtocol { Plaintext = "plaintext", Ssl = "ssl", SaslPlaintext = "sasl_plaintext", SaslSsl = "sasl_ssl" }
}

section! {
    /// The companion consumer: from Kafka to projections.
    pub struct ConsumerConfig in "consumer" {
        /// Whether `run` consumes.
        pub enabled: bool = true,
        /// Consumer group: its name in Kafka, in `event_handled` and in `consumer_partitions`.
        pub group: String = "outbox-relay".to_owned(),
        /// What a group does with a topic that it has no positions for, while other groups in this database do. `ask`:
        /// it stops until an operator decides with `outbox-relay consumer positions`, because a renamed group would
        /// fold everything a second time. `anew`: it reads the topic from the beginning.
        pub start: ConsumerStart = ConsumerStart::Ask,
        /// Topics to read.
        pub topics: Vec<String> = vec!["catalog-events".to_owned(), "order-events".to_owned()],
        /// Maximum number of records that one PostgreSQL transaction folds.
        pub batch_records: NonZeroU32 = rows(2_000),
        /// How long to collect records before folding what has arrived: latency against transactions per second.
        pub batch_wait: Duration = Duration::from_millis(20),
        /// What to do with an event whose type no projection handles. `skip`: count it and continue.
        pub unknown_event: UnknownEvent = UnknownEvent::Skip,
    }
}

choice! {
    /// What a consumer group does with topics that only other groups have read.
    pub enum ConsumerStart { Ask = "ask", Anew = "anew" }
}

impl ConsumerStart {
    /// Whether the group waits for a decision.
    pub fn asks(self) -> bool {
        match self {
            Self::Ask => true,
            Self::Anew => false,
        }
    }
}

choice! {
    /// What the consumer does with an event type that no projection handles.
    pub enum UnknownEvent { Skip = "skip" }
}

section! {
    /// A projection: a SQL file that folds new events into a table. `[[projection]]`; if there is none, the built-in
    /// `product_metrics` runs.
    pub struct ProjectionConfig in "projection" {
        /// Name for logs and metrics.
        pub name: String = String::new(),
        /// Topics whose events it receives. Empty: all topics of the consumer.
        pub topics: Vec<String> = Vec::new(),
        /// Event types it handles. Empty: all.
        pub event_types: Vec<String> = Vec::new(),
        /// SQL file, relative to the settings file. It reads events from the relation `new_events`.
        pub sql: PathBuf = PathBuf::new(),
    }
}

section! {
    /// Deletes old, finished rows. Runs in the relay part of `run`, on one instance at a time.
    pub struct CleanupConfig in "cleanup" {
        /// Whether `run` deletes anything.
        pub enabled: bool = true,
        /// Time between two passes. A pass that finds nothing takes milliseconds. Passes a minute apart have little to
        /// do each, whereas a daily pass would delete for an hour.
        pub interval: Duration = Duration::from_secs(60),
        /// Age at which PUBLISHED rows are deleted, counted from publication; also for DISCARDED rows, counted from the
        /// failure. `never` keeps them. Deleted events cannot be replayed.
        pub published_older_than: Retention = Retention::After(Duration::from_secs(7 * 86_400)),
        /// Age at which FAILED rows are deleted, counted from the failure. `never` keeps them. A row that holds its key
        /// is always kept: the rows behind it wait until an operator decides.
        pub failed_older_than: Retention = Retention::After(Duration::from_secs(30 * 86_400)),
        /// Age at which entries of `event_handled` are deleted. `never` keeps them. An event that is delivered again
        /// after that is counted twice by projections, so this must not be shorter than `published_older_than` or the
        /// retention of the topics.
        pub handled_older_than: Retention = Retention::After(Duration::from_secs(30 * 86_400)),
        /// Age at which entries of `outbox_jobs` are deleted, counted from the end of the job. `never` keeps them. A
        /// job that has not ended is always kept; `jobs cancel` ends it.
        pub jobs_older_than: Retention = Retention::After(Duration::from_secs(30 * 86_400)),
        /// Maximum number of rows that one transaction examines. Each transaction is followed by a pause of the same
        /// length. At most 100000.
        pub batch_rows: NonZeroU32 = rows(1_000),
        /// Deleting pauses while a streaming replica has more than this left to replay. A deliberately delayed replica
        /// (`recovery_min_apply_delay`) needs a large value.
        pub max_replica_lag: ByteSize = ByteSize::mib(64),
    }
}

section! {
    /// The HTTP server for health and metrics.
    pub struct AdminConfig in "admin" {
        /// Whether `run` serves `/livez`, `/readyz` and `/metrics`.
        pub enabled: bool = true,
        /// Address and port. Port 0 picks a free port and logs it.
        pub listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 8080)),
    }
}

section! {
    /// Logs.
    pub struct TelemetryConfig in "telemetry" {
        /// `auto` (text on a terminal, JSON otherwise), `text` or `json`.
        pub log_format: LogFormat = LogFormat::Auto,
        /// Level, or levels per module, for example `info,outbox_relay::relay=debug`.
        pub log_filter: String = "info".to_owned(),
    }
}

choice! {
    /// Format of log lines.
    pub enum LogFormat { Auto = "auto", Text = "text", Json = "json" }
}

section! {
    /// This process.
    pub struct RunConfig in "run" {
        /// Name of the deployment. All instances that share an outbox use the same name.
        pub deployment: String = "outbox-relay".to_owned(),
        /// Name of this instance in logs, metrics and `outbox_instances`. Unset: host name and process id.
        pub instance: Option<String> = None,
        /// Maximum time to drain after SIGTERM. Events not acknowledged by then stay PENDING. The process ends within
        /// this time, whatever hangs.
        pub shutdown_timeout: Duration = Duration::from_secs(10),
    }
}
