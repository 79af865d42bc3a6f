//! A process, the commands beside it, and what they have to say.

use std::time::Duration;

use serde_json::Value;

use crate::support::cli::{Call, Finished};
use crate::support::relay::RelaySettings;
use crate::support::{Relay, TestDatabase, Topic, http, outbox_relay, unique, wait_until};

/// The machine may be busy, and some situations are ordinary for half a minute.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// What readiness has to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ready {
    /// 503, with the situation among the reasons.
    No,
    /// 200, with the situation among the notes.
    Yes,
}

/// What all four signals have to say of a situation.
#[derive(Debug, Clone, Copy)]
pub struct Says<'a> {
    pub part: &'a str,
    pub situation: &'a str,
    pub ready: Ready,
    /// What `lag --fail-over 1000000` ends with.
    pub lag: i32,
    /// Words that each signal with words has to say.
    pub words: &'a str,
    /// Whether whoever looks from outside knows since when.
    pub since: bool,
}

/// A database, a topic and a group.
pub struct Stage {
    pub database: TestDatabase,
    pub topic: Topic,
    pub group: String,
    topics: Vec<String>,
}

impl Stage {
    pub async fn new(name: &str) -> Self {
        let (database, topic) = tokio::join!(TestDatabase::migrated(name), Topic::create(name, 1));
        Self::between(database, topic, name)
    }

    pub fn between(database: TestDatabase, topic: Topic, name: &str) -> Self {
        let topics = vec![topic.name.clone()];
        Self { database, topic, group: unique(name), topics }
    }

    /// Reads this one as well.
    #[must_use]
    pub fn reading(mut self, topic: &str) -> Self {
        self.topics.push(topic.to_owned());
        self
    }

    /// A process with these parts.
    pub fn settings(&self, parts: &str) -> RelaySettings {
        RelaySettings::new(&self.database, &self.topic.bootstrap)
            .steady()
            .set("consumer.group", &self.group)
            .set("consumer.topics", &self.topics.join(","))
            .only(parts)
    }

    pub fn command(&self, args: &[&str]) -> Call {
        outbox_relay(args)
            .env("DATABASE_URL", &self.database.url)
            .env("KAFKA_BOOTSTRAP_SERVERS", &self.topic.bootstrap)
            .env("OUTBOX_RELAY_CONSUMER__GROUP", &self.group)
            .env("OUTBOX_RELAY_CONSUMER__TOPICS", &self.topics.join(","))
            .env("OUTBOX_RELAY_RELAY__LEASE", "3s")
    }

    pub async fn lag(&self) -> Finished {
        self.command(&["lag", "-o", "json", "--fail-over", "1000000"]).run().await
    }

    /// Waits until all four say so.
    pub async fn expect(&self, process: &Relay, says: &Says<'_>) {
        readiness(process, says).await;
        metrics(process, says).await;
        self.expect_of_commands(says).await;
        one_log_line(process, "is waiting:", says).await;
    }

    /// `lag` and `top` alone: for what only they see, or only they say in this way.
    pub async fn expect_of_commands(&self, says: &Says<'_>) {
        wait_until(&format!("lag says {}", says.situation), PATIENCE, async || {
            let lag = self.lag().await;
            named(&lag.json()["waits"], says)?;
            if lag.code == Some(says.lag) { Ok(()) } else { Err(format!("{:?} {}", lag.code, lag.stdout)) }
        })
        .await;
        wait_until(&format!("lag as text says {}", says.situation), PATIENCE, async || {
            let text = self.command(&["lag"]).run().await;
            if text.stdout.contains(says.situation) { Ok(()) } else { Err(text.stdout) }
        })
        .await;
        wait_until(&format!("top says {}", says.situation), PATIENCE, async || {
            let top = self.command(&["top", "--once", "-o", "json"]).run().await;
            named(&top.json()["waits"], says)
        })
        .await;
    }

