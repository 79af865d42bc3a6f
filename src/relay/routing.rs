//! Which topic an event goes to: its own, or the first rule that matches.

use regex::Regex;

use crate::broker::is_topic_name;
use crate::config::{DeadLetterConfig, RoutingConfig, RoutingRule};
use crate::error::{Code, Error, Result};
use crate::event::OutboxEvent;

/// Topics that brokers keep for themselves. Others may be of the cluster's own, too; the broker then says so.
const INTERNAL_TOPICS: [&str; 4] =
    ["__consumer_offsets", "__transaction_state", "__share_group_state", "__cluster_metadata"];

/// The rules, compiled.
#[derive(Debug)]
pub struct Routing {
    rules: Vec<Rule>,
    allowed: Vec<Regex>,
    /// Topics that `[dead_letter]` can name.
    dead_letters: Option<Regex>,
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
    #[error("\"{0}\" is an internal topic of Kafka, which does not accept records from clients")]
    Internal(String),
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
        Ok(Self { rules, allowed, dead_letters: None })
    }

    /// Dead letters may go to the topics that this setting names, whatever else is allowed.
    ///
    /// Errors: as of [`Routing::new`].
    pub fn with_dead_letters(self, settings: &DeadLetterConfig) -> Result<Self> {
        let pattern = whole(&regex::escape(&settings.topic).replace("\\{topic\\}", "[A-Za-z0-9._-]+"))?;
        Ok(Self { dead_letters: Some(pattern), ..self })
    }

    /// The topic of an event.
    pub fn topic(&self, event: &OutboxEvent<'_>) -> Result<String, RoutingError> {
        let topic = match event.topic {
            Some(topic) => topic.to_owned(),
            None => {
                let by_rule = |rule: &Rule| rule.apply(event.aggregate_type, event.event_type);
                self.rules.iter().find_map(by_rule).ok_or(RoutingError::NoTopic)?
            }
        };
        let made_by_setting = || self.dead_letters.as_ref().is_none_or(|pattern| pattern.is_match(&topic));
        if event.dead_letter_of.is_some() && is_topic_name(&topic) && made_by_setting() {
            // By a setting, and not by an application that passes its event off as a dead letter.
            return Ok(topic);
        }
        self.allows(&topic)?;
        Ok(topic)
    }

    /// The topic of events that name this one, or none, and have these types.
    pub fn topic_of(&self, topic: Option<&str>, aggregate_type: Option<&str>, event_type: &str) -> Option<String> {
        let by_rule = || self.rules.iter().find_map(|rule| rule.apply(aggregate_type, event_type));
        topic.map(str::to_owned).or_else(by_rule).filter(|topic| self.allows(topic).is_ok())
    }

    /// Whether events may go to this topic.
    pub fn allows(&self, topic: &str) -> Result<(), RoutingError> {
        if !is_topic_name(topic) {
            return Err(RoutingError::Invalid(shortened(topic)));
        }
        if INTERNAL_TOPICS.contains(&topic) {
            return Err(RoutingError::Internal(topic.to_owned()));
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

    fn apply(&self, aggregate_type: Option<&str>, event_type: &str) -> Option<String> {
        let aggregate_type = aggregate_type.unwrap_or_default();
        let matches =
            |pattern: &Option<Regex>, text: &str| pattern.as_ref().is_none_or(|pattern| pattern.is_match(text));
        if !matches(&self.aggregate_type, aggregate_type) || !matches(&self.event_type, event_type) {
            return None;
        }
        // Groups first: the row's text is inserted afterwards, so that a `$` in it means nothing.
        let grouped = match (&self.aggregate_type, &self.event_type) {
            (Some(pattern), _) => expand(pattern, aggregate_type, &self.topic),
            (None, Some(pattern)) => expand(pattern, event_type, &self.topic),
            (None, None) => self.topic.clone(),
        };
        Some(grouped.replace("{aggregate_type}", aggregate_type).replace("{event_type}", event_type))
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

    #[test]
    fn a_dead_letter_goes_where_the_setting_sends_it_and_nowhere_else() {
        let settings = DeadLetterConfig { topic: "{topic}-dlq".to_owned() };
        let rules = routing(&[], &["orders"]).with_dead_letters(&settings).unwrap();
        let topic = |topic: &str, dead_letter_of| {
            let mut event = event();
            (event.topic, event.dead_letter_of) = (Some(topic), dead_letter_of);
            rules.topic(&event)
        };
        assert_eq!(topic("orders-dlq", Some(1)).as_deref(), Ok("orders-dlq"));
        assert_eq!(topic("orders", Some(1)).as_deref(), Ok("orders"), "it is allowed anyway");
        assert_eq!(topic("payments", Some(1)), Err(RoutingError::NotAllowed("payments".to_owned())));
        assert_eq!(topic("orders-dlq", None), Err(RoutingError::NotAllowed("orders-dlq".to_owned())));
    }

    #[test]
    fn topics_of_kafkas_own_are_refused_before_anything_is_sent() {
        let rules = routing(&[(None, Some("(.*)"), "$1")], &["*"]);
        let internal = "__consumer_offsets";
        assert_eq!(routed(&rules, "", internal), Err(RoutingError::Internal(internal.to_owned())));
        assert!(routed(&rules, "", "__consumer_offsets2").is_ok());
    }

    proptest! {
        #[test]
        fn topic_names_agree_with_kafkas_expression(name in "\\PC{0,260}|[A-Za-z0-9._-]{0,260}") {
            let kafka = Regex::new("^[A-Za-z0-9._-]{1,249}$").unwrap();
            prop_assert_eq!(is_topic_name(&name), kafka.is_match(&name) && name != "." && name != "..");
        }
    }
}
