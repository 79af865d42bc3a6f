//! The judge of all rounds: good rows of other keys are published in order, nothing good is lost or, exactly once,
//! doubled, bad rows end with a reason and nothing of their keys passes them, memory holds, commands end, no secret is
//! printed, readiness tells the truth.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio_postgres::Client;

use super::lives::Past;
use super::number;
use super::round::Plan;
use super::round::Settling;
use super::stage::Stage;
use crate::support::cli::Finished;
use crate::support::{Relay, Topic, http, order, outbox_relay, repeats, wait_until};

/// Longest time in which nothing moves. Generous: the machine may be busy with other tests. `HOSTILE_PATIENCE`: in
/// seconds.
fn patience() -> Duration {
    Duration::from_secs(number("HOSTILE_PATIENCE", 120))
}

/// What may not be broken, each with the name that a failure and the table of faults call it by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    Starts,
    Refuses,
    GoodRows,
    GoodKeys,
    BadRows,
    Kept,
    Order,
    Repeats,
    Aborts,
    Ready,
    Series,
    Memory,
    Secrets,
    Isolation,
    Stops,
    Commands,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starts => "the relay starts",
            Self::Refuses => "the relay refuses to start where rows are hidden",
            Self::GoodRows => "good rows are published",
            Self::GoodKeys => "keys of good rows never wait",
            Self::BadRows => "bad rows end with a reason",
            Self::Kept => "nothing is lost",
            Self::Order => "order",
            Self::Repeats => "no repeats",
            Self::Aborts => "refused records are looked for together",
            Self::Ready => "alive and ready",
            Self::Series => "bounded metrics",
            Self::Memory => "memory",
            Self::Secrets => "no secrets",
            Self::Isolation => "transactions are read committed",
            Self::Stops => "a stop ends the process",
            Self::Commands => "commands end",
        })
    }
}

#[track_caller]
fn broken(plan: &Plan, rule: Rule, what: impl fmt::Display) -> ! {
    panic!("seed {}, rule \"{rule}\": {what}", plan.seed);
}

#[track_caller]
pub fn check(plan: &Plan, rule: Rule, kept: bool, what: impl fmt::Display) {
    if !kept {
        broken(plan, rule, what);
    }
}

/// Waits until nothing is left, as long as it becomes less. Until then `look` says how much is left, and more.
async fn wait_while_it_moves(plan: &Plan, rule: Rule, mut look: impl AsyncFnMut() -> Result<(usize, String), String>) {
    let (mut least, mut since, patience) = (usize::MAX, Instant::now(), patience());
    wait_until(&format!("seed {}, rule \"{rule}\"", plan.seed), patience * 5, async || match look().await? {
        (0, _) => Ok(()),
        (left, state) => {
            if left < least {
                (least, since) = (left, Instant::now());
            }
            check(
                plan,
                rule,
                since.elapsed() < patience,
                format!("nothing moves for {patience:?}; {left} left: {state}"),
            );
            Err(format!("{left} left: {state}"))
        }
    })
    .await;
}

/// The default of `relay.batch_rows`.
const BATCH_ROWS: usize = 1_000;

/// Twice what the promise "memory" allows for these settings.
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

/// Bad rows that have not ended: neither published, nor given up with a reason, nor waiting for a reason that is
/// written down.
const BAD_OPEN: &str = "
    select e.id, e.status, e.last_error is not null as has_reason
    from outbox_current e
    where (e.id = any($1) or e.dead_letter_of is not null)
      and not (
        e.status in ('PUBLISHED', 'DISCARDED')
        or e.status = 'FAILED' and e.last_error is not null and (e.dead_letter_to is null or e.source = 'unlettered')
        or e.status = 'HELD' and exists (
          select 1 from outbox_held_keys h
          where h.first_id = e.id or md5(h.partition_key) = md5(outbox_key_of(e.partition_key, e.aggregate_id))
        )
      )
    order by e.id";

