//! What migrations create, extracted from their text: for checking what already exists, before the first change.

use std::sync::LazyLock;

use regex::Regex;

/// Names in one schema.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Objects {
    /// Tables, views, indexes and the sequences of identity columns: they share one space of names.
    pub relations: Vec<String>,
    /// With the number of arguments.
    pub functions: Vec<(String, i32)>,
    /// Table and name of columns that are added to a table which is there.
    pub columns: Vec<(String, String)>,
}

fn expression(text: &str) -> Regex {
    Regex::new(text).expect("a valid expression")
}

static COMMENT: LazyLock<Regex> = LazyLock::new(|| expression("--[^\n]*"));
static RELATION: LazyLock<Regex> = LazyLock::new(|| {
    expression(r"(?i)\bcreate\s+(?:unlogged\s+)?(?:table|view|sequence)\s+(?:if\s+not\s+exists\s+)?(\w+)")
});
static INDEX: LazyLock<Regex> = LazyLock::new(|| {
    expression(r"(?i)\bcreate\s+(?:unique\s+)?index\s+(?:concurrently\s+)?(?:if\s+not\s+exists\s+)?(\w+)\s+on\b")
});
static FUNCTION: LazyLock<Regex> = LazyLock::new(|| expression(r"(?i)\bcreate\s+function\s+(\w+)\s*\(([^)]*)\)"));
static TABLE: LazyLock<Regex> = LazyLock::new(|| expression(r"(?i)\bcreate\s+table\s+(?:if\s+not\s+exists\s+)?(\w+)"));
static IDENTITY: LazyLock<Regex> =
    LazyLock::new(|| expression(r"(?i)(\w+)\s+(?:bigint|int)\s+generated\s+(?:always|by\s+default)\s+as\s+identity"));
static ALTERED: LazyLock<Regex> = LazyLock::new(|| expression(r"(?i)\balter\s+table\s+(?:only\s+)?(\w+)"));
static COLUMN: LazyLock<Regex> = LazyLock::new(|| expression(r"(?i)\badd\s+column\s+(\w+)"));

impl Objects {
    /// Adds what `sql` makes and was not there before.
    pub(super) fn add(&mut self, sql: &str) {
        let code = COMMENT.replace_all(sql, "");
        let names = |pattern: &Regex, text: &str| -> Vec<String> {
            pattern.captures_iter(text).map(|found| found[1].to_owned()).collect()
        };
        self.relations.extend(names(&RELATION, &code));
        self.relations.extend(names(&INDEX, &code));
        self.functions.extend(FUNCTION.captures_iter(&code).map(|found| {
            let arguments = found[2].split(',').filter(|argument| !argument.trim().is_empty()).count();
            (found[1].to_owned(), i32::try_from(arguments).unwrap_or(i32::MAX))
        }));
        for statement in code.split(';') {
            if let Some(table) = TABLE.captures(statement) {
                let columns = names(&IDENTITY, statement);
                self.relations.extend(columns.iter().map(|column| format!("{}_{column}_seq", &table[1])));
            }
            if let Some(table) = ALTERED.captures(statement) {
                let columns = names(&COLUMN, statement);
                self.columns.extend(columns.into_iter().map(|column| (table[1].to_owned(), column)));
            }
        }
    }

    /// Without what `other` has: a migration may make again what an earlier one made.
    pub(super) fn without(mut self, other: &Self) -> Self {
        self.relations.retain(|name| !other.relations.contains(name));
        self.functions.retain(|function| !other.functions.contains(function));
        // Columns of tables that are still to be made are nobody's.
        self.columns.retain(|column| !self.relations.contains(&column.0) && !other.columns.contains(column));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_that_a_migration_makes_is_found() {
        let mut found = Objects::default();
        found.add(
            "-- create table not_this\ncreate table a (id bigint generated always as identity (cache 1) primary key, b int);\n\
             create unique index a_b on a (b); create or replace view old as select 1; create view v with (x = true) as select 1;\n\
             create function f() returns int return 1; create function g(a text, b int) returns int return 1;\n\
             alter table t\n  -- why\n  add column c int,\n  add column d int, add constraint e check (c > 0);",
        );
        assert_eq!(found.relations, ["a", "v", "a_b", "a_id_seq"]);
        assert_eq!(found.functions, [("f".to_owned(), 0), ("g".to_owned(), 2)]);
        assert_eq!(found.columns, [("t".to_owned(), "c".to_owned()), ("t".to_owned(), "d".to_owned())]);
    }
}
