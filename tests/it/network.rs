//! What a network does to single requests and to one direction of a link, by the proxy of the fault harness.

use std::time::Duration;

use crate::proxy::Proxy;
use crate::support::kafka::sent_ids;
use crate::support::order::{self, Report};
use crate::support::outbox::{committed_ids, counts, insert_many, most_attempts, wait_until_published};
use crate::support::relay::{RelaySettings, leases};
use crate::support::{PrivateKafka, TestDatabase, Topic, parts::parts, repeats, side_by_side, unique, wait_until};
use crate::time::pass;
use crate::traps::{How, Protocol, Trap};
use crate::weather::{Direction, Request, Weather};

const PATIENCE: Duration = Duration::from_secs(180);

fn port_of(address: &str) -> u16 {
    address.rsplit(':').next().and_then(|port| port.parse().ok()).expect("host:port")
}

/// A broker whose clients all go through a proxy. Tests reach it past the proxy, by its direct address.
async fn kafka_behind_a_proxy() -> (PrivateKafka, Proxy) {
    let proxy = Proxy::start(Protocol::Kafka).await;
    let kafka = PrivateKafka::start_with(&["--advertised-port", &proxy.port.to_string()]).await;
    proxy.lead_to(port_of(&kafka.bootstrap));
    (kafka, proxy)
}

async fn report(database: &TestDatabase, topic: &Topic) -> Report {
    let client = database.connect().await;
    assert_eq!(most_attempts(&client).await, 0, "the network is nobody's fault");
    order::check(&committed_ids(&client).await, &sent_ids(&topic.records().await))
}

/// The end of a transaction is the one request whose fate decides. Its answer is lost, so the client sends it again; or
/// it comes seconds late, when its transaction is long given up, or in the middle of the next one, and must not end
/// that.
///
/// Promise: exactly-once.
#[tokio::test]
async fn the_end_of_a_transaction_may_be_unanswered_or_late() {
    let late = |seconds| How::Late(Duration::from_secs(seconds));
    let fates = [[How::AnswerLost, late(15)], [How::IntoNext(Duration::from_secs(20)), late(4)]];
    side_by_side(fates, async |fates| {
        let (database, (kafka, proxy)) = tokio::join!(TestDatabase::migrated("end-txn"), kafka_behind_a_proxy());
        let topic = Topic::create_on(&kafka.direct, "end-txn", 6).await;
        let client = database.connect().await;
        let settings = RelaySettings::new(&database, &format!("127.0.0.1:{}", proxy.port))
            .set("relay.delivery", "exactly-once")
            .set("relay.batch_rows", "50")
            // Longer than what is lost takes to be missed: the same relay has to find out.
            .set("relay.lease", "60s");
        let mut relay = settings.start_ready().await;
        let mut written = 0;
        for how in fates {
            let trap = Trap { request: Request::END_TXN, how };
            proxy.traps().set(trap);
            insert_many(&client, &topic.name, 100, 2_000).await;
            written += 2_000;
            wait_until("the trap has sprung", PATIENCE, async || {
                // Looking takes it away, so it is set again if it was still there.
                if !proxy.traps().remove(trap) {
                    return Ok(());
                }
                proxy.traps().set(trap);
                Err("not yet".to_owned())
            })
            .await;
            assert_eq!(wait_until_published(&database, PATIENCE).await, written);
        }
        assert!(relay.is_running(), "{}", relay.log_text());
        report(&database, &topic).await.expect_kept().expect_no_repeats();
        drop((relay, kafka));
    })
    .await;
}

/// Longer than every timeout of the client, and then longer than a transaction may take: requests expire that the
/// broker has, and will carry out.
///
/// Promise: exactly-once.
#[tokio::test]
async fn a_broker_that_stalls_for_longer_than_every_timeout_gets_every_record_once() {
    let kafka = PrivateKafka::start().await;
    let mut running = Vec::new();
    for delivery in ["at-least-once", "exactly-once"] {
        let database = TestDatabase::migrated("stall").await;
        let topic = Topic::create_on(&kafka.bootstrap, "stall", 6).await;
        let relay = RelaySettings::new(&database, &kafka.bootstrap)
            .set("relay.delivery", delivery)
            .set("run.deployment", &unique("stall"))
            .set("relay.batch_rows", "100")
            .set("relay.publish_timeout", "10m")
            .steady()
            .start_ready()
            .await;
        running.push((database, topic, relay));
    }
    for seconds in [2, 40] {
        for (database, topic, _) in &running {
            let client = database.connect().await;
            insert_many(&client, &topic.name, 100, 3_000).await;
            wait_until("some of it is out", PATIENCE, async || {
                let pending = counts(&client).await.get("PENDING").copied().unwrap_or(0);
                if pending < 2_800 { Ok(()) } else { Err(format!("{pending}")) }
            })
            .await;
        }
        kafka.pause().await;
        // The length of the stall is what is tried here; there is nothing to wait for.
        pass(Duration::from_secs(seconds)).await;
        kafka.resume().await;
        for (database, ..) in &running {
            wait_until_published(database, PATIENCE).await;
        }
    }
    for (database, topic, _) in &running {
        report(database, topic).await.expect_kept().expect_no_repeats();
    }
}

