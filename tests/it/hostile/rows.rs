//! Rows that PostgreSQL can store and that an application should not write: every column, every odd value.
//!
//! A row is an insert whose columns are SQL expressions. What becomes of it is not predicted: the judge only asks that
//! it ends, with a reason if it is not published, and that nobody else pays for it.

use std::sync::LazyLock;

use crate::support::NewRow;

/// What the generator needs to know of the round.
#[derive(Debug, Clone)]
pub struct Targets {
    /// An ordinary topic.
    pub good: String,
    /// Takes records of 20 kB at most.
    pub small: String,
    /// Refuses records from more than an hour ahead.
    pub punctual: String,
    /// Compacted: refuses records without a key.
    pub compacted: String,
    /// Has fewer replicas than it asks for, so it takes no records at all.
    pub starved: String,
    /// Exists at first, and is deleted while the relay works.
    pub doomed: String,
    /// Does not exist.
    pub missing: String,
    /// Stands in each payload, key and header value that must not be printed.
    pub secret: String,
}

impl Targets {
    /// Names of topics of which only `good` has to exist: for rows that nobody publishes.
    pub fn named(name: &str, good: String, secret: String) -> Self {
        let other = |kind: &str| format!("{name}-{kind}");
        Self {
            good,
            small: other("small"),
            punctual: other("punctual"),
            compacted: other("compacted"),
            starved: other("starved"),
            doomed: other("doomed"),
            missing: other("missing"),
            secret,
        }
    }
}

/// One odd value: the column, an SQL expression, and the name by which a failure of the judge calls it.
#[derive(Debug, Clone)]
pub struct Oddity {
    pub column: &'static str,
    pub expression: String,
    pub name: String,
}

/// Columns that take any text.
const TEXTS: &[&str] =
    &["event_type", "aggregate_type", "correlation_id", "causation_id", "source", "traceparent", "last_error"];

/// Texts that are legal and unusual.
const ODD_TEXTS: &[&str] = &[
    "''",
    "' '",
    r"E'\n'",
    r"E'\r\nX-Injected: 1'",
    r"E'\x01\x02\x1b[31m'",
    "U&'\\200F\\202E right to left'",
    "U&'\\FEFF'",
    "U&'\\FFFF'",
    "U&'\\+10FFFF'",
    "U&'\\+01F600 \\+01F469\\200D\\+01F4BB'",
    "U&'e\\0301e\\0301'",
    "'null'",
    "'%s%n{}{0}$1'",
    "''';drop table outbox_events;--'",
    "'{\"a\":1}'",
    "repeat('x', 1000)",
    "repeat('x', 40000)",
    "repeat(U&'\\+01F600', 300000)",
    "repeat('x', 1500000)",
    "(select string_agg(md5(n::text), '') from generate_series(1, 60000) n)",
];

const ODD_PAYLOADS: &[&str] = &[
    "'null'",
    "'0'",
    "'\"\"'",
    "'[]'",
    "'{}'",
    "'{\"\":{\"\":{\"\":null}}}'",
    "'1e131071'",
    "'-1e131071'",
    "'1e-16383'",
    "(select jsonb_agg(1e131071::numeric) from generate_series(1, 6))",
    "(select jsonb_agg(1e131071::numeric) from generate_series(1, 10))",
    "(select jsonb_agg(1e131071::numeric) from generate_series(1, 200))",
    "(repeat('[', 5000) || repeat(']', 5000))::jsonb",
    "jsonb_build_object('pad', repeat('x', 1200000))",
    "jsonb_build_object('pad', (select string_agg(md5(n::text), '') from generate_series(1, 60000) n))",
    "jsonb_build_object('pad', repeat('x', 60000000))",
    "(select jsonb_object_agg('k' || n, n) from generate_series(1, 10000) n)",
    r#"'{"a":1,"a":2}'"#,
    r#"'"\ud83d\ude00\u0001\u001f"'"#,
];

