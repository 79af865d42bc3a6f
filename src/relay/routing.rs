//! Which topic an event goes to: its own, or the first rule that matches.

use regex::Regex;

use crate::broker::is_topic_name;
use crate::config::{RoutingConfig, RoutingRule};
use crate::error::{Code, Error, Result};
use crate::event::OutboxEvent;

/// The rules, compiled.
#[derive(Debug)]
pub struct Routing {
    rules: Vec<Rule>,
    allowed: Vec<Regex>,
}

#[derive(Debug)]
struct Rule {
    aggregate_type: Option<Regex>,
    event_type: Option<Regex>,
    topic: String,
}

/// Why an event has no topic it may go to. The text goes to `last_error`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RoutingError {
    #[error(
        "the row names no topic and no routing rule matches its aggregate type and event type; set topic, or add a [[routing.rule]]"
    )]
    NoTopic,
    #[error("\"{0}\" is not a topic name; allowed are 1 to 249 of the characters A-Z a-z 0-9 . _ - except . and ..")]
    Invalid(String),
    #[error("\"{0}\" is not in routing.allowed_topics")]
    NotAllowed(String),
}

impl Routing {
    /// Errors: [`Code::ConfigInvalid`] for an expression that does not compile.
    pub fn new(settings: &RoutingConfig) -> Result<Self> {
        let rules = settings.rule.iter().map(Rule::new).collect::<Result<_>>()?;
        let allowed = settings
            .allowed_topics
            .iter()
            .map(|pattern| whole(&regex::escape(pattern).replace("\\*", ".*")))
            .collect::<Result<_>>()?;
        Ok(Self { rules, allowed })
    }

    /// The topic of an event.
    pub fn topic(&self, event: &OutboxEvent<'_>) -> Result<String, RoutingError> {
        let topic = match event.topic {
            Some(topic) => topic.to_owned(),
            None => self.rules.iter().find_map(|rule| rule.apply(event)).ok_or(RoutingError::NoTopic)?,
        };
        if event.dead_letter_of.is_some() && is_topic_name(&topic) {
            // The topic of a dead letter was made by a setting, not by an application.
            return Ok(topic);
        }
        self.allows(&topic)?;
        Ok(topic)
    }

    /// Whether events may go to this topic.
    pub fn allows(&self, topic: &str) -> Result<(), RoutingError> {
        if !is_topic_name(topic) {
            return Err(RoutingError::Invalid(shortened(topic)));
        }
        if !self.allowed.is_empty() && !self.allowed.iter().any(|pattern| pattern.is_match(topic)) {
            return Err(RoutingError::NotAllowed(topic.to_owned()));
        }
        Ok(())
    }
}

impl Rule {
    fn new(rule: &RoutingRule) -> Result<Self> {
        let compile = |text: &Option<String>| text.as_deref().map(whole).transpose();
        Ok(Self {
            aggregate_type: compile(&rule.aggregate_type)?,
            event_type: compile(&rule.event_type)?,
            topic: rule.topic.clone(),
        })
    }

    fn apply(&self, event: &OutboxEvent<'_>) -> Option<String> {
        let aggregate_type = event.aggregate_type.unwrap_or_default();
        let matches =
            |pattern: &Option<Regex>, text: &str| pattern.as_ref().is_none_or(|pattern| pattern.is_match(text));
        if !matches(&self.aggregate_type, aggregate_type) || !matches(&self.event_type, event.event_type) {
            return None;
        }
        // Groups first: the row's text is inserted afterwards, so that a `$` in it means nothing.
        let grouped = match (&self.aggregate_type, &self.event_type) {
            (Some(pattern), _) => expand(pattern, aggregate_type, &self.topic),
            (None, Some(pattern)) => expand(pattern, event.event_type, &self.topic),
            (None, None) => self.topic.clone(),
        };
        Some(grouped.replace("{aggregate_type}", aggregate_type).replace("{event_type}", event.event_type))
    }
}

fn expand(pattern: &Regex, text: &str, template: &str) -> String {
    let mut topic = String::new();
    if let Some(groups) = pattern.captures(text) {
        groups.expand(template, &mut topic);
    }
    topic
}

fn whole(pattern: &str) -> Result<Regex> {
    Regex::new(&format!("^(?:{pattern})$")).map_err(|error| {
        Error::new(Code::ConfigInvalid, "an expression in [routing] does not compile").caused_by(error)
    })
}

/// Enough of a bad name to recognise it.
fn shortened(name: &str) -> String {
    name.chars().take(80).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::encode::tests::event;
    use proptest::prelude::*;

    fn routing(rules: &[(Option<&str>, Option<&str>, &str)], allowed: &[&str]) -> Routing {
        let rule = rules
            .iter()
            .map(|(aggregate, kind, topic)| RoutingRule {
                aggregate_type: aggregate.map(str::to_owned),
                event_type: kind.map(str::to_owned),
                topic: (*topic).to_owned(),
            })
            .collect();
        Routing::new(&RoutingConfig { allowed_topics: allowed.iter().map(|name| (*name).to_owned()).collect(), rule })
            .unwrap()
    }

    fn routed(routing: &Routing, aggregate: &str, kind: &str) -> Result<String, RoutingError> {
        let mut event = event();
        (event.topic, event.aggregate_type, event.event_type) = (None, Some(aggregate), kind);
        routing.topic(&event)
    }

    #[test]
    fn the_first_rule_that_matches_the_whole_text_gives_the_topic() {
        let rules = routing(
            &[
                (Some("Ord(er)"), None, "$1-events"),
                (None, Some("(?P<what>Like).*"), "${what}.{aggregate_type}"),
                (Some("P.*"), Some("X"), "px"),
            ],
            &[],
        );
        assert_eq!(routed(&rules, "Order", "Any").as_deref(), Ok("er-events"));
        assert_eq!(routed(&rules, "Orders", "LikeAdded").as_deref(), Ok("Like.Orders"));
        assert_eq!(routed(&rules, "Product", "X").as_deref(), Ok("px"));
        assert_eq!(routed(&rules, "Product", "Y"), Err(RoutingError::NoTopic));
    }

    #[test]
    fn a_rule_that_makes_no_topic_name_is_refused() {
        let rules = routing(&[(Some(".*"), None, "{aggregate_type} events")], &[]);
        assert_eq!(routed(&rules, "Order", "X"), Err(RoutingError::Invalid("Order events".to_owned())));
    }

    #[test]
    fn only_allowed_topics_pass() {
        let rules = routing(&[(None, Some("(.*)"), "$1")], &["orders", "shop.*"]);
        assert_eq!(routed(&rules, "", "shop.a").as_deref(), Ok("shop.a"));
        assert_eq!(routed(&rules, "", "shopXa"), Err(RoutingError::NotAllowed("shopXa".to_owned())));
        assert_eq!(routed(&rules, "", "orders2"), Err(RoutingError::NotAllowed("orders2".to_owned())));
    }

    proptest! {
        #[test]
        fn topic_names_agree_with_kafkas_expression(name in "\\PC{0,260}|[A-Za-z0-9._-]{0,260}") {
            let kafka = Regex::new("^[A-Za-z0-9._-]{1,249}$").unwrap();
            prop_assert_eq!(is_topic_name(&name), kafka.is_match(&name) && name != "." && name != "..");
        }
    }
}
