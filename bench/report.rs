//! The results as tables, and the chart of the comparison.
//!
//! Reads the lines that the measurements have written. Runs that differ in nothing but their round are one row: the
//! median of each figure, and for the rate the lowest and highest as well. Writes the tables between two marks of a
//! document, and the chart as SVG.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use crate::Result;
use crate::process::append;

mod chart;

const BEGIN: &str = "<!-- bench: begin -->";
const END: &str = "<!-- bench: end -->";
/// What makes two runs one row, besides scenario and contender.
const SETTINGS: &[&str] = &["rows", "payload", "keys", "instances", "published", "pinned", "offered", "per_commit"];

#[derive(Args)]
pub struct EnvironmentOptions {
    #[arg(long)]
    results: PathBuf,
    /// The command that runs the bench
    #[arg(long)]
    command: String,
    /// Name and version, as NAME=VERSION
    #[arg(long)]
    version: Vec<String>,
}

#[derive(Args)]
pub struct Options {
    #[arg(long)]
    results: PathBuf,
    /// Document to write the tables into, between its two marks
    #[arg(long)]
    document: Option<PathBuf>,
    /// File for the chart
    #[arg(long)]
    chart: Option<PathBuf>,
}

pub fn environment(options: &EnvironmentOptions) -> Result<()> {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib =
        memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut versions = options.version.clone();
    versions.push(format!("librdkafka={}", rdkafka::util::get_rdkafka_version().1));
    append(
        &options.results,
        &json!({
            "environment": true,
            "command": options.command,
            "versions": versions,
            "cpu": model.trim_start_matches([' ', '\t', ':']),
            "cores": std::thread::available_parallelism()?.get(),
            "memory_gib": kib.unwrap_or_default() / 1024 / 1024,
            "kernel": kernel.trim().split('-').next(),
        }),
    )
}

pub fn run(options: &Options) -> Result<()> {
    let text = fs::read_to_string(&options.results)
        .map_err(|error| format!("{}: {error}; run `make bench` first", options.results.display()))?;
    let lines = text.lines().map(serde_json::from_str).collect::<std::result::Result<Vec<Value>, _>>()?;
    let rows = summed_up(&lines);
    let tables = markdown(&lines, &rows);
    println!("{tables}");
    if let Some(document) = &options.document {
        let chart = options.chart.as_deref().and_then(Path::file_name).and_then(|name| name.to_str());
        let picture = chart.map_or_else(String::new, |name| format!("![The comparison]({name})\n\n"));
        insert(document, &format!("{picture}{tables}"))?;
    }
    if let Some(file) = &options.chart {
        let compared: Vec<&Row> = rows.iter().filter(|row| row.scenario == "drain").collect();
        if compared.is_empty() {
            return Err("the results hold no comparison, so there is no chart to draw".into());
        }
        fs::write(file, chart::svg(&compared))?;
    }
    Ok(())
}

/// Runs that differ in their round alone.
pub struct Row {
    pub scenario: String,
    pub contender: String,
    runs: Vec<Value>,
}

impl Row {
    fn all(&self, path: &str) -> Vec<f64> {
        let mut values: Vec<f64> = self.runs.iter().filter_map(|run| run.pointer(path)?.as_f64()).collect();
        values.sort_by(f64::total_cmp);
        values
    }

    /// The median of a figure; zero when there is none.
    pub fn median(&self, path: &str) -> f64 {
        let values = self.all(path);
        match values.len() {
            0 => 0.0,
            n if n % 2 == 1 => values[n / 2],
            n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
        }
    }

    /// The lowest and the highest of a figure.
    pub fn span(&self, path: &str) -> (f64, f64) {
        let values = self.all(path);
        (values.first().copied().unwrap_or_default(), values.last().copied().unwrap_or_default())
    }

    fn setting(&self, name: &str) -> String {
        let Some(value) = self.runs.first().and_then(|run| run.get(name)) else { return String::new() };
        value.as_f64().map_or_else(|| value.as_str().unwrap_or_default().to_owned(), grouped)
    }
}

/// In the order in which they came first.
fn summed_up(lines: &[Value]) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    let mut known = BTreeMap::new();
    for line in lines.iter().filter(|line| line.get("environment").is_none()) {
        let name = |field: &str| line[field].as_str().unwrap_or_default().to_owned();
        let (scenario, contender) = (name("scenario"), name("contender"));
        let settings: Vec<String> = SETTINGS.iter().map(|setting| line[*setting].to_string()).collect();
        let index = *known.entry((scenario.clone(), contender.clone(), settings)).or_insert_with(|| {
            rows.push(Row { scenario, contender, runs: Vec::new() });
            rows.len() - 1
        });
        rows[index].runs.push(line.clone());
    }
    rows
}

