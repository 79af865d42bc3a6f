//! The consumer as a member of its group: joining, answering rebalances, and telling Kafka which partitions to read.

use rdkafka::config::{ClientConfig, FromClientConfigAndContext};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};

use super::Reader;
use super::client::{self, Context, Rebalance};
use super::unassigned::Unassigned;
use crate::clock;
use crate::error::{Code, Error, Result};
use crate::projection::assignment::Reading;

impl Reader {
    /// Another client takes the place of this one. Where to read on is in PostgreSQL.
    pub(super) fn connect_anew(&mut self) -> Result<()> {
        let successor = subscribe(&(self.fresh)(&self.kafka), &self.settings.topics)?;
        let old = std::mem::replace(&mut self.consumer, successor);
        old.context().close();
        // It cannot leave its group, and may wait for that.
        drop(std::thread::Builder::new().name("consumer-closing".to_owned()).spawn(move || drop(old)));
        self.folding.give_up();
        self.releasing.give_up();
        self.folding.forget_paused();
        self.assignment.assign(Vec::new(), clock::monotonic());
        self.unassigned = Unassigned::default();
        self.client_ids.clear();
        (self.joined, self.unanswered, self.brokers_down) = (false, false, false);
        self.uncommitted.clear();
        Ok(())
    }

    pub(super) fn answer_rebalances(&mut self) -> Result<()> {
        let rebalances = self.consumer.context().take_rebalances();
        for rebalance in rebalances {
            match rebalance {
                Rebalance::Assign(places) => {
                    tracing::info!(partitions = places.len(), group = self.store.group(), "partitions assigned");
                    self.folding.give_up();
                    self.releasing.give_up();
                    self.assignment.assign(places, clock::monotonic());
                    self.joined = true;
                    self.unanswered = true;
                }
                Rebalance::Revoke => {
                    tracing::info!(group = self.store.group(), "partitions revoked");
                    self.folding.give_up();
                    self.releasing.give_up();
                    self.commit_offsets();
                    for place in self.assignment.places() {
                        self.meters.forget_lag(place);
                    }
                    self.assignment.assign(Vec::new(), clock::monotonic());
                    self.unanswered = false;
                    client::assign(&self.consumer, None).map_err(|error| refused_assignment(&error))?;
                }
            }
        }
        Ok(())
    }

    /// Tells Kafka which partitions to read and from where. Whatever was prefetched is fetched again.
    pub(super) fn hand_over(&mut self) -> Result<()> {
        let mut list = TopicPartitionList::new();
        for Reading { place, from, .. } in self.assignment.reading() {
            list.add_partition_offset(&place.topic, place.partition, Offset::Offset(from))
                .map_err(|error| refused_assignment(&error))?;
        }
        self.assignment.reset_buffer();
        client::assign(&self.consumer, Some(&list)).map_err(|error| refused_assignment(&error))?;
        self.resume(&list);
        self.unanswered = false;
        Ok(())
    }
}

pub(super) fn subscribe(kafka: &ClientConfig, topics: &[String]) -> Result<BaseConsumer<Context>> {
    let consumer = BaseConsumer::from_config_and_context(kafka, Context::default()).map_err(refused_client)?;
    subscribe_to(&consumer, topics)?;
    Ok(consumer)
}

/// Joins the group, or leaves it and joins it again.
pub(super) fn subscribe_to(consumer: &BaseConsumer<Context>, topics: &[String]) -> Result<()> {
    let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
    consumer.subscribe(&topics).map_err(refused_client)
}

fn refused_client(error: KafkaError) -> Error {
    Error::new(Code::KafkaConfig, "could not create the Kafka consumer")
        .caused_by(error)
        .hint("check [kafka] and [kafka.properties]")
}

fn refused_assignment(error: &KafkaError) -> Error {
    Error::new(Code::Unexpected, format!("the Kafka client rejected an assignment: {error}"))
}