    /// Waits until none says so any more.
    pub async fn expect_over(&self, process: &Relay, says: &Says<'_>) {
        wait_until(&format!("it is ready, without {}", says.situation), PATIENCE, async || {
            match http::get(process.admin(), "/readyz?verbose").await? {
                (200, body) if !body.contains(says.situation) => Ok(()),
                (status, body) => Err(format!("{status} {body}")),
            }
        })
        .await;
        wait_until(&format!("the metrics do not say {}", says.situation), PATIENCE, async || {
            let (_, text) = http::get(process.admin(), "/metrics").await?;
            let waits = gauge(&text, "outbox_relay_waits", says) != Some(0.0);
            let since = gauge(&text, "outbox_relay_waits_since_timestamp_seconds", says).is_some();
            if waits || since { Err(text) } else { Ok(()) }
        })
        .await;
        wait_until(&format!("lag does not say {}", says.situation), PATIENCE, async || {
            let lag = self.lag().await;
            if named(&lag.json()["waits"], says).is_ok() { Err(lag.stdout) } else { Ok(()) }
        })
        .await;
        one_log_line(process, "no longer waiting:", says).await;
    }
}

pub async fn readiness(process: &Relay, says: &Says<'_>) {
    let (status, mark) = match says.ready {
        Ready::No => (503, "[-]"),
        Ready::Yes => (200, "[i]"),
    };
    wait_until(&format!("/readyz says {}", says.situation), PATIENCE, async || {
        let address = process.try_admin().ok_or("it has not started")?;
        let (found, body) = http::get(address, "/readyz?verbose").await?;
        let since = format!("({} since 20", says.situation);
        let line = body.lines().find(|line| line.contains(&since)).unwrap_or_default();
        let good = found == status && line.starts_with(mark) && line.contains(says.words);
        if good { Ok(()) } else { Err(format!("{found} {body}")) }
    })
    .await;
}

pub async fn metrics(process: &Relay, says: &Says<'_>) {
    wait_until(&format!("the metrics say {}", says.situation), PATIENCE, async || {
        let (_, text) = http::get(process.admin(), "/metrics").await?;
        let waits = gauge(&text, "outbox_relay_waits", says).is_some_and(|waits| waits >= 1.0);
        let since = gauge(&text, "outbox_relay_waits_since_timestamp_seconds", says);
        if waits && since.is_some_and(|since| since > 1.7e9) { Ok(()) } else { Err(text) }
    })
    .await;
}

/// The value of the gauge for this situation.
fn gauge(text: &str, name: &str, says: &Says<'_>) -> Option<f64> {
    let sample = format!("{name}{{part=\"{}\",situation=\"{}\"}} ", says.part, says.situation);
    text.lines().find_map(|line| line.strip_prefix(&sample)?.parse().ok())
}

/// Whether one of these waits is the situation.
fn named(waits: &Value, says: &Says<'_>) -> Result<(), String> {
    let all = waits.as_array().ok_or_else(|| format!("no waits: {waits}"))?;
    let found = all.iter().find(|wait| {
        let text = format!("{} {} {}", wait["topic"], wait["detail"], wait["shard"]);
        wait["situation"] == says.situation && text.contains(says.words)
    });
    match found {
        Some(wait) if !says.since || wait["since"].as_str().is_some_and(|since| since.starts_with("20")) => Ok(()),
        _ => Err(format!("{waits}")),
    }
}

/// Waits until the log says so, and then it has said it once.
pub async fn one_log_line(process: &Relay, words: &str, says: &Says<'_>) {
    wait_until(&format!("the log says {words} {}", says.situation), PATIENCE, async || {
        match log_lines(process, words, says) {
            0 => Err(process.log_text()),
            _ => Ok(()),
        }
    })
    .await;
    assert_eq!(log_lines(process, words, says), 1, "{words} {}:\n{}", says.situation, process.log_text());
}

fn log_lines(process: &Relay, words: &str, says: &Says<'_>) -> usize {
    let mark = format!("\"situation\":\"{}\"", says.situation);
    let text = process.log_text();
    // A wait that repeats is one line with a count.
    let lines = text.lines().filter(|line| line.contains(&mark) && !line.contains("(repeated)"));
    lines.filter(|line| line.contains(words) && (words != "is waiting:" || !line.contains("no longer"))).count()
}
