//! Finds the rows that make a statement over many rows fail, so that only those rows are affected.
//!
//! Pure: the caller runs the statements and sets the savepoints. A failed statement is rolled back and run again on
//! each half of its rows, down to single rows: with `b` bad rows among `n` that takes O(b log n) statements. Nothing is
//! read from a row to find it. Invariant: a row is blamed only after the same statement has succeeded without it, on
//! other rows or on none at all, in the same transaction. A server or session error ends the search and blames no row.

use std::time::Duration;

use tokio_postgres::error::SqlState;

use crate::clock::monotonic;
use crate::db::{DbError, Transaction};
use crate::failpoint::{Fault, fault};

/// Whose fault an error may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The server's, the session's or the schema's: whatever the rows are, it would have happened.
    Nobody,
    /// By its class the server's, but the session is sound: a statement of a trigger may meet it for one row alone.
    Doubtful,
    /// Perhaps that of a single row.
    Row,
}

/// An error that may be a row's fault.
pub trait MayBlame {
    fn blame(&self) -> Blame;
    /// `None`: the server sent the row, and our side could not read it.
    fn sqlstate(&self) -> Option<SqlState>;
}

/// Classes of SQLSTATE that concern the server or the session. 08 connection, 28 and 3D login, 26 statement names (a
/// pooler in between), 40 rollback (serialization, deadlock), 53 resources, 57 operator intervention, 58 system.
/// PostgreSQL documentation, appendix A.
const NOBODY_CLASSES: &[&str] = &["08", "26", "28", "3D", "40", "53", "57", "58"];

/// Single ones of other classes: a read-only server, a transaction that was ended for idling, missing grants, a broken
/// index.
const NOBODY: &[SqlState] = &[
    SqlState::READ_ONLY_SQL_TRANSACTION,
    SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
    SqlState::INSUFFICIENT_PRIVILEGE,
    SqlState::INDEX_CORRUPTED,
];

/// Whose fault an SQLSTATE may be. `statement_timeout`, `lock_timeout` and missing objects may be caused by a row,
/// since triggers run their own statements: [`cut`] finds out by running the statement without the row.
fn blame_of(code: &SqlState) -> Blame {
    if *code == SqlState::QUERY_CANCELED {
        return Blame::Row;
    }
    if fault(Fault::CheckBlamedOnServer) && *code == SqlState::CHECK_VIOLATION {
        return Blame::Nobody;
    }
    let class = code.code().get(..2).unwrap_or_default();
    if NOBODY_CLASSES.contains(&class) || NOBODY.contains(code) { Blame::Nobody } else { Blame::Row }
}

impl MayBlame for DbError {
    fn blame(&self) -> Blame {
        match (DbError::sqlstate(self), self) {
            (Some(code), _) => match blame_of(code) {
                // Whatever the class says: somebody has written it into a trigger.
                Blame::Nobody if self.is_raised_by_a_function() => Blame::Row,
                Blame::Nobody if self.keeps_session() => Blame::Doubtful,
                blame @ (Blame::Nobody | Blame::Doubtful | Blame::Row) => blame,
            },
            // The server did not object: a value that our side cannot read.
            (None, Self::Statement(_)) => Blame::Row,
            (None, Self::Unavailable(_) | Self::Denied(_)) => Blame::Nobody,
        }
    }

    fn sqlstate(&self) -> Option<SqlState> {
        DbError::sqlstate(self).cloned()
    }
}

/// Savepoints of a transaction, one at a time.
pub trait Savepoints {
    fn save(&self) -> impl Future<Output = Result<(), DbError>> + Send;
    /// Back to where it was saved.
    fn undo(&self) -> impl Future<Output = Result<(), DbError>> + Send;
    /// What was done since is kept.
    fn keep(&self) -> impl Future<Output = Result<(), DbError>> + Send;
}

impl Savepoints for Transaction<'_> {
    async fn save(&self) -> Result<(), DbError> {
        self.batch_execute("savepoint isolate").await
    }

    async fn undo(&self) -> Result<(), DbError> {
        self.batch_execute("rollback to savepoint isolate; release savepoint isolate").await
    }

    async fn keep(&self) -> Result<(), DbError> {
        self.batch_execute("release savepoint isolate").await
    }
}

/// A row that makes its statement fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused<T> {
    pub item: T,
    /// `None`: the server sent the row, and our side could not read it.
    pub sqlstate: Option<SqlState>,
}

