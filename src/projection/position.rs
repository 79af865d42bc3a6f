//! Where a partition is read on, and whether that place still means what it meant: pure decisions.
//!
//! A position is an offset in one log. It is worth nothing in another log, and it may be changed behind the consumer's
//! back: by a crash of PostgreSQL that took commits back, or by hand. [`examine`] judges a position when its partition
//! is taken, [`displaced`] while it is read. Invariant: only two things move a position by themselves, a fold and
//! PostgreSQL that went back. Everything else stops the partition.

use jiff::Timestamp;
use uuid::Uuid;

use super::record::Record;

/// The log that an offset is a place in, as far as Kafka tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopicIdentity {
    pub cluster_id: Option<String>,
    /// Kafka gives every topic a new one, also where the name is used again.
    pub topic_id: Option<Uuid>,
}

/// A record to look back at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Landmark {
    pub offset: i64,
    pub digest: Uuid,
}

impl Landmark {
    pub fn of(record: &Record) -> Self {
        Self { offset: record.offset, digest: digest(record) }
    }
}

/// Of key, value, headers and time. Each part has its length in front, so that no two records run into the same bytes.
fn digest(record: &Record) -> Uuid {
    fn add(bytes: &mut Vec<u8>, part: Option<&[u8]>) {
        let length = part.map_or(u64::MAX, |part| part.len() as u64);
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(part.unwrap_or_default());
    }
    let mut bytes = Vec::with_capacity(record.size());
    add(&mut bytes, record.key.as_deref());
    add(&mut bytes, record.value.as_deref());
    for (name, value) in &record.headers {
        add(&mut bytes, Some(name));
        add(&mut bytes, value.as_deref());
    }
    let time = record.recorded_at.map_or(i64::MIN, Timestamp::as_millisecond);
    bytes.extend_from_slice(&time.to_le_bytes());
    Uuid::new_v5(&Uuid::NAMESPACE_OID, &bytes)
}

/// A partition in PostgreSQL at the moment it is claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    pub next_offset: i64,
    pub identity: TopicIdentity,
    pub last: Option<Landmark>,
    /// The value before someone changed `next_offset` by hand.
    pub former_offset: Option<i64>,
    pub stopped: Option<Stopped>,
}

/// A partition that is stopped until an operator decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stopped {
    pub reason: String,
    pub detail: String,
    pub since: Timestamp,
}

/// First offset of a log, and the one after its last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    pub start: i64,
    pub end: i64,
}

/// Why a partition has to be stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// Records that were not folded are gone.
    RecordsLost { next: i64, start: i64 },
    /// The log ends before the position.
    AheadOfLog { next: i64, end: i64 },
    /// The topic has another id than the one that was read.
    OtherTopic,
    /// The last folded record is now a different one.
    OtherRecord { offset: i64 },
    /// The cluster has another id than the one that was read from.
    OtherCluster,
    /// The position was moved forward by hand while the partition was read.
    Moved { believed: i64, found: i64 },
}

/// Reasons as stored in `consumer_partitions` and shown in `lag` and metrics.
pub(crate) mod reason {
    pub const RECORDS_LOST: &str = "records-lost";
    pub const AHEAD_OF_LOG: &str = "ahead-of-log";
    pub const TOPIC_RECREATED: &str = "topic-recreated";
    pub const OTHER_CLUSTER: &str = "other-cluster";
    pub const MOVED: &str = "moved-by-hand";
    /// Decided where the partition is taken for the first time, by `take_fences.sql`.
    pub const OTHER_GROUP: &str = "other-group";
    pub const ALL: [&str; 6] = [RECORDS_LOST, AHEAD_OF_LOG, TOPIC_RECREATED, OTHER_CLUSTER, MOVED, OTHER_GROUP];
}