const ODD_HEADERS: &[&str] = &[
    "'null'",
    "'[]'",
    "'\"x\"'",
    "'1'",
    r#"'{"a":1}'"#,
    r#"'{"a":null}'"#,
    r#"'{"a":{"b":"c"}}'"#,
    r#"'{"":""}'"#,
    r#"'{"a\nb":"c\r\nd"}'"#,
    r#"'{"outbox-id":"7","outbox-event-id":"x","ce_id":"y","content-type":"z"}'"#,
    "jsonb_build_object('n', 1e131071::numeric)",
    "jsonb_build_object('h', repeat('x', 1200000))",
    "(select jsonb_object_agg('h' || n, 'v') from generate_series(1, 5000) n)",
];

const ODD_TIMES: &[&str] = &[
    "'infinity'",
    "'-infinity'",
    "'4713-01-01 00:00:00+00 BC'",
    "'0001-01-01 00:00:00+00'",
    "'1969-12-31 23:59:59.999999+00'",
    "'9999-12-31 23:59:59.999999+00'",
    "'294276-12-31 23:59:59+00'",
    "now() + interval '2 days'",
    "now() - interval '200 years'",
];

const ODD_TOPICS: &[&str] = &[
    "''",
    "'.'",
    "'..'",
    "'*'",
    "'has space'",
    "'a/b'",
    "repeat('t', 250)",
    "repeat('t', 100000)",
    "'__consumer_offsets'",
    "'__transaction_state'",
    "U&'\\00FC\\00E4'",
    r"E'new\nline'",
];

/// Every column with each of its odd values. Targets that differ from run to run are filled in by
/// [`Oddity::statement_of`].
static ODDITIES: LazyLock<Vec<Oddity>> = LazyLock::new(|| {
    let mut all = Vec::new();
    let mut add = |column: &'static str, expressions: &[&str]| {
        for expression in expressions {
            all.push(Oddity::new(column, expression));
        }
    };
    for column in TEXTS {
        add(column, ODD_TEXTS);
    }
    add("payload", ODD_PAYLOADS);
    add("payload", &["null"]);
    add("payload_raw", &["''::bytea", r"'\x00ff00'::bytea", "decode(repeat('00', 1500000), 'hex')"]);
    add("headers", ODD_HEADERS);
    add("created_at", ODD_TIMES);
    add("available_at", &["'-infinity'", "'4713-01-01 00:00:00+00 BC'", "now() - interval '200 years'"]);
    // These wait for longer than any round.
    add("available_at", &["'infinity'", "'294276-12-31 23:59:59+00'", "now() + interval '10 hours'"]);
    add("topic", ODD_TOPICS);
    add("topic", &["MISSING", "MISSING EACH", "SMALL", "PUNCTUAL", "TARDY", "KEYLESS", "STARVED", "DOOMED"]);
    add("event_version", &["-2147483648", "-1", "0", "2147483647"]);
    add("retry_count", &["1", "2147483646", "2147483647"]);
    add(
        "event_id",
        &[
            "'00000000-0000-0000-0000-000000000000'",
            "'ffffffff-ffff-ffff-ffff-ffffffffffff'",
            "(select event_id from outbox_events order by id desc limit 1)",
        ],
    );
    add("status", &["'PUBLISHED'", "'FAILED'", "'DISCARDED'"]);
    add("dead_letter_of", &["0", "-1", "1", "9223372036854775807"]);
    add("replay_of", &["0", "-9223372036854775808", "9223372036854775807"]);
    add("dead_letter_to", &["''", "'has space'", "'__consumer_offsets'", "MISSING"]);
    add("dead_letter_from", &["''", r"E'\n'"]);
    add("failed_at", ODD_TIMES);
    add("published_at", ODD_TIMES);
    add("published_partition", &["-1", "2147483647"]);
    add("published_offset", &["-1", "9223372036854775807"]);
    all
});

pub fn oddities() -> &'static [Oddity] {
    &ODDITIES
}

impl Oddity {
    pub fn new(column: &'static str, expression: &str) -> Self {
        let name = format!("{column} = {}", expression.chars().take(60).collect::<String>());
        Self { column, expression: expression.to_owned(), name }
    }

