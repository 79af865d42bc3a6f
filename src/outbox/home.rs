//! Where the outbox is: this database on this server, and not a copy of it.
//!
//! A copy has the shards, the batch numbers and the name of the original, so a relay on it would interfere with the
//! original's work in Kafka. It does not have the identity of the original's server and database. Copies below
//! PostgreSQL (of a file system or a volume, a physical backup) have that too; in exactly-once delivery they are
//! detected by the tags of batches (`relay::takeover`).

use serde_json::json;
use uuid::Uuid;

use super::audit::{self, Author};
use super::statements::REQUEUE;
use crate::db::{Connection, DbError, Pool};
use crate::error::{Code, Error};

const LOOK: &str = include_str!("home/sql/look.sql");
const SYSTEM: &str = include_str!("home/sql/system.sql");
const NOTE: &str = include_str!("home/sql/note.sql");
const LOCK: &str = include_str!("home/sql/lock.sql");
const MOVE: &str = include_str!("home/sql/move.sql");
const PART: &str = include_str!("home/sql/part.sql");

/// A database among all others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The identifier that `initdb` generated for the server. `None`: PostgreSQL does not reveal it to this role.
    pub system: Option<String>,
    /// The oid of the database in it.
    pub database: i64,
}

impl Place {
    /// Unknown values make no difference.
    fn is(&self, other: &Self) -> bool {
        let known = self.system.as_ref().zip(other.system.as_ref());
        self.database == other.database && known.is_none_or(|(one, other)| one == other)
    }

    /// For messages.
    pub fn describe(&self) -> String {
        let system = self.system.as_deref().unwrap_or("unknown");
        format!("database {} of PostgreSQL system {system}", self.database)
    }
}

/// Whether a database is where its outbox lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// No relay has run on it yet.
    New(Place),
    Home,
    /// It was copied from there, or moved.
    Away {
        home: Place,
        here: Place,
    },
}

/// What an outbox becomes that is not where it lived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adoption {
    /// The original is gone for good, and this is its continuation.
    Moved,
    /// The original stays in use. This becomes a separate outbox, with another name in markers and nothing in flight.
    Copy,
}

/// Changes nothing.
pub async fn look(pool: &Pool) -> Result<Standing, DbError> {
    let connection = pool.get().await?;
    let standing = standing(&connection).await?;
    connection.done();
    Ok(standing)
}

async fn standing(connection: &Connection) -> Result<Standing, DbError> {
    let row = connection.query_one(LOOK, &[]).await?;
    let system = match row.get("tells_system") {
        true => Some(connection.query_one(SYSTEM, &[]).await?.get(0)),
        false => None,
    };
    let here = Place { system, database: row.get("database") };
    let Some(database) = row.get("home_database") else { return Ok(Standing::New(here)) };
    let home = Place { system: row.get("home_system"), database };
    Ok(if home.is(&here) { Standing::Home } else { Standing::Away { home, here } })
}

/// Looks, and notes where this is if no relay has run here before. A role that may not note it goes on without.
///
/// Errors: [`Code::DatabaseMoved`] on a copy, or after a move that nobody has accepted.
pub async fn settle_in(pool: &Pool) -> Result<(), Error> {
    match look(pool).await? {
        Standing::Home => Ok(()),
        Standing::Away { home, here } => Err(away(&home, &here)),
        Standing::New(here) => {
            let connection = pool.get().await?;
            let noted = connection.execute(NOTE, &[&here.system, &here.database]).await;
            connection.done();
            match noted {
                Err(error) if error.is_denied() => tracing::warn!(
                    "a copy of this database would not be told from it: the role lacks UPDATE (home_system, home_database) on \
                     outbox_installation; see docs/roles.sql"
                ),
                Err(error) => return Err(error.into()),
                Ok(_) => {}
            }
            Ok(())
        }
    }
}

/// The refusal to work away from home.
pub fn away(home: &Place, here: &Place) -> Error {
    let message = format!(
        "this database is a copy of an outbox, or was moved: the relay last ran on {}, but this is {}",
        home.describe(),
        here.describe()
    );
    Error::new(Code::DatabaseMoved, message).hint(
        "nothing was sent or marked; if the original is gone for good, run: outbox-relay adopt --moved; to make this an outbox of its own, \
         run: outbox-relay adopt --copy",
    )
}

/// What an adoption has found and done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adopted {
    /// The name in markers from now on.
    pub installation: Uuid,
    /// Events that were in flight and wait again. Those of a moved outbox stay in flight, and the next relay resolves
    /// them.
    pub waiting_again: u64,
}

/// Accepts where the outbox is now, in one transaction. `None` when it is at home.
pub async fn adopt(pool: &Pool, adoption: Adoption, author: &Author) -> Result<Option<Adopted>, DbError> {
    let mut connection = pool.get().await?;
    let Standing::Away { home, here } = standing(&connection).await? else {
        connection.done();
        return Ok(None);
    };
    let tx = connection.transaction().await?;
    let rows = tx.query(LOCK, &[]).await?;
    let in_flight: Vec<i64> =
        rows.iter().filter_map(|row| row.get::<_, Option<Vec<i64>>>("batch_ids")).flatten().collect();
    let id = (adoption == Adoption::Copy).then(Uuid::new_v4);
    let installation: Uuid = tx.query_one(MOVE, &[&here.system, &here.database, &id]).await?.get("id");
    let mut waiting_again = 0;
    if adoption == Adoption::Copy {
        tx.execute(PART, &[]).await?;
        tx.execute(REQUEUE, &[&in_flight]).await?;
        waiting_again = in_flight.len() as u64;
    }
    let details = json!({
        "as": match adoption { Adoption::Moved => "moved", Adoption::Copy => "copy" },
        "from": home.describe(),
        "to": here.describe(),
        "installation": installation.to_string(),
    });
    audit::record(&tx, author, "adopt", &details).await?;
    tx.commit().await?;
    connection.done();
    Ok(Some(Adopted { installation, waiting_again }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_of_a_place_tells_no_difference() {
        let place = |system: Option<&str>, database| Place { system: system.map(str::to_owned), database };
        assert!(place(Some("7"), 5).is(&place(Some("7"), 5)));
        assert!(place(None, 5).is(&place(Some("7"), 5)));
        assert!(!place(Some("8"), 5).is(&place(Some("7"), 5)));
        assert!(!place(Some("7"), 6).is(&place(Some("7"), 5)));
    }
}
