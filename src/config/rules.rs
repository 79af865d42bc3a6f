//! Rules that a type cannot express: bounds, values that require each other, names that other systems accept.
//!
//! Rules about a value that could not be read are skipped: the first problem is enough. Anything that requires a server
//! or a file is checked by `outbox-relay check`.

mod cleanup;
mod consumer;
mod kafka;
mod names;
mod properties;
mod retry;
mod routing;

use std::time::Duration;

use super::connection::ConnectionString;
use super::environment::variable_of;
use super::problem::{Origin, Problem};
use super::reader::Reader;
use super::value::Scalar;
use super::{
    AfterPublish, Config, DatabaseConfig, HeadersConfig, OutboxConfig, RelayConfig, RunConfig, TlsMode, Tracking,
};
use names::{is_name, legal_schema, legal_topic};

pub(super) use properties::REFUSED;

/// What a command cannot do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Needs {
    pub database: bool,
    pub kafka: bool,
}

impl Needs {
    pub const NOTHING: Self = Self { database: false, kafka: false };
    pub const DATABASE: Self = Self { database: true, kafka: false };
    pub const KAFKA: Self = Self { database: false, kafka: true };
    pub const BOTH: Self = Self { database: true, kafka: true };
}

/// Adds every broken rule to the problems of `reader`.
pub(super) fn check(config: &Config, needs: Needs, reader: &mut Reader<'_>) {
    let mut rules = Rules { reader };
    config.database.check(&mut rules);
    config.outbox.check(&mut rules);
    config.relay.check(&mut rules);
    config.retry.check(&mut rules);
    config.reprocess.check(&mut rules);
    config.dead_letter.check(&mut rules);
    config.routing.check(&mut rules);
    config.headers.check(&mut rules);
    config.kafka.check(&mut rules);
    config.consumer.check(&mut rules);
    consumer::check_projections(&config.projection, &config.consumer, &mut rules);
    config.cleanup.check(&mut rules);
    config.run.check(&mut rules);
    rules.require(
        needs.database && config.database.url.is_empty(),
        "database.url",
        "DATABASE_URL",
        "postgres://user:password@host:5432/database",
    );
    rules.require(
        needs.kafka && config.kafka.bootstrap_servers.trim().is_empty(),
        "kafka.bootstrap_servers",
        "KAFKA_BOOTSTRAP_SERVERS",
        "host:9092",
    );
}

/// Where broken rules go.
struct Rules<'r, 'a> {
    reader: &'r mut Reader<'a>,
}

impl Rules<'_, '_> {
    /// A rule is broken by the first of `keys` together with the others. Points at the first that somebody set.
    fn refuse(&mut self, keys: &[&str], why: impl Into<String>, help: impl Into<String>) {
        if keys.iter().any(|key| self.reader.broken.contains(*key)) {
            return;
        }
        let Some(first) = keys.iter().find(|key| self.reader.provenance.of(key) != Origin::Default).or(keys.first())
        else {
            return;
        };
        let mut problem = Problem::of(*first, why, self.reader.provenance.of(first)).help(help);
        problem.overrides = self.reader.provenance.overridden(first);
        for key in keys.iter().filter(|key| *key != first) {
            problem.related.push((self.reader.provenance.of(key), format!("`{key}`")));
        }
        self.reader.problems.push(problem);
    }

    fn require(&mut self, missing: bool, key: &str, shared: &str, example: &str) {
        if !missing || self.reader.broken.contains(key) {
            return;
        }
        let mut problem =
            Problem::new(format!("`{key}` is not set"), "this command needs it", self.reader.provenance.of(key));
        problem.key = Some(key.to_owned());
        let help = format!(
            "set `{shared}` or `{}` in the environment, or `{key}` in the settings file, to {example}",
            variable_of(key)
        );
        self.reader.problems.push(problem.help(help));
    }

    fn name(&mut self, key: &str, text: &str) {
        if !is_name(text) {
            self.refuse(
                &[key],
                "expected 1 to 200 letters, digits, `.`, `_` or `-`",
                "it becomes part of names in Kafka and PostgreSQL",
            );
        }
    }

    fn topics(&mut self, key: &str, topics: &[String]) {
        for (index, topic) in topics.iter().enumerate() {
            if let Err(why) = legal_topic(topic) {
                self.refuse(
                    &[&format!("{key}[{index}]")],
                    why,
                    "Kafka accepts 1 to 249 letters, digits, `.`, `_` and `-`",
                );
            }
        }
    }

    /// Both or neither.
    fn pair(&mut self, has_cert: bool, has_key: bool, section: &str) {
        let (cert, key) = (format!("{section}.cert_file"), format!("{section}.key_file"));
        match (has_cert, has_key) {
            (true, false) => self.refuse(
                &[&cert, &key],
                format!("`{cert}` needs `{key}`"),
                format!("set `{key}` to the private key of the certificate"),
            ),
            (false, true) => self.refuse(
                &[&key, &cert],
                format!("`{key}` needs `{cert}`"),
                format!("set `{cert}` to the certificate of the key"),
            ),
            (true, true) | (false, false) => {}
        }
    }
}

/// A value as the settings file has it.
fn shown(value: &impl Scalar) -> String {
    value.show().as_str().map_or_else(|| value.show().to_string(), str::to_owned)
}

