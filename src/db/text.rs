//! Text as PostgreSQL stores it, which need not be UTF-8: rows may have been written while the database had another
//! encoding, or come from an old dump.

use tokio_postgres::types::{FromSql, Type};

/// A text column. Reading one never fails: bytes that are no UTF-8 are replaced.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoredText(String);

impl From<StoredText> for String {
    fn from(text: StoredText) -> Self {
        text.0
    }
}

impl<'a> FromSql<'a> for StoredText {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(String::from_utf8_lossy(raw).into_owned()))
    }

    fn accepts(ty: &Type) -> bool {
        matches!(*ty, Type::TEXT | Type::VARCHAR)
    }
}

/// A text of a row, or `None` for null.
pub fn stored_text(row: &tokio_postgres::Row, column: &str) -> Result<Option<String>, tokio_postgres::Error> {
    Ok(row.try_get::<_, Option<StoredText>>(column)?.map(String::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_text_are_replaced() {
        let text = |raw: &[u8]| String::from(StoredText::from_sql(&Type::TEXT, raw).expect("a text"));
        assert_eq!(text("größer".as_bytes()), "größer");
        assert_eq!(text(b"a\xff\xc3b"), "a\u{fffd}\u{fffd}b");
    }
}
