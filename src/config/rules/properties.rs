//! librdkafka settings that users may not change, because a guarantee depends on them.
//!
//! Everything that `broker/client_config.rs` sets after the user's settings must be listed here, so that a user's
//! value is never silently ignored.

use crate::config::{KafkaConfig, SecurityProtocol};

/// A librdkafka setting that may not be changed.
pub(in crate::config) struct Refused {
    /// Its names; librdkafka has aliases for some settings.
    pub(in crate::config) names: &'static [&'static str],
    /// Values that are in effect anyway, and therefore accepted.
    pub(in crate::config) harmless: &'static [&'static str],
    pub(in crate::config) why: &'static str,
    pub(in crate::config) help: &'static str,
}

const fn entry(
    names: &'static [&'static str],
    harmless: &'static [&'static str],
    why: &'static str,
    help: &'static str,
) -> Refused {
    Refused { names, harmless, why, help }
}

const FIXED: &str = "remove it: outbox-relay sets it";

/// librdkafka `CONFIGURATION.md` of 2.12 for names and aliases.
pub(in crate::config) const REFUSED: &[Refused] = &[
    // Order and loss on the way to Kafka.
    entry(
        &["enable.idempotence"],
        &["true"],
        "without idempotence, Kafka's own retries duplicate and reorder records",
        FIXED,
    ),
    entry(
        &["acks", "request.required.acks"],
        &["all", "-1"],
        "a record that was counted as published could be lost with its broker",
        FIXED,
    ),
    entry(
        &["message.timeout.ms", "delivery.timeout.ms"],
        &[],
        "a record that times out while later ones are acknowledged breaks the order of its key",
        "use `relay.publish_timeout`, which resends the rest of the batch in order",
    ),
    entry(
        &["retries", "message.send.max.retries"],
        &["2147483647"],
        "a record that runs out of retries while later ones are acknowledged breaks the order of its key",
        FIXED,
    ),
    entry(
        &["max.in.flight", "max.in.flight.requests.per.connection"],
        &[],
        "with more than one request in flight, a record can overtake one that the broker rejected",
        FIXED,
    ),
    entry(
        &["enable.gapless.guarantee"],
        &["true"],
        "without it, later records of a key are sent although an earlier one failed",
        FIXED,
    ),
    entry(&["queuing.strategy"], &["fifo"], "records must be sent in the order in which they were queued", FIXED),
    entry(
        &["delivery.report.only.error"],
        &["false"],
        "rows are marked as published when the acknowledgements arrive that this setting hides",
        FIXED,
    ),
    entry(&["transactional.id"], &[], "each lane needs its own id; a shared one would fence the other lanes", FIXED),
    entry(
        &["transaction.timeout.ms"],
        &["30000"],
        "a batch must be committed or abandoned well before Kafka aborts its transaction",
        FIXED,
    ),
    entry(
        &["client.id"],
        &[],
        "each client of an instance needs its own name in the broker's logs and quotas",
        "use `run.deployment` and `run.instance`, from which the names are built",
    ),
    entry(&["compression.codec"], &[], "it is an alias of `compression.type`", "use `compression.type`"),
    entry(&["queue.buffering.max.ms"], &[], "it is an alias of `linger.ms`", "use `linger.ms`"),
    entry(
        &["partitioner"],
        &["murmur2_random"],
        "keys must map to the same partitions as with Java producers, and as before",
        FIXED,
    ),
    entry(
        &["message.max.bytes"],
        &[],
        "rows are checked against `relay.max_record_bytes` before they are sent, and the two limits must agree",
        "use `relay.max_record_bytes`",
    ),
    entry(
        &["allow.auto.create.topics"],
        &["false"],
        "a misspelt topic would be created instead of reported, with the default number of partitions",
        "create topics before using them",
    ),
    // Positions of the consumer.
    entry(
        &["enable.auto.commit", "auto.commit.enable"],
        &["false"],
        "offsets move in the same PostgreSQL transaction as the projections",
        FIXED,
    ),
    entry(
        &["enable.auto.offset.store"],
        &["false"],
        "offsets move in the same PostgreSQL transaction as the projections",
        FIXED,
    ),
    entry(
        &[
            "auto.commit.interval.ms",
            "offset.store.method",
            "offset.store.path",
            "offset.store.sync.interval.ms",
            "consume.callback.max.messages",
        ],
        &[],
        "it has no effect: offsets are kept in PostgreSQL, and records are polled one by one",
        "remove it",
    ),
    entry(
        &["auto.offset.reset"],
        &["error"],
        "silently skipping records that Kafka has deleted would lose events",
        "remove it: outbox-relay stops and reports what is missing instead",
    ),
    entry(&["isolation.level"], &["read_committed"], "records of aborted transactions must not be folded", FIXED),
    entry(
        &["enable.partition.eof"],
        &["false"],
        "the end of a partition is not an error for a consumer that keeps reading",
        FIXED,
    ),
    entry(
        &["group.protocol"],
        &["classic"],
        "the consumer expects full lists of partitions, which the classic protocol provides",
        FIXED,
    ),
    entry(&["group.remote.assignor"], &[], "it only applies to another group protocol", "remove it"),
    entry(&["group.protocol.type"], &["consumer"], "the group is a consumer group", FIXED),
    entry(
        &["group.instance.id"],
        &[],
        "all instances with these settings would have the same id and evict each other from the group",
        "remove it",
    ),
    entry(
        &["partition.assignment.strategy"],
        &["range,roundrobin"],
        "the consumer expects full lists of partitions, which eager assignment provides",
        FIXED,
    ),
    entry(&["statistics.interval.ms"], &["5000"], "readiness and lag are taken from these statistics", FIXED),
    entry(&["group.id"], &[], "the group name is also stored in `event_handled`", "use `consumer.group`"),
    // Security.
    entry(
        &["enable.ssl.certificate.verification"],
        &["true"],
        "anyone on the network path could read and forge events",
        "name the authority that signed the brokers' certificates in `kafka.ca_file`",
    ),
    entry(
        &["bootstrap.servers", "metadata.broker.list"],
        &[],
        "it has its own setting",
        "use `kafka.bootstrap_servers`",
    ),
    entry(&["security.protocol"], &[], "it has its own setting", "use `kafka.security_protocol`"),
    entry(&["sasl.mechanism", "sasl.mechanisms"], &[], "it has its own setting", "use `kafka.sasl_mechanism`"),
    entry(&["sasl.username"], &[], "it has its own setting", "use `kafka.sasl_username`"),
    entry(&["sasl.password"], &[], "it has its own setting", "use `kafka.sasl_password` or `kafka.sasl_password_file`"),
    entry(&["ssl.ca.location"], &[], "it has its own setting", "use `kafka.ca_file`"),
    entry(&["ssl.certificate.location"], &[], "it has its own setting", "use `kafka.cert_file`"),
    entry(&["ssl.key.location"], &[], "it has its own setting", "use `kafka.key_file`"),
    entry(
        &["ssl.key.password"],
        &[],
        "it has its own setting",
        "use `kafka.key_password` or `kafka.key_password_file`",
    ),
    entry(
        &[
            "enable.sasl.oauthbearer.unsecure.jwt",
            "sasl.oauthbearer.assertion.algorithm",
            "sasl.oauthbearer.assertion.claim.aud",
            "sasl.oauthbearer.assertion.claim.exp.seconds",
            "sasl.oauthbearer.assertion.claim.iss",
            "sasl.oauthbearer.assertion.claim.jti.include",
            "sasl.oauthbearer.assertion.claim.nbf.seconds",
            "sasl.oauthbearer.assertion.claim.sub",
            "sasl.oauthbearer.assertion.file",
            "sasl.oauthbearer.assertion.jwt.template.file",
            "sasl.oauthbearer.assertion.private.key.file",
            "sasl.oauthbearer.assertion.private.key.passphrase",
            "sasl.oauthbearer.assertion.private.key.pem",
            "sasl.oauthbearer.client.credentials.client.id",
            "sasl.oauthbearer.client.credentials.client.secret",
            "sasl.oauthbearer.client.id",
            "sasl.oauthbearer.client.secret",
            "sasl.oauthbearer.config",
            "sasl.oauthbearer.extensions",
            "sasl.oauthbearer.grant.type",
            "sasl.oauthbearer.metadata.authentication.type",
            "sasl.oauthbearer.method",
            "sasl.oauthbearer.scope",
            "sasl.oauthbearer.token.endpoint.url",
            "https.ca.location",
            "https.ca.pem",
        ],
        &[],
        "OAUTHBEARER is not supported: this build cannot obtain tokens",
        "use `SCRAM-SHA-512`, `SCRAM-SHA-256`, `PLAIN` or a client certificate",
    ),
    // Settings without effect, or with harmful ones.
    entry(
        &[
            "topic.metadata.refresh.fast.cnt",
            "socket.blocking.max.ms",
            "reconnect.backoff.jitter.ms",
            "produce.offset.report",
            "msg_order_cmp",
        ],
        &[],
        "librdkafka no longer uses it",
        "remove it",
    ),
    entry(
        &[
            "background_event_cb",
            "closesocket_cb",
            "connect_cb",
            "consume_cb",
            "default_topic_conf",
            "dr_cb",
            "dr_msg_cb",
            "enabled_events",
            "error_cb",
            "interceptors",
            "log_cb",
            "oauthbearer_token_refresh_cb",
            "offset_commit_cb",
            "opaque",
            "open_cb",
            "partitioner_cb",
            "rebalance_cb",
            "resolve_cb",
            "socket_cb",
            "ssl.certificate.verify_cb",
            "ssl_ca",
            "ssl_certificate",
            "ssl_engine_callback_data",
            "ssl_key",
            "stats_cb",
            "throttle_cb",
        ],
        &[],
        "it is a callback, which cannot be written as text",
        "remove it",
    ),
    entry(&["builtin.features"], &[], "it only lists the built-in features", "remove it"),
    entry(&["plugin.library.paths"], &[], "foreign code could break every guarantee", "remove it"),
    entry(&["log.queue"], &["false"], "the client's log lines would never be read", FIXED),
    entry(&["ssl.ca.certificate.stores"], &[], "it only applies to Windows", "use `kafka.ca_file`"),
];

