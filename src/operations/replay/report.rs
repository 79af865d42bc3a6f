//! A replay as it is reported. The names of the fields are public.

use std::collections::BTreeMap;

use serde::Serialize;

use super::count_of;
use super::retention::Expired;
use crate::error::{Code, Error};
use crate::outbox::replay::{Group, Replay};

/// What a replay would copy.
#[derive(Debug, Serialize)]
pub struct Counts {
    pub matched: i64,
    pub to_topic: Option<String>,
    pub new_ids: bool,
    pub groups: Vec<GroupLine>,
    /// Of those that match: what Kafka would delete or refuse at once.
    pub expired: Vec<Expired>,
}

#[derive(Debug, Serialize)]
pub struct GroupLine {
    /// `null`: the rows name no topic, routing decides.
    pub topic: Option<String>,
    pub event_type: String,
    pub events: i64,
}

/// By topic and event type.
pub(super) fn lines(groups: &[Group]) -> Vec<GroupLine> {
    let mut events: BTreeMap<(Option<&str>, &str), i64> = BTreeMap::new();
    for group in groups {
        *events.entry((group.topic.as_deref(), &group.event_type)).or_default() += group.events;
    }
    let line = |((topic, event_type), events): ((Option<&str>, &str), i64)| GroupLine {
        topic: topic.map(str::to_owned),
        event_type: event_type.to_owned(),
        events,
    };
    events.into_iter().map(line).collect()
}

/// How far a replay is.
#[derive(Debug, Serialize)]
pub struct Outcome {
    pub replay: String,
    pub matched: i64,
    pub copied: i64,
    pub finished: bool,
    pub to_topic: Option<String>,
    pub new_ids: bool,
    pub upto_id: i64,
    pub last_id: i64,
    /// The id for `jobs`; `null` when this run is not recorded.
    pub job: Option<String>,
    /// Events of which the table took no copy, in this run.
    #[serde(skip)]
    refused: u64,
}

impl Outcome {
    pub(super) fn new(replay: &Replay, refused: u64, recorded: bool) -> Self {
        Self {
            replay: replay.id.to_string(),
            matched: replay.matched,
            copied: replay.copied,
            finished: replay.finished,
            to_topic: replay.to_topic.clone(),
            new_ids: replay.new_ids,
            upto_id: replay.upto_id,
            last_id: replay.last_id,
            job: recorded.then(|| replay.id.to_string()),
            refused,
        }
    }

    /// Errors: events were refused, or fewer were copied than had matched when they were counted.
    pub fn verdict(&self) -> Result<(), Error> {
        let missing = count_of(self.matched).saturating_sub(count_of(self.copied)).saturating_sub(self.refused);
        if missing > 0 {
            let message =
                format!("{missing} of {} events that matched were not copied, and {} were", self.matched, self.copied);
            return Err(Error::new(Code::PartlyDone, message)
                .hint(
                    "a cleanup or somebody else has deleted or changed them meanwhile, or the table had refused them before the replay was resumed. \
                     Without --rate a replay is faster than the cleanup; cleanup.published_older_than keeps rows for longer",
                ));
        }
        if self.refused == 0 {
            return Ok(());
        }
        let message = format!("the table outbox_events rejects copies of {} events", self.refused);
        Err(Error::new(Code::PartlyDone, message)
            .hint("the cause is a constraint or a trigger of yours; the messages above name the first events"))
    }
}
