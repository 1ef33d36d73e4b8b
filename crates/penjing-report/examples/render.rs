//! Draws a report from a record: `cargo run -p penjing-report --example render -- report.json report.html`.
//!
//! A `report.json` is drawn as a demo's report; run folders and `record.json` files, of which there may be several before
//! the page's name, are compared.

use std::error::Error;
use std::path::PathBuf;

use penjing_report::{ReportError, read_demo, read_run, render_demo, render_runs};

fn main() -> Result<(), Box<dyn Error>> {
    let mut paths: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let page = paths.pop().ok_or("usage: render RECORD… PAGE.html")?;
    let html = match paths.as_slice() {
        [demo] if demo.ends_with("report.json") => render_demo(&read_demo(demo)?)?,
        runs => render_runs(&runs.iter().map(read_run).collect::<Result<Vec<_>, ReportError>>()?)?,
    };
    std::fs::write(page, html)?;
    Ok(())
}
