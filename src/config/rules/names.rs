//! Names that other systems accept.

/// Names of deployments, instances, groups and projections. They become parts of topic names, which Kafka limits to
/// 249.
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

/// Longest name in PostgreSQL, which cuts longer ones short without an error.
const SCHEMA_BYTES: usize = 63;

/// A name that a schema can have, or why not, and what to do. Every other text is a name once it is quoted.
pub(super) fn legal_schema(text: &str) -> Result<(), (&'static str, &'static str)> {
    if text.len() > SCHEMA_BYTES {
        return Err(("PostgreSQL cuts names after 63 bytes", "choose a shorter name"));
    }
    if text.chars().any(char::is_control) {
        return Err(("the name has a control character", "choose another name"));
    }
    if text.starts_with('"') && text.ends_with('"') {
        return Err((
            "the name is in double quotes",
            "write it without quotes, in upper and lower case as in PostgreSQL",
        ));
    }
    if text.starts_with("pg_") || text == "information_schema" {
        return Err(("this name belongs to PostgreSQL itself", "choose a name that does not begin with `pg_`"));
    }
    if text == "$user" {
        return Err(("in a search_path this stands for the name of the role", "write the name of the schema"));
    }
    Ok(())
}

pub(super) fn is_name_char(c: char) -> bool {
    u8::try_from(c).is_ok_and(is_name_byte)
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}
