//! What may be copied, and where to.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use super::{Request, resume_command};
use crate::broker::admin::Admin;
use crate::config::Config;
use crate::db::Pool;
use crate::error::{Code, Error};
use crate::event::EventStatus;
use crate::operations::{Progress, Result, When};
use crate::outbox::replay::{self, Filter, Named, Replay};
use crate::relay::routing::Routing;

/// The filter with every time worked out by the clock of the database, which set `created_at`.
pub(super) fn filter(request: &Request, now: Timestamp) -> Result<Filter, Error> {
    let at = |when: Option<When>| match when {
        None => (None, None),
        Some(When::At(at)) => (Some(at), None),
        Some(When::Ago(ago)) => {
            let at = SignedDuration::try_from(ago).ok().and_then(|ago| now.checked_sub(ago).ok());
            (Some(at.unwrap_or(Timestamp::MIN)), Some(ago.as_secs_f64()))
        }
    };
    let ((from, from_ago), (to, to_ago)) = (at(request.from), at(request.to));
    if let (Some(from), Some(to)) = (from, to)
        && from >= to
    {
        return Err(Error::new(Code::Usage, format!("--from {from} is not before --to {to}"))
            .hint("events are selected from --from (included) to --to (excluded)"));
    }
    let ids: BTreeSet<i64> = request.ids.iter().copied().collect();
    Ok(Filter {
        ids: (!ids.is_empty()).then(|| ids.into_iter().collect()),
        topic: request.topic.clone(),
        event_type: request.event_type.clone(),
        aggregate_type: request.aggregate_type.clone(),
        aggregate_id: request.aggregate_id.clone(),
        key: request.key.clone(),
        from,
        to,
        from_ago,
        to_ago,
    })
}

/// Whoever names ids wants exactly those: one that cannot be copied stops all.
pub(super) fn check_ids(wanted: &[i64], found: &[Named]) -> Result<(), Error> {
    let known: BTreeSet<i64> = found.iter().map(|row| row.id).collect();
    let missing: Vec<String> = wanted.iter().filter(|id| !known.contains(id)).map(i64::to_string).collect();
    if !missing.is_empty() {
        return Err(Error::new(Code::NotFound, format!("no event {}", missing.join(", ")))
            .hint("outbox-relay events ls lists what is there; cleaned-up events are gone"));
    }
    for row in found {
        if row.dead_letter {
            return Err(Error::new(Code::CheckNotMet, format!("event {} is a dead letter", row.id))
                .hint("outbox-relay dlq redrive brings the event back to its topic"));
        }
        let hint = match row.status {
            EventStatus::Published | EventStatus::Discarded => continue,
            EventStatus::Failed => "outbox-relay events retry tries it again",
            EventStatus::Pending | EventStatus::Held => "it is published when its turn comes",
        };
        return Err(Error::new(
            Code::CheckNotMet,
            format!("event {} is {}, not PUBLISHED or DISCARDED", row.id, row.status),
        )
        .hint(hint));
    }
    Ok(())
}

/// A topic that the relay would refuse, or that does not exist, would make every copy FAILED.
pub(super) async fn check_topic(settings: &Config, topic: Option<&str>, progress: &dyn Progress) -> Result<(), Error> {
    let Some(topic) = topic else { return Ok(()) };
    Routing::new(&settings.routing)?.allows(topic).map_err(|refused| {
        Error::new(Code::Usage, "--to-topic is refused").caused_by(refused).hint("see routing.allowed_topics")
    })?;
    if settings.kafka.bootstrap_servers.trim().is_empty() {
        return Ok(());
    }
    match Admin::new(&settings.kafka)?.topic(topic).await {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err(Error::new(Code::NotFound, format!("the topic {topic} does not exist"))
            .hint("create it first: events for a topic that does not exist fail after relay.unknown_topic_grace")),
        Err(error) => {
            progress.remark(&format!("Kafka does not report whether {topic} exists: {}", error.chain()));
            Ok(())
        }
    }
}

pub(super) async fn refuse_without_grants(pool: &Pool) -> Result<()> {
    let missing = replay::missing_grants(pool).await?;
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::new(Code::PostgresStatement, format!("the role in database.url lacks {}", missing.join(", ")))
        .hint("see outbox_operator in docs/roles.sql")
        .into())
}

pub(super) fn refuse_unfinished(request: &Request, filter: &Filter, others: &[Replay]) -> Result<(), Error> {
    let same = |replay: &&Replay| {
        replay.readable
            && replay.filter.same(filter)
            && (&replay.to_topic, replay.new_ids) == (&request.to_topic, request.new_ids)
    };
    match others.iter().find(same).filter(|_| !request.again) {
        None => Ok(()),
        Some(found) => Err(unfinished(found, request.ignore_retention)),
    }
}

/// The same replay was begun before.
pub(super) fn unfinished(found: &Replay, ignore_retention: bool) -> Error {
    Error::new(
        Code::CheckNotMet,
        format!(
            "the same replay, begun at {}, is unfinished: {} of {} events are copied",
            found.created_at, found.copied, found.matched
        ),
    )
    .hint(format!(
        "continue with: {}\n--again begins another one all the same",
        resume_command(found.id, ignore_retention)
    ))
}
