//! The three lines that a reader takes away: the most accurate, the smallest and the fastest variant.

use crate::compare::{Comparable, Comparison, Row};
use crate::format;
use crate::html::escape;

/// The tiles above the table; nothing for fewer than two rows.
pub(crate) fn tiles(comparison: &Comparison) -> String {
    if comparison.rows.len() < 2 {
        return String::new();
    }
    let mut out = String::new();
    if comparison.data == Comparable::Yes
        && let Some(i) = best(comparison, |r| r.accuracy.map(|a| -a))
    {
        out.push_str(&tile(comparison, i, "Most accurate", comparison.rows[i].accuracy.map(|a| format::percent(a, 2))));
    }
    if let Some(i) = best(comparison, |r| r.bytes) {
        out.push_str(&tile(comparison, i, "Smallest file", comparison.rows[i].bytes.map(format::bytes)));
    }
    if comparison.machine == Comparable::Yes
        && let Some(i) = best(comparison, |r| r.latency_ms)
    {
        out.push_str(&tile(comparison, i, "Fastest", comparison.rows[i].latency_ms.map(format::milliseconds)));
    }
    if out.is_empty() { out } else { format!("<div class=\"tiles\">{out}</div>\n") }
}

/// The row with the least cost, the first of equals, where at least two rows have one.
fn best(comparison: &Comparison, cost: impl Fn(&Row) -> Option<f64>) -> Option<usize> {
    let costs: Vec<(usize, f64)> =
        comparison.rows.iter().enumerate().filter_map(|(i, row)| Some((i, cost(row)?))).collect();
    let least = costs.iter().min_by(|a, b| a.1.total_cmp(&b.1))?;
    (costs.len() > 1).then_some(least.0)
}

fn tile(comparison: &Comparison, idx: usize, title: &str, value: Option<String>) -> String {
    let facts = [
        comparison.accuracy_gain(idx).map(|gain| format!("{} points", format::points(gain))),
        comparison.size_ratio(idx).map(|ratio| ratio_text(ratio, "smaller", "larger")),
        comparison.speed_up(idx).map(|ratio| ratio_text(ratio, "faster", "slower")),
    ];
    let facts: Vec<String> = facts.into_iter().flatten().collect();
    let facts = if idx == comparison.baseline { "the baseline".to_owned() } else { facts.join(" · ") };
    format!(
        "<div><h3>{title}</h3><p class=\"value\">{}</p><p>{}</p><p class=\"facts\">{facts}</p></div>",
        value.unwrap_or_default(),
        escape(&comparison.rows[idx].name),
    )
}

/// A ratio in words, never one below 1.
fn ratio_text(ratio: f64, above: &str, below: &str) -> String {
    match ratio {
        r if (0.995..1.005).contains(&r) => format!("as {}", if above == "smaller" { "large" } else { "fast" }),
        r if r < 1.0 => format!("{} {below}", format::times(1.0 / r)),
        r => format!("{} {above}", format::times(r)),
    }
}
