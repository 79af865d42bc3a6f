//! Topics that are deleted and created again under their name, in ways that librdkafka does not notice: every record of
//! the new topic is folded once an operator has accepted it.

use std::time::Duration;

use outbox_relay::broker::admin::Admin;
use outbox_relay::broker::raw::GroupState;
use outbox_relay::config::KafkaConfig;

use crate::positions::{Likes, wait_for_stops};
use crate::support::kafka::client_config;
use crate::support::member::Member;
use crate::support::relay::RelaySettings;
use crate::support::{PrivateKafka, StopMode, TestDatabase, Topic, unique, wait_until};

const PATIENCE: Duration = Duration::from_secs(120);

async fn wait_for_members(likes: &Likes, members: usize, partitions: usize) {
    let settings = KafkaConfig { bootstrap_servers: likes.topic.bootstrap.clone(), ..KafkaConfig::default() };
    let admin = Admin::new(&settings).expect("a client");
    wait_until(&format!("{members} members have {partitions} partitions"), PATIENCE, async || {
        let group = admin.group(&likes.group).await.map_err(|error| error.chain().to_string())?;
        let assigned: usize = group.members.iter().map(|member| member.partitions).sum();
        match (group.state, group.members.len() == members, assigned == partitions) {
            (GroupState::Stable, true, true) => Ok(()),
            _ => Err(format!("{group:?}")),
        }
    })
    .await;
}

/// The member that hands out the partitions asks Kafka for them, and the topic is missing at that moment. Its client
/// remembers the topic from before and from afterwards, and sees no reason to join again.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_missing_while_partitions_were_handed_out_is_read_all_the_same() {
    let likes = Likes::new("unassigned", 2).await;
    let second = Topic::create("unassigned-second", 1).await;
    let client = likes.database.connect().await;
    let topics = format!("{},{}", likes.topic.name, second.name);
    let process = likes.settings().set("consumer.topics", &topics).start_ready().await;
    likes.like(1, 10, 2).await;
    likes.wait_for_likes(&client, 1, 10).await;

    likes.topic.delete().await;
    let mut config = client_config(&likes.topic.bootstrap);
    config.set("group.id", &likes.group).set("partition.assignment.strategy", "range,roundrobin");
    let other = Member::join(&config, &second.name);
    wait_for_members(&likes, 2, 1).await;
    likes.topic.clone().created(2).await;
    likes.like(1, 6, 2).await;

    wait_for_stops(&client, &[(0, "topic-recreated"), (1, "topic-recreated")]).await;
    let accept = ["consumer", "positions", "accept", "--topic", &likes.topic.name, "--yes"];
    likes.command(&accept).await.expect_code(0);
    likes.wait_for_likes(&client, 1, 16).await;
    other.leave().await;
    drop(process);
}

/// The client is told to look at its topics so seldom that it never notices the new one.
#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_nobody_was_given_are_asked_for() {
    let likes = Likes::new("unassigned-late", 2).await;
    likes.topic.delete().await;
    let second = Topic::create("unassigned-late-second", 1).await;
    let client = likes.database.connect().await;
    let seldom = "\"topic.metadata.refresh.interval.ms\" = \"600000\"\n";
    let topics = format!("{},{}", likes.topic.name, second.name);
    let process = likes.settings_with(seldom).set("consumer.topics", &topics).start();
    wait_for_members(&likes, 1, 1).await;
    likes.topic.clone().created(2).await;
    likes.like(1, 6, 2).await;
    likes.wait_for_likes(&client, 1, 6).await;
    process.wait_for_log("no member of the group has these partitions: joining the group again").await;
    drop(process);
}

/// Leader epochs of the new topic begin at 0, below the one that the client has seen: it takes all that it hears of the
/// new topic for old news, and the broker refuses to answer it.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_whose_leader_had_changed_is_read_after_it_was_made_anew() {
    let (kafka, database) = tokio::join!(PrivateKafka::start(), TestDatabase::migrated("remade-epoch"));
    let topic = Topic::create_on(&kafka.bootstrap, "remade-epoch", 2).await;
    // A restart of its broker is an election.
    kafka.stop(StopMode::Crash).await;
    kafka.start_again().await;
    let likes = Likes { database, topic, group: unique("remade-epoch") };
    let client = likes.database.connect().await;
    let settings = RelaySettings::new(&likes.database, &kafka.bootstrap).only("consumer,admin");
    let settings = settings.set("consumer.topics", &likes.topic.name).set("consumer.group", &likes.group);
    let process = settings.start_ready().await;
    likes.like(1, 10, 2).await;
    likes.wait_for_likes(&client, 1, 10).await;
    likes.recreate(2).await;
    wait_for_stops(&client, &[(0, "topic-recreated"), (1, "topic-recreated")]).await;
    let accept = ["consumer", "positions", "accept", "--topic", &likes.topic.name, "--yes"];
    likes.command(&accept).await.expect_code(0);
    likes.like(1, 6, 2).await;
    likes.wait_for_likes(&client, 1, 16).await;
    drop(process);
}
