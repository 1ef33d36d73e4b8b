//! How well a model does on labelled data.

use crate::{Inference, TrainError};
use penjing_data::{Batch, Loader};
use penjing_exec::Target;
use penjing_ir::Model;
use penjing_tensor::{DType, Tensor};

/// Classification metrics over a data set. For sequences every position counts as a sample.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// Samples (or positions) counted.
    pub n: usize,
    /// Mean cross-entropy in nats.
    pub loss: f64,
    /// Share whose label has the largest logit; of equal logits the first counts.
    pub top1: f64,
    /// Share whose label is among the five largest logits.
    pub top5: f64,
    /// `confusion[label][prediction]` counts.
    pub confusion: Vec<Vec<u64>>,
    /// All logits, [N, C] or [N, T, C], in the loader's order.
    pub logits: Tensor,
}

impl Evaluation {
    /// e to the loss.
    pub fn perplexity(&self) -> f64 {
        self.loss.exp()
    }

    /// Unweighted mean of the classes' F1 scores; a class that is neither present nor predicted does not count.
    pub fn macro_f1(&self) -> f64 {
        let classes = self.confusion.len();
        let scores: Vec<f64> = (0..classes)
            .filter_map(|c| {
                let hits = self.confusion[c][c] as f64;
                let present: u64 = self.confusion[c].iter().sum();
                let predicted: u64 = self.confusion.iter().map(|row| row[c]).sum();
                (present + predicted > 0).then(|| 2.0 * hits / (present + predicted) as f64)
            })
            .collect();
        if scores.is_empty() { 0.0 } else { scores.iter().sum::<f64>() / scores.len() as f64 }
    }
}

/// Runs the model over every batch of the loader and scores output 0 as logits.
pub fn evaluate(model: &Model, loader: &Loader, target: Target) -> Result<Evaluation, TrainError> {
    let name = loader.dataset().name();
    if loader.dataset().is_empty() {
        return Err(TrainError::NoSamples { data: name.into() });
    }
    let mut inference = Inference::new(model, target)?;
    let input = single_input(model, loader)?;
    let mut tally = Tally::default();
    for index in 0..loader.batches_per_epoch() {
        let Batch { x, y, indices, .. } = loader.batch(0, index)?;
        let y = y.ok_or_else(|| TrainError::NoLabels { data: name.into() })?;
        let outputs = inference.run(&[(&input, &x)])?;
        let Some((output, logits)) = outputs.into_iter().next() else {
            return Err(TrainError::Output { output: String::new(), have: "missing".into() });
        };
        tally.add(&output, &logits, &y, &indices)?;
    }
    tally.finish()
}

/// The name of the model's only input, checked against the loader's samples.
pub(crate) fn single_input(model: &Model, loader: &Loader) -> Result<String, TrainError> {
    let inputs = &model.graph.inputs;
    let &[input] = inputs.as_slice() else {
        let have = inputs.iter().map(|&v| model.graph.value(v).name.clone()).collect();
        return Err(TrainError::Inputs { have });
    };
    let (value, sample) = (model.graph.value(input), loader.sample_shape());
    let want = &value.fact.shape;
    let fits = want.len() == sample.len() + 1
        && want[1..].iter().zip(&sample).all(|(w, s)| w.as_const().is_none_or(|w| w == *s));
    let dtype = if loader.dataset().dtype() == DType::I64 { DType::I64 } else { DType::F32 };
    if fits && value.fact.dtype == dtype {
        return Ok(value.name.clone());
    }
    let sample = format!("{dtype}{sample:?}");
    Err(TrainError::Sample { sample, input: value.name.clone(), want: value.fact.to_string() })
}

#[derive(Default)]
struct Tally {
    n: usize,
    loss: f64,
    top1: usize,
    top5: usize,
    confusion: Vec<Vec<u64>>,
    shape: Vec<usize>,
    logits: Vec<f32>,
}

