//! The demo's last word: a table of all variants.

use penjing_report::DemoRecord;

/// One line a variant.
pub(super) fn table(record: &DemoRecord) -> String {
    let mut out = format!(
        "\n{:<15}{:>11}{:>10}{:>11}{:>13}{:>10}\n",
        "variant", "bytes", "accuracy", "non-zero", "latency", "peak MB"
    );
    for v in &record.variants {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
        out.push_str(&format!(
            "{:<15}{:>11}{:>10}{:>11}{:>13}{:>10}\n",
            v.name,
            or_dash(v.bytes.map(|b| b.to_string())),
            or_dash(v.accuracy.map(|a| format!("{:.2} %", 100.0 * a))),
            or_dash(v.nonzero.map(|n| n.to_string())),
            or_dash(v.latency_ms.map(|ms| format!("{ms:.3} ms"))),
            or_dash(v.peak_rss_mb.map(|mb| format!("{mb:.1}"))),
        ));
    }
    out.push_str(&format!("\n{:.1} s in all\n", record.wall_s.unwrap_or(0.0)));
    out
}
