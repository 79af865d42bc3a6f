//! What PostgreSQL and Kafka say of each shard in exactly-once delivery, and how a shard goes on after they disagreed.
//!
//! Unless it is asked to apply, it only looks. It never guesses: a row is marked only when a record with its id and its
//! event_id was found by a `read_committed` scan; every other row stays PENDING.

use std::collections::{BTreeSet, HashMap};

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use uuid::Uuid;

use super::{Author, Progress, Result, When};
use crate::broker::admin::Admin;
use crate::broker::scan::scan;
use crate::config::Config;
use crate::db::Pool;
use crate::error::{Code, Error};
use crate::event::ShardId;
use crate::outbox::home::{self, Standing};
use crate::outbox::recovery::{self, Candidate, FoundRow, Shard};
use crate::relay::progress as markers;
use crate::relay::takeover::{Disagreement, Known, Manifest, Resolution, Seen, is_ours, resolve};

/// How long before its oldest row a scan begins: clocks of hosts differ, and the timestamp of a record is the row's.
const MARGIN: SignedDuration = SignedDuration::from_mins(1);
/// Events that are looked up at once.
const LOOK_UP: usize = 10_000;

/// A shard, and how it stands with Kafka.
#[derive(Debug, Serialize)]
pub struct Line {
    pub shard: ShardId,
    pub owned: bool,
    pub batch: i64,
    pub in_flight: usize,
    /// `null`: Kafka has none.
    pub marker: Option<i64>,
    pub verdict: String,
    /// After a scan: rows that Kafka has.
    pub found: Option<usize>,
    /// After a scan: rows that it does not have.
    pub missing: Option<usize>,
    pub recovered: bool,
}

/// What was found out about a shard.
struct Look {
    shard: Shard,
    marker: Option<i64>,
    disagreement: Option<Disagreement>,
}

/// Rows that are looked for in Kafka.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// Those of the batch in flight.
    InFlight,
    /// Every PENDING row: after a backup was restored, or a failover lost commits.
    Pending,
}

