//! Questions that librdkafka answers on a queue: ask one, read its answer, free everything.

use std::ffi::CStr;
use std::ptr::{self, NonNull};
use std::time::Duration;

use rdkafka::bindings;
use rdkafka::client::{Client, ClientContext};

use crate::error::{Code, Error, Result};

/// What is asked: the call of librdkafka, and how the error message names it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question {
    pub(super) operation: bindings::rd_kafka_admin_op_t,
    pub(super) what: &'static str,
}

impl Question {
    /// Asks and reads the answer. Blocks for `timeout` and a moment at most.
    ///
    /// Errors: [`Code::KafkaUnreachable`].
    ///
    /// # Safety
    /// `send` must make the call of `operation` with the options and the queue that it is given, and may keep neither.
    /// `read` must not keep anything that the event points to.
    pub(super) unsafe fn ask<C: ClientContext, T>(
        self,
        client: &Client<C>,
        timeout: Duration,
        send: impl FnOnce(*mut bindings::rd_kafka_AdminOptions_t, *mut bindings::rd_kafka_queue_t),
        read: impl FnOnce(*mut bindings::rd_kafka_event_t) -> Result<T>,
    ) -> Result<T> {
        let milliseconds = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        let kafka = client.native_ptr();
        let silent = || self.unanswered("no answer in time");
        // SAFETY: the client is alive until the end of this function, and with it `kafka`. What is made here is
        // destroyed once, by its guard, before the client can be; an answer that comes after that finds no queue and is
        // dropped by librdkafka.
        unsafe {
            let options = Guard::new(
                bindings::rd_kafka_AdminOptions_new(kafka, self.operation),
                bindings::rd_kafka_AdminOptions_destroy,
            )
            .ok_or_else(silent)?;
            // A timeout that it does not take leaves its default, and we wait for ours in any case.
            bindings::rd_kafka_AdminOptions_set_request_timeout(options.get(), milliseconds, ptr::null_mut(), 0);
            let queue =
                Guard::new(bindings::rd_kafka_queue_new(kafka), bindings::rd_kafka_queue_destroy).ok_or_else(silent)?;
            send(options.get(), queue.get());
            let answer = bindings::rd_kafka_queue_poll(queue.get(), milliseconds);
            let event = Guard::new(answer, bindings::rd_kafka_event_destroy).ok_or_else(silent)?;
            if bindings::rd_kafka_event_error(event.get()) != bindings::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
            {
                let why = CStr::from_ptr(bindings::rd_kafka_event_error_string(event.get())).to_string_lossy();
                return Err(self.unanswered(&why));
            }
            read(event.get())
        }
    }

    pub(super) fn unanswered(self, why: &str) -> Error {
        Error::new(Code::KafkaUnreachable, format!("Kafka did not return {}: {why}", self.what))
            .hint("check kafka.bootstrap_servers and the security settings; for details run: outbox-relay check")
    }
}

/// Something that librdkafka has made for us, and how it is given back.
pub(super) struct Guard<T> {
    made: NonNull<T>,
    destroy: unsafe extern "C" fn(*mut T),
}

impl<T> Guard<T> {
    /// # Safety
    /// `made` must be null or ours to destroy by `destroy`, and nobody may use it after the guard.
    pub(super) unsafe fn new(made: *mut T, destroy: unsafe extern "C" fn(*mut T)) -> Option<Self> {
        Some(Self { made: NonNull::new(made)?, destroy })
    }

    pub(super) fn get(&self) -> *mut T {
        self.made.as_ptr()
    }
}

impl<T> Drop for Guard<T> {
    fn drop(&mut self) {
        // SAFETY: whoever made the guard has promised that this is ours and is not used any more.
        unsafe { (self.destroy)(self.made.as_ptr()) };
    }
}

/// Text of librdkafka, copied. `None` for a null pointer.
///
/// # Safety
/// `text` must be null or end with a NUL.
pub(super) unsafe fn text(text: *const std::ffi::c_char) -> Option<String> {
    // SAFETY: as promised, and the text is copied at once.
    (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
}

/// What an answer says went wrong with one of the things that were asked about. `None`: nothing.
///
/// # Safety
/// `error` must be null or alive.
pub(super) unsafe fn problem(error: *const bindings::rd_kafka_error_t) -> Option<String> {
    // SAFETY: as promised.
    unsafe {
        if error.is_null()
            || bindings::rd_kafka_error_code(error) == bindings::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
        {
            return None;
        }
        let said = text(bindings::rd_kafka_error_string(error)).unwrap_or_default();
        // A broker may add nothing to its code.
        let name = text(bindings::rd_kafka_error_name(error)).unwrap_or_default();
        Some(format!("{} ({name})", said.trim_end_matches([' ', ':'])))
    }
}
