//! `dlq purge`: deletes dead letters from Kafka, which can only cut off the beginning of a partition.

use std::collections::BTreeMap;

use serde::Serialize;

use super::letter::DeadLetter;
use super::{Chosen, LOOK_UP, ago_from_now, blocking, ranges, ranges_of, states};
use crate::broker::admin::Admin;
use crate::broker::reader::{self, Range};
use crate::cli::{DlqPurgeArgs, LetterFilter};
use crate::commands::confirm::{can_ask, confirmed};
use crate::commands::{Context, Result, author};
use crate::config::Config;
use crate::db::Pool;
use crate::error::{Code, Error};
use crate::outbox::dead_letters::redrive::{self as letters, State};
use crate::output::{self, Align, Cell, Table, Tone};

/// What is cut off from one partition.
#[derive(Debug, Default, Serialize)]
struct Part {
    topic: String,
    partition: i32,
    from: i64,
    /// The first offset that stays.
    to: i64,
    dead_letters: u64,
    waiting: u64,
    unknown_row: u64,
    redriven: u64,
    discarded: u64,
    deleted: bool,
    why_not: Option<String>,
}

impl Part {
    fn undecided(&self) -> u64 {
        self.waiting + self.unknown_row
    }
}

pub(super) async fn run(context: &Context, settings: &Config, pool: &Pool, args: &DlqPurgeArgs) -> Result<()> {
    if !args.consent.dry_run {
        can_ask(args.consent.yes)?;
    }
    let mut parts = plan(settings, pool, args).await?;
    let (total, undecided) =
        parts.iter().fold((0, 0), |(total, open), part| (total + part.dead_letters, open + part.undecided()));
    if total == 0 {
        return Err(Error::new(
            Code::NotFound,
            "nothing to delete: no partition begins with a dead letter that matches",
        )
        .hint("Kafka deletes from the beginning of a partition on; outbox-relay dlq ls lists what is there")
        .into());
    }
    if args.consent.dry_run {
        print(context, &parts)?;
        if undecided > 0 {
            output::note(&format!("{undecided} of them are still waiting: without --force nothing would be deleted"));
        }
        return Ok(());
    }
    if undecided > 0 && !args.force {
        print(context, &parts)?;
        return Err(Error::new(Code::CheckNotMet, format!("{undecided} of {total} dead letters are still waiting; nothing was deleted"))
            .hint("outbox-relay dlq redrive sends them back, outbox-relay events discard gives a row up; --force deletes them all the same")
            .into());
    }
    let lost = if undecided > 0 { format!(", {undecided} of which never went back") } else { String::new() };
    if !confirmed(args.consent.yes, &format!("Delete {total} dead letters{lost}? Kafka has no way back."))? {
        return Ok(());
    }
    let details = serde_json::json!({ "parts": &parts, "force": args.force });
    letters::note_purge(pool, &details, &author(args.consent.reason.clone())).await?;
    delete(settings, pool, &mut parts).await?;
    print(context, &parts)?;
    let kept: Vec<String> = parts
        .iter()
        .filter_map(|part| Some(format!("{}/{}: {}", part.topic, part.partition, part.why_not.as_deref()?)))
        .collect();
    if kept.is_empty() {
        return Ok(());
    }
    let code = if kept.len() < parts.len() { Code::PartlyDone } else { Code::CheckNotMet };
    Err(Error::new(code, format!("Kafka did not delete {}", kept.join(", ")))
        .hint("it needs the DELETE right on the topic, and cleanup.policy = delete")
        .into())
}

