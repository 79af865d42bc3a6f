//! What a Kafka error means: the one place that decides.

use std::fmt::Write as _;

use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::types::RDKafkaRespErr as Error;

use crate::event::FailureClass;
use crate::failpoint::{Fault, fault};

/// Whose fault it is, hence what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// The broker, the network, a grant or a missing topic: wait; the record is as good as before, and no attempt is
    /// counted.
    Infrastructure,
    /// The topic does not take records of this client, for want of a grant: what goes to it waits, the rest goes on,
    /// and no attempt is counted.
    Denied,
    /// This record, whoever sends it and whenever: it fails, with this name in `last_error` and in metrics.
    Record(FailureClass),
    /// Every record of the topic, for what the topic is: it fails as one that is refused, and nothing has to be found
    /// out about it.
    Topic(FailureClass),
    /// Another record of the same request was refused, and the broker said which. This one is sent again.
    Innocent,
    /// The producer: it is of no more use, and a new one sends again what was not acknowledged. No attempt is counted.
    Fatal,
}

/// Classifies an error code of a delivery report or of a send.
///
/// A code that this librdkafka has no name for is infrastructure: waiting loses nothing.
pub fn classify(code: Code) -> Class {
    Error::try_from(code as i32).map_or(Class::Infrastructure, class_of)
}

