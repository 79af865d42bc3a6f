//! librdkafka settings that users may not change, because a promise rests on them.
//!
//! What `broker/client_config.rs` sets after the user's settings must stand here, so that nobody believes in a value that
//! does not count.

/// A librdkafka setting that may not be changed.
pub(in crate::config) struct Refused {
    /// Its names: librdkafka has several for some.
    pub(in crate::config) names: &'static [&'static str],
    /// Values that say what holds anyway.
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

const FIXED: &str = "remove it: outbox-relay sets it itself";

/// librdkafka `CONFIGURATION.md` of 2.12 for names and aliases.
pub(in crate::config) const REFUSED: &[Refused] = &[
    // Order and loss on the way to Kafka.
    entry(
        &["enable.idempotence"],
        &["true"],
        "without idempotence Kafka's own retries repeat and reorder records",
        FIXED,
    ),
    entry(
        &["acks", "request.required.acks"],
        &["all", "-1"],
        "a record that counts as published could be lost with its broker",
        FIXED,
    ),
    entry(
        &["message.timeout.ms", "delivery.timeout.ms"],
        &["0"],
        "a record that times out while later ones are acknowledged is a hole in the order of its key",
        "use `relay.publish_timeout`, which sends the rest of the batch again in order",
    ),
    entry(
        &["retries", "message.send.max.retries"],
        &["2147483647"],
        "a record whose retries are used up while later ones are acknowledged is a hole in the order of its key",
        FIXED,
    ),
    entry(
        &["max.in.flight", "max.in.flight.requests.per.connection"],
        &["1"],
        "with more than one request in flight, a record can pass the one that the broker refused",
        FIXED,
    ),
    entry(
        &["enable.gapless.guarantee"],
        &["true"],
        "without it a record that fails leaves a hole, and later records of its key go on",
        FIXED,
    ),
    entry(&["queuing.strategy"], &["fifo"], "records must leave in the order in which they were handed over", FIXED),
    entry(
        &["delivery.report.only.error"],
        &["false"],
        "rows are marked as published by the acknowledgements that this setting hides",
        FIXED,
    ),
    entry(&["transactional.id"], &[], "a transaction of its own would fence the other lanes", FIXED),
    entry(
        &["partitioner"],
        &["murmur2_random"],
        "keys must land where Java producers put them, and where they landed before",
        FIXED,
    ),
    entry(
        &["message.max.bytes"],
        &[],
        "rows are checked against `relay.max_record_bytes` before they are sent, and the two must agree",
        "use `relay.max_record_bytes`",
    ),
    entry(
        &["allow.auto.create.topics"],
        &["false"],
        "a misspelt topic would be created instead of reported, and with default partitions",
        "create topics before they are used",
    ),
    // What the consumer has seen.
    entry(
        &["enable.auto.commit"],
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
        &["auto.offset.reset"],
        &["error"],
        "a silent jump over records that Kafka has deleted would lose events",
        "outbox-relay stops and says what is missing instead",
    ),
    entry(&["isolation.level"], &["read_committed"], "records of aborted transactions must not be folded", FIXED),
    entry(
        &["enable.partition.eof"],
        &["false"],
        "the end of a partition is not an error for a consumer that goes on",
        FIXED,
    ),
    entry(
        &["group.protocol"],
        &["classic"],
        "the consumer expects full lists of partitions, as the classic protocol gives them",
        FIXED,
    ),
    entry(
        &["partition.assignment.strategy"],
        &["range,roundrobin"],
        "the consumer expects full lists of partitions, as eager assignment gives them",
        FIXED,
    ),
    entry(&["statistics.interval.ms"], &["5000"], "readiness and lag are taken from these statistics", FIXED),
    entry(&["group.id"], &[], "the group is the name in `event_handled` too", "use `consumer.group`"),
    // Security.
    entry(
        &["enable.ssl.certificate.verification"],
        &["true"],
        "anyone on the way could read and forge events",
        "name the authority that signed the brokers' certificates in `kafka.ca_file`",
    ),
    entry(
        &["bootstrap.servers", "metadata.broker.list"],
        &[],
        "it has a setting of its own",
        "use `kafka.bootstrap_servers`",
    ),
    entry(&["security.protocol"], &[], "it has a setting of its own", "use `kafka.security_protocol`"),
    entry(&["sasl.mechanism", "sasl.mechanisms"], &[], "it has a setting of its own", "use `kafka.sasl_mechanism`"),
    entry(&["sasl.username"], &[], "it has a setting of its own", "use `kafka.sasl_username`"),
    entry(
        &["sasl.password"],
        &[],
        "it has a setting of its own",
        "use `kafka.sasl_password` or `kafka.sasl_password_file`",
    ),
    entry(&["ssl.ca.location"], &[], "it has a setting of its own", "use `kafka.ca_file`"),
    entry(&["ssl.certificate.location"], &[], "it has a setting of its own", "use `kafka.cert_file`"),
    entry(&["ssl.key.location"], &[], "it has a setting of its own", "use `kafka.key_file`"),
    entry(
        &["ssl.key.password"],
        &[],
        "it has a setting of its own",
        "use `kafka.key_password` or `kafka.key_password_file`",
    ),
];

/// The entry that refuses `name = value`.
pub(super) fn refused(name: &str, value: &str) -> Option<&'static Refused> {
    REFUSED.iter().find(|refused| refused.names.contains(&name) && !refused.harmless.contains(&value))
}
