//! Kafka: asks, and judges what it hears.

use std::collections::{BTreeMap, BTreeSet};

use super::finding::{Finding, Part};
use super::group;
use super::postgres::OutboxTopics;
use crate::broker::admin::{Admin, TopicFacts};
use crate::broker::is_topic_name;
use crate::config::{Config, Delivery, RunConfig};
use crate::error::Result;
use crate::relay::policy::Policy;
use crate::relay::progress;

/// Who needs a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Need {
    /// So many waiting events name it.
    Waiting(i64),
    Routed,
    Consumed,
}

impl Need {
    fn text(&self) -> String {
        match self {
            Self::Waiting(events) => format!("{events} waiting event(s) name it"),
            Self::Routed => "a routing rule names it".to_owned(),
            Self::Consumed => "the consumer reads it".to_owned(),
        }
    }
}

/// Adds what there is to say of Kafka and the topics.
/// Errors: settings that the client library refuses.
pub(super) async fn look(settings: &Config, topics: &OutboxTopics, findings: &mut Vec<Finding>) -> Result<()> {
    let admin = Admin::new(&settings.kafka)?;
    let brokers = match admin.cluster().await {
        Ok(cluster) => cluster.brokers,
        Err(error) => {
            findings.push(Finding::failed(Part::Kafka, "kafka.connection", &error));
            return Ok(());
        }
    };
    let names: Vec<_> = brokers.iter().map(|(_, address)| address.as_str()).collect();
    findings.push(Finding::ok(
        Part::Kafka,
        "kafka.connection",
        format!("{} broker(s): {}", brokers.len(), names.join(", ")),
    ));
    routing(settings, topics, findings);
    let needed = topics_needed(settings, topics);
    for (topic, needs) in &needed {
        match admin.topic(topic).await {
            Ok(Some(facts)) => judge_topic(topic, &facts, brokers.len(), settings, findings),
            Ok(None) => findings.push(missing(topic, needs, brokers.len(), settings)),
            Err(error) => findings.push(Finding::failed(Part::Kafka, "kafka.topic", &error)),
        }
    }
    let policy = Policy::new(&settings.retry, &settings.dead_letter)?;
    for (topic, sources) in dead_letter_topics(settings, &policy, topics) {
        match admin.topic(&topic).await {
            // Looked at above.
            Ok(Some(_)) if needed.contains_key(&topic) => {}
            Ok(Some(facts)) => judge_topic(&topic, &facts, brokers.len(), settings, findings),
            Ok(None) => findings.push(missing_dead_letters(&topic, &sources, brokers.len())),
            Err(error) => findings.push(Finding::failed(Part::Kafka, "kafka.dead_letters", &error)),
        }
    }
    group::look(settings, &admin, findings).await;
    if settings.relay.enabled && settings.relay.delivery == Delivery::ExactlyOnce {
        exactly_once(settings, &admin, brokers.len(), findings).await;
    }
    Ok(())
}

/// What exactly-once delivery needs beside the topics of the events.
async fn exactly_once(settings: &Config, admin: &Admin, brokers: usize, findings: &mut Vec<Finding>) {
    let topic = progress::name_of(&settings.run.deployment);
    match admin.topic(&topic).await {
        Ok(Some(facts)) => judge_topic(&topic, &facts, brokers, settings, findings),
        Ok(None) => findings.push(Finding::ok(
            Part::Kafka,
            "kafka.progress",
            format!("topic {topic} does not exist yet: the relay creates it, one partition per shard, if it may"),
        )),
        Err(error) => findings.push(Finding::failed(Part::Kafka, "kafka.progress", &error)),
    }
    if settings.run.deployment == RunConfig::default().deployment {
        findings.push(Finding::warning(
            Part::Kafka,
            "kafka.deployment",
            format!("exactly-once delivery with run.deployment = \"{}\", the default", settings.run.deployment),
            "it names the transactions: a second outbox with the same name on this cluster is stopped with status 78",
            "give this deployment its own name before its first run",
        ));
    }
}

/// Every topic that is known to be needed, with who needs it.
fn topics_needed(settings: &Config, topics: &OutboxTopics) -> BTreeMap<String, Vec<Need>> {
    let mut needed: BTreeMap<String, Vec<Need>> = BTreeMap::new();
    if settings.relay.enabled {
        for (topic, events) in &topics.waiting {
            if let Some(topic) = topic {
                needed.entry(topic.clone()).or_default().push(Need::Waiting(*events));
            }
        }
        // A topic with a placeholder is known only when an event comes.
        for rule in settings.routing.rule.iter().filter(|rule| !rule.topic.contains(['$', '{'])) {
            needed.entry(rule.topic.clone()).or_default().push(Need::Routed);
        }
    }
    if settings.consumer.enabled {
        for topic in &settings.consumer.topics {
            needed.entry(topic.clone()).or_default().push(Need::Consumed);
        }
    }
    needed
}

