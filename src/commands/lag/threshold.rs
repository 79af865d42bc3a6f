//! `lag --fail-over`: whether the figures are still good enough for a monitoring check.

use super::Report;
use crate::cli::LagArgs;
use crate::error::{Code, Error};
use crate::event::ShardId;
use crate::output;

/// Errors: [`Code::CheckNotMet`] with every figure that is over its threshold. The threshold itself is allowed.
pub(super) fn check(report: &Report, args: &LagArgs) -> Result<(), Error> {
    let mut reasons = Vec::new();
    let measures_outbox = args.fail_over.is_some() || args.fail_over_age.is_some();
    if measures_outbox && !report.unmeasured_shards.is_empty() {
        reasons.push(unmeasured(&report.unmeasured_shards));
    }
    if let Some(limit) = args.fail_over {
        counts(report, limit, &mut reasons);
    }
    let oldest = report.outbox.oldest_pending_seconds;
    if let (Some(limit), Some(oldest)) = (args.fail_over_age, oldest)
        && oldest > limit.as_secs_f64()
    {
        reasons.push(format!(
            "the oldest PENDING event has waited for {}, more than {}",
            output::age_of(oldest),
            output::age(limit)
        ));
    }
    if reasons.is_empty() {
        return Ok(());
    }
    let error = Error::new(Code::CheckNotMet, reasons.join("; "));
    if report.pauses.is_empty() {
        return Err(error);
    }
    Err(error.hint("publishing is paused, see above; outbox-relay resume ends it"))
}

/// Why nothing is known of these shards.
pub(super) fn unmeasured(shards: &[ShardId]) -> String {
    let shards: Vec<String> = shards.iter().map(ToString::to_string).collect();
    format!(
        "what waits in shard {} is not counted: its bound is above the last id, and no relay has begun again there",
        shards.join(", ")
    )
}

fn counts(report: &Report, limit: u64, reasons: &mut Vec<String>) {
    let over = |count: i64| u64::try_from(count).is_ok_and(|count| count > limit);
    // Held events are still to be delivered, behind another one.
    let waiting = report.outbox.pending + report.outbox.held;
    if over(waiting) {
        reasons.push(format!("{waiting} events wait in the outbox, more than {limit}"));
    }
    let Some(consumer) = &report.consumer else { return };
    if over(consumer.total) {
        reasons.push(format!("group {} is {} records behind, more than {limit}", consumer.group, consumer.total));
    }
    for topic in &consumer.missing_topics {
        reasons.push(format!("the topic {topic} does not exist, so nothing is known of its lag"));
    }
    // Their lag says nothing: what is not there any more cannot be behind.
    for partition in &consumer.partitions {
        let Some(trouble) = partition.state.trouble() else { continue };
        let what = partition.detail.as_deref().unwrap_or(trouble);
        reasons.push(format!("{}/{}: {what}", partition.topic, partition.partition));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{GroupLag, OutboxLag, PartitionLag, Source, State};
    use super::*;
    use crate::commands::pause::PauseLine;

    fn report(pending: i64, held: i64, total: i64) -> Report {
        let outbox = OutboxLag { pending, failed: 9, held, oldest_pending_seconds: Some(60.0), topics: Vec::new() };
        let consumer = GroupLag { group: "g".to_owned(), total, partitions: Vec::new(), missing_topics: Vec::new() };
        Report { outbox, unmeasured_shards: Vec::new(), pauses: Vec::new(), consumer: Some(consumer) }
    }

    fn over(n: u64) -> LagArgs {
        LagArgs { group: None, fail_over: Some(n), fail_over_age: None }
    }

    #[test]
    fn either_backlog_passes_the_threshold_and_the_threshold_itself_is_allowed() {
        assert!(check(&report(60, 40, 100), &over(100)).is_ok());
        for bad in [report(101, 0, 0), report(61, 40, 0), report(0, 0, 101)] {
            assert_eq!(check(&bad, &over(100)).unwrap_err().code(), Code::CheckNotMet);
        }
    }

    #[test]
    fn an_age_is_a_threshold_of_its_own() {
        let older =
            |seconds| LagArgs { fail_over: None, fail_over_age: Some(Duration::from_secs(seconds)), group: None };
        assert!(check(&report(1_000_000, 0, 0), &older(60)).is_ok());
        assert!(check(&report(1, 0, 0), &older(59)).is_err());
        let nothing = OutboxLag { oldest_pending_seconds: None, ..report(0, 0, 0).outbox };
        assert!(check(&Report { outbox: nothing, ..report(0, 0, 0) }, &older(0)).is_ok());
    }

    #[test]
    fn a_position_that_kafka_no_longer_has_fails_whatever_the_lag() {
        let partition = |state| PartitionLag {
            group: "g".to_owned(),
            topic: "orders".to_owned(),
            partition: 3,
            next_offset: Some(9),
            end_offset: Some(9),
            stable_offset: Some(9),
            lag: Some(0),
            source: Source::Postgres,
            state,
            detail: None,
            stopped_at: None,
        };
        for (state, fails) in [
            (State::Ok, false),
            (State::NotStarted, false),
            (State::OpenTransaction, false),
            (State::RecordsLost, true),
            (State::AheadOfLog, true),
            (State::Unknown, true),
        ] {
            let mut report = report(0, 0, 0);
            report.consumer.as_mut().unwrap().partitions.push(partition(state));
            assert_eq!(check(&report, &over(100)).is_err(), fails, "{state:?}");
        }
    }

    #[test]
    fn a_topic_that_does_not_exist_has_no_lag_to_be_content_with() {
        let mut report = report(0, 0, 0);
        report.consumer.as_mut().unwrap().missing_topics.push("ordres".to_owned());
        let error = check(&report, &over(1_000_000)).unwrap_err();
        assert!(error.to_string().contains("the topic ordres does not exist"), "{error}");
    }

    #[test]
    fn shards_of_which_nothing_is_known_fail_either_threshold() {
        let report = Report { unmeasured_shards: vec![2, 5], ..report(0, 0, 0) };
        let age = LagArgs { fail_over: None, fail_over_age: Some(Duration::from_secs(60)), group: None };
        for args in [over(1_000_000), age] {
            assert!(check(&report, &args).unwrap_err().to_string().contains("shard 2, 5 is not counted"));
        }
        assert!(check(&report, &LagArgs { fail_over: None, fail_over_age: None, group: None }).is_ok());
    }

    #[test]
    fn a_pause_is_named_as_what_may_be_behind_it() {
        let pause = PauseLine {
            topic: "*".to_owned(),
            paused_at: "2026-05-01T00:00:00Z".to_owned(),
            by: "ann".to_owned(),
            reason: None,
        };
        let paused = Report { pauses: vec![pause], ..report(101, 0, 0) };
        assert!(check(&paused, &over(100)).unwrap_err().hint_text().is_some());
        assert!(check(&report(101, 0, 0), &over(100)).unwrap_err().hint_text().is_none());
    }
}