/// Every code that librdkafka knows, one by one: a new one does not compile until somebody has decided about it.
#[allow(clippy::too_many_lines, reason = "one arm for each code")]
fn class_of(error: Error) -> Class {
    match error {
        Error::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE
        | Error::RD_KAFKA_RESP_ERR_INVALID_MSG_SIZE
        | Error::RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE => Class::Record(FailureClass::TooLarge),
        Error::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED => Class::Denied,
        Error::RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION => Class::Topic(FailureClass::InvalidTopic),
        Error::RD_KAFKA_RESP_ERR__INVALID_DIFFERENT_RECORD if fault(Fault::NeighboursWait) => Class::Infrastructure,
        Error::RD_KAFKA_RESP_ERR__INVALID_DIFFERENT_RECORD => Class::Innocent,
        Error::RD_KAFKA_RESP_ERR_INVALID_MSG
        | Error::RD_KAFKA_RESP_ERR_INVALID_RECORD
        | Error::RD_KAFKA_RESP_ERR__BAD_MSG => Class::Record(FailureClass::InvalidRecord),
        Error::RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP => Class::Record(FailureClass::InvalidTimestamp),
        Error::RD_KAFKA_RESP_ERR_POLICY_VIOLATION => Class::Record(FailureClass::PolicyViolation),
        Error::RD_KAFKA_RESP_ERR_UNSUPPORTED_FOR_MESSAGE_FORMAT
        | Error::RD_KAFKA_RESP_ERR_UNSUPPORTED_COMPRESSION_TYPE => Class::Record(FailureClass::UnsupportedFormat),
        Error::RD_KAFKA_RESP_ERR__PURGE_QUEUE
        | Error::RD_KAFKA_RESP_ERR__PURGE_INFLIGHT
        | Error::RD_KAFKA_RESP_ERR__FATAL
        | Error::RD_KAFKA_RESP_ERR__GAPLESS_GUARANTEE
        | Error::RD_KAFKA_RESP_ERR__FENCED
        | Error::RD_KAFKA_RESP_ERR_PRODUCER_FENCED
        | Error::RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH
        | Error::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER
        | Error::RD_KAFKA_RESP_ERR_UNKNOWN_PRODUCER_ID
        | Error::RD_KAFKA_RESP_ERR_INVALID_PRODUCER_ID_MAPPING
        | Error::RD_KAFKA_RESP_ERR__STATE
        | Error::RD_KAFKA_RESP_ERR_INVALID_TXN_STATE => Class::Fatal,
        Error::RD_KAFKA_RESP_ERR__BEGIN
        | Error::RD_KAFKA_RESP_ERR__BAD_COMPRESSION
        | Error::RD_KAFKA_RESP_ERR__DESTROY
        | Error::RD_KAFKA_RESP_ERR__FAIL
        | Error::RD_KAFKA_RESP_ERR__TRANSPORT
        | Error::RD_KAFKA_RESP_ERR__CRIT_SYS_RESOURCE
        | Error::RD_KAFKA_RESP_ERR__RESOLVE
        | Error::RD_KAFKA_RESP_ERR__MSG_TIMED_OUT
        | Error::RD_KAFKA_RESP_ERR__PARTITION_EOF
        | Error::RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION
        | Error::RD_KAFKA_RESP_ERR__FS
        | Error::RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC
        | Error::RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN
        | Error::RD_KAFKA_RESP_ERR__INVALID_ARG
        | Error::RD_KAFKA_RESP_ERR__TIMED_OUT
        | Error::RD_KAFKA_RESP_ERR__QUEUE_FULL
        | Error::RD_KAFKA_RESP_ERR__ISR_INSUFF
        | Error::RD_KAFKA_RESP_ERR__NODE_UPDATE
        | Error::RD_KAFKA_RESP_ERR__SSL
        | Error::RD_KAFKA_RESP_ERR__WAIT_COORD
        | Error::RD_KAFKA_RESP_ERR__UNKNOWN_GROUP
        | Error::RD_KAFKA_RESP_ERR__IN_PROGRESS
        | Error::RD_KAFKA_RESP_ERR__PREV_IN_PROGRESS
        | Error::RD_KAFKA_RESP_ERR__EXISTING_SUBSCRIPTION
        | Error::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS
        | Error::RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS
        | Error::RD_KAFKA_RESP_ERR__CONFLICT
        | Error::RD_KAFKA_RESP_ERR__UNKNOWN_PROTOCOL
        | Error::RD_KAFKA_RESP_ERR__NOT_IMPLEMENTED
        | Error::RD_KAFKA_RESP_ERR__AUTHENTICATION
        | Error::RD_KAFKA_RESP_ERR__NO_OFFSET
        | Error::RD_KAFKA_RESP_ERR__OUTDATED
        | Error::RD_KAFKA_RESP_ERR__TIMED_OUT_QUEUE
        | Error::RD_KAFKA_RESP_ERR__UNSUPPORTED_FEATURE
        | Error::RD_KAFKA_RESP_ERR__WAIT_CACHE
        | Error::RD_KAFKA_RESP_ERR__INTR
        | Error::RD_KAFKA_RESP_ERR__KEY_SERIALIZATION
        | Error::RD_KAFKA_RESP_ERR__VALUE_SERIALIZATION
        | Error::RD_KAFKA_RESP_ERR__KEY_DESERIALIZATION
        | Error::RD_KAFKA_RESP_ERR__VALUE_DESERIALIZATION
        | Error::RD_KAFKA_RESP_ERR__PARTIAL
        | Error::RD_KAFKA_RESP_ERR__READ_ONLY
        | Error::RD_KAFKA_RESP_ERR__NOENT
        | Error::RD_KAFKA_RESP_ERR__UNDERFLOW
        | Error::RD_KAFKA_RESP_ERR__INVALID_TYPE
        | Error::RD_KAFKA_RESP_ERR__RETRY
        | Error::RD_KAFKA_RESP_ERR__INCONSISTENT
        | Error::RD_KAFKA_RESP_ERR__MAX_POLL_EXCEEDED
        | Error::RD_KAFKA_RESP_ERR__UNKNOWN_BROKER
        | Error::RD_KAFKA_RESP_ERR__NOT_CONFIGURED
        | Error::RD_KAFKA_RESP_ERR__APPLICATION
        | Error::RD_KAFKA_RESP_ERR__ASSIGNMENT_LOST
        | Error::RD_KAFKA_RESP_ERR__NOOP
        | Error::RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET
        | Error::RD_KAFKA_RESP_ERR__LOG_TRUNCATION
        | Error::RD_KAFKA_RESP_ERR__DESTROY_BROKER
        | Error::RD_KAFKA_RESP_ERR__END
        | Error::RD_KAFKA_RESP_ERR_UNKNOWN
        | Error::RD_KAFKA_RESP_ERR_NO_ERROR
        | Error::RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE
        | Error::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART
        | Error::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE
        | Error::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION
        | Error::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT
        | Error::RD_KAFKA_RESP_ERR_BROKER_NOT_AVAILABLE
        | Error::RD_KAFKA_RESP_ERR_REPLICA_NOT_AVAILABLE
        | Error::RD_KAFKA_RESP_ERR_STALE_CTRL_EPOCH
        | Error::RD_KAFKA_RESP_ERR_OFFSET_METADATA_TOO_LARGE
        | Error::RD_KAFKA_RESP_ERR_NETWORK_EXCEPTION
        | Error::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS
        | Error::RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE
        | Error::RD_KAFKA_RESP_ERR_NOT_COORDINATOR
        | Error::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS
        | Error::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND
        | Error::RD_KAFKA_RESP_ERR_INVALID_REQUIRED_ACKS
        | Error::RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION
        | Error::RD_KAFKA_RESP_ERR_INCONSISTENT_GROUP_PROTOCOL
        | Error::RD_KAFKA_RESP_ERR_INVALID_GROUP_ID
        | Error::RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID
        | Error::RD_KAFKA_RESP_ERR_INVALID_SESSION_TIMEOUT
        | Error::RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS
        | Error::RD_KAFKA_RESP_ERR_INVALID_COMMIT_OFFSET_SIZE
        | Error::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED
        | Error::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED
        | Error::RD_KAFKA_RESP_ERR_UNSUPPORTED_SASL_MECHANISM
        | Error::RD_KAFKA_RESP_ERR_ILLEGAL_SASL_STATE
        | Error::RD_KAFKA_RESP_ERR_UNSUPPORTED_VERSION
        | Error::RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS
        | Error::RD_KAFKA_RESP_ERR_INVALID_PARTITIONS
        | Error::RD_KAFKA_RESP_ERR_INVALID_REPLICATION_FACTOR
        | Error::RD_KAFKA_RESP_ERR_INVALID_REPLICA_ASSIGNMENT
        | Error::RD_KAFKA_RESP_ERR_INVALID_CONFIG
        | Error::RD_KAFKA_RESP_ERR_NOT_CONTROLLER
        | Error::RD_KAFKA_RESP_ERR_INVALID_REQUEST
        | Error::RD_KAFKA_RESP_ERR_DUPLICATE_SEQUENCE_NUMBER
        | Error::RD_KAFKA_RESP_ERR_INVALID_TRANSACTION_TIMEOUT
        | Error::RD_KAFKA_RESP_ERR_CONCURRENT_TRANSACTIONS
        | Error::RD_KAFKA_RESP_ERR_TRANSACTION_COORDINATOR_FENCED
        | Error::RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED
        | Error::RD_KAFKA_RESP_ERR_SECURITY_DISABLED
        | Error::RD_KAFKA_RESP_ERR_OPERATION_NOT_ATTEMPTED
        | Error::RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR
        | Error::RD_KAFKA_RESP_ERR_LOG_DIR_NOT_FOUND
        | Error::RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED
        | Error::RD_KAFKA_RESP_ERR_REASSIGNMENT_IN_PROGRESS
        | Error::RD_KAFKA_RESP_ERR_DELEGATION_TOKEN_AUTH_DISABLED
        | Error::RD_KAFKA_RESP_ERR_DELEGATION_TOKEN_NOT_FOUND
        | Error::RD_KAFKA_RESP_ERR_DELEGATION_TOKEN_OWNER_MISMATCH
        | Error::RD_KAFKA_RESP_ERR_DELEGATION_TOKEN_REQUEST_NOT_ALLOWED
        | Error::RD_KAFKA_RESP_ERR_DELEGATION_TOKEN_AUTHORIZATION_FAILED
        | Error::RD_KAFKA_RESP_ERR_DELEGATION_TOKEN_EXPIRED
        | Error::RD_KAFKA_RESP_ERR_INVALID_PRINCIPAL_TYPE
        | Error::RD_KAFKA_RESP_ERR_NON_EMPTY_GROUP
        | Error::RD_KAFKA_RESP_ERR_GROUP_ID_NOT_FOUND
        | Error::RD_KAFKA_RESP_ERR_FETCH_SESSION_ID_NOT_FOUND
        | Error::RD_KAFKA_RESP_ERR_INVALID_FETCH_SESSION_EPOCH
        | Error::RD_KAFKA_RESP_ERR_LISTENER_NOT_FOUND
        | Error::RD_KAFKA_RESP_ERR_TOPIC_DELETION_DISABLED
        | Error::RD_KAFKA_RESP_ERR_FENCED_LEADER_EPOCH
        | Error::RD_KAFKA_RESP_ERR_UNKNOWN_LEADER_EPOCH
        | Error::RD_KAFKA_RESP_ERR_STALE_BROKER_EPOCH
        | Error::RD_KAFKA_RESP_ERR_OFFSET_NOT_AVAILABLE
        | Error::RD_KAFKA_RESP_ERR_MEMBER_ID_REQUIRED
        | Error::RD_KAFKA_RESP_ERR_PREFERRED_LEADER_NOT_AVAILABLE
        | Error::RD_KAFKA_RESP_ERR_GROUP_MAX_SIZE_REACHED
        | Error::RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID
        | Error::RD_KAFKA_RESP_ERR_ELIGIBLE_LEADERS_NOT_AVAILABLE
        | Error::RD_KAFKA_RESP_ERR_ELECTION_NOT_NEEDED
        | Error::RD_KAFKA_RESP_ERR_NO_REASSIGNMENT_IN_PROGRESS
        | Error::RD_KAFKA_RESP_ERR_GROUP_SUBSCRIBED_TO_TOPIC
        | Error::RD_KAFKA_RESP_ERR_UNSTABLE_OFFSET_COMMIT
        | Error::RD_KAFKA_RESP_ERR_THROTTLING_QUOTA_EXCEEDED
        | Error::RD_KAFKA_RESP_ERR_RESOURCE_NOT_FOUND
        | Error::RD_KAFKA_RESP_ERR_DUPLICATE_RESOURCE
        | Error::RD_KAFKA_RESP_ERR_UNACCEPTABLE_CREDENTIAL
        | Error::RD_KAFKA_RESP_ERR_INCONSISTENT_VOTER_SET
        | Error::RD_KAFKA_RESP_ERR_INVALID_UPDATE_VERSION
        | Error::RD_KAFKA_RESP_ERR_FEATURE_UPDATE_FAILED
        | Error::RD_KAFKA_RESP_ERR_PRINCIPAL_DESERIALIZATION_FAILURE
        | Error::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_ID
        | Error::RD_KAFKA_RESP_ERR_FENCED_MEMBER_EPOCH
        | Error::RD_KAFKA_RESP_ERR_UNRELEASED_INSTANCE_ID
        | Error::RD_KAFKA_RESP_ERR_UNSUPPORTED_ASSIGNOR
        | Error::RD_KAFKA_RESP_ERR_STALE_MEMBER_EPOCH
        | Error::RD_KAFKA_RESP_ERR_UNKNOWN_SUBSCRIPTION_ID
        | Error::RD_KAFKA_RESP_ERR_TELEMETRY_TOO_LARGE
        | Error::RD_KAFKA_RESP_ERR_REBOOTSTRAP_REQUIRED
        | Error::RD_KAFKA_RESP_ERR_END_ALL => Class::Infrastructure,
    }
}