impl Stop {
    pub fn reason(&self) -> &'static str {
        match self {
            Self::RecordsLost { .. } => reason::RECORDS_LOST,
            Self::AheadOfLog { .. } => reason::AHEAD_OF_LOG,
            Self::OtherTopic | Self::OtherRecord { .. } => reason::TOPIC_RECREATED,
            Self::OtherCluster => reason::OTHER_CLUSTER,
            Self::Moved { .. } => reason::MOVED,
        }
    }

    /// For an operator.
    pub fn in_words(&self) -> String {
        match self {
            Self::RecordsLost { next, start } => format!("the records from {next} to {} are gone", start - 1),
            Self::AheadOfLog { next, end } => {
                format!("the log ends at {end}, before offset {next}: was the topic deleted and recreated?")
            }
            Self::OtherTopic => "the topic was deleted and recreated".to_owned(),
            Self::OtherRecord { offset } => {
                format!(
                    "offset {offset} holds a different record from the one that was folded: the topic was deleted and recreated"
                )
            }
            Self::OtherCluster => "the records are in a different Kafka cluster from the one that was read".to_owned(),
            Self::Moved { believed, found } => {
                format!("next_offset was changed by hand from {believed} to {found} while the partition was being read")
            }
        }
    }
}

/// What to do with a partition that was just claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Continue reading. The landmark, if there is one, must be found unchanged first.
    Read {
        look_back: Option<Landmark>,
        /// PostgreSQL does not know all of the identity yet.
        note: bool,
    },
    Stop(Stop),
    /// It was stopped before.
    Stopped(Stopped),
}

/// Judges a position against the log as it is now.
pub fn examine(position: &Position, now: &TopicIdentity, log: Log) -> Verdict {
    let next = position.next_offset;
    if let Some(stopped) = &position.stopped {
        return Verdict::Stopped(stopped.clone());
    }
    let differs = |known: bool, same: bool| known && !same;
    let (before, id) = (&position.identity, now.topic_id);
    if differs(before.topic_id.is_some() && id.is_some(), before.topic_id == id) {
        return Verdict::Stop(Stop::OtherTopic);
    }
    if differs(before.cluster_id.is_some() && now.cluster_id.is_some(), before.cluster_id == now.cluster_id) {
        return Verdict::Stop(Stop::OtherCluster);
    }
    if next < log.start {
        return Verdict::Stop(Stop::RecordsLost { next, start: log.start });
    }
    if next > log.end {
        return Verdict::Stop(Stop::AheadOfLog { next, end: log.end });
    }
    // What retention has removed tells nothing, nor does a record that is to be read again anyway.
    let look_back = position.last.filter(|last| (log.start..log.end).contains(&last.offset) && last.offset < next);
    let unknown = |before: bool, now: bool| !before && now;
    let note = unknown(before.cluster_id.is_some(), now.cluster_id.is_some())
        || unknown(before.topic_id.is_some(), id.is_some());
    Verdict::Read { look_back, note }
}

/// A partition in PostgreSQL while it is being read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    pub epoch: i64,
    pub next_offset: i64,
    /// As the consumer wrote it last. `None`: a command has set it since.
    pub written_offset: Option<i64>,
    pub stopped: bool,
}

/// What it means that a partition is not where its reader believes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Displaced {
    /// It is there.
    No,
    /// Another instance has it.
    Fenced,
    /// It is to be claimed again, and read from where PostgreSQL says.
    TakeAnew(Why),
    /// Someone moved it past records that were not read.
    Forward { found: i64 },
}

/// Why a partition is claimed again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// PostgreSQL lost its most recent commits.
    WentBack,
    /// Someone set the position back by hand.
    SetBack,
    /// A command has set it, or stopped it.
    Decided,
}

