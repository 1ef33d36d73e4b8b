//! The page: head, sections in order, notes.

use crate::charts::{trade_offs, training};
use crate::compare::{Comparable, Comparison};
use crate::error::ReportError;
use crate::format;
use crate::html::escape;
use crate::layers::layers;
use crate::palette;
use crate::record::{DemoRecord, MachineRecord, RunRecord};
use crate::runs::runs;
use crate::summary::tiles;
use crate::table::table;

/// Draws a demo's report: a whole HTML page that needs nothing beside it.
///
/// A record of no or one variant gives a page with what there is.
///
/// # Errors
/// The plotting library's.
pub fn render_demo(record: &DemoRecord) -> Result<String, ReportError> {
    let comparison = Comparison::of_demo(record);
    let title = if record.title.trim().is_empty() { "Penjing demo" } else { &record.title };
    let mut about = vec![("Seed", record.seed.to_string())];
    about.extend(record.wall_s.map(|s| ("Time", format::duration(s))));
    about.extend(machine_facts(&record.machine));
    let body = [
        header(title, &record.summary, &about),
        tiles(&comparison),
        table(&comparison),
        training(&comparison)?,
        trade_offs(&comparison)?,
        layers(&comparison),
        notes(&record.notes),
    ];
    Ok(page(title, &body.concat()))
}

/// Draws the report of one run, or of several side by side, against the first.
///
/// # Errors
/// No runs at all; the plotting library's.
pub fn render_runs(records: &[RunRecord]) -> Result<String, ReportError> {
    let first = records.first().ok_or(ReportError::NoRuns)?;
    let comparison = Comparison::of_runs(records);
    let title = match records.len() {
        1 => format!("Penjing run: {}", comparison.rows[0].name),
        n => format!("Penjing: {n} runs compared"),
    };
    let seconds: f64 = records.iter().flat_map(|r| &r.steps).filter_map(|s| s.wall_s).filter(|s| s.is_finite()).sum();
    let mut about = Vec::new();
    if records.iter().all(|r| r.seed == first.seed) {
        about.push(("Seed", first.seed.to_string()));
    }
    if seconds > 0.0 {
        about.push(("Time in steps", format::duration(seconds)));
    }
    if comparison.machine == Comparable::Yes {
        about.extend(machine_facts(&first.machine));
    }
    let mut all_notes: Vec<String> = Vec::new();
    for note in records.iter().flat_map(|r| &r.notes) {
        if !all_notes.contains(note) {
            all_notes.push(note.clone());
        }
    }
    let body = [
        header(&title, "", &about),
        tiles(&comparison),
        table(&comparison),
        training(&comparison)?,
        trade_offs(&comparison)?,
        layers(&comparison),
        runs(records, &comparison),
        notes(&all_notes),
    ];
    Ok(page(&title, &body.concat()))
}

/// A list of names and texts; those without a text are left out.
pub(crate) fn facts(pairs: &[(&str, String)]) -> String {
    let items: String = pairs
        .iter()
        .filter(|(_, text)| !text.trim().is_empty())
        .map(|(name, text)| format!("<div><dt>{name}</dt><dd>{}</dd></div>", escape(text)))
        .collect();
    if items.is_empty() { items } else { format!("<dl class=\"about\">{items}</dl>\n") }
}

/// A machine as facts.
pub(crate) fn machine_facts(machine: &MachineRecord) -> Vec<(&'static str, String)> {
    let number = |n: Option<u64>| n.map_or(String::new(), format::count);
    vec![
        ("Processor", machine.cpu.clone()),
        ("Cores", number(machine.cores)),
        ("Threads", number(machine.threads)),
        ("Kernels", machine.isa.clone()),
        ("System", machine.os.clone()),
    ]
}

fn header(title: &str, summary: &str, about: &[(&str, String)]) -> String {
    let summary =
        if summary.trim().is_empty() { String::new() } else { format!("<p class=\"lead\">{}</p>\n", escape(summary)) };
    format!("<header><h1>{}</h1>\n{summary}{}</header>\n", escape(title), facts(about))
}

fn notes(notes: &[String]) -> String {
    if notes.is_empty() {
        return String::new();
    }
    let items: String = notes.iter().map(|note| format!("<li>{}</li>\n", escape(note))).collect();
    format!("<section class=\"notes\"><h2>How the numbers were measured</h2><ul>\n{items}</ul></section>\n")
}

fn page(title: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>{}</title>\n<style>\n{}{}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n",
        escape(title),
        palette::style_sheet(),
        include_str!("page.css"),
    )
}
