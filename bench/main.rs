//! The helper of the benchmarks: what `scripts/bench.sh` compares the relay with, and what measures all of them alike.
//!
//! Not part of the product: it is built with `--features bench` alone and never installed. One file per job: `drain`,
//! `latency`, `idle` and `fold` measure a contender; `polling` and `ceilings` are contenders; `report` makes the table
//! and the chart. `process` and `servers` are shared.

#![allow(clippy::print_stdout, reason = "a tool of the bench, whose progress is its output")]
#![allow(clippy::print_stderr, reason = "a tool of the bench, whose progress is its output")]
#![allow(clippy::disallowed_methods, reason = "it runs alone: no supervisor, no settings, no second clock")]

mod ceilings;
mod drain;
mod fold;
mod idle;
mod latency;
mod polling;
mod process;
mod report;
mod servers;

use std::error::Error;
use std::process::exit;

use clap::{Parser, Subcommand};

/// Every error ends the program with its text.
pub type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[derive(Parser)]
#[command(about = "Contenders and measurements of the benchmarks; scripts/bench.sh runs it")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Creates a topic of six partitions whose records are stamped by the broker
    CreateTopic { topic: String },
    /// Deletes topics
    DeleteTopics { topics: Vec<String> },
    /// Measures how fast a contender drains the backlog that waits
    Drain(drain::Options),
    /// Measures the latency from commit to consumer under a steady load
    Latency(latency::Options),
    /// Measures what a contender costs while there is nothing to do
    Idle(idle::Options),
    /// Measures how fast the consumer folds what waits in a topic
    Fold(fold::Options),
    /// Contender: the polling loop that people write
    PollingLoop { topic: String },
    /// Contender: the records of one topic, produced to another one from memory
    Produce { from: String, to: String, rows: u64 },
    /// Contender: rows claimed and marked, and nothing sent
    ClaimAndMark,
    /// Notes the machine and the versions
    Environment(report::EnvironmentOptions),
    /// Prints tables, medians and ratios of the results, and draws the chart
    Report(report::Options),
}

#[tokio::main]
async fn main() {
    let outcome = match Args::parse().command {
        Command::CreateTopic { topic } => servers::create_topic(&topic).await,
        Command::DeleteTopics { topics } => servers::delete_topics(&topics).await,
        Command::Drain(options) => Box::pin(drain::run(options)).await,
        Command::Latency(options) => Box::pin(latency::run(options)).await,
        Command::Idle(options) => Box::pin(idle::run(options)).await,
        Command::Fold(options) => Box::pin(fold::run(options)).await,
        Command::PollingLoop { topic } => Box::pin(polling::run(&topic)).await,
        Command::Produce { from, to, rows } => tokio::task::block_in_place(|| ceilings::produce(&from, &to, rows)),
        Command::ClaimAndMark => Box::pin(ceilings::claim_and_mark()).await,
        Command::Environment(options) => report::environment(&options),
        Command::Report(options) => report::run(&options),
    };
    if let Err(error) = outcome {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(inner) = cause {
            text.push_str(&format!(": {inner}"));
            cause = inner.source();
        }
        eprintln!("bench: {text}");
        // At once: a thread that still reads would keep the runtime from ending. The contender has been ended by now.
        exit(1);
    }
}
