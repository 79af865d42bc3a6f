//! A PostgreSQL session in which every call has a limit. The driver's client is not reachable outside this file.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};

use futures_util::Stream;
use tokio::time::{Instant, Sleep};
use tokio_postgres::types::{BorrowToSql, ToSql, Type};
use tokio_postgres::{Row, RowStream, SimpleQueryMessage, Statement, ToStatement};

use super::deadline::{Call, Guard, NoAnswer};
use super::patience::{BACKEND_PID, Patience, Watch};
use super::{Database, DbError};

/// A session. Dropping it closes the connection.
#[derive(Debug)]
pub struct Client {
    inner: tokio_postgres::Client,
    statements: Statements,
    guard: Guard,
    /// To ask about this session while a long statement runs.
    database: Database,
    /// Number of abandoned calls when this was connected; see [`super::deadline::Silences`].
    silences: u64,
}

type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// What a session and a transaction on it have in common: every call of the driver within the limit of a statement.
macro_rules! statements {
    () => {
        pub async fn query<T: ?Sized + ToStatement>(
            &self,
            statement: &T,
            params: Params<'_>,
        ) -> Result<Vec<Row>, DbError> {
            self.guard.statement(self.inner.query(statement, params)).await
        }

        pub async fn query_one<T: ?Sized + ToStatement>(
            &self,
            statement: &T,
            params: Params<'_>,
        ) -> Result<Row, DbError> {
            self.guard.statement(self.inner.query_one(statement, params)).await
        }

        pub async fn query_opt<T: ?Sized + ToStatement>(
            &self,
            statement: &T,
            params: Params<'_>,
        ) -> Result<Option<Row>, DbError> {
            self.guard.statement(self.inner.query_opt(statement, params)).await
        }

        /// The limit is for the first answer, and then for each row.
        pub async fn query_raw<T, P, I>(&self, statement: &T, params: I) -> Result<Rows<'_>, DbError>
        where
            T: ?Sized + ToStatement,
            P: BorrowToSql,
            I: IntoIterator<Item = P>,
            I::IntoIter: ExactSizeIterator,
        {
            let rows = self.guard.statement(self.inner.query_raw(statement, params)).await?;
            Ok(Rows::new(rows, &self.guard))
        }

        pub async fn execute<T: ?Sized + ToStatement>(
            &self,
            statement: &T,
            params: Params<'_>,
        ) -> Result<u64, DbError> {
            self.guard.statement(self.inner.execute(statement, params)).await
        }

        pub async fn batch_execute(&self, script: &str) -> Result<(), DbError> {
            self.guard.statement(self.inner.batch_execute(script)).await
        }

        pub async fn prepare(&self, query: &str) -> Result<Statement, DbError> {
            self.guard.statement(self.inner.prepare(query)).await
        }

        /// As `prepare`, once for each text in the life of the session.
        pub async fn prepare_cached(&self, query: &str) -> Result<Statement, DbError> {
            if let Some(known) = self.statements.get(query) {
                return Ok(known);
            }
            let statement = self.prepare(query).await?;
            self.statements.insert(query, &statement);
            Ok(statement)
        }
    };
}

impl Client {
    statements!();

    pub(super) fn new(inner: tokio_postgres::Client, guard: Guard, database: Database, silences: u64) -> Self {
        Self { inner, statements: Statements::default(), guard, database, silences }
    }

    /// From now on a statement may take as long as PostgreSQL works on it. For the few operations that read or change
    /// whole tables.
    pub async fn without_statement_limit(&mut self) -> Result<(), DbError> {
        let pid = self.query_one(BACKEND_PID, &[]).await?.get(0);
        self.guard.set_patience(Patience::WhileItWorks(Box::new(Watch::new(self.database.clone(), pid))));
        Ok(())
    }

    /// Parameters with their types, in one round trip.
    pub(super) async fn query_typed(
        &self,
        query: &str,
        params: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Vec<Row>, DbError> {
        self.guard.statement(self.inner.query_typed(query, params)).await
    }

    /// The messages that a script gives, as text.
    pub async fn simple_query(&self, script: &str) -> Result<Vec<SimpleQueryMessage>, DbError> {
        self.guard.statement(self.inner.simple_query(script)).await
    }

    /// Begins a transaction, which is rolled back when it is dropped.
    pub async fn transaction(&mut self) -> Result<Transaction<'_>, DbError> {
        let Self { inner, statements, guard, .. } = self;
        let inner = guard.statement(inner.transaction()).await?;
        Ok(Transaction { inner, statements, guard })
    }

    /// Whether the connection may be used again.
    pub(super) fn is_sound(&self, silences: u64) -> bool {
        !self.inner.is_closed() && self.silences == silences
    }
}

/// A transaction on a [`Client`]; rolled back when dropped.
pub struct Transaction<'a> {
    inner: tokio_postgres::Transaction<'a>,
    statements: &'a Statements,
    guard: &'a Guard,
}

impl Transaction<'_> {
    statements!();

    /// A part of this transaction that can be rolled back by itself.
    pub async fn savepoint(&mut self, name: &str) -> Result<Transaction<'_>, DbError> {
        let Self { inner, statements, guard } = self;
        let inner = guard.statement(inner.savepoint(name)).await?;
        Ok(Transaction { inner, statements, guard })
    }

    /// When the limit passes, nobody knows whether the transaction was committed.
    pub async fn commit(self) -> Result<(), DbError> {
        self.guard.commit(self.inner.commit()).await
    }

    pub async fn rollback(self) -> Result<(), DbError> {
        self.guard.rollback(self.inner.rollback()).await
    }
}

/// Rows as they arrive, each within the limit of a statement.
pub struct Rows<'a> {
    inner: Pin<Box<RowStream>>,
    guard: &'a Guard,
    /// Made at the first wait.
    limit: Option<Pin<Box<Sleep>>>,
    waiting: bool,
}

impl<'a> Rows<'a> {
    fn new(inner: RowStream, guard: &'a Guard) -> Self {
        Self { inner: Box::pin(inner), guard, limit: None, waiting: false }
    }
}

impl Stream for Rows<'_> {
    type Item = Result<Row, DbError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Poll::Ready(row) = self.inner.as_mut().poll_next(context) {
            self.waiting = false;
            return Poll::Ready(row.map(|row| row.map_err(DbError::from)));
        }
        let allowed = self.guard.row_limit();
        let end = Instant::now() + allowed;
        let was_waiting = std::mem::replace(&mut self.waiting, true);
        let limit = self.limit.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(end)));
        if !was_waiting {
            limit.as_mut().reset(end);
        }
        match limit.as_mut().poll(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => Poll::Ready(Some(Err(self.guard.give_up(NoAnswer::new(Call::Statement, allowed))))),
        }
    }
}

/// Prepared statements by their text. Bounded by the number of statements in the program.
#[derive(Debug, Default)]
struct Statements(Mutex<HashMap<String, Statement>>);

impl Statements {
    fn get(&self, query: &str) -> Option<Statement> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(query).cloned()
    }

    fn insert(&self, query: &str, statement: &Statement) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(query.to_owned(), statement.clone());
    }
}
