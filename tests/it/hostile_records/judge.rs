//! The judge: the read model is what the good records make of it, everything else is parked once and whole or skipped,
//! nobody else waits, nothing that must not be is printed, commands end.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

use super::records::{Expected, Made, UNTIMED, number_of};
use super::stage::Stage;
use crate::foreign_bytes::unparked;
use crate::support::{Relay, http};

/// Longest delay of a good record in a partition without others, while there is trouble elsewhere, in seconds: that of
/// two members that come and go on a machine that stalls.
pub const FRESH: f64 = 180.0;

#[track_caller]
pub fn check(seed: u64, kept: bool, what: impl std::fmt::Display) {
    assert!(kept, "seed {seed}: {what}");
}

/// The read model, and what is known of the events.
pub async fn tables(seed: u64, stage: &Stage, expected: &Expected) {
    let sql = "select product_id, like_count, view_count, sales_count, trunc(total_sales_amount * 100)::text, \
               total_sales_amount * 100 = trunc(total_sales_amount * 100), last_event_at from product_metrics";
    let mut wrong = Vec::new();
    let mut found = BTreeMap::new();
    for row in stage.client.query(sql, &[]).await.expect("product_metrics") {
        let product: i64 = row.get(0);
        let counts = [row.get::<_, i64>(1), row.get(2), row.get(3)].map(i128::from);
        let amount: i128 = row.get::<_, &str>(4).parse().expect("hundredths");
        check(seed, row.get(5), format!("product {product} has a fraction of a cent"));
        found.insert(product, [counts[0], counts[1], counts[2], amount]);
        let last: Option<Timestamp> = row.get(6);
        let expected_last = expected.last.get(&product).copied();
        let timed = product < UNTIMED && expected.moves.contains_key(&product);
        if timed && last != expected_last {
            wrong.push(format!("product {product}: last event at {last:?}, expected {expected_last:?}"));
        }
    }
    for product in expected.moves.keys().chain(found.keys()) {
        let (is, should_be) = (found.get(product), expected.moves.get(product));
        if is != should_be {
            wrong.push(format!("product {product}: {is:?}, expected {should_be:?} (likes, views, sales, cents)"));
        }
    }
    check(seed, wrong.is_empty(), format!("{wrong:#?}"));
    let handled = stage.number("select count(*) from event_handled").await;
    check(seed, handled == expected.handled, format!("{handled} events are known, expected {}", expected.handled));
}

/// What is parked: each once, whole, with a reason that quotes nothing.
pub async fn parked(seed: u64, stage: &Stage, expected: &Expected, secret: &str) {
    let sql = "select headers::text, key, value, error, partition from consumer_parked";
    let mut left: BTreeMap<u64, &Made> = expected.parked.iter().map(|(number, made)| (*number, made)).collect();
    for row in stage.client.query(sql, &[]).await.expect("consumer_parked") {
        let headers = unparked(row.get(0));
        let error: &str = row.get(3);
        let number = number_of(&headers).unwrap_or_default();
        let Some(made) = left.remove(&number) else {
            check(seed, false, format!("record {number} is parked, and should not be, or twice: {error}"));
            return;
        };
        let whole = (row.get::<_, Option<Vec<u8>>>(1), row.get::<_, Option<Vec<u8>>>(2), headers);
        let record = &made.record;
        let same = whole == (record.key.clone(), record.value.clone(), record.headers.clone());
        check(seed, same, format!("record {number} ({}) is not parked whole", made.kind));
        check(seed, !error.is_empty() && !error.contains(secret), format!("{}: reason {error:?}", made.kind));
    }
    let lost: Vec<_> = left.values().map(|made| (made.number, made.kind)).collect();
    check(seed, lost.is_empty(), format!("neither folded nor parked: {lost:?}"));
}

/// How long records of the second half of the partitions took from Kafka to the read model, in seconds, ascending.
/// `written`: when each was written.
pub async fn delays(stage: &Stage, written: &BTreeMap<uuid::Uuid, Timestamp>) -> Vec<f64> {
    let ids: Vec<uuid::Uuid> = written.keys().copied().collect();
    let sql = "select event_id, handled_at from event_handled where event_id = any($1)";
    let rows = stage.client.query(sql, &[&ids]).await.expect("event_handled");
    let mut delays: Vec<f64> = rows
        .iter()
        .map(|row| {
            let (id, at): (uuid::Uuid, Timestamp) = (row.get(0), row.get(1));
            (at.as_millisecond() - written[&id].as_millisecond()) as f64 / 1_000.0
        })
        .collect();
    delays.sort_by(f64::total_cmp);
    assert_eq!(delays.len(), written.len(), "records of partitions without strangers are folded");
    delays
}

/// The process lives, has nothing to hide, and does not chatter.
pub async fn process(seed: u64, relay: &mut Relay, secret: &str, lines_max: usize) {
    check(seed, relay.is_running(), format!("the process has ended\n{}", relay.log_text()));
    let log = relay.log_text();
    let line_with = |part: &str| log.lines().find(|line| line.contains(part)).unwrap_or_default().to_owned();
    check(seed, !log.contains(secret), line_with(secret));
    check(seed, !log.contains("panicked"), line_with("panicked"));
    let lines = log.lines().count();
    check(seed, lines <= lines_max, format!("{lines} lines:\n{}", head_and_tail(&log)));
    for page in ["/readyz?verbose", "/metrics", "/livez"] {
        let (_, text) = http::get(relay.admin(), page).await.expect("an answer");
        check(seed, !text.contains(secret), format!("{page} holds a value of a record"));
    }
}

fn head_and_tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    let middle = lines.len().saturating_sub(40).max(40).min(lines.len());
    [&lines[..lines.len().min(40)], &["…"][..], &lines[middle..]].concat().join("\n")
}

/// Commands end with a documented status, and print values only where they are asked for them.
pub async fn commands(seed: u64, stage: &Stage, secret: &str) {
    let ids = "select event_id::text from consumer_parked order by \"offset\", event_id limit 5";
    let ids: Vec<String> = stage.client.query(ids, &[]).await.expect("ids").iter().map(|row| row.get(0)).collect();
    let mut calls: Vec<Vec<&str>> = [
        "consumer parked ls",
        "consumer parked ls -o json",
        "consumer parked ls --error SQLSTATE -o ndjson",
        "consumer parked release --all --dry-run",
        "consumer parked discard --all --dry-run -o json",
        "consumer positions ls",
        "consumer positions ls -o json",
        "lag -o json",
        "check -o json",
        "top --once -o json",
    ]
    .iter()
    .map(|call| call.split(' ').collect())
    .collect();
    for id in ids.iter().map(String::as_str) {
        calls.push(vec!["consumer", "parked", "show", id]);
        calls.push(vec!["consumer", "parked", "show", id, "-o", "json"]);
    }
    for call in calls {
        let finished = stage.command(&call).await;
        let sane = matches!(finished.code, Some(0 | 5 | 6));
        check(seed, sane, format!("{}: {:?}\n{}", finished.call, finished.code, finished.stderr));
        check(seed, !finished.stderr.contains(secret), format!("{}: {}", finished.call, finished.stderr));
        let shows = call.contains(&"show");
        check(seed, shows || !finished.stdout.contains(secret), format!("{}: it prints a value", finished.call));
        check(seed, !finished.stdout.contains('\u{1b}'), format!("{}: it prints control characters", finished.call));
        if call.contains(&"json") {
            let _: Value = finished.json();
        }
    }
}
