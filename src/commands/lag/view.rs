//! Lag as tables and JSON.

use serde::Serialize;

use crate::commands::pause;
use crate::error::Result;
use crate::operations::lag::{GroupLag, OutboxLag, PartitionLag, Report, Source, State, TopicLag};
use crate::operations::pause::PauseLine;
use crate::output::{self, Align, Cell, Format, Table, Tone};
use crate::signals::{Wait, time};

/// One line of NDJSON.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Line<'a> {
    Topic(&'a TopicLag),
    Pause(&'a PauseLine),
    Partition(&'a PartitionLag),
    Wait(&'a Wait),
}

pub(super) fn print(format: Format, report: &Report) -> Result<()> {
    let partitions = report.consumer.iter().flat_map(|consumer| &consumer.partitions).map(Line::Partition);
    let pauses = report.pauses.iter().map(Line::Pause);
    let topics = report.outbox.topics.iter().map(Line::Topic);
    let lines: Vec<Line<'_>> =
        topics.chain(pauses).chain(partitions).chain(report.waits.iter().map(Line::Wait)).collect();
    output::data(format, report, &lines, || {
        let mut text = outbox(&report.outbox);
        if !report.pauses.is_empty() {
            text.push('\n');
            text.push_str(&pause::table(&report.pauses));
        }
        if let Some(consumer) = &report.consumer {
            text.push('\n');
            text.push_str(&group(consumer));
        }
        if !report.waits.is_empty() {
            text.push('\n');
            text.push_str(&waits(&report.waits));
        }
        text
    })
}

fn waits(waits: &[Wait]) -> String {
    let mut table = Table::new(&[
        ("WAITS", Align::Left),
        ("WHERE", Align::Left),
        ("SINCE", Align::Left),
        ("WHAT FOR", Align::Left),
    ]);
    for wait in waits {
        let tone = if wait.situation.fails_threshold() { Tone::Bad } else { Tone::Warning };
        table.row([
            Cell::new(wait.situation.code()).tone(tone),
            Cell::new(output::printable(&wait.place())),
            Cell::optional(wait.since.map(time)),
            Cell::new(output::printable(wait.text())),
        ]);
    }
    table.render()
}

fn outbox(outbox: &OutboxLag) -> String {
    let mut table = Table::new(&[
        ("OUTBOX TOPIC", Align::Left),
        ("PENDING", Align::Right),
        ("OLDEST", Align::Right),
        ("FAILED", Align::Right),
        ("HELD", Align::Right),
    ]);
    let counted = |count: i64, tone| Cell::new(count).tone(if count > 0 { tone } else { Tone::Plain });
    for topic in &outbox.topics {
        table.row([
            Cell::new(topic.topic.as_deref().unwrap_or("(by routing)")),
            Cell::new(topic.pending),
            Cell::optional(topic.oldest_pending_seconds.map(output::age_of)),
            counted(topic.failed, Tone::Bad),
            counted(topic.held, Tone::Warning),
        ]);
    }
    table.row([
        Cell::new("TOTAL"),
        Cell::new(outbox.pending),
        Cell::optional(outbox.oldest_pending_seconds.map(output::age_of)),
        counted(outbox.failed, Tone::Bad),
        counted(outbox.held, Tone::Warning),
    ]);
    table.render()
}

fn group(consumer: &GroupLag) -> String {
    let mut table = Table::new(&[
        ("GROUP", Align::Left),
        ("TOPIC", Align::Left),
        ("PARTITION", Align::Right),
        ("NEXT", Align::Right),
        ("END", Align::Right),
        ("LAG", Align::Right),
        ("NOTE", Align::Left),
    ]);
    for partition in &consumer.partitions {
        table.row([
            Cell::new(&partition.group),
            Cell::new(&partition.topic),
            Cell::new(partition.partition),
            Cell::optional(partition.next_offset),
            Cell::optional(partition.end_offset),
            Cell::optional(partition.lag),
            note(partition),
        ]);
    }
    for topic in &consumer.missing_topics {
        let missing = Cell::new("the topic does not exist").tone(Tone::Warning);
        let nothing = || Cell::optional(None::<i64>);
        table.row([Cell::new(&consumer.group), Cell::new(topic), nothing(), nothing(), nothing(), nothing(), missing]);
    }
    let blank = || Cell::new("");
    table.row([Cell::new("TOTAL"), blank(), blank(), blank(), blank(), Cell::new(consumer.total), blank()]);
    table.render()
}

fn note(partition: &PartitionLag) -> Cell {
    if let Some(trouble) = partition.state.trouble() {
        let since = partition.stopped_at.as_ref().map(|at| format!(" (stopped since {at})"));
        let what = partition.detail.as_deref().unwrap_or(trouble);
        return Cell::new(format!("{what}{}", since.unwrap_or_default())).tone(Tone::Bad);
    }
    if partition.state == State::OpenTransaction {
        return Cell::new(partition.detail.as_deref().unwrap_or_default()).tone(Tone::Warning);
    }
    if partition.state == State::NotStarted {
        return Cell::new("not read yet").tone(Tone::Faint);
    }
    match partition.source {
        Source::Postgres | Source::None => Cell::new(""),
        Source::Kafka => Cell::new("as committed in Kafka").tone(Tone::Faint),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signals::Situation;

    #[test]
    fn json_has_the_outbox_and_each_partition() {
        let partition = PartitionLag {
            group: "g".to_owned(),
            topic: "orders".to_owned(),
            partition: 3,
            next_offset: None,
            end_offset: Some(9),
            stable_offset: Some(9),
            lag: Some(9),
            source: Source::None,
            state: State::NotStarted,
            detail: None,
            stopped_at: None,
        };
        let consumer = GroupLag {
            group: "g".to_owned(),
            total: 9,
            partitions: vec![partition.clone()],
            missing_topics: Vec::new(),
            waits: Vec::new(),
        };
        let outbox =
            OutboxLag { pending: 1, failed: 0, held: 0, oldest_pending_seconds: Some(0.5), topics: Vec::new() };
        let pauses = vec![PauseLine {
            topic: "*".to_owned(),
            paused_at: "2026-05-01T00:00:00Z".to_owned(),
            by: "ann".to_owned(),
            reason: None,
        }];
        let line = serde_json::to_string(&Line::Pause(&pauses[0])).unwrap();
        assert!(line.starts_with(r#"{"kind":"pause","topic":"*","#), "{line}");
        let waits = vec![Wait::new(Situation::NoOwner).of_shard(3)];
        let line = serde_json::to_string(&Line::Wait(&waits[0])).unwrap();
        assert!(line.starts_with(r#"{"kind":"wait","situation":"no-owner","#), "{line}");
        let report = Report { outbox, unmeasured_shards: Vec::new(), waits, pauses, consumer: Some(consumer) };
        let json = serde_json::to_value(report).unwrap();
        assert_eq!(json["waits"][0]["shard"], 3);
        assert_eq!(json["pauses"][0]["by"], "ann");
        assert_eq!(json["outbox"]["pending"], 1);
        assert_eq!(json["consumer"]["partitions"][0]["state"], "not-started");
        let line = serde_json::to_string(&Line::Partition(&partition)).unwrap();
        assert!(
            line.starts_with(r#"{"kind":"partition","group":"g","topic":"orders","partition":3,"next_offset":null"#),
            "{line}"
        );
    }
}
