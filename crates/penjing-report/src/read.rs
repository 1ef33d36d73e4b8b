//! Reads records from files and says exactly what is wrong with one that cannot be used.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::error::Category;

use crate::error::ReportError;
use crate::record::{DemoRecord, LayerRecord, RunRecord};

/// No record comes near this: a million loss values are some 20 MB.
const MAX_BYTES: u64 = 256 << 20;

/// Reads `report.json` of a demo.
///
/// # Errors
/// The file cannot be read, is cut off, is not JSON, or a field is missing, of the wrong type or outside its unit.
pub fn read_demo(path: impl AsRef<Path>) -> Result<DemoRecord, ReportError> {
    let path = path.as_ref();
    let record: DemoRecord = parse(path, &read(path)?)?;
    let check = Check { path };
    check.not_negative("wall_s", record.wall_s)?;
    for (i, v) in record.variants.iter().enumerate() {
        let at = |field: &str| format!("variants[{i}].{field}");
        check.share(&at("accuracy"), v.accuracy)?;
        check.not_negative(&at("latency_ms"), v.latency_ms)?;
        check.not_negative(&at("peak_rss_mb"), v.peak_rss_mb)?;
        check.at_most(&at("nonzero"), v.nonzero, v.params)?;
        check.layers(&at("layers"), &v.layers)?;
    }
    Ok(record)
}

/// Reads `record.json` of a run; `path` is the file or the run folder that holds it.
///
/// # Errors
/// As [`read_demo`], and for a record of another version.
pub fn read_run(path: impl AsRef<Path>) -> Result<RunRecord, ReportError> {
    let path = path.as_ref();
    let file = if path.is_dir() { path.join("record.json") } else { path.to_owned() };
    let bytes = read(&file)?;
    let Head { version } = parse(&file, &bytes)?;
    if version != RunRecord::VERSION {
        return Err(ReportError::Version { path: file, found: version, supported: RunRecord::VERSION });
    }
    let record: RunRecord = parse(&file, &bytes)?;
    let check = Check { path: &file };
    for (i, step) in record.steps.iter().enumerate() {
        check.share(&format!("steps[{i}].metrics.accuracy"), step.metrics.accuracy)?;
        check.not_negative(&format!("steps[{i}].wall_s"), step.wall_s)?;
    }
    let result = &record.result;
    check.share("result.accuracy", result.accuracy)?;
    check.not_negative("result.latency_ms", result.latency_ms)?;
    check.not_negative("result.peak_rss_mb", result.peak_rss_mb)?;
    check.at_most("result.nonzero", result.nonzero, result.params)?;
    check.layers("result.layers", &result.layers)?;
    Ok(record)
}

/// The one field that every version of a run record has.
#[derive(Deserialize)]
struct Head {
    version: u64,
}

fn read(path: &Path) -> Result<Vec<u8>, ReportError> {
    let failed = |source| ReportError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path).map_err(failed)?.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(ReportError::TooLarge { path: path.to_owned(), limit: MAX_BYTES });
    }
    Ok(bytes)
}

fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T, ReportError> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let record = serde_path_to_error::deserialize(&mut json).map_err(|e| {
        let field = e.path().to_string();
        refused(path, field, &e.into_inner())
    })?;
    json.end().map_err(|e| refused(path, ".".to_owned(), &e))?;
    Ok(record)
}

fn refused(path: &Path, field: String, error: &serde_json::Error) -> ReportError {
    let (path, why) = (path.to_owned(), error.to_string());
    match error.classify() {
        Category::Eof => ReportError::Truncated { path, line: error.line(), why },
        Category::Syntax | Category::Io => ReportError::Syntax { path, why },
        Category::Data => ReportError::Field { path, field, why },
    }
}

/// Checks values against their units.
struct Check<'a> {
    path: &'a Path,
}

impl Check<'_> {
    fn share(&self, field: &str, value: Option<f64>) -> Result<(), ReportError> {
        match value {
            Some(v) if !(0.0..=1.0).contains(&v) => self.bad(field, format!("{v} is not a share between 0 and 1")),
            _ => Ok(()),
        }
    }

    fn not_negative(&self, field: &str, value: Option<f64>) -> Result<(), ReportError> {
        match value {
            Some(v) if v < 0.0 => self.bad(field, format!("{v} is negative")),
            _ => Ok(()),
        }
    }

    fn at_most(&self, field: &str, part: Option<u64>, whole: Option<u64>) -> Result<(), ReportError> {
        match (part, whole) {
            (Some(n), Some(of)) if n > of => self.bad(field, format!("{n} is more than the {of} parameters there are")),
            _ => Ok(()),
        }
    }

    fn layers(&self, field: &str, layers: &[LayerRecord]) -> Result<(), ReportError> {
        for (i, layer) in layers.iter().enumerate() {
            self.share(&format!("{field}[{i}].sparsity"), layer.sparsity)?;
            self.not_negative(&format!("{field}[{i}].bits"), layer.bits)?;
        }
        Ok(())
    }

    fn bad(&self, field: &str, why: String) -> Result<(), ReportError> {
        Err(ReportError::Field { path: self.path.to_owned(), field: field.to_owned(), why })
    }
}
