//! Tables: no borders, numbers right-aligned, colour by meaning. On a terminal long cells wrap; elsewhere a row is one
//! line, so that `grep` and `awk` work.

use std::io::{self, IsTerminal};

use comfy_table::{Attribute, CellAlignment, Color, ContentArrangement, presets};

use super::printable;

/// Below this, wrapped cells are harder to read than lines that the terminal breaks.
const COLUMNS_MIN: u16 = 40;

/// Side of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    Left,
    /// For numbers.
    Right,
}

/// What a cell means for the reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    Plain,
    Good,
    Warning,
    Bad,
    Faint,
}

/// One cell. Made from text or numbers; absent values print as `-`.
#[derive(Debug, Clone)]
pub struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    pub fn new(text: impl ToString) -> Self {
        Self { text: text.to_string(), tone: Tone::Plain }
    }

    pub fn optional(value: Option<impl ToString>) -> Self {
        value.map_or_else(|| Self::new("-").tone(Tone::Faint), Self::new)
    }

    #[must_use]
    pub fn tone(mut self, tone: Tone) -> Self {
        self.tone = tone;
        self
    }
}

/// Rows under a header.
#[derive(Debug)]
pub struct Table {
    inner: comfy_table::Table,
}

impl Table {
    pub fn new(columns: &[(&str, Align)]) -> Self {
        let mut inner = comfy_table::Table::new();
        inner.load_style(presets::NOTHING);
        // Styles are always written; where there shall be none the stream removes them.
        inner.enforce_styling();
        inner.style_text_only();
        // Some terminals have no size (a pseudo terminal that nobody set up): nothing can be fitted into that.
        if io::stdout().is_terminal() && inner.width().is_some_and(|width| width >= COLUMNS_MIN) {
            inner.set_content_arrangement(ContentArrangement::Dynamic);
        }
        inner.set_header(columns.iter().map(|(name, _)| comfy_table::Cell::new(name).add_attribute(Attribute::Bold)));
        for (column, (_, align)) in inner.column_iter_mut().zip(columns) {
            column.set_padding((0, 2));
            column.set_cell_alignment(match align {
                Align::Left => CellAlignment::Left,
                Align::Right => CellAlignment::Right,
            });
        }
        Self { inner }
    }

    /// As many cells as there are columns.
    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.inner.add_row(cells.into_iter().map(|cell| {
            let styled = comfy_table::Cell::new(printable(&cell.text));
            match cell.tone {
                Tone::Plain => styled,
                Tone::Good => styled.fg(Color::DarkGreen),
                Tone::Warning => styled.fg(Color::DarkYellow),
                Tone::Bad => styled.fg(Color::DarkRed),
                Tone::Faint => styled.add_attribute(Attribute::Dim),
            }
        }));
    }

    pub fn is_empty(&self) -> bool {
        self.inner.is_empty()
    }

    /// The table as lines, the last one ended too.
    pub fn render(&self) -> String {
        self.inner.lines().fold(String::new(), |mut text, line| {
            text.push_str(line.trim_end());
            text.push('\n');
            text
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_on_the_right_and_nothing_follows_the_last_column() {
        let mut table = Table::new(&[("TOPIC", Align::Left), ("LAG", Align::Right)]);
        table.row([Cell::new("orders"), Cell::new(7)]);
        table.row([Cell::new("catalog-events"), Cell::new(1_234).tone(Tone::Bad)]);
        let plain = anstream::adapter::strip_str(&table.render()).to_string();
        let lines: Vec<_> = plain.lines().collect();
        assert_eq!(lines, ["TOPIC            LAG", "orders             7", "catalog-events  1234"]);
    }
}
