//! Who is in a consumer group, and whether a member of ours could join it.

use std::time::Duration;

use outbox_relay::broker::admin::Admin;
use outbox_relay::broker::raw::{GroupState, Protocol};
use outbox_relay::config::KafkaConfig;
use outbox_relay::projection::assignment::ASSIGNORS;

use crate::support::kafka::client_config;
use crate::support::member::Member;
use crate::support::{PrivateKafka, TestDatabase, Topic, outbox_relay, unique, wait_until};

const PATIENCE: Duration = Duration::from_secs(90);

/// A member of the group with these settings.
fn join(topic: &Topic, group: &str, settings: &[(&str, &str)]) -> Member {
    let mut config = client_config(&topic.bootstrap);
    config.set("group.id", group).set("client.id", "somebody-else");
    for (name, value) in settings {
        config.set(*name, *value);
    }
    Member::join(&config, &topic.name)
}

#[tokio::test(flavor = "multi_thread")]
async fn members_of_both_protocols_are_seen_with_how_they_share_partitions() {
    let topic = Topic::create("groups", 3).await;
    let settings = KafkaConfig { bootstrap_servers: topic.bootstrap.clone(), ..KafkaConfig::default() };
    let admin = Admin::new(&settings).expect("a client");
    let nobody = admin.group(&unique("nobody")).await.expect("a group");
    assert!(nobody.members.is_empty() && nobody.refuses("range").is_none(), "{nobody:?}");

    for (protocol, assignor, joined_by) in [
        (Protocol::Classic, "cooperative-sticky", &[("partition.assignment.strategy", "cooperative-sticky")][..]),
        (Protocol::Classic, "range", &[("partition.assignment.strategy", "range,roundrobin")][..]),
        (Protocol::Consumer, "uniform", &[("group.protocol", "consumer")][..]),
    ] {
        let name = unique("group");
        let other = join(&topic, &name, joined_by);
        let group = wait_until(&format!("the group has its member and shares by {assignor}"), PATIENCE, async || {
            let group = admin.group(&name).await.map_err(|error| error.chain().to_string())?;
            let shared = group.members.iter().map(|member| member.partitions).sum::<usize>() == 3;
            if shared && group.state == GroupState::Stable { Ok(group) } else { Err(format!("{group:?}")) }
        })
        .await;
        assert_eq!((group.protocol, group.assignor.as_str()), (protocol, assignor), "{group:?}");
        assert_eq!(group.members[0].client_id, "somebody-else");
        let refused = group.refuses(ASSIGNORS);
        assert_eq!(refused.is_some(), assignor == "cooperative-sticky", "{refused:?}");
        other.leave().await;
    }
}

/// The first question about any group makes the broker create the topic of the offsets; for a moment nobody coordinates
/// the group. The first `check` of a new cluster warned of that.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_has_had_no_group_yet_is_asked_until_it_has_a_coordinator() {
    let (database, kafka) = tokio::join!(TestDatabase::migrated("first-group"), PrivateKafka::start());
    let check = outbox_relay(&["check"]).env("DATABASE_URL", &database.url);
    let checked = check.env("KAFKA_BOOTSTRAP_SERVERS", &kafka.bootstrap).run().await;
    // A broker that stalls while it makes the topic answers too late, and that is told.
    let told = ["group outbox-relay has no members now", "(_TIMED_OUT)"];
    assert!(told.iter().any(|told| checked.stdout.contains(told)), "{}", checked.stdout);
}
