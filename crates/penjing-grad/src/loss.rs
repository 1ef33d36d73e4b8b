//! Losses as graph fragments, in f32 or whatever the logits are in. Each returns one loss for each example or position; the caller
//! sums them times `1 / count`.

use crate::GradError;
use penjing_ir::{ArgKind, Compare, Dim, Op, Reduction, Scope, Unary, ValueId};
use penjing_tensor::DType;

/// −Σ_c t_c·ln softmax(logits)_c for each position, where t is one-hot, smoothed to (1 − s)·onehot + s/C (Szegedy et al. 2016).
///
/// `logits`: [.., C]; `labels`: I64 [..]; the result: [..]. Positions whose label is `ignore` have loss 0. Errors when the shapes
/// do not fit or the smoothing is outside 0..=1.
pub fn cross_entropy(
    s: &mut Scope<'_>,
    logits: ValueId,
    labels: ValueId,
    smoothing: f64,
    ignore: Option<i64>,
) -> Result<ValueId, GradError> {
    if !(0.0..=1.0).contains(&smoothing) {
        return Err(GradError::Config { what: "label smoothing", value: smoothing, why: "it must be in 0..=1" });
    }
    let classes = check_labels(s, logits, labels)?;
    let (axis, dtype) = (s.fact(logits).rank() - 1, s.fact(logits).dtype);
    let log = s.op(Op::LogSoftmax { axis }, &[logits])?;
    let mut target = s.op(Op::OneHot { axis, depth: classes.clone(), dtype }, &[labels])?;
    if smoothing > 0.0 {
        let Some(classes) = classes.as_const() else {
            let (fact, why) = (s.fact(logits), "smoothing needs a known number of classes");
            return Err(GradError::LossOperand { what: "logits", fact, why });
        };
        target = s.scale(target, 1.0 - smoothing)?;
        target = s.shift(target, smoothing / classes as f64)?;
    }
    let picked = s.mul(target, log)?;
    let picked = s.reduce(Reduction::Sum, picked, &[axis])?;
    let loss = s.unary(Unary::Neg, picked)?;
    match ignore {
        None => Ok(loss),
        Some(ignore) => {
            let counted = counted(s, labels, ignore, dtype)?;
            Ok(s.mul(loss, counted)?)
        }
    }
}

/// Mean of (y − target)² over all but the first axis, for each example. Both: [N, ..]; the result: [N].
pub fn mse(s: &mut Scope<'_>, y: ValueId, target: ValueId) -> Result<ValueId, GradError> {
    let (have, want) = (s.fact(target), s.fact(y));
    if have != want || have.rank() == 0 {
        return Err(GradError::LossOperand {
            what: "the target",
            fact: have,
            why: "it must have the fact of the output",
        });
    }
    let difference = s.sub(y, target)?;
    let square = s.mul(difference, difference)?;
    let rest: Vec<usize> = (1..want.rank()).collect();
    if rest.is_empty() { Ok(square) } else { Ok(s.reduce(Reduction::Mean, square, &rest)?) }
}

/// T²·KL(softmax(teacher/T) ‖ softmax(student/T)) for each position (Hinton et al. 2015). Both: [.., C]; the result: [..].
/// No gradient reaches the teacher. Errors when the shapes differ or T is not positive.
pub fn kl_divergence(
    s: &mut Scope<'_>,
    teacher: ValueId,
    student: ValueId,
    temperature: f64,
) -> Result<ValueId, GradError> {
    if temperature.is_nan() || temperature <= 0.0 {
        return Err(GradError::Config { what: "temperature", value: temperature, why: "it must be positive" });
    }
    let (have, want) = (s.fact(teacher), s.fact(student));
    if have != want || have.rank() == 0 {
        return Err(GradError::LossOperand {
            what: "the teacher's logits",
            fact: have,
            why: "they must have the student's fact",
        });
    }
    let axis = want.rank() - 1;
    let teacher = s.op(Op::StopGradient, &[teacher])?;
    let [teacher, student] = [teacher, student].map(|logits| {
        let cooled = if temperature == 1.0 { logits } else { s.scale(logits, 1.0 / temperature)? };
        s.op(Op::LogSoftmax { axis }, &[cooled])
    });
    let (teacher, student) = (teacher?, student?);
    let probability = s.unary(Unary::Exp, teacher)?;
    let difference = s.sub(teacher, student)?;
    let product = s.mul(probability, difference)?;
    let sum = s.reduce(Reduction::Sum, product, &[axis])?;
    Ok(if temperature == 1.0 { sum } else { s.scale(sum, temperature * temperature)? })
}

/// How many positions have their label as the largest logit: F32 []. Positions whose label is `ignore` do not count.
pub fn count_correct(
    s: &mut Scope<'_>,
    logits: ValueId,
    labels: ValueId,
    ignore: Option<i64>,
) -> Result<ValueId, GradError> {
    check_labels(s, logits, labels)?;
    let axis = s.fact(logits).rank() - 1;
    let best = s.op(Op::ArgReduce { kind: ArgKind::Max, axis, keep: false, last: false }, &[logits])?;
    let hit = s.compare(Compare::Equal, best, labels)?;
    let mut hit = s.cast(hit, DType::F32)?;
    if let Some(ignore) = ignore {
        let counted = counted(s, labels, ignore, DType::F32)?;
        hit = s.mul(hit, counted)?;
    }
    sum_all(s, hit)
}

/// Sum of all elements: [].
pub fn sum_all(s: &mut Scope<'_>, v: ValueId) -> Result<ValueId, GradError> {
    let axes: Vec<usize> = (0..s.fact(v).rank()).collect();
    if axes.is_empty() { Ok(v) } else { Ok(s.reduce(Reduction::Sum, v, &axes)?) }
}

/// 1 where the label is not `ignore`, else 0.
fn counted(s: &mut Scope<'_>, labels: ValueId, ignore: i64, dtype: DType) -> Result<ValueId, GradError> {
    let ignore = s.constant(penjing_tensor::Tensor::scalar(ignore));
    let ignored = s.compare(Compare::Equal, labels, ignore)?;
    let counted = s.unary(Unary::Not, ignored)?;
    Ok(s.cast(counted, dtype)?)
}

/// The number of classes.
fn check_labels(s: &Scope<'_>, logits: ValueId, labels: ValueId) -> Result<Dim, GradError> {
    let (logits, labels) = (s.fact(logits), s.fact(labels));
    let Some((classes, positions)) = logits.shape.split_last().filter(|_| logits.dtype.is_float()) else {
        return Err(GradError::LossOperand {
            what: "the output",
            fact: logits,
            why: "logits are floats with classes on the last axis",
        });
    };
    if labels.dtype != DType::I64 || labels.shape != positions {
        return Err(GradError::LossOperand {
            what: "the label",
            fact: labels,
            why: "it must be i64 with the logits' shape but for the classes",
        });
    }
    Ok(classes.clone())
}