/// The link to Kafka works in one direction only: requests arrive and nobody is told, or nothing arrives. The lanes
/// wait, and the client asks again under the same numbers.
#[tokio::test]
async fn kafka_that_can_be_reached_in_one_direction_only_is_waited_for() {
    let (kafka, proxy) = kafka_behind_a_proxy().await;
    let mut running = Vec::new();
    for delivery in ["at-least-once", "exactly-once"] {
        let database = TestDatabase::migrated("one-way").await;
        let topic = Topic::create_on(&kafka.direct, "one-way", 6).await;
        let relay = RelaySettings::new(&database, &format!("127.0.0.1:{}", proxy.port))
            .steady()
            .set("relay.delivery", delivery)
            .set("run.deployment", &unique("one-way"))
            .set("relay.batch_rows", "50")
            .set("relay.publish_timeout", "10m")
            .start_ready()
            .await;
        running.push((delivery, database.connect().await, database, topic, relay));
    }
    let mut written = 0;
    for direction in [Direction::Answers, Direction::Requests] {
        for (_, client, _, topic, _) in &running {
            insert_many(client, &topic.name, 100, 2_000).await;
        }
        written += 2_000;
        for (_, client, ..) in &running {
            wait_until("some of it is out", PATIENCE, async || {
                let published = counts(client).await.get("PUBLISHED").copied().unwrap_or(0);
                if published > written - 1_800 { Ok(()) } else { Err(format!("{published}")) }
            })
            .await;
        }
        proxy.set_weather(direction, Some(Weather::Swallow));
        // However far the relays were by then, there is more.
        for (_, client, _, topic, _) in &running {
            insert_many(client, &topic.name, 100, 1_000).await;
        }
        written += 1_000;
        for (delivery, client, _, _, relay) in &running {
            relay.wait_for_readiness(503, "").await;
            let waiting = counts(client).await.get("PENDING").copied().unwrap_or(0);
            assert!(waiting >= 1_000, "{delivery} {direction:?}: it was over too soon: {waiting}");
        }
        proxy.set_weather(direction, None);
        for (delivery, _, database, ..) in &running {
            assert_eq!(wait_until_published(database, PATIENCE).await, written, "{delivery} {direction:?}");
        }
    }
    for (_, _, database, topic, relay) in &mut running {
        report(database, topic).await.expect_kept().expect_no_repeats();
        assert!(relay.is_running(), "{}", relay.log_text());
    }
}

/// One instance is cut off from PostgreSQL in one direction: its bytes arrive and no answer comes, or nothing arrives.
/// It has to stop before its lease is over, because then another one sends.
#[tokio::test]
async fn an_instance_cut_off_in_one_direction_leaves_its_shards_to_another() {
    side_by_side(
        [
            ("at-least-once", Direction::Answers),
            ("exactly-once", Direction::Answers),
            ("exactly-once", Direction::Requests),
        ],
        async |(delivery, direction)| {
            let (database, topic) = tokio::join!(TestDatabase::migrated("cut-off"), Topic::create("cut-off", 6));
            let client = database.connect().await;
            let server = database.url.split('@').nth(1).and_then(|rest| rest.split('/').next()).expect("host:port");
            let proxy = Proxy::to(Protocol::Postgres, port_of(server)).await;
            let url = database.url.replace(server, &format!("127.0.0.1:{}", proxy.port));
            let deployment = unique("cut-off");
            let settings = |name: &str| {
                RelaySettings::new(&database, &parts().kafka)
                    .set("relay.delivery", delivery)
                    .set("run.deployment", &deployment)
                    .set("relay.batch_rows", "50")
                    .instance(name)
            };
            let first = settings("first").env("DATABASE_URL", &url).start_ready().await;
            wait_until("the first has all shards", PATIENCE, async || {
                let leases = leases(&client).await;
                if leases.get("first") == Some(&8) { Ok(()) } else { Err(format!("{leases:?}")) }
            })
            .await;
            insert_many(&client, &topic.name, 100, 4_000).await;
            proxy.set_weather(direction, Some(Weather::Swallow));
            let second = settings("second").start_ready().await;
            wait_until("the second has all shards", PATIENCE, async || {
                let leases = leases(&client).await;
                if leases.get("second") == Some(&8) { Ok(()) } else { Err(format!("{leases:?}")) }
            })
            .await;
            assert_eq!(wait_until_published(&database, PATIENCE).await, 4_000, "{delivery} {direction:?}");
            proxy.set_weather(direction, None);
            insert_many(&client, &topic.name, 100, 1_000).await;
            assert_eq!(wait_until_published(&database, PATIENCE).await, 5_000, "{delivery} {direction:?}");
            let report = report(&database, &topic).await;
            report.expect_kept();
            match delivery {
                "exactly-once" => drop(report.expect_no_repeats()),
                _ => {
                    let allowed = [&first, &second].map(|relay| repeats::allowed_by(&relay.log_text(), 50, false));
                    assert!(report.repeats <= allowed.iter().sum(), "{report:?}, {allowed:?} are allowed");
                }
            }
            drop((first, second));
        },
    )
    .await;
}
