//! Rules of `[routing]`: expressions compile, templates name groups that exist, topics are legal.

use regex::Regex;

use super::Rules;
use super::names::{is_name_char, legal_topic};
use crate::config::{RoutingConfig, RoutingRule};

impl RoutingConfig {
    pub(super) fn check(&self, rules: &mut Rules<'_, '_>) {
        for (index, pattern) in self.allowed_topics.iter().enumerate() {
            if let Err(why) = legal_topic(&pattern.replace('*', "x")) {
                rules.refuse(
                    &[&format!("routing.allowed_topics[{index}]")],
                    why,
                    "write an exact topic, or use `*` as a wildcard, for example `order-*`",
                );
            }
        }
        for (index, rule) in self.rule.iter().enumerate() {
            let path = format!("routing.rule[{index}]");
            rule.check(&path, rules);
            let is_fixed = legal_topic(&rule.topic).is_ok();
            if is_fixed
                && !self.allowed_topics.is_empty()
                && !self.allowed_topics.iter().any(|allowed| fits(&rule.topic, allowed))
            {
                let why = format!(
                    "`{}` is not in `routing.allowed_topics`, so every row that matches this rule would fail",
                    rule.topic
                );
                rules.refuse(
                    &[&format!("{path}.topic"), "routing.allowed_topics"],
                    why,
                    "add it to `routing.allowed_topics`",
                );
            }
        }
    }
}

/// Whether a topic fits a name in which `*` stands for any text.
fn fits(topic: &str, pattern: &str) -> bool {
    let pattern = regex::escape(pattern).replace("\\*", ".*");
    Regex::new(&format!("^(?:{pattern})$")).is_ok_and(|pattern| pattern.is_match(topic))
}

impl RoutingRule {
    fn check(&self, path: &str, rules: &mut Rules<'_, '_>) {
        let aggregate = self.expression("aggregate_type", self.aggregate_type.as_deref(), path, rules);
        let event = self.expression("event_type", self.event_type.as_deref(), path, rules);
        if self.aggregate_type.is_none() && self.event_type.is_none() {
            let help = "set `aggregate_type` or `event_type`; `aggregate_type = \".*\"` matches every row that has one";
            rules.refuse(&[path], "the rule does not say which rows it is for", help);
        }
        let topic = format!("{path}.topic");
        if self.topic.is_empty() {
            rules.refuse(
                &[&topic],
                "the rule has no topic",
                "set `topic`, for example `topic = \"{aggregate_type}-events\"`",
            );
            return;
        }
        let of = if self.aggregate_type.is_some() { ("aggregate_type", aggregate) } else { ("event_type", event) };
        match literals(&self.topic) {
            Err(why) => rules.refuse(
                &[&topic],
                why,
                "`$1` and `${name}` insert capture groups; `{aggregate_type}` and `{event_type}` insert the row's values",
            ),
            Ok((text, groups)) => {
                if let Err(why) = legal_topic(&text) {
                    rules.refuse(&[&topic], why, "Kafka accepts 1 to 249 letters, digits, `.`, `_` and `-`");
                }
                if let (field, Some(regex)) = of {
                    for group in groups.iter().filter(|group| !has_group(&regex, group)) {
                        rules.refuse(
                            &[&topic, &format!("{path}.{field}")],
                            format!("`{field}` has no group `{group}`"),
                            group_help(group),
                        );
                    }
                }
            }
        }
    }

    fn expression(&self, field: &str, text: Option<&str>, path: &str, rules: &mut Rules<'_, '_>) -> Option<Regex> {
        let text = text?;
        // Alone first: `a)(b` is wrong, and only our own parentheses would make it right.
        match Regex::new(text).and_then(|_| Regex::new(&format!("^(?:{text})$"))) {
            Ok(regex) => Some(regex),
            Err(error) => {
                let why = format!("not a regular expression: {}", last_line(&error));
                rules.refuse(
                    &[&format!("{path}.{field}")],
                    why,
                    "in TOML, 'single quotes' keep backslashes as they are",
                );
                None
            }
        }
    }
}

/// The message of a regex error, whose other lines draw the expression.
fn last_line(error: &regex::Error) -> String {
    let text = error.to_string();
    let line = text.lines().last().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

/// A template with `x` for everything that is inserted, and the groups that it names.
fn literals(template: &str) -> Result<(String, Vec<String>), String> {
    let (mut text, mut groups) = (String::new(), Vec::new());
    let mut rest = template;
    while let Some(c) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("${") {
            let (name, tail) = after.split_once('}').ok_or("`${` has no `}`")?;
            groups.push(name.to_owned());
            rest = tail;
            text.push('x');
        } else if let Some(after) = rest.strip_prefix('$') {
            let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
            if end == 0 {
                return Err("`$` is not followed by a group".to_owned());
            }
            groups.push(after[..end].to_owned());
            rest = &after[end..];
            text.push('x');
        } else if let Some(after) = rest.strip_prefix('{') {
            let (name, tail) = after.split_once('}').ok_or("`{` has no `}`")?;
            if !matches!(name, "aggregate_type" | "event_type") {
                return Err(format!("`{{{}}}` is not known", name.escape_default()));
            }
            rest = tail;
            text.push('x');
        } else {
            text.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    Ok((text, groups))
}

fn has_group(regex: &Regex, group: &str) -> bool {
    match group.parse::<usize>() {
        Ok(number) => number < regex.captures_len(),
        Err(_) => regex.capture_names().flatten().any(|name| name == group),
    }
}

/// `$1_events` names a group `1_events`.
fn group_help(group: &str) -> String {
    let digits = group.find(|c: char| !c.is_ascii_digit()).unwrap_or(group.len());
    let (number, rest) = group.split_at(digits);
    if !number.is_empty() && !rest.is_empty() && rest.chars().all(is_name_char) {
        format!("write `${{{number}}}{rest}`: without braces the name extends to the end of the word")
    } else {
        "groups are the parentheses of the expression, counted from 1, or named with `(?<name>…)`".to_owned()
    }
}
