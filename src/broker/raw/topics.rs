//! Ids of topics. A topic that is deleted and made anew has another one, which is how the two are told apart.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::ptr::{self, NonNull};
use std::slice;
use std::time::Duration;

use rdkafka::bindings;
use rdkafka::client::{Client, ClientContext};
use uuid::Uuid;

use crate::error::{Code, Error, Result};

/// The id of each of these topics; one that does not exist, or that this client may not see, is left out, and so is one
/// of a broker that gives topics no ids (before Kafka 2.8). Blocks for `timeout` and a moment at most.
///
/// Errors: [`Code::KafkaUnreachable`].
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
    let milliseconds = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    let kafka = client.native_ptr();
    // SAFETY: the client is alive until the end of this function, and with it `kafka`. The names are copied by the
    // first call, and are alive until then. What is made here is destroyed once, by its guard, before the client can
    // be; an answer that comes after that finds no queue and is dropped by librdkafka.
    unsafe {
        let wanted = Guard::new(
            bindings::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len()),
            bindings::rd_kafka_TopicCollection_destroy,
        )?;
        let options = Guard::new(
            bindings::rd_kafka_AdminOptions_new(kafka, bindings::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS),
            bindings::rd_kafka_AdminOptions_destroy,
        )?;
        // A timeout that it does not take leaves its default, and we wait for ours in any case.
        bindings::rd_kafka_AdminOptions_set_request_timeout(options.get(), milliseconds, ptr::null_mut(), 0);
        let queue = Guard::new(bindings::rd_kafka_queue_new(kafka), bindings::rd_kafka_queue_destroy)?;
        bindings::rd_kafka_DescribeTopics(kafka, wanted.get(), options.get(), queue.get());
        let event =
            Guard::new(bindings::rd_kafka_queue_poll(queue.get(), milliseconds), bindings::rd_kafka_event_destroy)?;
        if bindings::rd_kafka_event_error(event.get()) != bindings::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            let why = CStr::from_ptr(bindings::rd_kafka_event_error_string(event.get())).to_string_lossy();
            return Err(unanswered(&why));
        }
        Ok(read(event.get()))
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
            let error = bindings::rd_kafka_TopicDescription_error(*topic);
            let id = bindings::rd_kafka_TopicDescription_topic_id(*topic);
            let refused = !error.is_null()
                && bindings::rd_kafka_error_code(error) != bindings::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
            if refused || id.is_null() {
                continue;
            }
            let name = CStr::from_ptr(bindings::rd_kafka_TopicDescription_name(*topic)).to_string_lossy().into_owned();
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

fn unanswered(why: &str) -> Error {
    Error::new(Code::KafkaUnreachable, format!("Kafka does not tell the ids of topics: {why}"))
        .hint("check kafka.bootstrap_servers and the security settings; outbox-relay check tells more")
}

/// Something that librdkafka has made for us, and how it is given back.
struct Guard<T> {
    made: NonNull<T>,
    destroy: unsafe extern "C" fn(*mut T),
}

impl<T> Guard<T> {
    /// # Safety
    /// `made` must be null or ours to destroy by `destroy`, and nobody may use it after the guard.
    unsafe fn new(made: *mut T, destroy: unsafe extern "C" fn(*mut T)) -> Result<Self> {
        let made = NonNull::new(made).ok_or_else(|| unanswered("no answer in time"))?;
        Ok(Self { made, destroy })
    }

    fn get(&self) -> *mut T {
        self.made.as_ptr()
    }
}

impl<T> Drop for Guard<T> {
    fn drop(&mut self) {
        // SAFETY: whoever made the guard has promised that this is ours and is not used any more.
        unsafe { (self.destroy)(self.made.as_ptr()) };
    }
}
