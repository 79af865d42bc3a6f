//! Consumer groups as their coordinator describes them, in both protocols: their members, and how they share
//! partitions.

use std::ffi::CString;
use std::slice;
use std::time::Duration;

use rdkafka::bindings;
use rdkafka::bindings::rd_kafka_consumer_group_state_t as RawState;
use rdkafka::bindings::rd_kafka_consumer_group_type_t as RawType;
use rdkafka::client::{Client, ClientContext};

use super::question::{Question, problem, text};
use crate::error::Result;

const GROUPS: Question = Question {
    operation: bindings::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS,
    what: "who is in the consumer group",
};

/// How members and coordinator talk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// A member hands out the partitions; all members have to know the same assignor.
    Classic,
    /// The coordinator hands them out (KIP-848).
    Consumer,
    /// The broker does not say.
    Unknown,
}

/// What a group is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupState {
    /// Partitions are being handed out.
    Rebalancing,
    Stable,
    /// Nobody is in it.
    Empty,
    /// It does not exist.
    Dead,
    Unknown,
}

/// One consumer group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    pub protocol: Protocol,
    pub state: GroupState,
    /// How partitions are handed out. Empty before the members have agreed.
    pub assignor: String,
    pub members: Vec<Member>,
}

/// One member of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub id: String,
    pub client_id: String,
    pub host: String,
    /// `group.instance.id`, if it has one.
    pub instance_id: Option<String>,
    /// How many partitions it has.
    pub partitions: usize,
}

impl Group {
    /// Why a member of the classic protocol that knows only these assignors (`range,roundrobin`) cannot join. `None`:
    /// it can, or nobody knows. A group of the newer protocol takes such members.
    pub fn refuses(&self, assignors: &str) -> Option<String> {
        let agreed = !self.assignor.is_empty() && !self.members.is_empty();
        let known = assignors.split(',').any(|assignor| assignor.trim() == self.assignor);
        if self.protocol != Protocol::Classic || !agreed || known {
            return None;
        }
        let members = self.members.len();
        let client = &self.members[0].client_id;
        Some(format!(
            "{members} other members (client.id {client}) share the partitions by {}, and this one only knows {assignors}",
            self.assignor
        ))
    }
}

/// Describes a consumer group. One that does not exist has no members. Blocks for `timeout` and a moment at most.
///
/// Errors: [`Code::KafkaUnreachable`](crate::error::Code::KafkaUnreachable), also when this client may not describe it.
pub fn group<C: ClientContext>(client: &Client<C>, name: &str, timeout: Duration) -> Result<Group> {
    let name = CString::new(name).map_err(|_| GROUPS.unanswered("its name holds a NUL"))?;
    let mut names = [name.as_ptr()];
    let send = |options: *mut _, queue| {
        // SAFETY: the name is copied by the call, and is alive until then.
        unsafe {
            let client = client.native_ptr();
            bindings::rd_kafka_DescribeConsumerGroups(client, names.as_mut_ptr(), names.len(), options, queue);
        }
    };
    // SAFETY: `send` makes the call of the operation, and `read` copies what it returns.
    unsafe { GROUPS.ask(client, timeout, send, |event| read(event)) }
}

