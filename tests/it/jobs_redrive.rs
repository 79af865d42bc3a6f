//! `dlq redrive` as a job: killed in the middle, it continues behind what it had read.

use std::time::Duration;

use serde_json::{Value, json};

use crate::dlq::Shop;
use crate::support::cli::Call;
use crate::support::{outbox_relay, parts::parts, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

fn jobs(shop: &Shop, args: &[&str]) -> Call {
    let call = outbox_relay(&[&["jobs"], args, &["-o", "json"]].concat()).env("DATABASE_URL", &shop.database.url);
    call.env("KAFKA_BOOTSTRAP_SERVERS", &parts().kafka).env("OUTBOX_RELAY_CONSUMER__ENABLED", "false")
}

async fn show(shop: &Shop, id: &str) -> Value {
    jobs(shop, &["show", id]).run().await.expect_code(0).json()
}

#[tokio::test]
async fn a_redrive_that_is_killed_continues_behind_what_it_had_read() {
    let shop = Shop::open("jobs-redrive", 2).await;
    shop.fail(400).await;
    shop.publish().await;
    let topic = shop.topic.name.clone();
    let running = shop.dlq(&["redrive", "--topic", &topic, "--since", "1d", "--rate", "100", "--yes"]).start();
    let redriven = async || -> i64 {
        shop.client.query_one("select count(*) from outbox_redriven", &[]).await.expect("a count").get(0)
    };
    wait_until("some went back", PATIENCE, async || match redriven().await {
        some if some >= 40 => Ok(()),
        some => Err(format!("{some}")),
    })
    .await;
    let id: String = shop.client.query_one("select id::text from outbox_jobs", &[]).await.unwrap().get(0);
    running.signal("KILL");
    running.finish().await;
    let stalled = wait_until("the job has stalled", PATIENCE, async || {
        let job = show(&shop, &id).await;
        if job["state"] == "stalled" { Ok(job) } else { Err(job.to_string()) }
    })
    .await;
    let sent = redriven().await;
    assert_eq!((&stalled["parts"][0]["done"], &stalled["parts"][0]["total"]), (&json!(sent), &json!(400)), "{stalled}");
    assert_eq!(stalled["result"]["reopened"], sent);
    assert!(sent < 400, "it was killed in the middle");

    // What fails meanwhile is no part of it.
    shop.fail(10).await;
    shop.publish().await;
    let done = jobs(&shop, &["resume", &id, "--rate", "1000000"]).run().await.expect_code(0).json();
    assert_eq!((&done["reopened"], &done["job"]), (&json!(400 - sent), &json!(id)), "{done}");
    let read = done["letters"].as_array().map(Vec::len);
    assert_eq!(read, usize::try_from(400 - sent).ok(), "what had been handled was not read again");
    let job = show(&shop, &id).await;
    assert_eq!((&job["state"], &job["result"]["reopened"]), (&json!("done"), &json!(400)), "{job}");
    shop.publish().await;
    shop.expect_each_delivered_once(400).await;
}

#[tokio::test]
async fn a_redrive_is_cancelled_and_resumed() {
    let shop = Shop::open("jobs-redrive-cancel", 1).await;
    shop.fail(200).await;
    shop.publish().await;
    let running = shop.dlq(&["redrive", "--topic", &shop.topic.name, "--rate", "50", "--yes"]).start();
    let id: String = wait_until("it is under way", PATIENCE, async || {
        let begun = "select id::text from outbox_jobs where (result ->> 'reopened')::int > 0";
        let row = shop.client.query_opt(begun, &[]).await.map_err(|error| format!("{error:?}"))?;
        row.map(|row| row.get(0)).ok_or_else(|| "not yet".to_owned())
    })
    .await;
    jobs(&shop, &["cancel", &id]).run().await.expect_code(0);
    let stopped = running.finish().await.expect_code(5);
    assert!(stopped.stderr.contains(&format!("jobs resume {id}")), "{}", stopped.stderr);
    assert_eq!(show(&shop, &id).await["state"], "cancelled");
    jobs(&shop, &["resume", &id, "--rate", "100000"]).run().await.expect_code(0);
    shop.publish().await;
    shop.expect_each_delivered_once(200).await;
}
