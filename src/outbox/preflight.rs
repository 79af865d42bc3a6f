//! What others have done to the database or to our tables that this program cannot fix by itself: the one list behind
//! `check` and the start of `run`.
//!
//! Only reads, mostly catalogs. Trial writes, which are rolled back, are in [`trial`].

pub(crate) mod trial;

use crate::db::{Database, DbError, Role};
use crate::failpoint::{Fault, fault};
use tokio_postgres::error::SqlState;

const SERVER: &str = include_str!("preflight/sql/server.sql");
const TABLES: &str = include_str!("preflight/sql/tables.sql");
const IDS: &str = include_str!("preflight/sql/ids.sql");
const UPDATES: [(&str, &str); 2] = [
    ("outbox_events", include_str!("preflight/sql/update.sql")),
    ("outbox_shards", include_str!("preflight/sql/update_shards.sql")),
];

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gravity {
    /// Nothing can be written now; it may pass by itself.
    Wait,
    /// Events would be lost, or nothing would be published: `run` does not start.
    Refuse,
    /// Events flow, and something else does not work: `run` starts and says so.
    Degraded,
    /// It works, and may hurt some day.
    Note,
}

/// An obstacle, in words for an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    pub gravity: Gravity,
    /// Stable name, as `check` has it.
    pub check: &'static str,
    pub what: String,
    pub why: String,
    pub fix: String,
}

impl Obstacle {
    fn new(
        gravity: Gravity,
        check: &'static str,
        what: impl Into<String>,
        why: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self { gravity, check, what: what.into(), why: why.into(), fix: fix.into() }
    }
}

