//! Transactional outbox relay: reads `outbox_events` in PostgreSQL, publishes to Apache Kafka strictly in order per
//! key, and folds the events into projections such as `product_metrics`.
//!
//! `ARCHITECTURE.md` has the code map and the invariants; `docs/guarantees.md` has each promise with its tests.
//!
//! The product is the program. This library exists so that the program, its tests and its benchmarks run the same code;
//! it promises nothing to other crates. Public is what these need, and nothing else, so that the compiler finds what
//! nobody uses:
//!
//! - the program: `cli`, `commands`, `error`, `failpoint`, `output`, `telemetry`;
//! - the tests of what the program does: `admin`, `cleanup`, `clock`, `config`, `db`, `metrics`, `operations`,
//!   `outbox`, `projection`, `secret`, `signals`, `supervisor`, and of `broker` what reads topics and groups;
//! - the simulation: `relay::protocol` and `relay::takeover`, which are pure, and the types of `outbox` and `broker`
//!   that they decide about.

#![allow(rustdoc::private_intra_doc_links, reason = "this is no library for others")]

pub mod admin;
mod app;
pub mod broker;
pub mod cleanup;
pub mod cli;
pub mod clock;
pub mod commands;
pub mod config;
pub mod db;
mod demo;
pub mod error;
pub mod event;
pub mod failpoint;
mod health;
mod measure;
pub mod metrics;
mod migrations;
pub mod operations;
pub mod outbox;
pub mod output;
pub mod projection;
pub mod relay;
mod retry;
pub mod secret;
pub mod signals;
mod stderr;
pub mod supervisor;
pub mod telemetry;
mod text;
