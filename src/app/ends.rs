//! The errors that end `run`. Everything else that PostgreSQL, Kafka or a component does is waited for, or the
//! component is restarted, and readiness shows it. `docs/operations/running.md` has the same table; a test compares
//! them.

use crate::error::Code;

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct End {
    pub code: Code,
    /// While the process starts: before anything is taken or sent.
    pub at_start: bool,
    /// Later, when the relay reports it.
    pub by_relay: bool,
    /// For the table in the manual.
    #[cfg_attr(not(test), expect(dead_code, reason = "the test compares the manual with it"))]
    pub why: &'static str,
}

const fn end(code: Code, at_start: bool, by_relay: bool, why: &'static str) -> End {
    End { code, at_start, by_relay, why }
}

/// All of them. An error of the consumer, of the cleaner or of the admin server ends nobody else.
pub const ENDS: &[End] = &[
    end(Code::ConfigInvalid, true, false, "invalid settings"),
    end(Code::KafkaConfig, true, false, "settings that librdkafka rejects"),
    end(Code::ProjectionInvalid, true, false, "a projection's SQL file cannot be read"),
    end(Code::AdminListen, true, false, "the admin server cannot bind its port"),
    end(Code::SchemaOutdated, true, false, "the schema is older than the program, and the program may not migrate it"),
    end(Code::MigrationFailed, true, false, "a migration failed, or differs from the one that was applied"),
    end(Code::DatabaseUnfit, true, false, "the relay would lose events or publish nothing"),
    end(Code::IdsOutOfTurn, true, false, "the sequence hands out ids ahead of time or out of order"),
    end(Code::Fenced, true, true, "another instance took over a shard, because this one was paused or cut off"),
    end(Code::HistoriesDisagree, true, true, "PostgreSQL and Kafka contradict each other about a batch"),
    end(Code::DatabaseMoved, true, true, "the database is a copy or was moved"),
];

pub(super) fn at_start(code: Code) -> bool {
    ENDS.iter().any(|end| end.at_start && end.code == code)
}

pub(super) fn by_relay(code: Code) -> bool {
    ENDS.iter().any(|end| end.by_relay && end.code == code)
}

/// No error of such a part ends the process.
pub(super) fn never(_: Code) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table in `docs/operations/running.md`.
    fn reference_markdown() -> String {
        let mut text = "| code | status | when | why |\n|---|---|---|---|\n".to_owned();
        for End { code, at_start, by_relay, why } in ENDS {
            let when = match (at_start, by_relay) {
                (true, true) => "at any time",
                (true, false) => "at the start",
                (false, _) => "later",
            };
            text.push_str(&format!("| {} | {} | {when} | {why} |\n", code.as_str(), code.exit() as u8));
        }
        text
    }

    #[test]
    fn the_operations_manual_has_the_same_table() {
        let manual = include_str!("../../docs/operations/running.md");
        assert!(
            manual.contains(&reference_markdown()),
            "docs/operations/running.md lacks this table:\n{}",
            reference_markdown()
        );
    }
}