#[derive(Debug, Clone, Default)]
pub struct Request {
    /// This one alone.
    pub shard: Option<ShardId>,
    /// `None`: Kafka is asked for markers only.
    pub rows: Option<Rows>,
    /// Read topics from this time on; else from a minute before the oldest of the rows.
    pub since: Option<When>,
    /// Topics to read; else those that the rows name.
    pub topics: Vec<String>,
    /// Mark what was found, and let the shards go on.
    pub apply: bool,
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Report {
    pub lines: Vec<Line>,
}

impl Request {
    /// Errors: [`Code::Usage`] for what makes no sense.
    pub fn check(&self) -> Result<(), Error> {
        if self.apply && self.rows.is_none() {
            return Err(Error::new(Code::Usage, "--apply needs --scan or --from-kafka")
                .hint("--scan searches for the rows in flight, --from-kafka for every PENDING row of the shards"));
        }
        Ok(())
    }
}

impl Report {
    /// Errors: some shards cannot go on.
    pub fn verdict(&self) -> Result<(), Error> {
        let left = self.lines.iter().filter(|line| line.verdict != "ok" && !line.recovered).count();
        if left == 0 {
            return Ok(());
        }
        Err(Error::new(Code::CheckNotMet, format!("{left} shards cannot resume")).hint(
            "see docs/operations/exactly-once.md; --scan searches Kafka for the rows, --apply marks what it finds",
        ))
    }
}

pub async fn run(
    settings: &Config,
    pool: &Pool,
    request: &Request,
    author: &Author,
    progress: &dyn Progress,
) -> Result<Report> {
    request.check()?;
    if let Standing::Away { home, here } = home::look(pool).await? {
        // What Kafka has is the original's until somebody says that it is gone.
        return Err(home::away(&home, &here).into());
    }
    let looks = look(settings, pool, request.shard).await?;
    let stuck: Vec<ShardId> =
        looks.iter().filter(|look| look.disagreement.is_some()).map(|look| look.shard.shard).collect();
    let mut found: HashMap<ShardId, (Vec<FoundRow>, usize)> = HashMap::new();
    if request.rows.is_some() && !stuck.is_empty() {
        if request.apply && looks.iter().any(|look| look.shard.owned) {
            return Err(Error::new(Code::CheckNotMet, "an instance is running and owns shards")
                .hint("stop every relay first, or wait until their leases expire")
                .into());
        }
        found = search(settings, pool, &stuck, request, progress).await?;
    }
    let mut lines = Vec::new();
    for look in &looks {
        let rows = found.get(&look.shard.shard);
        let mut recovered = false;
        // With another outbox's marker it cannot go on under this name, whatever is marked.
        let recoverable = look.disagreement.is_some_and(|why| why != Disagreement::ForeignMarker);
        if request.apply
            && recoverable
            && let Some((rows, _)) = rows
        {
            recovered = recovery::apply(pool, &look.shard, look.marker, rows, author).await?;
        }
        lines.push(look.line(rows, recovered));
    }
    Ok(Report { lines })
}

impl Look {
    /// `rows`: those that were found, and how many were looked for.
    fn line(&self, rows: Option<&(Vec<FoundRow>, usize)>, recovered: bool) -> Line {
        Line {
            shard: self.shard.shard,
            owned: self.shard.owned,
            batch: self.shard.batch_seq,
            in_flight: self.shard.in_flight.as_ref().map_or(0, Vec::len),
            marker: self.marker,
            verdict: self.disagreement.map_or_else(|| "ok".to_owned(), |disagreement| disagreement.to_string()),
            found: rows.map(|(rows, _)| rows.len()),
            missing: rows.map(|(rows, candidates)| candidates - rows.len()),
            recovered,
        }
    }
}

async fn look(settings: &Config, pool: &Pool, only: Option<ShardId>) -> Result<Vec<Look>> {
    let mut shards = recovery::shards(pool).await?;
    if let Some(only) = only {
        shards.retain(|shard| shard.shard == only);
        if shards.is_empty() {
            return Err(Error::new(Code::NotFound, format!("there is no shard {only}")).into());
        }
    }
    let name = markers::name_of(&settings.run.deployment);
    let wanted: Vec<(String, i32)> = shards.iter().map(|shard| (name.clone(), i32::from(shard.shard))).collect();
    let markers = Admin::new(&settings.kafka)?.committed_with_notes(&name, &wanted).await?;
    let mut markers: HashMap<i32, (i64, String)> =
        markers.into_iter().filter_map(|(_, partition, found)| Some((partition, found?))).collect();
    let installation = recovery::installation(pool).await?;
    Ok(shards
        .into_iter()
        .map(|shard| {
            let marker = markers.remove(&i32::from(shard.shard));
            let known = Known { installation, tag: shard.tag, ids: shard.in_flight.as_deref() };
            let seen = marker.as_ref().map(|(seq, note)| Seen { seq: *seq, same_batch: known.agrees(note) });
            let manifest =
                Manifest { seq: shard.batch_seq, in_flight: shard.in_flight.is_some(), marked: shard.marked };
            let disagreement = match resolve(manifest, seen) {
                _ if marker.as_ref().is_some_and(|(_, note)| !is_ours(note, installation)) => {
                    Some(Disagreement::ForeignMarker)
                }
                Resolution::Refuse(disagreement) => Some(disagreement),
                Resolution::Settle
                | Resolution::Forget
                | Resolution::Resend
                | Resolution::Ready
                | Resolution::Baseline => None,
            };
            Look { shard, marker: marker.map(|(seq, _)| seq), disagreement }
        })
        .collect())
}

/// Rows of the shards that are in Kafka, with the number of rows that were looked for.
async fn search(
    settings: &Config,
    pool: &Pool,
    shards: &[ShardId],
    request: &Request,
    progress: &dyn Progress,
) -> Result<HashMap<ShardId, (Vec<FoundRow>, usize)>> {
    let candidates = recovery::candidates(pool, shards, request.rows != Some(Rows::Pending)).await?;
    let mut found: HashMap<ShardId, (Vec<FoundRow>, usize)> =
        shards.iter().map(|shard| (*shard, (Vec::new(), 0))).collect();
    for candidate in &candidates {
        found.entry(candidate.shard).or_default().1 += 1;
    }
    let topics = topics(&candidates, &request.topics)?;
    let oldest = candidates.iter().map(|candidate| candidate.created_at).min();
    let since = match (&request.since, oldest) {
        (Some(When::At(time)), _) => *time,
        (Some(When::Ago(duration)), _) => {
            Timestamp::now() - SignedDuration::try_from(*duration).unwrap_or(SignedDuration::ZERO)
        }
        (None, Some(oldest)) => oldest.checked_sub(MARGIN).unwrap_or(Timestamp::UNIX_EPOCH),
        (None, None) => return Ok(found),
    };
    // A dead letter names the row that failed, which may wait here as well: neither may be taken for the other.
    let named =
        |candidate: &Candidate| (candidate.dead_letter_of.unwrap_or(candidate.id), candidate.dead_letter_of.is_some());
    let by_name: HashMap<(i64, bool), Candidate> =
        candidates.into_iter().map(|candidate| (named(&candidate), candidate)).collect();
    let kafka = settings.kafka.clone();
    let scanned = tokio::task::spawn_blocking(move || {
        let mut rows: HashMap<i64, (ShardId, FoundRow)> = HashMap::new();
        let mut others: BTreeSet<(i64, Uuid)> = BTreeSet::new();
        let read =
            scan(&kafka, &topics, since, |sighting| match by_name.get(&(sighting.outbox_id, sighting.dead_letter)) {
                Some(candidate) if candidate.event_id == sighting.event_id => {
                    let row = (candidate.id, sighting.partition, sighting.offset);
                    rows.entry(candidate.id).or_insert((candidate.shard, row));
                }
                _ => {
                    others.insert((sighting.outbox_id, sighting.event_id));
                }
            })?;
        Ok::<_, Error>((rows, others, read))
    });
    let (rows, others, read) =
        scanned.await.map_err(|join| Error::new(Code::Unexpected, "the scan panicked").caused_by(join))??;
    for (shard, row) in rows.into_values() {
        found.entry(shard).or_default().0.push(row);
    }
    let others: Vec<(i64, Uuid)> = others.into_iter().collect();
    let mut phantoms = 0;
    for events in others.chunks(LOOK_UP) {
        phantoms += events.len() - recovery::known(pool, events).await?;
    }
    progress.remark(&format!("{read} records read since {since}"));
    if phantoms > 0 {
        progress.remark(&format!(
            "{phantoms} events in Kafka are no rows of the outbox: rows that PostgreSQL lost or that were cleaned up, or another outbox"
        ));
    }
    Ok(found)
}

fn topics(candidates: &[Candidate], given: &[String]) -> Result<Vec<String>> {
    if !given.is_empty() {
        return Ok(given.to_vec());
    }
    if candidates.iter().any(|candidate| candidate.topic.is_none()) {
        return Err(Error::new(Code::Usage, "some rows name no topic, so it is unknown where to search")
            .hint("name the topics that routing sends them to: --topic NAME,NAME")
            .into());
    }
    let topics: BTreeSet<String> = candidates.iter().filter_map(|candidate| candidate.topic.clone()).collect();
    Ok(topics.into_iter().collect())
}
