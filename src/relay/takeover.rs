//! What a new owner of a shard makes of the batch that was in flight, in exactly-once delivery.
//!
//! PostgreSQL holds the manifest: the number and the ids of the batch. Kafka holds the marker: the number of the last batch whose
//! transaction was committed. The marker is read only after the former owner's producer was fenced, so it is final. Pure, so that
//! `tests/simulation.rs` can walk through every interleaving.

use std::fmt;

use uuid::Uuid;

/// What PostgreSQL says of the last batch of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Manifest {
    /// Number of the last batch.
    pub seq: i64,
    /// It has not been settled.
    pub in_flight: bool,
    /// Its number is committed to Kafka in the transaction of its records. False after at-least-once delivery, which writes none.
    pub marked: bool,
}

/// What Kafka says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The number that was committed last.
    pub seq: i64,
    /// Its note is that of the batch in flight. A number alone can belong to two batches: when a failover of PostgreSQL loses a
    /// manifest that Kafka has committed since, the same number is given to other events.
    pub same_batch: bool,
}

/// What has to be done before the next batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// Every record of the batch is committed: settle it.
    Settle,
    /// No record of the batch will ever be seen by a `read_committed` consumer: its rows are claimed again, under its number.
    Forget,
    /// The batch was sent without a transaction, and perhaps in part: send it again whole, in a transaction.
    Resend,
    /// Nothing is in flight, and the marker says so too.
    Ready,
    /// Nothing is in flight, and Kafka has no marker for it, or an older one: write it, with no records.
    Baseline,
    /// The two histories contradict each other. Every guess could lose or repeat events.
    Refuse(Disagreement),
}

/// How PostgreSQL and Kafka contradict each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disagreement {
    /// A batch is in flight and its marker is gone: expired, or its group or topic was deleted.
    MarkerLost { seq: i64 },
    /// Kafka has committed batches that PostgreSQL has never heard of: a restored backup, or a failover that lost commits.
    PostgresBehind { seq: i64, marker: i64 },
    /// PostgreSQL has settled batches that Kafka does not have: a topic made anew, or an unclean leader election.
    KafkaBehind { seq: i64, marker: i64 },
    /// Kafka has committed a batch of this number with other events in it: PostgreSQL went back in time and came as far again.
    OtherBatch { seq: i64 },
    /// The marker was written for another outbox: two outboxes have the same deployment name on one cluster.
    ForeignMarker,
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MarkerLost { seq } => {
                write!(
                    f,
                    "batch {seq} is in flight in PostgreSQL, and Kafka has no marker to tell whether it was committed"
                )
            }
            Self::PostgresBehind { seq, marker } => {
                write!(
                    f,
                    "Kafka has committed batch {marker}, and PostgreSQL knows batches up to {seq}: PostgreSQL went back in time"
                )
            }
            Self::OtherBatch { seq } => {
                write!(
                    f,
                    "Kafka has committed a batch {seq} of other events than PostgreSQL has in flight: PostgreSQL went back in time"
                )
            }
            Self::ForeignMarker => {
                write!(f, "the marker in Kafka belongs to another outbox with the same run.deployment")
            }
            Self::KafkaBehind { seq, marker } => {
                write!(
                    f,
                    "PostgreSQL has come to batch {seq}, and Kafka has committed batches up to {marker}: Kafka went back in time"
                )
            }
        }
    }
}

/// What a marker says beside its number: whose outbox it is, and which events were in the batch.
///
pub fn note(installation: Uuid, ids: &[i64]) -> String {
    let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    format!("{installation} {}", Uuid::new_v5(&installation, &bytes))
}

/// Whether a note was written for this outbox.
pub fn is_ours(note: &str, installation: Uuid) -> bool {
    note.split(' ').next().and_then(|text| Uuid::parse_str(text).ok()) == Some(installation)
}

