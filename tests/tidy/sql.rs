//! SQL is in SQL files, and each of them is used.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use regex::Regex;

use crate::planted::{one, sees};
use crate::source::{Source, normal, strings_of, without_tests};

pub fn sql_in_rust(files: &[Source]) -> Vec<String> {
    let statement = Regex::new(
        r"(?is)^\s*(select|with)\s.*\b(from|as)\b|^\s*select\s+[\w.]+\(|\binsert\s+into\s|\bupdate\s+\w+\s+set\s|\bdelete\s+from\s|\b(create|alter|drop|truncate)\s+(table|index|database|function|role|schema|view|type)\s+\w|^\s*(begin|commit|rollback|listen\s+\w+|notify\s+\w+)\s*;?\s*$",
    )
    .expect("a valid expression");
    let mut complaints = Vec::new();
    for file in files {
        for (line, text) in strings_of(&without_tests(&file.text)) {
            if statement.is_match(&text) {
                complaints.push(format!("{}:{line}: SQL belongs in a .sql file: {text}", file.path));
            }
        }
    }
    complaints
}

pub fn unused_sql(files: &[Source], sql_files: &[PathBuf]) -> Vec<String> {
    let mut used = BTreeSet::new();
    for file in files {
        let folder = Path::new(&file.path).parent().expect("a file is in a folder");
        for (_, text) in strings_of(&file.text) {
            if text.ends_with(".sql") && !text.contains(char::is_whitespace) {
                used.insert(normal(&folder.join(text)));
            }
        }
    }
    let existing: BTreeSet<PathBuf> = sql_files.iter().cloned().collect();
    existing.difference(&used).map(|path| format!("{}: no include_str! names it", path.display())).collect()
}

// Each rule sees a planted violation, and leaves alone what looks like one.

#[test]
fn sees_sql_in_rust() {
    for statement in [
        "select id from outbox_events where id = $1",
        "SELECT pg_advisory_lock(1)",
        "insert into t values (1)",
        "update outbox_shards set owner = null",
        "delete from t",
        "create table t ()",
        "drop table t",
        "begin",
        "with x as (select 1) select * from x",
        "listen outbox",
    ] {
        sees(&sql_in_rust(&one("src/relay.rs", &format!("let q = \"{statement}\";"))), &["src/relay.rs:1"]);
    }
    for prose in [
        "updated 3 rows",
        "create the topic with scripts/kafka-topics.sh",
        "select the shards to show",
        "nothing to delete: the table is empty",
        "with 3 rows",
    ] {
        sees(&sql_in_rust(&one("src/relay.rs", &format!("let text = \"{prose}\"; // select a from b"))), &[]);
    }
}

#[test]
fn sees_a_sql_file_that_nobody_includes() {
    let files = one(
        "src/outbox/postgres.rs",
        "const A: &str = include_str!(\"sql/a.sql\"); const C: &str = include_str!(\"../x/c.sql\");",
    );
    let sql = ["src/outbox/sql/a.sql", "src/outbox/sql/b.sql", "src/x/c.sql"].map(PathBuf::from);
    sees(&unused_sql(&files, &sql), &["src/outbox/sql/b.sql"]);
}
