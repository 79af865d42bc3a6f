//! What a new owner of a shard does about the batch in flight, in exactly-once delivery.
//!
//! PostgreSQL holds the manifest: the number and the ids of the batch. Kafka holds the marker: the number of the last
//! batch whose transaction was committed. The marker is read only after the former owner's producer was fenced, so it
//! is final. Pure, so that `tests/simulation.rs` can explore every interleaving.

use std::fmt;

use uuid::Uuid;

use crate::outbox::{BatchTag, ShardState};

/// What PostgreSQL says about the last batch of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Manifest {
    /// Number of the last batch.
    pub seq: i64,
    /// It has not been settled.
    pub in_flight: bool,
    /// Its number is committed to Kafka in the transaction of its records. False after at-least-once delivery, which
    /// writes none.
    pub marked: bool,
}

impl Manifest {
    pub fn of(state: &ShardState) -> Self {
        Self { seq: state.batch_seq, in_flight: state.batch_ids.is_some(), marked: state.marked }
    }
}

/// What Kafka says about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The number that was committed last.
    pub seq: i64,
    /// Its note does not name a batch other than the last one in PostgreSQL ([`Known::agrees`]). A number alone can
    /// belong to two batches: if a failover of PostgreSQL loses a manifest that Kafka has committed since, or a copy of
    /// the database is in use, the same number is given to other events.
    pub same_batch: bool,
}

/// What must be done before the next batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// Every record of the batch is committed: settle it.
    Settle,
    /// No record of the batch will ever be seen by a `read_committed` consumer: its rows are claimed again, under its
    /// number.
    Forget,
    /// The batch was sent without a transaction, perhaps partially: resend it whole, in a transaction.
    Resend,
    /// Nothing is in flight, and the marker says so too.
    Ready,
    /// Nothing is in flight, and Kafka has no marker for it, or an older one: write it, with no records.
    Baseline,
    /// The two histories contradict each other. Every guess could lose or repeat events.
    Refuse(Disagreement),
}

/// How PostgreSQL and Kafka contradict each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Disagreement {
    /// A batch is in flight and its marker is gone: expired, or its group or topic was deleted.
    MarkerLost { seq: i64 },
    /// Kafka has committed batches that PostgreSQL does not know: a restored backup, or a failover that lost commits.
    PostgresBehind { seq: i64, marker: i64 },
    /// PostgreSQL has settled batches that Kafka does not have: a recreated topic, or an unclean leader election.
    KafkaBehind { seq: i64, marker: i64 },
    /// Kafka has committed another batch under this number: PostgreSQL went back in time and reached the same number
    /// again, or a copy of this database is in use under the same deployment name.
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
                    "Kafka has committed batch {marker}, and PostgreSQL knows batches up to {seq}: PostgreSQL went back in time, or \
                     this is a copy of a database whose relay is at work"
                )
            }
            Self::OtherBatch { seq } => {
                write!(
                    f,
                    "Kafka has committed another batch {seq} than PostgreSQL knows: PostgreSQL went back in time, or a relay is at work \
                     on a copy of this database"
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

/// What PostgreSQL knows about the last batch of a shard, besides its number.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    pub installation: Uuid,
    /// `None`: an older version has claimed it, or at-least-once delivery.
    pub tag: Option<BatchTag>,
    /// Those in flight.
    pub ids: Option<&'a [i64]>,
}

/// What follows the name of the outbox in the note of a marker.
enum Noted<'a> {
    /// The batch of this tag.
    Tag(BatchTag),
    /// No batch in particular: the marker was written while nothing was known of the last one.
    Untold,
    /// As 0.1 has written it: a digest of the ids.
    Digest(&'a str),
}

/// Before a tag.
const TAG: &str = "batch:";
/// In the place of one.
const UNTOLD: &str = "batch:-";

/// What a marker says besides its number: whose outbox it is, and which batch it was.
pub fn note(installation: Uuid, tag: Option<BatchTag>) -> String {
    match tag {
        Some(tag) => format!("{installation} {TAG}{tag}"),
        None => format!("{installation} {UNTOLD}"),
    }
}

/// The same as 0.1 wrote it. Ids are numbers that two databases give to different events, so it settles a batch only
/// where no tag is known.
fn digest(installation: Uuid, ids: &[i64]) -> String {
    let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    Uuid::new_v5(&installation, &bytes).to_string()
}

/// Whether a note was written for this outbox.
pub fn is_ours(note: &str, installation: Uuid) -> bool {
    note.split(' ').next().and_then(|text| Uuid::parse_str(text).ok()) == Some(installation)
}

fn noted(note: &str) -> Noted<'_> {
    let (_, batch) = note.split_once(' ').unwrap_or_default();
    match batch.strip_prefix(TAG) {
        None => Noted::Digest(batch),
        Some(tag) => BatchTag::parse(tag).map_or(Noted::Untold, Noted::Tag),
    }
}

