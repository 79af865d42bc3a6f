//! Rules of `[consumer]` and `[[projection]]`.

use super::Rules;
use super::names::legal_topic;
use crate::config::{ConsumerConfig, ProjectionConfig};

impl ConsumerConfig {
    pub(super) fn check(&self, rules: &mut Rules<'_, '_>) {
        rules.name("consumer.group", &self.group);
        rules.topics("consumer.topics", &self.topics);
        if self.enabled && self.topics.is_empty() {
            let help = "name the topics, or set `consumer.enabled` to false";
            rules.refuse(&["consumer.topics"], "the consumer has no topic to read", help);
        }
    }
}

pub(super) fn check_projections(
    projections: &[ProjectionConfig],
    consumer: &ConsumerConfig,
    rules: &mut Rules<'_, '_>,
) {
    for (index, projection) in projections.iter().enumerate() {
        let key = |field: &str| format!("projection[{index}].{field}");
        rules.name(&key("name"), &projection.name);
        if let Some(first) =
            projections[..index].iter().position(|other| other.name == projection.name && !other.name.is_empty())
        {
            let why = format!("another projection is called `{}` too", projection.name);
            rules.refuse(
                &[&key("name"), &format!("projection[{first}].name")],
                why,
                "logs and metrics identify projections by name",
            );
        }
        if projection.sql.as_os_str().is_empty() {
            rules.refuse(
                &[&key("sql")],
                "a projection needs its SQL file in `sql`",
                "the path is relative to the settings file",
            );
        }
        rules.topics(&key("topics"), &projection.topics);
        for (item, topic) in projection.topics.iter().enumerate() {
            if legal_topic(topic).is_ok() && !consumer.topics.contains(topic) {
                let why = format!("`{topic}` is not in `consumer.topics`, so the projection would never see it");
                rules.refuse(
                    &[&format!("projection[{index}].topics[{item}]"), "consumer.topics"],
                    why,
                    "add it to `consumer.topics`",
                );
            }
        }
    }
}
