//! Connection pools, one for each [`Role`](super::Role).
//!
//! Invariant: a connection returns to its pool only after [`Connection::done`]. A future that is dropped in the middle
//! of a transaction would otherwise hand the next user a session with that transaction still open, and an abandoned
//! transaction pins the vacuum horizon for everyone.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use deadpool::Runtime;
use deadpool::managed::{self, Metrics, Object, PoolError, RecycleError, RecycleResult, TimeoutType};

use super::client::Client;
use super::deadline::{Call, NoAnswer};
use super::{Database, DbError, Role};

/// Makes the connections of a pool.
#[derive(Debug)]
struct Manager {
    database: Database,
    role: Role,
    setup: &'static str,
}

impl managed::Manager for Manager {
    type Type = Client;
    type Error = DbError;

    async fn create(&self) -> Result<Client, DbError> {
        let client = Box::pin(self.database.connect(self.role)).await?;
        if !self.setup.is_empty() {
            client.batch_execute(self.setup).await?;
        }
        Ok(client)
    }

    async fn recycle(&self, client: &mut Client, _: &Metrics) -> RecycleResult<DbError> {
        match client.is_sound(self.database.silences()) {
            true => Ok(()),
            false => Err(RecycleError::message("the connection is closed, or others like it fell silent")),
        }
    }
}

/// A pool for one role. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Pool {
    inner: managed::Pool<Manager>,
    /// Host and database, for errors.
    place: Arc<str>,
}

impl Pool {
    pub(super) fn new(database: &Database, role: Role, size: usize, setup: &'static str) -> Self {
        let place = database.describe().into();
        let manager = Manager { database: database.clone(), role, setup };
        let inner = managed::Pool::builder(manager)
            .max_size(size)
            .runtime(Runtime::Tokio1)
            // Making one has limits of its own, and recycling asks nobody.
            .wait_timeout(Some(database.limits(role).pool()))
            .build()
            .expect("a runtime is set, and nothing else can fail here");
        Self { inner, place }
    }

    /// Waits for a free connection, or opens one.
    pub async fn get(&self) -> Result<Connection, DbError> {
        match self.inner.get().await {
            Ok(object) => Ok(Connection { object: Some(object) }),
            Err(error) => Err(self.no_connection(error)),
        }
    }

    fn no_connection(&self, error: PoolError<DbError>) -> DbError {
        match error {
            PoolError::Backend(error) => error,
            PoolError::Timeout(TimeoutType::Wait) => {
                let limit = self.inner.timeouts().wait.unwrap_or_default();
                DbError::from(NoAnswer::new(Call::Pool, limit)).at(&self.place)
            }
            other @ (PoolError::Timeout(TimeoutType::Create | TimeoutType::Recycle)
            | PoolError::Closed
            | PoolError::NoRuntimeSpecified
            | PoolError::PostCreateHook(_)) => DbError::Unavailable(other.to_string().into()).at(&self.place),
        }
    }

    /// Connections in use, idle and allowed, for the gauge.
    pub fn usage(&self) -> (usize, usize, usize) {
        let status = self.inner.status();
        (status.size.saturating_sub(status.available), status.available, status.max_size)
    }
}

/// A pooled connection that is thrown away unless its user says [`Connection::done`].
pub struct Connection {
    object: Option<Object<Manager>>,
}

impl Connection {
    /// The work is finished and no transaction is open: the pool may have the connection back.
    pub fn done(mut self) {
        drop(self.object.take());
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(object) = self.object.take() {
            drop(Object::take(object));
        }
    }
}

impl Deref for Connection {
    type Target = Client;

    fn deref(&self) -> &Self::Target {
        self.object.as_ref().expect("taken only when the connection is given up")
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut Self::Target {
        self.object.as_mut().expect("taken only when the connection is given up")
    }
}
