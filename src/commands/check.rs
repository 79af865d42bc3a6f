//! `check`: looks at everything a relay depends on, and says of each finding what it means and what to do.

use anstyle::AnsiColor;

use super::{Context, Result};
use crate::config::Needs;
use crate::operations::check::{self, Finding, Level, Part, Report};
use crate::output;

pub(super) async fn run(context: &Context) -> Result<()> {
    let report = check::run(&context.settings(Needs::BOTH)?).await?;
    output::data(context.format(), &report, &report.findings, || text(&report))?;
    Ok(report.verdict()?)
}

fn title(part: Part) -> &'static str {
    match part {
        Part::Postgres => "PostgreSQL",
        Part::Schema => "Schema",
        Part::Kafka => "Kafka",
    }
}

fn text(report: &Report) -> String {
    let bold = anstyle::Style::new().bold();
    let mut text = String::new();
    for part in Part::ALL {
        let of_part: Vec<_> = report.findings.iter().filter(|finding| finding.part == part).collect();
        if of_part.is_empty() {
            continue;
        }
        text.push_str(&format!("{bold}{}{bold:#}\n", title(part)));
        for finding in of_part {
            text.push_str(&lines(finding));
        }
    }
    // With problems the error of the command says so.
    if report.problems == 0 {
        text.push_str(&format!("no problem, {} warning(s)\n", report.warnings));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_grouped_by_part_and_counts() {
        let findings = vec![
            Finding::ok(Part::Kafka, "kafka.brokers", "3 brokers"),
            Finding::warning(Part::Postgres, "postgres.clock", "the clocks differ", "because", "ntp"),
        ];
        let text = anstream::adapter::strip_str(&text(&Report::new(findings))).to_string();
        assert_eq!(
            text,
            "PostgreSQL\n  ! the clocks differ\n      why: because\n      fix: ntp\nKafka\n  ✓ 3 brokers\nno problem, 1 warning(s)\n"
        );
    }
}
