//! Draws `top`: a head of figures, one table, and the keys. Knows no database and no terminal.
//!
//! From about 40 columns and 10 lines on it is useful; below that it is cut off, and never panics.

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Table};

use super::grid::{Grid, Tab, about, between, grouped, rate};
use crate::operations::top::{Look, Snapshot};
use crate::output::{self, Tone};

/// What is to be drawn.
pub(super) struct View<'a> {
    pub(super) snapshot: &'a Snapshot,
    /// The last look, which may have found PostgreSQL away.
    pub(super) last: &'a Look,
    /// Seconds that the look in progress has taken, when that is long.
    pub(super) waiting: Option<u64>,
    pub(super) tab: Tab,
    /// First row shown.
    pub(super) scroll: usize,
    pub(super) frozen: bool,
    pub(super) colour: bool,
}

impl View<'_> {
    /// Returns the first row that was shown: there may be fewer than asked for.
    pub(super) fn draw(&self, frame: &mut Frame<'_>) -> usize {
        let [head, tabs, body, foot] =
            Layout::vertical([Constraint::Length(4), Constraint::Length(1), Constraint::Min(0), Constraint::Length(1)])
                .areas(frame.area());
        let lines = vec![self.title(head.width), self.state(), self.totals(), self.rates()];
        frame.render_widget(Paragraph::new(lines), head);
        let grid = Grid::of(self.tab, self.snapshot).fit(body.width);
        // One line is the header of the table.
        let room = usize::from(body.height.saturating_sub(1));
        let first = self.scroll.min(grid.rows.len().saturating_sub(room));
        frame.render_widget(self.tabs(tabs.width, &grid, first, room), tabs);
        self.table(frame, body, &grid, first, room);
        frame.render_widget(Paragraph::new(self.keys()), foot);
        first
    }

    fn style(&self, tone: Tone) -> Style {
        let style = Style::new();
        match (tone, self.colour) {
            (Tone::Plain, _) => style,
            (Tone::Faint, _) => style.add_modifier(Modifier::DIM),
            (Tone::Good, true) => style.fg(Color::Green),
            (Tone::Warning, true) => style.fg(Color::Yellow),
            (Tone::Bad, true) => style.fg(Color::Red),
            (Tone::Good, false) => style,
            (Tone::Warning | Tone::Bad, false) => style.add_modifier(Modifier::BOLD),
        }
    }

    fn span(&self, text: impl Into<String>, tone: Tone) -> Span<'static> {
        Span::styled(text.into(), self.style(tone))
    }

    /// Where this is. The time stays when it gets narrow, and the rest goes from the right.
    fn title(&self, width: u16) -> Line<'static> {
        let Snapshot { database, deployment, delivery, at, .. } = self.snapshot;
        let clock = at.get(11..19).unwrap_or_default();
        let room = usize::from(width).saturating_sub(clock.len() + 1);
        let name = format!("{} · {} · {delivery}", output::printable(deployment), output::printable(database));
        let name = output::shortened(&name, room).into_owned();
        let gap = " ".repeat((room + 1).saturating_sub(name.chars().count()));
        Line::from(vec![
            Span::styled(name, Style::new().add_modifier(Modifier::BOLD)),
            Span::raw(gap),
            Span::raw(clock.to_owned()),
        ])
    }

    /// What an operator must know first: an outage, a freeze, else who works and what is paused.
    fn state(&self) -> Line<'static> {
        if let Look::Unreachable { at, since, error } = self.last {
            let ago = between(since, at).map_or_else(String::new, |ago| format!(" ({})", output::age(ago)));
            let clock = since.get(11..19).unwrap_or(since);
            let text = format!("PostgreSQL away since {clock}{ago}: {}", output::printable(error));
            return Line::from(self.span(text, Tone::Bad));
        }
        if self.frozen {
            return Line::from(self.span(format!("FROZEN at {}: p goes on", self.snapshot.at), Tone::Warning));
        }
        if let Some(seconds) = self.waiting {
            return Line::from(self.span(format!("PostgreSQL has not responded for {seconds} s"), Tone::Warning));
        }
        let alive = self.snapshot.instances.iter().filter(|instance| instance.alive).count();
        let owned = self.snapshot.shards.iter().filter(|shard| shard.is_owned()).count();
        let all = self.snapshot.shards.len();
        let tone = |good| if good { Tone::Plain } else { Tone::Bad };
        let mut spans = vec![
            self.span(format!("{alive} alive"), tone(alive > 0)),
            Span::raw(" · "),
            self.span(format!("{owned}/{all} shards"), tone(owned == all)),
        ];
        let paused: Vec<_> = self
            .snapshot
            .pauses
            .iter()
            .map(|pause| if pause.topic == "*" { "everything".into() } else { output::printable(&pause.topic) })
            .collect();
        if !paused.is_empty() {
            spans.push(Span::raw(" · "));
            spans.push(self.span(format!("paused: {}", paused.join(", ")), Tone::Warning));
        }
        Line::from(spans)
    }

    fn totals(&self) -> Line<'static> {
        let oldest = self.snapshot.oldest_pending_seconds.map_or_else(|| "-".to_owned(), output::age_of);
        let mut spans = Vec::new();
        match &self.snapshot.outbox {
            Some(outbox) => {
                let tone = |count, bad| if count > 0 { bad } else { Tone::Plain };
                spans.push(Span::raw(format!("pending {}", grouped(outbox.pending))));
                spans.push(self.span(format!(" failed {}", grouped(outbox.failed)), tone(outbox.failed, Tone::Bad)));
                spans.push(self.span(format!(" held {}", grouped(outbox.held)), tone(outbox.held, Tone::Warning)));
                let ago = self.snapshot.outbox_counted_seconds_ago.filter(|ago| *ago >= 2.0);
                if let Some(ago) = ago {
                    spans.push(self.span(format!(" ({} ago)", output::age_of(ago)), Tone::Faint));
                }
            }
            None => spans.push(self.span("pending: too many to count", Tone::Warning)),
        }
        spans.push(Span::raw(format!(" oldest {oldest}")));
        spans.push(self.span(format!(" of ~{} rows", about(self.snapshot.rows_estimate)), Tone::Faint));
        Line::from(spans)
    }

    fn rates(&self) -> Line<'static> {
        let Some(rates) = &self.snapshot.rates else {
            return Line::from(self.span("rates: after the next look", Tone::Faint));
        };
        let mut text = format!(
            "rows/s ~{} in ~{} updated · {} batches/s",
            rate(rates.inserted_rows_per_second_estimate),
            rate(rates.updated_rows_per_second_estimate),
            rate(rates.batches_per_second)
        );
        if rates.deleted_rows_per_second_estimate > 0.0 {
            text.push_str(&format!(" · ~{} deleted", rate(rates.deleted_rows_per_second_estimate)));
        }
        Line::from(text)
    }

    fn tabs(&self, width: u16, grid: &Grid, first: usize, room: usize) -> Line<'static> {
        let total = grid.rows.len();
        let place = match total > room {
            true => format!("  {}-{} of {total}", first + 1, (first + room).min(total)),
            false => String::new(),
        };
        let chosen = Style::new().add_modifier(Modifier::REVERSED);
        let mut spans = Vec::new();
        for tab in Tab::ALL {
            let style = if tab == self.tab { chosen } else { self.style(Tone::Faint) };
            spans.push(Span::styled(format!(" {} ", tab.title()), style));
        }
        let line = Line::from(spans);
        if line.width() + place.chars().count() <= usize::from(width) {
            let mut line = line;
            line.push_span(Span::raw(place));
            return line;
        }
        let at = Tab::ALL.iter().position(|tab| *tab == self.tab).unwrap_or_default() + 1;
        Line::from(vec![
            Span::styled(format!(" {} ", self.tab.title()), chosen),
            Span::raw(format!(" {at}/{}{place}", Tab::ALL.len())),
        ])
    }

    fn table(&self, frame: &mut Frame<'_>, area: Rect, grid: &Grid, first: usize, room: usize) {
        if grid.rows.is_empty() {
            frame.render_widget(Paragraph::new(self.span(grid.empty, Tone::Faint)), area);
            return;
        }
        let aligned = |text: &str, style, at: usize| {
            let side = if grid.columns[at].is_text { Alignment::Left } else { Alignment::Right };
            Cell::new(Line::from(text.to_owned()).alignment(side)).style(style)
        };
        let bold = Style::new().add_modifier(Modifier::BOLD);
        let header = Row::new(grid.columns.iter().enumerate().map(|(at, column)| aligned(column.title, bold, at)));
        let rows =
            grid.rows.iter().skip(first).take(room).map(|row| {
                Row::new(row.iter().enumerate().map(|(at, (text, tone))| aligned(text, self.style(*tone), at)))
            });
        let widths = grid.columns.iter().map(|column| match column.is_text {
            true => Constraint::Min(column.width),
            false => Constraint::Length(column.width),
        });
        let mut style = Style::new();
        if matches!(self.last, Look::Unreachable { .. }) {
            // It was so; nobody knows whether it is.
            style = style.add_modifier(Modifier::DIM);
        }
        frame.render_widget(Table::new(rows, widths).header(header).column_spacing(1).style(style), area);
    }

    fn keys(&self) -> Line<'static> {
        let freeze = if self.frozen { "p go on" } else { "p freeze" };
        Line::from(self.span(format!("q quit  tab next  ↑↓ scroll  {freeze}"), Tone::Faint))
    }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::operations::top::tests::snapshot;

    struct Case {
        look: Look,
        shown: Snapshot,
        tab: Tab,
        scroll: usize,
        frozen: bool,
        waiting: Option<u64>,
    }

    fn case(shards: i16) -> Case {
        let shown = snapshot(shards);
        Case {
            look: Look::Ok(Box::new(shown.clone())),
            shown,
            tab: Tab::Shards,
            scroll: 0,
            frozen: false,
            waiting: None,
        }
    }

    impl Case {
        fn draw(&self, width: u16, height: u16) -> (Vec<String>, usize) {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
            let view = View {
                snapshot: &self.shown,
                last: &self.look,
                waiting: self.waiting,
                tab: self.tab,
                scroll: self.scroll,
                frozen: self.frozen,
                colour: true,
            };
            let mut first = 0;
            terminal.draw(|frame| first = view.draw(frame)).unwrap();
            let buffer = terminal.backend().buffer();
            let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
            ((0..height).map(line).collect(), first)
        }
    }

    #[test]
    fn a_terminal_of_a_usual_size_shows_everything() {
        let expected = [
            "shop · db:5432/shop · at-least-once                                     12:00:00",
            "1 alive · 3/4 shards · paused: catalog-events",
            "pending 3 120 failed 2 held 8 oldest 0.8s of ~1.2M rows",
            "rows/s ~1 204 in ~1 190 updated · 35 batches/s",
            " Shards  Topics  Held keys  Consumers  Waits  Pauses  Instances",
            "SHARD OWNER                EPOCH   LEASE      BATCH IN FLIGHT HELD KEYS   OLDEST",
            "    0 relay-a                  7     14s      1 000       250         1     0.8s",
            "    1 relay-a                  7     14s      1 001       250         1     0.8s",
            "    2 relay-a                  7     14s      1 002       250         1     0.8s",
            "    3 nobody                   7       -      1 003       250         1     0.8s",
            "",
            "q quit  tab next  ↑↓ scroll  p freeze",
        ];
        assert_eq!(case(4).draw(80, 12).0, expected);
    }

    #[test]
    fn a_small_terminal_shows_what_matters_of_256_shards() {
        let expected = [
            "shop · db:5432/shop · at-least… 12:00:00",
            "1 alive · 192/256 shards · paused: catal",
            "pending 3 120 failed 2 held 8 oldest 0.8",
            "rows/s ~1 204 in ~1 190 updated · 35 bat",
            " Shards  1/7  254-256 of 256",
            "SHARD OWNER               LEASE   OLDEST",
            "  253 relay-a               14s     0.8s",
            "  254 relay-a               14s     0.8s",
            "  255 nobody                  -     0.8s",
            "q quit  tab next  ↑↓ scroll  p freeze",
        ];
        // Scrolled further than there are rows: the last ones are shown, and the next key counts from there.
        let (lines, first) = Case { scroll: 10_000, ..case(256) }.draw(40, 10);
        assert_eq!(lines, expected);
        assert_eq!(first, 253);
    }

    #[test]
    fn each_table_fits_a_narrow_terminal() {
        let lines = |tab| Case { tab, ..case(1) }.draw(40, 10).0[4..9].join("\n");
        assert!(lines(Tab::Topics).contains("(by routing)               120         0"), "{}", lines(Tab::Topics));
        assert!(lines(Tab::Held).contains("failed"), "{}", lines(Tab::Held));
        assert!(lines(Tab::Consumers).contains("≥41"), "{}", lines(Tab::Consumers));
        let pauses = lines(Tab::Pauses);
        assert!(pauses.contains("catalog-events ") && pauses.contains(" 2026-05-01T11:00:00"), "{pauses}");
        assert!(lines(Tab::Instances).contains("relay-a"), "{}", lines(Tab::Instances));
    }

    #[test]
    fn an_outage_a_freeze_and_a_slow_answer_are_said_in_the_second_line() {
        let second = |case: Case| case.draw(80, 12).0[1].clone();
        let look = Look::Unreachable {
            at: "2026-05-01T12:03:20Z".to_owned(),
            since: "2026-05-01T12:00:00Z".to_owned(),
            error: "cannot reach PostgreSQL".to_owned(),
        };
        let away = second(Case { look, ..case(1) });
        assert_eq!(away, "PostgreSQL away since 12:00:00 (3m 20s): cannot reach PostgreSQL");
        assert_eq!(second(Case { frozen: true, ..case(1) }), "FROZEN at 2026-05-01T12:00:00Z: p goes on");
        assert_eq!(second(Case { waiting: Some(7), ..case(1) }), "PostgreSQL has not responded for 7 s");
    }

    #[test]
    fn an_empty_database_and_a_backlog_too_large_to_count_are_said() {
        let mut case = case(8);
        case.shown.rates = None;
        case.shown.consumers = Some(Vec::new());
        case.shown.instances.clear();
        let lines = Case { tab: Tab::Consumers, ..case }.draw(80, 12).0;
        assert_eq!(
            (lines[3].as_str(), lines[5].as_str()),
            ("rates: after the next look", "no consumer keeps its positions here")
        );
        let mut case = super::tests::case(8);
        case.shown.outbox = None;
        let lines = Case { tab: Tab::Topics, ..case }.draw(80, 12).0;
        assert_eq!(lines[2], "pending: too many to count oldest 0.8s of ~1.2M rows");
        assert!(lines[5].starts_with("too much waits"), "{}", lines[5]);
    }

    #[test]
    fn no_size_makes_it_panic() {
        for width in [0, 1, 2, 7, 39, 300] {
            for height in [0, 1, 3, 5, 6, 60] {
                for tab in Tab::ALL {
                    Case { tab, scroll: 3, ..case(256) }.draw(width, height);
                }
            }
        }
    }
}
