//! Each run by itself: what it started from, its steps with their metrics, and its recipe.

use serde_json::Value;

use crate::compare::{Comparable, Comparison};
use crate::format::{self, NONE};
use crate::html::escape;
use crate::page::{facts, machine_facts};
use crate::record::{RunRecord, StepRecord};

/// Characters of a hash that are shown.
const HASH_CHARS: usize = 12;

/// The section that goes through the runs one by one.
pub(crate) fn runs(records: &[RunRecord], comparison: &Comparison) -> String {
    let all: String = records
        .iter()
        .zip(&comparison.rows)
        .map(|(record, row)| {
            let mut about = vec![
                ("Command", record.command.clone()),
                ("Model", model(record)),
                ("Data", data(record)),
                ("Seed", record.seed.to_string()),
                ("Plan", cut(&record.plan_hash)),
            ];
            if comparison.machine == Comparable::No {
                about.extend(machine_facts(&record.machine));
            }
            format!(
                "<article><h3>{}</h3>\n{}{}{}</article>\n",
                escape(&row.name),
                facts(&about),
                steps(&record.steps),
                recipe(&record.recipe)
            )
        })
        .collect();
    format!("<section><h2>{}</h2>\n{all}</section>\n", if records.len() == 1 { "The run" } else { "The runs" })
}

fn model(record: &RunRecord) -> String {
    let model = &record.model;
    let mut parts = vec![model.name.clone()];
    parts.push(model.path.clone());
    parts.extend(model.params.map(|n| format!("{} parameters", format::count(n))));
    parts.extend(model.sha256.as_ref().map(|hash| format!("SHA-256 {}", cut(hash))));
    parts.retain(|part| !part.is_empty());
    parts.join(", ")
}

fn data(record: &RunRecord) -> String {
    match record.data.n {
        Some(n) => format!("{} ({} samples)", record.data.spec, format::count(n)).trim_start().to_owned(),
        None => record.data.spec.clone(),
    }
}

fn cut(hash: &str) -> String {
    hash.chars().take(HASH_CHARS).collect()
}

fn steps(steps: &[StepRecord]) -> String {
    if steps.is_empty() {
        return String::new();
    }
    let body: String = steps
        .iter()
        .enumerate()
        .map(|(i, step)| {
            let name = if step.name.is_empty() || step.name == step.action {
                escape(&step.action)
            } else {
                format!("{} <small>{}</small>", escape(&step.action), escape(&step.name))
            };
            format!(
                "<tr><td>{}</td><th scope=\"row\">{name}</th><td>{}</td><td>{}</td><td>{}</td><td class=\"text\">{}</td></tr>\n",
                i + 1,
                step.wall_s.map_or(NONE.to_owned(), format::duration),
                loss(&step.metrics.loss),
                step.metrics.accuracy.map_or(NONE.to_owned(), |a| format::percent(a, 2)),
                others(step),
            )
        })
        .collect();
    format!(
        "<div class=\"scroll\"><table class=\"steps\"><thead><tr><th scope=\"col\">#</th><th scope=\"col\">Step</th>\
         <th scope=\"col\">Time</th><th scope=\"col\">Loss, first → last</th><th scope=\"col\">Accuracy</th>\
         <th scope=\"col\" class=\"text\">Other metrics</th></tr></thead>\n<tbody>\n{body}</tbody></table></div>\n"
    )
}

fn loss(values: &[f64]) -> String {
    match values {
        [] => NONE.to_owned(),
        [one] => format::plain(*one),
        [first, .., last] => format!("{} → {}", format::plain(*first), format::plain(*last)),
    }
}

/// The step's further metrics: numbers, truths and texts; lists and objects are left to the record.
fn others(step: &StepRecord) -> String {
    let shown = step.metrics.other.iter().filter_map(|(name, value)| {
        let text = match value {
            Value::Number(n) => match n.as_u64() {
                Some(whole) => format::count(whole),
                None => n.as_f64().map(format::plain)?,
            },
            Value::String(text) => escape(text),
            Value::Bool(truth) => truth.to_string(),
            Value::Null => NONE.to_owned(),
            Value::Array(_) | Value::Object(_) => return None,
        };
        Some(format!("{} {text}", escape(name)))
    });
    shown.collect::<Vec<_>>().join(" · ")
}

fn recipe(recipe: &Value) -> String {
    if recipe.is_null() {
        return String::new();
    }
    // `{:#}` of a JSON value is the same value, indented.
    format!("<details><summary>Recipe</summary><pre>{}</pre></details>\n", escape(&format!("{recipe:#}")))
}