/// How many of these rows are not published. One that is gone was deleted because it is.
pub async fn good_waiting(client: &Client, ids: &[i64]) -> Result<usize, String> {
    let waiting: i64 = client.query_one(GOOD_WAITING, &[&ids]).await.map_err(|error| error.to_string())?.get(0);
    Ok(usize::try_from(waiting).unwrap_or(usize::MAX))
}

/// Until the relay is ready.
pub async fn ready(plan: &Plan, relay: Relay) -> Relay {
    wait_until(&format!("seed {}, rule \"{}\"", plan.seed, Rule::Starts), patience(), async || {
        let address = relay.try_admin().ok_or_else(|| last_lines(&relay))?;
        match http::get(address, "/readyz?verbose").await? {
            (200, _) => Ok(()),
            (status, body) => Err(format!("{status} {body}")),
        }
    })
    .await;
    relay
}

/// It ends by itself and says why.
pub async fn refuses_to_start(plan: &Plan, mut relay: Relay) {
    wait_until(&format!("seed {}, rule \"{}\"", plan.seed, Rule::Refuses), patience(), async || {
        if relay.is_running() { Err(last_lines(&relay)) } else { Ok(()) }
    })
    .await;
    let text = relay.log_text();
    check(plan, Rule::Starts, text.contains("row-level security"), format!("it has ended, and not for that:\n{text}"));
    check(plan, Rule::Refuses, text.contains("applies to this role"), text);
}

/// Some of these good rows are published. It moves as long as any good ones are.
pub async fn wait_for_some_progress(plan: &Plan, client: &Client, written: &Written, ids: &[i64], relay: &Relay) {
    let good = written.good_ids();
    wait_while_it_moves(plan, Rule::GoodRows, async || {
        let progress = good_waiting(client, ids).await? < ids.len();
        Ok(if progress { (0, String::new()) } else { (good_waiting(client, &good).await?, last_lines(relay)) })
    })
    .await;
}

pub async fn wait_for_the_end(plan: &Plan, client: &Client, written: &Written, relay: &Relay) {
    let good = written.good_ids();
    wait_while_it_moves(plan, Rule::GoodRows, async || Ok((good_waiting(client, &good).await?, last_lines(relay))))
        .await;
    let bad: Vec<i64> = written.bad.iter().map(|(id, _)| *id).collect();
    wait_while_it_moves(plan, Rule::BadRows, async || {
        let open = client.query(BAD_OPEN, &[&bad]).await.map_err(|error| error.to_string())?;
        let shown: Vec<String> = open
            .iter()
            .take(5)
            .map(|row| {
                let id: i64 = row.get(0);
                let name = written.bad.iter().find(|(bad, _)| *bad == id).map_or("a dead letter", |(_, name)| name);
                format!("{id} {} reason: {} ({name})", row.get::<_, String>(1), row.get::<_, bool>(2))
            })
            .collect();
        Ok((open.len(), format!("{shown:#?}; {}", last_lines(relay))))
    })
    .await;
}

/// The first row of each key that was given up; what waits for nobody, and what somebody else gave up, left out.
const GIVEN_UP: &str = "
    select outbox_key_of(e.partition_key, e.aggregate_id) as key, min(e.id) as id
    from outbox_current e
    where e.id = any($1) and e.status = 'FAILED' and e.dead_letter_of is null and outbox_key_of(e.partition_key, e.aggregate_id) is not null
    group by 1";

