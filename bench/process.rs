//! Processes: the contender that is started and ended, and what it and the servers use of the machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{sleep, timeout};

use crate::Result;

/// Ticks of a second in `/proc/<pid>/stat`: 100 on every Linux that PostgreSQL and Kafka are run on.
const TICKS: f64 = 100.0;

/// What a contender with `--loads` says.
pub const LOADED: &str = "loaded";

/// Who is measured, and where the outcome goes.
#[derive(Args)]
pub struct Subject {
    /// Name of the scenario in the results
    #[arg(long)]
    pub scenario: String,
    /// Name of the contender in the results
    #[arg(long)]
    pub contender: String,
    /// More about the run, as NAME=VALUE
    #[arg(long)]
    note: Vec<String>,
    /// File that the outcome is appended to, as one line of JSON
    #[arg(long)]
    results: PathBuf,
    /// Process id of the PostgreSQL server
    #[arg(long)]
    postgres: u32,
    /// Process id of the Kafka broker
    #[arg(long)]
    kafka: u32,
    /// A contender that runs already; the command only wakes it up
    #[arg(long)]
    pid: Option<u32>,
    /// Processes to start
    #[arg(long, default_value_t = 1)]
    instances: usize,
    /// The contender says `loaded` when it is ready, and begins when it reads a line; nothing counts before
    #[arg(long)]
    loads: bool,
    /// Where the output of the command goes
    #[arg(long)]
    log: PathBuf,
    /// The command of the contender
    #[arg(last = true)]
    command: Vec<String>,
}

impl Subject {
    /// Starts the contender, or wakes it up.
    async fn start(&self) -> Result<Contender> {
        let mut contender = Contender { children: Vec::new(), pids: Vec::new(), log: self.log.clone() };
        if let Some(pid) = self.pid {
            // The peak is that of this run, not of the ones before it.
            fs::write(format!("/proc/{pid}/clear_refs"), "5")?;
            contender.pids.push(pid);
        }
        let Some((program, arguments)) = self.command.split_first() else { return Ok(contender) };
        for _ in 0..self.instances {
            let log = fs::OpenOptions::new().create(true).append(true).open(&self.log)?;
            let mut command = Command::new(program);
            command.args(arguments).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
            command.stdin(if self.loads { Stdio::piped() } else { Stdio::null() });
            let mut child = command.spawn().map_err(|error| format!("{program} cannot be started: {error}"))?;
            if self.pid.is_some() {
                let status = child.wait().await?;
                if !status.success() {
                    return Err(format!("{program} ended with {status}; see {}", self.log.display()).into());
                }
            } else {
                contender.pids.extend(child.id());
                contender.children.push(child);
            }
        }
        Ok(contender)
    }

    /// Starts the contender and returns what had been used when it began.
    pub async fn begin(&self) -> Result<(Contender, Usage)> {
        let before = self.usage(None);
        let mut contender = self.start().await?;
        if !self.loads {
            return Ok((contender, before));
        }
        while !fs::read_to_string(&self.log)?.lines().any(|line| line == LOADED) {
            contender.check(false)?;
            sleep(Duration::from_millis(50)).await;
        }
        let before = self.usage(Some(&contender));
        for child in &mut contender.children {
            child.stdin.take().ok_or("no standard input")?.write_all(b"\n").await?;
        }
        Ok((contender, before))
    }

    /// What has been used so far. Before the contender is started, its own part is that of `--pid`.
    pub fn usage(&self, contender: Option<&Contender>) -> Usage {
        let own: Vec<u32> =
            contender.map_or_else(|| self.pid.into_iter().collect(), |contender| contender.pids.clone());
        Usage {
            contender: own.iter().filter_map(|pid| cpu(*pid)).sum(),
            postgres: cpu_of_family(self.postgres),
            kafka: cpu(self.kafka).unwrap_or_default(),
        }
    }

    /// One line on the terminal, of who moved records.
    pub fn show(&self, rate: f64, cpu: &Value, peak_mb: f64, repeats: u64) {
        let [contender, postgres, kafka] = ["contender", "postgres", "kafka"].map(|name| shown(&cpu[name]));
        println!(
            "{:<14} {rate:>10.0} {contender:>12} {postgres:>12} {kafka:>12} {peak_mb:>10.0} {repeats:>8}",
            self.contender
        );
    }

    /// Appends the outcome, with the names and notes of this subject.
    pub fn record(&self, mut outcome: Value) -> Result<()> {
        outcome["scenario"] = json!(self.scenario);
        outcome["contender"] = json!(self.contender);
        outcome["instances"] = json!(self.instances);
        for note in &self.note {
            let (name, value) = note.split_once('=').ok_or("a note is NAME=VALUE")?;
            outcome[name] = value.parse::<u64>().map_or_else(|_| json!(value), |number| json!(number));
        }
        append(&self.results, &outcome)
    }
}

