//! The judge of all rounds: good rows of other keys are published in order, nothing good is lost or doubled, bad rows end with a reason,
//! memory holds, commands end, no secret is printed, readiness tells the truth.

use std::collections::HashMap;
use std::time::Duration;

use tokio_postgres::Client;

use super::round::{Plan, Settling};
use crate::support::order;
use crate::support::{Relay, TestDatabase, Topic, http, outbox_relay, wait_until};

/// How long a round may take. Generous: the machine may be busy with other tests.
const PATIENCE: Duration = Duration::from_secs(120);
/// Twice what guarantee 7 allows for these settings.
const MEMORY_MAX: u64 = 300 << 20;

/// The rows of a round.
#[derive(Default)]
pub struct Written {
    /// Ids of the rows of good keys, in order.
    pub good: HashMap<String, Vec<i64>>,
    /// Id and name of the rows of bad keys.
    pub bad: Vec<(i64, String)>,
}

impl Written {
    pub fn good_ids(&self) -> Vec<i64> {
        self.good.values().flatten().copied().collect()
    }

    pub fn good_count(&self) -> usize {
        self.good.values().map(Vec::len).sum()
    }
}

/// Rows that wait, of the good ones.
const GOOD_WAITING: &str = "select count(*) from outbox_current where id = any($1) and status <> 'PUBLISHED'";

/// Bad rows that have not ended: neither published, nor given up with a reason, nor waiting for a reason that is written down.
const BAD_OPEN: &str = "
    select e.id, e.status, e.last_error is not null as has_reason
    from outbox_current e
    where (e.id = any($1) or e.dead_letter_of is not null)
      and not (
        e.status in ('PUBLISHED', 'DISCARDED')
        or e.status = 'FAILED' and e.last_error is not null
        or e.status = 'HELD' and exists (
          select 1 from outbox_held_keys h
          where h.first_id = e.id or md5(h.partition_key) = md5(outbox_key_of(e.partition_key, e.aggregate_id))
        )
      )
    order by e.id limit 5";

/// How many of these rows are not published. One that is gone was deleted because it is.
pub async fn good_waiting(client: &Client, ids: &[i64]) -> Result<usize, String> {
    let waiting: i64 = client.query_one(GOOD_WAITING, &[&ids]).await.map_err(|error| error.to_string())?.get(0);
    Ok(usize::try_from(waiting).unwrap_or(usize::MAX))
}

/// Some, but not all, of the good rows are published, or all of them are.
pub async fn wait_for_some_progress(client: &Client, written: &Written) {
    let ids = written.good_ids();
    wait_until("some good rows are published", PATIENCE, async || {
        let waiting = good_waiting(client, &ids).await?;
        if waiting < ids.len() { Ok(()) } else { Err(format!("{waiting} wait")) }
    })
    .await;
}

pub async fn wait_for_the_end(plan: &Plan, client: &Client, written: &Written, relay: &Relay) {
    let good = written.good_ids();
    wait_until(&format!("seed {}: every good row is published", plan.seed), PATIENCE, async || {
        let waiting = good_waiting(client, &good).await?;
        if waiting == 0 { Ok(()) } else { Err(format!("{waiting} of {} wait; {}", good.len(), last_lines(relay))) }
    })
    .await;
    let bad: Vec<i64> = written.bad.iter().map(|(id, _)| *id).collect();
    wait_until(&format!("seed {}: every bad row has ended", plan.seed), PATIENCE, async || {
        let open = client.query(BAD_OPEN, &[&bad]).await.map_err(|error| error.to_string())?;
        if open.is_empty() {
            return Ok(());
        }
        let open: Vec<String> = open
            .iter()
            .map(|row| {
                let id: i64 = row.get(0);
                let name = written.bad.iter().find(|(bad, _)| *bad == id).map_or("a dead letter", |(_, name)| name);
                format!("{id} {} reason: {} ({name})", row.get::<_, String>(1), row.get::<_, bool>(2))
            })
            .collect();
        Err(format!("open: {open:#?}; {}", last_lines(relay)))
    })
    .await;
}

/// Of the good keys: all records, in order; once, unless a kill at least once may repeat a batch.
pub async fn records(plan: &Plan, topic: &Topic, written: &Written) {
    let mut sent: HashMap<String, Vec<i64>> = HashMap::new();
    for record in topic.records().await {
        let key = record.key.as_deref().and_then(|key| std::str::from_utf8(key).ok()).unwrap_or_default();
        if written.good.contains_key(key) {
            sent.entry(key.to_owned()).or_default().push(record.outbox_id());
        }
    }
    let report = order::check(&written.good, &sent);
    assert!(report.violations.is_empty(), "seed {}: {:#?}", plan.seed, report.violations);
    if (plan.kills == 0 && plan.weather.is_none()) || plan.delivery == "exactly-once" {
        assert_eq!(report.repeats, 0, "seed {}: records of good keys that repeat an id", plan.seed);
    }
}

