//! The table of variants: every number beside the others, and what it is against the baseline.

use crate::charts::mark;
use crate::compare::{Comparable, Comparison, Row};
use crate::format::{self, NONE, Unit};
use crate::html::escape;

/// The table, one row a variant; a sentence where there are no rows.
pub(crate) fn table(comparison: &Comparison) -> String {
    if comparison.rows.is_empty() {
        return "<section><h2>Results</h2><p>The record holds no variants.</p></section>\n".to_owned();
    }
    let columns = columns(comparison);
    let body: String = comparison
        .rows
        .iter()
        .enumerate()
        .map(|(i, row)| {
            let cells: String = columns.iter().map(|c| format!("<td>{}</td>", c.cell(comparison, i))).collect();
            format!("<tr>{}{cells}</tr>\n", head(comparison, i, row))
        })
        .collect();
    let heads: String =
        columns.iter().map(|c| format!("<th scope=\"col\">{}<small>{}</small></th>", c.title, c.unit)).collect();
    let noun = if comparison.noun == "run" { "Run" } else { "Variant" };
    format!(
        "<section><h2>Results</h2><div class=\"scroll\"><table class=\"results\">\n\
         <thead><tr><th scope=\"col\">{noun}<small>file</small></th>{heads}</tr></thead>\n<tbody>\n{body}</tbody></table></div>\n\
         {}</section>\n",
        legend(comparison)
    )
}

/// One column of numbers.
struct Column<'a> {
    title: &'static str,
    unit: &'static str,
    kind: Kind,
    /// The text of a row; `None` is a dash.
    text: Box<dyn Fn(usize) -> Option<String> + 'a>,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// A row's own number.
    Own,
    /// A comparison with the baseline, whose own cell is empty.
    Against,
}

impl Column<'_> {
    fn cell(&self, comparison: &Comparison, idx: usize) -> String {
        match self.kind {
            Kind::Against if idx == comparison.baseline => String::new(),
            _ => (self.text)(idx).unwrap_or_else(|| NONE.to_owned()),
        }
    }
}

/// The columns in order; those that compare only where there is something to compare with.
fn columns<'a>(comparison: &'a Comparison) -> Vec<Column<'a>> {
    fn of<'b>(
        title: &'static str,
        unit: &'static str,
        kind: Kind,
        text: impl Fn(usize) -> Option<String> + 'b,
    ) -> Column<'b> {
        Column { title, unit, kind, text: Box::new(text) }
    }
    let c = comparison;
    let rows = &c.rows;
    let size = Unit::bytes(rows.iter().filter_map(|r| r.bytes));
    let latency = Unit::times(rows.iter().filter_map(|r| r.latency_ms));
    let memory = Unit::megabytes(rows.iter().filter_map(|r| r.peak_rss_mb));
    let mut columns = vec![
        of("Accuracy", "%", Kind::Own, |i| rows[i].accuracy.map(|a| format::fixed(a * 100.0, 2))),
        of("Change", "points", Kind::Against, |i| c.accuracy_gain(i).map(format::points)),
        of("Size", size.sign, Kind::Own, move |i| rows[i].bytes.map(|b| size.number(b))),
        of("Smaller", "ratio", Kind::Against, |i| c.size_ratio(i).map(format::times)),
        of("Nonzero", "of parameters", Kind::Own, |i| nonzero(&rows[i])),
        of("Latency", latency.sign, Kind::Own, move |i| rows[i].latency_ms.map(|t| latency.number(t))),
        of("Faster", "ratio", Kind::Against, |i| c.speed_up(i).map(format::times)),
        of("Peak memory", memory.sign, Kind::Own, move |i| rows[i].peak_rss_mb.map(|m| memory.number(m))),
    ];
    if rows.len() == 1 {
        columns.retain(|column| column.kind == Kind::Own);
    }
    columns
}

fn head(comparison: &Comparison, idx: usize, row: &Row) -> String {
    let badge = if idx == comparison.baseline && comparison.rows.len() > 1 { " <i>baseline</i>" } else { "" };
    let file = if row.file.is_empty() { String::new() } else { format!("<small>{}</small>", escape(row.file)) };
    format!("<th scope=\"row\"><div>{}<span>{}{badge}{file}</span></div></th>", mark(idx), escape(&row.name))
}

fn nonzero(row: &Row) -> Option<String> {
    let counted = match (row.nonzero_share(), row.nonzero, row.params) {
        (Some(share), Some(n), Some(of)) => {
            let counts = format!("{} of {}", format::short_count(n), format::short_count(of));
            format!("{}<small>{counts}</small>", format::percent(share, 1))
        }
        (_, Some(n), _) => format!("{}<small>parameters</small>", format::short_count(n)),
        (_, None, Some(of)) => format!("{NONE}<small>of {}</small>", format::short_count(of)),
        (_, None, None) => return None,
    };
    Some(counted)
}

/// What the comparing columns mean, and what could not be compared.
fn legend(comparison: &Comparison) -> String {
    let mut text = String::new();
    if comparison.rows.len() > 1 {
        let name = escape(&comparison.rows[comparison.baseline].name);
        text.push_str(&format!("Change, smaller and faster are against <strong>{name}</strong>. "));
    }
    if comparison.machine == Comparable::No {
        text.push_str("The runs come from different machines, so latencies and memory stand without a ratio. ");
    }
    if comparison.data == Comparable::No {
        text.push_str("The runs used different data, so accuracies stand without a difference. ");
    }
    text.push_str(&format!("“{NONE}” stands for what was not measured or cannot be compared."));
    format!("<p class=\"legend-text\">{text}</p>")
}