/// One more line of JSON in a file.
pub fn append(file: &Path, line: &Value) -> Result<()> {
    use std::io::Write as _;
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut file = fs::OpenOptions::new().create(true).append(true).open(file)?;
    writeln!(file, "{line}")?;
    Ok(())
}

/// The processes that are measured.
pub struct Contender {
    /// Those that were started here.
    children: Vec<Child>,
    pids: Vec<u32>,
    log: PathBuf,
}

impl Contender {
    /// An error when one of the processes that were started has failed, or, unless it `may_end`, has ended.
    pub fn check(&mut self, may_end: bool) -> Result<()> {
        for child in &mut self.children {
            if let Some(status) = child.try_wait()?
                && !(may_end && status.success())
            {
                let said = fs::read_to_string(&self.log).unwrap_or_default();
                let lines: Vec<&str> = said.lines().collect();
                let last = lines[lines.len().saturating_sub(5)..].join("\n");
                return Err(format!("the contender ended with {status}:\n{last}").into());
            }
        }
        if let Some(pid) = self.pids.iter().find(|pid| self.children.is_empty() && stat(**pid).is_none()) {
            return Err(format!("the contender, process {pid}, has ended").into());
        }
        Ok(())
    }

    /// Peak memory of all its processes in megabytes (10^6); those that have ended do not count.
    pub fn peak_mb(&self) -> f64 {
        let peaks = self.pids.iter().filter_map(|pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
            line.trim().trim_end_matches(" kB").trim().parse::<f64>().ok()
        });
        peaks.map(|kib| kib * 1024.0 / 1e6).sum()
    }

    /// Ends what was started: SIGTERM, and SIGKILL after twenty seconds.
    pub async fn end(mut self) -> Result<()> {
        for child in &mut self.children {
            if let Some(pid) = child.id() {
                Command::new("kill").arg(pid.to_string()).stderr(Stdio::null()).status().await?;
            }
        }
        for child in &mut self.children {
            if timeout(Duration::from_secs(20), child.wait()).await.is_err() {
                child.kill().await?;
            }
        }
        Ok(())
    }
}

/// Seconds of CPU used.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    contender: f64,
    postgres: f64,
    kafka: f64,
}

impl Usage {
    /// What was used since `before`, in seconds for each million events.
    pub fn per_million(self, before: Self, events: u64) -> Value {
        let each = |now: f64, before: f64| json!(round((now - before) / events.max(1) as f64 * 1e6));
        self.each(before, each)
    }

    /// What was used since `before`, in percent of one core.
    pub fn percent(self, before: Self, during: Duration) -> Value {
        self.each(before, |now, before| json!(round((now - before) / during.as_secs_f64() * 100.0)))
    }

    fn each(self, before: Self, f: impl Fn(f64, f64) -> Value) -> Value {
        json!({
            "contender": f(self.contender, before.contender),
            "postgres": f(self.postgres, before.postgres),
            "kafka": f(self.kafka, before.kafka),
        })
    }
}

/// A figure for a column of the terminal.
pub fn shown(value: &Value) -> String {
    format!("{:.1}", value.as_f64().unwrap_or_default())
}

/// Two digits after the point.
pub fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// The fields of `/proc/<pid>/stat` behind the name, which may hold blanks: the first one is the state.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(')')?;
    Some(fields.split_whitespace().map(str::to_owned).collect())
}

fn ticks(fields: &[String], which: std::ops::Range<usize>) -> f64 {
    fields.get(which).unwrap_or_default().iter().filter_map(|field| field.parse::<f64>().ok()).sum()
}

/// Seconds of CPU of a process with its threads.
fn cpu(pid: u32) -> Option<f64> {
    Some(ticks(&stat(pid)?, 11..13) / TICKS)
}

/// Seconds of CPU of a process and of its children, those that have ended included.
fn cpu_of_family(pid: u32) -> f64 {
    let mut sum = stat(pid).map_or(0.0, |fields| ticks(&fields, 11..15));
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    for other in processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
        if let Some(fields) = stat(other).filter(|fields| fields.get(1) == Some(&pid.to_string())) {
            sum += ticks(&fields, 11..13);
        }
    }
    sum / TICKS
}

/// Runs the measurement until it is done, a signal comes or the time is up. In each case what it started has ended
/// afterwards, since children are killed when they are dropped.
pub async fn limited<T>(seconds: u64, what: impl Future<Output = Result<T>>) -> Result<T> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        outcome = what => outcome,
        () = sleep(Duration::from_secs(seconds)) => Err(format!("not finished within {seconds} s").into()),
        _ = term.recv() => Err("interrupted".into()),
        _ = int.recv() => Err("interrupted".into()),
    }
}
