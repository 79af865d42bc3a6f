//! Why a fold failed, and whether an event, the statement or the database is to blame.
//!
//! Invariant: an event is parked only when it fails alone: at once for [`Cause::Data`], and on the evidence that
//! [`super::suspicion`] asks for when the cause need not be the event's own. An outage or a lock parks nothing.

use super::suspicion::Ground;
use crate::db::DbError;

/// Why a fold failed. Nothing was committed, except that after [`Cause::Unavailable`] the fate of a COMMIT is unknown.
/// `Display` holds nothing of the events, so it is fit for logs.
#[derive(Debug, thiserror::Error)]
pub enum FoldError {
    #[error("{}", describe(projection.as_deref(), source))]
    Database {
        /// The projection whose statement failed, if it was one.
        projection: Option<String>,
        source: DbError,
    },
    #[error("projection {projection}: it returned the ordinal {ordinal}, which is not in new_events")]
    Ordinal { projection: String, ordinal: i32 },
}

/// What a failure means for the records of the part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Something in the data: fewer records may pass, and a single one is the culprit.
    Data,
    /// PostgreSQL cancelled a statement that ran too long: fewer records may pass, and a single one may be the culprit.
    TooSlow,
    /// An internal error, or memory or another limit of the server (`temp_file_limit`) that ran out: one record may be
    /// the culprit, or the server, or the projection.
    Unclear,
    /// Somebody keeps a lock that the statement needs. No record is to blame, and fewer of them need the same lock.
    Locked,
    /// Wait and try again.
    Unavailable,
    /// The statement, the schema or a grant is wrong: an operator must act, and no record is to blame.
    Program,
}

impl FoldError {
    pub fn cause(&self) -> Cause {
        match self {
            Self::Database { projection, source } => cause(projection.as_deref(), source),
            Self::Ordinal { .. } => Cause::Unclear,
        }
    }

    /// What failed, to compare failures with each other.
    pub fn ground(&self) -> Ground {
        match self {
            Self::Database { projection, source } => Ground {
                projection: projection.clone(),
                sqlstate: source.sqlstate().map(|code| code.code().to_owned()),
            },
            Self::Ordinal { projection, .. } => Ground { projection: Some(projection.clone()), sqlstate: None },
        }
    }

    /// For `consumer_parked`, and for the commands that print it: quotes nothing of the event.
    pub fn reason(&self) -> String {
        match self {
            Self::Database { projection, source } => {
                format!("{}{}", prefix(projection.as_deref()), message(source))
            }
            Self::Ordinal { .. } => self.to_string(),
        }
    }
}

impl<E: Into<DbError>> From<E> for FoldError {
    fn from(error: E) -> Self {
        Self::Database { projection: None, source: error.into() }
    }
}

/// The classes of SQLSTATE that PostgreSQL itself gives out and that are not listed below as about data.
const STANDARD: &[&str] = &[
    "00", "01", "02", "03", "08", "09", "0A", "0B", "0F", "0L", "0P", "0Z", "10", "20", "24", "25", "26", "27", "28",
    "2B", "2D", "2F", "34", "38", "39", "3B", "3D", "3F", "40", "42", "53", "55", "57", "58", "72", "F0", "HV", "XX",
];

/// What a session answers to the statement of a projection is about that statement, not about the server.
fn cause(projection: Option<&str>, error: &DbError) -> Cause {
    let code = error.sqlstate().map(|code| code.code());
    match error {
        // query_canceled: the statement timeout, if it was not an operator.
        DbError::Unavailable(_) if code == Some("57014") => Cause::TooSlow,
        DbError::Unavailable(_) if code == Some("55P03") => Cause::Locked,
        // out_of_memory, configuration_limit_exceeded. A full disk and too many connections are nobody's fault.
        DbError::Unavailable(_) if projection.is_some() && matches!(code, Some("53200" | "53400")) => Cause::Unclear,
        // object_not_in_prerequisite_state, object_in_use.
        DbError::Unavailable(_) if projection.is_some() && matches!(code, Some("55000" | "55006")) => Cause::Unclear,
        DbError::Unavailable(_) | DbError::Denied(_) => Cause::Unavailable,
        DbError::Statement(_) => match code.and_then(|code| code.get(..2)) {
            // Classes of SQLSTATE: cardinality, data exception, constraint, check option, program limit (a key too long
            // for an index), raised by PL/pgSQL. PostgreSQL documentation, appendix A.
            Some("21" | "22" | "23" | "44" | "54" | "P0") => Cause::Data,
            // Raised by the operator's own code, about what it was given.
            Some(class) if !STANDARD.contains(&class) => Cause::Data,
            // What is written or granted wrongly, or what a session lacks.
            Some("0L" | "0P" | "25" | "26" | "28" | "2B" | "34" | "3B" | "3D" | "3F" | "42") | None => Cause::Program,
            Some(_) => Cause::Unclear,
        },
    }
}

fn describe(projection: Option<&str>, error: &DbError) -> String {
    match (cause(projection, error), error) {
        (Cause::TooSlow, _) => {
            format!("{}the statement took longer than database.statement_timeout", prefix(projection))
        }
        (Cause::Locked, _) => format!("{}the statement waits for a lock held by another session", prefix(projection)),
        (Cause::Data, _) => {
            // Not more than the SQLSTATE: lines of a log are gathered by their text.
            let code = error.sqlstate().map_or("no SQLSTATE", |code| code.code());
            format!("{}rejected by PostgreSQL ({code})", prefix(projection))
        }
        (Cause::Program | Cause::Unclear, _) => format!("{}{}", prefix(projection), message(error)),
        (Cause::Unavailable, DbError::Denied(_)) => "PostgreSQL refused the connection".to_owned(),
        (Cause::Unavailable, _) => match error.sqlstate().filter(|_| projection.is_some()) {
            Some(code) => {
                format!("{}PostgreSQL cannot run it now (SQLSTATE {})", prefix(projection), code.code())
            }
            None => "PostgreSQL is not reachable".to_owned(),
        },
    }
}

fn message(error: &DbError) -> String {
    match error {
        DbError::Statement(inner) | DbError::Denied(inner) => inner.to_string(),
        DbError::Unavailable(inner) => inner.to_string(),
    }
}

fn prefix(projection: Option<&str>) -> String {
    projection.map_or_else(String::new, |name| format!("projection {name}: "))
}
