//! `penjing report`: the HTML page of one demo, or of one or several runs side by side.

use crate::{
    context::{Context, say},
    model_file::check_writable,
};
use anyhow::Result;
use clap::Args;
use penjing_data::write_atomically;
use penjing_report::{ReportError, read_demo, read_run, render_demo, render_runs};
use std::{io::Write, path::PathBuf};

/// Flags of `report`.
#[derive(Args)]
pub(crate) struct ReportArgs {
    /// Run folders or record.json files; or one demo's folder or report.json
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// The page to write
    #[arg(short, long, value_name = "OUT.html", default_value = "report.html")]
    output: PathBuf,
}

pub(crate) fn run(ctx: &Context, args: &ReportArgs) -> Result<()> {
    check_writable(&args.output)?;
    let demo = match args.runs.as_slice() {
        [one] if one.is_dir() => Some(one.join("report.json")).filter(|p| p.is_file()),
        [one] => Some(one.clone()).filter(|p| p.ends_with("report.json")),
        _ => None,
    };
    let html = match demo {
        Some(path) => render_demo(&read_demo(path)?)?,
        None => render_runs(&args.runs.iter().map(read_run).collect::<Result<Vec<_>, ReportError>>()?)?,
    };
    write_atomically(&args.output, |w| w.write_all(html.as_bytes()))?;
    let file = args.output.display().to_string();
    say(&format!("wrote {file}"));
    ctx.emit(&serde_json::json!({ "file": file, "bytes": html.len() }), String::new)
}
