//! What was found.

use serde::Serialize;

use crate::error::{Code, Error, Exit, Result};

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Part {
    #[serde(rename = "postgres")]
    Postgres,
    #[serde(rename = "schema")]
    Schema,
    #[serde(rename = "kafka")]
    Kafka,
}

impl Part {
    pub const ALL: [Self; 3] = [Self::Postgres, Self::Schema, Self::Kafka];
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Ok,
    /// It works, and something will hurt some day.
    Warning,
    /// It does not work, or a promise does not hold.
    Problem,
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub part: Part,
    /// Stable name, for scripts.
    pub check: &'static str,
    pub level: Level,
    pub what: String,
    /// What it leads to. Always there on a warning or problem.
    pub cause: Option<String>,
    pub fix: Option<String>,
    /// A server that could not be reached, so that most of the check could not be made.
    #[serde(skip)]
    pub unreachable: Option<Code>,
}

impl Finding {
    pub fn ok(part: Part, check: &'static str, what: impl Into<String>) -> Self {
        Self { part, check, level: Level::Ok, what: what.into(), cause: None, fix: None, unreachable: None }
    }

    pub fn warning(
        part: Part,
        check: &'static str,
        what: impl Into<String>,
        cause: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self { level: Level::Warning, cause: Some(cause.into()), fix: Some(fix.into()), ..Self::ok(part, check, what) }
    }

    pub fn problem(
        part: Part,
        check: &'static str,
        what: impl Into<String>,
        cause: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self { level: Level::Problem, ..Self::warning(part, check, what, cause, fix) }
    }

    /// A question that could not be asked.
    pub fn failed(part: Part, check: &'static str, error: &Error) -> Self {
        let fix = error.hint_text().unwrap_or("see the message");
        // Elsewhere this is where to look; here it is where the reader looks already.
        let fix = fix.strip_suffix("; for details run: outbox-relay check").unwrap_or(fix).to_owned();
        let (what, chain) = (error.to_string(), error.chain());
        let cause = chain.strip_prefix(&what).map(|rest| rest.trim_start_matches(": ")).filter(|rest| !rest.is_empty());
        let unreachable = Some(error.code()).filter(|code| code.exit() == Exit::Unreachable);
        Self { unreachable, ..Self::problem(part, check, what.clone(), cause.unwrap_or("it does not say more"), fix) }
    }
}

/// All findings, and how many are not well.
#[derive(Debug, Serialize)]
pub struct Report {
    pub findings: Vec<Finding>,
    pub problems: usize,
    pub warnings: usize,
}

impl Report {
    pub fn new(findings: Vec<Finding>) -> Self {
        let count = |level| findings.iter().filter(|finding| finding.level == level).count();
        Self { problems: count(Level::Problem), warnings: count(Level::Warning), findings }
    }

    /// Errors: there is a problem.
    pub fn verdict(&self) -> Result<()> {
        if self.problems == 0 {
            return Ok(());
        }
        // A server that is away is another matter than one that is set up wrongly.
        let away = self.findings.iter().filter(|finding| finding.check.ends_with(".connection"));
        let code = away.filter_map(|finding| finding.unreachable).next().unwrap_or(Code::CheckNotMet);
        Err(Error::new(code, format!("{} problem(s), {} warning(s)", self.problems, self.warnings)))
    }
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
}
