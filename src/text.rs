//! Text that people read: without control characters, cut to a width, and times in short.

use std::borrow::Cow;
use std::time::Duration;

/// `text` with control characters written as escapes: an event type with an escape sequence in it must not clear the
/// operator's screen. Line ends too, so that a table row stays one line.
pub fn printable(text: &str) -> Cow<'_, str> {
    // Besides C0 and C1: the marks that turn the direction of writing, by which text can look like other text.
    let bad = |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if !text.contains(bad) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().fold(String::with_capacity(text.len()), |mut safe, c| {
        if bad(c) {
            safe.extend(c.escape_default())
        } else {
            safe.push(c)
        }
        safe
    }))
}

/// `text` in at most `width` characters, the cut marked with `…`.
pub fn shortened(text: &str, width: usize) -> Cow<'_, str> {
    match text.char_indices().nth(width) {
        None => Cow::Borrowed(text),
        Some(_) => Cow::Owned(text.chars().take(width.saturating_sub(1)).chain(['…']).collect()),
    }
}

/// [`age`] of a number of seconds, as statements return it. Below zero, which two clocks can make of a moment ago, is
/// zero.
pub fn age_of(seconds: f64) -> String {
    age(Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or_default())
}

/// A duration for people: `0.8s`, `42s`, `3m 20s`, `5h 12m`, `3d 4h`.
pub fn age(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..10 => format!("{:.1}s", duration.as_secs_f64()),
        10..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h {}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_steer_the_terminal() {
        assert_eq!(printable("order-17 é"), "order-17 é");
        assert_eq!(printable("a\x1b[2Jb\nc\u{9b}"), "a\\u{1b}[2Jb\\nc\\u{9b}");
        assert_eq!(printable("a\u{202e}b"), "a\\u{202e}b");
    }

    #[test]
    fn a_cut_is_visible_and_counts_characters() {
        assert_eq!(shortened("ääää", 4), "ääää");
        assert_eq!(shortened("äääää", 4), "äää…");
    }

    #[test]
    fn ages_are_read_at_a_glance() {
        let text = |seconds| age(Duration::from_secs(seconds));
        assert_eq!(age(Duration::from_millis(840)), "0.8s");
        assert_eq!((text(42), text(200)), ("42s".to_owned(), "3m 20s".to_owned()));
        assert_eq!((text(18_720), text(273_600)), ("5h 12m".to_owned(), "3d 4h".to_owned()));
    }
}
