//! How many records may be in Kafka twice, as the log of a relay tells.

use serde_json::Value;

/// What a lane says when it gives up what is on its way because its lease is nearly over.
const LEASE_OVER: &str = "the lease ended while records were in flight";
/// What it says when it does so because Kafka has not answered for long.
const KAFKA_SILENT: [&str; 3] = [
    "no acknowledgement within publish_timeout",
    "the client lost all its brokers",
    "a partition does not accept records",
];

/// By default. What all lanes say within ten seconds becomes one line.
const LANES: usize = 8;

/// At least once: the batches that were in flight when their shards were taken, and those that lanes gave up on their
/// way. `kafka_fails`: the partitions concerned may have been among those that did not answer.
pub fn allowed_by(log: &str, batch_rows: usize, kafka_fails: bool) -> usize {
    let lines: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let says = |line: &Value, text: &str| {
        ["message", "reason", "fields"].iter().any(|field| line[field].as_str().is_some_and(|said| said.contains(text)))
    };
    let inherited: u64 =
        lines.iter().filter(|line| says(line, "shard acquired")).filter_map(|line| line["in_flight"].as_u64()).sum();
    let gave_up =
        |line: &&Value| says(line, LEASE_OVER) || kafka_fails && KAFKA_SILENT.iter().any(|text| says(line, text));
    usize::try_from(inherited).unwrap_or(usize::MAX) + lines.iter().filter(gave_up).count() * LANES * batch_rows
}

#[test]
fn what_may_repeat_is_read_from_the_log() {
    let log = r#"{"message":"shard acquired","shard":1,"epoch":1,"taken_over":false,"in_flight":0}
{"message":"shard acquired","shard":2,"epoch":4,"taken_over":true,"in_flight":17}
{"message":"replacing the producer","reason":"a partition does not accept records","lane":"lane-3"}
{"message":"replacing the producer","reason":"the client met a fatal error","lane":"lane-3"}
not JSON"#;
    assert_eq!(allowed_by(log, 100, true), 817);
    assert_eq!(allowed_by(log, 100, false), 17);
    assert_eq!(allowed_by("", 100, true), 0);
}