fn markdown(lines: &[Value], rows: &[Row]) -> String {
    let mut out = String::new();
    let mut add = |line: String| {
        out.push_str(&line);
        out.push('\n');
    };
    // A machine with the commands that were run on it; one after the other when it was not always the same.
    let mut places: Vec<(Value, Vec<&str>)> = Vec::new();
    for line in lines.iter().filter(|line| line.get("environment").is_some()) {
        let mut place = line.clone();
        place["command"] = Value::Null;
        let command = line["command"].as_str().unwrap_or_default();
        match places.last_mut() {
            Some((last, commands)) if *last == place => commands.push(command),
            _ => places.push((place, vec![command])),
        }
    }
    for (place, commands) in places {
        let versions: Vec<&str> =
            place["versions"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        add(format!(
            "On {} cores ({}), {} GiB, Linux {}; {}:\n\n```sh\n{}\n```\n",
            place["cores"],
            place["cpu"].as_str().unwrap_or_default(),
            place["memory_gib"],
            place["kernel"].as_str().unwrap_or_default(),
            versions.join(", ").replace('=', " "),
            commands.join("\n"),
        ));
    }
    let mut scenarios: Vec<&str> = Vec::new();
    for row in rows {
        if !scenarios.contains(&row.scenario.as_str()) {
            scenarios.push(&row.scenario);
        }
    }
    for scenario in scenarios {
        let rows: Vec<&Row> = rows.iter().filter(|row| row.scenario == scenario).collect();
        add(format!("**{scenario}**\n"));
        add(match scenario {
            "latency" => latencies(&rows),
            "idle" => idleness(&rows),
            _ => drains(&rows),
        });
        if ["drain", "payload"].contains(&scenario) {
            add(ratios(&rows));
        }
    }
    out.trim_end().to_owned()
}

fn drains(rows: &[&Row]) -> String {
    // A setting that is the same everywhere stands in the heading of its column alone when there is one row.
    let settings: Vec<&str> = ["rows", "payload", "keys", "instances", "published", "pinned"]
        .into_iter()
        .filter(|setting| rows.iter().any(|row| !row.setting(setting).is_empty()))
        .collect();
    let mut out = format!(
        "| contender | {} | runs | events/s | lowest–highest | CPU: contender | PostgreSQL | Kafka | peak MB | repeats |\n|---|{}---|---|---|---|---|---|---|---|\n",
        settings.join(" | "),
        "---|".repeat(settings.len()),
    );
    for row in rows {
        let (low, high) = row.span("/rate");
        let values: Vec<String> = settings.iter().map(|setting| row.setting(setting)).collect();
        let _infallible = writeln!(
            out,
            "| {} | {} | {} | {} | {}–{} | {:.1} | {:.1} | {:.1} | {:.0} | {:.0} |",
            row.contender,
            values.join(" | "),
            row.runs.len(),
            grouped(row.median("/rate")),
            grouped(low),
            grouped(high),
            row.median("/cpu/contender"),
            row.median("/cpu/postgres"),
            row.median("/cpu/kafka"),
            row.median("/peak_mb"),
            row.median("/repeats"),
        );
    }
    out + "\nMedians. CPU in seconds for a million events.\n"
}

/// The three ratios that matter, for each payload that was measured.
fn ratios(rows: &[&Row]) -> String {
    let mut out = String::new();
    let mut payloads: Vec<String> = rows.iter().map(|row| row.setting("payload")).collect();
    payloads.dedup();
    for payload in payloads {
        let rate = |name: &str| {
            rows.iter()
                .find(|row| row.contender == name && row.setting("payload") == payload)
                .map(|row| row.median("/rate"))
        };
        let pairs = [
            ("relay-alo", "debezium-warm"),
            ("watermark-alo", "debezium-warm"),
            ("delete-alo", "debezium-warm"),
            ("relay-alo", "debezium-cold"),
            ("relay-alo", "polling-loop"),
            ("relay-alo", "claim-and-mark"),
            ("relay-alo", "produce"),
            ("relay-eos", "relay-alo"),
            ("watermark-eos", "watermark-alo"),
        ];
        let found: Vec<String> = pairs
            .iter()
            .filter_map(|(one, other)| Some(format!("{one} / {other} {:.2}", rate(one)? / rate(other)?)))
            .collect();
        if !found.is_empty() {
            let _infallible = writeln!(out, "Ratios at {payload} bytes: {}.\n", found.join(" · "));
        }
    }
    out
}

fn latencies(rows: &[&Row]) -> String {
    let mut out = "| contender | offered/s | inserted/s | p50 ms | p99 ms | p99.9 ms | not within a minute | CPU: contender | PostgreSQL | Kafka | peak MB |\n|---|---|---|---|---|---|---|---|---|---|---|\n".to_owned();
    for row in rows {
        let _infallible = writeln!(
            out,
            "| {} | {} | {} | {:.1} | {:.1} | {:.1} | {:.0} | {:.1} | {:.1} | {:.1} | {:.0} |",
            row.contender,
            row.setting("offered"),
            grouped(row.median("/inserted")),
            row.median("/p50_ms"),
            row.median("/p99_ms"),
            row.median("/p999_ms"),
            row.median("/missing"),
            row.median("/cpu/contender"),
            row.median("/cpu/postgres"),
            row.median("/cpu/kafka"),
            row.median("/peak_mb"),
        );
    }
    out + "\nCPU in seconds for a million events; that of PostgreSQL includes the inserts, that of Kafka the consumer's reading.\n"
}

fn idleness(rows: &[&Row]) -> String {
    let mut out = "| contender | transactions/s | CPU of it, % of a core | PostgreSQL, % | Kafka, % | peak MB |\n|---|---|---|---|---|---|\n".to_owned();
    for row in rows {
        let _infallible = writeln!(
            out,
            "| {} | {:.2} | {:.2} | {:.2} | {:.2} | {:.0} |",
            row.contender,
            row.median("/transactions_per_second"),
            row.median("/cpu_percent/contender"),
            row.median("/cpu_percent/postgres"),
            row.median("/cpu_percent/kafka"),
            row.median("/peak_mb"),
        );
    }
    out
}

/// 1234567 as 1,234,567.
pub fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn insert(document: &Path, tables: &str) -> Result<()> {
    let text = fs::read_to_string(document)?;
    let missing = || format!("{} has no {BEGIN} with an {END} behind it", document.display());
    let (head, rest) = text.split_once(BEGIN).ok_or_else(missing)?;
    let (_, tail) = rest.split_once(END).ok_or_else(missing)?;
    fs::write(document, format!("{head}{BEGIN}\n\n{tables}\n\n{END}{tail}"))?;
    Ok(())
}
