//! Whether the figures are still good enough for a monitoring check.

use std::time::Duration;

use super::Report;
use crate::error::{Code, Error};
use crate::signals::Wait;
use crate::text::{age, age_of};

/// What is asked of the figures. The threshold itself is allowed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Thresholds {
    /// Events that wait in the outbox, and records that the group is behind.
    pub events: Option<u64>,
    /// Time that the oldest PENDING event has waited.
    pub age: Option<Duration>,
}

impl Thresholds {
    /// Errors: [`Code::CheckNotMet`] with every figure that is over its threshold.
    pub fn check(&self, report: &Report) -> Result<(), Error> {
        let mut reasons = Vec::new();
        let measures_group = self.events.is_some();
        let measures_outbox = measures_group || self.age.is_some();
        // What is not known has no figure to be content with.
        let concerns = |wait: &&Wait| match wait.situation.part() {
            "relay" => measures_outbox,
            _ => measures_group,
        };
        let unknown = report.waits.iter().filter(|wait| wait.situation.fails_threshold()).filter(concerns);
        reasons.extend(unknown.map(Wait::line));
        if let Some(limit) = self.events {
            counts(report, limit, &mut reasons);
        }
        let oldest = report.outbox.oldest_pending_seconds;
        if let (Some(limit), Some(oldest)) = (self.age, oldest)
            && oldest > limit.as_secs_f64()
        {
            reasons.push(format!(
                "the oldest PENDING event has waited for {}, more than {}",
                age_of(oldest),
                age(limit)
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
}

#[cfg(test)]
mod tests {
    use super::super::{GroupLag, OutboxLag};
    use super::*;
    use crate::operations::pause::PauseLine;
    use crate::signals::Situation;

    fn report(pending: i64, held: i64, total: i64) -> Report {
        let outbox = OutboxLag { pending, failed: 9, held, oldest_pending_seconds: Some(60.0), topics: Vec::new() };
        let group = "g".to_owned();
        let consumer = GroupLag { group, total, partitions: Vec::new(), missing_topics: Vec::new(), waits: Vec::new() };
        let (unmeasured_shards, waits, pauses) = (Vec::new(), Vec::new(), Vec::new());
        Report { outbox, unmeasured_shards, waits, pauses, consumer: Some(consumer) }
    }

    fn over(n: u64) -> Thresholds {
        Thresholds { events: Some(n), age: None }
    }

    #[test]
    fn either_backlog_passes_the_threshold_and_the_threshold_itself_is_allowed() {
        assert!(over(100).check(&report(60, 40, 100)).is_ok());
        for bad in [report(101, 0, 0), report(61, 40, 0), report(0, 0, 101)] {
            assert_eq!(over(100).check(&bad).unwrap_err().code(), Code::CheckNotMet);
        }
    }

    #[test]
    fn an_age_is_a_threshold_of_its_own() {
        let older = |seconds| Thresholds { events: None, age: Some(Duration::from_secs(seconds)) };
        assert!(older(60).check(&report(1_000_000, 0, 0)).is_ok());
        assert!(older(59).check(&report(1, 0, 0)).is_err());
        let nothing = OutboxLag { oldest_pending_seconds: None, ..report(0, 0, 0).outbox };
        assert!(older(0).check(&Report { outbox: nothing, ..report(0, 0, 0) }).is_ok());
    }

    #[test]
    fn what_is_not_known_fails_whatever_the_threshold_is() {
        let age = Thresholds { events: None, age: Some(Duration::from_secs(60)) };
        let nothing = Thresholds::default();
        for situation in Situation::ALL {
            let report = Report { waits: vec![Wait::new(*situation).because("why")], ..report(0, 0, 0) };
            let fails = situation.fails_threshold();
            assert_eq!(over(1_000_000).check(&report).is_err(), fails, "{situation:?}");
            assert_eq!(age.check(&report).is_err(), fails && situation.part() == "relay", "{situation:?}");
            assert!(nothing.check(&report).is_ok(), "nothing was asked for");
        }
        let missing = Wait::new(Situation::MissingTopic).of_topic("ordres").because("the topic ordres does not exist");
        let error = over(1_000_000).check(&Report { waits: vec![missing], ..report(0, 0, 0) }).unwrap_err();
        assert!(error.to_string().contains("the topic ordres does not exist"), "{error}");
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
        assert!(over(100).check(&paused).unwrap_err().hint_text().is_some());
        assert!(over(100).check(&report(101, 0, 0)).unwrap_err().hint_text().is_none());
    }
}