impl DatabaseConfig {
    fn check(&self, rules: &mut Rules<'_, '_>) {
        if !self.url.is_empty()
            && let Err(refused) = ConnectionString::parse(self.url.expose()).and_then(|target| target.check(self))
        {
            rules.refuse(&["database.url"], refused.why, refused.help);
        }
        rules.pair(self.cert_file.is_some(), self.key_file.is_some(), "database");
        let unchecked = matches!(self.tls, TlsMode::Disable | TlsMode::Prefer | TlsMode::Require);
        if self.ca_file.is_some() && unchecked {
            let why = format!(
                "`database.ca_file` has no effect with `database.tls` = `{}`, which checks no certificate",
                self.tls.as_str()
            );
            rules.refuse(
                &["database.ca_file", "database.tls"],
                why,
                "set `database.tls` to `verify-full` or `verify-ca`, or remove the file",
            );
        }
        if self.connect_timeout.is_zero() {
            rules.refuse(&["database.connect_timeout"], "must be longer than 0s", "5s is the default");
        }
        // PostgreSQL keeps statement_timeout as milliseconds in an int; 0 would switch it off.
        let longest = Duration::from_secs(24 * 86_400);
        if self.statement_timeout.is_zero() || self.statement_timeout > longest {
            rules.refuse(
                &["database.statement_timeout"],
                "must be longer than 0s and at most 24d",
                "without a limit, a stuck statement blocks its shard forever",
            );
        }
    }
}

impl OutboxConfig {
    fn check(&self, rules: &mut Rules<'_, '_>) {
        if let Some(Err((why, help))) = self.schema.as_deref().map(legal_schema) {
            rules.refuse(&["outbox.schema"], why, help);
        }
        if self.partition_rows.get() < 1_000 {
            rules.refuse(
                &["outbox.partition_rows"],
                "must be at least 1000",
                "every partition adds a little cost to every statement; millions of ids are a good size",
            );
        }
        // `outbox_events.shard` is a smallint.
        if i16::try_from(self.shards.get()).is_err() {
            rules.refuse(
                &["outbox.shards"],
                "must be at most 32767",
                "one lane works per shard: twice the number of instances times their cores is plenty",
            );
        }
    }
}

impl RelayConfig {
    fn check(&self, rules: &mut Rules<'_, '_>) {
        if self.tracking == Tracking::Watermark && self.after_publish == AfterPublish::Delete {
            rules.refuse(
                &["relay.tracking", "relay.after_publish"],
                "`relay.tracking` = `watermark` and `relay.after_publish` = `delete` cannot be combined",
                "a watermark leaves rows as they are until `[cleanup]` deletes them: set one of the two to its default",
            );
        }
        // librdkafka queues 100,000 records by default (`queue.buffering.max.messages`); a batch is handed over whole.
        if self.batch_rows.get() > 100_000 {
            rules.refuse(
                &["relay.batch_rows"],
                "must be at most 100000",
                "batches of a few thousand rows are fastest, and a crash repeats at most one batch",
            );
        }
        // The range of librdkafka's `message.max.bytes`.
        if !(1_000..=1_000_000_000).contains(&self.max_record_bytes.as_u64()) {
            rules.refuse(
                &["relay.max_record_bytes"],
                "must be from 1kB to 1GB",
                "brokers accept 1MB unless the topic's `max.message.bytes` allows more",
            );
        } else if self.batch_bytes < self.max_record_bytes {
            let (batch, record) = (shown(&self.batch_bytes), shown(&self.max_record_bytes));
            let why =
                format!("`relay.batch_bytes` ({batch}) must not be less than `relay.max_record_bytes` ({record})");
            rules.refuse(
                &["relay.batch_bytes", "relay.max_record_bytes"],
                why,
                format!("a single row could be larger than a batch: set `relay.batch_bytes` to at least {record}"),
            );
        }
        if self.poll_min.is_zero() {
            rules.refuse(
                &["relay.poll_min"],
                "must be longer than 0s",
                "without a delay the relay would query PostgreSQL in a tight loop",
            );
        } else if self.poll_min > self.poll_max {
            let (min, max) = (shown(&self.poll_min), shown(&self.poll_max));
            let why = format!("`relay.poll_min` ({min}) must not be longer than `relay.poll_max` ({max})");
            rules.refuse(
                &["relay.poll_min", "relay.poll_max"],
                why,
                "while the outbox is idle, the delay grows from the one to the other",
            );
        }
        if self.lease < Duration::from_secs(3) {
            rules.refuse(
                &["relay.lease"],
                "must be at least 3s",
                "a shorter lease would be lost whenever a host or PostgreSQL pauses for a moment",
            );
        }
        if self.publish_timeout < Duration::from_secs(1) {
            rules.refuse(
                &["relay.publish_timeout"],
                "must be at least 1s",
                "it is for a client that is stuck; Kafka's own retries need their time first",
            );
        }
    }
}

impl HeadersConfig {
    fn check(&self, rules: &mut Rules<'_, '_>) {
        if self.source.as_ref().is_some_and(|source| source.chars().any(|c| c.is_whitespace() || c.is_control())) {
            rules.refuse(
                &["headers.source"],
                "must not contain spaces or control characters",
                "CloudEvents expects a URI reference such as `/orders`",
            );
        }
    }
}

impl RunConfig {
    fn check(&self, rules: &mut Rules<'_, '_>) {
        rules.name("run.deployment", &self.deployment);
        if let Some(instance) = &self.instance {
            rules.name("run.instance", instance);
        }
    }
}
