//! What keeps events of the outbox from being published.

use jiff::{SignedDuration, Timestamp};

use crate::clock;
use crate::db::{DbError, Pool};
use crate::outbox::inspect::waits::{self, Row};
use crate::signals::{Situation, Wait};

/// Clocks that differ by less are as good as equal: for nothing but the times that people read do they matter.
const SKEW: SignedDuration = SignedDuration::from_secs(5);
/// Leases after which a silent relay counts as gone.
const SILENT_LEASES: u32 = 2;

/// Everything that is waited for. `lease`: how long a shard belongs to an instance that has gone.
///
/// Errors: PostgreSQL does not answer. Where row-level security hides the tables from this role, that is the answer.
pub async fn waits(pool: &Pool, lease: std::time::Duration) -> Result<Vec<Wait>, DbError> {
    let asked = clock::wall();
    match waits::list(pool, (lease * SILENT_LEASES).as_secs_f64()).await {
        Ok(rows) => Ok(of_rows(&rows, asked, clock::wall())),
        Err(error) if error.is_denied() => match hidden(pool).await? {
            Some(wait) => Ok(vec![wait]),
            None => Err(error),
        },
        Err(error) => Err(error),
    }
}

/// The tables that row-level security hides, if there are any.
pub async fn hidden(pool: &Pool) -> Result<Option<Wait>, DbError> {
    let tables = waits::hidden_tables(pool).await?;
    let text = || {
        format!("row-level security of {} applies to this role, so pending events cannot be counted", tables.join(", "))
    };
    Ok((!tables.is_empty()).then(|| Wait::new(Situation::RowSecurity).because(text())))
}

fn of_rows(rows: &[Row], asked: Timestamp, answered: Timestamp) -> Vec<Wait> {
    let mut found: Vec<Wait> = rows.iter().filter_map(of_row).collect();
    // Then nobody owns any shard, which is no news of each of them.
    if found.iter().any(|wait| wait.situation == Situation::NoRelay) {
        found.retain(|wait| wait.situation != Situation::NoOwner);
    }
    let clock = rows.iter().find(|row| row.situation == "clock").and_then(|row| row.since);
    found.extend(clock.and_then(|theirs| skew(theirs, asked, answered)));
    found
}

fn of_row(row: &Row) -> Option<Wait> {
    let situation = *Situation::ALL.iter().find(|situation| situation.code() == row.situation)?;
    let topic = row.topic.clone().filter(|topic| topic != "*");
    let text = if situation == Situation::Paused {
        Some(topic.as_ref().map_or("everything is paused".to_owned(), |topic| format!("the topic {topic} is paused")))
    } else if situation == Situation::BoundTooHigh {
        let shard = row.shard.unwrap_or_default();
        Some(format!(
            "pending events of shard {shard} are not counted: its scan bound is above the last id, and no relay has reset it yet"
        ))
    } else if row.keys > 0 {
        let (what, keys) = (situation.sentence(), if row.keys == 1 { "key" } else { "keys" });
        let what = format!("{what} ({} {keys})", row.keys);
        Some(topic.as_ref().map_or(what.clone(), |topic| format!("{topic}: {what}")))
    } else {
        None
    };
    Some(Wait { situation, topic, partition: None, shard: row.shard, detail: text, since: row.since })
}

/// How far the clock of PostgreSQL is from ours, beyond what the way there and back explains.
fn skew(theirs: Timestamp, asked: Timestamp, answered: Timestamp) -> Option<Wait> {
    let (ahead, behind) = (theirs.duration_since(answered), asked.duration_since(theirs));
    let (by, how) = if ahead >= behind { (ahead, "ahead of") } else { (behind, "behind") };
    let text = format!("PostgreSQL's clock is {} s {how} this host's clock", by.as_secs());
    (by > SKEW).then(|| Wait::new(Situation::ClockSkew).because(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(situation: &str, shard: Option<i16>) -> Row {
        Row { situation: situation.to_owned(), topic: None, shard, since: None, keys: 2 }
    }

    #[test]
    fn without_a_relay_single_shards_are_no_news() {
        let now = Timestamp::UNIX_EPOCH;
        let of = |rows: &[Row]| of_rows(rows, now, now).into_iter().map(|wait| wait.situation).collect::<Vec<_>>();
        assert_eq!(of(&[row("no-owner", Some(3))]), [Situation::NoOwner]);
        assert_eq!(of(&[row("no-owner", Some(3)), row("no-relay", None)]), [Situation::NoRelay]);
    }

    #[test]
    fn what_the_way_to_postgresql_explains_is_no_skew() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let of = |theirs, asked, answered| skew(at(theirs), at(asked), at(answered)).map(|wait| wait.text().to_owned());
        assert_eq!(of(100, 98, 102), None);
        assert_eq!(of(100, 60, 140), None, "a slow answer");
        assert_eq!(of(110, 98, 100).as_deref(), Some("PostgreSQL's clock is 10 s ahead of this host's clock"));
        assert_eq!(of(80, 98, 100).as_deref(), Some("PostgreSQL's clock is 18 s behind this host's clock"));
    }
}