/// # Safety
/// `event` must be alive.
unsafe fn read(event: *mut bindings::rd_kafka_event_t) -> Result<Group> {
    // SAFETY: the result and all that it points to belong to the event, which the caller keeps.
    unsafe {
        let result = bindings::rd_kafka_event_DescribeConsumerGroups_result(event);
        if result.is_null() {
            return Err(GROUPS.unanswered("the answer is to another question"));
        }
        let mut count = 0;
        let groups = bindings::rd_kafka_DescribeConsumerGroups_result_groups(result, &mut count);
        if groups.is_null() || count == 0 {
            return Err(GROUPS.unanswered("the answer is empty"));
        }
        let group = slice::from_raw_parts(groups, count)[0];
        if let Some(why) = problem(bindings::rd_kafka_ConsumerGroupDescription_error(group)) {
            return Err(GROUPS.unanswered(&why));
        }
        let members = (0..bindings::rd_kafka_ConsumerGroupDescription_member_count(group))
            .map(|index| bindings::rd_kafka_ConsumerGroupDescription_member(group, index))
            .filter(|member| !member.is_null())
            .map(|member| read_member(member));
        Ok(Group {
            protocol: match bindings::rd_kafka_ConsumerGroupDescription_type(group) {
                RawType::RD_KAFKA_CONSUMER_GROUP_TYPE_CLASSIC => Protocol::Classic,
                RawType::RD_KAFKA_CONSUMER_GROUP_TYPE_CONSUMER => Protocol::Consumer,
                RawType::RD_KAFKA_CONSUMER_GROUP_TYPE_UNKNOWN | RawType::RD_KAFKA_CONSUMER_GROUP_TYPE__CNT => {
                    Protocol::Unknown
                }
            },
            state: match bindings::rd_kafka_ConsumerGroupDescription_state(group) {
                RawState::RD_KAFKA_CONSUMER_GROUP_STATE_PREPARING_REBALANCE
                | RawState::RD_KAFKA_CONSUMER_GROUP_STATE_COMPLETING_REBALANCE => GroupState::Rebalancing,
                RawState::RD_KAFKA_CONSUMER_GROUP_STATE_STABLE => GroupState::Stable,
                RawState::RD_KAFKA_CONSUMER_GROUP_STATE_EMPTY => GroupState::Empty,
                RawState::RD_KAFKA_CONSUMER_GROUP_STATE_DEAD => GroupState::Dead,
                RawState::RD_KAFKA_CONSUMER_GROUP_STATE_UNKNOWN | RawState::RD_KAFKA_CONSUMER_GROUP_STATE__CNT => {
                    GroupState::Unknown
                }
            },
            assignor: text(bindings::rd_kafka_ConsumerGroupDescription_partition_assignor(group)).unwrap_or_default(),
            members: members.collect(),
        })
    }
}

/// # Safety
/// `member` must be alive.
unsafe fn read_member(member: *const bindings::rd_kafka_MemberDescription_t) -> Member {
    // SAFETY: texts and lists belong to the member; texts are copied, of the list only its length is read.
    unsafe {
        let assignment = bindings::rd_kafka_MemberDescription_assignment(member);
        let list = match assignment.is_null() {
            true => std::ptr::null(),
            false => bindings::rd_kafka_MemberAssignment_partitions(assignment),
        };
        let partitions = if list.is_null() { 0 } else { usize::try_from((*list).cnt).unwrap_or(0) };
        Member {
            id: text(bindings::rd_kafka_MemberDescription_consumer_id(member)).unwrap_or_default(),
            client_id: text(bindings::rd_kafka_MemberDescription_client_id(member)).unwrap_or_default(),
            host: text(bindings::rd_kafka_MemberDescription_host(member)).unwrap_or_default(),
            instance_id: text(bindings::rd_kafka_MemberDescription_group_instance_id(member))
                .filter(|id| !id.is_empty()),
            partitions,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(protocol: Protocol, assignor: &str, members: usize) -> Group {
        let member = |n| Member {
            id: format!("m{n}"),
            client_id: "billing".to_owned(),
            host: "/10.0.0.1".to_owned(),
            instance_id: None,
            partitions: 1,
        };
        let members = (0..members).map(member).collect();
        Group { protocol, state: GroupState::Stable, assignor: assignor.to_owned(), members }
    }

    #[test]
    fn only_another_assignor_of_the_same_protocol_keeps_a_member_out() {
        let ours = "range,roundrobin";
        let refused = group(Protocol::Classic, "cooperative-sticky", 2).refuses(ours).expect("refused");
        assert!(refused.contains("2 other members") && refused.contains("billing") && refused.contains("sticky"));
        for joins in [
            group(Protocol::Classic, "range", 2),
            group(Protocol::Classic, "", 1),
            group(Protocol::Classic, "cooperative-sticky", 0),
            group(Protocol::Consumer, "uniform", 1),
            group(Protocol::Unknown, "uniform", 1),
        ] {
            assert_eq!(joins.refuses(ours), None, "{joins:?}");
        }
    }
}
