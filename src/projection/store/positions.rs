//! Taking partitions, moving and stopping their positions, and looking at them.

use jiff::Timestamp;
use uuid::Uuid;

use super::{ADVANCE, Store};
use crate::db::{DbError, StoredTime};
use crate::projection::position::{Landmark, Position, Standing, Stop, Stopped, TopicIdentity};
use crate::projection::record::Place;

pub(super) const TAKE_FENCES: &str = include_str!("sql/take_fences.sql");
pub(super) const LOOK: &str = include_str!("sql/look.sql");
pub(super) const STOP: &str = include_str!("sql/stop_partition.sql");
/// Locked rows that are waited for before the rest of the partitions is left for later.
const LOCKED_MAX: usize = 2;
pub(super) const NOTE_IDENTITY: &str = include_str!("sql/note_identity.sql");

/// Where a partition is read on, and by which epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    pub place: Place,
    pub epoch: i64,
    pub position: Position,
}

/// A partition as it stands now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    pub place: Place,
    pub standing: Standing,
    /// Parked events of it are to be folded again.
    pub released: bool,
}

impl Store {
    /// As [`Store::take`]. Where somebody keeps the row of a partition locked, the others are taken without it: a
    /// partition that is not returned has to be taken later.
    pub async fn take_what_is_free(&self, partitions: &[(Place, i64)], asks: bool) -> Result<Vec<Fence>, DbError> {
        match self.take(partitions, asks).await {
            Err(error) if error.is_lock_timeout() && partitions.len() > 1 => {}
            taken => return taken,
        }
        let (mut fences, mut locked) = (Vec::new(), 0);
        // In another order each time, so that each has its turn.
        let mut partitions: Vec<_> = partitions.iter().collect();
        fastrand::shuffle(&mut partitions);
        for partition in partitions {
            // Each wait keeps the consumer from polling.
            if locked >= LOCKED_MAX {
                break;
            }
            match self.take(std::slice::from_ref(partition), asks).await {
                Ok(taken) => fences.extend(taken),
                Err(error) if error.is_lock_timeout() => locked += 1,
                Err(error) => return Err(error),
            }
        }
        Ok(fences)
    }

    /// Takes partitions: from now on folds by any earlier epoch change nothing. A partition that the group has never
    /// read begins at `log_start`; with `asks` it is stopped at once where other groups have read its topic and this
    /// one has not.
    ///
    /// Cancel safe: at worst the epochs have moved on, and the next taking moves them again.
    pub async fn take(&self, partitions: &[(Place, i64)], asks: bool) -> Result<Vec<Fence>, DbError> {
        let (topics, numbers) = columns(partitions.iter().map(|(place, _)| place));
        let starts: Vec<i64> = partitions.iter().map(|(_, log_start)| *log_start).collect();
        let connection = self.pool.get().await?;
        let statement = connection.prepare_cached(TAKE_FENCES).await?;
        let rows =
            connection.query(&statement, &[&self.group, &topics, &numbers, &starts, &asks, &self.projection]).await?;
        connection.done();
        let fences = rows.iter().map(|row| {
            let last = row.get::<_, Option<i64>>(6).zip(row.get::<_, Option<Uuid>>(7));
            let stopped = row.get::<_, Option<String>>(8).map(|reason| Stopped {
                reason,
                detail: row.get::<_, Option<String>>(9).unwrap_or_default(),
                since: row.get::<_, Option<StoredTime>>(10).map_or(Timestamp::UNIX_EPOCH, StoredTime::clamped),
            });
            Fence {
                place: Place { topic: row.get(0), partition: row.get(1) },
                epoch: row.get(2),
                position: Position {
                    next_offset: row.get(3),
                    identity: TopicIdentity { cluster_id: row.get(4), topic_id: row.get(5) },
                    last: last.map(|(offset, digest)| Landmark { offset, digest }),
                    former_offset: row.get(11),
                    stopped,
                },
            }
        });
        Ok(fences.collect())
    }

    /// Moves the offset of a partition over what holds no records: markers and aborted records of transactions. Returns
    /// whether it moved; not if another instance has the partition, or it stands elsewhere.
    pub async fn pass(&self, place: &Place, epoch: i64, next_offset: i64, to: i64) -> Result<bool, DbError> {
        let connection = self.pool.get().await?;
        let advance = connection.prepare_cached(ADVANCE).await?;
        let nothing = (None::<i64>, None::<Uuid>, None::<Timestamp>);
        let moved = connection
            .execute(
                &advance,
                &[
                    &self.group,
                    &place.topic,
                    &place.partition,
                    &epoch,
                    &next_offset,
                    &to,
                    &nothing.0,
                    &nothing.1,
                    &nothing.2,
                    &self.projection,
                ],
            )
            .await?;
        connection.done();
        Ok(moved > 0)
    }

    /// Where partitions stand. One that PostgreSQL does not know is left out.
    pub async fn look(&self, places: &[Place]) -> Result<Vec<Look>, DbError> {
        let (topics, numbers) = columns(places.iter());
        let connection = self.pool.get().await?;
        let statement = connection.prepare_cached(LOOK).await?;
        let rows = connection.query(&statement, &[&self.group, &topics, &numbers, &self.projection]).await?;
        connection.done();
        let looks = rows.iter().map(|row| Look {
            place: Place { topic: row.get(0), partition: row.get(1) },
            standing: Standing {
                epoch: row.get(2),
                next_offset: row.get(3),
                written_offset: row.get(4),
                stopped: row.get::<_, Option<String>>(5).is_some(),
            },
            released: row.get(6),
        });
        Ok(looks.collect())
    }

    /// Stops a partition until somebody decides. `None`: it is not ours any more, or stopped already.
    pub async fn stop(&self, place: &Place, epoch: i64, stop: &Stop) -> Result<Option<Stopped>, DbError> {
        let (reason, detail) = (stop.reason(), stop.in_words());
        let connection = self.pool.get().await?;
        let statement = connection.prepare_cached(STOP).await?;
        let row = connection
            .query_opt(
                &statement,
                &[&self.group, &place.topic, &place.partition, &epoch, &reason, &detail, &self.projection],
            )
            .await?;
        connection.done();
        Ok(row.map(|row| Stopped { reason: reason.to_owned(), detail, since: row.get::<_, StoredTime>(0).clamped() }))
    }

    /// Notes which logs the positions are places in.
    pub async fn note_identity(&self, known: &[(Place, i64, TopicIdentity)]) -> Result<(), DbError> {
        let (topics, numbers) = columns(known.iter().map(|(place, _, _)| place));
        let epochs: Vec<i64> = known.iter().map(|(_, epoch, _)| *epoch).collect();
        let ids: Vec<Option<Uuid>> = known.iter().map(|(_, _, identity)| identity.topic_id).collect();
        let cluster = known.first().and_then(|(_, _, identity)| identity.cluster_id.as_deref());
        let connection = self.pool.get().await?;
        let statement = connection.prepare_cached(NOTE_IDENTITY).await?;
        connection
            .execute(&statement, &[&self.group, &topics, &numbers, &epochs, &cluster, &ids, &self.projection])
            .await?;
        connection.done();
        Ok(())
    }
}

fn columns<'a>(places: impl Iterator<Item = &'a Place>) -> (Vec<&'a str>, Vec<i32>) {
    places.map(|place| (place.topic.as_str(), place.partition)).unzip()
}