impl Tally {
    fn add(&mut self, output: &str, logits: &Tensor, y: &Tensor, indices: &[usize]) -> Result<(), TrainError> {
        let rank_fits = logits.rank() == y.rank() + 1 && logits.shape()[..y.rank()] == *y.shape();
        let values = logits.as_slice::<f32>().ok().filter(|_| rank_fits && logits.shape()[y.rank()] > 0);
        let Some(values) = values else {
            let have = format!("{}{:?} for labels {:?}", logits.dtype(), logits.shape(), y.shape());
            return Err(TrainError::Output { output: output.into(), have });
        };
        let classes = logits.shape()[y.rank()];
        self.confusion.resize(classes, vec![0; classes]);
        let labels = y.to_i64s().unwrap_or_default();
        let per_sample = labels.len().checked_div(indices.len()).unwrap_or(1).max(1);
        for (at, (row, &label)) in values.chunks_exact(classes).zip(&labels).enumerate() {
            let label = usize::try_from(label).ok().filter(|l| *l < classes).ok_or_else(|| TrainError::Label {
                label,
                sample: indices.get(at / per_sample).copied().unwrap_or(at),
                classes,
            })?;
            self.score(row, label);
        }
        self.shape = logits.shape().to_vec();
        self.logits.extend_from_slice(values);
        Ok(())
    }

    fn score(&mut self, row: &[f32], label: usize) {
        let max = row.iter().fold(f64::NEG_INFINITY, |m, &v| m.max(f64::from(v)));
        let sum: f64 = row.iter().map(|&v| (f64::from(v) - max).exp()).sum();
        let prediction = row.iter().enumerate().fold(0, |best, (i, v)| if *v > row[best] { i } else { best });
        // Logits that come before the label's own: larger, or equal with a smaller index.
        let before =
            row.iter().enumerate().filter(|(i, v)| **v > row[label] || (**v == row[label] && *i < label)).count();
        self.n += 1;
        self.loss += sum.ln() + max - f64::from(row[label]);
        self.top1 += usize::from(prediction == label && !row[label].is_nan());
        self.top5 += usize::from(before < 5 && !row[label].is_nan());
        self.confusion[label][prediction] += 1;
    }

    fn finish(self) -> Result<Evaluation, TrainError> {
        let per_row: usize = self.shape[1..].iter().product();
        let mut shape = self.shape;
        shape[0] = self.logits.len() / per_row.max(1);
        let n = self.n.max(1) as f64;
        Ok(Evaluation {
            n: self.n,
            loss: self.loss / n,
            top1: self.top1 as f64 / n,
            top5: self.top5 as f64 / n,
            confusion: self.confusion,
            logits: Tensor::from_vec(&shape, self.logits).map_err(penjing_exec::ExecError::from)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_of_a_known_case() {
        let logits = Tensor::from_vec(&[3, 6], {
            let mut v = vec![0f32; 18];
            v[0] = 2.0; // sample 0 says class 0
            v[6 + 1] = 1.0; // sample 1 says class 1, is class 0
            v // sample 2: all equal, says class 0, is class 5: five come before it
        })
        .unwrap();
        let y = Tensor::from_vec(&[3], vec![0i64, 0, 5]).unwrap();
        let mut tally = Tally::default();
        tally.add("logits", &logits, &y, &[0, 1, 2]).unwrap();
        let e = tally.finish().unwrap();
        assert_eq!((e.n, e.top1, e.top5), (3, 1.0 / 3.0, 2.0 / 3.0));
        let want = [(2f64.exp() + 5.0).ln() - 2.0, (1f64.exp() + 5.0).ln(), 6f64.ln()].iter().sum::<f64>() / 3.0;
        assert!((e.loss - want).abs() < 1e-12);
        assert_eq!(e.confusion[0], [1, 1, 0, 0, 0, 0]);
        // F1: class 0 has 1 hit of 2 present and 2 predicted, class 1 none of 1 predicted, class 5 none of 1 present.
        assert!((e.macro_f1() - 0.5 / 3.0).abs() < 1e-12);
        let bad = Tensor::from_vec(&[3], vec![0i64, 6, 5]).unwrap();
        let result = Tally::default().add("logits", &logits, &bad, &[7, 8, 9]);
        assert!(matches!(result, Err(TrainError::Label { label: 6, sample: 8, classes: 6 })));
    }
}