impl Known<'_> {
    /// Whether the note of a marker with the number of the last batch can be about that batch. With a batch in flight
    /// it has to name it; with none, nothing is settled by it, and it must only not name another one.
    pub fn agrees(&self, note: &str) -> bool {
        match (noted(note), self.tag, self.ids) {
            (Noted::Tag(theirs), Some(ours), _) => theirs == ours,
            (Noted::Digest(theirs), None, Some(ids)) => theirs == digest(self.installation, ids),
            (Noted::Tag(_) | Noted::Untold, None, Some(_)) | (Noted::Digest(_) | Noted::Untold, Some(_), Some(_)) => {
                false
            }
            (Noted::Tag(_) | Noted::Untold | Noted::Digest(_), None, None)
            | (Noted::Untold | Noted::Digest(_), Some(_), None) => true,
        }
    }
}

/// What can be decided before the former producers are fenced, from a marker that may still move: only what no further
/// commit of theirs can resolve. This is how a relay on a copy of a database learns that the original is in use, and
/// leaves its producers alone.
pub fn foresee(manifest: Manifest, marker: Option<Seen>) -> Option<Disagreement> {
    match resolve(manifest, marker) {
        Resolution::Refuse(why @ (Disagreement::PostgresBehind { .. } | Disagreement::OtherBatch { .. })) => Some(why),
        Resolution::Refuse(
            Disagreement::MarkerLost { .. } | Disagreement::KafkaBehind { .. } | Disagreement::ForeignMarker,
        )
        | Resolution::Settle
        | Resolution::Forget
        | Resolution::Resend
        | Resolution::Ready
        | Resolution::Baseline => None,
    }
}

/// Whether a `transactional.id` whose last transaction cannot be ended may be left behind, unfenced. Then nobody may be
/// able to commit anything under it that is not decided already. `own`: its producers were this lane's own since it
/// fenced it, and none is left.
///
/// Otherwise a former owner may still have a producer. Without a batch in flight it has nothing to send, since a claim
/// needs the epoch; and a batch that is committed is not sent again. A batch that is not committed could still be: its
/// transaction may only have to wait for the end of the one before it, as we do.
pub fn may_leave(own: bool, manifest: Manifest, marker: Option<Seen>) -> bool {
    own || !manifest.in_flight || resolve(manifest, marker) == Resolution::Settle
}

/// Decides. `marker` is what Kafka has committed for the shard, read after its former producers were fenced; `manifest`
/// was read after that.
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
        Some(marker) if marked && marker.seq == seq && !marker.same_batch => {
            Resolution::Refuse(Disagreement::OtherBatch { seq })
        }
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
    fn a_note_tells_whose_batch_it_was_and_which_one() {
        let (ours, theirs) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let (tag, other) = (BatchTag::draw(7), BatchTag::draw(7));
        for tag in [None, Some(tag)] {
            assert!(is_ours(&note(ours, tag), ours) && !is_ours(&note(ours, tag), theirs));
        }
        assert!(!is_ours("", ours));
        let ids: &[i64] = &[1, 2];
        for ids in [None, Some(ids)] {
            let known = Known { installation: ours, tag: Some(tag), ids };
            assert!(known.agrees(&note(ours, Some(tag))));
            assert!(!known.agrees(&note(ours, Some(other))), "the same number and ids in another history");
        }
    }

    #[test]
    fn a_note_of_0_1_settles_a_batch_that_0_1_has_claimed_and_no_other() {
        let ours = Uuid::from_u128(1);
        let of_0_1 = |ids: &[i64]| format!("{ours} {}", digest(ours, ids));
        let known = |tag, ids| Known { installation: ours, tag, ids };
        let ids: &[i64] = &[1, 2];
        assert!(known(None, Some(ids)).agrees(&of_0_1(&[1, 2])));
        assert!(!known(None, Some(ids)).agrees(&of_0_1(&[1, 3])));
        assert!(!known(None, Some(ids)).agrees(&note(ours, None)));
        assert!(!known(None, Some(ids)).agrees(&note(ours, Some(BatchTag::draw(7)))));
        assert!(!known(Some(BatchTag::draw(7)), Some(ids)).agrees(&of_0_1(&[1, 2])), "claimed by a newer version");
        // Written by an idle lane, to keep the marker from expiring.
        for tag in [None, Some(BatchTag::draw(7))] {
            assert!(known(tag, None).agrees(&of_0_1(&[])));
            assert!(known(tag, None).agrees(&note(ours, None)));
        }
    }

    #[test]
    fn a_copy_learns_of_the_original_before_it_fences_anything() {
        let other = Some(Seen { seq: 7, same_batch: false });
        for in_flight in [true, false] {
            assert_eq!(
                foresee(exactly_once(7, in_flight), seen(8)),
                Some(Disagreement::PostgresBehind { seq: 7, marker: 8 })
            );
            assert_eq!(foresee(exactly_once(7, in_flight), other), Some(Disagreement::OtherBatch { seq: 7 }));
            // The former owner may still commit, and the marker of a quiet shard may have expired.
            for marker in [None, seen(5), seen(6), seen(7)] {
                assert_eq!(foresee(exactly_once(7, in_flight), marker), None);
            }
        }
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
        assert_eq!(resolve(exactly_once(7, false), other), refusal, "settled, and Kafka has another one");
        assert_eq!(resolve(Manifest { seq: 7, in_flight: false, marked: false }, other), Resolution::Ready);
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