/// Compares what the reader of a partition believes with what PostgreSQL has.
pub fn displaced(epoch: i64, believed: i64, standing: &Standing) -> Displaced {
    let found = standing.next_offset;
    let by_hand = standing.written_offset.is_some_and(|written| written != found);
    if standing.epoch > epoch {
        Displaced::Fenced
    } else if standing.stopped {
        Displaced::TakeAnew(Why::Decided)
    } else if standing.epoch < epoch {
        Displaced::TakeAnew(Why::WentBack)
    } else if found == believed {
        Displaced::No
    } else if standing.written_offset.is_none() {
        Displaced::TakeAnew(Why::Decided)
    } else if found < believed {
        Displaced::TakeAnew(if by_hand { Why::SetBack } else { Why::WentBack })
    } else if by_hand {
        Displaced::Forward { found }
    } else {
        Displaced::TakeAnew(Why::Decided)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: Log = Log { start: 10, end: 100 };

    fn at(next_offset: i64) -> Position {
        let last = Landmark { offset: next_offset - 1, digest: Uuid::from_u128(7) };
        Position { next_offset, identity: identity("a", 1), last: Some(last), former_offset: None, stopped: None }
    }

    fn identity(cluster: &str, topic: u128) -> TopicIdentity {
        TopicIdentity { cluster_id: Some(cluster.to_owned()), topic_id: Some(Uuid::from_u128(topic)) }
    }

    #[test]
    fn a_position_outside_the_log_or_in_another_log_stops_the_partition() {
        let same = identity("a", 1);
        let stop = |position, identity| match examine(&position, &identity, LOG) {
            Verdict::Stop(stop) => stop.reason(),
            other @ (Verdict::Read { .. } | Verdict::Stopped(_)) => panic!("{other:?}"),
        };
        assert_eq!(stop(at(9), same.clone()), "records-lost");
        assert_eq!(stop(at(101), same), "ahead-of-log");
        assert_eq!(stop(at(50), identity("a", 2)), "topic-recreated");
        assert_eq!(stop(at(50), identity("b", 1)), "other-cluster");
    }

    #[test]
    fn what_kafka_does_not_tell_stops_nothing_and_what_is_new_is_noted() {
        let read = |position: &Position, identity: &TopicIdentity| match examine(position, identity, LOG) {
            Verdict::Read { look_back, note } => (look_back.map(|landmark| landmark.offset), note),
            other @ (Verdict::Stop(_) | Verdict::Stopped(_)) => panic!("{other:?}"),
        };
        assert_eq!(read(&at(50), &TopicIdentity::default()), (Some(49), false));
        assert_eq!(read(&at(50), &identity("a", 1)), (Some(49), false));
        let unknown = Position { identity: TopicIdentity::default(), ..at(50) };
        assert_eq!(read(&unknown, &identity("a", 1)), (Some(49), true));
        // Retention has removed it; the record will be read again anyway.
        assert_eq!(read(&at(10), &identity("a", 1)), (None, false));
        assert_eq!(read(&Position { last: at(80).last, ..at(50) }, &identity("a", 1)), (None, false));
    }

    #[test]
    fn only_postgresql_that_went_back_moves_a_position_by_itself() {
        let standing = |epoch, next_offset, written_offset| {
            displaced(5, 50, &Standing { epoch, next_offset, written_offset: Some(written_offset), stopped: false })
        };
        assert_eq!(standing(5, 50, 50), Displaced::No);
        assert_eq!(standing(6, 50, 50), Displaced::Fenced);
        assert_eq!(standing(5, 40, 40), Displaced::TakeAnew(Why::WentBack));
        assert_eq!(standing(4, 40, 40), Displaced::TakeAnew(Why::WentBack));
        assert_eq!(standing(5, 40, 50), Displaced::TakeAnew(Why::SetBack));
        assert_eq!(standing(5, 60, 50), Displaced::Forward { found: 60 });
        assert_eq!(standing(5, 60, 60), Displaced::TakeAnew(Why::Decided));
        let stopped = Standing { epoch: 5, next_offset: 50, written_offset: Some(50), stopped: true };
        assert_eq!(displaced(5, 50, &stopped), Displaced::TakeAnew(Why::Decided));
        for next_offset in [40, 60] {
            let set = Standing { epoch: 5, next_offset, written_offset: None, stopped: false };
            assert_eq!(displaced(5, 50, &set), Displaced::TakeAnew(Why::Decided));
        }
    }

    #[test]
    fn a_digest_tells_any_two_records_apart() {
        let text = |text: &str| Some(text.as_bytes().to_vec());
        let record = |time, headers, key, value| Record::new("t", 0, 1, time, headers, key, value);
        let header = |name: &str, value| vec![(name.as_bytes().to_vec(), value)];
        let records = [
            record(Some(1), Vec::new(), text("k"), text("v")),
            record(Some(2), Vec::new(), text("k"), text("v")),
            record(Some(1), Vec::new(), text("kv"), text("")),
            record(Some(1), Vec::new(), text("kv"), None),
            record(Some(1), Vec::new(), None, text("v")),
            record(Some(1), header("h", text("x")), text("k"), text("v")),
            record(Some(1), header("hx", text("")), text("k"), text("v")),
            record(Some(1), header("hx", None), text("k"), text("v")),
        ];
        let digests: std::collections::BTreeSet<Uuid> =
            records.iter().map(|record| Landmark::of(record).digest).collect();
        assert_eq!(digests.len(), records.len());
        assert_eq!(Landmark::of(&records[0]), Landmark::of(&record(Some(1), Vec::new(), text("k"), text("v"))));
    }
}