impl<T> Refused<T> {
    /// For people: the SQLSTATE and what it is called. Never the message of the server, which may quote the row.
    pub fn reason(&self) -> String {
        reason(self.sqlstate.as_ref())
    }
}

/// The SQLSTATE in words that hold nothing of the row.
pub fn reason(sqlstate: Option<&SqlState>) -> String {
    match sqlstate {
        Some(code) => format!("SQLSTATE {}", code.code()),
        None => "the value cannot be represented".to_owned(),
    }
}

/// What became of the rows.
#[derive(Debug, PartialEq, Eq)]
pub struct Cut<T, R> {
    /// The answers for the parts that worked, in the order of their rows.
    pub done: Vec<R>,
    pub refused: Vec<Refused<T>>,
    /// There was no time for these; nothing was done with them.
    pub left: Vec<T>,
}

/// Runs `work` on all `items` at once if that works, and otherwise on smaller and smaller parts, in order. It is also
/// run on no item at all, which must do no harm. After `until`, on the clock of [`monotonic`], what is not done yet is
/// left; at least one part is tried.
///
/// Errors: those of which no row is to blame. The transaction has to be rolled back then.
pub async fn cut<S, T, R, E, F>(
    savepoints: &S,
    items: &[T],
    until: Duration,
    work: impl FnMut(Vec<T>) -> F,
) -> Result<Cut<T, R>, E>
where
    S: Savepoints,
    T: Clone,
    F: Future<Output = Result<R, E>>,
    E: MayBlame + From<DbError>,
{
    cut_where(savepoints, items, until, |blame| blame == Blame::Row, work).await
}

/// As [`cut`], outside of steps. A row is looked for even where PostgreSQL blames itself: a trigger may read what this
/// role may not, a file that is missing, or more than fits into memory. Such an error is held against a row only if
/// other rows succeed.
///
/// Errors: also one by which PostgreSQL blames itself, where no row succeeds.
pub async fn cut_proven<S, T, R, E, F>(
    savepoints: &S,
    items: &[T],
    until: Duration,
    mut work: impl FnMut(Vec<T>) -> F,
) -> Result<Cut<T, R>, E>
where
    S: Savepoints,
    T: Clone,
    F: Future<Output = Result<R, E>>,
    E: MayBlame + From<DbError>,
{
    let cut = cut_where(savepoints, items, until, |blame| blame != Blame::Nobody, &mut work).await?;
    if let ([], [first, ..]) = (&cut.done[..], &cut.refused[..]) {
        savepoints.save().await?;
        let again = work(vec![first.item.clone()]).await;
        savepoints.undo().await?;
        match again {
            Err(error) if error.blame() == Blame::Doubtful => return Err(error),
            Ok(_) | Err(_) => {}
        }
    }
    Ok(cut)
}

