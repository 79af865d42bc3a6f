//! Transactional outbox relay: reads `outbox_events` in PostgreSQL, publishes to Apache Kafka strictly in order per
//! key, and folds the events into projections such as `product_metrics`.
//!
//! `ARCHITECTURE.md` has the code map and the invariants; `docs/guarantees.md` has each promise with its tests.

pub mod admin;
pub mod app;
pub mod broker;
pub mod cleanup;
pub mod cli;
pub mod clock;
pub mod commands;
pub mod config;
pub mod db;
pub mod demo;
pub mod error;
pub mod event;
pub mod failpoint;
pub mod health;
pub mod measure;
pub mod metrics;
pub mod migrations;
pub mod operations;
pub mod outbox;
pub mod output;
pub mod projection;
pub mod relay;
pub mod retry;
pub mod secret;
pub mod signals;
pub mod stderr;
pub mod supervisor;
pub mod telemetry;
pub mod text;
