//! Rules of `[kafka]`: security settings that belong together, and librdkafka settings that would break a promise.

use super::Rules;
use crate::config::{KafkaConfig, SecurityProtocol};

/// A librdkafka setting that may not be changed.
struct Refused {
    /// Its names: librdkafka has several for some.
    names: &'static [&'static str],
    /// Values that say what holds anyway.
    harmless: &'static [&'static str],
    why: &'static str,
    help: &'static str,
}

const fn refused(names: &'static [&'static str], harmless: &'static [&'static str], why: &'static str, help: &'static str) -> Refused {
    Refused { names, harmless, why, help }
}

const FIXED: &str = "remove it: outbox-relay sets it itself";

/// librdkafka `CONFIGURATION.md` of 2.12 for names and aliases.
const REFUSED: &[Refused] = &[
    // Order and loss on the way to Kafka.
    refused(&["enable.idempotence"], &["true"], "without idempotence Kafka's own retries repeat and reorder records", FIXED),
    refused(&["acks", "request.required.acks"], &["all", "-1"], "with fewer acknowledgements a record that counts as published can be lost", FIXED),
    refused(
        &["message.timeout.ms", "delivery.timeout.ms"],
        &["0"],
        "a record that times out while later ones are acknowledged is a hole in the order of its key",
        "use `relay.publish_timeout`, which sends the rest of the batch again in order",
    ),
    refused(
        &["retries", "message.send.max.retries"],
        &["2147483647"],
        "a record whose retries are used up while later ones are acknowledged is a hole in the order of its key",
        FIXED,
    ),
    refused(
        &["max.in.flight", "max.in.flight.requests.per.connection"],
        &["1", "2", "3", "4", "5"],
        "an idempotent producer keeps the order with 1 to 5 requests in flight and no more",
        "set it from 1 to 5, or remove it",
    ),
    refused(&["enable.gapless.guarantee"], &["false"], "it stops the producer for good after an error that waiting would cure", FIXED),
    refused(&["queuing.strategy"], &["fifo"], "records must leave in the order in which they were handed over", FIXED),
    refused(&["delivery.report.only.error"], &["false"], "rows are marked as published by the acknowledgements that this setting hides", FIXED),
    refused(&["transactional.id"], &[], "a transaction of its own would fence the other lanes", FIXED),
    refused(
        &["partitioner"],
        &["murmur2_random"],
        "keys must land where Java producers put them, and where they landed before",
        FIXED,
    ),
    refused(
        &["message.max.bytes"],
        &[],
        "rows are checked against `relay.max_record_bytes` before they are sent, and the two must agree",
        "use `relay.max_record_bytes`",
    ),
    refused(
        &["allow.auto.create.topics"],
        &["false"],
        "a misspelt topic would be created instead of reported, and with default partitions",
        "create topics before they are used",
    ),
    // What the consumer has seen.
    refused(&["enable.auto.commit"], &["false"], "offsets move in the same PostgreSQL transaction as the projections", FIXED),
    refused(&["enable.auto.offset.store"], &["false"], "offsets move in the same PostgreSQL transaction as the projections", FIXED),
    refused(
        &["auto.offset.reset"],
        &["error"],
        "a silent jump over records that Kafka has deleted would lose events",
        "outbox-relay stops and says what is missing instead",
    ),
    refused(&["isolation.level"], &["read_committed"], "records of aborted transactions must not be folded", FIXED),
    refused(&["group.id"], &[], "the group is the name in `event_handled` too", "use `consumer.group`"),
    // Security.
    refused(
        &["enable.ssl.certificate.verification"],
        &["true"],
        "anyone on the way could read and forge events",
        "name the authority that signed the brokers' certificates in `kafka.ca_file`",
    ),
    refused(&["bootstrap.servers", "metadata.broker.list"], &[], "it has a setting of its own", "use `kafka.bootstrap_servers`"),
    refused(&["security.protocol"], &[], "it has a setting of its own", "use `kafka.security_protocol`"),
    refused(&["sasl.mechanism", "sasl.mechanisms"], &[], "it has a setting of its own", "use `kafka.sasl_mechanism`"),
    refused(&["sasl.username"], &[], "it has a setting of its own", "use `kafka.sasl_username`"),
    refused(&["sasl.password"], &[], "it has a setting of its own", "use `kafka.sasl_password` or `kafka.sasl_password_file`"),
    refused(&["ssl.ca.location"], &[], "it has a setting of its own", "use `kafka.ca_file`"),
    refused(&["ssl.certificate.location"], &[], "it has a setting of its own", "use `kafka.cert_file`"),
    refused(&["ssl.key.location"], &[], "it has a setting of its own", "use `kafka.key_file`"),
    refused(&["ssl.key.password"], &[], "it has a setting of its own", "use `kafka.key_password` or `kafka.key_password_file`"),
];

/// Names, reason and advice of the settings that are refused, for the reference.
pub(in crate::config) fn refused_properties() -> impl Iterator<Item = (&'static [&'static str], &'static str, &'static str)> {
    REFUSED.iter().map(|refused| (refused.names, refused.why, refused.help))
}

/// Mechanisms that go by user name and password.
const WITH_PASSWORD: [&str; 3] = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"];