/// Every dead-letter topic that `[retry]` may use, as far as the topics of events are known, with those topics.
fn dead_letter_topics(settings: &Config, policy: &Policy, topics: &OutboxTopics) -> BTreeMap<String, Vec<String>> {
    let mut letters: BTreeMap<String, Vec<String>> = BTreeMap::new();
    if !settings.relay.enabled {
        return letters;
    }
    let waiting = topics.waiting.iter().filter_map(|(topic, _)| topic.clone());
    let routed = settings.routing.rule.iter().map(|rule| rule.topic.clone());
    // A rule's topic with a placeholder is no name.
    let known: BTreeSet<String> =
        waiting.chain(routed).chain(topics.recent.iter().cloned()).filter(|topic| is_topic_name(topic)).collect();
    for topic in &known {
        if let Some(dead_letters) = policy.dead_letter_topic(topic) {
            letters.entry(dead_letters).or_default().push(topic.clone());
        }
    }
    // Dead letters wait in the outbox too, and leave none of their own.
    let names: BTreeSet<String> = letters.keys().cloned().collect();
    for sources in letters.values_mut() {
        sources.retain(|topic| !names.contains(topic));
    }
    letters.retain(|_, sources| !sources.is_empty());
    letters
}

fn routing(settings: &Config, topics: &OutboxTopics, findings: &mut Vec<Finding>) {
    let without_topic: i64 = topics.waiting.iter().filter(|(topic, _)| topic.is_none()).map(|(_, events)| events).sum();
    if settings.relay.enabled && without_topic > 0 && settings.routing.rule.is_empty() {
        findings.push(Finding::problem(
            Part::Kafka,
            "kafka.routing",
            format!("{without_topic} waiting event(s) name no topic, and there is no routing rule"),
            "an event without a topic fails, and its key is held",
            "add a [[routing.rule]] to the settings, or let the application set the topic",
        ));
    }
}

fn missing(topic: &str, needs: &[Need], brokers: usize, settings: &Config) -> Finding {
    let why = needs.iter().map(Need::text).collect::<Vec<_>>().join("; ");
    let grace = settings.relay.unknown_topic_grace.as_secs();
    let leads_to = if needs.iter().all(|need| *need == Need::Consumed) {
        "it waits until the topic exists".to_owned()
    } else {
        format!("events for it wait {grace} s and then fail")
    };
    Finding::problem(
        Part::Kafka,
        "kafka.topic",
        format!("topic {topic} does not exist"),
        format!("{why}; {leads_to}"),
        create(topic, brokers),
    )
}

fn missing_dead_letters(topic: &str, sources: &[String], brokers: usize) -> Finding {
    Finding::problem(
        Part::Kafka,
        "kafka.dead_letters",
        format!("dead-letter topic {topic} does not exist"),
        format!("[retry] sends dead letters of {} to it; until it is there they fail too", sources.join(", ")),
        create(topic, brokers),
    )
}

/// The command that makes a topic, as safe as this cluster can be.
fn create(topic: &str, brokers: usize) -> String {
    let replicas = brokers.clamp(1, 3);
    let in_sync = replicas.saturating_sub(1).max(1);
    format!(
        "kafka-topics.sh --create --topic {topic} --replication-factor {replicas} --config min.insync.replicas={in_sync}"
    )
}

