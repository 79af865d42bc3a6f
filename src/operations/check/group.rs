//! The consumer group: whether a member of ours could join it.

use super::finding::{Finding, Part};
use crate::broker::admin::Admin;
use crate::broker::raw::Group;
use crate::config::Config;
use crate::error::Error;
use crate::projection::assignment::ASSIGNORS;

const CHECK: &str = "kafka.group";

pub(super) async fn look(settings: &Config, admin: &Admin, findings: &mut Vec<Finding>) {
    if settings.consumer.enabled {
        let name = &settings.consumer.group;
        findings.push(judge(name, &admin.group(name).await));
    }
}

fn judge(name: &str, group: &Result<Group, Error>) -> Finding {
    let group = match group {
        Ok(group) => group,
        Err(error) => {
            return Finding::warning(
                Part::Kafka,
                CHECK,
                error.chain(),
                format!("it is unknown whether the consumer can join the group {name}"),
                format!("see that Kafka answers for the group {name}, and that this client may describe it"),
            );
        }
    };
    match group.refuses(ASSIGNORS) {
        Some(why) => Finding::problem(
            Part::Kafka,
            CHECK,
            format!("group {name}: {why}"),
            "Kafka rejects the consumer (InconsistentGroupProtocol), so nothing is folded",
            "give consumer.group a name that no one else uses, or stop the other members",
        ),
        None if group.members.is_empty() => Finding::ok(Part::Kafka, CHECK, format!("group {name} has no members now")),
        None => Finding::ok(
            Part::Kafka,
            CHECK,
            format!("group {name} has {} member(s) with assignment strategy {}", group.members.len(), group.assignor),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::raw::{GroupState, Member, Protocol};
    use crate::error::Code;
    use crate::operations::check::finding::Level;

    #[test]
    fn a_group_that_refuses_the_consumer_is_a_problem() {
        let member = Member {
            id: "m".to_owned(),
            client_id: "billing".to_owned(),
            host: "/10.0.0.1".to_owned(),
            instance_id: None,
            partitions: 3,
            places: Vec::new(),
        };
        let group = |assignor: &str| Group {
            protocol: Protocol::Classic,
            state: GroupState::Stable,
            assignor: assignor.to_owned(),
            members: vec![member.clone()],
        };
        let refused = judge("shop", &Ok(group("cooperative-sticky")));
        assert!(refused.level == Level::Problem && refused.what.contains("cooperative-sticky"), "{refused:?}");
        assert_eq!(judge("shop", &Ok(group("range"))).level, Level::Ok);
        let silent = judge("shop", &Err(Error::new(Code::KafkaUnreachable, "Group authorization failed")));
        assert!(silent.level == Level::Warning && silent.what.contains("authorization"), "{silent:?}");
    }
}
