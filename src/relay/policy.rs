//! `[retry]` as a decision: what to do with an event that was rejected.

use std::time::Duration;

use regex::Regex;

use crate::config::{DeadLetterConfig, OnExhausted, RetryConfig, RetryRule};
use crate::error::{Code, Error, Result};
use crate::event::FailureClass;
use crate::outbox::failure::{FailedEvent, FailureAction, FailurePolicy};

/// The settings, compiled.
#[derive(Debug)]
pub struct Policy {
    default: Terms,
    multiplier: f64,
    jitter: f64,
    rules: Vec<Rule>,
    dead_letter_topic: String,
}

/// What a rule may change.
#[derive(Debug, Clone, Copy)]
struct Terms {
    max_attempts: u32,
    initial_backoff: Duration,
    max_backoff: Duration,
    on_exhausted: OnExhausted,
}

#[derive(Debug)]
struct Rule {
    topic: Option<Regex>,
    event_type: Option<Regex>,
    class: Option<FailureClass>,
    terms: Terms,
}

impl Policy {
    /// Errors: a pattern that does not compile.
    pub fn new(retry: &RetryConfig, dead_letter: &DeadLetterConfig) -> Result<Self> {
        let default = Terms {
            max_attempts: retry.max_attempts.get(),
            initial_backoff: retry.initial_backoff,
            max_backoff: retry.max_backoff,
            on_exhausted: retry.on_exhausted,
        };
        Ok(Self {
            default,
            multiplier: retry.multiplier,
            jitter: retry.jitter,
            rules: retry.rule.iter().map(|rule| Rule::new(rule, default)).collect::<Result<_>>()?,
            dead_letter_topic: dead_letter.topic.clone(),
        })
    }

    /// Where dead letters of this topic's events may go, for at least some event type and error class. `None`: nowhere.
    pub fn dead_letter_topic(&self, topic: &str) -> Option<String> {
        let of_topic = |rule: &&Rule| rule.topic.as_ref().is_none_or(|pattern| pattern.is_match(topic));
        let mut decided = false;
        let mut endings = Vec::new();
        for rule in self.rules.iter().filter(of_topic) {
            endings.push(rule.terms.on_exhausted);
            // It fits every event of the topic, so that no later rule is asked.
            if rule.event_type.is_none() && rule.class.is_none() {
                decided = true;
                break;
            }
        }
        if !decided {
            endings.push(self.default.on_exhausted);
        }
        endings.contains(&OnExhausted::DeadLetter).then(|| self.dead_letters_of(topic))
    }

    fn dead_letters_of(&self, topic: &str) -> String {
        self.dead_letter_topic.replace("{topic}", topic)
    }

    /// The delay after this many attempts: growing up to its bound, less a random share.
    fn wait(&self, terms: Terms, attempts: u32) -> Duration {
        let exponent = i32::try_from(attempts.saturating_sub(1)).unwrap_or(i32::MAX);
        let seconds = terms.initial_backoff.as_secs_f64() * self.multiplier.powi(exponent);
        let full = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX).min(terms.max_backoff);
        full.mul_f64(1.0 - self.jitter * fastrand::f64())
    }
}

impl FailurePolicy for Policy {
    fn decide(&self, event: &FailedEvent<'_>) -> FailureAction {
        let rule = self.rules.iter().find(|rule| rule.matches(event));
        let terms = rule.map_or(self.default, |rule| rule.terms);
        let worth_it = event.class.is_worth_another_attempt() || rule.is_some_and(|rule| rule.class.is_some());
        if worth_it && event.attempts < terms.max_attempts {
            return FailureAction::Retry { after: self.wait(terms, event.attempts) };
        }
        match (terms.on_exhausted, event.topic) {
            (OnExhausted::Hold, _) => FailureAction::Hold,
            (OnExhausted::Skip, _) => FailureAction::Skip,
            (OnExhausted::DeadLetter, Some(topic)) => FailureAction::DeadLetter { topic: self.dead_letters_of(topic) },
            // Without a topic there is no dead-letter topic either, and no event may be lost track of.
            (OnExhausted::DeadLetter, None) => FailureAction::Hold,
        }
    }
}

