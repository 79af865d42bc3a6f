//! What the settings require of the database, and the checks before anything starts.

use crate::config::{AfterPublish, Config};
use crate::db::{Database, DbError};
use crate::error::{Code, Error, Result};
use crate::outbox::grants::{self, For, Who};
use crate::outbox::preflight::{Gravity, Obstacle, SEQUENCE, look};

/// What is done with these settings, as grants are listed.
pub fn purposes(settings: &Config) -> Vec<(Who, For)> {
    let mut purposes = of_relay(settings);
    purposes.extend(of_consumer(settings));
    purposes
}

fn of_relay(settings: &Config) -> Vec<(Who, For)> {
    let mut purposes = Vec::new();
    if settings.relay.enabled {
        purposes.push((Who::Relay, For::Work));
        if settings.cleanup.enabled {
            purposes.push((Who::Relay, For::Cleanup));
        }
        if settings.cleanup.enabled || settings.relay.after_publish == AfterPublish::Delete {
            purposes.push((Who::Relay, For::Deleting));
        }
    }
    purposes
}

fn of_consumer(settings: &Config) -> Vec<(Who, For)> {
    let mut purposes = Vec::new();
    if settings.consumer.enabled {
        purposes.push((Who::Consumer, For::Work));
        if settings.cleanup.enabled && !settings.relay.enabled {
            purposes.push((Who::Consumer, For::Cleanup));
        }
        // Projections of the operator's own are SQL files: what they need only they know.
        if settings.projection.is_empty() {
            purposes.push((Who::Consumer, For::ProductMetrics));
        }
    }
    purposes
}

/// What stands in the way of these settings.
pub async fn obstacles(settings: &Config, database: &Database) -> Result<Vec<Obstacle>, DbError> {
    look(database, &grants::tables(&purposes(settings)), settings.relay.enabled).await
}

/// Looks before the relay starts, and says what it finds.
///
/// Errors: [`Code::DatabaseUnfit`] when events would be lost or nothing would be published;
/// [`Code::PostgresUnreachable`] when it may pass by itself.
pub async fn relay_passes(settings: &Config, database: &Database) -> Result<()> {
    if !settings.relay.enabled {
        return Ok(());
    }
    judge(look(database, &grants::tables(&of_relay(settings)), true).await?)
}

/// The same before the consumer starts. What is in its way is not in the way of the relay.
pub async fn consumer_passes(settings: &Config, database: &Database) -> Result<()> {
    judge(look(database, &grants::tables(&of_consumer(settings)), false).await?)
}

fn judge(obstacles: Vec<Obstacle>) -> Result<()> {
    let (mut refused, mut wait): (Vec<Obstacle>, Option<Obstacle>) = (Vec::new(), None);
    for obstacle in obstacles {
        let Obstacle { gravity, check, what, why, fix } = &obstacle;
        match gravity {
            Gravity::Wait => wait = Some(obstacle),
            // Looked at by the relay itself, next and again and again.
            Gravity::Refuse if *check == SEQUENCE => {}
            Gravity::Refuse => refused.push(obstacle),
            Gravity::Degraded => tracing::warn!(check, why, fix, "{what}"),
            Gravity::Note => tracing::info!(check, why, fix, "{what}"),
        }
    }
    if let Some(first) = refused.first() {
        let all: Vec<&str> = refused.iter().map(|obstacle| obstacle.what.as_str()).collect();
        return Err(Error::new(Code::DatabaseUnfit, format!("{}: {}", all.join("; "), first.why)).hint(&first.fix));
    }
    match wait {
        Some(Obstacle { what, fix, .. }) => {
            Err(Error::new(Code::PostgresUnreachable, format!("PostgreSQL does not accept writes: {what}")).hint(fix))
        }
        None => Ok(()),
    }
}
