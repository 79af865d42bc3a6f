//! Every setting there is: its type, its default with the reason, and what it trades.
//!
//! The doc comments are the reference: `docs/configuration.md`, `config schema` and the file that `init` writes are
//! made from them. A module receives its own section, never the whole [`Config`](super::Config).

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
    /// All settings, checked. Modules receive their section by value.
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
        /// Connection URL, `postgres://user:password@host:port/database`, or `name=value` pairs as libpq takes them.
        /// `DATABASE_URL` sets it too. `url_file` names a file that holds it; it is read again when it was changed, or
        /// when PostgreSQL refuses the password. Parameters behind a `?` take effect or are refused by name.
        pub url: Secret = Secret::default(),
        /// `disable`, `prefer` (TLS if the server offers it, certificate not checked), `require` (TLS, certificate not
        /// checked), `verify-ca`, or `verify-full` (chain and host name checked). `auto` means `verify-full`, but
        /// `disable` for Unix sockets and for `localhost` where it leads to this host. An `sslmode` in the URL can ask
        /// for more than `auto`, never for less. The files are read again for new connections.
        pub tls: TlsMode = TlsMode::Auto,
        /// PEM file with the certificate authorities to trust. Unset: those of the operating system.
        pub ca_file: Option<PathBuf> = None,
        /// PEM file with the client certificate, for servers that ask for one. Needs `key_file`.
        pub cert_file: Option<PathBuf> = None,
        /// PEM file with the private key of `cert_file`.
        pub key_file: Option<PathBuf> = None,
        /// Connections for the lanes of the relay. Fewer than the shards an instance owns makes lanes wait for each
        /// other; more than the cores of PostgreSQL gains little.
        pub pool_size: NonZeroU16 = NonZeroU16::new(8).expect("not zero"),
        /// Whether `run` applies missing migrations when it starts. Off where the relay's role may not change the
        /// schema: run `migrate up` with one that may.
        pub auto_migrate: bool = true,
        /// Longest wait for a new connection, for each address of each host in the URL, TLS and authentication
        /// included.
        pub connect_timeout: Duration = Duration::from_secs(5),
        /// Longest run of one statement of the relay or the consumer; PostgreSQL cancels it then and it is tried again.
        /// A connection that has not answered five seconds later is closed. Statements of lanes end after half of
        /// `relay.lease` (at least 5 s) at the latest.
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
        /// Schema that holds the tables, functions, views and migration history of the outbox. Written as PostgreSQL
        /// stores it, without quotes; `migrate up` creates it if the role may. Unset: the first schema on the
        /// connection's `search_path` that holds an outbox, or the first schema on it if none does. Two outboxes in one
        /// database need a schema each. The `search_path` of the connection follows behind this schema, so the SQL of
        /// projections and triggers still finds its own tables.
        pub schema: Option<String> = None,
        /// Shards that keys are spread over, used by `migrate up` while the table is still empty; `outbox-relay shards
        /// set` changes them later. One lane works per shard, so this bounds the number of instances that share the
        /// work. At most 32767.
        pub shards: NonZeroU16 = NonZeroU16::new(8).expect("not zero"),
        /// Ids of one partition, where `migrate up --partitioned` made the table. A partition is dropped as a whole:
        /// smaller ones go sooner, and each one costs every statement a little. At least 1000.
        pub partition_rows: NonZeroU32 = rows(5_000_000),
    }
}