/// The entry that refuses `name = value`.
pub(super) fn refused(name: &str, value: &str) -> Option<&'static Refused> {
    REFUSED.iter().find(|refused| refused.names.contains(&name) && !refused.harmless.contains(&value))
}

/// A property that has no effect beside the settings of `[kafka]`: why, and what to do.
pub(super) fn idle(name: &str, settings: &KafkaConfig) -> Option<(String, &'static str)> {
    let protocol = settings.security_protocol.as_str();
    let has_tls = matches!(settings.security_protocol, SecurityProtocol::Ssl | SecurityProtocol::SaslSsl);
    let has_sasl = matches!(settings.security_protocol, SecurityProtocol::SaslPlaintext | SecurityProtocol::SaslSsl);
    if name.starts_with("ssl.") && !has_tls {
        let why = format!("it has no effect with `kafka.security_protocol` = `{protocol}`, which does not encrypt");
        return Some((why, "set `kafka.security_protocol` to `ssl` or `sasl_ssl`, or remove it"));
    }
    if name.starts_with("sasl.") && !has_sasl {
        let why = format!("it has no effect with `kafka.security_protocol` = `{protocol}`");
        return Some((why, "set `kafka.security_protocol` to `sasl_ssl`, or remove it"));
    }
    if name.starts_with("sasl.kerberos.") && settings.sasl_mechanism.as_deref() != Some("GSSAPI") {
        return Some(("it has no effect without `kafka.sasl_mechanism` = `GSSAPI`".to_owned(), "remove it"));
    }
    let twice = [
        (settings.ca_file.is_some(), "kafka.ca_file", ["ssl.ca.pem", ""]),
        (settings.cert_file.is_some(), "kafka.cert_file", ["ssl.certificate.pem", "ssl.keystore.location"]),
        (settings.key_file.is_some(), "kafka.key_file", ["ssl.key.pem", "ssl.keystore.location"]),
    ];
    let clash = twice.into_iter().find(|(given, _, names)| *given && names.contains(&name));
    clash.map(|(_, key, _)| (format!("`{key}` is also set, and only one of the two can apply"), "remove one of them"))
}
