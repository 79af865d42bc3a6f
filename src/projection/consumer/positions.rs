//! Where partitions are read on: taking them, stopping those whose position means nothing any more, and looking every
//! few seconds whether PostgreSQL still agrees.
//!
//! The judgements are in [`crate::projection::position`]; here is what they are fed with, and what follows.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use uuid::Uuid;

use super::{Reader, WATERMARK_WAIT, WATERMARK_WAIT_AGAIN, why_not};
use crate::broker::raw;
use crate::clock;
use crate::error::Result;
use crate::projection::assignment::{Reading, Why};
use crate::projection::failure::FoldError;
use crate::projection::position::{self, Displaced, Log, Standing, Stop, TopicIdentity, Verdict, examine};
use crate::projection::record::Place;
use crate::projection::store::positions::{Fence, Look};

/// Between two looks at what PostgreSQL says of our partitions. A crash that took folds back is noticed within this
/// time, also by a partition that gets no records, and so is what somebody has decided.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Between two questions for the ids of topics, and the longest wait for an answer.
pub(super) const IDS_INTERVAL: Duration = Duration::from_secs(4);
pub(super) const IDS_WAIT: Duration = Duration::from_secs(2);

impl Reader {
    /// Takes the fence of each partition whose time has come, and hands the assignment to Kafka if it has changed.
    pub(super) fn take_due_partitions(&mut self) -> Result<()> {
        let due = self.assignment.due(clock::monotonic());
        let logs = self.log_ranges(&due);
        let mut changed = self.unanswered;
        if !logs.is_empty() {
            let cluster_id = self.consumer.client().fetch_cluster_id(WATERMARK_WAIT);
            let topics: BTreeSet<String> = logs.keys().map(|place| place.topic.clone()).collect();
            let ids = self.topic_ids(&topics.into_iter().collect::<Vec<_>>());
            if let Some(topic) = self.remade(ids.iter().map(|(topic, id)| (topic, *id))) {
                return self.read_anew(&topic);
            }
            let taking: Vec<_> = logs.iter().map(|(place, log)| (place.clone(), log.start)).collect();
            match self.runtime.block_on(self.store.take_what_is_free(&taking, self.settings.start.asks())) {
                Ok(fences) => {
                    let mut news = Vec::new();
                    let free = |place: &Place| fences.iter().any(|fence| fence.place == *place);
                    for (place, _) in taking.iter().filter(|(place, _)| !free(place)) {
                        let why = format!("{place}: its row in consumer_partitions is locked by another session");
                        self.assignment.wait(place, Why::Unavailable(why), clock::monotonic());
                    }
                    for fence in fences {
                        let topic_id = ids.get(&fence.place.topic).copied();
                        let now = TopicIdentity { cluster_id: cluster_id.clone(), topic_id };
                        let log = logs[&fence.place];
                        changed |= self.begin(fence, now, log, &mut news);
                    }
                    self.note(&news);
                }
                Err(error) => {
                    let why = why_not(&FoldError::from(error));
                    for (place, _) in taking {
                        self.assignment.wait(&place, why.clone(), clock::monotonic());
                    }
                }
            }
        }
        if changed { self.hand_over() } else { Ok(()) }
    }

    /// The ids of topics, as far as Kafka tells them: brokers before 2.8 give none.
    fn topic_ids(&self, topics: &[String]) -> BTreeMap<String, Uuid> {
        let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
        raw::topic_ids(self.consumer.client(), &topics, IDS_WAIT).unwrap_or_else(|error| {
            tracing::debug!(error = %error.chain(), "could not fetch topic ids");
            BTreeMap::new()
        })
    }

    /// Whether topics that are read were deleted and created again meanwhile. The client does not notice: it reads on
    /// in the new log. And whether there are partitions that nobody reads.
    pub(super) fn look_at_topics(&mut self) -> Result<()> {
        self.identified_at = clock::monotonic();
        let names: Vec<&str> = self.settings.topics.iter().map(String::as_str).collect();
        let topics = match raw::topics(self.consumer.client(), &names, IDS_WAIT) {
            Ok(topics) => topics,
            Err(error) => {
                tracing::debug!(error = %error.chain(), "nothing is known of the topics");
                return Ok(());
            }
        };
        // By partition: one whose fold is under way is looked at later, when the others may be in the new log already.
        let anew = |place: &Place| {
            let now = topics.get(&place.topic).and_then(|topic| topic.id);
            now.is_some_and(|id| self.identities.get(place).is_some_and(|before| *before != id))
        };
        let reading: Vec<(Place, i64)> = self
            .assignment
            .reading()
            .filter(|reading| anew(reading.place))
            .map(|Reading { place, epoch, .. }| (place.clone(), epoch))
            .collect();
        for (place, epoch) in &reading {
            self.stop_partition(place, *epoch, &Stop::OtherTopic);
        }
        let ids = topics.iter().filter_map(|(topic, found)| Some((topic, found.id?)));
        if let Some(topic) = self.remade(ids) {
            return self.read_anew(&topic);
        }
        if !reading.is_empty() {
            self.hand_over()?;
        }
        self.look_for_unassigned(&topics.into_iter().map(|(name, topic)| (name, topic.partitions)).collect())
    }

