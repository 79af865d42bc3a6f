//! The text of a projection's statement with the relation `new_events` in front of it.
//!
//! Pure. The relation is a `with` query, so the projection's own text goes behind it: after its `with`, if it begins
//! with one.

/// With the events as parameters. Its last line stands in the place of the projection.
const EVENTS: &str = include_str!("new_events/sql/new_events.sql");
/// The same without events and parameters.
const NO_EVENTS: &str = include_str!("new_events/sql/no_events.sql");
/// The statement that folds events.
pub(super) fn reading(projection: &str) -> String {
    behind(EVENTS, projection)
}

/// A statement that has the same columns, and only parameters of the projection's own.
pub(super) fn checking(projection: &str) -> String {
    behind(NO_EVENTS, projection)
}

fn behind(relation: &str, projection: &str) -> String {
    let (relation, _) = relation.trim_end().rsplit_once('\n').expect("both files have many lines");
    let start = without_comments(projection);
    let Some(queries) = after_word(start, "with") else { return format!("{relation}\n{projection}") };
    match after_word(without_comments(queries), "recursive") {
        // Lines of the head begin otherwise.
        Some(queries) => format!("{},\n{queries}", relation.replacen("\nwith ", "\nwith recursive ", 1)),
        None => format!("{relation},\n{queries}"),
    }
}

/// What comes after blanks and comments, which nest.
fn without_comments(sql: &str) -> &str {
    let mut rest = sql.trim_start();
    loop {
        rest = if rest.starts_with("--") {
            rest.split_once('\n').map_or("", |(_, next)| next)
        } else if rest.starts_with("/*") {
            let (mut level, mut place) = (0_usize, 0);
            while let Some(found) = rest[place..].find("*/").into_iter().chain(rest[place..].find("/*")).min() {
                level = if rest[place + found..].starts_with("/*") { level + 1 } else { level - 1 };
                place += found + 2;
                if level == 0 {
                    break;
                }
            }
            if level > 0 { "" } else { &rest[place..] }
        } else {
            return rest;
        }
        .trim_start();
    }
}

/// The text behind a keyword at its beginning.
fn after_word<'a>(sql: &'a str, word: &str) -> Option<&'a str> {
    let (start, rest) = sql.split_at_checked(word.len())?;
    let ends = !rest.starts_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | '$') || !c.is_ascii());
    (start.eq_ignore_ascii_case(word) && ends).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_projection_goes_behind_the_relation_that_it_reads() {
        let behind = |projection: &str| {
            let text = checking(projection);
            let (_, code) = text.split_once("parameters.\n").expect("the head");
            let (start, end) = code.split_once("where false\n)").expect("the relation");
            (start.split_once(" new_events").expect("its name").0.to_owned(), end.to_owned())
        };
        for (projection, with, rest) in [
            ("fold them", "with", "\nfold them"),
            ("-- with\n  select 1", "with", "\n-- with\n  select 1"),
            ("with b as (select 1) select 2", "with", ",\n b as (select 1) select 2"),
            ("/* a /* b */ c */\n-- d\nWITH\nb as (select 1)", "with", ",\n\nb as (select 1)"),
            ("With/* */Recursive b(n) as ()", "with recursive", ",\n b(n) as ()"),
            ("within", "with", "\nwithin"),
            ("-- nothing", "with", "\n-- nothing"),
            ("/* open", "with", "\n/* open"),
            ("", "with", "\n"),
        ] {
            assert_eq!(behind(projection), (with.to_owned(), rest.to_owned()), "{projection}");
        }
        assert!(reading("select 1").contains("$14::text[]"));
    }
}
