//! What rdkafka cannot read without a panic, or not at all, read from librdkafka itself. The only module with `unsafe`.
//!
//! Header names and the text beside a committed offset are bytes that any producer or tool may choose; rdkafka insists
//! on UTF-8 and panics. All code that reads records uses this module: the tidy test rejects rdkafka's own access
//! elsewhere. [`topic_ids`] and [`group`] ask questions that rdkafka has no call for. Invariant: nothing here keeps a
//! pointer beyond the call; what is returned is copied.

#![expect(unsafe_code, reason = "this is the one place")]

mod groups;
mod question;
mod topics;

use std::ffi::CStr;
use std::ptr;
use std::slice;

use rdkafka::TopicPartitionList;
use rdkafka::bindings;
use rdkafka::message::BorrowedMessage;

pub use groups::{Group, GroupState, Member, Protocol, group};
pub use topics::topic_ids;

/// Name and value of each header, in the order of the record, repeated names too. Neither need be text.
pub type Headers = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// The headers of a record that a consumer was given.
pub fn headers(message: &BorrowedMessage<'_>) -> Headers {
    let mut list = ptr::null_mut();
    // SAFETY: the message is alive as long as its borrow, and so is the list of headers, which belongs to the message.
    // librdkafka parses it at the first call, which two threads must not make at once: readers copy a message on the
    // thread that has polled it, and share none.
    let error = unsafe { bindings::rd_kafka_message_headers(message.ptr(), &mut list) };
    if error != bindings::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR || list.is_null() {
        return Headers::new();
    }
    // SAFETY: the list is alive, see above.
    let count = unsafe { bindings::rd_kafka_header_cnt(list) };
    (0..count).map_while(|index| header(list, index)).collect()
}

/// `list` must be alive.
fn header(list: *const bindings::rd_kafka_headers_t, index: usize) -> Option<(Vec<u8>, Option<Vec<u8>>)> {
    let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
    // SAFETY: the list is alive, and the call only writes to the three places that it is given.
    let error = unsafe { bindings::rd_kafka_header_get_all(list, index, &mut name, &mut value, &mut size) };
    if error != bindings::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR || name.is_null() {
        return None;
    }
    // SAFETY: librdkafka ends every name with a NUL of its own, and the name lives as long as the list.
    let until_nul = unsafe { CStr::from_ptr(name) }.to_bytes();
    if value.is_null() {
        return Some((until_nul.to_vec(), None));
    }
    let name = whole_name(list, name.cast(), until_nul, value.cast()).unwrap_or_else(|| until_nul.to_vec());
    // SAFETY: librdkafka says that `size` bytes are at `value`, in the list.
    let value =
        if size == 0 { Vec::new() } else { unsafe { slice::from_raw_parts(value.cast::<u8>(), size) }.to_vec() };
    Some((name, Some(value)))
}

/// The name beyond its first NUL, if it has one. librdkafka tells no length, but keeps name, NUL and value side by side
/// in one block (`rd_kafka_header_add` in rdkafka_header.c of the version that is linked in; the tests below see it
/// when that changes).
fn whole_name(
    list: *const bindings::rd_kafka_headers_t,
    name: *const u8,
    until_nul: &[u8],
    value: *const u8,
) -> Option<Vec<u8>> {
    let length = value.addr().checked_sub(name.addr())?.checked_sub(1)?;
    if length <= until_nul.len() || found_by_name(list, until_nul, value) {
        return None;
    }
    // SAFETY: the search for the name up to its first NUL did not find this header, so its name is longer, and the
    // block reaches from `name` to beyond `value`, which stands one byte behind the end of the name.
    Some(unsafe { slice::from_raw_parts(name, length) }.to_vec())
}

/// Whether one of the headers with exactly this name has its value here.
fn found_by_name(list: *const bindings::rd_kafka_headers_t, name: &[u8], place: *const u8) -> bool {
    let Ok(name) = std::ffi::CString::new(name) else { return false };
    for nth in 0.. {
        let (mut value, mut size) = (ptr::null(), 0);
        // SAFETY: the list is alive (the caller has it from a message), the name ends with NUL, and the call writes to
        // the two places alone.
        let error = unsafe { bindings::rd_kafka_header_get(list, nth, name.as_ptr(), &mut value, &mut size) };
        if error != bindings::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return false;
        }
        if ptr::eq(value.cast::<u8>(), place) {
            return true;
        }
    }
    false
}