/// Where each partition would be cut, and what would be lost.
async fn plan(settings: &Config, pool: &Pool, args: &DlqPurgeArgs) -> Result<Vec<Part>> {
    let (ranges, chosen) = if args.places.is_empty() {
        let filter = LetterFilter { topic: args.topic.clone(), ..LetterFilter::default() };
        let until = args.older_than.map(ago_from_now);
        (ranges(settings, pool, &filter).await?, Chosen { topics: args.topic.clone(), until, ..Chosen::default() })
    } else {
        (up_to(settings, args).await?, Chosen::default())
    };
    let mut parts: BTreeMap<(String, i32), Part> = ranges
        .iter()
        .map(|range| {
            let part = Part {
                topic: range.topic.clone(),
                partition: range.partition,
                from: range.from,
                to: range.to,
                ..Part::default()
            };
            ((range.topic.clone(), range.partition), part)
        })
        .collect();
    // Nothing behind the first dead letter that stays is looked at again.
    let (to, mut letters) = tokio::sync::mpsc::channel::<DeadLetter>(LOOK_UP);
    let (kafka, sought) = (settings.kafka.clone(), ranges);
    let reading = blocking(move || {
        let mut cut: BTreeMap<(String, i32), i64> = BTreeMap::new();
        reader::read(&kafka, &sought, |found| {
            let place = (found.topic.clone(), found.partition);
            if cut.contains_key(&place) {
                return true;
            }
            let mut letter = DeadLetter::read(found);
            if !chosen.has(&letter) {
                cut.insert(place, letter.place.offset);
                return true;
            }
            letter.drop_value();
            to.blocking_send(letter).is_ok()
        })?;
        Ok(cut)
    });
    let counting = async {
        let mut batch = Vec::new();
        while letters.recv_many(&mut batch, LOOK_UP).await > 0 {
            for (letter, state) in batch.iter().zip(states(pool, &batch).await?) {
                if let Some(part) = parts.get_mut(&(letter.place.topic.clone(), letter.place.partition)) {
                    part.dead_letters += 1;
                    match state {
                        State::Waiting { .. } => part.waiting += 1,
                        State::UnknownRow => part.unknown_row += 1,
                        State::Redriven(_) => part.redriven += 1,
                        State::Discarded => part.discarded += 1,
                    }
                }
            }
            batch.clear();
        }
        drop(letters);
        Ok::<_, crate::commands::Failure>(parts)
    };
    let (cut, parts) = tokio::join!(reading, counting);
    let (cut, mut parts) = (cut?, parts?);
    for (place, offset) in cut {
        if let Some(part) = parts.get_mut(&place) {
            part.to = offset;
        }
    }
    Ok(parts.into_values().filter(|part| part.dead_letters > 0).collect())
}

/// The partitions of the places, each up to the last of them.
async fn up_to(settings: &Config, args: &DlqPurgeArgs) -> Result<Vec<Range>> {
    let named = ranges_of(&settings.kafka, &args.places).await?;
    let (kafka, topics) = (settings.kafka.clone(), named.iter().map(|range| range.topic.clone()).collect::<Vec<_>>());
    let all = blocking(move || reader::ranges(&kafka, &topics)).await?;
    Ok(named
        .into_iter()
        .map(|range| {
            let whole = all.iter().find(|whole| (&whole.topic, whole.partition) == (&range.topic, range.partition));
            Range { from: whole.map_or(range.from, |whole| whole.from), ..range }
        })
        .collect())
}

async fn delete(settings: &Config, pool: &Pool, parts: &mut [Part]) -> Result<()> {
    let below: Vec<(String, i32, i64)> =
        parts.iter().map(|part| (part.topic.clone(), part.partition, part.to)).collect();
    let refused = Admin::new(&settings.kafka)?.delete_records(&below).await?;
    for part in parts {
        let refusal = refused.iter().find(|(topic, partition, _)| (topic, *partition) == (&part.topic, part.partition));
        part.why_not = refusal.map(|(_, _, why)| why.clone());
        part.deleted = part.why_not.is_none();
        if part.deleted
            && let Err(error) = letters::forget(pool, &part.topic, part.partition, part.to).await
        {
            output::note(&format!("the notes of what went back stay in outbox_redriven: {}", error.chain()));
        }
    }
    Ok(())
}

fn print(context: &Context, parts: &[Part]) -> Result<()> {
    Ok(output::data(context.format(), parts, parts, || {
        let mut table = Table::new(&[
            ("TOPIC", Align::Left),
            ("PARTITION", Align::Right),
            ("FROM", Align::Right),
            ("TO", Align::Right),
            ("DEAD LETTERS", Align::Right),
            ("WAITING", Align::Right),
            ("UNKNOWN ROW", Align::Right),
            ("REDRIVEN", Align::Right),
            ("DISCARDED", Align::Right),
        ]);
        let warn = |count: u64| Cell::new(count).tone(if count > 0 { Tone::Warning } else { Tone::Plain });
        for part in parts {
            table.row([
                Cell::new(&part.topic),
                Cell::new(part.partition),
                Cell::new(part.from),
                Cell::new(part.to),
                Cell::new(part.dead_letters),
                warn(part.waiting),
                warn(part.unknown_row),
                Cell::new(part.redriven),
                Cell::new(part.discarded),
            ]);
        }
        table.render()
    })?)
}