    /// The first of these topics that has another id than this client saw first.
    fn remade<'a>(&mut self, mut ids: impl Iterator<Item = (&'a String, Uuid)>) -> Option<String> {
        ids.find_map(|(topic, id)| (*self.client_ids.entry(topic.clone()).or_insert(id) != id).then(|| topic.clone()))
    }

    /// librdkafka ignores metadata with a leader epoch below the last one that it has seen. The epochs of a new topic
    /// begin at 0, so it would never read a topic that was made anew after its leader had changed.
    fn read_anew(&mut self, topic: &str) -> Result<()> {
        tracing::info!(topic, "the topic was deleted and created again: reading it takes a new Kafka client");
        self.connect_anew()
    }

    /// The logs as they are now. A partition whose log cannot be asked waits. A leader that does not answer costs the
    /// other partitions one wait, and a short one if it did not answer before: nothing is read meanwhile.
    fn log_ranges(&mut self, places: &[Place]) -> BTreeMap<Place, Log> {
        let mut ranges = BTreeMap::new();
        if places.is_empty() {
            return ranges;
        }
        let leaders = self.leaders(places);
        let mut silent: BTreeMap<i32, String> = BTreeMap::new();
        for place in places {
            let why = match &leaders {
                Err(error) => Why::Silent(format!("Kafka does not respond: {error}")),
                Ok(leaders) => match leaders.get(place) {
                    None => Why::Unmeasured("Kafka does not know the partition".to_owned()),
                    Some(leader) if *leader < 0 => Why::Leaderless,
                    Some(leader) if let Some(error) = silent.get(leader) => Why::Unmeasured(error.clone()),
                    Some(leader) => {
                        let limit =
                            if self.assignment.is_unmeasured(place) { WATERMARK_WAIT_AGAIN } else { WATERMARK_WAIT };
                        match self.consumer.fetch_watermarks(&place.topic, place.partition, limit) {
                            Ok((start, end)) => {
                                ranges.insert(place.clone(), Log { start, end });
                                continue;
                            }
                            Err(error) => {
                                let error = format!("broker {leader} does not respond: {error}");
                                silent.insert(*leader, error.clone());
                                Why::Unmeasured(error)
                            }
                        }
                    }
                },
            };
            self.assignment.wait(place, why, clock::monotonic());
        }
        ranges
    }

    /// Which broker leads each of these partitions; below 0: none. Without those that Kafka does not know.
    fn leaders(&self, places: &[Place]) -> std::result::Result<BTreeMap<Place, i32>, KafkaError> {
        let topics: BTreeSet<&str> = places.iter().map(|place| place.topic.as_str()).collect();
        let mut leaders = BTreeMap::new();
        for topic in topics {
            let metadata = self.consumer.fetch_metadata(Some(topic), WATERMARK_WAIT)?;
            for partition in metadata.topics().iter().flat_map(|found| found.partitions()) {
                leaders.insert(Place { topic: topic.to_owned(), partition: partition.id() }, partition.leader());
            }
        }
        Ok(leaders)
    }

    /// The fence is taken: the partition is read from its position, unless that means nothing in this log. Returns
    /// whether it is.
    fn begin(
        &mut self,
        fence: Fence,
        now: TopicIdentity,
        log: Log,
        news: &mut Vec<(Place, i64, TopicIdentity)>,
    ) -> bool {
        let Fence { place, epoch, position } = fence;
        let next_offset = position.next_offset;
        self.meters.set_lag(&place, log.end - next_offset);
        if let Some(former) = position.former_offset {
            tracing::warn!(partition = %place, from = former, to = next_offset, "the position was changed by hand");
        }
        let now_id = now.topic_id;
        self.identities.remove(&place);
        match examine(&position, &now, log) {
            Verdict::Read { look_back, note } => {
                if note {
                    news.push((place.clone(), epoch, now));
                }
                if let Some(id) = now_id {
                    self.identities.insert(place.clone(), id);
                }
                self.assignment.read(&place, epoch, next_offset, look_back);
                true
            }
            Verdict::Stop(stop) => {
                self.stop_partition(&place, epoch, &stop);
                false
            }
            Verdict::Stopped(stopped) => {
                self.assignment.wait(&place, Why::Stopped(stopped), clock::monotonic());
                false
            }
        }
    }

    /// A failure costs nothing: it is noted when the partition is taken the next time.
    fn note(&self, news: &[(Place, i64, TopicIdentity)]) {
        if !news.is_empty()
            && let Err(error) = self.runtime.block_on(self.store.note_identity(news))
        {
            tracing::debug!(error = %error.chain(), "could not record the identity of topics");
        }
    }

    /// Stops a partition until somebody decides. PostgreSQL remembers it, so that a restart does not forget it.
    fn stop_partition(&mut self, place: &Place, epoch: i64, stop: &Stop) {
        let why = match self.runtime.block_on(self.store.stop(place, epoch, stop)) {
            Ok(Some(stopped)) => Why::Stopped(stopped),
            // It has another owner, or was stopped meanwhile.
            Ok(None) => Why::Fenced,
            Err(error) => why_not(&FoldError::from(error)),
        };
        self.assignment.wait(place, why, clock::monotonic());
    }

    /// Partitions whose record to look back at turned out to be another one.
    pub(super) fn stop_strange_partitions(&mut self) -> Result<()> {
        let strange = self.assignment.take_strange();
        for (place, epoch, offset) in &strange {
            self.stop_partition(place, *epoch, &Stop::OtherRecord { offset: *offset });
        }
        if strange.is_empty() { Ok(()) } else { self.hand_over() }
    }

    /// Compares what we believe with what PostgreSQL has.
    pub(super) fn look(&mut self) -> Result<()> {
        self.looked_at = clock::monotonic();
        let places: Vec<Place> = self.assignment.places().cloned().collect();
        if places.is_empty() {
            self.look_failed = None;
            return Ok(());
        }
        let looks = match self.runtime.block_on(self.store.look(&places)) {
            Ok(looks) => looks,
            Err(error) => {
                // None of a partition: the next fold meets it again and deals with it. Without a record to fold nobody
                // else would notice.
                self.look_failed = Some(format!("could not compare positions: {error}"));
                return Ok(());
            }
        };
        self.look_failed = None;
        let mut looks: BTreeMap<Place, Look> = looks.into_iter().map(|look| (look.place.clone(), look)).collect();
        let decided = self.assignment.stopped().map(|(place, _)| place).filter(|place| {
            looks.get(*place).is_none_or(|Look { standing, .. }| {
                !standing.stopped || standing.written_offset != Some(standing.next_offset)
            })
        });
        for place in decided.cloned().collect::<Vec<_>>() {
            self.assignment.hurry(&place, clock::monotonic());
        }
        let reading: Vec<(Place, i64, i64)> = self
            .assignment
            .reading()
            .map(|Reading { place, epoch, next_offset, .. }| (place.clone(), epoch, next_offset))
            .collect();
        let mut changed = false;
        for (place, epoch, believed) in reading {
            let look = looks.remove(&place);
            if look.as_ref().is_some_and(|look| look.released) {
                self.released.insert(place.clone());
            }
            let standing = look.as_ref().map(|look| &look.standing);
            changed |= self.check(&place, epoch, believed, standing);
        }
        if changed { self.hand_over() } else { Ok(()) }
    }

    /// Compares one partition; `None`: PostgreSQL does not know it. Returns whether it is not read any more.
    pub(super) fn check(&mut self, place: &Place, epoch: i64, believed: i64, standing: Option<&Standing>) -> bool {
        let now = clock::monotonic();
        let Some(standing) = standing else {
            tracing::warn!(partition = %place, "the position is missing from consumer_partitions; claiming the partition again");
            self.assignment.wait(place, Why::New, now);
            return true;
        };
        let found = standing.next_offset;
        match position::displaced(epoch, believed, standing) {
            Displaced::No => return false,
            Displaced::Fenced => {
                tracing::warn!(partition = %place, "another instance owns the partition; dropped the batch");
                self.assignment.wait(place, Why::Fenced, now);
            }
            Displaced::TakeAnew(why) => {
                match why {
                    position::Why::WentBack => tracing::warn!(
                        partition = %place, folded_up_to = believed, reads_from = found,
                        "PostgreSQL lost its most recent commits; the records will be read and folded again"
                    ),
                    position::Why::SetBack => tracing::warn!(
                        partition = %place, folded_up_to = believed, reads_from = found,
                        "the position was set back by hand; the records will be read again"
                    ),
                    position::Why::Decided => tracing::info!(
                        partition = %place, folded_up_to = believed, position = found, "the position was changed by a command"
                    ),
                }
                self.assignment.wait(place, Why::New, now);
            }
            Displaced::Forward { found } => self.stop_partition(place, epoch, &Stop::Moved { believed, found }),
        }
        true
    }
}
