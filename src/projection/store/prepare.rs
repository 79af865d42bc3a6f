//! Whether PostgreSQL accepts the statements of the consumer and those of its projections.

use tokio_postgres::types::Type;

use super::parking::INSERT_PARKED;
use super::positions::{LOOK, NOTE_IDENTITY, STOP, TAKE_FENCES};
use super::{ADVANCE, BE_BRIEF, INSERT_HANDLED, STANDING, Store, parked};
use crate::db::{Connection, Database, DbError, Role};
use crate::error::{Code, Error, Result};
use crate::projection::Projection;

impl Store {
    /// Whether the statements prepare. Errors: [`Code::ProjectionInvalid`], and what [`DbError`] becomes.
    pub async fn prepare(&self) -> Result<()> {
        let connection = self.pool.get().await?;
        let positions = [TAKE_FENCES, NOTE_IDENTITY, STOP, LOOK, ADVANCE, STANDING];
        for sql in positions.into_iter().chain(parked::ALL).chain([INSERT_HANDLED, INSERT_PARKED, BE_BRIEF]) {
            connection.prepare_cached(sql).await?;
        }
        for projection in &self.projections {
            prepare(&connection, projection).await?;
        }
        connection.done();
        Ok(())
    }
}

/// Whether PostgreSQL takes every projection, for `check`. Opens one connection of its own.
///
/// Errors: [`Code::ProjectionInvalid`] for the first that it does not take; what [`DbError`] becomes if it is
/// unreachable.
pub async fn prepare_all(database: &Database, projections: &[Projection]) -> Result<()> {
    let connection = database.pool(Role::Admin, 1).get().await?;
    for projection in projections {
        prepare(&connection, projection).await?;
    }
    Ok(())
}

async fn prepare(connection: &Connection, projection: &Projection) -> Result<()> {
    let invalid = |problem: String| {
        Error::new(Code::ProjectionInvalid, format!("projection {}: {problem}", projection.name()))
            .hint("it must be one statement without parameters that reads new_events and returns either nothing or (ordinal int, reason text)")
    };
    let statement = match connection.prepare(&projection.checked_statement()).await {
        Ok(statement) => statement,
        Err(DbError::Statement(error)) => return Err(invalid(error.to_string())),
        Err(error) => return Err(error.into()),
    };
    if !statement.params().is_empty() {
        return Err(invalid("it has parameters".to_owned()));
    }
    let columns: Vec<&Type> = statement.columns().iter().map(|column| column.type_()).collect();
    if columns.is_empty() || columns == [&Type::INT4, &Type::TEXT] {
        return Ok(());
    }
    let types: Vec<&str> = columns.iter().map(|column| column.name()).collect();
    Err(invalid(format!("it returns ({})", types.join(", "))))
}
