//! Settings: flags over environment over `relay.toml` over defaults.

mod macros;
mod sections;

pub use sections::*;

/// All settings, checked. Modules receive their section by value.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Config {
    pub database: DatabaseConfig,
    pub outbox: OutboxConfig,
    pub relay: RelayConfig,
    pub routing: RoutingConfig,
    pub headers: HeadersConfig,
    pub kafka: KafkaConfig,
    pub consumer: ConsumerConfig,
    pub projection: Vec<ProjectionConfig>,
    pub admin: AdminConfig,
    pub telemetry: TelemetryConfig,
    pub run: RunConfig,
}
