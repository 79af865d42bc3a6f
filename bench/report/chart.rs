//! The comparison as an SVG: one bar for each contender with its median rate and the span of its runs, and beside it
//! what a million events cost in CPU, split by process.

use std::fmt::Write as _;

use super::{Row, grouped};

const NAMES: f64 = 150.0;
const PANEL: f64 = 330.0;
const GAP: f64 = 90.0;
const TOP: f64 = 62.0;
const STEP: f64 = 34.0;
const BAR: f64 = 20.0;
const RATE: &str = "#3b6ea5";
const PROCESSES: [(&str, &str, &str); 3] = [
    ("/cpu/contender", "contender", "#3b6ea5"),
    ("/cpu/postgres", "PostgreSQL", "#e0a23c"),
    ("/cpu/kafka", "Kafka", "#7a9e5f"),
];

pub fn svg(rows: &[&Row]) -> String {
    let payload = rows[0].setting("payload");
    let rows: Vec<&&Row> = rows.iter().filter(|row| row.setting("payload") == payload).collect();
    let total = |row: &Row| PROCESSES.iter().map(|(path, ..)| row.median(path)).sum::<f64>();
    let most = |values: &mut dyn Iterator<Item = f64>| values.fold(1e-9, f64::max);
    let fastest = most(&mut rows.iter().map(|row| row.span("/rate").1));
    let dearest = most(&mut rows.iter().map(|row| total(row)));
    let second = NAMES + PANEL + GAP;
    let (width, height) = (second + PANEL + 60.0, TOP + STEP * rows.len() as f64 + 20.0);

    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"{NAMES}\" y=\"24\" font-weight=\"bold\">events/s, {payload} bytes: median, lowest to highest</text>\n\
         <text x=\"{second}\" y=\"24\" font-weight=\"bold\">CPU seconds for a million events</text>\n"
    );
    let mut add = |line: String| {
        out.push_str(&line);
        out.push('\n');
    };
    let mut x = second;
    for (_, name, colour) in PROCESSES {
        add(format!(
            "<rect x=\"{x}\" y=\"36\" width=\"11\" height=\"11\" fill=\"{colour}\"/><text x=\"{}\" y=\"46\">{name}</text>",
            x + 16.0
        ));
        x += 105.0;
    }
    for (index, row) in rows.iter().enumerate() {
        let y = TOP + STEP * index as f64;
        let text = y + BAR - 5.0;
        add(format!("<text x=\"{}\" y=\"{text}\" text-anchor=\"end\">{}</text>", NAMES - 10.0, row.contender));
        let scale = |rate: f64| rate / fastest * PANEL;
        let (rate, (low, high)) = (row.median("/rate"), row.span("/rate"));
        add(bar(NAMES, y, scale(rate), RATE));
        add(format!(
            "<path d=\"M{:.1} {:.1}H{:.1}\" stroke=\"#222222\" stroke-width=\"1.5\"/>",
            NAMES + scale(low),
            y + BAR / 2.0,
            NAMES + scale(high)
        ));
        add(format!("<text x=\"{:.1}\" y=\"{text}\">{}</text>", NAMES + scale(high) + 6.0, grouped(rate)));
        let mut x = second;
        for (path, _, colour) in PROCESSES {
            let length = row.median(path) / dearest * PANEL;
            add(bar(x, y, length, colour));
            x += length;
        }
        add(format!("<text x=\"{:.1}\" y=\"{text}\">{:.1}</text>", x + 6.0, total(row)));
    }
    let _infallible = writeln!(out, "</svg>");
    out
}

fn bar(x: f64, y: f64, length: f64, colour: &str) -> String {
    format!("<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{length:.1}\" height=\"{BAR}\" fill=\"{colour}\"/>")
}