/// Mechanisms whose settings stand in `[kafka.properties]`.
const WITH_PROPERTIES: [&str; 2] = ["GSSAPI", "OAUTHBEARER"];

impl KafkaConfig {
    pub(super) fn check(&self, rules: &mut Rules<'_, '_>) {
        if let Err(why) = brokers(&self.bootstrap_servers) {
            rules.refuse(&["kafka.bootstrap_servers"], why, "write `host:port,host:port`");
        }
        self.check_sasl(rules);
        self.check_tls(rules);
        for (name, value) in &self.properties {
            if let Some(refused) = REFUSED.iter().find(|refused| refused.names.contains(&name.as_str()))
                && !refused.harmless.contains(&value.as_str())
            {
                rules.refuse(&[&format!("kafka.properties.{name}")], refused.why, refused.help);
            }
        }
    }

    fn check_sasl(&self, rules: &mut Rules<'_, '_>) {
        let protocol = "kafka.security_protocol";
        let given = [
            ("kafka.sasl_mechanism", self.sasl_mechanism.is_some()),
            ("kafka.sasl_username", self.sasl_username.is_some()),
            ("kafka.sasl_password", !self.sasl_password.is_empty()),
        ];
        if !matches!(self.security_protocol, SecurityProtocol::SaslPlaintext | SecurityProtocol::SaslSsl) {
            for (key, _) in given.iter().filter(|(_, given)| *given) {
                let why = format!("`{key}` has no effect with `{protocol}` = `{}`", self.security_protocol.as_str());
                rules.refuse(&[key, protocol], why, format!("set `{protocol}` to `sasl_ssl`, or remove the SASL settings"));
            }
            return;
        }
        let Some(mechanism) = self.sasl_mechanism.as_deref() else {
            let why = format!("`{protocol}` = `{}` needs `kafka.sasl_mechanism`", self.security_protocol.as_str());
            rules.refuse(&[protocol, "kafka.sasl_mechanism"], why, "set `kafka.sasl_mechanism` to `SCRAM-SHA-512`, `SCRAM-SHA-256` or `PLAIN`");
            return;
        };
        if WITH_PASSWORD.contains(&mechanism) {
            for (key, _) in given.iter().filter(|(_, given)| !given) {
                let why = format!("`kafka.sasl_mechanism` = `{mechanism}` needs `{key}`");
                let help = if *key == "kafka.sasl_password" { "set it, or `kafka.sasl_password_file` to a file that holds it" } else { "set it" };
                rules.refuse(&["kafka.sasl_mechanism", key], why, help);
            }
        } else if !WITH_PROPERTIES.contains(&mechanism) {
            let why = "expected `PLAIN`, `SCRAM-SHA-256`, `SCRAM-SHA-512`, `OAUTHBEARER` or `GSSAPI`";
            rules.refuse(&["kafka.sasl_mechanism"], why, "write it in capitals, as Kafka does");
        }
    }

    fn check_tls(&self, rules: &mut Rules<'_, '_>) {
        rules.pair(self.cert_file.is_some(), self.key_file.is_some(), "kafka");
        if !self.key_password.is_empty() && self.key_file.is_none() {
            rules.refuse(&["kafka.key_password", "kafka.key_file"], "`kafka.key_password` needs `kafka.key_file`", "it is the passphrase of that file");
        }
        if matches!(self.security_protocol, SecurityProtocol::Ssl | SecurityProtocol::SaslSsl) {
            return;
        }
        let protocol = "kafka.security_protocol";
        let given = [("kafka.ca_file", self.ca_file.is_some()), ("kafka.cert_file", self.cert_file.is_some()), ("kafka.key_file", self.key_file.is_some())];
        for (key, _) in given.iter().filter(|(_, given)| *given) {
            let why = format!("`{key}` has no effect with `{protocol}` = `{}`, which does not encrypt", self.security_protocol.as_str());
            rules.refuse(&[key, protocol], why, format!("set `{protocol}` to `ssl` or `sasl_ssl`, or remove the file"));
        }
    }
}

/// `host:port,host:port`; the port may be left out, which means 9092. Empty is for [`Rules::require`].
fn brokers(text: &str) -> Result<(), String> {
    if text.trim().is_empty() {
        return Ok(());
    }
    for broker in text.split(',').map(str::trim) {
        let host_end = if broker.starts_with('[') { broker.find(']').map(|end| end + 1) } else { Some(broker.find(':').unwrap_or(broker.len())) };
        let (host, port) = broker.split_at(host_end.ok_or("an IPv6 address has no closing `]`")?);
        if broker.contains("://") {
            return Err("expected hosts without a scheme such as `kafka://`".to_owned());
        }
        if host.is_empty() {
            return Err("a host is empty".to_owned());
        }
        if broker.contains(char::is_whitespace) {
            return Err("a host cannot have a space; hosts are separated by commas".to_owned());
        }
        match port.strip_prefix(':') {
            None if port.is_empty() => {}
            Some(port) if port.parse::<u16>().is_ok_and(|port| port > 0) => {}
            None | Some(_) => return Err("a port must be a number from 1 to 65535".to_owned()),
        }
    }
    Ok(())
}
