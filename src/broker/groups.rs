//! Consumer groups as the cluster knows them: whether they have members, and how those share partitions.

use std::time::Duration;

use rdkafka::groups::GroupInfo;

use super::admin::Admin;
use super::call::Question;
use crate::error::Result;

const GROUP: Question = Question::new("group", Duration::from_secs(5));

/// The members of a group, as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Membership {
    /// Of the classic protocol, with the name of the strategy that they share partitions by. Empty while they join.
    Classic { protocol: String },
    /// Of another protocol (`group.protocol=consumer`, Connect, or share groups), which members of the classic one
    /// cannot join.
    Other,
}

impl Admin {
    /// `None`: the cluster does not know the group, or it has no members. Errors: no answer, or no right to describe it.
    pub async fn membership(&self, group: &str) -> Result<Option<Membership>> {
        let name = group.to_owned();
        let read = move |list: &rdkafka::groups::GroupList| {
            list.groups().iter().find(|group| group.name() == name).and_then(of)
        };
        GROUP.group(self.client(), group.to_owned(), read).await
    }
}

fn of(group: &GroupInfo) -> Option<Membership> {
    of_words(group.state(), group.protocol_type(), group.protocol(), group.members().len())
}

/// A group of another protocol has no state for who asks in the classic way: it is listed, and `Dead` all the same.
fn of_words(state: &str, protocol_type: &str, protocol: &str, members: usize) -> Option<Membership> {
    match (state, protocol_type) {
        ("Empty", _) => None,
        ("Dead", "consumer") => Some(Membership::Other),
        ("Dead" | "", _) => None,
        (_, "consumer" | "") if members == 0 && protocol.is_empty() => None,
        (_, "consumer" | "") => Some(Membership::Classic { protocol: protocol.to_owned() }),
        _ => Some(Membership::Other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_read_from_the_words_of_the_broker() {
        let classic = |protocol: &str| Some(Membership::Classic { protocol: protocol.to_owned() });
        for (words, expected) in [
            (("Stable", "consumer", "range", 2), classic("range")),
            (("Stable", "consumer", "cooperative-sticky", 1), classic("cooperative-sticky")),
            (("PreparingRebalance", "consumer", "", 1), classic("")),
            (("Empty", "consumer", "", 0), None),
            (("Dead", "", "", 0), None),
            (("Dead", "consumer", "", 0), Some(Membership::Other)),
            (("Stable", "connect", "sessioned", 3), Some(Membership::Other)),
        ] {
            let (state, kind, protocol, members) = words;
            assert_eq!(of_words(state, kind, protocol, members), expected, "{words:?}");
        }
    }
}
