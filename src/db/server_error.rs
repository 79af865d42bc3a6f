//! What may be printed of an error from PostgreSQL or its client.
//!
//! PostgreSQL quotes data in its errors: DETAIL shows whole rows ("Failing row contains (...)"), CONTEXT shows
//! parameters, and the message itself quotes values ("invalid input syntax for type integer: \"...\"") or is whatever
//! an application's trigger raised. Invariant: such an error travels only as a [`ServerError`], and its `Display`,
//! `Debug` and `source` show none of that. `tests/tidy.rs` keeps the client's own error out of everything that prints.

use std::error::Error as StdError;
use std::fmt;

use tokio_postgres::error::{DbError as Reported, SqlState};

use crate::failpoint::{Fault, fault};

/// An error of the server or of its client. Prints the SQLSTATE with its name, the names of the constraint, table and
/// column concerned, and the message only where that cannot hold data.
pub struct ServerError(tokio_postgres::Error);

/// Classes whose messages PostgreSQL makes from names, settings and states, not from values. Appendix A of its
/// documentation.
const CLASSES_WITH_MESSAGE: [&str; 19] =
    ["08", "0A", "25", "26", "28", "2B", "34", "3B", "3D", "3F", "40", "42", "53", "54", "55", "57", "58", "CN", "F0"];

impl ServerError {
    /// The SQLSTATE, if the server sent one.
    pub fn code(&self) -> Option<&SqlState> {
        self.0.code()
    }

    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    /// The error itself, for classification. Never for printing.
    pub(super) fn inner(&self) -> &tokio_postgres::Error {
        &self.0
    }
}

impl From<tokio_postgres::Error> for ServerError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self(error)
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_safely(&self.0, f)
    }
}

impl fmt::Debug for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerError({self})")
    }
}

/// No source: the text is complete, and the causes of the client's error print what must not be printed.
impl StdError for ServerError {}

/// An error of another library that may hold one of PostgreSQL somewhere among its causes, as text that is fit to
/// print.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Printable(String);

impl Printable {
    pub fn of(error: &(dyn StdError + 'static)) -> Self {
        let mut parts: Vec<String> = Vec::new();
        let mut cause = Some(error);
        while let Some(inner) = cause {
            if let Some(error) = inner.downcast_ref::<tokio_postgres::Error>() {
                parts.push(Text(error).to_string());
                break;
            }
            let part = inner.to_string();
            // Libraries often repeat their cause in their own text.
            if parts.last().is_none_or(|last| !last.ends_with(&part)) {
                parts.push(part);
            }
            cause = inner.source();
        }
        Self(parts.join(": "))
    }
}

impl fmt::Display for Printable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Printable {}

struct Text<'a>(&'a tokio_postgres::Error);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_safely(self.0, f)
    }
}

fn write_safely(error: &tokio_postgres::Error, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match error.as_db_error() {
        Some(reported) => write_reported(reported, f),
        None => write_local(error, f),
    }
}

fn write_reported(reported: &Reported, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let code = reported.code().code();
    let raised = is_raised(reported);
    let has_message = CLASSES_WITH_MESSAGE.contains(&code.get(..2).unwrap_or_default());
    if !raised && has_message || fault(Fault::MessagesPrinted) {
        return write!(f, "{} (SQLSTATE {code})", reported.message());
    }
    match condition(code) {
        Some(name) => write!(f, "SQLSTATE {code} ({name})")?,
        None => write!(f, "SQLSTATE {code}")?,
    }
    // RAISE can put anything into these fields, too.
    let named = [
        ("constraint", reported.constraint()),
        ("table", reported.table()),
        ("column", reported.column()),
        ("type", reported.datatype()),
    ];
    for (what, name) in named {
        if let Some(name) = name.filter(|_| !raised) {
            write!(f, ", {what} {name}")?;
        }
    }
    Ok(())
}

