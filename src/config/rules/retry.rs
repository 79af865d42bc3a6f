//! Rules of `[retry]`, `[reprocess]` and `[dead_letter]`.

use std::time::Duration;

use super::Rules;
use super::names::legal_topic;
use crate::config::{DeadLetterConfig, ReprocessConfig, RetryConfig};
use crate::event::FailureClass;

impl RetryConfig {
    pub(super) fn check(&self, rules: &mut Rules<'_, '_>) {
        if self.multiplier < 1.0 {
            rules.refuse(&["retry.multiplier"], "must be at least 1", "waits that shrink would hammer what is failing");
        }
        if !(0.0..=1.0).contains(&self.jitter) {
            rules.refuse(&["retry.jitter"], "must be from 0 to 1", "it is a share of the wait");
        }
        backoffs(&["retry.initial_backoff", "retry.max_backoff"], self.initial_backoff, self.max_backoff, rules);
        for (index, rule) in self.rule.iter().enumerate() {
            let path = format!("retry.rule[{index}]");
            if rule.topic.is_none() && rule.event_type.is_none() && rule.error_class.is_none() {
                rules.refuse(
                    &[&path],
                    "the rule does not say which events it is for",
                    "set `topic`, `event_type` or `error_class`; what is for all events belongs into `[retry]`",
                );
            }
            if let Some(class) = rule.error_class.as_ref().filter(|class| class.parse::<FailureClass>().is_err()) {
                rules.refuse(
                    &[&format!("{path}.error_class")],
                    format!("there is no error class `{class}`"),
                    format!("the classes are {}", FailureClass::names().join(", ")),
                );
            }
            let (initial, longest) =
                (rule.initial_backoff.unwrap_or(self.initial_backoff), rule.max_backoff.unwrap_or(self.max_backoff));
            if rule.initial_backoff.is_some() || rule.max_backoff.is_some() {
                let keys = [format!("{path}.initial_backoff"), format!("{path}.max_backoff")];
                // The value that is not set here is that of `[retry]`.
                let keys = match (rule.initial_backoff, rule.max_backoff) {
                    (None, _) => ["retry.initial_backoff", &keys[1]],
                    (Some(_), None) => [&keys[0], "retry.max_backoff"],
                    (Some(_), Some(_)) => [keys[0].as_str(), keys[1].as_str()],
                };
                backoffs(&keys, initial, longest, rules);
            }
        }
    }
}

fn backoffs(keys: &[&str; 2], initial: Duration, longest: Duration, rules: &mut Rules<'_, '_>) {
    if initial.is_zero() {
        rules.refuse(&keys[..1], "must be longer than 0s", "without a wait a failing event is tried in a tight loop");
    } else if initial > longest {
        let why = format!("`{}` must not be longer than `{}`", keys[0], keys[1]);
        rules.refuse(keys, why, "the wait grows from the one to the other");
    }
}

impl ReprocessConfig {
    pub(super) fn check(&self, rules: &mut Rules<'_, '_>) {
        if self.interval < Duration::from_secs(1) {
            rules.refuse(&["reprocess.interval"], "must be at least 1s", "1m is the default");
        }
    }
}

impl DeadLetterConfig {
    pub(super) fn check(&self, rules: &mut Rules<'_, '_>) {
        let key = ["dead_letter.topic"];
        let help = "Kafka accepts 1 to 249 letters, digits, `.`, `_` and `-`; write it like `{topic}-dlq`";
        if self.topic == "{topic}" {
            rules.refuse(&key, "the dead-letter topic would be the topic itself", help);
        } else if let Err(why) = legal_topic(&self.topic.replace("{topic}", "x")) {
            rules.refuse(&key, why, help);
        }
    }
}
