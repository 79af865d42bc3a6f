//! The unique name of a batch in exactly-once delivery.

use std::fmt;

use uuid::Uuid;

/// Tells a batch from every other one, also from those that a copy of the database claims under the same number: the
/// number and 64 random bits. Drawn when the batch is claimed, kept in the row of the shard, and committed to Kafka
/// with the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BatchTag(Uuid);

impl BatchTag {
    pub fn draw(seq: i64) -> Self {
        let (_, random) = Uuid::new_v4().as_u64_pair();
        Self(Uuid::from_u64_pair(seq.cast_unsigned(), random))
    }

    /// As stored in the row of a shard. `None` if it is not that of batch `seq`: an older version, or at-least-once
    /// delivery, has claimed that one, and left the tag of an earlier batch in place.
    pub fn of_batch(tag: Option<Uuid>, seq: i64) -> Option<Self> {
        tag.filter(|tag| tag.as_u64_pair().0 == seq.cast_unsigned()).map(Self)
    }

    pub fn parse(text: &str) -> Option<Self> {
        Uuid::parse_str(text).ok().map(Self)
    }

    pub fn as_uuid(self) -> Uuid {
        self.0
    }
}

impl fmt::Display for BatchTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_names_one_batch_alone() {
        let tag = BatchTag::draw(7);
        assert_ne!(tag, BatchTag::draw(7), "another history has given the number to another batch");
        assert_eq!(BatchTag::of_batch(Some(tag.as_uuid()), 7), Some(tag));
        assert_eq!(BatchTag::of_batch(Some(tag.as_uuid()), 8), None);
        assert_eq!(BatchTag::of_batch(None, 7), None);
        assert_eq!(BatchTag::parse(&tag.to_string()), Some(tag));
    }
}
