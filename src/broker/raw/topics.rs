//! Topic ids. A topic that was deleted and recreated has a different id, which is how the two are told apart.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::slice;
use std::time::Duration;

use rdkafka::bindings;
use rdkafka::client::{Client, ClientContext};
use uuid::Uuid;

use super::question::{Guard, Question, problem, text};
use crate::error::Result;

const IDS: Question =
    Question { operation: bindings::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS, what: "the ids of topics" };

/// The id of each of these topics; one that does not exist, or that this client may not see, is left out, and so is one
/// of a broker that gives topics no ids (before Kafka 2.8). Blocks for `timeout` and a moment at most.
///
/// Errors: [`Code::KafkaUnreachable`](crate::error::Code::KafkaUnreachable).
pub fn topic_ids<C: ClientContext>(
    client: &Client<C>,
    topics: &[&str],
    timeout: Duration,
) -> Result<BTreeMap<String, Uuid>> {
    let names: Vec<CString> = topics.iter().filter_map(|topic| CString::new(*topic).ok()).collect();
    if names.is_empty() {
        return Ok(BTreeMap::new());
    }
    let mut pointers: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
    // SAFETY: the names are copied by the first call, and are alive until then; what it makes is given back by its
    // guard after the question. Nothing of the event is kept.
    unsafe {
        let wanted = Guard::new(
            bindings::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len()),
            bindings::rd_kafka_TopicCollection_destroy,
        )
        .ok_or_else(|| IDS.unanswered("it takes no names"))?;
        let send = |options: *mut _, queue| {
            bindings::rd_kafka_DescribeTopics(client.native_ptr(), wanted.get(), options, queue);
        };
        IDS.ask(client, timeout, send, |event| Ok(read(event)))
    }
}

/// # Safety
/// `event` must be alive.
unsafe fn read(event: *mut bindings::rd_kafka_event_t) -> BTreeMap<String, Uuid> {
    // SAFETY: the result and all that it points to belong to the event, which the caller keeps.
    unsafe {
        let result = bindings::rd_kafka_event_DescribeTopics_result(event);
        if result.is_null() {
            return BTreeMap::new();
        }
        let mut count = 0;
        let topics = bindings::rd_kafka_DescribeTopics_result_topics(result, &mut count);
        if topics.is_null() || count == 0 {
            return BTreeMap::new();
        }
        let mut ids = BTreeMap::new();
        for topic in slice::from_raw_parts(topics, count) {
            let refused = problem(bindings::rd_kafka_TopicDescription_error(*topic)).is_some();
            let id = bindings::rd_kafka_TopicDescription_topic_id(*topic);
            if refused || id.is_null() {
                continue;
            }
            let name = text(bindings::rd_kafka_TopicDescription_name(*topic)).unwrap_or_default();
            let (high, low) =
                (bindings::rd_kafka_Uuid_most_significant_bits(id), bindings::rd_kafka_Uuid_least_significant_bits(id));
            let id = Uuid::from_u64_pair(high.cast_unsigned(), low.cast_unsigned());
            if !id.is_nil() {
                ids.insert(name, id);
            }
        }
        ids
    }
}