impl Rule {
    fn new(rule: &RetryRule, default: Terms) -> Result<Self> {
        Ok(Self {
            topic: rule.topic.as_deref().map(pattern).transpose()?,
            event_type: rule.event_type.as_deref().map(pattern).transpose()?,
            class: rule.error_class.as_deref().map(class).transpose()?,
            terms: Terms {
                max_attempts: rule.max_attempts.map_or(default.max_attempts, std::num::NonZeroU32::get),
                initial_backoff: rule.initial_backoff.unwrap_or(default.initial_backoff),
                max_backoff: rule.max_backoff.unwrap_or(default.max_backoff),
                on_exhausted: rule.on_exhausted.unwrap_or(default.on_exhausted),
            },
        })
    }

    fn matches(&self, event: &FailedEvent<'_>) -> bool {
        let fits = |pattern: &Option<Regex>, text: Option<&str>| {
            pattern.as_ref().is_none_or(|pattern| text.is_some_and(|text| pattern.is_match(text)))
        };
        fits(&self.topic, event.topic)
            && fits(&self.event_type, Some(event.event_type))
            && self.class.is_none_or(|class| class == event.class)
    }
}

/// The settings were checked before.
fn class(name: &str) -> Result<FailureClass> {
    name.parse()
        .map_err(|error| Error::new(Code::ConfigInvalid, "a class in [[retry.rule]] does not exist").caused_by(error))
}