/// As [`cut`]; `may_be_a_row` says for which errors a row is looked for.
pub async fn cut_where<S, T, R, E, F>(
    savepoints: &S,
    items: &[T],
    until: Duration,
    may_be_a_row: impl Fn(Blame) -> bool,
    mut work: impl FnMut(Vec<T>) -> F,
) -> Result<Cut<T, R>, E>
where
    S: Savepoints,
    T: Clone,
    F: Future<Output = Result<R, E>>,
    E: MayBlame + From<DbError>,
{
    let mut result = Cut { done: Vec::new(), refused: Vec::new(), left: Vec::new() };
    // The next part is at the end.
    let mut parts: Vec<_> = std::iter::once(0..items.len()).collect();
    let (mut works, mut tried) = (false, false);
    while let Some(part) = parts.pop() {
        let rows = items.get(part.clone()).unwrap_or_default();
        if rows.is_empty() {
            continue;
        }
        if tried && monotonic() >= until {
            result.left.extend_from_slice(rows);
            continue;
        }
        tried = true;
        savepoints.save().await?;
        let error = match work(rows.to_vec()).await {
            Ok(done) => {
                savepoints.keep().await?;
                result.done.push(done);
                works = true;
                continue;
            }
            Err(error) => error,
        };
        if !may_be_a_row(error.blame()) {
            return Err(error);
        }
        savepoints.undo().await?;
        if let [row] = rows {
            if !works {
                // Undone as well: it is only to be seen whether the statement works.
                savepoints.save().await?;
                if work(Vec::new()).await.is_err() {
                    return Err(error);
                }
                savepoints.undo().await?;
                works = true;
            }
            result.refused.push(Refused { item: row.clone(), sqlstate: error.sqlstate() });
            continue;
        }
        let middle = part.start + rows.len() / 2;
        parts.push(middle..part.end);
        parts.push(part.start..middle);
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// A table: what it holds, and what it held when it was saved.
    #[derive(Default)]
    struct Table {
        rows: RefCell<Vec<i64>>,
        saved: RefCell<Option<Vec<i64>>>,
        statements: RefCell<usize>,
    }

    impl Savepoints for Table {
        fn save(&self) -> impl Future<Output = Result<(), DbError>> + Send {
            assert!(self.saved.replace(Some(self.rows.borrow().clone())).is_none(), "one savepoint at a time");
            std::future::ready(Ok(()))
        }

        fn undo(&self) -> impl Future<Output = Result<(), DbError>> + Send {
            self.rows.replace(self.saved.take().expect("saved before"));
            std::future::ready(Ok(()))
        }

        fn keep(&self) -> impl Future<Output = Result<(), DbError>> + Send {
            self.saved.take().expect("saved before");
            std::future::ready(Ok(()))
        }
    }

    #[derive(Debug, PartialEq, Eq)]
    struct Fault(SqlState);

    /// By its class the server's.
    #[derive(Debug, PartialEq, Eq)]
    struct Doubtful(SqlState);

    impl MayBlame for Doubtful {
        fn blame(&self) -> Blame {
            Blame::Doubtful
        }

        fn sqlstate(&self) -> Option<SqlState> {
            Some(self.0.clone())
        }
    }

    impl From<DbError> for Doubtful {
        fn from(error: DbError) -> Self {
            panic!("{error}")
        }
    }

    fn insert_doubtfully(
        table: &Table,
        part: Vec<i64>,
        is_bad: fn(i64) -> bool,
    ) -> impl Future<Output = Result<(), Doubtful>> {
        let refused = part.iter().any(|row| is_bad(*row));
        if !refused {
            table.rows.borrow_mut().extend(part);
        }
        std::future::ready(if refused { Err(Doubtful(SqlState::INSUFFICIENT_PRIVILEGE)) } else { Ok(()) })
    }

    impl MayBlame for Fault {
        fn blame(&self) -> Blame {
            blame_of(&self.0)
        }

        fn sqlstate(&self) -> Option<SqlState> {
            Some(self.0.clone())
        }
    }

    impl From<DbError> for Fault {
        fn from(_: DbError) -> Self {
            Self(SqlState::CONNECTION_FAILURE)
        }
    }

    /// Writes the rows; like PostgreSQL it may have written some before it meets a bad one.
    #[expect(clippy::unused_async, reason = "it stands for a statement")]
    async fn insert(table: &Table, rows: Vec<i64>, bad: impl Fn(i64) -> Option<SqlState>) -> Result<usize, Fault> {
        *table.statements.borrow_mut() += 1;
        let all = rows.len();
        for row in rows {
            if let Some(code) = bad(row) {
                return Err(Fault(code));
            }
            table.rows.borrow_mut().push(row);
        }
        Ok(all)
    }

    fn negative(row: i64) -> Option<SqlState> {
        (row < 0).then_some(SqlState::CHECK_VIOLATION)
    }

    #[tokio::test]
    async fn bad_rows_are_found_among_any_number_of_good_ones() {
        for bad in [0_usize, 1, 2, 7, 64] {
            for good in [0_usize, 1, 2, 9, 1_000] {
                for seed in 0..3 {
                    let mut rows: Vec<i64> = (1..=good as i64).chain((1..=bad as i64).map(|n| -n)).collect();
                    fastrand::Rng::with_seed(seed).shuffle(&mut rows);
                    let table = Table::default();
                    let cut = cut(&table, &rows, Duration::MAX, |part: Vec<i64>| insert(&table, part, negative));
                    let cut = cut.await.unwrap();
                    let case = format!("{bad} bad, {good} good");
                    let expected: Vec<_> = rows.iter().copied().filter(|row| *row < 0).collect();
                    assert_eq!(cut.refused.iter().map(|row| row.item).collect::<Vec<_>>(), expected, "{case}");
                    let kept: Vec<_> = rows.iter().copied().filter(|row| *row > 0).collect();
                    assert_eq!(*table.rows.borrow(), kept, "{case}: in order, each once");
                    assert_eq!((cut.done.iter().sum::<usize>(), cut.left.len()), (good, 0), "{case}");
                    let levels = rows.len().max(1).ilog2() as usize + 2;
                    let statements = *table.statements.borrow();
                    assert!(statements <= 2 + 2 * bad * levels, "{case}: {statements} statements");
                }
            }
        }
    }

    #[tokio::test]
    async fn without_a_bad_row_there_is_one_statement() {
        let table = Table::default();
        let rows: Vec<i64> = (1..=500).collect();
        cut(&table, &rows, Duration::MAX, |part: Vec<i64>| insert(&table, part, negative)).await.unwrap();
        assert_eq!(*table.statements.borrow(), 1);
        cut(&table, &[], Duration::MAX, |part: Vec<i64>| insert(&table, part, negative)).await.unwrap();
        assert_eq!(*table.statements.borrow(), 1, "for no rows there is none");
    }

    #[tokio::test]
    async fn a_statement_that_fails_without_the_row_too_blames_nobody() {
        let table = Table::default();
        let missing = async |part: Vec<i64>| {
            if part.is_empty() {
                Err(Fault(SqlState::UNDEFINED_TABLE))
            } else {
                insert(&table, part, |_| Some(SqlState::UNDEFINED_TABLE)).await
            }
        };
        let ended = cut(&table, &[1, 2, 3, 4], Duration::MAX, missing).await;
        assert_eq!(ended, Err(Fault(SqlState::UNDEFINED_TABLE)));
    }

    #[tokio::test]
    async fn what_the_server_is_to_blame_for_ends_the_search_at_once() {
        for code in [
            SqlState::ADMIN_SHUTDOWN,
            SqlState::T_R_SERIALIZATION_FAILURE,
            SqlState::T_R_DEADLOCK_DETECTED,
            SqlState::DISK_FULL,
            SqlState::OUT_OF_MEMORY,
            SqlState::IO_ERROR,
            SqlState::INSUFFICIENT_PRIVILEGE,
            SqlState::READ_ONLY_SQL_TRANSACTION,
            SqlState::CONNECTION_FAILURE,
        ] {
            let table = Table::default();
            let work = |part: Vec<i64>| insert(&table, part, |_| Some(code.clone()));
            assert_eq!(cut(&table, &[1, 2, 3], Duration::MAX, work).await, Err(Fault(code.clone())));
            assert_eq!(*table.statements.borrow(), 1, "{code:?}");
        }
        for code in [
            SqlState::QUERY_CANCELED,
            SqlState::LOCK_NOT_AVAILABLE,
            SqlState::NUMERIC_VALUE_OUT_OF_RANGE,
            SqlState::CHARACTER_NOT_IN_REPERTOIRE,
            SqlState::RAISE_EXCEPTION,
            SqlState::UNIQUE_VIOLATION,
            SqlState::CARDINALITY_VIOLATION,
            SqlState::PROGRAM_LIMIT_EXCEEDED,
            SqlState::DATA_CORRUPTED,
            SqlState::from_code("ZZ999"),
        ] {
            assert_eq!(blame_of(&code), Blame::Row, "{code:?}");
        }
    }

    #[tokio::test]
    async fn an_error_of_the_server_is_a_rows_only_if_other_rows_succeed() {
        let doubtful = || Doubtful(SqlState::INSUFFICIENT_PRIVILEGE);
        let table = Table::default();
        let work = |part: Vec<i64>| insert_doubtfully(&table, part, |row| row < 0);
        let cut = cut_proven(&table, &[1, -1, 2], Duration::MAX, work).await.unwrap();
        assert_eq!((cut.refused.len(), cut.refused[0].item), (1, -1));
        assert_eq!(*table.rows.borrow(), [1, 2]);
        for rows in [&[-1, -2][..], &[-1]] {
            let work = |part: Vec<i64>| insert_doubtfully(&table, part, |row| row < 0);
            assert_eq!(cut_proven(&table, rows, Duration::MAX, work).await, Err(doubtful()), "{rows:?}");
        }
    }

    #[tokio::test]
    async fn what_there_is_no_time_for_is_left_and_nothing_is_lost() {
        let table = Table::default();
        let rows = [1, -1, 2, 3];
        let cut = cut(&table, &rows, Duration::ZERO, |part: Vec<i64>| insert(&table, part, negative));
        let cut = cut.await.unwrap();
        assert_eq!((cut.refused.len(), cut.left), (0, rows.to_vec()), "one try, and the rest is left");
        assert!(table.rows.borrow().is_empty());
    }

    #[test]
    fn a_reason_names_the_code_and_nothing_else() {
        let refused = |sqlstate| Refused { item: 1, sqlstate }.reason();
        assert_eq!(refused(Some(SqlState::CHECK_VIOLATION)), "SQLSTATE 23514");
        assert_eq!(refused(None), "the value cannot be represented");
    }
}