/// Of the good keys: all records, in order, and once; at least once, some of them twice where `log`, that of every
/// process of the round, gives a reason. Of the others: nothing behind a row that holds its key.
pub async fn records(plan: &Plan, topics: &[Topic], client: &Client, written: &Written, log: &str) {
    let (mut sent, mut ids): (HashMap<String, Vec<i64>>, HashSet<i64>) = (HashMap::new(), HashSet::new());
    for topic in topics {
        for record in topic.records().await {
            let key = record.key.as_deref().and_then(|key| std::str::from_utf8(key).ok()).unwrap_or_default();
            ids.insert(record.outbox_id());
            if written.good.contains_key(key) {
                sent.entry(key.to_owned()).or_default().push(record.outbox_id());
            }
        }
    }
    let report = order::check(&written.good, &sent);
    let lost: Vec<&String> = report.violations.iter().filter(|violation| violation.contains(" lost")).collect();
    check(plan, Rule::Kept, lost.is_empty(), format!("{lost:#?}"));
    check(plan, Rule::Order, report.violations.is_empty(), format!("{:#?}", report.violations));
    let allowed = match plan.delivery {
        "exactly-once" => 0,
        _ => repeats::allowed_by(log, BATCH_ROWS, plan.kafka.is_some()),
    };
    check(
        plan,
        Rule::Repeats,
        report.repeats <= allowed,
        format!("{} records of good keys repeat an id, {allowed} may", report.repeats),
    );
    if plan.on_exhausted != "hold" {
        return;
    }
    let by_relay: Vec<i64> =
        written.bad.iter().filter(|(_, name)| !name.starts_with("status = ")).map(|(id, _)| *id).collect();
    let keys = "select id, outbox_key_of(partition_key, aggregate_id), topic from outbox_events where id = any($1) and dead_letter_of is null";
    let keys = client.query(keys, &[&by_relay]).await.expect("keys");
    let topics: HashMap<i64, Option<String>> = keys.iter().map(|row| (row.get(0), row.get(2))).collect();
    let given_up: HashMap<String, i64> =
        client.query(GIVEN_UP, &[&by_relay]).await.expect("rows").iter().map(|row| (row.get(0), row.get(1))).collect();
    for row in keys {
        let (id, key): (i64, Option<String>) = (row.get(0), row.get(1));
        let Some(first) = key.and_then(|key| given_up.get(&key).copied()) else { continue };
        // Topics have no order among each other: what was sent together with the refused record may be in another one
        // already.
        let elsewhere = topics.get(&id) != topics.get(&first);
        if id <= first || !ids.contains(&id) || elsewhere {
            continue;
        }
        let why = client.query_opt("select status, last_error from outbox_current where id = $1", &[&first]).await;
        let why = why.expect("the row").map(|row| (row.get::<_, String>(0), row.get::<_, Option<String>>(1)));
        let name = written.bad.iter().find(|(bad, _)| *bad == first).map(|(_, name)| name.as_str());
        let what = format!("{id} was published, and {first} of its key failed: {name:?}, {why:?}");
        check(plan, Rule::Order, false, what);
    }
}

/// It has not ended by itself.
pub fn runs(plan: &Plan, relay: &mut Relay) {
    check(plan, Rule::Ready, relay.is_running(), format!("the relay has ended\n{}", relay.log_text()));
}

/// The relay is alive and ready, has kept to its memory, and has printed nothing that it must not.
pub async fn process(plan: &Plan, relay: &mut Relay, past: &Past, secret: &str) {
    runs(plan, relay);
    let limit = if plan.is_calm() { Duration::from_secs(1) } else { patience() };
    let ready =
        wait_until(&format!("seed {}, rule \"{}\"", plan.seed, Rule::Ready), limit, async || {
            match http::get(relay.admin(), "/readyz?verbose").await? {
                (200, body) => Ok(body),
                (status, body) => Err(format!("{status} {body}")),
            }
        })
        .await;
    let (_, metrics) = http::get(relay.admin(), "/metrics").await.expect("an answer");
    let refused =
        metrics.lines().filter(|line| line.starts_with("outbox_relay_transactions_total{outcome=\"refused\"}"));
    let refused: f64 = refused.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum();
    let failures = http::sample(&metrics, "outbox_relay_publish_failures_total").unwrap_or_default();
    eprintln!("{refused} transactions were aborted for {failures} refused records");
    check(
        plan,
        Rule::Aborts,
        refused <= 40.0 + failures / 4.0,
        format!("{refused} transactions were aborted for {failures} refused records"),
    );
    let series = metrics.lines().filter(|line| !line.starts_with('#')).count();
    check(plan, Rule::Series, series < 5_000, format!("{series} series of metrics"));
    let peak = relay.peak_bytes().max(past.peak_bytes);
    check(plan, Rule::Memory, peak < MEMORY_MAX, format!("{} MB of memory", peak >> 20));
    let text = past.log.clone() + &relay.log_text();
    for (what, text) in [("the log", &text), ("/metrics", &metrics), ("/readyz", &ready)] {
        check(plan, Rule::Secrets, !text.contains(secret), format!("{what}: {}", line_with(text, secret)));
    }
    check(plan, Rule::Ready, !text.contains("panicked"), line_with(&text, "panicked"));
    // What is read committed never meets one.
    check(plan, Rule::Isolation, !text.contains("SQLSTATE 40001"), line_with(&text, "SQLSTATE 40001"));
}