/// The text that was committed beside the offset of a partition. Bytes that are not UTF-8 are replaced, so such a text
/// is equal to none of ours. Empty where there is none.
pub fn committed_note(list: &TopicPartitionList, topic: &str, partition: i32) -> String {
    let list = list.ptr();
    // SAFETY: the list is alive as long as its borrow, and has `cnt` elements at `elems`.
    let elements = unsafe {
        let count = usize::try_from((*list).cnt).unwrap_or(0);
        if count == 0 || (*list).elems.is_null() { &[] } else { slice::from_raw_parts((*list).elems, count) }
    };
    let wanted = elements.iter().find(|element| {
        // SAFETY: the name of a topic ends with NUL and lives as long as its element.
        element.partition == partition && unsafe { CStr::from_ptr(element.topic) }.to_bytes() == topic.as_bytes()
    });
    match wanted {
        Some(element) if !element.metadata.is_null() && element.metadata_size > 0 => {
            // SAFETY: `metadata_size` bytes are at `metadata`, as long as the element lives.
            let bytes = unsafe { slice::from_raw_parts(element.metadata.cast::<u8>(), element.metadata_size) };
            String::from_utf8_lossy(bytes).into_owned()
        }
        Some(_) | None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::c_char;
    use std::time::Duration;

    use rdkafka::config::ClientConfig;
    use rdkafka::consumer::{BaseConsumer, Consumer as _};
    use rdkafka::message::OwnedHeaders;
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
    use rdkafka::{Message as _, Offset};

    use super::*;

    fn header_of(name: &[u8], value: Option<&[u8]>) -> (Vec<u8>, Option<Vec<u8>>) {
        (name.to_vec(), value.map(<[u8]>::to_vec))
    }

    /// Headers with names that `rdkafka` would not write.
    fn list_of(headers: &Headers) -> *mut bindings::rd_kafka_headers_t {
        // SAFETY: the list is new; names and values are copied into it.
        unsafe {
            let list = bindings::rd_kafka_headers_new(headers.len());
            for (name, value) in headers {
                let (value, size) = value.as_ref().map_or((ptr::null(), 0), |value| (value.as_ptr(), value.len()));
                let name_size = isize::try_from(name.len()).expect("small");
                let size = isize::try_from(size).expect("small");
                let name = name.as_ptr().cast::<c_char>();
                bindings::rd_kafka_header_add(list, name, name_size, value.cast(), size);
            }
            list
        }
    }

    fn all(list: *mut bindings::rd_kafka_headers_t) -> Headers {
        // SAFETY: the list is alive until the end of the test.
        let count = unsafe { bindings::rd_kafka_header_cnt(list) };
        (0..count).map_while(|index| header(list, index)).collect()
    }

    #[test]
    fn names_and_values_are_bytes() {
        let headers = vec![
            header_of(b"\xff", Some(b"1")),
            header_of(b"", Some(b"")),
            header_of(b"caf\xe9", None),
            header_of(b"a\0b", Some(b"\0\xfe")),
            header_of(b"a", Some(b"plain")),
            header_of(b"a\0b", Some(b"again")),
            header_of(b"\0", Some(b"")),
            header_of(b"a", Some(b"plain again")),
            header_of(&vec![b'n'; 70_000], Some(&vec![0xfd; 70_000])),
        ];
        let list = list_of(&headers);
        assert_eq!(all(list), headers);
        // SAFETY: nobody has it any more.
        unsafe { bindings::rd_kafka_headers_destroy(list) };
    }

    #[test]
    fn a_name_without_a_value_ends_at_its_first_nul() {
        let list = list_of(&vec![header_of(b"a\0b", None)]);
        assert_eq!(all(list), [header_of(b"a", None)]);
        // SAFETY: nobody has it any more.
        unsafe { bindings::rd_kafka_headers_destroy(list) };
    }

    #[test]
    fn a_record_comes_with_its_headers() {
        let cluster = MockCluster::new(1).expect("a cluster in this process");
        cluster.create_topic("orders", 1, 1).expect("a topic");
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", cluster.bootstrap_servers()).set("group.id", "g");
        let producer: BaseProducer = config.create().expect("a producer");
        let name = String::from_utf8_lossy(b"x").into_owned();
        let headers = OwnedHeaders::new()
            .insert(rdkafka::message::Header { key: &name, value: Some("1") })
            .insert(rdkafka::message::Header { key: "y", value: None::<&str> });
        producer
            .send(BaseRecord::to("orders").key("k").payload("v").headers(headers))
            .map_err(|(error, _)| error)
            .expect("queued");
        producer.send(BaseRecord::to("orders").key("k").payload("none")).map_err(|(error, _)| error).expect("queued");
        producer.flush(Duration::from_secs(60)).expect("acknowledged");
        let consumer: BaseConsumer = config.create().expect("a consumer");
        let mut list = TopicPartitionList::new();
        list.add_partition_offset("orders", 0, Offset::Beginning).expect("a valid offset");
        consumer.assign(&list).expect("assigned");
        let mut found = Vec::new();
        while found.len() < 2 {
            if let Some(message) = consumer.poll(Duration::from_secs(1)) {
                let message = message.expect("a record");
                found.push((message.offset(), super::headers(&message)));
            }
        }
        assert_eq!(found, [(0, vec![header_of(b"x", Some(b"1")), header_of(b"y", None)]), (1, vec![])]);
    }

    #[test]
    fn what_is_beside_an_offset_need_not_be_text() {
        let mut list = TopicPartitionList::new();
        list.add_partition("orders", 0);
        list.add_partition("orders", 1).set_metadata("ours");
        assert_eq!(committed_note(&list, "orders", 0), "");
        assert_eq!(committed_note(&list, "orders", 1), "ours");
        assert_eq!(committed_note(&list, "others", 1), "");
        // SAFETY: the list is ours, and the first byte of the text of its second element is there.
        unsafe { *(*(*list.ptr()).elems.add(1)).metadata.cast::<u8>() = 0xff };
        assert_eq!(committed_note(&list, "orders", 1), "\u{fffd}urs");
    }
}