    /// Takes long to insert, or far more than its share of a topic.
    pub fn is_heavy(&self) -> bool {
        ["1500000", "60000000", "60000)", "300000", "200))"].iter().any(|size| self.expression.contains(size))
    }

    /// An ordinary row of `key` with this value, and what the value needs to be stored at all.
    pub fn row(&self, targets: &Targets, key: &str) -> NewRow {
        let text = |name: &str| format!("'{}'", name.replace('\'', "''"));
        let expression = match self.expression.as_str() {
            "MISSING" => text(&targets.missing),
            "SMALL" => text(&targets.small),
            "MISSING EACH" => format!("{} || (random() * 1e9)::bigint", text(&targets.missing)),
            "PUNCTUAL" | "TARDY" => text(&targets.punctual),
            "KEYLESS" => text(&targets.compacted),
            "STARVED" => text(&targets.starved),
            "DOOMED" => text(&targets.doomed),
            other => other.to_owned(),
        };
        let mut row = good(targets, key);
        if self.expression == "SMALL" {
            row = row.sql(
                "payload",
                "jsonb_build_object('pad', (select string_agg(md5(n::text), '') from generate_series(1, 1000) n))",
            );
        }
        if self.expression == "PUNCTUAL" {
            row = row.sql("created_at", "now() + interval '2 hours'");
        }
        if self.expression == "TARDY" {
            // So little beyond the limit that the relay leaves the decision to the broker.
            row = row.sql("created_at", "now() + interval '1 hour 50 seconds'");
        }
        if self.expression == "KEYLESS" {
            row = row.without("aggregate_id");
        }
        if self.column == "payload_raw" {
            row = row.without("payload");
        }
        if self.column == "status" {
            // As the table demands of such a row.
            row = row.sql("published_at", "now()").text("last_error", "by hand: by hand").sql("failed_at", "now()");
        }
        row.sql(self.column, &expression)
    }
}

/// A row that nothing is wrong with. Its payload and a header hold the secret.
pub fn good(targets: &Targets, key: &str) -> NewRow {
    let secret = &targets.secret;
    NewRow::new(&targets.good, key, &format!(r#"{{"note":"{secret}"}}"#))
        .text("headers", &format!(r#"{{"x-note":"{secret}"}}"#))
}

/// The same of the good key with this number. Several keys share a topic with records that it refuses.
pub fn good_of(targets: &Targets, place: usize) -> (String, NewRow) {
    let key = format!("good-{place}");
    let row = good_for(targets, &key, place);
    (key, row)
}

/// A row that nothing is wrong with, for the topic of the key with this number.
pub fn good_for(targets: &Targets, key: &str, place: usize) -> NewRow {
    let row = good(targets, key);
    match place % 5 {
        // Three of these are more than the topic takes in one request.
        2 => row.text("topic", &targets.small).sql(
            "payload",
            "jsonb_build_object('pad', (select string_agg(md5(random()::text), '') from generate_series(1, 220)))",
        ),
        3 => row.text("topic", &targets.punctual),
        4 => row.text("topic", &targets.compacted),
        _ => row,
    }
}

/// Keys that are no ordinary text. Each must be a key of its own, and hold nobody else.
pub fn odd_keys(targets: &Targets) -> Vec<String> {
    let secret = &targets.secret;
    vec![
        String::new(),
        " ".to_owned(),
        format!("{secret}\u{1}\n"),
        format!("{secret}\u{10FFFF}"),
        "k".repeat(32_768),
        "k".repeat(32_769),
        // Two texts with the same MD5.
        "TEXTCOLLBYfGiJUETHQ4hAcKSMd5zYpgqf1YRDhkmxHkhPWptrkoyz28wnI9V0aHeAuaKnak".to_owned(),
        "TEXTCOLLBYfGiJUETHQ4hEcKSMd5zYpgqf1YRDhkmxHkhPWptrkoyz28wnI9V0aHeAuaKnak".to_owned(),
    ]
}
