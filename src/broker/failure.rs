//! What an error of Kafka means: the one place that decides.

use rdkafka::error::RDKafkaErrorCode as Code;

/// Whose fault it is, hence what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The broker, the network, a grant or a missing topic: wait; the record is as good as before.
    Infrastructure,
    /// This record, whoever sends it and whenever: it fails, with this name in `last_error` and in metrics.
    Record(&'static str),
}

/// Classifies an error code of a delivery report or of a send.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the enum is non-exhaustive; what is not a property of the record is infrastructure"
)]
pub fn classify(code: Code) -> Class {
    match code {
        Code::MessageSizeTooLarge => Class::Record("too-large"),
        Code::InvalidMessage | Code::InvalidRecord => Class::Record("invalid-record"),
        Code::InvalidTimestamp => Class::Record("invalid-timestamp"),
        Code::PolicyViolation => Class::Record("policy-violation"),
        Code::UnsupportedForMessageFormat | Code::UnsupportedCompressionType => Class::Record("unsupported-format"),
        Code::BadMessage => Class::Record("invalid-record"),
        _ => Class::Infrastructure,
    }
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
            Code::TopicAuthorizationFailed,
            Code::ClusterAuthorizationFailed,
            Code::SaslAuthenticationFailed,
            Code::KafkaStorageError,
            Code::OutOfOrderSequenceNumber,
            Code::UnknownProducerId,
            Code::PurgeQueue,
            Code::PurgeInflight,
            Code::Fatal,
            Code::ThrottlingQuotaExceeded,
        ] {
            assert_eq!(classify(code), Class::Infrastructure, "{code:?}");
        }
    }

    #[test]
    fn a_record_that_no_broker_would_take_is_named() {
        assert_eq!(classify(Code::MessageSizeTooLarge), Class::Record("too-large"));
        assert_eq!(classify(Code::InvalidRecord), Class::Record("invalid-record"));
    }
}
