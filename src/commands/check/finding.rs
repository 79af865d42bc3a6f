//! One finding, and how findings are printed.

use anstyle::AnsiColor;
use serde::Serialize;

use crate::error::{Code, Error, Exit, Result};
use crate::output::{self, Format};

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) enum Part {
    #[serde(rename = "postgres")]
    Postgres,
    #[serde(rename = "schema")]
    Schema,
    #[serde(rename = "kafka")]
    Kafka,
}

impl Part {
    const ALL: [Self; 3] = [Self::Postgres, Self::Schema, Self::Kafka];

    fn title(self) -> &'static str {
        match self {
            Self::Postgres => "PostgreSQL",
            Self::Schema => "Schema",
            Self::Kafka => "Kafka",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    Ok,
    /// It works, and something will hurt some day.
    Warning,
    /// It does not work, or a promise does not hold.
    Problem,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) part: Part,
    /// Stable name, for scripts.
    pub(super) check: &'static str,
    pub(super) level: Level,
    pub(super) what: String,
    /// What it leads to. Always there on a warning or problem.
    pub(super) cause: Option<String>,
    pub(super) fix: Option<String>,
    /// A server that could not be reached, so that most of the check could not be made.
    #[serde(skip)]
    pub(super) unreachable: Option<Code>,
}

impl Finding {
    pub(super) fn ok(part: Part, check: &'static str, what: impl Into<String>) -> Self {
        Self { part, check, level: Level::Ok, what: what.into(), cause: None, fix: None, unreachable: None }
    }

    pub(super) fn warning(
        part: Part,
        check: &'static str,
        what: impl Into<String>,
        cause: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self { level: Level::Warning, cause: Some(cause.into()), fix: Some(fix.into()), ..Self::ok(part, check, what) }
    }

    pub(super) fn problem(
        part: Part,
        check: &'static str,
        what: impl Into<String>,
        cause: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self { level: Level::Problem, ..Self::warning(part, check, what, cause, fix) }
    }

    /// A question that could not be asked.
    pub(super) fn failed(part: Part, check: &'static str, error: &Error) -> Self {
        let fix = error.hint_text().unwrap_or("see the message").to_owned();
        let (what, chain) = (error.to_string(), error.chain());
        let cause = chain.strip_prefix(&what).map(|rest| rest.trim_start_matches(": ")).filter(|rest| !rest.is_empty());
        let unreachable = Some(error.code()).filter(|code| code.exit() == Exit::Unreachable);
        Self { unreachable, ..Self::problem(part, check, what.clone(), cause.unwrap_or("it does not say more"), fix) }
    }
}

#[derive(Debug, Serialize)]
struct Document<'a> {
    findings: &'a [Finding],
    problems: usize,
    warnings: usize,
}

pub(super) fn print(format: Format, findings: &[Finding]) -> Result<()> {
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let document = Document { findings, problems: count(Level::Problem), warnings: count(Level::Warning) };
    output::data(format, &document, findings, || text(&document))
}

fn text(document: &Document<'_>) -> String {
    let bold = anstyle::Style::new().bold();
    let mut text = String::new();
    for part in Part::ALL {
        let of_part: Vec<_> = document.findings.iter().filter(|finding| finding.part == part).collect();
        if of_part.is_empty() {
            continue;
        }
        text.push_str(&format!("{bold}{}{bold:#}\n", part.title()));
        for finding in of_part {
            text.push_str(&lines(finding));
        }
    }
    // With problems the error of the command says so.
    if document.problems == 0 {
        text.push_str(&format!("no problem, {} warning(s)\n", document.warnings));
    }
    text
}

fn lines(finding: &Finding) -> String {
    let (mark, colour) = match finding.level {
        Level::Ok => ("✓", AnsiColor::Green),
        Level::Warning => ("!", AnsiColor::Yellow),
        Level::Problem => ("✗", AnsiColor::Red),
    };
    let style = output::style(colour);
    let mut text = format!("  {style}{mark}{style:#} {}\n", output::printable(&finding.what));
    let more = [("why", &finding.cause), ("fix", &finding.fix)];
    for (name, value) in more.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?))) {
        text.push_str(&format!("      {name}: {}\n", output::printable(value)));
    }
    text
}

/// For the tests of those who judge: the check and level of each finding, after seeing that what is not well has a
/// cause and a fix.
#[cfg(test)]
pub(super) fn levels(judge: impl FnOnce(&mut Vec<Finding>)) -> Vec<(&'static str, Level)> {
    let mut findings = Vec::new();
    judge(&mut findings);
    for finding in findings.iter().filter(|finding| finding.level != Level::Ok) {
        assert!(finding.cause.is_some() && finding.fix.is_some(), "{finding:?}");
    }
    findings.iter().map(|finding| (finding.check, finding.level)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_that_failed_tells_the_cause_once() {
        let cause = std::io::Error::other("connection refused");
        let error = Error::new(Code::KafkaUnreachable, "cannot reach Kafka").caused_by(cause).hint("is it up?");
        let finding = Finding::failed(Part::Kafka, "kafka.connection", &error);
        let expected =
            Finding::problem(Part::Kafka, "kafka.connection", "cannot reach Kafka", "connection refused", "is it up?");
        assert_eq!(finding, Finding { unreachable: Some(Code::KafkaUnreachable), ..expected });
    }

    #[test]
    fn json_names_the_check_the_level_the_cause_and_the_fix() {
        let finding = Finding::problem(
            Part::Schema,
            "schema.migrations",
            "2 migrations are missing",
            "the relay cannot start",
            "migrate up",
        );
        let json = serde_json::to_value(&finding).unwrap();
        let expected = serde_json::json!({
            "part": "schema", "check": "schema.migrations", "level": "problem",
            "what": "2 migrations are missing", "cause": "the relay cannot start", "fix": "migrate up",
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn text_is_grouped_by_part_and_counts() {
        let findings = [
            Finding::ok(Part::Kafka, "kafka.brokers", "3 brokers"),
            Finding::warning(Part::Postgres, "postgres.clock", "the clocks differ", "because", "ntp"),
        ];
        let document = Document { findings: &findings, problems: 0, warnings: 1 };
        let text = anstream::adapter::strip_str(&text(&document)).to_string();
        assert_eq!(
            text,
            "PostgreSQL\n  ! the clocks differ\n      why: because\n      fix: ntp\nKafka\n  ✓ 3 brokers\nno problem, 1 warning(s)\n"
        );
    }
}