/// `docs/errors.md`: every code with its class.
pub fn reference_markdown() -> String {
    let mut records: Vec<(FailureClass, Vec<String>)> = Vec::new();
    let (mut topics, mut innocent) = (Vec::new(), Vec::new());
    let (mut denied, mut fatal, mut infrastructure) = (Vec::new(), Vec::new(), Vec::new());
    for error in (-200..=1_000).filter_map(|code| Error::try_from(code).ok()) {
        let name = format!("`{}`", format!("{error:?}").trim_start_matches("RD_KAFKA_RESP_ERR_"));
        match class_of(error) {
            Class::Record(class) => match records.iter_mut().find(|(known, _)| *known == class) {
                Some((_, names)) => names.push(name),
                None => records.push((class, vec![name])),
            },
            Class::Topic(class) => topics.push(format!("{name} (`{class}`)")),
            Class::Innocent => innocent.push(name),
            Class::Denied => denied.push(name),
            Class::Fatal => fatal.push(name),
            Class::Infrastructure => infrastructure.push(name),
        }
    }
    let mut text = include_str!("failure.md").to_owned();
    for (class, names) in &records {
        writeln!(text, "| `{class}` | {} |", names.join(", ")).expect("writing to a String cannot fail");
    }
    for (title, names) in [
        ("The topic", topics),
        ("Another record", innocent),
        ("A missing grant", denied),
        ("The producer", fatal),
        ("Infrastructure", infrastructure),
    ] {
        write!(text, "\n## {title}\n\n{}\n", names.join(", ")).expect("writing to a String cannot fail");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_never_the_records_fault() {
        for code in [
            Code::BrokerTransportFailure,
            Code::AllBrokersDown,
            Code::OperationTimedOut,
            Code::MessageTimedOut,
            Code::NotEnoughReplicas,
            Code::NotEnoughReplicasAfterAppend,
            Code::NotLeaderForPartition,
            Code::LeaderNotAvailable,
            Code::UnknownTopic,
            Code::UnknownTopicOrPartition,
            Code::UnknownPartition,
            Code::ClusterAuthorizationFailed,
            Code::SaslAuthenticationFailed,
            Code::KafkaStorageError,
            Code::ThrottlingQuotaExceeded,
        ] {
            assert_eq!(classify(code), Class::Infrastructure, "{code:?}");
        }
    }

    #[test]
    fn what_the_client_gave_up_says_nothing_of_the_record() {
        for code in
            [Code::PurgeQueue, Code::PurgeInflight, Code::Fatal, Code::GaplessGuarantee, Code::OutOfOrderSequenceNumber]
        {
            assert_eq!(classify(code), Class::Fatal, "{code:?}");
        }
    }

    #[test]
    fn a_missing_grant_is_of_its_topic_alone() {
        assert_eq!(classify(Code::TopicAuthorizationFailed), Class::Denied);
    }

    #[test]
    fn a_topic_that_takes_no_records_is_to_blame_itself_and_a_neighbour_in_the_request_is_not() {
        assert_eq!(classify(Code::InvalidTopic), Class::Topic(FailureClass::InvalidTopic));
        assert_eq!(class_of(Error::RD_KAFKA_RESP_ERR__INVALID_DIFFERENT_RECORD), Class::Innocent);
    }

    #[test]
    fn a_record_that_no_broker_would_take_is_named() {
        assert_eq!(classify(Code::MessageSizeTooLarge), Class::Record(FailureClass::TooLarge));
        assert_eq!(classify(Code::InvalidRecord), Class::Record(FailureClass::InvalidRecord));
    }
}
