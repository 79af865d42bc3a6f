//! Checks the topics of the running consumer from outside it: its client says nothing about a missing topic, and little
//! about a partition without a leader.

use std::time::Duration;

use super::group::missing;
use crate::broker::admin::Admin;
use crate::broker::ends::NO_LEADER;
use crate::error::{Code, Error};
use crate::signals::{Board, Situation, Source, Wait};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// For as long as it is polled.
pub async fn topics(admin: Admin, topics: Vec<String>, board: Board) {
    loop {
        let waits = look(&admin, &topics).await;
        board.report(Source::Watch, waits);
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn look(admin: &Admin, topics: &[String]) -> Vec<Wait> {
    let mut waits = Vec::new();
    for topic in topics {
        match admin.places(topic).await {
            Ok(None) => waits.push(missing(topic)),
            Ok(Some(places)) => {
                let without = places.iter().enumerate().filter(|(_, place)| !place.has_leader);
                waits.extend(without.map(|(n, _)| {
                    let partition = i32::try_from(n).unwrap_or(i32::MAX);
                    Wait::new(Situation::NoLeader).of_partition(topic, partition).because(NO_LEADER)
                }));
            }
            Err(error) if error.code() == Code::KafkaUnreachable => {
                waits.push(unreachable(&error));
                // Each of the others would wait as long.
                break;
            }
            Err(error) => waits.push(Wait::new(Situation::KafkaRefused).of_topic(topic).because(error.to_string())),
        }
    }
    waits
}

/// Without the cause, which may say where the brokers are.
pub fn unreachable(error: &Error) -> Wait {
    Wait::new(Situation::KafkaAway).because(error.to_string())
}