/// Checks the database, the given tables of ours and the way ids are drawn. `relay`: events are to be published from
/// here.
pub async fn look(database: &Database, tables: &[&str], relay: bool) -> Result<Vec<Obstacle>, DbError> {
    let client = database.connect(Role::Admin).await?;
    let row = client.query_one(SERVER, &[]).await?;
    let mut obstacles = server(row.try_get("encoding")?, row.try_get("read_only")?);
    for row in client.query(TABLES, &[&tables]).await? {
        obstacles.extend(table(row.try_get("kind")?, row.try_get("relation")?, row.try_get("name")?));
    }
    let hidden = obstacles.iter().any(|obstacle| obstacle.check == ROW_SECURITY);
    if !relay || hidden {
        return Ok(obstacles);
    }
    if let Some(row) = client.query_opt(IDS, &[]).await? {
        let kind: &str = row.try_get("kind")?;
        obstacles.extend(ids(&Ids {
            kind: match (row.try_get("has_sequence")?, kind) {
                (false, _) => Kind::NoSequence,
                (true, "a") => Kind::Always,
                (true, _) => Kind::ByDefault,
            },
            cache: row.try_get::<_, Option<i64>>("cache")?.unwrap_or(1),
            increment: row.try_get::<_, Option<i64>>("increment")?.unwrap_or(1),
            cycles: row.try_get::<_, Option<bool>>("cycles")?.unwrap_or(false),
            shared: row.try_get("shared")?,
            last: row.try_get("last_id")?,
            highest: row.try_get("highest_id")?,
        }));
    }
    for (relation, statement) in UPDATES {
        match client.query(statement, &[]).await {
            Ok(_) => {}
            // 55000, 42P10: there is a publication, and it cannot identify the row.
            Err(error)
                if matches!(
                    error.sqlstate(),
                    Some(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE | &SqlState::INVALID_COLUMN_REFERENCE)
                ) =>
            {
                obstacles.push(publication(relation));
            }
            // Missing grants are reported with the grants, a read-only server above.
            Err(error) if error.is_denied() => {}
            Err(error) if error.sqlstate() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(obstacles)
}

const ROW_SECURITY: &str = "schema.row_security";
/// How ids are given out. Instances look at it for as long as they run, and have a code of their own for it.
pub const SEQUENCE: &str = "schema.sequence";

fn server(encoding: &str, read_only: Option<&str>) -> Vec<Obstacle> {
    let mut obstacles = Vec::new();
    if encoding != "UTF8" {
        obstacles.push(Obstacle::new(
            Gravity::Refuse,
            "postgres.encoding",
            format!("the database is encoded in {encoding}, not in UTF8"),
            "events whose text does not exist in that encoding, or is not valid text at all, could be neither read nor given a failure reason",
            "create a database with encoding 'UTF8' template template0, and move the tables there (pg_dump, pg_restore)",
        ));
    }
    if let Some(reason) = read_only {
        obstacles.push(Obstacle::new(
            Gravity::Wait,
            "postgres.writable",
            reason,
            "an event cannot be claimed or marked as published here",
            "point database.url at the primary (with several hosts: target_session_attrs=read-write), or end the read-only mode: \
             alter database … reset default_transaction_read_only, or alter role …",
        ));
    }
    obstacles
}

fn table(kind: &str, relation: &str, name: &str) -> Option<Obstacle> {
    Some(match kind {
        "row-security" if fault(Fault::RowSecurityNotSeen) => return None,
        "row-security" => Obstacle::new(
            Gravity::Refuse,
            ROW_SECURITY,
            format!("row-level security of {relation} applies to this role"),
            "a policy would hide rows: hidden events are never published, and hidden shards look like another instance's",
            format!(
                "as the owner: alter table {relation} disable row level security; or as a superuser: alter role … bypassrls, \
                 for the role of database.url"
            ),
        ),
        "unlogged" => Obstacle::new(
            Gravity::Degraded,
            "schema.unlogged",
            format!("{relation} is an unlogged table"),
            "a crash of PostgreSQL empties it, and committed events would be lost",
            format!("alter table {relation} set logged"),
        ),
        "rule" => Obstacle::new(
            Gravity::Refuse,
            "schema.rules",
            format!("{relation} has the rule {name}"),
            "a rule replaces the relay's statements with others, or drops them",
            format!("drop rule \"{name}\" on {relation}, and use a trigger instead"),
        ),
        "trigger" => Obstacle::new(
            Gravity::Note,
            "schema.triggers",
            format!("{relation} has the trigger {name}, before each row"),
            "it may change or skip the relay's writes, or make its statements fail",
            "make sure that it returns new (old for deletes) and never fails; an AFTER trigger is safer",
        ),
        "child" => Obstacle::new(
            Gravity::Refuse,
            "schema.inheritance",
            format!("the table {name} inherits from {relation}"),
            "its rows are read as if they were in the outbox, and their ids may be duplicates",
            format!("alter table {name} no inherit {relation}"),
        ),
        "foreign-key" => Obstacle::new(
            Gravity::Note,
            "schema.foreign_keys",
            format!("the foreign key {name} refers to {relation}"),
            "deleting finished rows fails for the rows it refers to",
            "drop it, or set cleanup.enabled = false and delete finished rows yourself",
        ),
        "unique-index" => Obstacle::new(
            Gravity::Degraded,
            "schema.unique_index",
            format!("{relation} has the unique index {name}"),
            "dead letters and replays are copies of rows with the same event_id, key and contents, and cannot be written",
            format!("restrict it to rows where dead_letter_of and replay_of are null, or drop it: \"{name}\""),
        ),
        "not-null" => Obstacle::new(
            Gravity::Degraded,
            "schema.columns",
            format!("{relation} has the column {name}, which is not null and has no default"),
            "dead letters and replays do not set it, and cannot be written",
            format!("alter table {relation} alter column \"{name}\" set default …, or drop not null"),
        ),
        "no-check" => Obstacle::new(
            Gravity::Note,
            "schema.checks",
            format!("{relation} lacks the check {name}"),
            "when the schema was upgraded, it contained rows that only the relay may write, or ids out of range; more can be inserted",
            "find such rows, delete or correct them, and add the check as in: outbox-relay migrate sql",
        ),
        _ => return None,
    })
}

fn publication(relation: &str) -> Obstacle {
    Obstacle::new(
        Gravity::Refuse,
        "schema.publication",
        format!("PostgreSQL rejects updates of {relation}: a publication needs another replica identity"),
        "no event can be marked as published, and no batch can be claimed",
        format!(
            "alter table {relation} replica identity default; or remove the table, its row filter or its column list from the publication"
        ),
    )
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Always,
    ByDefault,
    NoSequence,
}

/// How ids are drawn.
#[derive(Debug, Clone, Copy)]
struct Ids {
    kind: Kind,
    cache: i64,
    increment: i64,
    cycles: bool,
    shared: bool,
    last: Option<i64>,
    highest: Option<i64>,
}

fn ids(ids: &Ids) -> Vec<Obstacle> {
    const CHECK: &str = "schema.identity";
    let mut obstacles = Vec::new();
    if ids.kind == Kind::NoSequence {
        return vec![Obstacle::new(
            Gravity::Refuse,
            CHECK,
            "outbox_events.id is not drawn from a sequence",
            "the relay orders events by ids that are drawn by the inserting transaction",
            "make it an identity column, as in: outbox-relay migrate sql",
        )];
    }
    if ids.cache > 1 {
        obstacles.push(Obstacle::new(
            Gravity::Refuse,
            SEQUENCE,
            format!("the sequence of outbox_events.id caches {} ids", ids.cache),
            "sessions draw ids ahead of time, so later events can get lower ids: they lose their order and may be skipped",
            "for table outbox_events: alter column id set cache 1",
        ));
    }
    if ids.increment < 1 || ids.cycles {
        let what = if ids.cycles { "begins again at its end" } else { "counts down" };
        obstacles.push(Obstacle::new(
            Gravity::Refuse,
            SEQUENCE,
            format!("the sequence of outbox_events.id {what}"),
            "later events must have higher ids: events with lower ids are out of order and may be treated as published",
            "for table outbox_events: alter column id set increment 1 set no cycle",
        ));
    }
    if let (Some(last), Some(highest)) = (ids.last, ids.highest)
        && highest > last
        && ids.increment > 0
    {
        obstacles.push(Obstacle::new(
                Gravity::Degraded,
                CHECK,
                format!("the sequence of outbox_events.id is at {last}, and the table has ids up to {highest}"),
                "inserts fail when they draw an id that is taken, and new events are published before older events of their keys",
                format!("for table outbox_events: alter column id restart with {}", highest.saturating_add(1)),
            ));
    }
    if ids.kind == Kind::ByDefault {
        obstacles.push(Obstacle::new(
            Gravity::Note,
            CHECK,
            "outbox_events.id can be set by the application",
            "an id that is out of order or below ids already published breaks the order of its key, and may only be found by the sweep",
            "for table outbox_events: alter column id set generated always",
        ));
    }
    if ids.shared {
        obstacles.push(Obstacle::new(
            Gravity::Note,
            CHECK,
            "another column draws values from the sequence of outbox_events.id",
            "an id drawn long before its row is inserted is out of order",
            "give that column its own sequence",
        ));
    }
    obstacles
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Ids = Ids {
        kind: Kind::Always,
        cache: 1,
        increment: 1,
        cycles: false,
        shared: false,
        last: Some(10),
        highest: Some(10),
    };

    fn gravity(given: Ids) -> Vec<Gravity> {
        ids(&given).into_iter().map(|obstacle| obstacle.gravity).collect()
    }

    #[test]
    fn ids_as_they_should_be_are_no_obstacle() {
        assert_eq!(gravity(GOOD), []);
        assert_eq!(gravity(Ids { last: None, highest: None, increment: 2, ..GOOD }), []);
    }

    #[test]
    fn ids_that_do_not_grow_with_time_keep_run_from_starting() {
        assert_eq!(gravity(Ids { cache: 20, ..GOOD }), [Gravity::Refuse]);
        assert_eq!(gravity(Ids { increment: -1, ..GOOD }), [Gravity::Refuse]);
        assert_eq!(gravity(Ids { cycles: true, ..GOOD }), [Gravity::Refuse]);
        assert_eq!(gravity(Ids { kind: Kind::NoSequence, ..GOOD }), [Gravity::Refuse]);
        assert_eq!(gravity(Ids { last: Some(9), ..GOOD }), [Gravity::Degraded]);
        assert_eq!(gravity(Ids { kind: Kind::ByDefault, shared: true, ..GOOD }), [Gravity::Note, Gravity::Note]);
    }

    #[test]
    fn a_database_that_is_not_in_utf8_is_refused_and_one_that_is_read_only_waited_for() {
        assert_eq!(server("UTF8", None), []);
        assert_eq!(server("SQL_ASCII", None)[0].gravity, Gravity::Refuse);
        assert_eq!(server("UTF8", Some("the server is a standby"))[0].gravity, Gravity::Wait);
    }
}
