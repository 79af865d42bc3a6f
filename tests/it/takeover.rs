//! How long the shards of an instance rest when it goes: figures for people, with the lease as it is by default.
//! Nothing about time is asserted, so it is not part of a normal run: `scripts/with-parts.sh cargo test --locked --test
//! it -- --ignored --nocapture takeover`.

use std::time::{Duration, Instant};

use crate::support::outbox::{insert_many, wait_until_published};
use crate::support::relay::{RelaySettings, leases};
use crate::support::{Signal, TestDatabase, Topic, parts::parts, unique, wait_until};

const PATIENCE: Duration = Duration::from_secs(90);

/// Of two instances that share the shards, one goes. Returns the time until the other one owns all, and until events
/// that were written at that moment, over all shards, are published and settled.
async fn takeover(delivery: &str, signal: Signal) -> (Duration, Duration) {
    let (database, topic) = tokio::join!(TestDatabase::migrated("takeover"), Topic::create("takeover", 6));
    let client = database.connect().await;
    let deployment = unique("takeover");
    let settings = |name: &str| {
        RelaySettings::new(&database, &parts().kafka)
            .set("relay.lease", "15s")
            .set("relay.delivery", delivery)
            .set("run.deployment", &deployment)
            .instance(name)
    };
    let first = settings("first").start_ready().await;
    let _second = settings("second").start_ready().await;
    wait_until("they share the shards", PATIENCE, async || {
        let leases = leases(&client).await;
        if leases.get("first") == Some(&4) && leases.get("second") == Some(&4) {
            Ok(())
        } else {
            Err(format!("{leases:?}"))
        }
    })
    .await;
    insert_many(&client, &topic.name, 200, 1_000).await;
    wait_until_published(&database, PATIENCE).await;

    first.signal(signal);
    let gone = Instant::now();
    insert_many(&client, &topic.name, 200, 1_000).await;
    let published = async {
        wait_until_published(&database, PATIENCE).await;
        gone.elapsed()
    };
    let owned = async {
        let owner = "select count(distinct owner) = 1 and count(owner) = 8 \
                     from outbox_shards join outbox_instances on instance = owner where name = 'second'";
        wait_until("the second has all shards", PATIENCE, async || {
            let all: bool = client.query_one(owner, &[]).await.expect("owners").get(0);
            if all { Ok(()) } else { Err("not yet".to_owned()) }
        })
        .await;
        gone.elapsed()
    };
    tokio::join!(owned, published)
}

#[tokio::test]
#[ignore = "prints figures and takes two minutes"]
async fn takeover_figures() {
    println!(
        "| delivery | the other instance | owns all shards after, s | has published what waited after, s |\n|---|---|---|---|"
    );
    for delivery in ["at-least-once", "exactly-once"] {
        for (what, signal) in [("SIGTERM", Signal::Terminate), ("SIGKILL", Signal::Kill), ("SIGSTOP", Signal::Stop)] {
            let (mut owned, mut published) = (Vec::new(), Vec::new());
            for _ in 0..3 {
                let (own, publish) = takeover(delivery, signal).await;
                owned.push(format!("{:.2}", own.as_secs_f64()));
                published.push(format!("{:.2}", publish.as_secs_f64()));
            }
            println!("| {delivery} | {what} | {} | {} |", owned.join(" · "), published.join(" · "));
        }
    }
}
