//! Copies that Kafka would not keep: a copy has the time of its event, and a topic deletes or refuses what is too old.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::{Context, count};
use crate::broker::admin::{Admin, TopicFacts};
use crate::config::Config;
use crate::error::{Code, Error};
use crate::operations::Result;
use crate::outbox::replay::{Bounds, Filter, Group};
use crate::relay::routing::Routing;

/// Events whose copies would go to a topic that does not keep them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Expired {
    pub topic: String,
    /// The oldest that a record of this topic may be.
    pub max_age_seconds: i64,
    pub events: i64,
}

/// What is to be copied, and where to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Copies<'a> {
    pub(super) filter: &'a Filter,
    pub(super) to_topic: Option<&'a str>,
    /// Behind this id, up to the bound. The time of the bounds is the present.
    pub(super) after: i64,
    pub(super) bounds: Bounds,
    pub(super) groups: &'a [Group],
}

/// Which copies would be deleted or refused, by topic. Empty where Kafka cannot be asked. `None` when it was stopped.
pub(super) async fn expired(context: Context<'_>, copies: Copies<'_>) -> Result<Option<Vec<Expired>>> {
    let settings = context.settings;
    if settings.kafka.bootstrap_servers.trim().is_empty() || copies.groups.is_empty() {
        return Ok(Some(Vec::new()));
    }
    let routing = Routing::new(&settings.routing)?;
    let topics: HashSet<String> = copies.groups.iter().filter_map(|group| topic_of(&routing, copies, group)).collect();
    let facts = match facts_of(settings, &topics).await? {
        Ok(facts) => facts,
        Err(error) => {
            context.progress.remark(&format!("Kafka does not say how long it keeps records: {}", error.chain()));
            return Ok(Some(Vec::new()));
        }
    };
    let untold = facts.values().filter(|facts| !is_told(facts)).count();
    if untold > 0 {
        context.progress.remark(&format!(
            "Kafka does not tell the settings of {untold} topics: whether they keep the copies is not known"
        ));
    }
    let mut found: BTreeMap<(String, i64), i64> = BTreeMap::new();
    for max_age_ms in at_risk(&routing, copies, &facts) {
        let limit = created_before(copies.bounds.now, max_age_ms);
        let older = Filter { to: Some(copies.filter.to.map_or(limit, |to| to.min(limit))), ..copies.filter.clone() };
        let Some(groups) = count(context, &older, copies.after, copies.bounds).await? else { return Ok(None) };
        for group in &groups {
            let Some(topic) = topic_of(&routing, copies, group) else { continue };
            if facts.get(&topic).and_then(TopicFacts::max_age_ms) == Some(max_age_ms) {
                *found.entry((topic, max_age_ms)).or_default() += group.events;
            }
        }
    }
    let line = |((topic, ms), events)| Expired { topic, max_age_seconds: ms / 1_000, events };
    Ok(Some(found.into_iter().map(line).collect()))
}

/// Questions for settings that are not told at once.
const QUESTIONS: u32 = 3;

/// What Kafka says of these topics. A busy broker may answer for a topic and be silent about its settings: it is asked
/// again.
async fn facts_of(settings: &Config, topics: &HashSet<String>) -> Result<Result<HashMap<String, TopicFacts>, Error>> {
    let admin = Admin::new(&settings.kafka)?;
    let mut found = admin.listed(topics).await;
    for _ in 1..QUESTIONS {
        if found.as_ref().is_ok_and(|facts| facts.values().all(is_told)) {
            break;
        }
        found = admin.listed(topics).await;
    }
    Ok(found)
}

/// Every topic has a limit for its records.
fn is_told(facts: &TopicFacts) -> bool {
    facts.max_message_bytes.is_some()
}

fn topic_of(routing: &Routing, copies: Copies<'_>, group: &Group) -> Option<String> {
    let named = copies.to_topic.or(group.topic.as_deref());
    routing.topic_of(named, group.aggregate_type.as_deref(), &group.event_type)
}

/// The limits that the oldest event of some group is beyond.
fn at_risk(routing: &Routing, copies: Copies<'_>, facts: &HashMap<String, TopicFacts>) -> BTreeSet<i64> {
    let beyond = |group: &Group| {
        let limit = facts.get(&topic_of(routing, copies, group)?)?.max_age_ms()?;
        (group.oldest.clamped() < created_before(copies.bounds.now, limit)).then_some(limit)
    };
    copies.groups.iter().filter_map(beyond).collect()
}

fn created_before(now: Timestamp, max_age_ms: i64) -> Timestamp {
    now.checked_sub(SignedDuration::from_millis(max_age_ms)).unwrap_or(Timestamp::MIN)
}

/// Errors: [`Code::CheckNotMet`] when copies would be lost, unless that is `accepted`.
pub(super) fn verdict(expired: &[Expired], accepted: bool) -> Result<(), Error> {
    let events: i64 = expired.iter().map(|line| line.events).sum();
    if events == 0 || accepted {
        return Ok(());
    }
    Err(Error::new(Code::CheckNotMet, format!("Kafka would delete or refuse {events} copies at once, because their events are too old"))
        .hint(
            "a copy has the time of its event, and the topics keep records no longer than retention.ms (and take none beyond \
             message.timestamp.before.max.ms): raise the limit, send the copies elsewhere with --to-topic, leave old events out with --from, \
             or go on all the same with --ignore-retention",
        ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_that_would_be_deleted_is_told_and_refused_unless_that_is_accepted() {
        let expired = [Expired { topic: "orders".to_owned(), max_age_seconds: 60, events: 3 }];
        let refused = verdict(&expired, false).unwrap_err();
        assert_eq!(refused.code(), Code::CheckNotMet);
        assert!(refused.to_string().contains("3 copies"), "{refused}");
        assert!(verdict(&expired, true).is_ok() && verdict(&[], false).is_ok());
    }

    #[test]
    fn the_limit_of_an_age_is_a_time_whatever_the_age() {
        let now: Timestamp = "2026-05-08T00:00:00Z".parse().unwrap();
        assert_eq!(created_before(now, 86_400_000), "2026-05-07T00:00:00Z".parse::<Timestamp>().unwrap());
        assert_eq!(created_before(now, i64::MAX), Timestamp::MIN);
    }
}
