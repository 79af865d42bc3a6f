//! Names that other systems accept.

/// Names of deployments, instances, groups and projections. They become parts of topic names, which Kafka limits to 249.
pub(super) fn is_name(text: &str) -> bool {
    (1..=200).contains(&text.len()) && text.bytes().all(is_name_byte)
}

/// A topic name that Kafka accepts, or why not.
pub(super) fn legal_topic(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("the topic is empty".to_owned());
    }
    if text == "." || text == ".." {
        return Err("Kafka has no topic called `.` or `..`".to_owned());
    }
    if text.len() > 249 {
        return Err(format!("the topic has {} characters, more than 249", text.len()));
    }
    match text.chars().find(|c| !is_name_char(*c)) {
        Some(' ') => Err("a topic cannot have a space".to_owned()),
        Some(c) => Err(format!("a topic cannot have `{}`", c.escape_default())),
        None => Ok(()),
    }
}

pub(super) fn is_name_char(c: char) -> bool {
    u8::try_from(c).is_ok_and(is_name_byte)
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}
