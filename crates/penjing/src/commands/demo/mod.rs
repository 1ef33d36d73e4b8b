//! `penjing demo`: SimpleCNN on the embedded handwritten digits, trained, pruned, quantized, both, and trained on two ranks.
//!
//! Every number of the report is measured on the exported files, read back as a stranger would read them.

mod measure;
mod steps;
mod table;

use crate::{
    context::{Context, say},
    machine::machine,
    model_file::save_silently,
    record::write_json,
};
use anyhow::{Context as _, Result};
use clap::Args;
use measure::{Measured, measure};
use penjing_data::{Dataset, write_atomically, write_npz};
use penjing_ir::Model;
use penjing_report::{DemoRecord, VariantRecord, render_demo};
use penjing_tensor::Tensor;
use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    time::Instant,
};
use steps::{Length, Trainer};

/// Flags of `demo`.
#[derive(Args)]
pub(crate) struct DemoArgs {
    /// Folder for models, report and held-out digits
    #[arg(long, value_name = "DIR", default_value = "penjing-demo")]
    out: PathBuf,
    /// Two epochs of training instead of ten
    #[arg(long)]
    quick: bool,
}

pub(crate) fn run(ctx: &Context, args: &DemoArgs) -> Result<()> {
    let start = Instant::now();
    fs::create_dir_all(&args.out).with_context(|| format!("cannot make the folder {}", args.out.display()))?;
    // A run that ends early must not leave an older run's report beside its models.
    for report in ["report.json", "report.html"] {
        remove(&args.out.join(report))?;
    }
    let held_out = Dataset::open("digits:heldout")?;
    let trainer =
        Trainer::new(ctx, Dataset::open("digits:train")?, if args.quick { Length::Quick } else { Length::Full });
    let mut story = Story { ctx, out: &args.out, held_out: &held_out, variants: Vec::new(), logits: Vec::new() };

    let (dense, loss) = trainer.dense("dense", 1)?;
    story.add("dense", &dense, loss)?;
    let (pruned, loss) = trainer.prune(&dense, "pruned50")?;
    story.add("pruned50", &pruned, loss)?;
    let (int8, loss) = trainer.quantize(&dense, "int8")?;
    story.add("int8", &int8, loss)?;
    let (both, loss) = trainer.quantize(&pruned, "pruned50-int8")?;
    story.add("pruned50-int8", &both, loss)?;
    let (ranks, loss) = trainer.dense("dp2", 2)?;
    story.add("dp2", &ranks, loss)?;

    story.write_held_out()?;
    let record = story.finish(start, &trainer);
    write_json(&args.out.join("report.json"), &record)?;
    let html = render_demo(&record)?;
    write_atomically(&args.out.join("report.html"), |w| w.write_all(html.as_bytes()))?;
    say(&format!("wrote {}", args.out.join("report.html").display()));
    ctx.emit(&record, || table::table(&record))
}

/// Removes a file that may be absent.
fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// The variants so far.
struct Story<'a> {
    ctx: &'a Context,
    out: &'a Path,
    held_out: &'a Dataset,
    variants: Vec<VariantRecord>,
    logits: Vec<(String, Tensor)>,
}

impl Story<'_> {
    /// Exports a variant, and measures what was exported.
    fn add(&mut self, name: &str, model: &Model, loss: Vec<f64>) -> Result<()> {
        let file = format!("{name}.onnx");
        let path = self.out.join(&file);
        let bytes = save_silently(model, &path)?;
        let Measured { accuracy, logits, summary, bench } = measure(self.ctx, &path, self.held_out)?;
        say(&format!(
            "{name}: {:.2} % of the held-out digits, {bytes} bytes, {:.3} ms",
            100.0 * accuracy,
            bench.median_ms
        ));
        self.logits.push((format!("logits_{name}"), logits));
        self.variants.push(VariantRecord {
            name: name.into(),
            file,
            bytes: Some(bytes),
            accuracy: Some(accuracy),
            nonzero: Some(summary.nonzero),
            params: Some(summary.params),
            latency_ms: Some(bench.median_ms),
            peak_rss_mb: bench.peak_rss_mb,
            loss,
            layers: summary.records(),
        });
        Ok(())
    }

    /// The held-out digits and what every variant says of them, for other runtimes to compare with.
    fn write_held_out(&self) -> Result<()> {
        let (x, y) = (self.held_out.x(), self.held_out.y());
        let mut arrays: Vec<(&str, &Tensor)> = vec![("x", &x)];
        arrays.extend(y.as_ref().map(|y| ("y", y)));
        arrays.extend(self.logits.iter().map(|(name, t)| (name.as_str(), t)));
        Ok(write_npz(&self.out.join("heldout.npz"), &arrays)?)
    }

    fn finish(self, start: Instant, trainer: &Trainer<'_>) -> DemoRecord {
        let mut notes = vec![
            "Accuracy is measured on 360 held-out digits with the exported files, read back and run by Penjing's executor.".into(),
            "Latency is the median of single-image runs, and peak memory the largest resident set, of a process of its own for each \
             file (`penjing bench FILE`); it includes the program itself."
                .into(),
            "Losses are those of the variant's own training: pruned and quantized variants start from a trained network.".into(),
        ];
        notes.extend(self.rank_note());
        DemoRecord {
            title: "Penjing demo: handwritten digits".into(),
            summary: trainer.summary(),
            seed: self.ctx.seed,
            machine: machine(self.ctx),
            wall_s: Some(start.elapsed().as_secs_f64()),
            variants: self.variants,
            notes,
        }
    }

    /// How far two ranks stray from one while rounding has not yet been amplified.
    fn rank_note(&self) -> Option<String> {
        const STEPS: usize = 20;
        let losses = |name: &str| self.variants.iter().find(|v| v.name == name).map(|v| &v.loss);
        let pairs = losses("dense")?.iter().zip(losses("dp2")?).take(STEPS);
        let worst = pairs.map(|(one, two)| (one - two).abs() / one.abs()).fold(0.0, f64::max);
        Some(format!(
            "dp2 trains like dense on 2 data-parallel ranks: its first {STEPS} losses differ by at most {worst:.1e}, relative."
        ))
    }
}