/// Decides. `marker` is what Kafka has committed for the shard, read after its former producers were fenced; `manifest` was read
/// after that.
pub fn resolve(manifest: Manifest, marker: Option<Seen>) -> Resolution {
    let Manifest { seq, in_flight, marked } = manifest;
    match marker {
        Some(marker) if marker.seq > seq => {
            Resolution::Refuse(Disagreement::PostgresBehind { seq, marker: marker.seq })
        }
        Some(marker) if in_flight && marker.seq == seq && marker.same_batch => Resolution::Settle,
        _ if in_flight && !marked => Resolution::Resend,
        Some(marker) if in_flight && marker.seq == seq => Resolution::Refuse(Disagreement::OtherBatch { seq }),
        Some(marker) if in_flight && marker.seq == seq - 1 => Resolution::Forget,
        Some(marker) if !in_flight && marker.seq == seq => Resolution::Ready,
        Some(marker) if marked => Resolution::Refuse(Disagreement::KafkaBehind { seq, marker: marker.seq }),
        None if in_flight => Resolution::Refuse(Disagreement::MarkerLost { seq }),
        // Nothing is in doubt: the marker expired while the shard was idle, or none was ever written.
        _ => Resolution::Baseline,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(seq: i64) -> Option<Seen> {
        Some(Seen { seq, same_batch: true })
    }

    fn exactly_once(seq: i64, in_flight: bool) -> Manifest {
        Manifest { seq, in_flight, marked: true }
    }

    #[test]
    fn the_marker_decides_about_the_batch_in_flight() {
        assert_eq!(resolve(exactly_once(7, true), seen(7)), Resolution::Settle);
        assert_eq!(resolve(exactly_once(7, true), seen(6)), Resolution::Forget);
        assert_eq!(resolve(exactly_once(7, false), seen(7)), Resolution::Ready);
        assert_eq!(resolve(exactly_once(7, false), None), Resolution::Baseline);
    }

    #[test]
    fn a_note_tells_whose_batch_it_was_and_which_events_were_in_it() {
        let (ours, theirs) = (Uuid::from_u128(1), Uuid::from_u128(2));
        assert!(is_ours(&note(ours, &[1, 2]), ours) && !is_ours(&note(ours, &[1, 2]), theirs));
        assert!(!is_ours("", ours));
        assert_ne!(note(ours, &[1, 2]), note(ours, &[2, 1]));
        assert_eq!(note(ours, &[1, 2]), note(ours, &[1, 2]));
    }

    #[test]
    fn histories_that_contradict_each_other_are_refused() {
        let refused = |in_flight, marker| {
            let resolution = resolve(exactly_once(7, in_flight), marker);
            let Resolution::Refuse(why) = resolution else { panic!("{resolution:?}") };
            why
        };
        assert_eq!(refused(true, None), Disagreement::MarkerLost { seq: 7 });
        for in_flight in [true, false] {
            assert_eq!(refused(in_flight, seen(8)), Disagreement::PostgresBehind { seq: 7, marker: 8 });
            assert_eq!(refused(in_flight, seen(5)), Disagreement::KafkaBehind { seq: 7, marker: 5 });
        }
        assert_eq!(refused(false, seen(6)), Disagreement::KafkaBehind { seq: 7, marker: 6 });
    }

    #[test]
    fn a_number_that_was_given_to_other_events_settles_nothing() {
        let other = Some(Seen { seq: 7, same_batch: false });
        let refusal = Resolution::Refuse(Disagreement::OtherBatch { seq: 7 });
        assert_eq!(resolve(exactly_once(7, true), other), refusal);
        assert_eq!(resolve(Manifest { seq: 7, in_flight: true, marked: false }, other), Resolution::Resend);
        assert_eq!(resolve(exactly_once(7, false), other), Resolution::Ready);
    }

    #[test]
    fn what_at_least_once_left_behind_is_sent_again_until_its_transaction_is_committed() {
        let left = |in_flight| Manifest { seq: 7, in_flight, marked: false };
        for marker in [None, seen(3), seen(6)] {
            assert_eq!(resolve(left(true), marker), Resolution::Resend);
            assert_eq!(resolve(left(false), marker), Resolution::Baseline);
        }
        assert_eq!(resolve(left(true), seen(7)), Resolution::Settle);
        assert_eq!(resolve(left(false), seen(7)), Resolution::Ready);
        assert!(matches!(resolve(left(true), seen(8)), Resolution::Refuse(_)));
    }
}