/// A pattern in which `*` matches any text.
fn pattern(text: &str) -> Result<Regex> {
    let expression = format!("^(?s:{})$", regex::escape(text).replace("\\*", ".*"));
    Regex::new(&expression).map_err(|error| {
        Error::new(Code::ConfigInvalid, "a pattern in [[retry.rule]] does not compile").caused_by(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::num::NonZeroU32;

    fn policy(retry: RetryConfig) -> Policy {
        Policy::new(&retry, &DeadLetterConfig::default()).unwrap()
    }

    fn failed(class: FailureClass, attempts: u32) -> FailedEvent<'static> {
        FailedEvent { class, topic: Some("order-events"), event_type: "OrderCreatedEvent", attempts }
    }

    fn waits(action: &FailureAction) -> Option<Duration> {
        match action {
            FailureAction::Retry { after } => Some(*after),
            FailureAction::Hold | FailureAction::DeadLetter { .. } | FailureAction::Skip => None,
        }
    }

    #[test]
    fn waits_double_up_to_the_bound_and_then_the_key_is_held() {
        let retry = RetryConfig { jitter: 0.0, max_attempts: NonZeroU32::new(8).unwrap(), ..RetryConfig::default() };
        let policy = policy(retry);
        let seconds: Vec<_> = (1..=8)
            .map(|n| waits(&policy.decide(&failed(FailureClass::PolicyViolation, n))).map(|wait| wait.as_secs()))
            .collect();
        let expected = [Some(1), Some(2), Some(4), Some(8), Some(16), Some(30), Some(30), None];
        assert_eq!(seconds, expected);
        assert_eq!(policy.decide(&failed(FailureClass::PolicyViolation, 8)), FailureAction::Hold);
    }

    #[test]
    fn what_no_attempt_can_change_fails_at_once_unless_a_rule_names_its_class() {
        assert_eq!(policy(RetryConfig::default()).decide(&failed(FailureClass::TooLarge, 1)), FailureAction::Hold);
        let rule = RetryRule { error_class: Some("too-large".to_owned()), ..RetryRule::default() };
        let patient = policy(RetryConfig { rule: vec![rule], ..RetryConfig::default() });
        assert!(waits(&patient.decide(&failed(FailureClass::TooLarge, 1))).is_some());
        assert_eq!(patient.decide(&failed(FailureClass::InvalidRecord, 1)), FailureAction::Hold);
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let rule = |topic: &str, event_type: Option<&str>, on_exhausted| RetryRule {
            topic: Some(topic.to_owned()),
            event_type: event_type.map(str::to_owned),
            on_exhausted: Some(on_exhausted),
            ..RetryRule::default()
        };
        let rules = vec![
            rule("order-*", Some("OrderCancelled*"), OnExhausted::Hold),
            rule("order-*", None, OnExhausted::DeadLetter),
            rule("*", None, OnExhausted::Skip),
        ];
        let policy = policy(RetryConfig { rule: rules, ..RetryConfig::default() });
        let to = |topic: &str| FailureAction::DeadLetter { topic: topic.to_owned() };
        assert_eq!(policy.decide(&failed(FailureClass::TooLarge, 1)), to("order-events-dlq"));
        let cancelled = FailedEvent { event_type: "OrderCancelledEvent", ..failed(FailureClass::TooLarge, 1) };
        assert_eq!(policy.decide(&cancelled), FailureAction::Hold);
        assert_eq!(
            policy.decide(&FailedEvent { topic: Some("reorder-events"), ..failed(FailureClass::TooLarge, 1) }),
            FailureAction::Skip
        );
        // No rule about topics fits an event that has none.
        assert_eq!(
            policy.decide(&FailedEvent { topic: None, ..failed(FailureClass::NoTopic, 1) }),
            FailureAction::Hold
        );
    }

    #[test]
    fn a_topic_has_dead_letters_when_any_event_of_it_can_leave_one() {
        let rule = |topic: Option<&str>, class: Option<&str>, on_exhausted| RetryRule {
            topic: topic.map(str::to_owned),
            error_class: class.map(str::to_owned),
            on_exhausted: Some(on_exhausted),
            ..RetryRule::default()
        };
        let of = |on_exhausted, rule: Vec<RetryRule>, topic: &str| {
            policy(RetryConfig { on_exhausted, rule, ..RetryConfig::default() }).dead_letter_topic(topic)
        };
        let (hold, letter) = (OnExhausted::Hold, OnExhausted::DeadLetter);
        assert_eq!(of(hold, vec![], "orders"), None);
        assert_eq!(of(letter, vec![], "orders").as_deref(), Some("orders-dlq"));
        assert_eq!(
            of(hold, vec![rule(Some("ord*"), Some("too-large"), letter)], "orders").as_deref(),
            Some("orders-dlq")
        );
        assert_eq!(of(hold, vec![rule(Some("ord*"), None, letter)], "audit"), None);
        // The first rule decides for every event of the topic, or for some only.
        assert_eq!(of(letter, vec![rule(Some("audit"), None, hold), rule(None, None, letter)], "audit"), None);
        assert!(of(letter, vec![rule(Some("audit"), Some("too-large"), hold)], "audit").is_some());
    }

    #[test]
    fn an_event_without_a_topic_has_no_dead_letter_topic_and_is_held() {
        let policy = policy(RetryConfig { on_exhausted: OnExhausted::DeadLetter, ..RetryConfig::default() });
        assert_eq!(
            policy.decide(&FailedEvent { topic: None, ..failed(FailureClass::NoTopic, 1) }),
            FailureAction::Hold
        );
    }

    proptest! {
        #[test]
        fn a_wait_is_never_longer_than_its_bound_nor_shorter_than_the_jitter_allows(
            attempts in 1_u32..10_000, multiplier in 1.0_f64..10.0, jitter in 0.0_f64..=1.0,
            initial in 1_u64..100_000, longer in 0_u64..100_000,
        ) {
            let (initial_backoff, max_backoff) = (Duration::from_millis(initial), Duration::from_millis(initial + longer));
            let max_attempts = NonZeroU32::MAX;
            let policy = policy(RetryConfig { max_attempts, multiplier, jitter, initial_backoff, max_backoff, ..RetryConfig::default() });
            let wait = waits(&policy.decide(&failed(FailureClass::UnknownTopic, attempts))).unwrap();
            prop_assert!(wait <= max_backoff);
            prop_assert!(wait >= initial_backoff.mul_f64(1.0 - jitter).saturating_sub(Duration::from_nanos(10)));
        }
    }
}