section! {
    /// The relay: from `outbox_events` to Kafka.
    pub struct RelayConfig in "relay" {
        /// Whether `run` relays at all. Off for an instance that only consumes.
        pub enabled: bool = true,
        /// What a crash may repeat. `at-least-once`: at most one batch per shard again, contiguous and in the same
        /// order. `exactly-once`: nothing, for consumers that read with `isolation.level = read_committed`.
        pub delivery: Delivery = Delivery::AtLeastOnce,
        /// `key`: id order per key among the rows that are visible. `strict`: also waits for every open transaction
        /// that may still commit a lower id; a long one delays all events behind it.
        pub ordering: Ordering = Ordering::Key,
        /// What happens to the row of a published event. `mark`: it becomes PUBLISHED with its place in Kafka, and
        /// `[cleanup]` deletes it later; until then it can be replayed and traced. `delete`: it goes at once, which
        /// costs PostgreSQL less.
        pub after_publish: AfterPublish = AfterPublish::Mark,
        /// How published events are kept apart from those that wait. `rows`: by the status of each row. `watermark`: by
        /// an id for each shard up to which everything is published, so that no row is written to when it is published,
        /// which costs PostgreSQL much less. The view `outbox_current` then shows the status of rows, places in Kafka
        /// are not kept, and a row must never be inserted with an id that was not drawn from the table's sequence. May
        /// be changed at any time, on all instances one after the other. Not together with `after_publish = "delete"`.
        pub tracking: Tracking = Tracking::Rows,
        /// Most rows in one batch of a shard. More rows per PostgreSQL commit and per Kafka request make it faster;
        /// they also bound memory and what a crash repeats. At most 100000.
        pub batch_rows: NonZeroU32 = rows(1_000),
        /// Batches of an instance that may be in flight at once. Bounds memory: batches times `batch_bytes`, five to
        /// seven times over. The batches that lanes with little to do claim together count as one more.
        pub parallel_batches: NonZeroU16 = NonZeroU16::new(4).expect("not zero"),
        /// Most payload bytes in one batch of a shard, so that memory stays bounded whatever the rows hold. One row
        /// always fits: not less than `max_record_bytes`.
        pub batch_bytes: ByteSize = ByteSize::mib(2),
        /// Largest record (key, value and headers, uncompressed). A larger one fails as a message and is never loaded.
        /// The topic's own `max.message.bytes` applies as well.
        pub max_record_bytes: ByteSize = ByteSize::b(1_000_000),
        /// Wait before looking for new rows just after some were found.
        pub poll_min: Duration = Duration::from_millis(5),
        /// Longest wait between two looks when the outbox is idle: the latency of the first event after a pause.
        pub poll_max: Duration = Duration::from_millis(250),
        /// How long an instance owns its shards without renewing. Shorter means faster takeover after a crash, and less
        /// patience with a stalled host. At least 3s.
        pub lease: Duration = Duration::from_secs(15),
        /// Time without any acknowledgement after which the producer is thrown away and the rest of the batch is sent
        /// with a new one. Kafka's own retries come first: this is for a client that is stuck.
        pub publish_timeout: Duration = Duration::from_secs(120),
        /// How long a topic that does not exist is waited for before its events fail.
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
    /// How published events are kept apart from those that wait.
    pub enum Tracking { Rows = "rows", Watermark = "watermark" }
}

choice! {
    /// What happens to the row of a published event.
    pub enum AfterPublish { Mark = "mark", Delete = "delete" }
}

section! {
    /// What happens to an event that Kafka or the relay's own checks refuse. An outage is no refusal: it uses up no
    /// attempt.
    pub struct RetryConfig in "retry" {
        /// Attempts that an event has, the first included. Refusals that no second attempt can change (see
        /// `docs/errors.md`) use them up at once.
        pub max_attempts: NonZeroU32 = rows(3),
        /// Wait before the second attempt. The key of the event waits with it, all other keys go on.
        pub initial_backoff: Duration = Duration::from_secs(1),
        /// How much longer each wait is than the one before. At least 1.
        pub multiplier: f64 = 2.0,
        /// Longest wait between two attempts.
        pub max_backoff: Duration = Duration::from_secs(30),
        /// Share of a wait that is left to chance, from 0 to 1, so that what failed together does not come back
        /// together.
        pub jitter: f64 = 0.2,
        /// When no attempt is left the event is FAILED, and: `hold` keeps its key waiting until somebody decides, so
        /// that order holds; `dead-letter` copies it to the dead-letter topic, and its key goes on; `skip` only lets
        /// its key go on.
        pub on_exhausted: OnExhausted = OnExhausted::Hold,
        /// Exceptions, first match wins: `[[retry.rule]]`.
        pub rule: Vec<RetryRule> = Vec::new(),
    }
}

choice! {
    /// What becomes of an event whose attempts are used up.
    pub enum OnExhausted { Hold = "hold", DeadLetter = "dead-letter", Skip = "skip" }
}

section! {
    /// One exception from `[retry]`. Unset conditions match everything, unset values are those of `[retry]`.
    pub struct RetryRule in "retry.rule" {
        /// Topic, exact or with `*` for any text.
        pub topic: Option<String> = None,
        /// Event type, exact or with `*` for any text.
        pub event_type: Option<String> = None,
        /// Class of the error, as in `docs/errors.md`. A rule that names a class makes it worth another attempt.
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
    /// The schedule on which FAILED events are tried again.
    pub struct ReprocessConfig in "reprocess" {
        /// Whether FAILED events are tried again by themselves.
        pub enabled: bool = false,
        /// Wait between two rounds.
        pub interval: Duration = Duration::from_secs(60),
        /// Only events that failed at least this long ago.
        pub older_than: Duration = Duration::from_secs(300),
        /// Most events in one round.
        pub max_events: NonZeroU32 = rows(1_000),
    }
}

section! {
    /// Where dead letters go.
    pub struct DeadLetterConfig in "dead_letter" {
        /// Name of the dead-letter topic; `{topic}` is the topic of the event.
        pub topic: String = "{topic}-dlq".to_owned(),
    }
}

section! {
    /// Which topic an event goes to.
    pub struct RoutingConfig in "routing" {
        /// Topics that rows may name, as exact names or with `*` for any text. Empty: any topic. A row with another
        /// topic fails.
        pub allowed_topics: Vec<String> = Vec::new(),
        /// Rules for rows without a topic, first match wins: `[[routing.rule]]`.
        pub rule: Vec<RoutingRule> = Vec::new(),
    }
}

section! {
    /// One rule for rows that name no topic.
    pub struct RoutingRule in "routing.rule" {
        /// Regular expression that the whole `aggregate_type` must match. Unset: any.
        pub aggregate_type: Option<String> = None,
        /// Regular expression that the whole `event_type` must match. Unset: any.
        pub event_type: Option<String> = None,
        /// The topic; `$1` or `${name}` insert groups of the expression (of `aggregate_type` if both are given),
        /// `{aggregate_type}` and `{event_type}` the row's own text.
        pub topic: String = String::new(),
    }
}

section! {
    /// Headers of the Kafka records.
    pub struct HeadersConfig in "headers" {
        /// `cloudevents` (binary mode, `ce_*`), or `plain` (only `outbox-*`, the row's own headers and the trace
        /// headers).
        pub profile: HeaderProfile = HeaderProfile::CloudEvents,
        /// `ce_source` for rows without a source. Unset: `/` and the deployment name.
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
        /// Brokers to start from, `host:port,host:port`. `KAFKA_BOOTSTRAP_SERVERS` sets it too.
        pub bootstrap_servers: String = String::new(),
        /// `plaintext`, `ssl`, `sasl_plaintext` or `sasl_ssl`.
        pub security_protocol: SecurityProtocol = SecurityProtocol::Plaintext,
        /// SASL mechanism: `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`, which need user name and password; `GSSAPI` in
        /// builds with that feature, whose settings go into `properties`.
        pub sasl_mechanism: Option<String> = None,
        /// SASL user name.
        pub sasl_username: Option<String> = None,
        /// SASL password. `sasl_password_file` names a file that holds it, which is read again for each new client.
        pub sasl_password: Secret = Secret::default(),
        /// PEM file with the certificate authorities to trust. Unset: those of the operating system.
        pub ca_file: Option<PathBuf> = None,
        /// PEM file with the client certificate.
        pub cert_file: Option<PathBuf> = None,
        /// PEM file with the private key of `cert_file`.
        pub key_file: Option<PathBuf> = None,
        /// Passphrase of `key_file`. `key_password_file` names a file that holds it.
        pub key_password: Secret = Secret::default(),
        /// Any librdkafka setting. Those that would break a promise or have no effect are refused with the reason.
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
        /// Consumer group: the name in Kafka, in `event_handled` and in `consumer_partitions`.
        pub group: String = "outbox-relay".to_owned(),
        /// What a group does with a topic that it has no positions on while other groups of this database have: `ask`
        /// stops until somebody decides with `outbox-relay consumer positions`, because a renamed group would fold
        /// everything a second time; `anew` reads it from its beginning.
        pub start: ConsumerStart = ConsumerStart::Ask,
        /// Topics to read.
        pub topics: Vec<String> = vec!["catalog-events".to_owned(), "order-events".to_owned()],
        /// Most records that one PostgreSQL transaction folds.
        pub batch_records: NonZeroU32 = rows(2_000),
        /// How long to gather records before folding what there is: latency against transactions per second.
        pub batch_wait: Duration = Duration::from_millis(20),
        /// What to do with an event whose type no projection handles: `skip` counts it and goes on.
        pub unknown_event: UnknownEvent = UnknownEvent::Skip,
    }
}

choice! {
    /// What a consumer group does with topics that only other groups have read.
    pub enum ConsumerStart { Ask = "ask", Anew = "anew" }
}

impl ConsumerStart {
    /// Whether it waits for a decision.
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
    /// One projection: a SQL file that folds new events into a table. `[[projection]]`; without any, the built-in
    /// `product_metrics`.
    pub struct ProjectionConfig in "projection" {
        /// Name for logs and metrics.
        pub name: String = String::new(),
        /// Topics whose events it receives. Empty: all topics of the consumer.
        pub topics: Vec<String> = Vec::new(),
        /// Event types it handles. Empty: all.
        pub event_types: Vec<String> = Vec::new(),
        /// SQL file, relative to the settings file. It reads the relation `new_events`.
        pub sql: PathBuf = PathBuf::new(),
    }
}

section! {
    /// Deleting what is finished and old. Belongs to the relay part of `run`; of all instances one does it at a time.
    pub struct CleanupConfig in "cleanup" {
        /// Whether `run` deletes anything.
        pub enabled: bool = true,
        /// Time between two passes. A pass that finds nothing costs milliseconds, and passes a minute apart have little
        /// to do each, where one a day would delete for an hour.
        pub interval: Duration = Duration::from_secs(60),
        /// Age, since their publication, at which PUBLISHED rows are deleted, and DISCARDED rows since their failure.
        /// `never` keeps them. What is deleted cannot be replayed.
        pub published_older_than: Retention = Retention::After(Duration::from_secs(7 * 86_400)),
        /// Age, since their failure, at which FAILED rows are deleted. `never` keeps them. A row whose key is held
        /// stays in any case: the rows behind it wait for somebody to decide about it.
        pub failed_older_than: Retention = Retention::After(Duration::from_secs(30 * 86_400)),
        /// Age at which entries of `event_handled` are deleted. `never` keeps them. A projection counts an event that
        /// is delivered again after that a second time, so it must not be shorter than `published_older_than`, nor than
        /// the retention of the topics.
        pub handled_older_than: Retention = Retention::After(Duration::from_secs(30 * 86_400)),
        /// Most rows that one transaction looks at. Each is followed by a pause as long as itself. At most 100000.
        pub batch_rows: NonZeroU32 = rows(1_000),
        /// Deleting waits while a streaming replica has more than this still to replay. A replica that is late on
        /// purpose (`recovery_min_apply_delay`) needs a large value.
        pub max_replica_lag: ByteSize = ByteSize::mib(64),
    }
}

section! {
    /// The HTTP server for health and metrics.
    pub struct AdminConfig in "admin" {
        /// Whether `run` serves `/livez`, `/readyz` and `/metrics`.
        pub enabled: bool = true,
        /// Address and port. Port 0 takes a free one and logs it.
        pub listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 8080)),
    }
}

section! {
    /// Logs.
    pub struct TelemetryConfig in "telemetry" {
        /// `auto` (text on a terminal, else JSON), `text` or `json`.
        pub log_format: LogFormat = LogFormat::Auto,
        /// Level, or levels per module, as in `info,outbox_relay::relay=debug`.
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
        /// Name of the deployment: all instances that share one outbox have the same one.
        pub deployment: String = "outbox-relay".to_owned(),
        /// Name of this instance in logs, metrics and `outbox_instances`. Unset: the host name and process id.
        pub instance: Option<String> = None,
        /// Longest drain after SIGTERM. What is not acknowledged by then stays PENDING. The process ends within this
        /// time whatever hangs.
        pub shutdown_timeout: Duration = Duration::from_secs(10),
    }
}