fn judge_topic(topic: &str, facts: &TopicFacts, brokers: usize, settings: &Config, findings: &mut Vec<Finding>) {
    let before = findings.len();
    let replicas = facts.replication;
    let min_insync = facts.min_insync_replicas.map(|min| min as usize);
    let alter = |config: &str| {
        format!("kafka-configs.sh --alter --entity-type topics --entity-name {topic} --add-config {config}")
    };
    if replicas < 2 {
        findings.push(Finding::warning(
            Part::Kafka,
            "kafka.replication",
            format!("topic {topic} has one replica"),
            if brokers < 2 {
                "an acknowledged event is lost with the disk of the only broker"
            } else {
                "an acknowledged event is lost with the disk of one broker"
            },
            "use three replicas and min.insync.replicas=2 where events matter",
        ));
    } else if min_insync.is_some_and(|min| min > replicas) {
        findings.push(Finding::problem(
            Part::Kafka,
            "kafka.min_insync_replicas",
            format!("topic {topic} requires {} in-sync replicas but has {replicas}", min_insync.unwrap_or_default()),
            "Kafka rejects every record",
            alter("min.insync.replicas=2"),
        ));
    } else if min_insync == Some(replicas) {
        findings.push(Finding::warning(
            Part::Kafka,
            "kafka.min_insync_replicas",
            format!("topic {topic} needs all of its {replicas} replicas"),
            "while any one broker is down, nothing can be published to it",
            "add a replica, or lower min.insync.replicas to one less than the replicas",
        ));
    } else if min_insync == Some(1) {
        findings.push(Finding::warning(
            Part::Kafka,
            "kafka.min_insync_replicas",
            format!("topic {topic} has min.insync.replicas=1"),
            "an acknowledged event can be lost if the leader dies before a follower has it",
            alter("min.insync.replicas=2"),
        ));
    }
    let ours = settings.relay.max_record_bytes.as_u64();
    if let Some(theirs) = facts.max_message_bytes.filter(|theirs| *theirs < ours) {
        findings.push(Finding::warning(
            Part::Kafka,
            "kafka.max_message_bytes",
            format!("topic {topic} takes records up to {theirs} bytes, relay.max_record_bytes is {ours}"),
            "an event between the two fails, and its key is held",
            alter(&format!("max.message.bytes={ours}")),
        ));
    }
    if findings.len() == before {
        let sync = min_insync.map_or_else(String::new, |min| format!(", {min} of them in sync"));
        findings.push(Finding::ok(
            Part::Kafka,
            "kafka.topic",
            format!("topic {topic}: {} partition(s), {replicas} replica(s){sync}", facts.partitions),
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{OnExhausted, RoutingRule};
    use crate::operations::check::finding::Level;

    fn judged(facts: &TopicFacts) -> Vec<(&'static str, Level)> {
        let mut findings = Vec::new();
        judge_topic("orders", facts, 3, &Config::default(), &mut findings);
        findings.iter().map(|finding| (finding.check, finding.level)).collect()
    }

    fn safe() -> TopicFacts {
        TopicFacts {
            partitions: 6,
            replication: 3,
            max_message_bytes: Some(1_048_588),
            min_insync_replicas: Some(2),
            timestamps: crate::broker::admin::Timestamps::default(),
            compacted: false,
            retention_ms: None,
            places: Vec::new(),
        }
    }

    #[test]
    fn a_safe_topic_is_ok_and_unknown_settings_are_not_held_against_it() {
        assert_eq!(judged(&safe()), [("kafka.topic", Level::Ok)]);
        let untold = TopicFacts { max_message_bytes: None, min_insync_replicas: None, ..safe() };
        assert_eq!(judged(&untold), [("kafka.topic", Level::Ok)]);
    }

    #[test]
    fn replicas_that_lose_or_stop_are_told_apart() {
        let min = |min| judged(&TopicFacts { min_insync_replicas: Some(min), ..safe() })[0];
        assert_eq!(min(1), ("kafka.min_insync_replicas", Level::Warning));
        assert_eq!(min(3), ("kafka.min_insync_replicas", Level::Warning));
        assert_eq!(min(4), ("kafka.min_insync_replicas", Level::Problem));
        assert_eq!(judged(&TopicFacts { replication: 1, ..safe() }), [("kafka.replication", Level::Warning)]);
    }

    #[test]
    fn a_topic_that_takes_less_than_we_send_is_warned_of() {
        let small = TopicFacts { max_message_bytes: Some(500_000), ..safe() };
        assert_eq!(judged(&small), [("kafka.max_message_bytes", Level::Warning)]);
    }

    #[test]
    fn topics_come_from_waiting_events_rules_and_the_consumer() {
        let mut settings = Config::default();
        settings.consumer.topics = vec!["orders".to_owned()];
        settings.routing.rule = ["billing", "{aggregate_type}-events"]
            .map(|topic| RoutingRule { topic: topic.to_owned(), ..RoutingRule::default() })
            .to_vec();
        let topics =
            OutboxTopics { waiting: vec![(Some("orders".to_owned()), 7), (None, 2)], ..OutboxTopics::default() };
        let needed = topics_needed(&settings, &topics);
        assert_eq!(needed.keys().collect::<Vec<_>>(), ["billing", "orders"]);
        assert_eq!(needed["orders"], [Need::Waiting(7), Need::Consumed]);
    }

    #[test]
    fn events_that_nothing_routes_are_a_problem() {
        let mut findings = Vec::new();
        let topics = OutboxTopics { waiting: vec![(None, 2)], ..OutboxTopics::default() };
        routing(&Config::default(), &topics, &mut findings);
        assert_eq!(findings[0].level, Level::Problem);
    }

    #[test]
    fn dead_letter_topics_are_those_of_every_known_topic_and_of_no_dead_letter() {
        let mut settings = Config::default();
        settings.routing.rule = ["billing", "{aggregate_type}-events"]
            .map(|topic| RoutingRule { topic: topic.to_owned(), ..RoutingRule::default() })
            .to_vec();
        let topics = OutboxTopics {
            waiting: vec![(Some("orders".to_owned()), 7), (Some("orders-dlq".to_owned()), 1), (None, 2)],
            recent: vec!["catalog".to_owned(), "orders".to_owned()],
        };
        let of = |settings: &Config| {
            dead_letter_topics(settings, &Policy::new(&settings.retry, &settings.dead_letter).unwrap(), &topics)
        };
        assert!(of(&settings).is_empty(), "nothing is sent there: on_exhausted is hold");
        settings.retry.on_exhausted = OnExhausted::DeadLetter;
        let names: Vec<_> = of(&settings).into_keys().collect();
        assert_eq!(names, ["billing-dlq", "catalog-dlq", "orders-dlq"]);
        settings.dead_letter.topic = "dead".to_owned();
        assert_eq!(of(&settings)["dead"], ["billing", "catalog", "orders", "orders-dlq"]);
        settings.relay.enabled = false;
        assert!(of(&settings).is_empty());
    }
}
