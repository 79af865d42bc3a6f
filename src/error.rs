//! What an operator sees when something fails: a stable code, what happened, what to do, and the exit status.
//!
//! Every code is listed once, in [`Code`]. Modules have their own error enums; at the edge they become an [`Error`].

use std::error::Error as StdError;
use std::fmt;

/// Exit statuses of the binary, part of the public contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Done = 0,
    Unexpected = 1,
    Usage = 2,
    ConfigInvalid = 3,
    Unreachable = 4,
    PartlyDone = 5,
    CheckNotMet = 6,
    Fenced = 75,
    HistoriesDisagree = 78,
}

macro_rules! codes {
    ($( $(#[doc = $doc:literal])* $variant:ident = $text:literal, $exit:ident; )*) => {
        /// Stable error codes. A code is never reused; each has a section in `docs/operations/errors.md`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Code { $( $(#[doc = $doc])* $variant, )* }

        impl Code {
            pub const ALL: &[Self] = &[ $( Self::$variant, )* ];

            pub fn as_str(self) -> &'static str {
                match self { $( Self::$variant => $text, )* }
            }

            pub fn exit(self) -> Exit {
                match self { $( Self::$variant => Exit::$exit, )* }
            }
        }
    };
}

codes! {
    /// Anything that should not happen: a bug, or a full disk.
    Unexpected = "OR-X001", Unexpected;
    /// A command line that clap accepts but that makes no sense.
    Usage = "OR-U001", Usage;
    /// The item that a command was asked for does not exist.
    NotFound = "OR-U002", CheckNotMet;
    /// A command did a part of what it was asked for, and was stopped or failed.
    PartlyDone = "OR-U003", PartlyDone;
    /// The settings have problems.
    ConfigInvalid = "OR-C001", ConfigInvalid;
    /// PostgreSQL refuses connections or does not respond.
    PostgresUnreachable = "OR-P001", Unreachable;
    /// PostgreSQL refused the user, the password or the certificate.
    PostgresDenied = "OR-P002", Unreachable;
    /// A statement failed for a reason that is not the connection.
    PostgresStatement = "OR-P003", Unexpected;
    /// The schema is missing or older than this binary.
    SchemaOutdated = "OR-P004", CheckNotMet;
    /// A migration failed or does not match its recorded checksum.
    MigrationFailed = "OR-P005", Unexpected;
    /// No PostgreSQL binaries for `demo`.
    NoPostgresBinaries = "OR-P006", Unreachable;
    /// Something in the database would make events disappear or keep them all from being published.
    DatabaseUnfit = "OR-P010", CheckNotMet;
    /// Kafka refuses connections or does not respond.
    KafkaUnreachable = "OR-K001", Unreachable;
    /// librdkafka refused the settings.
    KafkaConfig = "OR-K002", ConfigInvalid;
    /// The log of a topic starts after the consumer's next offset: records were lost to the consumer.
    ConsumerDataLoss = "OR-K003", HistoriesDisagree;
    /// Kafka denies this client access to a topic.
    KafkaDenied = "OR-K004", Unreachable;
    /// Kafka answers a question about a topic with an error.
    KafkaTopic = "OR-K005", Unreachable;
    /// Another instance owns a shard that this one believed to own.
    Fenced = "OR-R001", Fenced;
    /// A settled batch changed fewer rows than it has: someone changed them by hand. Logged, never an exit.
    SettleMismatch = "OR-R002", Unexpected;
    /// Exactly-once delivery: PostgreSQL and Kafka contradict each other about a batch. Nothing was sent or marked.
    HistoriesDisagree = "OR-R003", HistoriesDisagree;
    /// The database is a copy of the outbox, or was moved to another server. Nothing was sent or marked.
    DatabaseMoved = "OR-R004", HistoriesDisagree;
    /// The sequence of the outbox hands out ids ahead of time or out of order.
    IdsOutOfTurn = "OR-R005", CheckNotMet;
    /// A projection's SQL file is missing or does not prepare.
    ProjectionInvalid = "OR-J001", ConfigInvalid;
    /// The admin port is taken or not allowed.
    AdminListen = "OR-H001", Unexpected;
    /// The instance that `health` asked is not healthy.
    Unhealthy = "OR-H002", CheckNotMet;
    /// A check found a problem, or a threshold was passed.
    CheckNotMet = "OR-D001", CheckNotMet;
}

type Source = Box<dyn StdError + Send + Sync>;

/// An error with a code and, mostly, a hint. `Display` gives the message alone; the chain of causes and the hint are
/// printed by [`Error::report`].
#[derive(Debug)]
pub struct Error {
    code: Code,
    message: String,
    hint: Option<String>,
    source: Option<Source>,
}

impl Error {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None, source: None }
    }

    /// What the operator can do, as a sentence or a command.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Source>) -> Self {
        self.source = Some(source.into());
        self
    }

    pub fn code(&self) -> Code {
        self.code
    }

    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The message with every cause, `: ` between them.
    pub fn chain(&self) -> String {
        let mut text = self.message.clone();
        let mut cause = self.source();
        while let Some(error) = cause {
            let part = error.to_string();
            // Libraries often repeat their cause in their own text.
            if !text.ends_with(&part) {
                text.push_str(": ");
                text.push_str(&part);
            }
            cause = error.source();
        }
        text
    }

    /// The whole report for a terminal: code, chain, hint.
    pub fn report(&self) -> String {
        let mut text = format!("error[{}]: {}", self.code.as_str(), self.chain());
        if let Some(hint) = &self.hint {
            text.push_str("\n  help: ");
            text.push_str(hint);
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique() {
        let mut seen = std::collections::HashSet::new();
        for code in Code::ALL {
            assert!(seen.insert(code.as_str()), "{} stands twice", code.as_str());
        }
    }

    #[test]
    fn a_report_has_code_chain_and_hint() {
        let cause = std::io::Error::other("connection refused");
        let error =
            Error::new(Code::PostgresUnreachable, "cannot reach PostgreSQL").caused_by(cause).hint("is it running?");
        assert_eq!(
            error.report(),
            "error[OR-P001]: cannot reach PostgreSQL: connection refused\n  help: is it running?"
        );
    }
}
