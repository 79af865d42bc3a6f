//! JSON over several lines, as a person reads it. Works on the text, so that numbers keep all their digits.

/// Levels that are indented. Deeper ones stay at this depth: with thousands of levels the blanks alone would take
/// gigabytes.
const LEVELS: usize = 32;
const WIDTH: usize = 4;

/// One element of an array or object per line. `json` is as PostgreSQL prints it: valid, with a blank behind each comma
/// and colon.
pub fn indented(json: &str) -> String {
    let mut text = String::with_capacity(json.len() * 2);
    let (mut level, mut in_string, mut escaped) = (0_usize, false, false);
    let mut characters = json.chars().peekable();
    while let Some(character) = characters.next() {
        if in_string {
            text.push(character);
            in_string = escaped || character != '"';
            escaped = character == '\\' && !escaped;
            continue;
        }
        match character {
            '"' => {
                in_string = true;
                text.push(character);
            }
            '{' | '[' if matches!(characters.peek(), Some('}' | ']')) => {
                text.push(character);
                text.extend(characters.next());
            }
            '{' | '[' => {
                level += 1;
                text.push(character);
                new_line(&mut text, level);
            }
            '}' | ']' => {
                level = level.saturating_sub(1);
                new_line(&mut text, level);
                text.push(character);
            }
            ',' => {
                text.push(character);
                new_line(&mut text, level);
                characters.next_if_eq(&' ');
            }
            other => text.push(other),
        }
    }
    text
}

fn new_line(text: &mut String, level: usize) {
    text.push('\n');
    text.extend(std::iter::repeat_n(' ', level.min(LEVELS) * WIDTH));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_looks_as_jsonb_pretty_does() {
        let json = r#"{"a": [1, {"b": "x, {\\\"]"}], "c": {}, "d": [], "e": 1.10}"#;
        let expected = r#"{
    "a": [
        1,
        {
            "b": "x, {\\\"]"
        }
    ],
    "c": {},
    "d": [],
    "e": 1.10
}"#;
        assert_eq!(indented(json), expected);
        assert_eq!(indented("\"a\""), "\"a\"");
    }

    #[test]
    fn depth_costs_no_more_than_length() {
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        assert!(indented(&deep).len() < deep.len() * (2 + LEVELS * WIDTH));
    }
}
