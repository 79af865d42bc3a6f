//! Consumer groups as their coordinator describes them, in both protocols: their members, and how they share
//! partitions.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::slice;
use std::time::Duration;

use rdkafka::bindings;
use rdkafka::bindings::rd_kafka_consumer_group_state_t as RawState;
use rdkafka::bindings::rd_kafka_consumer_group_type_t as RawType;
use rdkafka::client::{Client, ClientContext};

use super::question::{Question, problem, text};
use crate::clock::monotonic;
use crate::error::Result;

const GROUPS: Question = Question {
    operation: bindings::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS,
    what: "who is in the consumer group",
};

/// Codes of a group whose coordinator is being chosen or loads the group.
const WITHOUT_COORDINATOR: [bindings::rd_kafka_resp_err_t; 3] = [
    bindings::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE,
    bindings::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS,
    bindings::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NOT_COORDINATOR,
];
/// Before the coordinator is asked for again.
const COORDINATOR_WAIT: Duration = Duration::from_millis(200);

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
    /// Which ones: topic and partition.
    pub places: Vec<(String, i32)>,
}

impl Group {
    /// Those of these partitions that no member has. While partitions are being handed out nobody knows.
    pub fn unassigned(&self, mut places: BTreeSet<(String, i32)>) -> BTreeSet<(String, i32)> {
        if self.state != GroupState::Stable {
            return BTreeSet::new();
        }
        for place in self.members.iter().flat_map(|member| &member.places) {
            places.remove(place);
        }
        places
    }

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

/// Describes a consumer group. One that does not exist has no members. Waits until a broker coordinates it, which takes
/// a moment in a cluster that has had no group yet. Blocks for `timeout` and a moment at most.
///
/// Errors: [`Code::KafkaUnreachable`](crate::error::Code::KafkaUnreachable), also when this client may not describe it.
pub fn group<C: ClientContext>(client: &Client<C>, name: &str, timeout: Duration) -> Result<Group> {
    let name = CString::new(name).map_err(|_| GROUPS.unanswered("its name holds a NUL"))?;
    let mut names = [name.as_ptr()];
    let started = monotonic();
    loop {
        let send = |options: *mut _, queue| {
            // SAFETY: the name is copied by the call, and is alive until then.
            unsafe {
                let client = client.native_ptr();
                bindings::rd_kafka_DescribeConsumerGroups(client, names.as_mut_ptr(), names.len(), options, queue);
            }
        };
        let left = timeout.saturating_sub(monotonic().saturating_sub(started));
        if left.is_zero() {
            return Err(GROUPS.unanswered("no broker coordinates the group yet"));
        }
        // SAFETY: `send` makes the call of the operation, and `read` copies what it returns.
        match unsafe { GROUPS.ask(client, left, send, |event| read(event)) }? {
            Some(group) => return Ok(group),
            None => std::thread::sleep(COORDINATOR_WAIT),
        }
    }
}

/// `None`: no broker coordinates the group at this moment.
///
/// # Safety
/// `event` must be alive.
unsafe fn read(event: *mut bindings::rd_kafka_event_t) -> Result<Option<Group>> {
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
        let error = bindings::rd_kafka_ConsumerGroupDescription_error(group);
        if !error.is_null() && WITHOUT_COORDINATOR.contains(&bindings::rd_kafka_error_code(error)) {
            return Ok(None);
        }
        if let Some(why) = problem(error) {
            return Err(GROUPS.unanswered(&why));
        }
        let members = (0..bindings::rd_kafka_ConsumerGroupDescription_member_count(group))
            .map(|index| bindings::rd_kafka_ConsumerGroupDescription_member(group, index))
            .filter(|member| !member.is_null())
            .map(|member| read_member(member));
        Ok(Some(Group {
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
        }))
    }
}

/// # Safety
/// `member` must be alive.
unsafe fn read_member(member: *const bindings::rd_kafka_MemberDescription_t) -> Member {
    // SAFETY: texts and lists belong to the member; what is read of them is copied.
    unsafe {
        let assignment = bindings::rd_kafka_MemberDescription_assignment(member);
        let list = match assignment.is_null() {
            true => std::ptr::null(),
            false => bindings::rd_kafka_MemberAssignment_partitions(assignment),
        };
        let partitions = if list.is_null() { 0 } else { usize::try_from((*list).cnt).unwrap_or(0) };
        let elements = match partitions {
            0 => &[],
            _ => slice::from_raw_parts((*list).elems, partitions),
        };
        let places =
            elements.iter().map(|element| (text(element.topic).unwrap_or_default(), element.partition)).collect();
        Member {
            id: text(bindings::rd_kafka_MemberDescription_consumer_id(member)).unwrap_or_default(),
            client_id: text(bindings::rd_kafka_MemberDescription_client_id(member)).unwrap_or_default(),
            host: text(bindings::rd_kafka_MemberDescription_host(member)).unwrap_or_default(),
            instance_id: text(bindings::rd_kafka_MemberDescription_group_instance_id(member))
                .filter(|id| !id.is_empty()),
            partitions,
            places,
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
            places: Vec::new(),
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
