//! How fast it folds. Not a test: `cargo test --release --test it -- --ignored --nocapture rate`.

use std::time::Instant;

use super::kafka::Bench;
use super::*;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn rate_of_one_partition() {
    measure("rate-1", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn rate_of_six_partitions() {
    measure("rate-6", 6).await;
}

/// 300,000 events over 1,000 products, a third of them orders with two lines, values of about 100 to 150 bytes.
async fn measure(name: &str, partitions: i32) {
    const EVENTS: i64 = 300_000;
    let bench = Bench::new(name, partitions).await;
    let event = |n: i64| {
        let product = n * 7 % 1_000;
        let (event_type, value) = match n % 6 {
            0 => ("LikeRemovedEvent", format!(r#"{{"productId": {product}, "userId": {n}}}"#)),
            1 => ("LikeAddedEvent", format!(r#"{{"productId": {product}, "userId": {n}}}"#)),
            2 | 3 => ("ProductViewEvent", format!(r#"{{"productId": {product}, "userId": {n}}}"#)),
            _ => {
                let other = (product + 1) % 1_000;
                let line = |product| format!(r#"{{"productId": {product}, "quantity": 2, "amount": 31800.50}}"#);
                let value = format!(r#"{{"orderId": {n}, "items": [{}, {}]}}"#, line(product), line(other));
                ("OrderCreatedEvent", value)
            }
        };
        (Uuid::new_v4(), event_type, value)
    };
    bench.produce((0..EVENTS).map(event).collect(), partitions).await;
    let running = bench.start();
    let start = Instant::now();
    bench.wait_for_offset_from(1).await;
    let (first, after, cpu) = (next_offset(&bench.client).await, Instant::now(), cpu_ms());
    bench.wait_for_offset(EVENTS).await;
    let (events, cpu) = ((EVENTS - first) as f64, (cpu_ms() - cpu) as f64);
    let rate = events / after.elapsed().as_secs_f64();
    let joined = start.elapsed().as_secs_f64();
    println!(
        "{partitions} partitions: {rate:.0} events/s, {:.1} us of our CPU each, {joined:.1} s with the join",
        cpu * 1_000.0 / events
    );
    running.stop().await.expect("a clean stop");
}

/// CPU time of this process so far, from its statistics in hundredths of a second.
fn cpu_ms() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let (_, fields) = stat.rsplit_once(')').expect("the name in brackets");
    let fields: Vec<&str> = fields.split_whitespace().collect();
    (fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()) * 10
}
