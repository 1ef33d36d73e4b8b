//! The record that every changing command leaves beside its result.

use crate::{
    context::{Context, say},
    layers::summarize,
    machine::machine,
    model_file::Loaded,
    shape::bind_batch,
};
use anyhow::{Context as _, Result, bail};
use penjing_data::{Dataset, write_atomically};
use penjing_ir::{Bindings, Model};
use penjing_report::{DataRecord, ModelRecord, ResultRecord, RunRecord, StepRecord};
use serde::Serialize;
use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

/// What a command did.
pub(crate) struct Run<'a> {
    pub(crate) command: &'a str,
    /// Its flags.
    pub(crate) recipe: serde_json::Value,
    /// What it started from.
    pub(crate) loaded: &'a Loaded,
    pub(crate) data: Option<&'a Dataset>,
    pub(crate) steps: Vec<StepRecord>,
    pub(crate) plan_hash: String,
    /// What came out, where it went, and its size.
    pub(crate) model: &'a Model,
    pub(crate) out: &'a Path,
    pub(crate) bytes: u64,
}

impl Run<'_> {
    /// Writes `record.json` into its folder, see [`record_folder`], and reports the run.
    pub(crate) fn finish(self, ctx: &Context, folder: Option<&Path>) -> Result<()> {
        let folder = record_folder(self.out, folder);
        let record = self.record(ctx)?;
        fs::create_dir_all(&folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
        let path = folder.join("record.json");
        write_json(&path, &record)?;
        say(&format!("wrote {}", path.display()));
        ctx.emit(&record, || text(&record))
    }

    fn record(self, ctx: &Context) -> Result<RunRecord> {
        let mut one = Bindings::new();
        bind_batch(self.model, &mut one, 1);
        let summary = summarize(self.model, &one, self.bytes)?;
        let mut before = Bindings::new();
        bind_batch(&self.loaded.model, &mut before, 1);
        let start = summarize(&self.loaded.model, &before, self.loaded.bytes)?;
        let path = self.loaded.path.as_ref().map(|p| p.display().to_string()).unwrap_or_default();
        Ok(RunRecord {
            command: self.command.into(),
            recipe: self.recipe,
            model: ModelRecord { name: self.loaded.name.clone(), path, sha256: None, params: Some(start.params) },
            data: self
                .data
                .map_or_else(DataRecord::default, |d| DataRecord { spec: d.name().into(), n: Some(d.len() as u64) }),
            seed: ctx.seed,
            machine: machine(ctx),
            plan_hash: self.plan_hash,
            result: ResultRecord {
                file: self.out.display().to_string(),
                bytes: Some(self.bytes),
                accuracy: self.steps.iter().rev().find_map(|s| s.metrics.accuracy),
                nonzero: Some(summary.nonzero),
                params: Some(summary.params),
                layers: summary.records(),
                ..ResultRecord::default()
            },
            steps: self.steps,
            ..RunRecord::default()
        })
    }
}

/// The folder of the record: the one asked for, else the output's name with the ending `.run`.
pub(crate) fn record_folder(output: &Path, asked: Option<&Path>) -> PathBuf {
    asked.map_or_else(|| output.with_extension("run"), PathBuf::from)
}

/// Errors when `folder` cannot become the record's folder: better said before the work than after it.
pub(crate) fn check_record_folder(folder: &Path, output: &Path) -> Result<()> {
    let advice = "name another folder with --run";
    if absolute(folder)? == absolute(output)? {
        bail!("the run record cannot go to {}: the model goes there; {advice}", folder.display());
    }
    match folder.ancestors().find(|a| a.exists()) {
        Some(nearest) if !nearest.is_dir() => {
            bail!("the run record cannot go to {}: {} is a file; {advice}", folder.display(), nearest.display())
        }
        _ => Ok(()),
    }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("cannot tell where {} is", path.display()))
}

/// Writes `content` as JSON, beside the path and renamed.
pub(crate) fn write_json(path: &Path, content: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(content)? + "\n";
    Ok(write_atomically(path, |w| w.write_all(text.as_bytes()))?)
}

fn text(record: &RunRecord) -> String {
    let mut out = String::new();
    for step in &record.steps {
        out.push_str(&step.action);
        if let (Some(first), Some(last)) = (step.metrics.loss.first(), step.metrics.loss.last()) {
            out.push_str(&format!("  loss {first:.4} -> {last:.4}"));
        }
        if let Some(accuracy) = step.metrics.accuracy {
            out.push_str(&format!("  accuracy {:.2} %", 100.0 * accuracy));
        }
        if let Some(s) = step.wall_s {
            out.push_str(&format!("  {s:.1} s"));
        }
        out.push('\n');
    }
    let r = &record.result;
    let (nonzero, params) = (r.nonzero.unwrap_or(0), r.params.unwrap_or(0));
    out.push_str(&format!(
        "{}  {} bytes, {nonzero} of {params} parameters are not zero\n",
        r.file,
        r.bytes.unwrap_or(0)
    ));
    out
}