/// Whether a function chose the words: a RAISE in PL/pgSQL, another procedural language, or SQL that such a function
/// put together from data. Waiting for a lock sets a context as well, of which PostgreSQL itself is the author.
fn is_raised(reported: &Reported) -> bool {
    let is_lock_wait = |context: &str| context.starts_with("while ") && !context.contains('\n');
    let in_function = reported.where_().is_some_and(|context| !is_lock_wait(context));
    let is_of_language =
        |file: &str| ["pl_", "plperl", "plpy", "pltcl", "plv8"].iter().any(|name| file.starts_with(name));
    let from_language = reported.file().is_some_and(is_of_language);
    in_function || from_language
}

/// An error that the client made on our side: the connection, TLS, authentication, a conversion.
fn write_local(error: &tokio_postgres::Error, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let text = error.to_string();
    f.write_str(&text)?;
    // A conversion error may quote the value that could not be converted. The client does not distinguish these by
    // type.
    if text.starts_with("error serializing") || text.starts_with("error deserializing") {
        return Ok(());
    }
    let mut written = text;
    let mut cause = error.source();
    while let Some(inner) = cause {
        let part = inner.to_string();
        if !written.ends_with(&part) {
            write!(f, ": {part}")?;
        }
        written = part;
        cause = inner.source();
    }
    Ok(())
}

/// The name of a condition, as PostgreSQL's documentation has it. Only those whose message is not printed, or not
/// always.
fn condition(code: &str) -> Option<&'static str> {
    Some(match code {
        "21000" => "cardinality_violation",
        "22000" => "data_exception",
        "22001" => "string_data_right_truncation",
        "22003" => "numeric_value_out_of_range",
        "22004" => "null_value_not_allowed",
        "22007" => "invalid_datetime_format",
        "22008" => "datetime_field_overflow",
        "22012" => "division_by_zero",
        "22021" => "character_not_in_repertoire",
        "22023" => "invalid_parameter_value",
        "22025" => "invalid_escape_sequence",
        "22026" => "string_data_length_mismatch",
        "22030" => "duplicate_json_object_key_value",
        "22032" => "invalid_json_text",
        "2200F" => "zero_length_character_string",
        "2203F" => "sql_json_scalar_required",
        "22P01" => "floating_point_exception",
        "22P02" => "invalid_text_representation",
        "22P03" => "invalid_binary_representation",
        "22P05" => "untranslatable_character",
        "23000" => "integrity_constraint_violation",
        "23001" => "restrict_violation",
        "23502" => "not_null_violation",
        "23503" => "foreign_key_violation",
        "23505" => "unique_violation",
        "23514" => "check_violation",
        "23P01" => "exclusion_violation",
        "25006" => "read_only_sql_transaction",
        "25P02" => "in_failed_sql_transaction",
        "27000" => "triggered_data_change_violation",
        "39000" => "external_routine_invocation_exception",
        "40001" => "serialization_failure",
        "40P01" => "deadlock_detected",
        "42501" => "insufficient_privilege",
        "42601" => "syntax_error",
        "42703" => "undefined_column",
        "42804" => "datatype_mismatch",
        "42883" => "undefined_function",
        "42P01" => "undefined_table",
        "44000" => "with_check_option_violation",
        "53100" => "disk_full",
        "53200" => "out_of_memory",
        "54000" => "program_limit_exceeded",
        "54001" => "statement_too_complex",
        "55000" => "object_not_in_prerequisite_state",
        "55006" => "object_in_use",
        "55P03" => "lock_not_available",
        "57014" => "query_canceled",
        "57P01" => "admin_shutdown",
        "57P02" => "crash_shutdown",
        "P0001" => "raise_exception",
        "P0002" => "no_data_found",
        "P0003" => "too_many_rows",
        "P0004" => "assert_failure",
        "XX000" => "internal_error",
        "XX001" => "data_corrupted",
        "XX002" => "index_corrupted",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_of_other_errors_are_told_once() {
        let cause = std::io::Error::other("connection refused");
        assert_eq!(Printable::of(&cause).to_string(), "connection refused");
    }
}
