//! Which migrations were applied: read, compared with those in this program, and told apart from an application's.

use tokio_postgres::Row;

use super::Known;
use crate::db::{Client, DbError};

const TABLES: &str = include_str!("history/sql/tables.sql");
const OURS: &str = include_str!("history/sql/ours.sql");
const FORMER: &str = include_str!("history/sql/former.sql");

/// What the database says of a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Applied as this program has it.
    Applied,
    /// Still to be applied.
    Pending,
    /// Applied under this number, with another name or other contents.
    Changed,
    /// Applied, and not known to this program: a newer one has been here.
    Unknown,
}

/// One migration and whether the database has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrationStatus {
    pub version: i32,
    pub name: String,
    /// When it was applied, in RFC 3339; `None` if it is pending.
    pub applied_on: Option<String>,
    pub state: State,
}

impl MigrationStatus {
    /// As the file is called.
    pub fn file(&self) -> String {
        format!("V{}__{}", self.version, self.name)
    }
}

/// A row of the history table, as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Applied {
    version: i32,
    name: String,
    checksum: String,
    applied_on: String,
}

/// Where the history was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Ours,
    /// In the table that version 0.1 used: to be taken over.
    Former,
    Nowhere,
}

/// The history of the outbox in `schema`, which the session looks at first. Errors: those of the database.
pub(super) async fn read(client: &Client, schema: &str, known: &[Known]) -> Result<(Place, Vec<Applied>), DbError> {
    let tables = client.query_one(TABLES, &[&schema]).await?;
    if tables.get("ours") {
        return Ok((Place::Ours, rows(&client.query(OURS, &[]).await?)));
    }
    // Without an outbox, it is the history of something else.
    if tables.get("former") && tables.get("outbox") {
        let ours = of_ours(rows(&client.query(FORMER, &[]).await?), known);
        if !ours.is_empty() {
            return Ok((Place::Former, ours));
        }
    }
    Ok((Place::Nowhere, Vec::new()))
}

/// A row that has no number is nobody's migration.
fn rows(found: &[Row]) -> Vec<Applied> {
    let text = |row: &Row, column: &str| row.get::<_, Option<String>>(column).unwrap_or_default();
    let applied = |row: &Row| {
        Some(Applied {
            version: text(row, "version").parse().ok()?,
            name: text(row, "name"),
            checksum: text(row, "checksum"),
            applied_on: text(row, "applied_on"),
        })
    };
    found.iter().filter_map(applied).collect()
}

/// The rows of a shared table that are ours, by number and name; an application's migrations have other names. None of
/// them unless the first one is there.
fn of_ours(rows: Vec<Applied>, known: &[Known]) -> Vec<Applied> {
    let is_ours = |row: &Applied| known.iter().any(|known| known.version == row.version && known.name == row.name);
    let ours: Vec<Applied> = rows.into_iter().filter(is_ours).collect();
    let has_first = known.first().is_some_and(|first| ours.iter().any(|row| row.version == first.version));
    if has_first { ours } else { Vec::new() }
}

/// Every migration that this program or the database has, by number.
pub(super) fn compare(known: &[Known], applied: &[Applied]) -> Vec<MigrationStatus> {
    let of_known = |known: &Known| {
        let done = applied.iter().find(|done| done.version == known.version);
        MigrationStatus {
            version: known.version,
            name: done.map_or(&known.name, |done| &done.name).clone(),
            applied_on: done.map(|done| done.applied_on.clone()),
            state: match done {
                None => State::Pending,
                Some(done) if done.name == known.name && done.checksum == known.checksum => State::Applied,
                Some(_) => State::Changed,
            },
        }
    };
    let unknown = applied.iter().filter(|done| known.iter().all(|known| known.version != done.version));
    let mut all: Vec<MigrationStatus> = known
        .iter()
        .map(of_known)
        .chain(unknown.map(|done| MigrationStatus {
            version: done.version,
            name: done.name.clone(),
            applied_on: Some(done.applied_on.clone()),
            state: State::Unknown,
        }))
        .collect();
    all.sort_by_key(|status| status.version);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(version: i32, name: &str) -> Known {
        Known { version, name: name.to_owned(), sql: String::new(), checksum: format!("{version}0") }
    }

    fn applied(version: i32, name: &str, checksum: &str) -> Applied {
        Applied {
            version,
            name: name.to_owned(),
            checksum: checksum.to_owned(),
            applied_on: "2026-01-01T00:00:00Z".to_owned(),
        }
    }

    #[test]
    fn numbers_alone_prove_nothing() {
        let ours = [known(1, "outbox"), known(2, "consumer"), known(3, "more"), known(4, "last")];
        let found = [
            applied(1, "outbox", "10"),
            applied(2, "consumer", "21"),
            applied(3, "shop", "30"),
            applied(9, "newer", "90"),
        ];
        let states: Vec<_> =
            compare(&ours, &found).iter().map(|status| (status.version, status.name.clone(), status.state)).collect();
        assert_eq!(
            states,
            [
                (1, "outbox".to_owned(), State::Applied),
                (2, "consumer".to_owned(), State::Changed),
                (3, "shop".to_owned(), State::Changed),
                (4, "last".to_owned(), State::Pending),
                (9, "newer".to_owned(), State::Unknown),
            ]
        );
    }

    #[test]
    fn a_table_of_an_applications_own_is_not_taken_for_ours() {
        let ours = [known(1, "outbox"), known(2, "consumer")];
        assert_eq!(of_ours(vec![applied(1, "init", "1"), applied(2, "consumer", "20")], &ours), []);
        assert_eq!(of_ours(vec![applied(1, "outbox", "1"), applied(2, "users", "2")], &ours).len(), 1);
    }
}
