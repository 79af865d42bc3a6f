//! Kafka: records, publishing in order with acknowledgements, topic facts, client settings.
//!
//! Knows nothing of the outbox. `rdkafka` appears here and in `projection/consumer.rs` only.

pub mod client_config;

/// Version of the librdkafka that is linked in.
pub fn librdkafka_version() -> String {
    rdkafka::util::get_rdkafka_version().1
}
