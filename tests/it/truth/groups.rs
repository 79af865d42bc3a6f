//! Members of the group that keep the consumer out, and a group without any.

use rdkafka::config::ClientConfig;

use super::stage::{PATIENCE, Ready, Says, Stage};
use crate::support::member::Member;
use crate::support::{http, wait_until};

const REFUSED: Says<'_> =
    Says { part: "consumer", situation: "group-refused", ready: Ready::No, lag: 6, words: "", since: false };

/// A member with these settings has the partition while `work` runs.
async fn beside_member(stage: &Stage, settings: &[(&str, &str)], work: impl Future<Output = ()>) {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &stage.topic.bootstrap).set("group.id", &stage.group);
    for (name, value) in settings {
        config.set(*name, *value);
    }
    let other = Member::join(&config, &stage.topic.name);
    other.joined(PATIENCE).await;
    work.await;
    other.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_shares_partitions_in_another_way() {
    let stage = Stage::new("truth-cooperative").await;
    let mut process = None;
    beside_member(&stage, &[("partition.assignment.strategy", "cooperative-sticky")], async {
        let running = process.insert(stage.settings("consumer,admin").start());
        stage.expect(running, &REFUSED).await;
    })
    .await;
    stage.expect_over(&process.expect("started"), &REFUSED).await;
}

/// Brokers that know this protocol take members of both kinds. Then no signal may say that the consumer is kept out.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_of_the_newer_protocol() {
    let stage = Stage::new("truth-newer").await;
    beside_member(&stage, &[("group.protocol", "consumer")], async {
        let process = stage.settings("consumer,admin").start();
        wait_until("it has joined, or says why not", PATIENCE, async || {
            let address = process.try_admin().ok_or("it has not started")?;
            let (status, body) = http::get(address, "/readyz?verbose").await?;
            if status == 200 || body.contains("group-refused") { Ok(()) } else { Err(body) }
        })
        .await;
        wait_until("readiness and lag agree", PATIENCE, async || {
            let (_, body) = http::get(process.admin(), "/readyz?verbose").await?;
            let lag = stage.lag().await.stdout;
            let agree = body.contains("group-refused") == lag.contains("group-refused");
            if agree { Ok(()) } else { Err(format!("{body}\n{lag}")) }
        })
        .await;
    })
    .await;
}

/// Nobody is there; what is read is counted, so the threshold decides.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_without_members() {
    let stage = Stage::new("truth-empty").await;
    stage.expect_of_commands(&Says { situation: "no-member", lag: 0, words: &stage.group, ..REFUSED }).await;
    let process = stage.settings("consumer,admin").start_ready().await;
    wait_until("lag knows the member", PATIENCE, async || {
        let lag = stage.lag().await;
        if lag.code == Some(0) && !lag.stdout.contains("no-member") { Ok(()) } else { Err(format!("{lag:?}")) }
    })
    .await;
    drop(process);
}