/// Serializable transactions would make those of applications fail.
pub async fn isolation(plan: &Plan, client: &Client) {
    let found = "select distinct isolation from hostile_waits where isolation <> 'read committed'";
    let found = client.query_opt(found, &[]).await.expect("what was noted").map(|row| row.get::<_, String>(0));
    check(plan, Rule::Isolation, found.is_none(), format!("one was {found:?}"));
}

/// While Kafka and the links to both servers are well, nothing keeps a good key from flowing.
pub async fn good_keys_never_wait(plan: &Plan, client: &Client, written: &Written) {
    if plan.weather.is_some() || plan.kafka.is_some() {
        return;
    }
    let keys: Vec<&String> = written.good.keys().collect();
    let found = client.query("select distinct key, why from hostile_waits where key = any($1)", &[&keys]).await;
    let found: Vec<(String, String)> =
        found.expect("keys that waited").iter().map(|row| (row.get(0), row.get(1))).collect();
    check(plan, Rule::GoodKeys, found.is_empty(), format!("{found:#?}"));
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
    check(plan, Rule::Secrets, found.is_empty(), format!("a reason holds one: {found:?}"));
}

/// Every command that reads ends with a status of its own, and with nothing on stderr that it must not print.
pub async fn commands(plan: &Plan, stage: &Stage, written: &Written) {
    let client = &stage.application;
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
    for part in calls.chunks(COMMANDS_AT_ONCE) {
        join_all(part.iter().map(async |call| {
            let args: Vec<&str> = call.iter().map(String::as_str).collect();
            let finished = called(plan, stage, &args).await;
            let sane = matches!(finished.code, Some(0 | 5 | 6));
            check(plan, Rule::Commands, sane, format!("{}: {:?}\n{}", finished.call, finished.code, finished.stderr));
        }))
        .await;
    }
}

const COMMANDS_AT_ONCE: usize = 4;

/// Retries all FAILED events. A deadlock is nobody's fault, and ends.
pub async fn retry_all(plan: &Plan, stage: &Stage) {
    wait_until(&format!("seed {}, rule \"{}\"", plan.seed, Rule::Commands), patience(), async || {
        let finished = called(plan, stage, &["events", "retry", "--all", "--yes", "--reason", "hostile"]).await;
        let sane = matches!(finished.code, Some(0 | 5 | 6));
        if sane { Ok(()) } else { Err(format!("{:?}: {}", finished.code, finished.stderr)) }
    })
    .await;
}

/// A command on the database of the round, as its owner.
async fn called(plan: &Plan, stage: &Stage, args: &[&str]) -> Finished {
    let finished = outbox_relay(args)
        .env("DATABASE_URL", &stage.database.url)
        .env("KAFKA_BOOTSTRAP_SERVERS", &stage.bootstrap)
        .env("OUTBOX_RELAY_OUTBOX__SCHEMA", "public")
        .run()
        .await;
    let text = &finished.stderr;
    check(plan, Rule::Secrets, !text.contains(&stage.targets.secret), format!("{}: {text}", finished.call));
    finished
}

fn last_lines(relay: &Relay) -> String {
    let text = relay.log_text();
    let lines: Vec<&str> = text.lines().collect();
    format!("the log ends with\n{}", lines[lines.len().saturating_sub(5)..].join("\n"))
}

fn line_with<'a>(text: &'a str, part: &str) -> &'a str {
    text.lines().find(|line| line.contains(part)).unwrap_or_default()
}