/// The relay is alive and ready, has kept to its memory, and has printed nothing that it must not.
pub async fn process(plan: &Plan, relay: &mut Relay, secret: &str) {
    assert!(relay.is_running(), "seed {}: the relay has ended\n{}", plan.seed, relay.log_text());
    let ready = http::get(relay.admin(), "/readyz?verbose").await.expect("an answer");
    assert_eq!(ready.0, 200, "seed {}: {}", plan.seed, ready.1);
    let (_, metrics) = http::get(relay.admin(), "/metrics").await.expect("an answer");
    let series = metrics.lines().filter(|line| !line.starts_with('#')).count();
    assert!(series < 5_000, "seed {}: {series} series of metrics", plan.seed);
    let peak = relay.peak_bytes();
    assert!(peak < MEMORY_MAX, "seed {}: {} MB of memory", plan.seed, peak >> 20);
    for (what, text) in [("the log", relay.log_text()), ("/metrics", metrics), ("/readyz", ready.1)] {
        assert!(!text.contains(secret), "seed {}: {what} holds a secret: {}", plan.seed, line_with(&text, secret));
    }
    assert!(!relay.log_text().contains("panicked"), "seed {}: {}", plan.seed, line_with(&relay.log_text(), "panicked"));
}

pub async fn no_secret_in_rows(plan: &Plan, client: &Client, secret: &str) {
    let rows = client
        .query(
            "select last_error from outbox_current where strpos(last_error, $1) > 0 \
             union all select details::text from outbox_audit where strpos(details::text, $1) > 0 limit 1",
            &[&secret],
        )
        .await
        .expect("reasons");
    let found: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert!(found.is_empty(), "seed {}: a reason holds a secret: {found:?}", plan.seed);
}

/// Every command that reads ends with a status of its own, and with nothing on stderr that it must not print.
pub async fn commands(plan: &Plan, database: &TestDatabase, client: &Client, written: &Written, secret: &str) {
    let kafka = &crate::support::parts::parts().kafka;
    let mut calls: Vec<Vec<String>> = [
        "events ls",
        "events ls -o json",
        "events ls --status FAILED -o ndjson",
        "shards ls -o json",
        "top --once -o json",
        "lag -o json",
        "check -o json",
        "check",
        "dlq ls -o json",
        "recover -o json",
        "migrate status -o json",
        "cleanup --older-than 1d --dry-run",
        "events retry --status FAILED --dry-run",
        "replay --from 2000-01-01T00:00:00Z --dry-run",
    ]
    .iter()
    .map(|call| call.split(' ').map(str::to_owned).collect())
    .collect();
    let mut bad: Vec<i64> = written.bad.iter().map(|(id, _)| *id).collect();
    fastrand::Rng::with_seed(plan.seed).shuffle(&mut bad);
    for id in bad.iter().take(6) {
        let gone = plan.settling == Settling::Delete
            && client.query_opt("select 1 from outbox_events where id = $1", &[id]).await.expect("a row").is_none();
        if !gone {
            calls.push(vec!["events".to_owned(), "show".to_owned(), id.to_string()]);
            calls.push(["events", "show", &id.to_string(), "-o", "json"].map(str::to_owned).to_vec());
            calls.push(["events", "trace", &id.to_string(), "-o", "json"].map(str::to_owned).to_vec());
        }
    }
    for call in calls {
        let args: Vec<&str> = call.iter().map(String::as_str).collect();
        let finished = outbox_relay(&args)
            .env("DATABASE_URL", &database.url)
            .env("KAFKA_BOOTSTRAP_SERVERS", kafka)
            .env("OUTBOX_RELAY_OUTBOX__SCHEMA", "public")
            .run()
            .await;
        let sane = matches!(finished.code, Some(0 | 5 | 6));
        assert!(sane, "seed {}: {}: {:?}\n{}", plan.seed, finished.call, finished.code, finished.stderr);
        let stderr = &finished.stderr;
        assert!(!stderr.contains(secret), "seed {}: {}: stderr holds a secret: {stderr}", plan.seed, finished.call);
    }
}

fn last_lines(relay: &Relay) -> String {
    let text = relay.log_text();
    let lines: Vec<&str> = text.lines().collect();
    format!("the log ends with\n{}", lines[lines.len().saturating_sub(5)..].join("\n"))
}

fn line_with<'a>(text: &'a str, part: &str) -> &'a str {
    text.lines().find(|line| line.contains(part)).unwrap_or_default()
}
