//! Typed settings to librdkafka settings, and the ones that may not be overridden.

use rdkafka::ClientConfig;

use crate::config::KafkaConfig;

/// Settings that producers, consumers and admin calls share: brokers, security, `[kafka.properties]`.
/// `client_id` shows in the broker's logs and quotas.
pub fn common(settings: &KafkaConfig, client_id: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &settings.bootstrap_servers);
    config.set("client.id", client_id);
    config
}
